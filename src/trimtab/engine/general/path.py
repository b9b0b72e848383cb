"""The general path: any causal language model of transformers, with any adapter of `overlay`.

Static batches of one version each, in one thread. Knows nothing of queues and sockets.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from trimtab.engine.answer import Answer
from trimtab.engine.general.decode import Decoder, score_rows
from trimtab.engine.general.layout import MAX_BATCH, MAX_BATCH_TOKENS
from trimtab.engine.general.overlay import Overlay, lay_over, merged
from trimtab.engine.load import load_base
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.sampler import Sampler, choose
from trimtab.errors import BaseError, EngineError
from trimtab.inference import (
    Chunk,
    GenerateRequest,
    Score,
    VersionFiles,
)
from trimtab.text.tokenizer import Tokenizer, shared

MAX_LOGITS = 2048
"""Positions whose logits are in memory at once."""

# Rows that ended go on being computed until this share of the batch is made of them: moving the
# cache costs about as much as a step.
IDLE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Version:
    """A version in memory."""

    files: VersionFiles
    overlay: Overlay
    tokenizer: Tokenizer


class GeneralPath:
    """One base and the versions that stand on it."""

    def __init__(self, base: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._base = base
        self._device = device
        self._dtype = dtype
        self._shared: PreTrainedModel | None = None
        self._versions: dict[str, Version] = {}

    @property
    def _model(self) -> PreTrainedModel:
        """The base that adapters share; not in memory before one needs it."""
        if self._shared is None:
            self._shared = load_base(self._base, self._dtype, self._device)
        return self._shared

    @property
    def context(self) -> int:
        config: Any = self._model.config.get_text_config()
        for name in ("max_position_embeddings", "seq_length", "max_seq_len"):
            if length := getattr(config, name, None):
                return int(length)
        raise BaseError(
            f"{self._base}: its config names no context length",
            hint="add max_position_embeddings to its config.json",
        )

    @property
    def vocabulary(self) -> int:
        embeddings: Any = self._model.get_input_embeddings()
        return int(embeddings.num_embeddings)

    def prepare(self, files: VersionFiles) -> Version:
        """Bring a version into memory, in any one thread; `hold` makes it answer.

        Raises IdentityError where its adapter does not attach whole; BaseError and DataError where
        files are damaged.
        """
        tokenizer = shared(files.tokenizer)
        return Version(files, self._overlay(files), tokenizer)

    def hold(self, version: Version) -> None:
        """Answer with it from now on."""
        self._versions[version.files.version] = version

    def unload(self, version: str) -> None:
        """Forget a version; one that is not held is forgotten already."""
        self._versions.pop(version, None)

    def virtual_tokens(self, version: str) -> int:
        """Places of the context that a version's own virtual tokens take."""
        lead = self._versions[version].overlay.lead
        return 0 if lead is None else lead.length

    def generate(
        self,
        version: str,
        requests: Sequence[GenerateRequest],
        samplers: Sequence[Sampler],
        wanted: Callable[[int], bool],
        give: Callable[[int, Chunk | EngineError], None],
    ) -> Iterator[None]:
        """Answer all requests together, a token of each between two yields; `give` takes a
        request's index and its next chunk.

        A request that `wanted` disowns is left at the next step, with a chunk that says so.
        """
        held = self._versions[version]
        with torch.inference_mode():
            decoder = Decoder(held.overlay, [request.prompt for request in requests])
        # The first row computed what the others share with it.
        answers = [
            Answer(request, held.tokenizer, held.files.stop_tokens, decoder.cached if i else 0)
            for i, request in enumerate(requests)
        ]
        batch = list(range(len(requests)))
        while True:
            tokens = []
            for i, drawn in zip(
                batch, choose(decoder.logits, [samplers[i] for i in batch]), strict=True
            ):
                tokens.append(drawn.token if isinstance(drawn, Drawn) else 0)
                if answers[i].finished:
                    continue
                if isinstance(drawn, Drawn):
                    samplers[i].took(drawn.token)
                    give(i, answers[i].push(drawn, samplers[i].complete))
                else:
                    give(i, drawn)
                    answers[i].finished = True
                if not answers[i].finished and not wanted(i):
                    give(i, answers[i].cancel())
                if answers[i].finished:
                    samplers[i].rest()
            rows = [row for row, i in enumerate(batch) if not answers[i].finished]
            if not rows:
                return
            yield
            with torch.inference_mode():
                if len(rows) <= (1 - IDLE_SHARE) * len(batch):
                    decoder.keep(rows)
                    batch, tokens = [batch[row] for row in rows], [tokens[row] for row in rows]
                decoder.step(tokens)

    def score(
        self,
        version: str,
        rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        wanted: Callable[[int], bool],
    ) -> Generator[None, None, list[Score]]:
        """The score of each (prompt, completion), in the order given; a piece of them is computed
        between two yields. A row that `wanted` disowns by then has an empty one.
        """
        held = self._versions[version]
        scores = [Score(())] * len(rows)
        for piece in _pieces(rows):
            kept = [i for i in piece if wanted(i)]
            if not kept:
                continue
            with torch.inference_mode():
                logprobs = score_rows(held.overlay, [rows[i] for i in kept])
            for i, values in zip(kept, logprobs, strict=True):
                scores[i] = Score(values)
            yield
        return scores

    def _overlay(self, files: VersionFiles) -> Overlay:
        if files.merged:
            base = load_base(files.base, torch.float32, self._device)
            return Overlay(base) if files.adapter is None else merged(base, files.adapter)
        if files.adapter is None:
            return Overlay(self._model)
        return lay_over(self._model, files.adapter)


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
