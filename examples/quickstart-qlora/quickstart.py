"""The same from Python: train, and lay the adapter where PEFT finds it.

python examples/quickstart-qlora/quickstart.py [PROJECT]
"""

import sys
from pathlib import Path

import trimtab

LOG_EVERY = 10


class Log:
    """Prints each step of the loop, and every tenth of the training."""

    def started(self, step: str) -> None:
        print(f"{step} ...", flush=True)

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        if what == "training" and done % LOG_EVERY == 0:
            print(f"  step {done} of {total}: {note}", flush=True)

    def finished(self, step: str, line: str, seconds: float) -> None:
        print(f"{step}: {line}", flush=True)

    def skipped(self, step: str, line: str) -> None:
        print(f"{step} was done before: {line}", flush=True)


project = trimtab.Project.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
outcome = trimtab.train(project, watch=Log())
trained = outcome.outputs["train"]
folder = Path("out") / "lora_adapter"
outcome.home.blobs.materialise(trained["artifact"], folder)
print(f"{folder}: loss {trained['loss']:.3f}, {trained['trainable']:,} parameters trained")
