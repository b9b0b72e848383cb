"""Computing beside the training: what a run looks at while it learns leaves no trace in it.

Imports torch; import it only where a run starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def aside(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and afterwards the random numbers that would have come."""
    training = model.training
    with torch.random.fork_rng(), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train(training)
