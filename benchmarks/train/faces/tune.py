"""torchtune trains the records that it is given as tokens: runs in that peer's own environment.

    python benchmarks/train/faces/tune.py REQUEST.json

The request holds `rows` (each `tokens` and `mask`, or `prompt` and two `completions`) and
`arguments`, a recipe's configuration; what it took goes to told.json beside the request. The
recipe finds what is of this file by its module's name. Imports nothing of Trimtab.
"""

import json
import resource
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torchtune
from omegaconf import OmegaConf

# Recipes lie beside the package and are no modules of it.
RECIPES = Path(torchtune.__file__).parents[1] / "recipes"
IGNORED = -100


class Tokens:
    """A tokenizer that is asked for nothing but its padding."""

    pad_id = 0


class Clock:
    """A metric logger: when each step ended, and its loss."""

    def __init__(self) -> None:
        self.ended = 0.0
        self.losses: list[float] = []

    def log_config(self, config: Any) -> None:
        """Which is in the request."""

    def log_dict(self, payload: dict[str, Any], step: int) -> None:
        self.ended = time.monotonic()
        self.losses.append(float(payload["loss"]))

    def close(self) -> None:
        """Nothing was opened."""


def records(tokenizer: Tokens, file: str) -> list[dict[str, list[int]]]:
    """The rows of a request as a dataset."""
    return [record(row) for row in json.loads(Path(file).read_text())["rows"]]


def record(row: dict[str, Any]) -> dict[str, list[int]]:
    if "completions" not in row:
        pairs = zip(row["tokens"], row["mask"], strict=True)
        labels = [token if wanted else IGNORED for token, wanted in pairs]
        return {"tokens": row["tokens"], "labels": labels}
    found = {}
    for side, answer in zip(("chosen", "rejected"), row["completions"], strict=True):
        found[f"{side}_input_ids"] = row["prompt"] + answer
        found[f"{side}_labels"] = [IGNORED] * len(row["prompt"]) + answer
    return found


def main(request: Path) -> None:
    asked, folder = json.loads(request.read_text()), request.parent
    of_pairs = "completions" in asked["rows"][0]
    out = folder / "tune"
    mine = {name: {"_component_": f"{Path(__file__).stem}.{part}"} for name, part in PARTS.items()}
    mine["dataset"]["file"] = str(request)
    arguments = OmegaConf.create(asked["arguments"] | mine | {"output_dir": str(out)})
    arguments.checkpointer.output_dir = str(out)
    kind = "LoRADPORecipeSingleDevice" if of_pairs else "LoRAFinetuneRecipeSingleDevice"
    file = "lora_dpo_single_device.py" if of_pairs else "lora_finetune_single_device.py"
    recipe = getattr(module(RECIPES / file), kind)(arguments)
    recipe.setup(arguments)
    clock = recipe._metric_logger
    started = time.monotonic()
    recipe.train()
    told = {
        "seconds": clock.ended - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "adapter": str(out / "epoch_0"),
        "losses": clock.losses,
    }
    (folder / "told.json").write_text(json.dumps(told))


PARTS = {"tokenizer": "Tokens", "metric_logger": "Clock", "dataset": "records"}


def module(file: Path) -> Any:
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
