"""Requests, frames and answers that nobody would write, against a gateway on a real socket.

`requests` are schemathesis's, made from the document that the gateway serves: fitting and unfitting
ones for every route. What comes back has to be what the document says, and never a fault of ours.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests as http
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, build_world, listening
from trimtab.gateway import keys
from trimtab.gateway.document import STREAMS
from trimtab.gateway.keys import SCOPES
from trimtab.inference import Chunk, EmbedRequest, GenerateRequest, Usage, Vector
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import encoders
from trimtab.registry.encoders import Encoder

ENCODER = "tiny-encoder"
CHECKS: list[CheckFunction] = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
# As the protocol has them (RFC 6455, section 7.4) and as the gateway documents its own.
CODES = {1000, 1001, 1003, 1007, 1008, 1009, 4080}


class Talker(Echo):
    """Says `pieces`, whatever they are, and embeds everything alike."""

    pieces: tuple[str, ...] = ("yes ", "no")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._take(request)
        self.asked.clear()
        said = self.pieces[: request.sampling.max_tokens]
        for number, piece in enumerate(said):
            yield Chunk(piece, (number,), (-0.5,))
        yield Chunk("", (), (), "stop", Usage(len(request.prompt), len(said)))

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        return [(0.6, 0.8)] * len(request.inputs)


@dataclass
class Target:
    """A gateway to fuzz. `cases` counts what was sent, by kind."""

    client: httpx.Client
    engine: Talker
    world: World
    key: str
    cases: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str) -> None:
        self.cases[kind] = self.cases.get(kind, 0) + 1


@contextmanager
def target(folder: Path, base: Path) -> Iterator[Target]:
    world = build_world(folder, base)
    encoder = Encoder("e" * 64, ENCODER, base, dimensions=2, max_tokens=64)
    with world.database.transaction() as connection:
        encoders.add(connection, encoder)
        set_price(connection, encoder.hash, Price(1, 0))
        key = keys.create(connection, "fuzz", "somebody", scopes=SCOPES).key
    engine = Talker(context=4096)
    with listening(app_with(world, engine, encodes=lambda _: engine), key) as client:
        yield Target(client, engine, world, key)
    world.database.close()


def explored(examples: int, number: int) -> Callable[[Any], Any]:
    """So many examples, the same ones for the same number; nothing is shrunk."""

    def decorate(test: Any) -> Any:
        limited = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        return seed(number)(limited(test))

    return decorate


def fuzz_requests(to: Target, examples: int, number: int = 0) -> None:
    """`examples` of each kind for every operation of the document."""
    document = to.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    session = http.Session()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @explored(examples, number)
            @given(case=strategy, known=st.integers(0, 3))
            def explore(case: Case, known: int) -> None:
                _send(to, session, case, known)

            # Nothing about a route without parameters can be unfit.
            with suppress(Unsatisfiable):
                explore()


def _send(to: Target, session: http.Session, case: Case, known: int) -> None:
    # A name that nobody has is all that most requests would be about.
    name = ENCODER if case.path == "/v1/embeddings" else "desk"
    if known and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = name
    if known == 1 and case.path in STREAMS and isinstance(case.body, dict):
        case.body["stream"] = True
    if known and "model" in case.path_parameters:
        case.path_parameters["model"] = name
    headers = {"Authorization": f"Bearer {to.key}"}
    response = case.call(base_url=str(to.client.base_url), session=session, headers=headers)
    to.count("requests")
    assert response.status_code < 500, (case.as_curl_command(), response.text)
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        _is_a_problem(response.status_code, response.headers, json.loads(response.content))


def _is_a_problem(status: int, headers: Any, told: dict[str, Any]) -> None:
    """It names what is wrong, and shows nothing of our insides."""
    error = told.get("error", told)
    said = error.get("message", error.get("detail"))
    assert said, told
    assert error["trace_id"], told
    assert "Traceback" not in said
    if status == 422:
        assert ":" in said, told


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BODY = st.fixed_dictionaries(
    {"model": st.just("desk")},
    optional={
        "prompt": st.text() | JSON,
        "max_tokens": st.integers() | JSON,
        "temperature": st.floats() | JSON,
        "stop": JSON,
        "stream": JSON,
        "trace_id": st.text() | JSON,
        "messages": JSON,
    },
)
FRAMES = (
    st.text()
    | st.binary(max_size=200)
    | JSON.map(json.dumps)
    | BODY.map(json.dumps)
    | st.just('{"a":' * 30_000)
)


def fuzz_frames(to: Target, examples: int, number: int = 0) -> None:
    """Frames on a WebSocket: each is answered, or the connection ends with a code for it."""
    address = f"ws://127.0.0.1:{to.client.base_url.port}/v1/stream"
    headers = {"Authorization": f"Bearer {to.key}"}

    @explored(examples, number)
    @given(frames=st.lists(FRAMES, min_size=1, max_size=3))
    def explore(frames: list[str | bytes]) -> None:
        with connect(address, additional_headers=headers, max_size=None) as socket:
            code: int | None = 1000
            for frame in frames:
                to.count("frames")
                try:
                    socket.send(frame)
                    answer: dict[str, Any] = {}
                    while answer.get("event") not in ("done", "error"):
                        answer = json.loads(socket.recv(timeout=20))
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else None
                    break
                if answer["event"] == "error":
                    _is_a_problem(answer["data"]["status"], {}, answer["data"])
                    assert answer["data"]["status"] < 500, (frame, answer)
            assert code in CODES

    explore()


# What could end an event, or begin another, if it were written as it is.
SAID = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    | st.sampled_from(
        ["\n\n", "\r\n", "\r", "data: [DONE]", "event: done\n", "\0", "\u2028", ": x"]
    ),
    min_size=1,
    max_size=5,
)


def fuzz_streams(to: Target, examples: int, number: int = 0) -> None:
    """Whatever a model says arrives as it was said, and as no event that it was not."""

    @explored(examples, number)
    @given(pieces=SAID, theirs=st.booleans())
    def explore(pieces: list[str], theirs: bool) -> None:
        to.count("streams")
        to.engine.pieces = tuple(pieces)
        path = "/v1/chat/completions" if theirs else "/v1/generate"
        asked: dict[str, Any] = {"model": "desk", "stream": True, "max_tokens": 64}
        asked |= {"messages": [{"role": "user", "content": "x"}]}
        text = to.client.post(path, json=asked).text
        data = list(_data(text))
        if theirs:
            assert data.pop() == "[DONE]"
            deltas = [json.loads(each)["choices"][0]["delta"] for each in data]
            assert "".join(delta.get("content", "") for delta in deltas) == "".join(pieces)
        else:
            told = [json.loads(each) for each in data]
            assert "".join(each["text"] for each in told[:-1]) == "".join(pieces)
            assert told[-1]["text"] == "".join(pieces)
            assert told[-1]["finish_reason"] == "stop"

    explore()
    to.engine.pieces = Talker.pieces


def _data(text: str) -> Iterator[str]:
    """The data of server-sent events, read as the standard says
    (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation)."""
    held: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line and held:
            yield "\n".join(held)
            held = []
        elif line.startswith("data:"):
            held.append(line[5:].removeprefix(" "))
    assert not held
