"""A mutant counts as killed if a test failed, or if it hangs; not where it was merely slow."""

import json
from pathlib import Path

from tests.mutation.verdicts import Verdicts


def test_what_timed_out_counts_only_where_it_did_so_again(tmp_path: Path) -> None:
    codes = {"failed": 1, "broke": 3, "slow": -24, "passed": 0, "untested": 33, "left": None}
    (tmp_path / "ledger").mkdir()
    file = tmp_path / "ledger" / "till.py.meta"
    file.write_text(json.dumps({"exit_code_by_key": codes, "more": 1}))
    (tmp_path / "ledger" / "tables.py.meta").write_text(json.dumps({"exit_code_by_key": {}}))
    verdicts = Verdicts(tmp_path)
    assert verdicts.timed_out() == ["slow"]
    counts = {"mutants": 6, "killed": 2, "hanging": 0, "survived": 2, "not tried": 2}
    assert verdicts.counts([]) == counts
    assert verdicts.counts(["slow"]) == counts | {"hanging": 1, "not tried": 1}
    assert verdicts.by_file(["slow"]) == {
        "ledger/till": {"mutants": 6, "killed": 2, "hanging": 1, "survived": 2, "not tried": 1}
    }
    verdicts.forget_the_living()
    kept = json.loads(file.read_text())
    assert kept["more"] == 1
    assert [name for name, code in kept["exit_code_by_key"].items() if code] == ["failed", "broke"]
    file.write_text('{"exit_code')
    verdicts.forget_the_living()
    assert not file.exists()
