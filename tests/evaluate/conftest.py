from pathlib import Path

import pytest

from tests.tiny import build_base
from trimtab.text.chat import ChatFormat

SYSTEM = "You are the support desk. Answer with one JSON object that has intent and urgency alone."


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def chat_format(base: Path) -> ChatFormat:
    return ChatFormat.from_folder(base, system=SYSTEM)
