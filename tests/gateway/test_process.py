import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Event
from websockets.sync.client import ClientConnection, connect

from tests.gateway.offline_world import ended, jsonl, request, started
from tests.gateway.world import PROMPT, World, until

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 20, "stream": True}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def start(world: World, listener: socket.socket) -> "subprocess.Popen[str]":
    fd = listener.fileno()
    url = world.database.url.render_as_string(hide_password=False)
    content = str(world.content.root)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.server", url, str(fd), content],
        pass_fds=(fd,),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_a_gateway_needs_no_torch() -> None:
    code = (
        "import sys, trimtab.gateway.app, trimtab.gateway.process;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stream_under_way_ends_whole_when_the_process_is_told_to_stop(
    world: World, listener: socket.socket
) -> None:
    process = start(world, listener)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {world.key.key}"}
    with (
        httpx.Client(base_url=address, headers=headers, timeout=20.0) as client,
        client.stream("POST", "/v1/generate", json=ASK) as response,
    ):
        pieces = response.iter_text()
        first = next(pieces)
        process.send_signal(signal.SIGTERM)
        text = first + "".join(pieces)
    assert text.count("event: token") == 20
    assert "event: done" in text
    process.communicate(timeout=10)
    assert [logged.status for logged in world.log()] == [200]
    assert world.account().held_nano == 0


class Watched(ClientConnection):
    """Counts the pings that it answers."""

    pings = 0

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pings += 1
        super().process_event(event)


def test_a_websocket_shows_signs_of_life_ends_its_answer_and_hears_that_the_server_goes(
    world: World, listener: socket.socket
) -> None:
    process = start(world, listener)
    address = f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/stream"
    headers = {"Authorization": f"Bearer {world.key.key}"}
    body = {name: value for name, value in ASK.items() if name != "stream"}
    with (
        connect(address, additional_headers=headers) as busy,
        connect(address, additional_headers=headers, create_connection=Watched) as idle,
    ):
        assert isinstance(idle, Watched)
        until(lambda: idle.pings > 0)
        busy.send(json.dumps(body))
        events = [json.loads(busy.recv(timeout=10))["event"]]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as quiet:
            idle.recv(timeout=10)
        while events[-1] == "token":
            events.append(json.loads(busy.recv(timeout=10))["event"])
        with pytest.raises(ConnectionClosed) as worked:
            busy.recv(timeout=10)
    assert events == ["token"] * 20 + ["done"]
    for end in (quiet, worked):
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 1001
    process.communicate(timeout=10)
    assert [logged.status for logged in world.log()] == [200]
    assert world.account().held_nano == 0


def test_work_past_the_drain_is_cut_off_and_settled(
    world: World, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_TEST_WORDS", "400")
    process = start(world, listener)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {world.key.key}"}
    with (
        httpx.Client(base_url=address, headers=headers, timeout=20.0) as client,
        client.stream("POST", "/v1/generate", json={**ASK, "max_tokens": 200}) as response,
    ):
        next(response.iter_text())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    [logged] = world.log()
    assert logged.status in (499, 503)
    assert 0 < logged.completion_tokens < 200
    assert logged.cost_nano == world.spent_for(logged) == world.account().spent_nano
    assert world.account().held_nano == 0


def test_two_processes_share_a_socket_and_a_limit(world: World, listener: socket.socket) -> None:
    processes = [start(world, listener) for _ in range(2)]
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    prompt, completion = 1_000 * world.prompt_tokens, 7_000 * 2
    key = world.new_key(4 * (prompt + completion))
    body = {**ASK, "stream": False, "max_tokens": 2}
    statuses: list[int] = []

    client = httpx.Client(headers={"Authorization": f"Bearer {key.key}"}, timeout=20.0)

    def ask() -> None:
        statuses.append(client.post(f"{address}/v1/generate", json=body).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    for process in processes:
        process.terminate()
        process.communicate(timeout=10)
    assert sorted(set(statuses)) == [200, 402]
    account = world.account(key)
    assert (account.held_nano, account.spent_nano) == (0, sum(a.cost_nano for a in world.log()))
    assert account.limit_nano is not None
    assert account.spent_nano <= account.limit_nano


def test_a_batch_is_handed_back_at_once_and_ends_elsewhere(
    world: World, listener: socket.socket
) -> None:
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {world.key.key}"}
    process = start(world, listener)
    with httpx.Client(base_url=address, headers=headers, timeout=20.0) as client:
        asks = jsonl([request(f"r{number}", max_tokens=20) for number in range(3)])
        batch = started(client, asks)
        until(lambda: world.account().held_nano > 0)
    process.terminate()
    process.communicate(timeout=10)
    assert (world.account().held_nano, world.account().spent_nano) == (0, 0)
    with world.database.read() as connection:
        states = connection.exec_driver_sql("SELECT state, claim FROM lines").all()
    assert {tuple(row) for row in states} == {("waiting", None)}
    process = start(world, listener)
    with httpx.Client(base_url=address, headers=headers, timeout=20.0) as client:
        done = ended(client, batch)
    process.terminate()
    process.communicate(timeout=10)
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert world.account().spent_nano == sum(logged.cost_nano for logged in world.log())
    assert len(world.log()) == 3
