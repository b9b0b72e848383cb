"""Long test campaigns: what the last one of each kind found, in docs/campaigns/NAME.json.

A file keeps the last commit without a violation, so that a later failure does not hide it.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, head

FOLDER = ROOT / "docs" / "campaigns"


def record(
    name: str,
    violations: int,
    counts: dict[str, int],
    folder: Path = FOLDER,
    figures: dict[str, Any] | None = None,
    whole: bool = True,
) -> Path:
    """Write what a campaign found at this commit; `counts` are what it did, by name, and `figures`
    what it measured. One that is not `whole` says nothing of the last that passed.
    """
    file, now = folder / f"{name}.json", head()
    if violations or not whole:
        passed = json.loads(file.read_text())["last_passing"] if file.exists() else None
    else:
        passed = {"commit": now["commit"], "date": now["date"]}
    found = {**now, "counts": counts, "violations": violations, "last_passing": passed}
    if figures is not None:
        found["figures"] = figures
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n")
    return file


def told(folder: Path = FOLDER) -> list[str]:
    """One line a campaign, for the end of a test run."""
    return [
        _line(file.stem, json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))
    ]


def _line(name: str, found: dict[str, object]) -> str:
    counts = found["counts"]
    assert isinstance(counts, dict)
    did = ", ".join(f"{count} {what}" for what, count in counts.items())
    line = f"{name}: {did}, {found['violations']} violations at {found['commit']} ({found['date']})"
    passed = found["last_passing"]
    if not isinstance(passed, dict):
        return f"{line}; never passed"
    return f"{line}; last passed at {passed['commit']} ({passed['date']})"
