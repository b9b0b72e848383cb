from pathlib import Path

import pytest

from tests.tiny import build_base
from trimtab.errors import BaseError
from trimtab.flows.bases import locate, resolve
from trimtab.flows.watch import Silent


def test_a_folder_is_a_base_and_its_hash_is_of_its_content(tmp_path: Path) -> None:
    build_base(tmp_path / "one")
    build_base(tmp_path / "two")
    build_base(tmp_path / "wide", hidden=96)
    one, two, wide = (resolve(name, tmp_path, Silent()) for name in ("one", "two", "wide"))
    assert one.hash == two.hash != wide.hash
    assert wide.parameters > one.parameters > 0


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_folder_without_its_files_is_refused(tmp_path: Path, missing: str) -> None:
    build_base(tmp_path / "base")
    (tmp_path / "base" / missing).unlink()
    with pytest.raises(BaseError, match=missing):
        resolve("base", tmp_path, Silent())


def test_an_unknown_name_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="no base 'smollm2-135m-instruct-q5'") as caught:
        resolve("smollm2-135m-instruct-q5", tmp_path, Silent())
    assert "smollm2-135m-instruct" in caught.value.hint


@pytest.mark.parametrize("name", ["./nofolder", "../nofolder"])
def test_a_folder_that_is_not_there_is_no_name_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(BaseError, match=f"no base '{name}'"):
        locate(name, tmp_path)


def test_the_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match="cannot be had from the Hub") as caught:
        resolve("nobody/nothing-at-all", tmp_path, Silent())
    assert "\n" not in caught.value.message
