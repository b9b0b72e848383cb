"""What a run shows of itself while it trains: its page, and samples of its answers.

Nothing here may change the run or end it. Imports torch; import it only where a run starts.
"""

from types import TracebackType

from trimtab.errors import TrimtabError
from trimtab.train.checkpoint import Checkpoint
from trimtab.train.display.live import LivePage
from trimtab.train.display.samples import Asked, Samples
from trimtab.train.prepare import Prepared
from trimtab.train.run import RunFolder, StepProgress
from trimtab.train.trainer import SealedTrainer, tokenizer_of
from trimtab.train.watch.limits import Ended
from trimtab.train.watch.watch import Watch, progress_of

ENDED: dict[Ended, str] = {
    "": "done",
    "deadline": "ended by its deadline",
    "budget": "ended by its budget",
    "early": "ended early",
}


class Display:
    """The display of one run that goes on from its `last` checkpoint, from the trainer's log."""

    def __init__(
        self,
        prepared: Prepared,
        files: RunFolder,
        trainer: SealedTrainer,
        watch: Watch,
        last: Checkpoint | None,
    ) -> None:
        self._trainer = trainer
        self._watch = watch
        self._samples: Samples | None = None
        # Several ranks hold one model together, and one of them alone cannot ask it.
        if prepared.objective.answers and prepared.lessons and prepared.share.ranks == 1:
            self._samples = Samples(prepared, files.samples)
            self._samples.forget_after(last.step if last else 0)
            self._tokenizer = tokenizer_of(prepared)
        seen = "held out of training" if prepared.held else "trained on"
        note = f"The likeliest answer to prompts of records {seen}, as it changes."
        self._page = LivePage(
            files.live,
            prepared.title,
            _record(prepared),
            note if self._samples is not None else "",
            prepared.objective.watched,
        )
        # The page first: a listener may end the run.
        watch.listeners.insert(0, self.stepped)
        trainer.told_of_saves = [self.saved]

    def stepped(self, progress: StepProgress) -> None:
        """After a step."""
        self._page.show(self._trainer.state.log_history, progress, self._asked)

    def saved(self, made: Checkpoint) -> None:
        """After a checkpoint was sealed."""
        last = made.step == self._trainer.state.max_steps or bool(made.ended)
        if self._samples is None or not (last or self._samples.due(made.seconds)):
            return
        try:
            self._samples.take(self._trainer.bare_model, self._tokenizer, made.step)
        except Exception as error:  # whatever keeps a model from answering, it can be trained
            self._page.samples_note = f"It could not be asked: {type(error).__name__}: {error}"
            self._samples = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say how the run ended, where a step was taken."""
        state = self._trainer.state
        steps = [entry for entry in state.log_history if "tokens_s" in entry]
        if steps:
            progress = progress_of(steps[-1], state.max_steps, self._watch.limits)
            self._page.show(state.log_history, progress, self._asked, *self._end(error))

    def _end(self, error: BaseException | None) -> tuple[str, str]:
        if isinstance(error, TrimtabError):
            return "failed", error.message
        if error is not None:
            return "interrupted", "run it again: it goes on from its last checkpoint"
        if self._watch.paused:
            return "paused", ""
        state = self._trainer.state
        if self._watch.preempted and state.global_step < state.max_steps:
            return "told to end", "run it again: it goes on from here"
        return ENDED[self._watch.ended], ""

    @property
    def _asked(self) -> list[Asked]:
        return [] if self._samples is None else list(self._samples.asked)


def _record(prepared: Prepared) -> list[tuple[str, str]]:
    asked, settings = prepared.asked(), prepared.settings
    libraries = ", ".join(f"{name} {version}" for name, version in asked["libraries"].items())
    trained = len(prepared.checked.examples)
    return [
        ("identity", prepared.identity),
        ("base", f"{prepared.base.name}, {prepared.base_fingerprint[:16]}"),
        ("rows", f"{trained} trained on, {len(prepared.held)} held out; {asked['examples'][:16]}"),
        ("seed", str(settings.seed)),
        ("batch", f"{settings.batch_size} x {settings.accumulation}"),
        ("rate", f"{settings.rate:g}"),
        ("parameters", f"{prepared.attached.trainable:,} of {prepared.attached.total:,} trained"),
        ("machine", f"{prepared.machine.label}, {prepared.machine.dtype}"),
        ("libraries", libraries),
    ]
