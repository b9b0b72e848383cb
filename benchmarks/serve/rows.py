"""What a run found, row by row, as the file has it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.serve.cases import Measured

UNITS = {"output_tok_s": "tokens/s", "requests_s": "requests/s", "shed": "share", "held": "share"}


@dataclass
class Rows:
    """Figures by (system, case, figure), a value a round."""

    precisions: dict[str, str] = field(default_factory=dict)
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    absent: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def note(self, system: str, measured: Measured) -> None:
        for figure, value in measured.figures.items():
            self.values.setdefault((system, measured.case, figure), []).append(value)
        if measured.reason:
            self.absent[system, measured.case, "output_tok_s"] = measured.reason

    def rows(self) -> Iterator[dict[str, Any]]:
        for (system, case, figure), values in self.values.items():
            yield self._row(system, case, figure, median(values), values)
        for (system, case, figure), reason in self.absent.items():
            if (system, case, figure) not in self.values:
                yield {**self._row(system, case, figure, None, []), "reason": reason}

    def _row(
        self, system: str, case: str, figure: str, value: float | None, values: list[float]
    ) -> dict[str, Any]:
        return {
            "system": system,
            "case": case,
            "figure": figure,
            "value": None if value is None else round(value, 4),
            "unit": UNITS.get(figure, "ms" if figure.endswith("_ms") else "share"),
            "repetitions": [round(each, 4) for each in values],
            "precision": self.precisions.get(system, "n/a"),
        }
