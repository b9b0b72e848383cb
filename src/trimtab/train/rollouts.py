"""What GRPO, RLOO and PPO share: prompts that are tokens already, answers of the model's own, and
rewards for them. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from trimtab.train.prepare import Prepared
from trimtab.train.reference import settle_reference
from trimtab.train.rewards import Reward, Rollout, scores
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch import Watch


class RolloutTrainer(SealedTrainer):
    """Mixed in before a trainer of TRL that samples; a prompt is known by its place."""

    prompts: dict[str, list[int]]
    ref_model: PreTrainedModel | None

    def __init__(self, *, prepared: Prepared, **given: Any) -> None:
        self.prompts = {str(at): list(row.prompt) for at, row in enumerate(prepared.laid_out)}
        super().__init__(
            train_dataset=rows(prepared),
            reward_funcs=[reward_function(reward, prepared) for reward in prepared.rewards],
            **given,
        )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompts[prompt] for prompt in prompts], None, {}


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


def reward_function(reward: Reward, prepared: Prepared) -> Any:
    """A reward as TRL calls one."""

    def score(*, completions: list[str], record: list[int], **_: Any) -> list[float]:
        rollouts = [
            Rollout(prepared.lessons[at].prompt, text, prepared.lessons[at].answer, at)
            for at, text in zip(record, completions, strict=True)
        ]
        return scores(reward, rollouts)

    score.__name__ = reward.name
    return score
