"""What a run would train on, before anything is spent: the preflight, and records as text.

Builds the dataset as the loop does and loads no model.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from trimtab.flows.lessons import lessons_of
from trimtab.flows.loop import run
from trimtab.flows.settings import settings_of
from trimtab.flows.watch import Silent, Watch
from trimtab.flows.work import Work
from trimtab.project import Project
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat
from trimtab.train.context import context_of
from trimtab.train.objectives import Objective, objective_of
from trimtab.train.preflight import Preflight, preflight
from trimtab.train.rows import Example, Row, Tokens

# What a piece is to the loss: none of its tokens count, they become likelier, or they are what the
# answer is held against.
Kind = Literal["given", "learnt", "against"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens in a row that are alike to the loss, as text."""

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Preview:
    """The whole preflight, and the first rows of it as `pieces`."""

    checked: Preflight
    pieces: tuple[tuple[Piece, ...], ...]


def preview(
    project: Project, home: Home | None = None, *, rows: int = 3, watch: Watch | None = None
) -> Preview:
    """Raises DataError with the record that shows a fault, as training would."""
    outcome = run(project, home, until="data", watch=watch)
    with closing(outcome.home.database()) as database:
        work = Work(project, outcome.home, database, watch or Silent())
        lessons = lessons_of(work.dataset(outcome.outputs).train)
        chat, base = work.chat, work.base.folder
    objective = objective_of(project.train.objective)
    context = context_of(base, settings_of(project))
    section = project.train
    checked = preflight(chat, lessons, section.max_length, objective, context, turns=section.turns)
    shown = checked.examples[:rows]
    return Preview(checked, tuple(tuple(_pieces(chat, row, objective)) for row in shown))


def _pieces(chat: ChatFormat, row: Row, objective: Objective) -> Iterator[Piece]:
    def text(tokens: Tokens) -> str:
        return chat.tokenizer.decode(tokens, keep_special=True)

    if isinstance(row, Example):
        marked = zip(row.tokens, row.mask, strict=True)
        for taught, run_of in groupby(marked, key=lambda pair: pair[1]):
            tokens = tuple(token for token, _ in run_of)
            yield Piece(text(tokens), "learnt" if taught else "given")
        return
    yield Piece(text(row.prompt), "given")
    if objective.rollouts:
        # It learns from answers of its own, which are not made yet.
        return
    yield Piece(text(row.completions[0]), "learnt" if row.good else "against")
    for other in row.completions[1:]:
        yield Piece(text(other), "against")
