"""Triton's interpreter, where kernels are computed on a CPU."""

from typing import Any

import numpy as np
import pytest


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps a bfloat16 as its bits and multiplies matrices of those; here of numbers."""
    import triton.language as tl
    from triton.runtime import interpreter

    multiply = interpreter.InterpreterBuilder.create_dot

    def numbers(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(wide, tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *more: Any) -> Any:
        return multiply(self, numbers(a), numbers(b), *more)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
