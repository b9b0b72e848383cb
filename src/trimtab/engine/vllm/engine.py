"""The `Engine` protocol over the OpenAI routes of a vLLM server, and its routes for LoRA adapters.

vLLM computes tokens and log-probabilities. Text and stop strings are made of them here, by the code
that the built-in engine uses, so that both mean the same.

Each version has a name of its own at the server (`vllm_names`), and lies in a folder that is never
written again. The server must see that folder under the same path. Needs no torch.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.answer import Answer
from trimtab.engine.trials import Trials
from trimtab.engine.vllm.bodies import generation, scoring
from trimtab.engine.vllm.frames import drawn_in, finite, with_cached
from trimtab.engine.vllm.names import METHODS, name_of
from trimtab.engine.vllm.routes import Routes, Server, not_loaded
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
    Vector,
    VersionFiles,
)
from trimtab.text.tokenizer import Tokenizer, shared

MAX_BATCH = 32
POLL_S = 0.05


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
            if files.base.resolve() != self._base.resolve():
                raise IdentityError(
                    f"version {files.version} stands on {files.base}, this engine holds"
                    f" {self._base}",
                    hint="each base has an engine of its own",
                )
            name = name_of(files, self._model, self._routes.server.max_rank)
            if name != self._model and name not in await self._adapters():
                if held is not None:
                    # It was restarted.
                    self._trials.doubt()
                await self._order(name, str(files.adapter))
            self._held[files.version] = held or Held(files, name, shared(files.tokenizer))

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
        priority = self._routes.server.priority
        body = generation(held.name, request, held.files.stop_tokens, priority)
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
        body = scoring(held.name, request, asked, self._routes.server.priority)
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

    def _of(self, version: str) -> Held:
        if (held := self._held.get(version)) is None:
            raise not_loaded(version)
        return held

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
