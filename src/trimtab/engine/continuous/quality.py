"""Whether arithmetic that is not exact still answers as the exact one does, before it answers.

Both compute the same text. What is compared is the divergence of the next token's distribution,
KL(exact || tried) in nats: by so much the log-loss rises on text that the exact model would write.
Says nothing of particular tasks: a new runtime is verified and gated anew all the same.
"""

import torch

from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.network import Llama
from trimtab.engine.llama.rope import frequencies
from trimtab.errors import EngineError

MOST_NATS = 0.02
"""A token, on the average; 8 bits cost well-behaved models about a tenth of it."""


def check(exact: Llama, tried: Llama, shape: Shape, tokens: list[int], dtype: torch.dtype) -> float:
    """The mean divergence over `tokens`. Raises EngineError where it is more than MOST_NATS."""
    with torch.inference_mode():
        expected = _logprobs(exact, shape, tokens, dtype)
        found = _logprobs(tried, shape, tokens, dtype)
        divergence = (expected.exp() * (expected - found)).sum(dim=-1).mean().item()
    # NaN is not small either.
    if not divergence <= MOST_NATS:
        raise EngineError(
            f"int8 changes this base's answers by {divergence:.3f} nats a token, {MOST_NATS} are"
            " allowed",
            hint="serve this base without quantisation",
        )
    return divergence


def _logprobs(model: Llama, shape: Shape, tokens: list[int], dtype: torch.dtype) -> torch.Tensor:
    cpu = torch.device("cpu")
    blocks = -(-len(tokens) // BLOCK)
    part = Part(tokens, 0, list(range(blocks)), len(tokens), None)
    batch = lay_out([part], frequencies(shape.rope, shape.head_dim), cpu)
    return model.forward(batch, Cache(shape, blocks, dtype, cpu)).float().log_softmax(dim=-1)
