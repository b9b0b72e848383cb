"""How much of a batch is computed at a time, and whether its activations are kept.

On a CPU a part is a fixed count of tokens. On a card it is what its free memory holds, and where
that is too little a layer keeps its input alone and is computed again: one product in three more,
and a part as wide as before. Imports torch.
"""

from typing import Any

import torch

# Tokens of a part on a CPU, about a megabyte each at 135M parameters. A longer batch is taken in
# parts, each with its own backward pass.
PART = 1024
# On a card: the most, where products gain nothing more by width, and the fewest, below which
# computing twice is better than products too narrow for the card.
WIDEST, NARROWEST = 16384, 4096
# The share of free memory that activations may take; the rest is for the tiles of the head, for
# matrices widened out of 4 bits and for what the allocator cannot give out.
SHARE = 0.8
RESERVED = 2 << 30


def part_size(causal: Any) -> int:
    """Tokens of one pass forward and back."""
    if causal.device.type != "cuda":
        return PART
    free = _free()
    if not causal.is_activation_checkpointing:
        whole = free // bytes_kept(causal)
        if whole >= NARROWEST:
            return min(WIDEST, whole)
    return max(1, min(WIDEST, free // bytes_checkpointed(causal)))


def keeps(causal: Any, tokens: int) -> bool:
    """Whether the activations of a pass over so many tokens are kept for its backward pass."""
    if causal.is_activation_checkpointing:
        return False
    return causal.device.type != "cuda" or tokens * bytes_kept(causal) <= _free()


def bytes_kept(causal: Any) -> int:
    """Of a token, in all layers, and of the gradients of the widest one."""
    config = causal.config.get_text_config()
    elements = int(config.num_hidden_layers) * _kept(config) + _passing(config)
    return _width(causal) * elements


def bytes_checkpointed(causal: Any) -> int:
    """Of a token, where a layer keeps its input alone: and of the one that is computed again."""
    config = causal.config.get_text_config()
    inputs = int(config.num_hidden_layers) * int(config.hidden_size)
    return _width(causal) * (inputs + _kept(config) + _passing(config))


def _width(causal: Any) -> int:
    """Bytes of a number: a pass is as wide as its products, which autocast narrows."""
    return 2 if torch.is_autocast_enabled("cuda") else int(causal.dtype.itemsize)


def _kept(config: Any) -> int:
    """Numbers that a layer keeps of a token: two norms' inputs and outputs, queries, attention's
    output; keys and values; gate, up and their product.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = size * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    return int(4 * config.hidden_size + heads + 3 * config.intermediate_size)


def _passing(config: Any) -> int:
    """Numbers of a token's gradients while one layer is at work."""
    return int(4 * config.hidden_size + 4 * config.intermediate_size)


def _free() -> int:
    """Bytes that the card has free, and those that torch holds and uses for nothing."""
    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(0, int(SHARE * (torch.cuda.mem_get_info()[0] + held - RESERVED)))
