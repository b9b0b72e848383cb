"""Where a project publishes its runs: TensorBoard's event files, and MLflow by way of the outbox.

Nothing here slows training or ends it: a thread writes points to the database now and then, and a
process of its own delivers them.
"""

import json
import queue
import threading
import time
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from trimtab.child import Child
from trimtab.errors import ProjectError, TrimtabError
from trimtab.flows.publishing import MLFLOW
from trimtab.flows.work import Work
from trimtab.store import outbox
from trimtab.store.clock import now_us
from trimtab.train.display.tensorboard import Events
from trimtab.train.run import RunFolder, StepProgress

PACKAGES = {"mlflow": "mlflow-skinny", "tensorboard": "tensorboard"}
# How often points are written down, and how long a run waits at its end for the last ones to go.
EVERY_S, LAST_S = 2.0, 5.0
LAST_KEY = 10**10


class Publication:
    """The publication of one run, in a `with` around its training."""

    def __init__(self, work: Work, run: str, params: dict[str, Any]) -> None:
        named = work.project.train.publish
        for name in named:
            package = name.partition(":")[0]
            if find_spec(package) is None:
                raise ProjectError(
                    f"train.publish: {PACKAGES[package]} is not installed",
                    hint=f"pip install 'trimtab[{package}]'",
                )
        self._work = work
        self._run = run
        self._params = params
        self._events = (
            Events(RunFolder(work.home.runs / run).events) if "tensorboard" in named else None
        )
        self._topics = [
            name if ":" in name else MLFLOW for name in named if name.startswith("mlflow")
        ]
        self._points: queue.SimpleQueue[tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> "Publication":
        if self._topics:
            self._stack.callback(self._goodbye, self._deliverer())
            writer = threading.Thread(target=self._write, name="outbox", daemon=True)
            writer.start()
            self._stack.callback(writer.join, LAST_S)
            self._stack.callback(self._points.put, None)
            self._put(0, {"params": self._params})
        if self._events is not None:
            self._stack.callback(self._events.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._topics and error is None:
            self._put(LAST_KEY, {"status": "FINISHED"})
        self._stack.close()

    def stepped(self, progress: StepProgress) -> None:
        """Takes a step, and is gone again at once."""
        figures = {
            "loss": progress.loss,
            "gradient_norm": progress.gradient_norm,
            "tokens_s": progress.tokens_s,
            "memory": float(progress.memory),
            "usd": progress.usd,
            **({} if progress.mfu is None else {"mfu": progress.mfu}),
            **progress.metrics,
        }
        if self._events is not None:
            self._events.write(progress.step, figures)
        if self._topics:
            self._put(progress.step, {"step": progress.step, "metrics": figures})

    def _put(self, place: int, content: dict[str, Any]) -> None:
        about = {
            "run": self._run,
            "experiment": self._work.project.name,
            "time_ms": int(time.time() * 1000),
        }
        self._points.put((place, about | content))

    def _write(self) -> None:
        """Points that could not be written are lost, and no step waits for them."""
        ended = False
        while not ended:
            batch = [self._points.get()]
            deadline = time.monotonic() + EVERY_S
            while batch[-1] is not None and (left := deadline - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    batch.append(self._points.get(timeout=left))
            ended = batch[-1] is None
            points = [item for item in batch if item is not None]
            with suppress(TrimtabError), self._work.database.transaction(durable=False) as written:
                for topic in self._topics:
                    for place, content in points:
                        key = f"{self._run}/{place:011}"
                        outbox.put(written, topic, key, json.dumps(content), now_us())

    def _deliverer(self) -> Child:
        home = str(self._work.home.root)
        child = Child("publishing", ["trimtab.flows.publishing", "--home", home])
        with suppress(OSError):
            child.start()
        return child

    def _goodbye(self, child: Child) -> None:
        """Give what was written last a moment to go; the rest waits for `trimtab publish`."""
        end = time.monotonic() + LAST_S
        with suppress(TrimtabError):
            while child.alive and time.monotonic() < end and self._goes():
                time.sleep(0.1)
        child.stop(1.0)

    def _goes(self) -> bool:
        """Whether messages of this run wait that no error keeps."""
        with self._work.database.read() as connection:
            return any(outbox.goes(connection, topic) for topic in self._topics)
