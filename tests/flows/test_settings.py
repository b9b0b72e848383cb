"""What training is asked, of a project and its plan."""

from pathlib import Path

import yaml

from trimtab.flows.settings import planned
from trimtab.project import Project
from trimtab.train.launchers import Launch


def test_a_run_on_several_machines_ends_within_its_budget_for_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.yaml"
    content = {"name": "desk", "base": "some/model", "data": {"sources": [{"path": "a.jsonl"}]}}
    file.write_text(yaml.safe_dump(content | {"train": {"usd_hour": 3.6, "budget_usd": 1}}))
    project = Project.load(file)
    workers = Launch("ray", 4)
    one, four = (
        planned(project, {"launch": workers.to_json(), "machines": machines}).limits
        for machines in (1, 4)
    )
    assert planned(project, {"launch": workers.to_json(), "machines": 4}).launch == workers
    assert four.usd(100) == 4 * one.usd(100)
    assert (one.ended(900, 0), four.ended(900, 0)) == ("", "budget")
