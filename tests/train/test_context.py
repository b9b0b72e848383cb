"""A record longer than the base's context is left out by name; positions are not made up."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.train.conftest import Records, small_settings
from trimtab.errors import DataError
from trimtab.text.chat import ChatFormat
from trimtab.train.context import Context, context_of
from trimtab.train.objectives import OBJECTIVES
from trimtab.train.preflight import preflight
from trimtab.train.start import train


@pytest.fixture(scope="module")
def narrow(
    base: Path, records: Records, chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same base, whose context is a token too small for the longest record."""
    folder = tmp_path_factory.mktemp("base") / "narrow"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_bytes())
    config["max_position_embeddings"] = preflight(chat, records, 512).longest - 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_longer_record_is_dropped_with_its_reason(
    narrow: Path, chat: ChatFormat, records: Records
) -> None:
    context = context_of(narrow, small_settings())
    assert context.tokens is not None
    whole = preflight(chat, records, 512)
    checked = preflight(chat, records, 512, context=context)
    assert len(checked.examples) + len(checked.dropped) == len(records)
    assert checked.longest <= context.tokens < whole.longest
    told = f"{whole.longest} tokens, more than the base's context of {context.tokens}"
    assert {dropped.reason for dropped in checked.dropped} == {told}


def test_what_stands_beside_a_record_counts(base: Path) -> None:
    settings = small_settings()
    assert context_of(base, settings) == Context(512)
    assert context_of(base, dataclasses.replace(settings, method="prompt")) == Context(512, 4)
    extra = {"max_completion_length": 32}
    asked = dataclasses.replace(settings, objective="grpo", method="prefix", extra=extra)
    context = context_of(base, asked)
    assert context == Context(512, 36)
    assert context.too_small(476) == ""
    assert (
        context.too_small(477)
        == "477 tokens and 36 beside them, more than the base's context of 512"
    )


def test_a_yardstick_is_not_read(chat: ChatFormat, records: Records) -> None:
    prompts = preflight(chat, records, 512, OBJECTIVES["grpo"])
    longest = max(len(row.prompt) for row in prompts.examples)
    assert longest < prompts.longest
    bounded = preflight(chat, records, 512, OBJECTIVES["grpo"], Context(longest))
    assert bounded.dropped == ()


def test_training_stops_where_no_record_fits(
    narrow: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    config = json.loads((narrow / "config.json").read_bytes()) | {"max_position_embeddings": 8}
    tiny = shutil.copytree(narrow, tmp_path / "tiny")
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="more than the base's context of 8") as caught:
        train(tiny, chat, records, small_settings(), tmp_path / "run")
    assert "longer context" in caught.value.hint
    assert not (tmp_path / "run").exists()
