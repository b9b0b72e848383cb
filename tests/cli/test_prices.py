"""`trimtab prices` on a real home: what it shows, and what it refuses in one line."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.world import World, build_world
from tests.tiny import build_tokenizer
from trimtab.cli import main
from trimtab.flows.backends import price_of_tokens
from trimtab.ledger.money import Price
from trimtab.project import Project

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    built = build_world(tmp_path, build_tokenizer(tmp_path / "base"))
    yield built
    built.database.close()


@pytest.fixture
def prices(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Verb:
    """Its exit code, and what it says on both ways out."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "argv", ["trimtab", "prices", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


def test_a_price_that_is_set_is_listed(prices: Verb, world: World) -> None:
    usd = ("--prompt", "0.1", "--completion", "0.4", "--cached", "0.025")
    code, said, _ = prices("set", "desk", *usd, "--from", "2031-05-01")
    assert (code, said) == (
        0,
        f"version {world.adapter.hash[:12]} (desk) from 2031-05-01 00:00 UTC on: "
        "$0.10 prompt, $0.40 completion, $0.025 cached, for a million tokens\n",
    )
    code, said, _ = prices("list")
    [row] = [line for line in said.splitlines() if "2031" in line]
    assert code == 0
    assert row.split()[-4:] == ["later", "$0.10", "$0.40", "$0.025"]
    now, later, *_ = json.loads(prices("list", "--json")[1])["prices"]
    assert (now["counts"], now["cached_usd_per_million_tokens"]) == ("now", 1.0)
    assert later == {
        "version": world.adapter.hash,
        "names": ["desk"],
        "from": "2031-05-01T00:00:00+00:00",
        "counts": "later",
        "prompt_usd_per_million_tokens": 0.1,
        "completion_usd_per_million_tokens": 0.4,
        "cached_usd_per_million_tokens": 0.025,
    }


def test_what_the_project_file_decides_is_not_set_beside_it(
    prices: Verb, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "trimtab.yaml"
    said = {
        "name": "support-desk",
        "base": "base",
        "data": {"sources": [{"path": "tickets.jsonl"}]},
        "deploy": {"name": "desk"},
    }
    usd = ("--prompt=0.1", "--completion=0.4", "--cached=0.025")
    before = prices("list", "--json")[1]
    price = {"prompt": 1, "completion": 2, "cached": 0.25}
    file.write_text(json.dumps(said | {"serve": {"price": price}}))
    assert price_of_tokens(Project.load(file)) == Price(1_000, 2_000, 250)
    for name in ("desk", world.base.hash):
        code, told, error = prices("set", name, str(file), *usd)
        assert (code, told, error.count("\n")) == (2, "", 1)
        assert "serve.price" in error
    assert prices("list", "--json")[1] == before
    file.write_text(json.dumps(said))
    assert prices("set", "desk", str(file), *usd)[0] == 0


@pytest.mark.parametrize(
    ("name", "prompt", "more", "told"),
    [
        ("nobody", "1", (), "no deployment, encoder or version 'nobody'"),
        ("desk", "a lot", (), "'a lot' is not an amount of dollars"),
        ("desk", "-1", (), "'-1' is not an amount of dollars"),
        ("desk", "0.0001", (), "no whole number of nano-dollars a token"),
        ("desk", "0.1000000000001", (), "no whole number of nano-dollars a token"),
        ("desk", "2000000", (), "more than $1,000,000.00"),
        ("desk", "1", ("--cached", "2"), "would cost more than another"),
        ("desk", "1", ("--from", "soon"), "'soon' is no date"),
    ],
)
def test_what_cannot_be_set_is_refused_in_one_line(
    prices: Verb, name: str, prompt: str, more: tuple[str, ...], told: str
) -> None:
    before = prices("list", "--json")[1]
    code, said, error = prices("set", name, f"--prompt={prompt}", "--completion=1", *more)
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert told in error
    assert " - " in error, "without a hint"
    assert prices("list", "--json")[1] == before
