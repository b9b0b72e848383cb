"""What GRPO, RLOO and PPO share: prompts that are tokens already, answers of the model's own, and
rewards for them. Imports torch and trl.

One of several ranks answers its own prompts, each as often as the others do, so that the answers
that are compared lie in one rank. What is a mean over all answers of a step is taken over ranks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import split_tensor_dict

from trimtab.train.online.draws import dealt, draws
from trimtab.train.online.rewards import Scorer
from trimtab.train.prepare import Prepared
from trimtab.train.reference import settle_reference
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch


class RolloutTrainer(SealedTrainer):
    """Mixed in before a trainer of TRL that samples; a prompt is known by its place."""

    # TRL's own configuration of the objective.
    args: Any
    prompts: dict[str, list[int]]
    ref_model: PreTrainedModel | None
    # Parts that have been learnt from; None before the first.
    _taken: int | None = None
    _parts: Sequence[dict[str, Any]] = ()

    def __init__(self, *, prepared: Prepared, **given: Any) -> None:
        self.prompts = {str(at): list(row.prompt) for at, row in enumerate(prepared.laid_out)}
        super().__init__(
            train_dataset=rows(prepared),
            reward_funcs=[reward_function(scorer) for scorer in prepared.scorers],
            **given,
        )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompts[prompt] for prompt in prompts], None, {}

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """The next part of the answers at hand; new ones where all have been learnt from.

        They are taken in the order of their prompts, where TRL shuffles them: so a rank's part is
        of the part that one process would take.
        """
        parts: int = self.args.steps_per_generation
        if self._taken is None:
            self._taken = self.state.global_step * self.args.gradient_accumulation_steps
        if not self._parts or self._taken % (parts * self.args.num_iterations) == 0:
            self._parts = split_tensor_dict(self._generate_and_score_completions(inputs), parts)  # type: ignore[attr-defined]
        found = self._parts[self._taken % parts]
        self._taken += 1
        return found

    def _generate_single_turn(self, prompt_ids: list[list[int]], *given: Any, **named: Any) -> Any:
        assert self._taken is not None
        self.sampled += len(prompt_ids)
        step = self._taken // self.args.steps_per_generation // self.args.num_iterations
        dealt_out = draws(self.args.seed, step, self.prepared.places)
        with dealt(self.bare_model, dealt_out):
            return super()._generate_single_turn(prompt_ids, *given, **named)  # type: ignore[misc]

    def mean_over_tokens(self, own: float, mask: Tensor) -> float:
        """The mean over the answers' tokens of all ranks, where `own` is that over those of `mask`,
        which are this process's.
        """
        count = mask.sum().item()
        sums = self.over_ranks(torch.tensor([[own * count, count]], dtype=torch.float64)).sum(dim=0)
        return float(sums[0] / sums[1].clamp(min=1))


def built(
    kind: type[RolloutTrainer], prepared: Prepared, checkpoints: Path, watch: Watch
) -> RolloutTrainer:
    """A trainer of a kind over the prompts in their final order."""
    trainer = kind(
        prepared=prepared,
        model=prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints, shuffle_dataset=False),
        processing_class=tokenizer_of(prepared),
    )
    settle_reference(prepared, trainer.ref_model)
    return trainer


def rows(prepared: Prepared) -> Dataset:
    """One row a prompt, in the final order."""
    return Dataset.from_list(
        [{"prompt": str(at), "record": row.record} for at, row in enumerate(prepared.laid_out)]
    )


def reward_function(scorer: Scorer) -> Any:
    """A reward as TRL calls one."""

    def score(*, completions: list[str], record: list[int], **_: Any) -> list[float]:
        return scorer.score(record, completions)

    score.__name__ = scorer.name
    return score
