"""Every kernel computes what torch does, in float32 and from bfloat16.

On a card as it is built for it; elsewhere by Triton's interpreter, where Triton is installed.
"""

import importlib.util
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

CARD = torch.cuda.is_available()
if not CARD:
    os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: torch for a CPU comes without", allow_module_level=True)

kernels: Any = importlib.import_module("trimtab.train.stream.cuda.triton_kernels")
DEVICE = "cuda" if CARD else "cpu"
WIDTHS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def drawn(*shape: int, width: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(width)


def near(found: Tensor, expected: Tensor, width: torch.dtype) -> None:
    """||found - expected|| / ||expected|| within what rounding to a width makes of it."""
    assert found.dtype == width
    difference = found.double() - expected.double()
    assert float(difference.norm() / expected.double().norm()) < WIDTHS[width]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("heads", "half"), [(3, 4), (8, 32)])
def test_a_rotation_turns_and_turns_back(width: torch.dtype, heads: int, half: int) -> None:
    torch.manual_seed(1)
    x = drawn(7, heads, 2 * half, width=width)
    angles = torch.rand(7, half, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    turned = kernels.rotated(x, cos, sin)
    one, two = x.double().chunk(2, dim=-1)
    c, s = cos.double()[:, None], sin.double()[:, None]
    near(turned, torch.cat([one * c - two * s, two * c + one * s], dim=-1), width)
    near(kernels.rotated(turned, cos, sin, back=True), x, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_gate_and_its_gradients(width: torch.dtype) -> None:
    torch.manual_seed(2)
    gate, up, grad = (drawn(5, 700, width=width) for _ in range(3))
    one, other = (x.double().requires_grad_() for x in (gate, up))
    expected = functional.silu(one) * other
    expected.backward(grad.double())
    near(kernels.gated(gate, up), expected.detach(), width)
    for found, leaf in zip(kernels.gated_back(gate, up, grad), (one, other), strict=True):
        assert leaf.grad is not None
        near(found, leaf.grad, width)


@pytest.mark.parametrize("columns", [50, 5000])
def test_of_logits_all_that_labels_ask(columns: int) -> None:
    torch.manual_seed(3)
    logits = 4 * drawn(6, columns, width=torch.float32)
    targets = torch.randint(columns, (6,), device=DEVICE)
    targets[2] = logits[2].argmax()
    logprobs = torch.full((6,), float("nan"), device=DEVICE)
    entropy, likeliest = logprobs.clone(), torch.full((6,), 7, dtype=torch.int8, device=DEVICE)
    slopes = torch.full_like(logits, float("nan"), dtype=torch.bfloat16)
    kernels.labelled(logits, targets, logprobs, entropy, likeliest, slopes)
    logs = torch.log_softmax(logits.double(), dim=-1)
    near(logprobs, logs.gather(1, targets[:, None])[:, 0], torch.float32)
    near(entropy, -(logs.exp() * logs).sum(dim=-1), torch.float32)
    assert torch.equal(likeliest.bool(), logits.argmax(dim=-1) == targets)
    wanted = functional.one_hot(targets, columns) - logs.exp()
    near(slopes, wanted, torch.bfloat16)


def test_without_measures_only_log_probabilities_are_written() -> None:
    logits = drawn(3, 40, width=torch.float32)
    before, targets = logits.clone(), torch.tensor([1, 2, 3], device=DEVICE)
    logprobs = torch.empty(3, device=DEVICE)
    kernels.labelled(logits, targets, logprobs, None, None, None)
    assert torch.equal(logits, before)
    near(logprobs, -functional.cross_entropy(logits, targets, reduction="none"), torch.float32)
