"""A version is asked as itself: with its own base, its own template, and that base's engine."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import yaml

from tests.flows.test_supervisor import make_home
from tests.tiny import build_base
from trimtab.evaluate.asking import ask
from trimtab.flows.bases import resolve
from trimtab.flows.watch import Silent
from trimtab.flows.work import Work
from trimtab.project import Project
from trimtab.registry import deployments, versions
from trimtab.store.home import Home


def test_a_version_of_another_base_and_template_is_asked_as_itself(tmp_path: Path) -> None:
    home = Home(make_home(tmp_path))
    build_base(tmp_path / "new-base", seed=3)
    content = {"name": "tiny", "base": "new-base", "data": {"sources": [{"path": "a.jsonl"}]}}
    content["data"]["system"] = "Answer as JSON."  # type: ignore[index]
    (tmp_path / "trimtab.yaml").write_text(yaml.safe_dump(content))
    database = home.database()
    with ExitStack() as stack:
        stack.callback(database.close)
        work = Work(Project.load(tmp_path), home, database, Silent(), stack)
        with database.transaction() as connection:
            live = versions.get(connection, deployments.get(connection, "tiny").live)
            spec = replace(live.spec, template=live.spec.template | {"system": "Be brief."})
            versions.add(connection, replace(live, spec=spec))
        asked = work.contestant(spec.hash)
        assert asked.files.base == resolve("base", tmp_path, Silent()).folder
        assert (asked.chat.system, work.chat.system) == ("Be brief.", "Answer as JSON.")
        prompt = asked.chat.prompt_tokens(asked.chat.messages_of("hello"))

        async def answer() -> int:
            await asked.engine.load(asked.files)
            completion, _ = await ask(asked.engine, spec.hash, prompt, 3)
            return completion.usage.completion

        assert 1 <= asyncio.run(answer()) <= 3
    assert not any((home.root / "sockets").glob("*.sock"))
