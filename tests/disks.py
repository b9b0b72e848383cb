"""A disk for tests that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 2_000_000


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for two megabytes."""
    with disk_of(tmp_path / "tiny", SIZE) as folder:
        yield folder


@contextmanager
def disk_of(folder: Path, size: int) -> Iterator[Path]:
    """A new folder that is a file system of its own with room for so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"user {os.getuid()} may not mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        try:
            subprocess.run(["umount", str(folder)], check=True)
        except subprocess.CalledProcessError:
            # A test that left a file open there fails alone, and not whoever clears away after it.
            subprocess.run(["umount", "--lazy", str(folder)])
            raise
