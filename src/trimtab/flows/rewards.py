"""The rewards that a project names: rules over the gold answer, a function of its own, or a run.

exact_match, valid_json    as the holdout suite judges
FILE.py:FUNCTION           beside the project; called with the prompt, the answer and the gold
run:ID                     a reward model that this home has trained
judge:RUBRIC.txt           the base itself, asked whether an answer meets what the file says
"""

import asyncio
import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import DataError, ProjectError
from trimtab.evaluate.grader import Grader
from trimtab.evaluate.judge import exact_match, gold_fields, valid_json
from trimtab.flows.work import Work
from trimtab.inference import VersionFiles
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.run import RunFolder, RunResult

RULES = ("exact_match", "valid_json")
JUDGE = "judge:"
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
    if name.startswith(JUDGE):
        return content_hash([JUDGE, _rubric(work, name), work.base.hash])
    file, function = _place(work, name)
    return content_hash([hashlib.sha256(file.read_bytes()).hexdigest(), function])


def _reward(work: Work, name: str) -> Reward:
    identity = _identity(work, name)
    if name in RULES:
        return Reward(name, identity, _by_rule(_rule(work, name)))
    if name.startswith("run:"):
        from trimtab.train.online.reward_model import RewardModel

        model = RewardModel(work.base.folder, _run(work, name).adapter, work.chat)
        return model.reward("reward_model", identity)
    if name.startswith(JUDGE):
        return Reward("judge", identity, _by_judge(work, _rubric(work, name)))
    file, function = _place(work, name)
    return Reward(
        function, identity, _by_function(_load(file, function), f"{file.name}:{function}")
    )


def _rule(work: Work, name: str) -> Rule:
    match = work.project.evaluate.match
    if name == "exact_match":
        return lambda answer, gold: float(exact_match(answer, gold, match))
    return lambda answer, gold: float(
        valid_json(answer, frozenset(gold_fields("reward", gold, match)))
    )


def _by_rule(rule: Rule) -> Callable[[Sequence[Rollout]], list[float]]:
    return lambda rollouts: [rule(each.answer, each.gold) for each in rollouts]


def _rubric(work: Work, name: str) -> str:
    file = work.project.root / name.removeprefix(JUDGE)
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if not found:
        raise ProjectError(
            f"train.rewards: {name!r} names no rubric",
            hint="a text beside the project that says what a good answer is: judge:rubric.txt",
        )
    return found


def _by_judge(work: Work, rubric: str) -> Callable[[Sequence[Rollout]], list[float]]:
    """Grades of the base, by its engine: a process beside the training."""
    folder, engine = work.base.folder, work.engine(work.base)
    files = VersionFiles("judge", folder, None, folder, work.chat.stop_tokens())
    asyncio.run(engine.load(files))
    grader = Grader(engine, files.version, work.chat, rubric)
    return lambda rollouts: asyncio.run(grader.grades([(r.prompt, r.answer) for r in rollouts]))


def _by_function(
    function: Callable[..., Any], name: str
) -> Callable[[Sequence[Rollout]], list[float]]:
    def number(each: Rollout) -> float:
        prompt = "\n".join(message.content for message in each.prompt)
        try:
            return float(function(prompt, each.answer, each.gold))
        except (Exception, SystemExit) as error:
            raise DataError(
                f"train.rewards: {name} failed on training record {each.record}: {_said(error)}",
                hint="a reward function returns one finite number",
            ) from error

    return lambda rollouts: [number(each) for each in rollouts]


def _place(work: Work, name: str) -> tuple[Path, str]:
    path, _, function = name.partition(":")
    file = work.project.root / path
    if not path.endswith(".py") or not function or not file.is_file():
        raise ProjectError(
            f"train.rewards: {name!r} gives no reward",
            hint=f"known: {', '.join(RULES)}, FILE.py:FUNCTION or judge:FILE beside it, run:ID",
        )
    return file, function


def _load(file: Path, function: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ProjectError(
            f"train.rewards: {file.name} cannot be loaded: {_said(error)}",
            hint="mend it; python FILE shows the whole trace",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ProjectError(
            f"train.rewards: {file.name} has no function '{function}'",
            hint="def reward(prompt, answer, gold): return a number",
        )
    return found  # type: ignore[no-any-return]


def _said(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _run(work: Work, name: str) -> RunFolder:
    wanted = name.removeprefix("run:")
    runs = [path for path in work.home.runs.iterdir() if wanted and path.name.startswith(wanted)]
    if len(runs) != 1:
        raise DataError(
            f"train.rewards: {len(runs)} runs of this home begin with '{wanted}'",
            hint="train the reward model first: trimtab train prints its run",
        )
    run = RunFolder(runs[0])
    if reason := _why_no_reward_model(work, run):
        raise DataError(
            f"train.rewards: run {run.path.name[:12]} {reason}",
            hint="train a reward model of this base: train.objective: reward",
        )
    return run


def _why_no_reward_model(work: Work, run: RunFolder) -> str:
    if RunResult.load(run.path) is None:
        return "is not done"
    objective = run.asked()["settings"]["objective"]
    if objective != "reward":
        return f"learnt by {objective}, and is no reward model"
    if not run.base.is_file() or json.loads(run.base.read_bytes())["hash"] != work.base.hash:
        return "is not known to stand on this project's base"
    return ""
