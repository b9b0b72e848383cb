"""The compiled kernels in this process, at a level of what its processor can do.

A level is chosen where the library is loaded, not where it was compiled. Knows nothing of tensors.
"""

import ctypes
from pathlib import Path

from trimtab.engine.ops import build
from trimtab.errors import EngineError

KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "f": ctypes.c_float}


class Compiled:
    """`level` is one of `runs`, by default the highest."""

    def __init__(self, path: Path, level: str | None = None) -> None:
        """Raises OSError for a file that is no such library, EngineError where the processor runs
        none of its levels or not the one that is asked for.
        """
        self._loaded = ctypes.CDLL(str(path))
        runs = _levels(self._loaded)
        if not runs or level not in (None, *runs):
            raise EngineError(
                f"this processor does not run the kernels at {level or 'any level'}",
                hint=f"it runs {', '.join(runs) or 'none'}",
            )
        self.level = level or runs[-1]

    def function(self, name: str, signature: str) -> "ctypes._NamedFuncPointer":
        """`signature`: a letter an argument, p a pointer, i a 32-bit integer, f a float."""
        function = getattr(self._loaded, f"{name}_{self.level}")
        function.argtypes = [KINDS[letter] for letter in signature]
        function.restype = None
        return function  # type: ignore[no-any-return]


def runs(path: Path) -> list[str]:
    """The levels of a library that this processor runs, the lowest first. Raises OSError."""
    return _levels(ctypes.CDLL(str(path)))


def _levels(loaded: ctypes.CDLL) -> list[str]:
    ask = loaded.highest_level
    ask.restype = ctypes.c_char_p
    highest = ask().decode()
    known = list(build.levels())
    return known[: known.index(highest) + 1] if highest else []
