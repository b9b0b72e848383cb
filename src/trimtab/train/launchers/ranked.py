"""A trainer of any objective as one rank of several. Imports torch and transformers.

The objective's loss, whatever it asks of the model, becomes the forward pass of one module, the
step; DDP, FSDP2 or DeepSpeed wrap that. So no way around the wrapper's hooks is left, which would
leave gradients of each rank to itself without a word.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trimtab.train.launchers.crew import Crew
from trimtab.train.launchers.ddp import Replicas
from trimtab.train.stream.walk import IN_RANKS, bare
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch.watch import Watch

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"


class Step(torch.nn.Module):
    """The loss of a batch, as a module over the trained model."""

    def __init__(self, trainer: "RankedTrainer") -> None:
        super().__init__()
        self.model = trainer.model
        # No submodule: a trainer is no part of what is trained.
        object.__setattr__(self, "_trainer", trainer)

    def forward(self, inputs: dict[str, Any], items: Tensor | int | None) -> Tensor:
        trainer: RankedTrainer = object.__getattribute__(self, "_trainer")
        return trainer.own_loss(inputs, items)


class Agree(TrainerCallback):
    """What one rank wants, all do: save, and stop, and for the same reason. The last callback, so
    that it hears the others.

    Ranks wait for each other in every step, so none may stop or save alone. `to_end` tells the
    first of them whether all are to save and end.
    """

    def __init__(self, crew: Crew, watch: Watch, to_end: Callable[[], bool]) -> None:
        self._crew = crew
        self._watch = watch
        self._to_end = to_end

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        watch = self._watch
        told = self._crew.first and self._to_end()
        wanted = (
            control.should_save or told,
            control.should_training_stop or told,
            watch.preempted or told,
            watch.ended,
        )
        saves, stops, preempted, ended = zip(*self._crew.everyone(wanted), strict=True)
        control.should_save, control.should_training_stop = any(saves), any(stops)
        watch.preempted, watch.ended = any(preempted), max(ended)


class RankedTrainer(SealedTrainer):
    """Mixed in before a finished trainer by `join`."""

    # transformers says that each may be None; between the first step and the last none is.
    model: Any
    optimizer: Any
    lr_scheduler: Any
    crew: Crew
    step: Step
    _batch: int
    _sharding: Replicas
    _joined: torch.nn.Module | None
    _weights: dict[str, Tensor] | None
    _last: Path | None

    # ------------------------------------------------------------------ the step

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self._sharding.shard(self)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        self._sharding.arrange(made)
        return made

    def _prepare_for_training(self, *given: Any, **named: Any) -> Any:
        prepared = super()._prepare_for_training(*given, **named)  # type: ignore[no-untyped-call]
        self._joined = self._sharding.join(self, self.step)
        if self._last is not None:
            self._go_on_from(self._last)
        return prepared

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of this rank's rows, scaled so that the mean over ranks is that of the batch."""
        assert self._joined is not None
        model.train()
        inputs = self._prepare_inputs(inputs)
        last = self.accelerator.sync_gradients
        self._counts = self._weight(self._batch) > 0
        with self._sharding.waiting(last), self.compute_loss_context_manager():
            loss: Tensor = self._joined(inputs, num_items_in_batch)
            if num_items_in_batch is not None:
                loss = loss * self.crew.ranks
            else:
                loss = loss * self._weight(self._batch)
                if not self.loss_is_scaled_for_ga:
                    loss = loss / self.current_gradient_accumulation_steps
            self._sharding.backward(loss)
        self._batch += 1
        return loss.detach()

    def own_loss(self, inputs: dict[str, Any], items: Tensor | int | None) -> Tensor:
        """What the objective itself makes of a batch."""
        loss = self.compute_loss(self.model, inputs, num_items_in_batch=items)
        assert isinstance(loss, Tensor)
        return loss

    def _weight(self, batch: int) -> float:
        """What this rank's rows of a batch count in the mean over ranks."""
        step, part = divmod(batch, self.args.gradient_accumulation_steps)
        first = step // self.prepared.settings.iterations * self.args.gradient_accumulation_steps
        return self.prepared.share.weight(self.prepared.layout[first + part])

    def counted(self, own: Tensor) -> Tensor | float:
        """Such that the mean over ranks, each by its weight, is that over the batch's tokens."""
        if not torch.is_grad_enabled():
            return own
        weight = self._weight(self._batch)
        # A rank without a row computes one that is no part of the batch.
        tokens: int = sum(self.crew.everyone(int(own) if weight else 0))
        return tokens * weight / self.crew.ranks if weight else own

    def over_ranks(self, own: Tensor) -> Tensor:
        every: list[list[Any]] = self.crew.everyone(own.tolist() if self._counts else [])
        return own.new_tensor([value for each in every for value in each])

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Labels in the batches of a step, over all ranks."""
        own = super()._get_num_items_in_batch(batch_samples, device)
        if own is None:
            return None
        return torch.tensor(sum(self.crew.everyone(int(own))), device=device)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor:
        return self._sharding.clipped(self)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        return self._sharding.clipped(self) if grad_norm is None else grad_norm

    # ------------------------------------------------------------------ what is written

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over ranks: of the loss before anybody sees it, of metrics in what is kept."""
        if "grad_norm" in logs:
            logs["grad_norm"] = self._sharding.norm(logs["grad_norm"])
        super().log(logs | self.crew.means({k: v for k, v in logs.items() if k == "loss"}))
        entry = self.state.log_history[-1]
        shared = {k: v for k, v in entry.items() if k in self.prepared.objective.watched}
        entry.update(self.crew.means(shared, self._weight(self._batch - 1)))

    def held_out_loss(self) -> float:
        """Over what all ranks have looked at: the same number in each, so that all end alike."""
        said: list[tuple[float, float]] = self.crew.everyone(self._held_out_sums())
        return sum(total for total, _ in said) / sum(weight for _, weight in said)

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        """Gathered by all, written by the first, and waited for by the others."""
        self._weights = self._sharding.weights(self.model)
        self._optimizer_state = self._sharding.optimizer_state(self)
        self._random = self.crew.everyone(_random_state())
        if self.crew.first:
            super()._write_checkpoint(model, trial)
        self._weights = None
        del self._optimizer_state, self._random
        self.crew.wait()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict=self._weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        torch.save(self._optimizer_state, Path(output_dir) / OPTIMIZER)
        torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Not yet: DeepSpeed lays the optimizer's state out where the ranks are joined."""
        self._last = None if checkpoint is None else Path(checkpoint)

    def _go_on_from(self, folder: Path) -> None:
        self._batch = self.state.global_step * self.args.gradient_accumulation_steps
        state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        self._sharding.load_optimizer(self, state)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        for rank, state in enumerate(self._random):
            torch.save(state, Path(output_dir) / f"rng_state_{rank}.pth")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        file = Path(checkpoint) / f"rng_state_{self.crew.rank}.pth"
        if file.is_file():
            _set_random_state(torch.load(file, weights_only=True))

    # ------------------------------------------------------------------ the end

    def proof(self) -> dict[str, Any]:
        """What shows that the ranks really shared the run. Raises TrimtabError where not."""
        if self._joined is None:
            return {"trained": "by an earlier attempt"}
        found = self._sharding.proof(self)
        if self.prepared.objective.rollouts:
            found["sampled"] = self.crew.everyone(self.sampled)
        return found

    def gathered(self) -> dict[str, Tensor] | None:
        """Every weight, whole, in the first rank; None where the model's own are whole."""
        return self._sharding.weights(self.model)


def join(
    trainer: SealedTrainer, crew: Crew, sharding: Replicas, to_end: Callable[[], bool]
) -> RankedTrainer:
    """Make a finished trainer one rank of several, which save and end when `to_end` says so."""
    # Every objective builds its own trainer, so the class is mixed in once one is there.
    mixed = type(f"Ranked{type(trainer).__name__}", (RankedTrainer, type(trainer)), {})
    trainer.__class__ = mixed
    assert isinstance(trainer, RankedTrainer)
    trainer.crew, trainer._sharding, trainer._joined = crew, sharding, None
    trainer._weights, trainer._last, trainer._batch = None, None, 0
    setattr(bare(trainer.model), IN_RANKS, True)
    trainer.step = Step(trainer)
    trainer.add_callback(Agree(crew, trainer._watch, to_end))
    # Dropout must not mask the rows of all ranks alike.
    torch.manual_seed(trainer.prepared.settings.seed + crew.rank)
    return trainer


def _random_state() -> dict[str, Any]:
    """As values that are read back without a pickle of anybody's classes."""
    drawn: Any = numpy.random.get_state()
    kind, keys, *rest = drawn
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(numpy.int64)), *rest),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), *rest))
    torch.random.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.random.set_rng_state(state["cuda"])
