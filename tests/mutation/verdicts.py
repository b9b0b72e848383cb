"""What became of every mutant, as mutmut wrote it down beside the mutated files."""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

# How the process ended in which a mutant was tested: a test failed, or pytest itself broke; or it
# was ended because it took too long (SIGXCPU).
KILLED, TIMED_OUT = (1, 3), -24


class Verdicts:
    """Of the mutants under a folder, by name."""

    def __init__(self, mutants: Path) -> None:
        self._mutants = mutants

    def timed_out(self) -> list[str]:
        """Those that took too long, perhaps because the machine had no time for them."""
        return sorted(
            name for _, codes in self._files() for name in codes if codes[name] == TIMED_OUT
        )

    def counts(self, hanging: Collection[str]) -> dict[str, int]:
        """How many there are, and how they ended. Those that timed out are `hanging` where they did
        so again, alone, and else as if they had not been tried."""
        sums = sum((self._file(codes, hanging) for _, codes in self._files()), Counter[str]())
        kinds = ("mutants", "killed", "hanging", "survived", "not tried")
        return {kind: sums[kind] for kind in kinds}

    def by_file(self, hanging: Collection[str]) -> dict[str, dict[str, int]]:
        """The same, for each file that was mutated."""
        return {name: dict(self._file(codes, hanging)) for name, codes in self._files()}

    def forget_the_living(self) -> None:
        """Have all mutants tried again that no test has killed."""
        for file in self._mutants.rglob("*.py.meta"):
            try:
                found = json.loads(file.read_text())
            except ValueError:
                file.unlink()  # cut off by an interruption
                continue
            codes = found["exit_code_by_key"]
            found["exit_code_by_key"] = {
                name: code if code in KILLED else None for name, code in codes.items()
            }
            file.write_text(json.dumps(found))

    def _files(self) -> Iterator[tuple[str, dict[str, int | None]]]:
        for file in sorted(self._mutants.rglob("*.py.meta")):
            codes = json.loads(file.read_text())["exit_code_by_key"]
            if codes:
                yield f"{file.parent.name}/{file.name.removesuffix('.py.meta')}", codes

    @staticmethod
    def _file(codes: dict[str, int | None], hanging: Collection[str]) -> Counter[str]:
        def verdict(name: str, code: int | None) -> str:
            if code == TIMED_OUT and name in hanging:
                return "hanging"
            if code is None or code == TIMED_OUT:
                return "not tried"
            return "killed" if code in KILLED else "survived"

        return Counter(mutants=len(codes)) + Counter(
            verdict(name, code) for name, code in codes.items()
        )
