"""A sweep as people read it: the trials from best to worst, and a page with their curves."""

from pathlib import Path

import yaml

from trimtab.flows.trials import Swept, Trial
from trimtab.page import template
from trimtab.plan.candidates import duration
from trimtab.store.disk import write_whole
from trimtab.train.display.chart import Line, chart

COLUMNS = ("trial", "fields", "steps#", "held out#", "time#", "price#", "verdict")


def ranked(swept: Swept) -> list[Trial]:
    """The highest rung first, and on each the lowest loss; those that failed come last."""
    return sorted(
        swept.trials,
        key=lambda trial: (trial.verdict == "failed", -trial.rung, trial.held_out),
    )


def rows(swept: Swept) -> list[tuple[str, ...]]:
    """The trials under `COLUMNS`."""
    return [
        (
            str(trial.number),
            ", ".join(f"{_short(name)} {value}" for name, value in trial.fields.items()),
            f"{trial.step} of {trial.steps}",
            f"{trial.held_out:.3f}" if trial.looks else "-",
            duration(trial.seconds),
            f"${trial.usd:.2f}",
            f"{trial.verdict}: {trial.why}" if trial.why else trial.verdict,
        )
        for trial in ranked(swept)
    ]


def adopted(trial: Trial) -> str:
    """The lines that make a trial the project's own choice."""
    train: dict[str, object] = {}
    extra: dict[str, object] = {}
    for name, value in trial.fields.items():
        _, field, *inner = name.split(".", 2)
        if inner:
            extra[inner[0]] = value
        else:
            train[field] = value
    return yaml.safe_dump({"train": train | ({"extra": extra} if extra else {})}, sort_keys=False)


def write_page(swept: Swept) -> Path:
    """Returns where the page lies: in the home, one a project."""
    page = template("trimtab.flows", "sweep.html").render(
        project=swept.project.name,
        swept=swept,
        curves=_curves(swept),
        columns=[column.rstrip("#") for column in COLUMNS],
        rows=list(zip(ranked(swept), rows(swept), strict=True)),
        adopted=adopted(swept.best) if swept.best else "",
        time=duration(swept.seconds),
    )
    file = swept.home.runs / f"sweep-{swept.project.name}.html"
    write_whole(file, page.encode())
    return file


def _curves(swept: Swept) -> str:
    """The loss on what is held out, the best trial drawn over the others; empty without a best."""
    if swept.best is None:
        return ""
    others = [trial for trial in swept.trials if trial.looks and trial.number != swept.best.number]
    drawn = [_line(trial, look) for look in ("raw", "dots") for trial in others]
    title = "Loss on the records held out, by step"
    return chart(title, [*drawn, _line(swept.best, "line")], f"{swept.best.held_out:.3f}")


def _line(trial: Trial, look: str) -> Line:
    return Line([step for step, _ in trial.looks], [loss for _, loss in trial.looks], look)


def _short(name: str) -> str:
    return name.removeprefix("train.").removeprefix("extra.")
