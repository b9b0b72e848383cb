"""The general path: any causal language model of transformers, with adapters of PEFT over it.

Static batches of one version each, in one thread. Knows nothing of queues and sockets.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

import trimtab
from trimtab.engine.answer import Answer
from trimtab.engine.batch import MAX_BATCH, MAX_BATCH_TOKENS
from trimtab.engine.decode import Decoder, score_rows
from trimtab.engine.dtype import dtype_name, pick_device, pick_dtype
from trimtab.engine.load import attach_adapter, detach_adapter, load_base, load_merged
from trimtab.engine.sampling import choose
from trimtab.errors import IdentityError, VersionNotLoaded
from trimtab.inference import (
    Capabilities,
    Chunk,
    GenerateRequest,
    Runtime,
    Sampling,
    Score,
    VersionFiles,
)
from trimtab.text.tokenizer import Tokenizer

MAX_LOGITS = 2048
"""Positions whose logits are in memory at once."""

# Rows that ended go on being computed until this share of the batch is made of them: moving the
# cache costs about as much as a step.
IDLE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Version:
    """A version in memory. `adapter` is its name on the shared base, None for the base itself."""

    files: VersionFiles
    model: PreTrainedModel
    adapter: str | None
    tokenizer: Tokenizer


class GeneralPath:
    """One base and the versions that stand on it."""

    def __init__(
        self, base: Path, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        self.base = base
        self._device = device or pick_device()
        self._model = load_base(base, dtype or pick_dtype(self._device), self._device)
        self._adapted: PeftModel | None = None
        self._versions: dict[str, Version] = {}
        self._adapters = 0
        config: Any = self._model.config.get_text_config()
        self.context = int(config.max_position_embeddings)
        embeddings: Any = self._model.get_input_embeddings()
        self.vocabulary = int(embeddings.num_embeddings)

    def capabilities(self) -> Capabilities:
        runtime = Runtime(
            "trimtab", trimtab.__version__, self._device.type, dtype_name(self._model.dtype)
        )
        return Capabilities(runtime, self.context, MAX_BATCH, ("lora",))

    def load(self, files: VersionFiles) -> None:
        """Make a version answer; loading it again changes nothing.

        Raises IdentityError where the version stands on another base, and where its adapter does
        not attach whole; BaseError and DataError where files are damaged.
        """
        if (held := self._versions.get(files.version)) is not None:
            if held.files != files:
                raise IdentityError(
                    f"version {files.version} is loaded from other files already",
                    hint="unload it first; a version's name is the hash of its content",
                )
            return
        if files.base.resolve() != self.base.resolve():
            raise IdentityError(
                f"version {files.version} stands on {files.base}, this engine holds {self.base}",
                hint="each base has an engine of its own",
            )
        tokenizer = Tokenizer(files.tokenizer)
        if files.merged:
            merged = load_merged(files.base, files.adapter, self._device)
            self._versions[files.version] = Version(files, merged, None, tokenizer)
            return
        adapter = None if files.adapter is None else self._attach(files.adapter)
        self._versions[files.version] = Version(files, self._model, adapter, tokenizer)

    def unload(self, version: str) -> None:
        """Forget a version; one that is not held is forgotten already."""
        held = self._versions.pop(version, None)
        if held is not None and held.adapter is not None and self._adapted is not None:
            self._adapted = detach_adapter(self._adapted, held.adapter)

    def check(self, version: str) -> None:
        """Raises VersionNotLoaded."""
        self._version(version)

    def generate(
        self,
        version: str,
        requests: Sequence[GenerateRequest],
        wanted: Callable[[int], bool],
        give: Callable[[int, Chunk], None],
    ) -> None:
        """Answer all requests together; `give` takes a request's index and its next chunk.

        A request that `wanted` disowns is left at the next step, with a chunk that says so.
        """
        held = self._version(version)
        samplings = [_seeded(request.sampling) for request in requests]
        with self._active(held), torch.inference_mode():
            decoder = Decoder(held.model, [request.prompt for request in requests])
            answers = [
                Answer(request, held.tokenizer, held.files.stop_tokens, decoder.cached)
                for request in requests
            ]
            batch = list(range(len(requests)))
            while True:
                places = [len(requests[i].prompt) + len(answers[i].tokens) for i in batch]
                tokens, logprobs = choose(decoder.logits, [samplings[i] for i in batch], places)
                for i, token, logprob in zip(batch, tokens, logprobs, strict=True):
                    if not answers[i].finished:
                        give(i, answers[i].push(token, logprob))
                    if not answers[i].finished and not wanted(i):
                        give(i, answers[i].cancel())
                rows = [row for row, i in enumerate(batch) if not answers[i].finished]
                if not rows:
                    return
                if len(rows) <= (1 - IDLE_SHARE) * len(batch):
                    decoder.keep(rows)
                    batch, tokens = [batch[row] for row in rows], [tokens[row] for row in rows]
                decoder.step(tokens)

    def score(
        self, version: str, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[Score]:
        """The score of each (prompt, completion), in the order given."""
        held = self._version(version)
        scores = [Score(())] * len(rows)
        with self._active(held), torch.inference_mode():
            for piece in _pieces(rows):
                logprobs = score_rows(held.model, [rows[i] for i in piece])
                for i, values in zip(piece, logprobs, strict=True):
                    scores[i] = Score(values)
        return scores

    def _attach(self, folder: Path) -> str:
        self._adapters += 1
        name = f"adapter{self._adapters}"
        self._adapted = attach_adapter(self._adapted or self._model, name, folder)
        return name

    def _version(self, version: str) -> Version:
        try:
            return self._versions[version]
        except KeyError:
            raise VersionNotLoaded(
                f"version {version} is not loaded", hint="load it, then ask again"
            ) from None

    @contextmanager
    def _active(self, version: Version) -> Iterator[None]:
        """Only the version's own adapter works on the base within."""
        if version.model is not self._model or self._adapted is None:
            yield
        elif version.adapter is None:
            with self._adapted.disable_adapter():
                yield
        else:
            self._adapted.set_adapter(version.adapter, inference_mode=True)
            yield


def _seeded(sampling: Sampling) -> Sampling:
    """Without a seed of its own an answer takes one that nobody knows."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(63))


def _pieces(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[list[int]]:
    """Indices of rows to compute together: of like length, within the bounds on memory.

    Rows with an empty completion need no computing.
    """
    lengths = {i: len(prompt) + len(end) for i, (prompt, end) in enumerate(rows) if end}
    piece: list[int] = []
    answer = 0
    for i in sorted(lengths, key=lambda i: (lengths[i], i)):
        answer = max(answer, len(rows[i][1]))
        count = len(piece) + 1
        if piece and (
            count > MAX_BATCH
            or count * lengths[i] > MAX_BATCH_TOKENS
            or count * answer > MAX_LOGITS
        ):
            yield piece
            piece, answer = [], len(rows[i][1])
        piece.append(i)
    if piece:
        yield piece
