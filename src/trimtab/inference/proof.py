"""Golden probes: how a version shows that it is what was trained, and how far off it may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.inference.runtime import Runtime

NARROW_NATS, NARROW_MEAN_NATS = 0.5, 0.1
"""What a single token may be off, and a token on the average, where somebody computes in 8 or 16
bits: programs that are right round each in an order of its own."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was said of `completion` after `prompt` where it was known to be right: natural
    log-probabilities, one a token.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Golden probes that a version has to repeat before it answers; they were computed in `dtype`.
    Where all is float32, no token may be further off than `tolerance`, in nats.
    """

    tolerance: float
    probes: tuple[Probe, ...]
    dtype: str = "float32"

    def exact(self, runtime: Runtime) -> bool:
        """Whether neither side computes in fewer than 32 bits."""
        return self.dtype == runtime.dtype == "float32" and runtime.quantisation == "none"

    def allowed(self, runtime: Runtime) -> float:
        """What a single token may be off on a runtime."""
        return self.tolerance if self.exact(runtime) else max(self.tolerance, NARROW_NATS)

    def objection(self, differences: Sequence[float], runtime: Runtime) -> str:
        """What the tokens' differences, in nats, say against a version; empty where nothing."""
        worst, allowed = max(differences, default=0.0), self.allowed(runtime)
        if worst > allowed:
            return f"{worst:.2g} nat off, {allowed:.2g} allowed"
        mean = sum(differences) / max(1, len(differences))
        if mean > NARROW_MEAN_NATS:
            return f"{mean:.2g} nat off on the average, {NARROW_MEAN_NATS:.2g} allowed"
        return ""
