"""What the processor can do, as far as it decides what is computed with. Needs no torch."""

from pathlib import Path

from trimtab.errors import EngineError

CPUINFO = Path("/proc/cpuinfo")
BF16 = frozenset({"avx512_bf16", "amx_bf16"})
VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """What the processor says that it can do."""
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def require_vnni(cpuinfo: Path = CPUINFO) -> None:
    """Raises EngineError where the processor would compute in bytes more slowly than without."""
    if not VNNI & cpu_flags(cpuinfo):
        raise EngineError(
            "int8 needs a processor with VNNI, which this one has not",
            hint="serve without quantisation here",
        )
