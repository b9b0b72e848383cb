"""What a step needs on an accelerator beyond the weights: as `trimtab.train.room` decides it there.

A batch is taken in parts that fit; where too little fits, a layer keeps its input alone. So a run
takes what there is, up to what it has a use for, and its least is what has to fit.
"""

from dataclasses import dataclass

from trimtab.plan.shape import ModelShape

# Tokens of a part: the most and, with everything kept, the fewest.
WIDEST, NARROWEST = 16384, 4096
# The share of free memory that activations may take.
SHARE = 0.8
# Beside it: logits of a tile and their gradient, matrices widened out of 4 bits, what an allocator
# cannot give out.
RESERVED = 2 << 30


@dataclass(frozen=True, slots=True)
class Pass:
    """Tokens of one pass forward and back, the bytes that it holds, and whether all is kept."""

    tokens: int
    bytes: int
    kept: bool


def widest_pass(
    shape: ModelShape,
    batch: int,
    free: int,
    *,
    width: int,
    longest: int,
    parted: bool,
    checkpointed: bool = False,
) -> Pass:
    """The pass over a batch of so many tokens, on a card with `free` bytes beside what is held, in
    numbers of `width` bytes. Where it is `parted`, a record is never cut: one pass holds at least
    the `longest`; else all of the batch is in one. `checkpointed`: nothing more is kept in any
    case.
    """
    room = max(0, int(SHARE * (free - RESERVED)))
    each = bytes_kept(shape, width)
    wanted = min(batch, WIDEST) if parted else batch
    fewest = min(wanted, NARROWEST) if parted else wanted
    if room // each >= fewest and not checkpointed:
        tokens = min(wanted, room // each)
        return Pass(tokens, tokens * each, kept=True)
    each = bytes_checkpointed(shape, width)
    tokens = max(longest, min(wanted, room // each)) if parted else wanted
    return Pass(tokens, tokens * each, kept=False)


def bytes_kept(shape: ModelShape, width: int) -> int:
    """Of a token, in all layers, and of the gradients of the widest one."""
    return width * (shape.layers * _kept(shape) + _passing(shape))


def bytes_checkpointed(shape: ModelShape, width: int) -> int:
    """Of a token, where a layer keeps its input alone: and of the one that is computed again."""
    return width * (shape.layers * shape.hidden + _kept(shape) + _passing(shape))


def _kept(shape: ModelShape) -> int:
    """Numbers that a layer keeps of a token: two norms' inputs and outputs, queries, attention's
    output; keys and values; gate, up and their product.
    """
    return 6 * shape.hidden + 2 * shape.key_values + 3 * shape.intermediate


def _passing(shape: ModelShape) -> int:
    """Numbers of a token's gradients while one layer is at work."""
    return 4 * shape.hidden + 4 * shape.intermediate
