import json
from pathlib import Path
from typing import Any

from benchmarks.machine import head

from tests.campaigns import FOLDER, record, told
from tests.train.launch_campaign import MODES, keep


def test_a_violation_does_not_hide_the_last_passing_commit(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    record("crash", 1, {"rounds": 2, "kills": 30}, tmp_path)
    assert told(tmp_path)[0].endswith(
        "1 violations at {commit} ({date}); never passed".format(**head())
    )
    file = record("crash", 0, {"rounds": 2, "kills": 31}, tmp_path)
    file.write_text(file.read_text().replace(head()["commit"], "0000000"))
    record("crash", 3, {"rounds": 2, "kills": 32}, tmp_path)
    [line] = told(tmp_path)
    assert line.startswith("crash: 2 rounds, 32 kills, 3 violations at ")
    assert f"last passed at 0000000 ({head()['date']})" in line


def test_the_campaigns_of_the_documentation_can_be_told() -> None:
    for file, line in zip(sorted(FOLDER.glob("*.json")), told(), strict=True):
        assert json.loads(file.read_text())["commit"] in line


def test_launchers_that_were_not_tried_are_counted_and_a_part_is_no_pass(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        mode.name: {"mode": mode.name, "reason": "", "violation": ""} for mode in MODES
    }
    few = dict(list(rows.items())[:3])
    unfit = rows | {MODES[-1].name: {"reason": "ray is not installed", "violation": ""}}
    for found, part, absent, passed in (
        (few, False, len(MODES) - 3, False),
        (unfit, False, 1, False),
        (rows, True, 0, False),
        (rows, False, 0, True),
        # What passed last is not forgotten.
        (few, True, len(MODES) - 3, True),
    ):
        assert keep(found, part, tmp_path) == 0
        written = json.loads((tmp_path / "distributed.json").read_text())
        assert written["counts"] == {"modes": len(MODES) - absent, "modes not run": absent}
        assert (written["last_passing"] is not None) == passed
