"""The public face: what `import trimtab` exports, and what it must not pull in."""

import subprocess
import sys

import trimtab


def test_exported_names() -> None:
    assert trimtab.__all__ == ["Project", "evaluate", "plan", "run", "serve", "train"]


def test_importing_a_room_does_not_hide_the_function_of_its_name() -> None:
    code = (
        "import trimtab, trimtab.plan, trimtab.evaluate, trimtab.train;"
        "assert all(callable(getattr(trimtab, name)) for name in trimtab.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_and_help_pull_in_nothing_heavy() -> None:
    code = (
        "import sys, trimtab, trimtab.cli.app as app;"
        "app.trimtab.main(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'fastapi', 'pydantic', 'datasets'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
