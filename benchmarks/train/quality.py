"""LoRA, QLoRA and full fine-tuning on the same records: what each learns, and its memory.

    make bench-methods

Writes docs/benchmarks/methods.json and its page. Each method is trained in a process of its own and
read back as a stranger would load it, by plain transformers and PEFT. Knows nothing of speed, so it
may run beside other work.
"""

import json
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.machine import ROOT, head
from benchmarks.serve.material import base_folder
from trimtab.inference import Message
from trimtab.stats.sign_flip import sign_flip
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.methods import method_of
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight
from trimtab.train.rows import Row
from trimtab.train.settings import TrainSettings

FILE = ROOT / "docs" / "benchmarks" / "methods.json"
TICKETS = ROOT / "examples" / "support-desk" / "tickets.jsonl"
TRAINED, HELD_OUT = 64, 32
# The example's own rate, of LoRA; other methods take it times their pace.
RATE = 3e-3
METHODS = ("lora", "qlora", "full")
ABOUT = f"""\
SmolLM2-135M, {TRAINED} tickets of `examples/support-desk` without a system message, one epoch in
batches of 4, rank 16 on all linear layers, AdamW; the example's rate {RATE:g}, a tenth of it where
every weight is trained. Loss is that of {HELD_OUT} held-out tickets, in nats a token of the answer,
by plain transformers and PEFT over the full weights, as the adapter is served. Differences are
paired by ticket, against LoRA, with the 95 % interval of the sign-flip test; below zero is better
than LoRA. Memory is the most that the process held while it trained, libraries and a base of 0.54
GB in float32 included.

A paged optimizer moves AdamW's states out of a GPU's memory while they are not needed. This machine
has no GPU, so memory with one was not measured on it: the states, two float32 numbers a trained
weight, are all that it could move, and their column is computed. On a card memory was measured with
one and without: [train-gpu.md](train-gpu.md), "what the optimizer holds". No time was measured."""
# AdamW's two averages, in bytes a trained weight.
STATES = 8


def main() -> None:
    forks = multiprocessing.get_context("forkserver")
    found: dict[str, dict[str, Any]] = {}
    for method in ("base", *METHODS):
        with ProcessPoolExecutor(1, mp_context=forks) as process:
            found[method] = process.submit(measured, method).result()
        print(f"{method}: {mean(found[method]['losses']):.3f} nats a token", flush=True)
    told = {**head(), "records": TRAINED, "held_out": HELD_OUT, "rows": list(_rows(found))}
    FILE.write_text(json.dumps(told, indent=1) + "\n")
    FILE.with_suffix(".md").write_text("\n".join(page(told)) + "\n")


def measured(method: str) -> dict[str, Any]:
    """Held-out losses, record by record, and the peak memory in MB, of a method or of the base."""
    chat = ChatFormat.from_folder(base_folder())
    tickets = map(json.loads, TICKETS.read_text().splitlines())
    # A prompt that is there twice could be learnt and then held out.
    rows = list({row["prompt"]: row for row in tickets}.values())
    # From all over the file, which goes by intents.
    lessons = [_lesson(row) for row in rows[:: len(rows) // (TRAINED + HELD_OUT)]]
    held_out = preflight(chat, lessons[-HELD_OUT:], 512, objective_of("sft")).examples
    if method == "base":
        return {"losses": _losses(_loaded(), held_out), "peak_mb": 0.0, "trained": 0}
    from trimtab.train.start import train

    rate = RATE * method_of(method).pace
    settings = TrainSettings(method=method, learning_rate=rate, batch_size=4)
    with tempfile.TemporaryDirectory() as folder:
        result = train(base_folder(), chat, lessons[:TRAINED], settings, Path(folder) / "run")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        model = _loaded(result.files.model) if method == "full" else _loaded()
        if method != "full":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(result.files.adapter))
        losses = _losses(model, held_out)
    return {"losses": losses, "peak_mb": peak, "trained": result.trainable}


def _lesson(row: dict[str, Any]) -> Lesson:
    answer = json.dumps(row["completion"], separators=(",", ":"))
    return Lesson((Message("user", row["prompt"]), Message("assistant", answer)))


def _loaded(folder: Path | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder or base_folder(), dtype=torch.float32)


def _losses(model: Any, rows: tuple[Row, ...]) -> list[float]:
    """Mean loss of each answer, in nats a token."""
    import torch

    model.eval()
    found = []
    for row in rows:
        tokens = torch.tensor([[*row.prompt, *row.completion]])
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
        wanted = torch.tensor(row.completion)
        found.append(float(torch.nn.functional.cross_entropy(logits, wanted)))
    return found


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for method, told in found.items():
        pairs = zip(told["losses"], found["lora"]["losses"], strict=True)
        test = sign_flip([own - other for own, other in pairs])
        yield {
            "method": method,
            "trained": told["trained"],
            "peak_mb": round(told["peak_mb"]),
            "optimizer_mb": round(STATES * told["trained"] / 1e6),
            "loss": round(mean(told["losses"]), 4),
            "difference": round(test.mean, 4),
            "interval": [round(test.interval.low, 4), round(test.interval.high, 4)],
        }


def page(told: dict[str, Any]) -> Iterator[str]:
    machine = told["machine"]
    yield "# What the methods learn, measured\n"
    yield (
        f"`make bench-methods` at {told['commit']} on {told['date']}: "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB.\n"
    )
    yield ABOUT + "\n"
    yield (
        "| method | weights trained | peak memory, MB | optimizer's states, MB | held-out loss "
        "| difference to LoRA |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for row in told["rows"]:
        low, high = row["interval"]
        apart = (
            "-"
            if row["method"] == "lora"
            else f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        )
        memory = f"{row['peak_mb']} | {row['optimizer_mb']}" if row["trained"] else "- | -"
        yield f"| {row['method']} | {row['trained']:,} | {memory} | {row['loss']:.3f} | {apart} |"


if __name__ == "__main__":
    main()
