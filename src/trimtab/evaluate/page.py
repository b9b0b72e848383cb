"""The page of a finished run: one HTML file that needs no network and no script.

Shows what others measured and decided; all it chooses is the examples, by a rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trimtab.evaluate.examples import Examples, choose_examples
from trimtab.evaluate.forest import forest_svg
from trimtab.evaluate.gate import Gate
from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.items import Item
from trimtab.evaluate.performance import PerformanceItem
from trimtab.evaluate.report import Report
from trimtab.evaluate.safety import SafetyItem
from trimtab.page import template

TONES = {"better": "good", "not worse": "good", "cannot tell": "unsure", "worse": "bad"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one version measured, with or without shots."""

    name: str
    holdout: Report[HoldoutItem]
    safety: Report[SafetyItem] | None = None
    performance: Report[PerformanceItem] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a run has to show.

    The first of `rows` is the incumbent and the last one the candidate. `headline` and `why` say
    what is live and why; `curve` is an SVG; `dropped` counts records by reason; `plan` holds rows
    with equal columns; `lineage` pairs a name with a hash, in the order of the loop.
    """

    project: str
    headline: str
    why: str
    gate: Gate
    rows: Sequence[Row]
    items: Sequence[Item]
    curve: str
    dropped: Mapping[str, int]
    plan: Sequence[Mapping[str, str]]
    lineage: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """The whole page; everything that came from data is escaped, the two pictures are ours."""
    examples = choose_examples(page.items, page.rows[0].holdout.items, page.rows[-1].holdout.items)
    return template("trimtab.evaluate", "page.html").render(
        page=page,
        gate=page.gate,
        tone=TONES[page.gate.verdict],
        forest=_forest(page.gate),
        examples=examples.chosen,
        examples_note=_examples_note(examples, page.rows[0].name, page.rows[-1].name),
        safety=[(row.name, row.safety.summary) for row in page.rows if row.safety],
        curve=Markup(page.curve),
    )


def _forest(gate: Gate) -> Markup | None:
    found = gate.findings.holdout
    if found.low is None or found.high is None:
        return None
    share = gate.evidence["measure"] == "exact_match"
    scale, unit = (100.0, "points") if share else (1.0, "nat an item")
    return Markup(forest_svg(found.low * scale, found.difference * scale, found.high * scale, unit))


def _examples_note(examples: Examples, first: str, last: str) -> str:
    return (
        f"Against {first}, {last} gains {examples.gained} items and loses {examples.lost}; both are"
        f" right on {examples.both_right} and wrong on {examples.both_wrong}. Items of each kind"
        " are shown in turn, in the order of their hashes."
    )
