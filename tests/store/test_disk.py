from pathlib import Path

import pytest

from trimtab.errors import StorageFull
from trimtab.store.disk import write_whole


def test_a_file_is_replaced_at_once_or_not_at_all(tiny_disk: Path) -> None:
    file = tiny_disk / "page.html"
    for data in (b"first", b"second"):
        write_whole(file, data)
        assert file.read_bytes() == data
    with pytest.raises(StorageFull) as caught:
        write_whole(file, bytes(3_000_000))
    assert "free some space" in caught.value.hint
    assert file.read_bytes() == b"second"
    assert [path.name for path in tiny_disk.iterdir()] == ["page.html"]
