"""Real text through SmolLM2-135M: what transformers and PEFT say of it, whatever else is computed.

Eight adapters of unequal rank, LoRA, rsLoRA and DoRA, and the base. In float32, where the sum of
what two right programs round is under a thousandth of a nat.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.engine.paths import FAST, Kept, answer, ask, items, make_path
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.jobs import GenerateJob, ScoreJob
from trimtab.errors import BaseError
from trimtab.flows.bases import resolve
from trimtab.flows.watch import Silent
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest, VersionFiles
from trimtab.text.tokenizer import Tokenizer

BASE = "smollm2-135m-instruct-q4"
TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]
KINDS = ("lora", "lora", "lora", "rslora", "rslora", "dora", "dora", "lora")
RANKS = (1, 4, 16, 2, 8, 3, 8, 5)
NAMES = ("base", *(f"v{i}" for i in range(len(KINDS))))
SHARED = (
    "A trim tab at the edge of a rudder moves the rudder, and the rudder the ship: so little force "
    "steers so much. "
)
TEXTS = ("Why is the sky blue?", "The invoice of May is wrong.", "Three tips for a long day.")
END = " Eat well, and take a walk."
COUNT = 3
CHUNK = 50

Known = dict[str, tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]]
"""Greedy tokens, their log-probabilities, and those of END."""


@pytest.fixture(scope="module")
def base() -> Path:
    try:
        return resolve(BASE, Path.cwd(), Silent()).folder
    except BaseError as error:
        pytest.skip(f"the base cannot be pulled here: {error.message}")


@pytest.fixture(scope="module")
def prompts(base: Path) -> dict[str, tuple[int, ...]]:
    """Of three texts that begin alike, one for each version."""
    encode = Tokenizer(base).encode
    told = itertools.cycle(TEXTS)
    return {name: tuple(encode(SHARED + next(told))) for name in NAMES}


@pytest.fixture(scope="module")
def end(base: Path) -> tuple[int, ...]:
    return tuple(Tokenizer(base).encode(END))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """PEFT's model with all adapters, and their folders. What training would have made of the
    second factor is random, so strong that each speaks in its own way.
    """
    folder = tmp_path_factory.mktemp("adapters")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found: Any = None
    for i, (kind, rank) in enumerate(zip(KINDS, RANKS, strict=True)):
        torch.manual_seed(i)
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=TARGETS,
            use_rslora=kind == "rslora",
            use_dora=kind == "dora",
            task_type="CAUSAL_LM",
        )
        if found is None:
            found = get_peft_model(model, config, adapter_name="v0")
        else:
            found.add_adapter(f"v{i}", config)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    found.save_pretrained(folder)
    return found.eval(), {f"v{i}": folder / f"v{i}" for i in range(len(KINDS))}


@pytest.fixture(scope="module")
def known(
    trained: tuple[PeftModel, dict[str, Path]],
    prompts: dict[str, tuple[int, ...]],
    end: tuple[int, ...],
) -> Known:
    """A greedy answer and a score of each version, by transformers and PEFT, each alone."""
    model: Any = trained[0]
    found: Known = {}
    with torch.no_grad():
        for name, prompt in prompts.items():
            if name == "base":
                with model.disable_adapter():
                    found[name] = _said(model, prompt, end)
            else:
                model.set_adapter(name)
                found[name] = _said(model, prompt, end)
    return found


def _said(
    model: Any, prompt: Sequence[int], end: Sequence[int]
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Both go on from one pass over the prompt."""
    first = model(input_ids=torch.tensor([prompt]), use_cache=True)
    tokens: list[int] = []
    logprobs: list[float] = []
    logits, cache = first.logits[0, -1], first.past_key_values
    scored = [float(logits.log_softmax(-1)[end[0]])]
    for _ in range(COUNT):
        row = logits.log_softmax(-1)
        tokens.append(int(row.argmax()))
        logprobs.append(float(row[tokens[-1]]))
        logits = model(input_ids=torch.tensor([[tokens[-1]]]), past_key_values=cache).logits[0, -1]
    cache.crop(-COUNT)
    rows = model(input_ids=torch.tensor([end]), past_key_values=cache).logits[0].log_softmax(-1)
    scored += [float(row[token]) for row, token in zip(rows, end[1:], strict=False)]
    return tuple(tokens), tuple(logprobs), tuple(scored)


@pytest.fixture(scope="module")
def path(base: Path, trained: tuple[Any, dict[str, Path]]) -> ContinuousPath:
    path = make_path(base, FAST)
    assert isinstance(path, ContinuousPath)
    for name in NAMES:
        load(path, base, trained[1], name)
    return path


def load(path: ContinuousPath, base: Path, folders: dict[str, Path], name: str) -> None:
    path.load(VersionFiles(name, base, folders.get(name), base, ()))


def mixed(
    path: ContinuousPath, prompts: dict[str, tuple[int, ...]], end: tuple[int, ...]
) -> dict[str, tuple[GenerateJob, ScoreJob]]:
    """An answer and a score of every version, asked for at the same time."""
    jobs = {}
    for name, prompt in prompts.items():
        sampling = Sampling(max_tokens=COUNT)
        jobs[name] = (
            GenerateJob(GenerateRequest(name, prompt, sampling, f"g {name}"), Kept()),
            ScoreJob(ScoreRequest(name, prompt, (end,), f"s {name}"), Kept()),
        )
        for job in jobs[name]:
            path.add(job)
    return jobs


def check(jobs: dict[str, tuple[GenerateJob, ScoreJob]], known: Known) -> list[int]:
    """Every version said what PEFT says; the cached tokens of each answer."""
    for name, (generate, score) in jobs.items():
        tokens, logprobs, scored = known[name]
        said = answer(generate)
        assert said.tokens == tokens, name
        assert said.logprobs == pytest.approx(logprobs, abs=1e-3), name
        [[found]] = items(score)
        assert found.logprobs == pytest.approx(scored, abs=1e-3), name
    return [answer(generate).usage.cached for generate, _ in jobs.values()]


def test_the_adapters_speak_each_in_its_own_way(known: Known) -> None:
    """Else a mix-up would not be seen."""
    for name, other in itertools.combinations(NAMES, 2):
        pairs = zip(known[name][2], known[other][2], strict=True)
        assert max(abs(a - b) for a, b in pairs) > 0.05, (name, other)


def test_eight_adapters_in_one_batch_whose_prompts_come_in_chunks(
    path: ContinuousPath,
    prompts: dict[str, tuple[int, ...]],
    end: tuple[int, ...],
    known: Known,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(path._schedule, "_prompt_tokens", CHUNK)
    for name in NAMES:
        path._schedule.blocks.forget(name)
    jobs = mixed(path, prompts, end)
    steps = 0
    while path.busy:
        path.step()
        steps += 1
    assert steps > sum(map(len, prompts.values())) // CHUNK
    check(jobs, known)


def test_what_the_prefix_cache_has_changes_nothing(
    path: ContinuousPath, prompts: dict[str, tuple[int, ...]], end: tuple[int, ...], known: Known
) -> None:
    """The prompts of an earlier step, each found in its own version's blocks."""
    few = {name: prompts[name] for name in ("base", "v1", "v4", "v5")}
    for _ in range(2):
        jobs = mixed(path, few, end)
        while path.busy:
            path.step()
    assert min(check(jobs, known)) >= 16


def test_one_alone_says_the_same(
    path: ContinuousPath, prompts: dict[str, tuple[int, ...]], known: Known
) -> None:
    path._schedule.blocks.forget("v5")
    [said] = ask(path, "v5", [prompts["v5"]], Sampling(max_tokens=COUNT))
    assert (said.tokens, said.usage.cached) == (known["v5"][0], 0)
    assert said.logprobs == pytest.approx(known["v5"][1], abs=1e-3)


def test_versions_that_come_and_go_under_traffic_change_nobodys_answer(
    path: ContinuousPath,
    base: Path,
    trained: tuple[Any, dict[str, Path]],
    prompts: dict[str, tuple[int, ...]],
    end: tuple[int, ...],
    known: Known,
) -> None:
    path.unload("v6")
    jobs = mixed(path, {name: prompts[name] for name in ("base", "v3", "v5")}, end)
    path.step()
    path.unload("v7")
    load(path, base, trained[1], "v6")
    jobs |= mixed(path, {"v6": prompts["v6"]}, end)
    path.step()
    load(path, base, trained[1], "v7")
    jobs |= mixed(path, {"v7": prompts["v7"]}, end)
    while path.busy:
        path.step()
    check(jobs, known)
