"""The rewards that a project names: rules over the gold answer, a function of its own, or a run.

exact_match, valid_json    as the holdout suite judges
FILE.py:FUNCTION           beside the project; called with the prompt, the answer and the gold
run:ID                     a reward model that this home has trained
"""

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import DataError, ProjectError
from trimtab.evaluate.judge import exact_match, gold_fields, valid_json
from trimtab.flows.work import Work
from trimtab.train.rewards import Reward, Rollout
from trimtab.train.run import RunFolder

RULES = ("exact_match", "valid_json")
Rule = Callable[[str, str], float]


def rewards_of(work: Work) -> list[Reward]:
    """Raises ProjectError for a name that gives no reward."""
    return [_reward(work, name) for name in work.project.train.rewards]


def identities(work: Work) -> list[str]:
    """What makes each reward this one, without loading a model."""
    return [_identity(work, name) for name in work.project.train.rewards]


def _identity(work: Work, name: str) -> str:
    if name in RULES:
        return content_hash([name, work.project.evaluate.match])
    if name.startswith("run:"):
        return content_hash([name, str(_run(work, name).path.name)])
    file, function = _place(work, name)
    return content_hash([hashlib.sha256(file.read_bytes()).hexdigest(), function])


def _reward(work: Work, name: str) -> Reward:
    identity = _identity(work, name)
    if name in RULES:
        return Reward(name, identity, _by_rule(_rule(work, name)))
    if name.startswith("run:"):
        from trimtab.train.reward_model import RewardModel

        model = RewardModel(work.base.folder, _run(work, name).adapter, work.chat)
        return model.reward("reward_model", identity)
    file, function = _place(work, name)
    return Reward(function, identity, _by_function(_load(file, function)))


def _rule(work: Work, name: str) -> Rule:
    match = work.project.evaluate.match
    if name == "exact_match":
        return lambda answer, gold: float(exact_match(answer, gold, match))
    return lambda answer, gold: float(
        valid_json(answer, frozenset(gold_fields("reward", gold, match)))
    )


def _by_rule(rule: Rule) -> Callable[[Sequence[Rollout]], list[float]]:
    return lambda rollouts: [rule(each.answer, each.gold) for each in rollouts]


def _by_function(function: Callable[..., Any]) -> Callable[[Sequence[Rollout]], list[float]]:
    def score(rollouts: Sequence[Rollout]) -> list[float]:
        return [
            float(function("\n".join(m.content for m in each.prompt), each.answer, each.gold))
            for each in rollouts
        ]

    return score


def _place(work: Work, name: str) -> tuple[Path, str]:
    path, _, function = name.partition(":")
    file = work.project.root / path
    if not path.endswith(".py") or not function or not file.is_file():
        raise ProjectError(
            f"train.rewards: {name!r} gives no reward",
            hint=f"known: {', '.join(RULES)}, FILE.py:FUNCTION beside the project, run:ID",
        )
    return file, function


def _load(file: Path, function: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise ProjectError(
            f"train.rewards: {file.name} has no function '{function}'",
            hint="def reward(prompt, answer, gold): return a number",
        )
    return found  # type: ignore[no-any-return]


def _run(work: Work, name: str) -> RunFolder:
    wanted = name.removeprefix("run:")
    runs = [path for path in work.home.runs.iterdir() if wanted and path.name.startswith(wanted)]
    if len(runs) != 1:
        raise DataError(
            f"train.rewards: {len(runs)} runs of this home begin with '{wanted}'",
            hint="train the reward model first: trimtab train prints its run",
        )
    return RunFolder(runs[0])
