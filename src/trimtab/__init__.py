"""Trimtab closes the loop of fine-tuning language models.

The public face: `Project`, and one function for each part of the loop. Each is imported when it
is first used, so `import trimtab` costs nothing.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.flows.api import evaluate, plan, run, serve, train
    from trimtab.project import Project

# Libraries below report their use to their makers unless they are told not to.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Project", "evaluate", "plan", "run", "serve", "train"]

_HOMES = {
    "Project": "trimtab.project",
    "evaluate": "trimtab.flows.api",
    "plan": "trimtab.flows.api",
    "run": "trimtab.flows.api",
    "serve": "trimtab.flows.api",
    "train": "trimtab.flows.api",
}


class _Face(ModuleType):
    """Keeps `trimtab.train` the function: importing the room of that name would bind the room."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
