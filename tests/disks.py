"""A disk for tests that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 2_000_000


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for two megabytes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"user {os.getuid()} may not mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    try:
        subprocess.run(["umount", str(folder)], check=True)
    except subprocess.CalledProcessError:
        # A test that left a file open there fails alone, and not whoever clears away after it.
        subprocess.run(["umount", "--lazy", str(folder)])
        raise
