"""The fast path: continuous batches over a paged cache, for models of the Llama family.

Versions with different LoRA adapters and without one share a step. Runs in one thread; knows
nothing of sockets.
"""

import logging
import math
import time
from collections.abc import Sequence as Row
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab.engine.backlog import overdue
from trimtab.engine.continuous.adapters import Adapters, Read
from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK, Blocks
from trimtab.engine.continuous.cache import Cache, block_bytes
from trimtab.engine.continuous.room import room
from trimtab.engine.continuous.schedule import Schedule, Share
from trimtab.engine.continuous.scoring import logprobs_of
from trimtab.engine.continuous.sequence import Generation, Scoring, Sequence, sequences
from trimtab.engine.faults import first_line, unexpected
from trimtab.engine.jobs import GenerateJob, Job, stop, together
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.lora import read_config
from trimtab.engine.llama.network import Llama
from trimtab.engine.llama.rope import frequencies
from trimtab.engine.llama.weights import load_weights
from trimtab.engine.ops import TorchOps, pick_ops
from trimtab.engine.pace import Pace
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.sampler import choose, not_finite
from trimtab.errors import EngineError, TrimtabError
from trimtab.inference import VersionFiles
from trimtab.text.tokenizer import Tokenizer, shared

log = logging.getLogger(__name__)

LEAST_PROMPT_TOKENS = 48
"""Of prompts in one step beside streams: with fewer the weights are read more often than used."""
PAUSE_S = 0.25
"""How long a stream may stand still for others' prompts: a reader hardly notices."""


@dataclass(frozen=True, slots=True)
class Version:
    """`read` is what came from the files of its adapter, where that was done already."""

    files: VersionFiles
    tokenizer: Tokenizer
    read: Read | None = None


class ContinuousPath:
    """One base and the versions on it that can share its steps."""

    def __init__(
        self,
        base: Path,
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
        ops: TorchOps | None = None,
    ) -> None:
        self._shape = shape
        self._device = device
        self._dtype = dtype
        self.ops = ops or pick_ops(shape, dtype, device)
        self._weights = load_weights(base, shape, dtype, device, self.ops.arrange)
        self._radians = frequencies(shape.rope, shape.head_dim).to(device)
        self.model = Llama(shape, self._weights, self.ops)
        self._adapters = Adapters(shape, self._weights, self.ops.pair)
        self._versions: dict[str, Version] = {}
        size = room(device)
        self.running = size.running
        count = size.blocks(shape.context, block_bytes(shape, dtype))
        self.context = min(shape.context, (count - 1) * BLOCK)
        if self.context < shape.context:
            log.warning(
                "the device has memory for contexts of %d tokens, the base knows %d",
                self.context,
                shape.context,
            )
        self._cache = Cache(shape, count, dtype, device)
        self._schedule = Schedule(Blocks(count), size.prompt_tokens, size.running)
        self.pace = Pace()
        if device.type == "cuda":
            self._warm()

    def _warm(self) -> None:
        """Steps of the base, of one token and of a block, are compiled or captured before anybody
        waits for them; other sizes and adapters at their first use.
        """
        with torch.inference_mode():
            for count in (1, BLOCK):
                part = Part([0] * count, 0, [0], 1, None)
                self.model.forward(lay_out([part], self._radians, self._device), self._cache)
            self.ops.wait()

    def takes(self, files: VersionFiles) -> bool:
        """Whether a version can be computed here."""
        if files.merged:
            return False
        return files.adapter is None or read_config(files.adapter) is not None

    def prepare(self, files: VersionFiles) -> Version:
        """What takes long of a version, in any thread; `hold` makes it answer.

        Raises IdentityError where the adapter does not attach whole; DataError, no tokenizer.
        """
        tokenizer = shared(files.tokenizer)
        # On a GPU nothing may be put into its memory while the computing thread captures a graph.
        read = self._read(files) if self._device.type == "cpu" else None
        return Version(files, tokenizer, read)

    def hold(self, version: Version) -> None:
        """Answer with it from now on. On a GPU raises as `prepare` does."""
        files = version.files
        if (read := version.read or self._read(files)) is not None:
            self._adapters.add(files.version, read)
        self._versions[files.version] = Version(files, version.tokenizer)

    def load(self, files: VersionFiles) -> None:
        self.hold(self.prepare(files))

    def _read(self, files: VersionFiles) -> Read | None:
        if files.adapter is None or (config := read_config(files.adapter)) is None:
            return None
        return self._adapters.read(files.adapter, config)

    def lacks(self, version: str) -> bool:
        """Whether a version's adapter should be paged in before it is asked: else that is done in
        the middle of a step, as on a GPU it has to be.
        """
        return self._device.type == "cpu" and self._adapters.lacks(version)

    def page_in(self, version: str) -> None:
        """In any thread. Raises IdentityError where the adapter's file changed."""
        self._adapters.page_in(version)

    def unload(self, version: str) -> None:
        """Forget a version that computes nothing any more, and what was cached of it."""
        self._versions.pop(version, None)
        self._adapters.remove(version)
        self._schedule.blocks.forget(version)

    def uses(self, version: str) -> bool:
        """Whether something is computed or waits with a version."""
        return any(sequence.version == version for sequence in self._schedule)

    @property
    def busy(self) -> bool:
        return any(True for _ in self._schedule)

    def waiting(self, rank: int) -> int:
        """Jobs that wait for their turn and do not give way to a priority of this rank."""
        return self._schedule.waiting(rank)

    def add(self, job: Job) -> None:
        """Its version is loaded. What it asks for goes to its mailbox, step by step."""
        if isinstance(job, GenerateJob):
            version = self._versions[job.request.version]
            self._schedule.add(Generation(job, version.files, version.tokenizer))
        else:
            for sequence in sequences(job):
                self._schedule.add(sequence)

    def step(self) -> None:
        """Compute the next tokens of everything that runs."""
        with together():
            self._step()

    def _step(self) -> None:
        self._schedule.leave(self._is_unwanted)
        planned = self._schedule.next(self._beside_streams(), self.pace.prompt_s)
        for copy in self._schedule.copies:
            self._cache.copy(*copy)
        shares = self._with_adapters(planned)
        apart = [share for share in shares if share[0].sequence.apart]
        mixed = [share for share in shares if not share[0].sequence.apart]
        for each in (mixed, *([share] for share in apart)):
            if each:
                self._compute_all(each)
        self._schedule.leave(lambda sequence: sequence.finished)

    def _beside_streams(self) -> float:
        """Tokens of prompts that a step reads in about PAUSE_S, at the pace of the last ones."""
        if not self.pace.prompt_s:
            return math.inf
        return max(LEAST_PROMPT_TOKENS, PAUSE_S / self.pace.prompt_s // BLOCK * BLOCK)

    def _compute_all(self, shares: Row[tuple[Share, Part]]) -> None:
        """In one pass through the model; what fails, fails for these alone. Where the device has no
        memory for all at once, in two.
        """
        try:
            with torch.inference_mode():
                began = time.monotonic()
                if (logits := self._forward(shares)) is not None:
                    self._compute(shares, logits)
                    # What only reads leaves nothing to wait for, and would be measured as nothing.
                    self.ops.wait()
                    self._measure(shares, time.monotonic() - began)
                    return
        except TrimtabError as error:
            self._fail(shares, error)
            return
        except Exception as error:
            # A step's tensors are lost, not what others hold.
            self._fail(shares, unexpected(error))
            return
        half = len(shares) // 2
        for each in (shares[:half], shares[half:]):
            self._compute_all(each)

    def _forward(self, shares: Row[tuple[Share, Part]]) -> torch.Tensor | None:
        """The logits that are wanted of them; None where the device has no memory for so many.
        Raises EngineError where it has none for one. What was written into the cache by then is
        written again.
        """
        try:
            batch = lay_out([part for _, part in shares], self._radians, self._device)
            return self.model.forward(batch, self._cache)
        except torch.OutOfMemoryError as error:
            # Its frames hold the step's tensors: only its words are kept.
            words = first_line(error)
        if len(shares) > 1:
            log.warning("a step of %d sequences is computed in two: %s", len(shares), words)
            return None
        raise EngineError(
            f"the device has no memory for {shares[0][0].tokens} tokens of this request: {words}",
            hint="try again later, or stop what else uses the device",
        )

    def fail_all(self, error: TrimtabError) -> None:
        for sequence in self._schedule:
            if not sequence.job.cancelled:
                sequence.fail(error)

    def stop_all(self, error: TrimtabError) -> None:
        """End everything at the next step, see `stop`."""
        for sequence in self._schedule:
            stop(sequence.job, error)

    def _is_unwanted(self, sequence: Sequence) -> bool:
        """Cancelled, failed with another sequence of the same job, or not begun in time."""
        waits = not sequence.begun and not sequence.job.cancelled
        if waits and (error := overdue(sequence.job, time.monotonic())):
            sequence.fail(error)
        if sequence.job.cancelled and not sequence.finished:
            if isinstance(sequence, Generation):
                sequence.cancel()
            sequence.finished = True
        return sequence.finished

    def _with_adapters(self, shares: list[Share]) -> list[tuple[Share, Part]]:
        """Each share with its part of the step; neighbours of one version side by side."""
        parts = []
        for share in sorted(shares, key=lambda share: share.sequence.version):
            sequence, count = share
            try:
                adapter = self._adapters.get(sequence.version)
            except TrimtabError as error:
                sequence.fail(error)
                continue
            except Exception as error:
                # Paging one in may fail for want of memory; the others have theirs.
                sequence.fail(unexpected(error))
                continue
            tokens = sequence.tokens[sequence.held : sequence.held + count]
            wanted = sequence.wanted(count)
            parts.append((share, Part(tokens, sequence.held, sequence.blocks, wanted, adapter)))
        self._schedule.leave(lambda sequence: sequence.finished)
        return parts

    def _compute(self, shares: Row[tuple[Share, Part]], logits: torch.Tensor) -> None:
        self._schedule.computed([share for share, _ in shares])
        drawn: list[tuple[Generation, int]] = []
        row = 0
        for (sequence, _), part in shares:
            rows = slice(row, row + part.logits)
            row = rows.stop
            if not part.logits:
                continue
            if isinstance(sequence, Generation):
                drawn.append((sequence, rows.start))
            elif isinstance(sequence, Scoring):
                self._score(sequence, logits[rows])
        if drawn:
            places = [at for _, at in drawn]
            wanted = logits if places == list(range(len(logits))) else logits[places]
            self._draw([sequence for sequence, _ in drawn], wanted)

    def _draw(self, generations: Row[Generation], logits: torch.Tensor) -> None:
        samplers = [generation.sampler for generation in generations]
        tokens = choose(logits, samplers, self.ops.best)
        for generation, drawn in zip(generations, tokens, strict=True):
            if isinstance(drawn, Drawn):
                generation.push(drawn)
                self._note(generation)
            else:
                generation.fail(drawn)

    def _note(self, generation: Generation) -> None:
        if generation.finished:
            answer = generation.answer
            self.pace.ended(len(generation.job.request.prompt), answer.cached, len(answer.tokens))

    def _score(self, sequence: Scoring, logits: torch.Tensor) -> None:
        logprobs = logprobs_of(logits, sequence.targets(len(logits)))
        if all(math.isfinite(logprob) for logprob in logprobs):
            sequence.push(logprobs)
        else:
            sequence.fail(not_finite())

    def _fail(self, shares: Row[tuple[Share, Part]], error: TrimtabError) -> None:
        for share, _ in shares:
            if not share.sequence.finished:
                share.sequence.fail(error)

    def _measure(self, shares: Row[tuple[Share, Part]], seconds: float) -> None:
        read = sum(share.tokens for share, _ in shares if share.tokens > 1)
        self.pace.step(read, sum(share.tokens == 1 for share, _ in shares), seconds)
