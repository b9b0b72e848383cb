"""What computes a version, and what it can do."""

from dataclasses import dataclass
from typing import Literal

Service = Literal["mixed", "alone"]
"""How versions of a method are computed: mixed with others in one batch, or one version a batch."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computes a version. Reports and probes hold for a (version, runtime) pair."""

    engine: str
    version: str
    device: str
    dtype: str
    quantisation: str = "none"

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.version}/{self.device}/{self.dtype}/{self.quantisation}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. `context` counts tokens.

    `methods` are those whose adapters it serves ("full": bases alone), each with how; all of them
    are loaded and unloaded while it serves. `prefix_cache`: what prompts begin with is not computed
    again. `priority`: it is heeded among those that wait. `grammar`: answers are held to a schema.
    `merged`: a float32 copy with the adapter folded in can be loaded, for verification. `kernels`:
    what computes a step, where the engine can tell: a level of the processor's abilities, triton or
    torch.
    """

    runtime: Runtime
    context: int
    max_batch: int
    methods: dict[str, Service]
    prefix_cache: bool = False
    priority: bool = False
    grammar: bool = False
    merged: bool = False
    kernels: str | None = None
