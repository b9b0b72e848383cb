"""Which objective goes with which method, and why the others do not. The one place that says so."""

from collections.abc import Sequence
from importlib.util import find_spec

from trimtab.errors import ProjectError
from trimtab.train.launchers import refusals
from trimtab.train.methods import method_of
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import Reward
from trimtab.train.settings import TrainSettings

UNSCORED = {
    "prompt": (
        "a score is read at the last token that is not padding, and behind embedded vectors there "
        "is no telling padding from text"
    ),
    "bottleneck": "a reward model is read back by PEFT, which knows no bottlenecks",
}
# Options of TRL that decide how many steps a run takes, so they are read before TRL reads them.
COUNTED = ("num_generations", "num_iterations", "max_completion_length")

# Of the answers that TRL holds at hand, or made by an engine that draws by no place.
ALONE = (
    "top_entropy_quantile",
    "entropy_coef",
    "use_adaptive_entropy",
    "use_vllm",
    "use_transformers_continuous_batching",
)


def why_not(objective: str, method: str) -> str:
    """Why the pair makes no sense, or cannot be had; empty where it is open."""
    aim, way = objective_of(objective), method_of(method)
    if not aim.answers and not way.frozen:
        return (
            "a reward model is kept beside its base: trained whole it would be a second model of "
            "the same size that answers nothing"
        )
    if not aim.answers and method in ("prompt", "bottleneck"):
        return UNSCORED[method]
    if way.quantised and find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed: pip install 'trimtab[qlora]'"
    return ""


def check(settings: TrainSettings, rewards: Sequence[Reward]) -> None:
    """Raises ProjectError where the settings contradict each other, before anything is loaded."""
    objective = objective_of(settings.objective)
    for name in COUNTED:
        asked = settings.extra.get(name, 1)
        if type(asked) is not int or asked < 1:
            raise ProjectError(
                f"train.extra.{name}: {asked!r} is no whole number of 1 or more", hint=f"{name}: 4"
            )
    if reason := why_not(settings.objective, settings.method):
        raise ProjectError(
            f"train: {settings.objective} by {settings.method}: {reason}",
            hint="set train.method to lora",
        )
    if settings.patience is not None and settings.patience < 1:
        raise ProjectError(
            f"train.patience: {settings.patience} is no number of checkpoints", hint="patience: 2"
        )
    if settings.patience is not None and not settings.validation:
        raise ProjectError("train.patience: no record is held out", hint="set validation: 0.05")
    if objective.rollouts and settings.validation:
        raise ProjectError(
            f"train.patience: {objective.name} learns from its own answers, and has no loss on "
            "records held out",
            hint="leave train.patience out",
        )
    launch = settings.launch
    early = bool(settings.validation)
    for no in refusals(launch, objective.name, settings.method, settings.groups, early):
        raise ProjectError(f"train.launcher: {launch}: {no.reason}", hint=no.hint)
    if alone := next((name for name in ALONE if launch.ranks > 1 and settings.extra.get(name)), ""):
        raise ProjectError(
            f"train.extra.{alone}: TRL computes it among the answers of one process",
            hint="leave it out, or leave train.launcher out",
        )
    if settings.packing and objective.name != "sft":
        raise ProjectError(
            f"train.packing: {objective.name} compares answers, and a row holds one",
            hint="leave train.packing out: what prompts share is computed once without it",
        )
    if settings.turns != "last" and objective.name != "sft":
        raise ProjectError(
            f"train.turns: {objective.name} judges the last answer of a dialogue, and no other",
            hint="leave train.turns out, or set train.objective to sft",
        )
    if objective.rollouts and not rewards:
        raise ProjectError(
            f"train.rewards: {objective.name} needs one at least", hint="e.g. [exact_match]"
        )
    if objective.rollouts and settings.batch_size % settings.generations:
        raise ProjectError(
            f"train.batch_size: {settings.batch_size} answers are not whole groups of "
            f"{settings.generations}",
            hint="set train.extra.num_generations to a divisor of train.batch_size",
        )
    if objective.rollouts and settings.generations < 2:
        raise ProjectError(
            f"train.batch_size: {objective.name} compares two answers to a prompt at least",
            hint="set train.batch_size to 2 or more",
        )
    if objective.name == "kto" and settings.batch_size < 2:
        raise ProjectError(
            "train.batch_size: kto compares the rows of a batch, so it needs 2 at least",
            hint="set train.batch_size to 2 or more",
        )
