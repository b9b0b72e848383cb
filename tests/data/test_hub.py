"""Hub sources, read by the real library from a folder: it takes one wherever it takes an id."""

import logging
import sys
from pathlib import Path

import datasets
import pytest

from tests.data.made import write_jsonl
from trimtab.data.sources import read_hub
from trimtab.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "tickets").mkdir()
    return tmp_path / "tickets"


def test_rows_carry_the_id_and_count_from_one(folder: Path) -> None:
    write_jsonl(folder / "train.jsonl", [{"prompt": "q", "completion": f"a{n}"} for n in range(4)])
    rows = list(read_hub(str(folder), "train[:50%]"))
    assert [row.fields["completion"] for row in rows] == ["a0", "a1"]
    assert rows[1].place == f"hub:{folder}[train[:50%]]:2"


def test_an_unknown_split_is_one_line_with_a_hint(folder: Path) -> None:
    write_jsonl(folder / "train.jsonl", [{"prompt": "q", "completion": "a"}])
    with pytest.raises(DataError, match=r"hub:.*test") as caught:
        list(read_hub(str(folder), "test"))
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_id_that_cannot_be_had_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="hub:nobody/nothing"):
        list(read_hub("nobody/nothing", "train"))


def test_a_long_message_of_the_library_is_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("\n" + "HTTPSConnectionPool refused the connection. " * 40)

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match="HTTPSConnectionPool") as caught:
        list(read_hub("nobody/nothing", "train"))
    assert len(caught.value.message) < 250


def test_tries_that_failed_are_not_told_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = logging.getLogger("huggingface_hub")
    client.setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(client, "handlers", [handler])

    def refuse(*arguments: object, **options: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match="no network"):
        list(read_hub("nobody/nothing", "train"))
    assert capsys.readouterr().err == ""


def test_a_row_that_cannot_be_decoded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with pictures: the library decodes them while its rows are read."""

    def decode(batch: object) -> None:
        raise ImportError("To support decoding images,\nplease install 'Pillow'.")

    loaded = datasets.Dataset.from_dict({"prompt": ["q"]}).with_transform(decode)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: loaded)
    with pytest.raises(DataError, match=r"hub:nobody/nothing\[train\]: To support") as caught:
        list(read_hub("nobody/nothing", "train"))
    assert "\n" not in caught.value.message


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as caught:
        list(read_hub("nobody/nothing", "train"))
    assert "trimtab[train]" in caught.value.hint
