"""The documentation says what is there: verbs, links, words, requirements."""

import re
from pathlib import Path

import pytest
from click import Group

from trimtab.cli.app import VERBS, trimtab
from trimtab.registry.versions import State

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_verb_is_listed_and_helps() -> None:
    readme = (ROOT / "README.md").read_text()
    context = trimtab.make_context("trimtab", ["check"], resilient_parsing=True)
    for verb in VERBS:
        command = trimtab.get_command(context, verb)
        assert command is not None
        assert command.help or isinstance(command, Group)
        assert f"trimtab {verb}" in readme, verb


def test_the_commands_of_the_readme_are_verbs() -> None:
    called = re.findall(r"trimtab ([a-z]+(?:-[a-z]+)*)\b", (ROOT / "README.md").read_text())
    commands = {word for word in called if word not in ("is", "closes", "needs", "does", "yaml")}
    assert commands <= set(VERBS)


def test_the_glossary_defines_the_states_of_a_rollout() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    for state in State.__args__:  # type: ignore[attr-defined]
        assert state in glossary


def test_traceability_has_every_requirement_once() -> None:
    rows = re.findall(r"^\| ([RA]\d\d) \|", (ROOT / "docs" / "TRACEABILITY.md").read_text(), re.M)
    wanted = [f"R{n:02}" for n in range(1, 37)] + [f"A{n:02}" for n in range(1, 9)]
    assert rows == wanted
