"""The examples of the guide are run as they stand there, by curl."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.fuzz import Target, target

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "api.md"
EXAMPLES = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.S)


@pytest.fixture(scope="module")
def to(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("guide"), base_folder) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_does_what_it_shows(to: Target, example: str) -> None:
    script = example.replace("curl -sS", "curl --fail-with-body -sS")
    values = {**os.environ, "API": str(to.client.base_url), "KEY": to.key}
    done = subprocess.run(
        ["bash", "-euc", script], env=values, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_the_guide_shows_every_route_that_answers() -> None:
    shown = set(re.findall(r'"\$API(/[^"]+)"', "".join(EXAMPLES)))
    assert shown >= {
        "/v1/generate",
        "/v1/score",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/metrics",
    }
