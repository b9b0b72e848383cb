"""The `Engine` protocol over the OpenAI routes of a vLLM server, and its routes for LoRA adapters.

vLLM computes tokens and log-probabilities. Text and stop strings are made of them here, by the code
that the built-in engine uses, so that both mean the same. The routes and fields are those of vLLM
0.32, `vllm/entrypoints/openai/completion/protocol.py` and `entrypoints/serve/lora`.

vLLM finds cached blocks by an adapter's name and path: each version has a name of its own, the hash
of its content in it, and lies in a folder that is never written again. The server must see that
folder under the same path. Needs no torch.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.answer import Answer
from trimtab.engine.drawn import Drawn
from trimtab.errors import (
    BaseError,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
    VersionNotLoaded,
)
from trimtab.inference import (
    Capabilities,
    Chunk,
    EmbedRequest,
    GenerateRequest,
    Runtime,
    Score,
    ScoreRequest,
    Service,
    Vector,
    VersionFiles,
)
from trimtab.registry.methods import method_of
from trimtab.text.tokenizer import Tokenizer

METHODS: Mapping[str, Service] = {"lora": "mixed", "full": "mixed"}
PRIORITIES = {"interactive": 0, "batch": 1, "shadow": 2}
"""vLLM serves the lower number first."""

MAX_BATCH = 32
POLL_S = 0.05
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
HINT = "it may be starting or restarting; try again in a moment"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a vLLM server answers, and what is known of it beside what it tells.

    `priority` says that it was started with `--scheduling-policy priority`: another one refuses
    requests that carry one.
    """

    url: str
    key: str = ""
    device: str = "remote"
    dtype: str = "unknown"
    priority: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """`name` is what the server knows the version by."""

    files: VersionFiles
    name: str
    tokenizer: Tokenizer


class VllmEngine:
    """The engine of one base. `open` it before the first request, within its event loop. `alive`
    says whether the server, where it is our own child, still runs.
    """

    def __init__(
        self, server: Server, base: Path, alive: Callable[[], bool] = lambda: True
    ) -> None:
        self.alive = alive
        self._server = server
        self._base = base
        self._held: dict[str, Held] = {}
        self._loading = asyncio.Lock()
        self._running = 0
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        # What is asked for by address is not behind the proxy that the environment may name. And
        # a connection that is kept may be one that the server has just closed: a new one is cheap.
        self._client = httpx.AsyncClient(
            base_url=server.url,
            headers=headers,
            timeout=TIMEOUT,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )
        self._model = self._version = ""
        self.context = self.vocabulary = 0

    async def open(self) -> None:
        """Learn what the server serves. Raises EngineUnavailable, and BaseError where no model, or
        more than one, has the name or the path of the base.
        """
        self._version = str((await self._get("/version")).get("version"))
        bases = [card for card in await self._cards() if card.get("parent") is None]
        wanted = {self._base.name, str(self._base)}
        named = [card for card in bases if card["id"] in wanted or card.get("root") in wanted]
        if len(named) != 1:
            raise BaseError(
                f"{self._server.url}: serves {[card['id'] for card in bases]}, not one of them is"
                f" {self._base.name}",
                hint="start vLLM with --served-model-name of the base's name",
            )
        self._model, self.context = named[0]["id"], int(named[0]["max_model_len"])
        config = json.loads((self._base / "config.json").read_bytes())
        self.vocabulary = int((config.get("text_config") or config)["vocab_size"])

    async def capabilities(self) -> Capabilities:
        runtime = Runtime("vllm", self._version, self._server.device, self._server.dtype)
        return Capabilities(
            runtime,
            self.context,
            MAX_BATCH,
            dict(METHODS),
            prefix_cache=True,
            priority=self._server.priority,
            grammar=True,
            merged=False,
        )

    async def load(self, files: VersionFiles) -> None:
        """Raises RequestRefused for what vLLM cannot serve, IdentityError where it refuses the
        files or knows others under their name.
        """
        async with self._loading:
            held = self._held.get(files.version)
            if held is not None and held.files != files:
                raise IdentityError(
                    f"version {files.version} is loaded from other files already",
                    hint="unload it first; a version's name is the hash of its content",
                )
            name = self._name(files)
            if name != self._model and name not in await self._adapters():
                await self._order("load_lora_adapter", lora_name=name, lora_path=str(files.adapter))
            self._held[files.version] = held or Held(files, name, Tokenizer(files.tokenizer))

    async def unload(self, version: str) -> None:
        async with self._loading:
            held = self._held.pop(version, None)
            if held is not None and held.name != self._model:
                try:
                    await self._order("unload_lora_adapter", lora_name=held.name)
                except VersionNotLoaded:
                    # A server that was restarted has forgotten it already.
                    return

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        held = self._of(request.version)
        check_generate(request, self.context, self.vocabulary)
        if request.sampling.deterministic:
            raise RequestRefused(
                "vLLM does not compute the same to the last bit in whatever company",
                hint="ask the built-in engine, or leave deterministic out",
            )
        answer = Answer(request, held.tokenizer, held.files.stop_tokens)
        with self._counted():
            async with aclosing(self._events(held, request)) as events:
                async for event in events:
                    for drawn in _drawn(event, request.sampling.top_logprobs):
                        chunk = answer.push(drawn)
                        if answer.finished:
                            yield await _with_cached(chunk, event, events)
                            return
                        yield chunk
        raise self._gone("the stream ended before the answer did")

    async def score(self, request: ScoreRequest) -> list[Score]:
        held = self._of(request.version)
        # vLLM computes one token beside them, which takes its place in the context.
        check_score(request, self.context - 1, self.vocabulary)
        asked = [i for i, completion in enumerate(request.completions) if completion]
        scores = [Score(())] * len(request.completions)
        if not asked:
            return scores
        body = self._body(held, request) | {
            "prompt": [[*request.prompt, *request.completions[i]] for i in asked],
            "prompt_logprobs": 0,
            # None would not be an answer.
            "max_tokens": 1,
        }
        with self._counted():
            found = await self._post("/v1/completions", body)
        for choice in found["choices"]:
            i = asked[choice["index"]]
            rows = choice["prompt_logprobs"][len(request.prompt) :]
            pairs = zip(request.completions[i], rows, strict=True)
            scores[i] = Score(tuple(_finite(row[str(token)]["logprob"]) for token, row in pairs))
        return scores

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        raise RequestRefused("this engine has no encoder", hint="ask the encoder's engine")

    async def drain(self, deadline_s: float) -> None:
        """Wait for the requests in flight; the deadline cuts them off with the connection."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while self._running and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        await self._client.aclose()

    def _name(self, files: VersionFiles) -> str:
        """What the server knows a version by. Raises RequestRefused and IdentityError."""
        if files.merged:
            raise RequestRefused(
                "vLLM serves the weights that it was started with, and no merged copy",
                hint="the built-in engine computes merged copies",
            )
        if files.base.resolve() != self._base.resolve():
            raise IdentityError(
                f"version {files.version} stands on {files.base}, this engine holds {self._base}",
                hint="each base has an engine of its own",
            )
        if files.adapter is None:
            return self._model
        try:
            content = [(files.adapter / name).read_bytes() for name in ADAPTER_FILES]
            method = method_of(json.loads(content[0]))
        except (OSError, ValueError, AttributeError) as error:
            raise IdentityError(
                f"{files.adapter}: {error}", hint="the adapter's files are damaged"
            ) from error
        if method not in METHODS:
            raise RequestRefused(
                f"vLLM does not serve adapters of the method {method}, only LoRA",
                hint="serve the version with the built-in engine",
            )
        digest = hashlib.sha256(b"".join(content)).hexdigest()
        return f"{files.version}@{digest[:16]}"

    def _of(self, version: str) -> Held:
        if (held := self._held.get(version)) is None:
            raise _not_loaded(version)
        return held

    def _body(self, held: Held, request: GenerateRequest | ScoreRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": held.name}
        if self._server.priority:
            body["priority"] = PRIORITIES[request.priority]
        return body

    async def _events(
        self, held: Held, request: GenerateRequest
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's frames as they come; leaving it makes the server stop."""
        sampling = request.sampling
        body = self._body(held, request) | {
            "prompt": list(request.prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop_token_ids": [*held.files.stop_tokens, *sampling.stop_tokens],
            # What ends an answer is the version's, not the model's generation_config.
            "ignore_eos": True,
            "logprobs": sampling.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.schema is not None:
            body["structured_outputs"] = {"json": json.loads(sampling.schema)}
        try:
            async with AsyncExitStack() as stack:
                async with self._patient(request.patience_s):
                    call = self._client.stream("POST", "/v1/completions", json=body)
                    response = await stack.enter_async_context(call)
                    if response.status_code != httpx.codes.OK:
                        await response.aread()
                        raise self._refused(response, held)
                    lines = response.aiter_lines()
                    first = await anext(lines, "")
                yield self._event(first, held)
                async for line in lines:
                    if line.startswith("data: {"):
                        yield self._event(line, held)
        except httpx.TransportError as error:
            raise self._gone(str(error) or type(error).__name__) from error

    def _event(self, line: str, held: Held) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
        except ValueError as error:
            raise self._gone("a frame of its stream cannot be read") from error
        if "error" in event:
            raise self._refusal(int(event["error"].get("code") or 500), line[6:].encode(), held)
        return event

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    @asynccontextmanager
    async def _patient(self, patience_s: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(patience_s):
                yield
        except TimeoutError:
            raise EngineOverloaded(
                f"vLLM did not begin within {patience_s} s", hint="try again later"
            ) from None

    async def _cards(self) -> list[dict[str, Any]]:
        cards: list[dict[str, Any]] = (await self._get("/v1/models"))["data"]
        return cards

    async def _adapters(self) -> set[str]:
        return {card["id"] for card in await self._cards() if card.get("parent") is not None}

    async def _order(self, route: str, **body: str) -> None:
        """Load or unload an adapter. A server without these routes was not started for it."""
        try:
            response = await self._client.post(f"/v1/{route}", json=body)
        except httpx.TransportError as error:
            raise self._gone(str(error) or type(error).__name__) from error
        told = _message(response.content)
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.NOT_FOUND and told == "Not Found":
            raise EngineError(
                f"{self._server.url} loads no adapters while it serves",
                hint="start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            )
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._refused(response, None)
        if route == "unload_lora_adapter":
            raise _not_loaded(body["lora_name"])
        raise IdentityError(
            f"vLLM refused the adapter in {body['lora_path']}: {told}",
            hint="does it belong to this base, and does the server see this folder?",
        )

    async def _get(self, route: str) -> dict[str, Any]:
        return await self._json(self._client.get(route), None)

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._json(self._client.post(route, json=body), body["model"])

    async def _json(self, call: Any, name: str | None) -> dict[str, Any]:
        try:
            response = await call
        except httpx.TransportError as error:
            raise self._gone(str(error) or type(error).__name__) from error
        if response.status_code != httpx.codes.OK:
            raise self._refused(response, name)
        found: dict[str, Any] = response.json()
        return found

    def _refused(self, response: httpx.Response, of: Held | str | None) -> TrimtabError:
        error = self._refusal(response.status_code, response.content, of)
        after = response.headers.get("retry-after", "")
        # A server, or a proxy before it, may name a date instead; then we say a second, as ever.
        if isinstance(error, EngineOverloaded) and after.isdecimal() and len(after) < 9:
            error.retry_s = max(1.0, float(after))
        return error

    def _refusal(self, status: int, content: bytes, of: Held | str | None) -> TrimtabError:
        """The error that an answer of the server means."""
        told = _message(content)
        if status == httpx.codes.NOT_FOUND and of is not None:
            name = of if isinstance(of, str) else of.name
            for version in [v for v, held in self._held.items() if held.name == name]:
                del self._held[version]
            return _not_loaded(name)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return EngineError(
                f"{self._server.url} refused the key", hint="set TRIMTAB_VLLM_KEY to its API key"
            )
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return EngineOverloaded(f"vLLM: {told}", hint="try again later")
        if httpx.codes.is_client_error(status):
            return RequestRefused(f"vLLM: {told}", hint="change the request: it can never work")
        return self._gone(f"{status} {told}")

    def _gone(self, why: str) -> EngineUnavailable:
        return EngineUnavailable(f"vLLM at {self._server.url}: {why}", hint=HINT)


def _not_loaded(version: str) -> VersionNotLoaded:
    return VersionNotLoaded(f"version {version} is not loaded", hint="load it, then ask again")


def _drawn(event: dict[str, Any], top: int) -> list[Drawn]:
    """The tokens of a frame, each with the `top` likeliest in its place."""
    found: list[Drawn] = []
    for choice in event["choices"]:
        if not (tokens := choice.get("token_ids")):
            continue
        told = choice["logprobs"]
        # Of the likeliest, the token that was drawn is one more where it is not among them.
        likeliest = told["top_logprobs"] if top else [{}] * len(tokens)
        for token, logprob, row in zip(tokens, told["token_logprobs"], likeliest, strict=True):
            best = sorted(
                ((int(name.removeprefix("token_id:")), value) for name, value in row.items()),
                key=lambda pair: -pair[1],
            )
            found.append(Drawn(token, _finite(logprob), tuple(best[:top])))
    return found


async def _with_cached(
    last: Chunk, event: dict[str, Any], events: AsyncGenerator[dict[str, Any], None]
) -> Chunk:
    """The last chunk with the cached tokens, which the server tells in a frame of its own, after
    an answer that ended there too.
    """
    if last.usage is None or not any(c.get("finish_reason") for c in event["choices"]):
        return last
    async for after in events:
        if usage := after.get("usage"):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            return replace(last, usage=replace(last.usage, cached=cached))
    return last


def _finite(logprob: float | None) -> float:
    if logprob is None or not math.isfinite(logprob):
        raise EngineError(
            "vLLM gave a log-probability that is not a finite number",
            hint="are the weights damaged, or is the dtype too narrow for this model?",
        )
    return logprob


def _message(content: bytes) -> str:
    """What the server says is wrong, in one line; its errors come in three shapes."""
    try:
        found = json.loads(content)
        error = found.get("error") or found.get("detail") or found
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = content[:200].decode(errors="replace")
    return " ".join(str(text).split())[:300]
