"""ms-swift trains the records that it is given as tokens: runs in that peer's own environment.

    python benchmarks/train/ms_swift.py REQUEST.json

The request holds `rows` (each `tokens` and `mask`, or `prompt` and two `completions`) and
`arguments`, which are ms-swift's own; what it took goes to told.json beside the request. Imports
nothing of Trimtab.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from swift.arguments import RLHFArguments, SftArguments
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
from swift.pipelines import rlhf_main, sft_main
from swift.template import Template, TemplateMeta, register_template


class Records(Template):
    """An answer is the row itself: its tokens and its labels, as JSON."""

    def _encode(self, inputs: Any) -> dict[str, Any]:
        row = json.loads(inputs.messages[-1]["content"])
        return {"input_ids": row["tokens"], "labels": row["labels"], "loss_scale": None}


class Clock(TrainerCallback):
    """Seconds of the steps: what is saved behind the last is not counted."""

    seconds = started = 0.0
    losses: list[float] = []  # noqa: RUF012  one training in a process

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        Clock.started = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        Clock.seconds = time.monotonic() - Clock.started

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
        if "loss" in logs:
            Clock.losses.append(logs["loss"])


def main(request: Path) -> None:
    asked, folder = json.loads(request.read_text()), request.parent
    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps(record(row)) + "\n" for row in asked["rows"]))
    register_template(
        TemplateMeta(
            "records", prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=Records
        )
    )
    callbacks_map["clock"] = Clock
    arguments = asked["arguments"] | {
        "dataset": [str(records)],
        "template": "records",
        "callbacks": ["clock"],
        "output_dir": str(folder / "swift"),
    }
    of_pairs = "rlhf_type" in arguments
    done = (rlhf_main if of_pairs else sft_main)(
        (RLHFArguments if of_pairs else SftArguments)(**arguments)
    )
    told = {
        "seconds": Clock.seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "adapter": done["last_model_checkpoint"],
        "losses": Clock.losses,
    }
    (folder / "told.json").write_text(json.dumps(told))


def record(row: dict[str, Any]) -> dict[str, Any]:
    if "completions" not in row:
        return _said(row["tokens"], row["mask"])
    chosen, rejected = (
        _said(row["prompt"] + side, [False] * len(row["prompt"]) + [True] * len(side))
        for side in row["completions"]
    )
    return chosen | {"rejected_response": rejected["messages"][-1]["content"]}


def _said(tokens: list[int], mask: list[bool]) -> dict[str, Any]:
    labels = [token if wanted else -100 for token, wanted in zip(tokens, mask, strict=True)]
    answer = json.dumps({"tokens": tokens, "labels": labels})
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
