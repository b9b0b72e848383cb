"""The `Engine` protocol over the OpenAI routes of a vLLM server, and its routes for LoRA adapters.

vLLM computes tokens and log-probabilities. Text and stop strings are made of them here, by the code
that the built-in engine uses, so that both mean the same.

vLLM finds cached blocks by an adapter's name and path: each version has a name of its own, the hash
of its content in it, and lies in a folder that is never written again. The server must see that
folder under the same path. Needs no torch.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.answer import Answer
from trimtab.engine.trials import Trials
from trimtab.engine.vllm_frames import drawn_in, finite, with_cached
from trimtab.engine.vllm_routes import Routes, Server, not_loaded
from trimtab.errors import (
    BaseError,
    IdentityError,
    RequestRefused,
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
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


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
        self._base = base
        self._held: dict[str, Held] = {}
        self._trials = Trials(self._held, self._take, self._drop, self._scores)
        # One that was gone may be another when it comes back, with another model under the same
        # name. What it answers is no sign of that, be it an error.
        self._routes = Routes(server, lost=self._trials.doubt)
        self._loading = asyncio.Lock()
        self._running = 0
        self._model = self._version = ""
        self.context = self.vocabulary = 0

    async def open(self) -> None:
        """Learn what the server serves. Raises EngineUnavailable, and BaseError where no model, or
        more than one, has the name or the path of the base.
        """
        self._version = await self._routes.version()
        bases = [card for card in await self._routes.models() if card.get("parent") is None]
        wanted = {self._base.name, str(self._base)}
        named = [card for card in bases if card["id"] in wanted or card.get("root") in wanted]
        if len(named) != 1:
            raise BaseError(
                f"{self._routes.server.url}: serves {[card['id'] for card in bases]}, not one of"
                f" them is {self._base.name}",
                hint="start vLLM with --served-model-name of the base's name",
            )
        self._model, self.context = named[0]["id"], int(named[0]["max_model_len"])
        config = json.loads((self._base / "config.json").read_bytes())
        self.vocabulary = int((config.get("text_config") or config)["vocab_size"])

    @property
    def _runtime(self) -> Runtime:
        server = self._routes.server
        return Runtime("vllm", self._version, server.device, server.dtype)

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            self._runtime,
            self.context,
            MAX_BATCH,
            dict(METHODS),
            prefix_cache=True,
            priority=self._routes.server.priority,
            grammar=True,
            merged=False,
        )

    async def load(self, files: VersionFiles) -> None:
        """Raises RequestRefused for what vLLM cannot serve, IdentityError where it refuses the
        files, knows others under their name, or does not answer as the version should.
        """
        await self._trials.load(files, self._runtime)

    async def _take(self, files: VersionFiles) -> None:
        async with self._loading:
            held = self._held.get(files.version)
            if held is not None and held.files != files:
                raise IdentityError(
                    f"version {files.version} is loaded from other files already",
                    hint="unload it first; a version's name is the hash of its content",
                )
            name = self._name(files)
            if name != self._model and name not in await self._adapters():
                if held is not None:
                    # It was restarted.
                    self._trials.doubt()
                await self._order(name, str(files.adapter))
            self._held[files.version] = held or Held(files, name, Tokenizer(files.tokenizer))

    async def unload(self, version: str) -> None:
        await self._trials.unload(version)

    async def _drop(self, version: str) -> None:
        async with self._loading:
            held = self._held.pop(version, None)
            self._trials.forget(version)
            if held is not None and held.name != self._model:
                try:
                    await self._routes.order("unload_lora_adapter", lora_name=held.name)
                except VersionNotLoaded:
                    # A server that was restarted has forgotten it already.
                    return

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._trials.check(request.version)
        held = self._of(request.version)
        check_generate(request, self.context, self.vocabulary)
        if request.sampling.deterministic:
            raise RequestRefused(
                "vLLM does not compute the same to the last bit in whatever company",
                hint="ask the built-in engine, or leave deterministic out",
            )
        answer = Answer(request, held.tokenizer, held.files.stop_tokens)
        body = self._asked(held, request)
        with self._counted(), self._forgetting(held):
            async with self._routes.stream(body, request.patience_s) as events:
                async for event in events:
                    for drawn in drawn_in(event, request.sampling.top_logprobs):
                        chunk = answer.push(drawn)
                        if answer.finished:
                            yield await with_cached(chunk, event, events)
                            return
                        yield chunk
            raise self._routes.gone("the stream ended before the answer did")

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._trials.check(request.version)
        return await self._scores(request)

    async def _scores(self, request: ScoreRequest) -> list[Score]:
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
        with self._counted(), self._forgetting(held):
            found = await self._routes.complete(body, request.patience_s)
        for choice in found["choices"]:
            i = asked[choice["index"]]
            rows = choice["prompt_logprobs"][len(request.prompt) :]
            pairs = zip(request.completions[i], rows, strict=True)
            scores[i] = Score(tuple(finite(row[str(token)]["logprob"]) for token, row in pairs))
        return scores

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        raise RequestRefused("this engine has no encoder", hint="ask the encoder's engine")

    async def drain(self, deadline_s: float) -> None:
        """Wait for the requests in flight; the deadline cuts them off with the connection."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while self._running and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        await self._routes.close()

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
            config = json.loads(content[0])
            method, rank = method_of(config), _rank(config)
        except (OSError, ValueError, AttributeError) as error:
            raise IdentityError(
                f"{files.adapter}: {error}", hint="the adapter's files are damaged"
            ) from error
        if method not in METHODS:
            raise RequestRefused(
                f"vLLM does not serve adapters of the method {method}, only LoRA",
                hint="serve the version with the built-in engine",
            )
        most = self._routes.server.max_rank
        if most is not None and rank > most:
            raise RequestRefused(
                f"{files.adapter}: a rank of {rank}, and vLLM is started for {most}",
                hint="serve the version with the built-in engine",
            )
        digest = hashlib.sha256(b"".join(content)).hexdigest()
        return f"{files.version}@{digest[:16]}"

    def _of(self, version: str) -> Held:
        if (held := self._held.get(version)) is None:
            raise not_loaded(version)
        return held

    def _body(self, held: Held, request: GenerateRequest | ScoreRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": held.name}
        if self._routes.server.priority:
            body["priority"] = PRIORITIES[request.priority]
        return body

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _order(self, name: str, folder: str) -> None:
        """Have the server load an adapter, unless another client of it was first: what is there
        under the name has the same content.
        """
        try:
            await self._routes.order("load_lora_adapter", lora_name=name, lora_path=folder)
        except IdentityError:
            if name not in await self._adapters():
                raise

    async def _adapters(self) -> set[str]:
        return {
            card["id"] for card in await self._routes.models() if card.get("parent") is not None
        }

    @contextmanager
    def _forgetting(self, held: Held) -> Iterator[None]:
        """What the server knows no more is not held any longer."""
        try:
            yield
        except VersionNotLoaded:
            known = [v for v, other in self._held.items() if other.name == held.name]
            for version in known:
                del self._held[version]
                self._trials.forget(version)
            if known:
                # It was restarted.
                self._trials.doubt()
            raise

    def _asked(self, held: Held, request: GenerateRequest) -> dict[str, Any]:
        """The body of a completion that is streamed."""
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
        return body


def _rank(config: dict[str, Any]) -> int:
    """The largest of an adapter: single layers may have one of their own."""
    return int(max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]))
