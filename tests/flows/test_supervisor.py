"""The processes of `serve`: a dead child comes back, a dead supervisor takes all of them along."""

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving import Server, eventually, serving
from tests.tiny import build_base
from trimtab.errors import InUse
from trimtab.flows.bases import resolve
from trimtab.flows.served import Engines
from trimtab.flows.supervisor import address, listen
from trimtab.flows.watch import Silent
from trimtab.inference import ScoreRequest
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import bases, deployments, versions
from trimtab.registry.identity import VersionSpec, tokenizer_hash
from trimtab.registry.versions import ModelVersion
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def make_home(root: Path) -> Path:
    """A home with one deployment that answers with a tiny base."""
    build_base(root / "base")
    base = resolve("base", root, Silent())
    chat = ChatFormat.from_folder(base.folder)
    spec = VersionSpec(
        base=base.hash,
        adapter=None,
        tokenizer=tokenizer_hash(base.folder),
        template={"chat_template": chat.template.source, "system": ""},
        defaults={"max_tokens": 8, "stop_tokens": list(chat.stop_tokens())},
    )
    home = Home(root / ".trimtab")
    database = home.database()
    with database.transaction() as connection:
        bases.add(connection, base)
        version = ModelVersion(spec=spec, project="tiny", state="verified")
        versions.add(connection, version)
        set_price(connection, version.hash, Price(0, 0))
        deployments.create(connection, "tiny", "tiny", version.hash)
    database.close()
    return home.root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(make_home(tmp_path_factory.mktemp("served"))) as server:
        yield server


def answers(server: Server) -> bool:
    try:
        return server.client.post(
            "/v1/generate", json={"model": "tiny", "prompt": "hello", "max_tokens": 2}
        ).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("module", ["engine.process", "flows.gateway", "flows.controller"])
def test_a_killed_child_is_started_again(server: Server, module: str) -> None:
    assert answers(server)
    killed = server.children()[module]
    killed.kill()
    eventually(lambda: server.children().get(module) not in (None, killed))
    eventually(lambda: answers(server))


def test_several_that_miss_a_version_at_once_load_it_once(server: Server) -> None:
    assert answers(server)
    home = Home(server.database.parent)
    with closing(home.database()) as database:
        with database.read() as connection:
            version = versions.get(connection, deployments.get(connection, "tiny").live)
        asyncio.run(_miss(Engines(home, database), version))


async def _miss(engines: Engines, version: ModelVersion) -> None:
    wanted = ScoreRequest(version.hash, (3, 4), ((5,),), "r")
    served = await asyncio.gather(*(engines.ready(version) for _ in range(4)))
    assert engines.loads(version) == 1
    await served[0].unload(version.hash)
    assert len(await asyncio.gather(*(each.score(wanted) for each in served))) == 4
    assert engines.loads(version) == 2


def test_a_database_that_cannot_be_read_for_a_while_stops_nothing(server: Server) -> None:
    with closing(sqlite3.connect(server.database)) as connection:
        connection.execute("ALTER TABLE deployments RENAME TO elsewhere")
        time.sleep(1.5)
        alive = server.process.poll() is None
        connection.execute("ALTER TABLE elsewhere RENAME TO deployments")
    assert alive
    assert answers(server)


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert address("::1", 8080) == "http://[::1]:8080"
    assert address("127.0.0.1", 80) == "http://127.0.0.1:80"


def test_killing_the_supervisor_leaves_no_process(home: Path) -> None:
    with serving(home) as server:
        children = list(server.children().values())
        assert len(children) == 3
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def test_stopping_it_leaves_no_process_and_no_socket(home: Path) -> None:
    with serving(home) as server:
        children = list(server.children().values())
    assert server.process.returncode == 0
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_port_in_use_is_said_at_once(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InUse, match=f"port {port}"):
            listen("127.0.0.1", port)
        command = [sys.executable, "-m", "trimtab", "serve", "--home", str(home)]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is in use" in done.stderr


def test_a_home_has_one_server(server: Server) -> None:
    """A second one would start engines that find their place taken, again and again."""
    command = [sys.executable, "-m", "trimtab", "serve", "--home", str(server.database.parent)]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"is served already by process {server.process.pid} - " in done.stderr


def test_a_home_without_deployments_cannot_be_served(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trimtab", "serve", "--home", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nothing is deployed" in done.stderr


def test_sigterm_is_an_orderly_end_and_a_proxy_in_the_way_is_not_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(home) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
