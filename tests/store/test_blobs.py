import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import running
from trimtab.canonical import canonical_json, digest
from trimtab.errors import NotFound, StorageFull, StoreError
from trimtab.store.blobs import Blobs


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_pieces_are_one_blob_and_a_deleted_one_is_gone(blobs: Blobs) -> None:
    name = blobs.put_chunks([b"one ", b"two"])
    assert name == digest(b"one two")
    assert blobs.read_bytes(name) == b"one two"
    assert list(blobs.older_than(-60)) == [name]
    assert list(blobs.older_than(60)) == []
    blobs.delete(name)
    blobs.delete(name)
    with pytest.raises(NotFound):
        blobs.read_bytes(name)

    def failing() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        blobs.put_chunks(failing())
    assert [path for path in blobs.root.rglob("*") if path.is_file()] == []


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


FILES = {"adapter.safetensors": b"\x00\x01" * 5000, "a/b/config.json": b"{}", "empty": b""}


@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=5000))
def test_what_is_put_comes_back_under_its_hash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    name = blobs.put_bytes(data)
    assert name == hashlib.sha256(data).hexdigest() == blobs.put_bytes(data)
    assert blobs.read_bytes(name) == data


def test_every_folder_with_a_new_name_in_it_is_synced(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power may take a blob whose row is in the database already."""
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    path = blobs.path(blobs.put_bytes(b"first"))
    assert synced == [folder.stat().st_ino for folder in (blobs.root, path, path.parent)]


def test_a_tree_comes_back_whole(blobs: Blobs, tmp_path: Path) -> None:
    artifact = blobs.put_tree(tree(tmp_path / "in", FILES))
    into = blobs.materialise(artifact, tmp_path / "deep" / "out")
    assert content(into) == FILES
    before = {path: path.stat().st_ino for path in into.rglob("*")}
    blobs.materialise(artifact, into)
    assert {path: path.stat().st_ino for path in into.rglob("*")} == before


def test_an_artifact_is_its_names_and_bytes(blobs: Blobs, tmp_path: Path) -> None:
    first = blobs.put_tree(tree(tmp_path / "first", FILES))
    second = tree(tmp_path / "second", dict(reversed(FILES.items())))
    (second / "empty").chmod(0o600)
    os.utime(second / "empty", (0, 0))
    assert blobs.put_tree(second) == first
    (second / "empty").rename(second / "renamed")
    assert blobs.put_tree(second) != first


def test_a_folder_that_differs_is_replaced(blobs: Blobs, tmp_path: Path) -> None:
    artifact = blobs.put_tree(tree(tmp_path / "in", FILES))
    into = tree(tmp_path / "out", {"empty": b"no longer", "stranger": b"?"})
    blobs.materialise(artifact, into)
    assert content(into) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "in", "out"]


def test_threads_that_materialise_at_once_agree(blobs: Blobs, tmp_path: Path) -> None:
    artifact = blobs.put_tree(tree(tmp_path / "in", FILES))
    with ThreadPoolExecutor(4) as pool:
        into = [tmp_path / "out"] * 8
        assert list(pool.map(blobs.materialise, [artifact] * 8, into)) == into
    assert content(tmp_path / "out") == FILES


def test_a_damaged_blob_is_refused_and_mended_by_putting_it_again(
    blobs: Blobs, tmp_path: Path
) -> None:
    artifact = blobs.put_tree(tree(tmp_path / "in", FILES))
    path = blobs.path(digest(b"{}"))
    path.chmod(0o600)
    path.write_bytes(b"[]")
    with pytest.raises(StoreError, match="not those of its name"):
        blobs.read_bytes(digest(b"{}"))
    with pytest.raises(StoreError, match="not those of its name"):
        blobs.materialise(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    blobs.put_tree(tmp_path / "in")
    assert content(blobs.materialise(artifact, tmp_path / "out")) == FILES


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "/" + "a" * 63])
def test_only_a_hash_becomes_a_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(StoreError, match="not the name of a blob"):
        blobs.path(name)


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_cannot_leave_its_folder(blobs: Blobs, tmp_path: Path, path: str) -> None:
    inside = blobs.put_bytes(b"x")
    evil = blobs.put_bytes(canonical_json([{"path": path, "size": 1, "sha256": inside}]))
    with pytest.raises(StoreError, match="not an artifact"):
        blobs.materialise(evil, tmp_path / "out")


def test_a_blob_that_is_no_artifact_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    for data in (b"weights", b"{}", b"[1]", b'[{"path": 1, "sha256": 2}]'):
        with pytest.raises(StoreError):
            blobs.materialise(blobs.put_bytes(data), tmp_path / "out")
    with pytest.raises(NotFound):
        blobs.read_bytes("a" * 64)


def test_a_killed_writer_leaves_nothing_torn(blobs: Blobs, tmp_path: Path) -> None:
    stored = 0
    for _ in range(3):
        with running("tests.store.putter", str(blobs.root)) as putter:
            deadline = time.monotonic() + 30
            while len(visible(blobs)) < stored + 5 and time.monotonic() < deadline:
                time.sleep(0.005)
            putter.kill()
            putter.wait()
        for path in visible(blobs):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name + path.name
        assert len(visible(blobs)) > stored
        stored = len(visible(blobs))


def test_what_a_killed_writer_left_is_swept_after_a_day(blobs: Blobs) -> None:
    blobs.put_bytes(b"1")
    old, young = blobs.root / "tmp" / "old", blobs.root / "tmp" / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    blobs.put_bytes(b"2")
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_leaves_nothing_half_written(tiny_disk: Path, tmp_path: Path) -> None:
    blobs = Blobs(tiny_disk / "blobs")
    kept = blobs.put_bytes(b"x" * 500_000)
    large = tree(tmp_path / "in", {"large": os.urandom(3_000_000), "small": b"small"})
    with pytest.raises(StorageFull):
        blobs.put_bytes(os.urandom(3_000_000))
    with pytest.raises(StorageFull):
        blobs.put_tree(large)
    assert [path.parent.name + path.name for path in visible(blobs)] == [kept]
    assert list((blobs.root / "tmp").iterdir()) == []
    elsewhere = Blobs(tmp_path / "elsewhere")
    with pytest.raises(StorageFull):
        elsewhere.materialise(elsewhere.put_tree(large), tiny_disk / "out")
    assert [path.name for path in tiny_disk.iterdir()] == ["blobs"]


def visible(blobs: Blobs) -> list[Path]:
    return [path for path in blobs.root.glob("??/*") if path.is_file()]
