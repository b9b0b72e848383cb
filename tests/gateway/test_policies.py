from pathlib import Path

import pytest

from tests.gateway.world import World
from trimtab.gateway.tiers import policies
from trimtab.gateway.tiers.policies import Policy, filled
from trimtab.project import Project, check

HEAD = "name: desk\nbase: tiny\ndata: {sources: [{path: a.jsonl}]}\n"


def project(folder: Path, deploy: str) -> Project:
    file = folder / "trimtab.yaml"
    file.write_text(HEAD + f"deploy: {{{deploy}}}\n")
    return Project.load(file)


def test_what_a_project_says_is_written_down_and_replaced(world: World, tmp_path: Path) -> None:
    with world.database.transaction() as connection:
        policies.declare(connection, project(tmp_path, "deadline_s: 5"))
        assert policies.list(connection) == {"desk": Policy("desk", None, 5.0)}
        policies.declare(connection, project(tmp_path, "safe_template: 'Sorry, $user_id.'"))
        assert policies.list(connection) == {"desk": Policy("desk", "Sorry, $user_id.", 120.0)}


@pytest.mark.parametrize(
    ("deploy", "fault"),
    [
        ("safe_template: 'Hi $name'", "unknown variable '$name'"),
        ("safe_template: 'It costs $ 5'", "has a lone '$'"),
        ("safe_template: ''", "at least 1 character"),
        ("deadline_s: 0", "greater than 0"),
        ("deadline_s: .inf", "finite number"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(tmp_path: Path, deploy: str, fault: str) -> None:
    file = tmp_path / "trimtab.yaml"
    file.write_text(HEAD + f"deploy: {{{deploy}}}\n")
    [found], _ = check(file)
    assert fault in found.message


def test_a_variable_that_is_not_known_is_empty_and_nothing_is_filled_in_twice() -> None:
    assert filled("[$session_id] $user_id", {"user_id": "$reason"}) == "[] $reason"
