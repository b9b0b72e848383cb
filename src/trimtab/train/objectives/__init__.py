"""Objectives: what is optimised. One file an objective; this table says what is true of each.

Importing the table imports no torch: the data, the plan, the project and the command line read it
too. The module of an objective, `trimtab.train.objectives.NAME`, builds its trainer.
"""

from dataclasses import dataclass
from typing import Literal

from trimtab.errors import ProjectError

Needs = Literal["answer", "preference", "judgement", "prompt"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is true of an objective.

    `needs` is what a record must hold; `config` TRL's configuration of it, whose fields
    `train.extra` may set; `rate` the learning rate of LoRA where the project sets none (other
    methods take it times their `pace`); `reference`: it is held near the base; `rollouts`: it
    learns from answers of its own; `answers`: what is trained answers prompts; `watched`: metrics
    that are kept beside the loss and must be finite; `rows`: answers to a prompt that a record
    brings; `forwards`: passes beside the one that learns, in passes without gradients.
    """

    name: str
    about: str
    needs: Needs
    config: str
    rate: float
    reference: bool = False
    rollouts: bool = False
    answers: bool = True
    watched: tuple[str, ...] = ()
    rows: int = 1
    forwards: int = 0


PAIRED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
SFT = Objective("sft", "the answer, given the prompt", "answer", "trl.SFTConfig", 2e-4)
OBJECTIVES = {
    objective.name: objective
    for objective in (
        SFT,
        Objective(
            "dpo",
            "the chosen answer over the rejected one (Rafailov et al. 2023)",
            "preference",
            "trl.DPOConfig",
            5e-5,
            reference=True,
            watched=PAIRED,
            rows=2,
            forwards=1,
        ),
        Objective(
            "kto",
            "good answers over the reference, bad ones under it (Ethayarajh et al. 2024)",
            "judgement",
            "trl.KTOConfig",
            5e-5,
            reference=True,
            watched=("kl",),
            # The reference, and both again on answers behind another prompt.
            forwards=3,
        ),
        Objective(
            "orpo",
            "the chosen answer, and its odds over the rejected one's (Hong et al. 2024)",
            "preference",
            "trl.experimental.orpo.ORPOConfig",
            5e-5,
            watched=PAIRED,
            rows=2,
        ),
        Objective(
            "reward",
            "a score that ranks the chosen answer above the rejected one",
            "preference",
            "trl.RewardConfig",
            1e-4,
            answers=False,
            watched=("accuracy", "margin"),
            rows=2,
        ),
        Objective(
            "grpo",
            "answers above the others to the same prompt (Shao et al. 2024)",
            "prompt",
            "trl.GRPOConfig",
            1e-5,
            rollouts=True,
            watched=("reward",),
        ),
        Objective(
            "rloo",
            "answers above the mean of the others (Ahmadian et al. 2024)",
            "prompt",
            "trl.RLOOConfig",
            1e-5,
            reference=True,
            rollouts=True,
            watched=("reward", "kl"),
            # The policy before the step, and the reference.
            forwards=2,
        ),
        Objective(
            "ppo",
            "answers above what a value head expects (Schulman et al. 2017)",
            "prompt",
            "trimtab.train.objectives.ppo.PPOConfig",
            1e-5,
            reference=True,
            rollouts=True,
            watched=("reward", "kl", "value_loss"),
            # The policy and the values before the step, the reference; and the values once more
            # with gradients, which is twice a pass without.
            forwards=5,
        ),
    )
}


def objective_of(name: str) -> Objective:
    """Raises ProjectError for a name that is no objective."""
    if name not in OBJECTIVES:
        raise ProjectError(
            f"train.objective: no objective {name!r}", hint=f"objectives: {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[name]
