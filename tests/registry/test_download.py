import hashlib
import random
import shutil
import threading
from pathlib import Path

import pytest

from tests.processes import running
from tests.registry.server import Files, serving
from trimtab.errors import BaseError, StorageFull
from trimtab.registry.download import fetch

CONTENT = random.Random(17).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 1_400_000


def part_of(into: Path) -> Path:
    return into.with_name(f"{into.name}.part")


def test_a_file_arrives_whole_and_once(tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    into = tmp_path / "deep" / "model.safetensors"
    with serving(Files({"/m": CONTENT})) as files:
        for _ in range(2):
            fetch(f"{files.url}/m", into, SHA256, len(CONTENT), lambda *now: heard.append(now))
    assert into.read_bytes() == CONTENT
    assert files.asked == [None]
    assert heard[0] == (0, len(CONTENT))
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert not part_of(into).exists()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_dropped_connection_is_told_and_gone_on_from(
    tmp_path: Path, ranges: bool, size: int | None
) -> None:
    into = tmp_path / "m"
    files = Files({"/m": CONTENT}, ranges=ranges, drops=1, drop_after=HALF)
    with serving(files):
        with pytest.raises(BaseError) as caught:
            fetch(f"{files.url}/m", into, SHA256, size)
        assert "goes on where it stopped" in caught.value.hint
        assert not into.exists()
        there = part_of(into).stat().st_size
        assert 0 < there <= HALF
        fetch(f"{files.url}/m", into, SHA256, size)
    assert into.read_bytes() == CONTENT
    assert files.asked == [None, f"bytes={there}-"]
    assert files.sent == HALF + (len(CONTENT) - there if ranges else len(CONTENT))


def test_a_short_answer_without_a_length_is_caught_by_its_sum(tmp_path: Path) -> None:
    files = Files({"/m": CONTENT}, drops=1, drop_after=HALF, sends_length=False)
    into = tmp_path / "m"
    with serving(files):
        with pytest.raises(BaseError):
            fetch(f"{files.url}/m", into, SHA256, len(CONTENT))
        fetch(f"{files.url}/m", into, SHA256, len(CONTENT))
    assert into.read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_download(tmp_path: Path) -> None:
    for size in (len(CONTENT), None):
        into = tmp_path / str(size)
        part_of(into).write_bytes(CONTENT)
        with serving(Files({"/m": CONTENT})) as files:
            fetch(f"{files.url}/m", into, SHA256, size)
        assert into.read_bytes() == CONTENT
        assert files.sent == 0


def test_a_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "with space.whl"
    source.write_bytes(CONTENT)
    assert fetch(source.as_uri(), tmp_path / "m", SHA256).read_bytes() == CONTENT
    with pytest.raises(BaseError, match="no such file"):
        fetch((tmp_path / "missing").as_uri(), tmp_path / "n", SHA256)


def test_a_wrong_sum_is_refused_and_thrown_away(tmp_path: Path) -> None:
    into = tmp_path / "m"
    with serving(Files({"/m": b"something else"})) as files:
        with pytest.raises(BaseError, match="SHA-256"):
            fetch(f"{files.url}/m", into, SHA256)
        assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
        files.content["/m"] = CONTENT
        fetch(f"{files.url}/m", into, SHA256)
    assert into.read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    into = tmp_path / "m"
    into.write_bytes(b"damaged")
    with serving(Files({"/m": CONTENT})) as files:
        fetch(f"{files.url}/m", into, SHA256)
    assert into.read_bytes() == CONTENT


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    into = tmp_path / "m"
    with serving(Files({"/m": CONTENT})) as files:
        with running("tests.registry.downloader", f"{files.url}/m", str(into), SHA256) as process:
            process.wait()
        there = part_of(into).stat().st_size
        assert 0 < there < len(CONTENT)
        assert not into.exists()
        fetch(f"{files.url}/m", into, SHA256)
    assert files.asked == [None, f"bytes={there}-"]
    assert into.read_bytes() == CONTENT


def test_one_downloads_and_the_others_wait(tmp_path: Path) -> None:
    into = tmp_path / "m"
    with serving(Files({"/m": CONTENT})) as files:
        url = f"{files.url}/m"
        threads = [threading.Thread(target=fetch, args=(url, into, SHA256)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert files.asked == [None]
    assert into.read_bytes() == CONTENT


def test_a_missing_file_and_a_missing_server_say_what_to_do(tmp_path: Path) -> None:
    with serving(Files({})) as files:
        with pytest.raises(BaseError, match="404") as caught:
            fetch(f"{files.url}/m", tmp_path / "m", SHA256)
        assert "name of the model" in caught.value.hint
    with pytest.raises(BaseError) as caught:
        fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    assert "offline" in caught.value.hint


def test_a_full_disk_is_told_and_what_came_is_kept(tiny_disk: Path, tmp_path: Path) -> None:
    into = tiny_disk / "m"
    with serving(Files({"/m": CONTENT})) as files:
        with pytest.raises(StorageFull):
            fetch(f"{files.url}/m", into, SHA256)
        assert not into.exists()
        there = part_of(into).stat().st_size
        shutil.move(part_of(into), part_of(tmp_path / "m"))
        fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    assert there > 0
    assert files.asked == [None, f"bytes={there}-"]
