"""What a project may name as a reward, and whose fault it is where it gives none."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from tests.tiny import build_base
from tests.tiny_project import write_pairs, write_project
from trimtab.errors import DataError, ProjectError, UserError
from trimtab.flows import loop
from trimtab.flows.loop import Outcome, run
from trimtab.flows.rewards import identities, rewards_of
from trimtab.flows.watch import Silent
from trimtab.flows.work import Work
from trimtab.inference import Message
from trimtab.ledger.money import nano
from trimtab.ledger.own import spent
from trimtab.project import Project
from trimtab.store.home import find_home
from trimtab.train.online.rewards import Rollout, scores
from trimtab.train.run import RunFolder, write_json

ROLLOUTS = [Rollout((Message("user", "why?"),), "so", "thus", record) for record in (4, 7)]


@contextmanager
def working(project: Project) -> Iterator[Work]:
    with ExitStack() as stack:
        home = find_home(None, project.root)
        database = home.database()
        stack.callback(database.close)
        yield Work(project, home, database, Silent(), stack)


def naming(project: Project, reward: str) -> Project:
    return project.model_copy(
        update={"train": project.train.model_copy(update={"rewards": [reward]})}
    )


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A reward model, trained by the loop."""
    folder = tmp_path_factory.mktemp("ranked")
    train = {"objective": "reward", "epochs": 0.2, "batch_size": 4, "rank": 2, "usd_hour": 36}
    project = Project.load(write_project(folder, train=train))
    write_pairs(folder / "tickets.jsonl", 40)
    return run(project, until="train")


def test_its_training_is_paid_once_by_whichever_release(
    ranked: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = nano(Decimal(str(ranked.outputs["train"]["usd"])))
    assert paid > 0
    monkeypatch.setattr(loop, "__version__", "another")
    again = run(ranked.project, ranked.home, until="train")
    assert again.outputs["train"]["run"] == ranked.outputs["train"]["run"]
    with closing(ranked.home.database()) as database, database.read() as connection:
        assert spent(connection, "tiny") == {"training": paid}


def test_a_reward_model_of_this_home_is_a_reward(ranked: Outcome) -> None:
    name = f"run:{ranked.outputs['train']['run'][:8]}"
    with working(naming(ranked.project, name)) as work:
        [reward] = rewards_of(work)
        [one, other] = scores(reward, ROLLOUTS)
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("result", "is not done"),
        ("objective", "learnt by sft, and is no reward model"),
        ("base", "not known to stand on this project's base"),
    ],
)
def test_a_run_that_is_no_reward_model_of_this_base_is_refused(
    ranked: Outcome, broken: str, message: str
) -> None:
    name = ranked.outputs["train"]["run"]
    files = RunFolder(ranked.home.runs / name)
    project = naming(ranked.project, f"run:{name}")
    if broken == "base":
        build_base(project.root / "another", seed=3)
        project = project.model_copy(update={"base": "another"})
    changed = files.result if broken == "result" else files.path / "settings.json"
    kept = changed.read_bytes()
    if broken == "result":
        changed.unlink()
    if broken == "objective":
        content = json.loads(kept)
        write_json(changed, content | {"settings": content["settings"] | {"objective": "sft"}})
    try:
        with working(project) as work, pytest.raises(DataError, match=message):
            rewards_of(work)
    finally:
        changed.write_bytes(kept)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("bare")
    content = {"name": "bare", "base": "base", "data": {"sources": [{"path": "a.jsonl"}]}}
    (folder / "trimtab.yaml").write_text(yaml.safe_dump(content))
    return Project.load(folder / "trimtab.yaml")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def score(:", r"mine.py cannot be loaded: SyntaxError: .*line 1"),
        ("import nothing_of_that_name", "mine.py cannot be loaded: ModuleNotFoundError"),
        ("import sys; sys.exit(0)", "mine.py cannot be loaded: SystemExit"),
        ("def score(prompt, answer, gold): exit(3)", "record 4: SystemExit"),
        ("score = 3", "mine.py has no function 'score'"),
        ("def score(prompt, answer, gold): pass", "mine.py:score failed on training record 4"),
        ("def score(prompt, answer, gold): return 1 / 0", "record 4: ZeroDivisionError"),
        ("def score(prompt, answer): return 1", "record 4: TypeError"),
        ("def score(prompt, answer, gold): return float('nan')", "'score' gave .nan, nan. for 2"),
    ],
)
def test_the_fault_of_a_reward_function_is_told_as_its_own(
    bare: Project, code: str, message: str
) -> None:
    (bare.root / "mine.py").write_text(code)
    with working(naming(bare, "mine.py:score")) as work, pytest.raises(UserError, match=message):
        scores(rewards_of(work)[0], ROLLOUTS)


def test_a_function_beside_the_project_is_a_reward(bare: Project) -> None:
    code = "def score(prompt, answer, gold): return len(prompt) + len(answer) - len(gold)"
    (bare.root / "mine.py").write_text(code)
    with working(naming(bare, "mine.py:score")) as work:
        [reward] = rewards_of(work)
    assert scores(reward, [ROLLOUTS[0], replace(ROLLOUTS[1], answer="so so")]) == [2, 5]


@pytest.mark.parametrize("name", ["nothing", "absent.py:score", "mine.py", "run:absent"])
def test_a_name_that_gives_no_reward_is_refused(bare: Project, name: str) -> None:
    (bare.root / "mine.py").write_text("")
    with working(naming(bare, name)) as work, pytest.raises((ProjectError, DataError)):
        rewards_of(work)


def test_the_base_judges_by_a_rubric_beside_the_project(tmp_path: Path) -> None:
    project = naming(Project.load(write_project(tmp_path, 20)), "judge:rubric.txt")
    with working(project) as work, pytest.raises(ProjectError, match="names no rubric"):
        rewards_of(work)
    (tmp_path / "rubric.txt").write_text("A good answer is polite.")
    with working(project) as work:
        [reward] = rewards_of(work)
        found = scores(reward, [ROLLOUTS[0], replace(ROLLOUTS[0], answer="We are sorry.")])
    assert all(0 < grade < 1 for grade in found)
    assert found[0] != found[1]
    (tmp_path / "rubric.txt").write_text("A good answer is short.")
    with working(project) as work:
        assert identities(work) != [reward.identity]
