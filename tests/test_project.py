from pathlib import Path

import pytest
import yaml

from trimtab.canonical import canonical_json
from trimtab.errors import ProjectError
from trimtab.project import Project, check, find

WHOLE = {"name": "desk", "base": "some/model", "data": {"sources": [{"path": "a.jsonl"}]}}


def write(folder: Path, content: object) -> Path:
    file = folder / "trimtab.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def test_three_fields_are_enough(tmp_path: Path) -> None:
    project = Project.load(write(tmp_path, WHOLE))
    assert (project.name, project.deployment, project.train.method) == ("desk", "desk", "lora")
    assert project.root == tmp_path


def test_a_hub_source_is_told_from_a_path(tmp_path: Path) -> None:
    hub = WHOLE | {"data": {"sources": [{"hub": "tatsu-lab/alpaca", "split": "train[:1%]"}]}}
    source = Project.load(write(tmp_path, hub)).data.sources[0]
    assert source.model_dump() == {"hub": "tatsu-lab/alpaca", "split": "train[:1%]"}


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"trian": {}}, "unknown field 'trian'", "did you mean 'train'?"),
        ({"train": {"rnak": 3}}, "unknown field 'train.rnak'", "did you mean 'rank'?"),
        ({"train": {"rank": 0}}, "field 'train.rank'", ""),
        ({"train": {"rank": "8"}}, "field 'train.rank'", ""),
        ({"data": {"sources": []}}, "field 'data.sources'", ""),
        ({"data": {"sources": [{"pth": "x"}]}}, "unknown field 'data.sources.0.pth'", "'path'?"),
        (
            {"data": {"sources": [{"path": "a"}, {"hub": "x/y", "splt": "z"}]}},
            "unknown field 'data.sources.1.splt'",
            "'split'?",
        ),
        ({"data": {"sources": ["a.jsonl"]}}, "field 'data.sources.0' is no group", "path"),
        ({"train": 3}, "field 'train' is no group", ""),
        ({"train": {"epochs": float("inf")}}, "field 'train.epochs'", ""),
        ({"deploy": {"name": "a/b"}}, "field 'deploy.name'", ""),
        ({"evaluate": {"suites": ["safety"]}}, "holdout suite decides", ""),
        ({"name": "Not A Name"}, "field 'name'", ""),
        ({"base": None}, "field 'base'", ""),
        ({"serve": {"vllm_url": "http://host:8000"}}, "a server at a URL needs a price", ""),
        ({"serve": {"price": {"promt": 1}}}, "unknown field 'serve.price.promt'", "'prompt'?"),
        (
            {"serve": {"price": {"prompt": 1, "completion": 1, "cached": 2}}},
            "a cached token would cost more",
            "",
        ),
        ({"serve": {"vllm_url": "http://me:key@host"}}, "field 'serve.vllm_url'", ""),
        ({"serve": {"vllm_url": "http://h", "vllm_env": "e"}}, "names two engines", ""),
        ({"sweep": {"over": {"train.lerning_rate": [1]}}}, "is nothing to try", "'train.learning_"),
        ({"sweep": {"over": {"train.rank": [8, "16"]}}}, "'sweep.over.train.rank': input", "init"),
        ({"sweep": {"over": {"train.rank": []}}}, "field 'sweep.over.train.rank'", ""),
        ({"sweep": {"ovr": {}}}, "unknown field 'sweep.ovr'", "'over'?"),
        ({"serve": {"vllm_env": "e", "quantisation": "int8"}}, "leave quantisation out", ""),
    ],
)
def test_a_fault_names_its_field(
    tmp_path: Path, change: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        Project.load(write(tmp_path, WHOLE | change))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_every_fault_is_found_at_once(tmp_path: Path) -> None:
    faults, project = check(write(tmp_path, {"name": "x", "train": {"rnak": 1, "epochs": "two"}}))
    assert project is None
    assert len(faults) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no project"), ("a: [1", ":1: "), ("- 1\n", "holds no project")],
)
def test_what_is_no_project_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Project.load(write(tmp_path, content))


def test_a_number_needs_no_dot(tmp_path: Path) -> None:
    text = yaml.safe_dump(WHOLE) + "train: {learning_rate: 2e-4, alpha: 1.5e+1}\n"
    train = Project.load(write(tmp_path, text)).train
    assert (train.learning_rate, train.alpha) == (2e-4, 15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nbase: b\nname: c\n", ":3: 'name' stands twice"),
        ("train:\n  rank: 8\n  rank: 16\n", ":3: 'rank' stands twice"),
        ("[" * 3000, "nested too deep"),
        ("? [a]\n: b\n", ":1: "),
    ],
)
def test_yaml_that_would_be_read_as_something_else_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        Project.load(write(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trimtab.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ProjectError, match="not UTF-8 at byte 6"):
        Project.load(tmp_path)


def test_the_nearest_project_upwards_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, WHOLE)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find() == file


def test_no_project_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match=r"no trimtab.yaml"):
        find()
    with pytest.raises(ProjectError, match="no such file"):
        Project.load(tmp_path / "missing.yaml")


def test_a_default_that_is_written_out_changes_nothing() -> None:
    """Runs and steps are known by hashes over these fields, in which 32 and 32.0 differ."""
    least = {"name": "x", "base": "b", "data": {"sources": [{"path": "a"}]}}
    short = Project.model_validate(least).model_dump(mode="json")
    assert canonical_json(Project.model_validate(short).model_dump(mode="json")) == canonical_json(
        short
    )
