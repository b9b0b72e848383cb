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
    that are kept beside the loss and must be finite.
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
        ),
        Objective(
            "kto",
            "good answers over the reference, bad ones under it (Ethayarajh et al. 2024)",
            "judgement",
            "trl.KTOConfig",
            5e-5,
            reference=True,
            watched=("kl",),
        ),
        Objective(
            "orpo",
            "the chosen answer, and its odds over the rejected one's (Hong et al. 2024)",
            "preference",
            "trl.experimental.orpo.ORPOConfig",
            5e-5,
            watched=PAIRED,
        ),
        Objective(
            "reward",
            "a score that ranks the chosen answer above the rejected one",
            "preference",
            "trl.RewardConfig",
            1e-4,
            answers=False,
            watched=("accuracy", "margin"),
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
