"""One row of tokens on its way through the engine: an answer that grows, or a completion scored."""

from collections.abc import Sequence as Row

from trimtab.engine.answer import Answer
from trimtab.engine.continuous.blocks import BLOCK, Content, chain, root
from trimtab.engine.jobs import GenerateJob, Job, ScoreJob
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.sampler import Sampler
from trimtab.errors import TrimtabError
from trimtab.inference import Score, VersionFiles
from trimtab.text.tokenizer import Tokenizer


class Sequence:
    """`tokens` are to be computed, the first `held` of them are in `blocks` already."""

    apart = False
    """Whether a step computes it by itself."""

    def __init__(self, job: Job, tokens: Row[int]) -> None:
        self.job = job
        self.tokens = list(tokens)
        self.held = 0
        self.blocks: list[int] = []
        self.finished = False
        self.begun = False
        """Whether it ever had its turn."""
        self.known = 0
        """Tokens that the cache held when it first had. One that was put off and comes back finds
        what it computed itself.
        """
        self._root = root(self.version)
        self.names = chain(self._root, self.tokens)
        """Of the full blocks of `tokens`."""
        self.named = 0
        """Full blocks that can be found by their names."""

    @property
    def version(self) -> str:
        return self.job.request.version

    @property
    def unasked(self) -> int:
        """Tokens at the beginning whose logits nobody asks for."""
        raise NotImplementedError

    @property
    def shareable(self) -> int:
        """Full blocks of these that have names."""
        return min(self.unasked // BLOCK, len(self.names))

    def before(self, at: int) -> bytes:
        """What a block of its own follows."""
        return self.names[at - 1] if at else self._root

    def part(self, at: int) -> tuple[int, ...]:
        """The tokens of a block that may be copied from another's."""
        return tuple(self.tokens[at * BLOCK : min((at + 1) * BLOCK, self.unasked)])

    def content(self, at: int) -> Content:
        """What a block of its own holds by now."""
        own = tuple(self.tokens[at * BLOCK : min((at + 1) * BLOCK, self.held)])
        return Content(self.version, self.before(at), own)

    @property
    def streaming(self) -> bool:
        """Whether somebody has heard the beginning of it."""
        return False

    @property
    def left(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.held

    def portion(self, budget: int) -> int:
        """How many of its next tokens a step computes that may read `budget` tokens of prompts."""
        return 1 if self.left == 1 else min(self.left, budget)

    def append(self, token: int) -> None:
        self.tokens.append(token)
        if len(self.tokens) % BLOCK == 0:
            self.names += chain(self.before(len(self.names)), self.tokens[-BLOCK:])

    @property
    def cached(self) -> int:
        """What is told of `known`: whole blocks. By the token it would spell the prompts of others
        to whoever guesses.
        """
        return self.known // BLOCK * BLOCK

    def found(self, blocks: list[int], held: int) -> None:
        """Begin behind what the cache holds already."""
        if not self.begun:
            self.known = held
        self.begun = True
        self.blocks = blocks
        self.held = held
        self.named = held // BLOCK

    def wanted(self, count: int) -> int:
        """How many of the last of the next `count` tokens have logits that are asked for."""
        raise NotImplementedError

    def fail(self, error: TrimtabError) -> None:
        """The error is the job's answer; its other sequences have no reader any more."""
        self.finished = True
        self.job.cancelled = True
        self.job.mailbox.put(error)


class Generation(Sequence):
    """An answer to one request.

    A deterministic one is computed apart, in pieces that its own prompt decides: a block of the
    prompt, what is left of it, a token of the answer. So every product is of the same shape in
    whatever company. What it finds in the cache was computed like that too, hence the names of
    its own; its answer, computed by the token, gets none. It begins with whole blocks alone.
    """

    def __init__(self, job: GenerateJob, files: VersionFiles, tokenizer: Tokenizer) -> None:
        super().__init__(job, job.request.prompt)
        self.sampler = Sampler(job.request, job.grammar)
        self.apart = job.request.sampling.deterministic
        if self.apart:
            self._root = root(f"{self.version} deterministic")
            self.names = chain(self._root, self.tokens)
        self.answer = Answer(job.request, tokenizer, files.stop_tokens)

    def found(self, blocks: list[int], held: int) -> None:
        super().found(blocks, held)
        self.answer.cached = self.cached

    @property
    def streaming(self) -> bool:
        return bool(self.answer.tokens)

    @property
    def unasked(self) -> int:
        return len(self.tokens) - 1

    def part(self, at: int) -> tuple[int, ...]:
        return () if self.apart else super().part(at)

    def portion(self, budget: int) -> int:
        if not self.apart:
            return super().portion(budget)
        unread = len(self.job.request.prompt) - self.held
        count = 1 if unread <= 0 else min(BLOCK, unread)
        return count if count == 1 or count <= budget else 0

    def append(self, token: int) -> None:
        if self.apart:
            self.tokens.append(token)
        else:
            super().append(token)

    def wanted(self, count: int) -> int:
        return 1 if count == self.left else 0

    def push(self, drawn: Drawn) -> None:
        """Take the next token of the answer."""
        self.sampler.took(drawn.token)
        self.job.mailbox.put(self.answer.push(drawn, self.sampler.complete))
        self.finished = self.answer.finished
        if not self.finished:
            self.append(drawn.token)

    def cancel(self) -> None:
        self.finished = True
        self.job.mailbox.put(self.answer.cancel())


class Scores:
    """The scores of one job as its completions are done."""

    def __init__(self, job: ScoreJob) -> None:
        self._job = job
        self._scores = [Score(())] * len(job.request.completions)
        self._open = sum(1 for completion in job.request.completions if completion)
        if not self._open:
            job.mailbox.put(self._scores)

    def put(self, index: int, logprobs: Row[float], cached: int) -> None:
        self._scores[index] = Score(tuple(logprobs), cached)
        self._open -= 1
        if not self._open:
            self._job.mailbox.put(self._scores)


class Scoring(Sequence):
    """One completion of a job. Its last token predicts nothing that is asked for."""

    def __init__(self, job: ScoreJob, index: int, scores: Scores) -> None:
        self._completion = job.request.completions[index]
        super().__init__(job, (*job.request.prompt, *self._completion[:-1]))
        self._index = index
        self._scores = scores
        self._logprobs: list[float] = []

    def found(self, blocks: list[int], held: int) -> None:
        super().found(blocks, held)
        self._logprobs = []

    @property
    def unasked(self) -> int:
        return len(self.job.request.prompt) - 1

    def wanted(self, count: int) -> int:
        beginning = len(self.job.request.prompt) - 1
        return max(0, self.held + count - max(self.held, beginning))

    def targets(self, count: int) -> Row[int]:
        """The tokens whose probability the next `count` rows of logits tell."""
        return self._completion[len(self._logprobs) : len(self._logprobs) + count]

    def push(self, logprobs: Row[float]) -> None:
        self._logprobs += logprobs
        if len(self._logprobs) == len(self._completion):
            self.finished = True
            self._scores.put(self._index, self._logprobs, self.cached)


def sequences(job: ScoreJob) -> list[Scoring]:
    """A sequence for each completion that is not empty."""
    scores = Scores(job)
    return [
        Scoring(job, index, scores)
        for index, completion in enumerate(job.request.completions)
        if completion
    ]
