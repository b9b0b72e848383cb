from pathlib import Path

import pytest
import torch

from trimtab.engine.dtype import dtype_name, pick_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx2 avx512f", torch.float32),
        ("fpu avx512_bf16 avx512f", torch.bfloat16),
        ("amx_bf16", torch.bfloat16),
    ],
)
def test_a_cpu_computes_in_what_it_multiplies_natively(
    tmp_path: Path, flags: str, dtype: torch.dtype
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert pick_dtype(CPU, cpuinfo) is dtype


def test_an_unknown_cpu_computes_in_float32(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert pick_dtype(CPU, tmp_path / "cpuinfo") is torch.float32


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_computes_in_what_it_multiplies_natively(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    """Before Ampere bfloat16 is emulated, which torch counts as support unless told not to."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert pick_dtype(torch.device("cuda")) is dtype


def test_names() -> None:
    assert dtype_name(torch.bfloat16) == "bfloat16"
