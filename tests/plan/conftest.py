from pathlib import Path

import pytest

from tests.tiny import build_base
from trimtab.plan.machine import Machine
from trimtab.plan.shape import ModelShape, read_shape
from trimtab.plan.work import Work

GIB = 2**30


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def shape(base: Path) -> ModelShape:
    return read_shape(base)


@pytest.fixture
def smollm() -> ModelShape:
    """SmolLM2-135M: 30 layers of 576, three key-value heads of 64."""
    sizes = {
        "self_attn.q_proj": (576, 576),
        "self_attn.k_proj": (192, 576),
        "self_attn.v_proj": (192, 576),
        "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (1536, 576),
        "mlp.up_proj": (1536, 576),
        "mlp.down_proj": (576, 1536),
    }
    linears = {
        f"model.layers.{layer}.{name}": size for layer in range(30) for name, size in sizes.items()
    }
    return ModelShape(30, 576, 1536, 9, 192, 49152, 134_515_008, linears)


@pytest.fixture
def work() -> Work:
    """600 tickets of 125 tokens, 35 of them an answer, 62 of them the same everywhere."""
    return Work(
        records=600,
        tokens=75_000,
        supervised=21_000,
        longest=140,
        shared_prefix=62,
        epochs=1,
        batch_size=8,
        accumulation=1,
        rank=16,
        targets="all-linear",
    )


@pytest.fixture
def machine() -> Machine:
    return Machine("desk", "cpu", "float32", 2, 16 * GIB, rate=150e9)
