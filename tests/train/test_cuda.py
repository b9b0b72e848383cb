"""Training on a card: the stream's loss and gradients are plain PEFT's there, and every way of
learning runs, is killed and goes on. Skipped where there is no card.

The measure is ||ours - theirs|| / ||theirs||, tensor by tensor. In float32, TF32 off, 2e-5 is
allowed. In bfloat16 both are held to the same weights in float32: ours may be off by half more than
PEFT's own rounding is, or by 2e-2 where that is less.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from tests.train.killed import CARD_WAYS, trained
from tests.train.test_loss import batch, gradients
from trimtab.train import room
from trimtab.train.checkpoint import newest
from trimtab.train.objectives import objective_of
from trimtab.train.run import RunFolder, RunResult
from trimtab.train.stream import walk
from trimtab.train.stream.loss import label_logprobs, stream_of
from trimtab.train.stream.walk import Model, walkable

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: run on a machine that has one"
)

EXACT, ROUNDED, WORSE = 2e-5, 2e-2, 1.5
KILLED = "import json, sys; from tests.train.killed import meet; meet(**json.load(sys.stdin))"
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "quickstart": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "r": 16},
    "full": {},
}


@pytest.fixture(autouse=True)
def _whole_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def made(
    method: str, width: torch.dtype, kind: type[PreTrainedConfig] = LlamaConfig, **more: Any
) -> Model:
    """The same weights, whatever their width; of full fine-tuning always float32."""
    torch.manual_seed(3)
    config: Any = kind(**SIZES, **more)
    base: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in base.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=0.8, std=0.2)
    # What bfloat16 can hold, so that both widths start from the same.
    base.to(torch.bfloat16).to(torch.float32)
    if method == "full":
        return base.cuda().train()
    model = get_peft_model(base.to(width), LoraConfig(**({"r": 4} | METHODS[method])))
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found: Model = model.cuda().train()
    return found


def on_card(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.cuda() for tensor in tensors)


def both(
    model: Model, tensors: tuple[Tensor, ...], autocast: bool
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Loss and gradients, theirs and then ours."""
    tokens, labels, mask = tensors
    for ours in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            if ours:
                loss = -label_logprobs(model, tokens, labels).mean()
            else:
                loss = model(
                    input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False
                ).loss
        yield loss.item(), gradients(model, loss)


def off(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys()
    return {
        name: float((found[name].double() - gradient.double()).norm() / gradient.double().norm())
        for name, gradient in expected.items()
    }


@pytest.mark.parametrize("beginning", [24, 0], ids=["shared", "apart"])
@pytest.mark.parametrize("method", METHODS)
def test_in_float32_gradients_are_those_of_peft(method: str, beginning: int) -> None:
    model = made(method, torch.float32)
    assert walkable(model)
    theirs, ours = both(model, on_card(*batch(beginning)), autocast=False)
    assert abs(ours[0] - theirs[0]) < EXACT
    assert max(off(ours[1], theirs[1]).values()) < EXACT


@pytest.mark.parametrize("beginning", [24, 0], ids=["shared", "apart"])
@pytest.mark.parametrize("method", METHODS)
def test_in_bfloat16_gradients_are_as_near_as_those_of_peft(method: str, beginning: int) -> None:
    tensors = on_card(*batch(beginning))
    exact, _ = both(made(method, torch.float32), tensors, autocast=False)
    model = made(method, torch.bfloat16)
    assert walkable(model)
    theirs, ours = both(model, tensors, autocast=True)
    assert abs(ours[0] - exact[0]) < ROUNDED
    their_off, our_off = off(theirs[1], exact[1]), off(ours[1], exact[1])
    print(f"{method}: ours {max(our_off.values()):.1e}, PEFT {max(their_off.values()):.1e}")
    for name, error in our_off.items():
        assert error < max(ROUNDED, WORSE * their_off[name]), name


def test_norms_of_heads_are_walked_on_a_card() -> None:
    tensors = on_card(*batch())
    for width, autocast in ((torch.float32, False), (torch.bfloat16, True)):
        model = made("lora", width, Qwen3Config, head_dim=16)
        assert walkable(model)
        theirs, ours = both(model, tensors, autocast)
        allowed = 8e-2 if autocast else EXACT
        assert max(off(ours[1], theirs[1]).values()) < allowed


@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
def test_checkpointed_the_gradients_are_the_same(
    width: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("lora", width)
    tokens, labels, _ = on_card(*batch())
    kept = gradients(model, -label_logprobs(model, tokens, labels).mean())
    monkeypatch.setattr(room, "_free", lambda: 0)
    again = gradients(model, -label_logprobs(model, tokens, labels).mean())
    # The kernels of attention add up gradients in any order.
    assert max(off(again, kept).values()) < (EXACT if width == torch.float32 else ROUNDED)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
def test_a_base_in_four_bits_is_multiplied_as_bitsandbytes_would(
    tmp_path: Path, width: torch.dtype, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    from bitsandbytes.nn import Linear4bit

    from trimtab.train.methods.qlora import quantisation

    made("full", torch.float32).save_pretrained(tmp_path)
    narrow: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=width, quantization_config=quantisation(width), device_map="cuda"
    )
    model = get_peft_model(narrow, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert isinstance(model, PeftModel)
    assert walkable(model)
    tokens, labels, mask = on_card(*batch())
    autocast = width == torch.bfloat16
    with torch.autocast("cuda", dtype=width, enabled=autocast):
        theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False).loss
    expected = gradients(model, theirs)
    monkeypatch.setattr(Linear4bit, "forward", None)
    if checkpointed:
        monkeypatch.setattr(room, "_free", lambda: 0)
    with torch.autocast("cuda", dtype=width, enabled=autocast):
        ours = -label_logprobs(model, tokens, labels).mean()
    found = off(gradients(model, ours), expected)
    assert abs(ours.item() - theirs.item()) < (ROUNDED if autocast else 1e-4)
    assert max(found.values()) < (8e-2 if autocast else 1e-4)


def test_dropout_drops_what_it_says() -> None:
    base = made("full", torch.float32).to(torch.bfloat16)
    dropping: Any = get_peft_model(
        base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3)
    )
    for name, parameter in dropping.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    dropping.train()
    tokens, labels, _ = on_card(*batch(0))
    assert len(stream_of(dropping, tokens, labels).tokens) > 0
    with torch.no_grad():
        losses = torch.stack([label_logprobs(dropping, tokens, labels).mean() for _ in range(64)])
        dropping.eval()
        still = label_logprobs(dropping, tokens, labels).mean()
    assert losses.std() > 0
    assert abs(losses.mean() - still) < 6 * losses.std()


def test_what_is_trained_whole_is_multiplied_narrow(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are kept in float32, and transformers' own forward pass is under autocast."""
    learnt, known = set(), walk.flashes

    def spied(x: Tensor, size: int) -> bool:
        if torch.is_grad_enabled():
            learnt.add(x.dtype)
        return known(x, size)

    monkeypatch.setattr(walk, "flashes", spied)
    trained("full", base, tmp_path)
    assert learnt == {torch.bfloat16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("way", CARD_WAYS)
def test_killed_and_gone_on_a_run_ends_as_one_that_was_not(
    way: str, base: Path, folders: Path
) -> None:
    if way == "qlora":
        pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    scenario = {"way": way, "at": 3, "how": "killed", "base": str(base)}
    # Not a fork: what has spoken to a card cannot be forked.
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        input=json.dumps(scenario | {"folder": str(folders / way)}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    last = newest(RunFolder(folders / way).checkpoints)
    assert last is not None
    assert last.step == 2
    steps: list[int] = []
    result = trained(way, base, folders / way, lambda step: steps.append(step.step))
    assert steps == [3, 4]
    whole = trained(way, base, folders / f"unbroken {way}")
    assert isinstance(result, RunResult)
    assert isinstance(whole, RunResult)
    assert (result.device, result.dtype) == ("cuda", "bfloat16")
    curves = [
        [point["loss"] for point in json.loads(run.files.curve.read_bytes())]
        for run in (result, whole)
    ]
    if not objective_of(CARD_WAYS[way].objective).rollouts:
        # What one has sampled differently once, it learns differently from then on.
        assert curves[0] == pytest.approx(curves[1], rel=2e-2, abs=2e-2)
    assert json.loads(result.files.probes.read_bytes())["probes"]
    if way != "full":
        held = AutoModelForCausalLM.from_pretrained(base)
        plain = PeftModel.from_pretrained(held, str(result.files.adapter))
        assert any("lora_A" in name for name, _ in plain.named_parameters())
