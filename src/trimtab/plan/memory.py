"""How many bytes training needs, term by term."""

from dataclasses import asdict, dataclass, fields

from trimtab.plan.card import RESERVED, widest_pass
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work

# The interpreter with torch, transformers, trl and peft imported: 490 MB measured, and room to run.
PROCESS = 600 * 2**20
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
# nf4 with double quantisation: 4.127 bits a parameter (Dettmers et al. 2023, section 3).
NF4_BYTES = 4.127 / 8
# Adam keeps two float32 moments a trained parameter, beside its gradient.
ADAM_BYTES, GRADIENT_BYTES, TRAINED_BYTES = 8, 4, 4
# Temporaries of the backward pass and what an allocator cannot give back, over what is saved for
# it; 1.5 was fitted on a 135M model at 512 and 1990 tokens.
SLACK = 1.5
METHODS = ("lora", "rslora", "dora", "qlora", "ia3", "prompt", "prefix", "bottleneck", "full")
# Those that compute an inner state of the rank's width beside the layers.
BESIDE = ("lora", "rslora", "dora", "qlora", "bottleneck")
# Logits, their log-softmax and its gradient, in float32.
LOGIT_COPIES = 3
# What the full weights of probes need free on a card, over their size; else the CPU computes them.
SERVED_ROOM = 1.3


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of a run. `served` is what the full weights that golden probes are measured
    over take beyond a step, where training has them in 4 bits.
    """

    process: int
    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    served: int = 0

    @property
    def step(self) -> int:
        """Without what comes behind the last step."""
        return self.total - self.served

    @property
    def total(self) -> int:
        return sum(getattr(self, item.name) for item in fields(self))

    def to_json(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


def training_memory(shape: ModelShape, work: Work, method: str, dtype: str) -> Memory:
    """Peak memory of a method without activation checkpointing.

    Full fine-tuning keeps float32 master weights, gradients and moments whatever the dtype.
    """
    work, width = work.by(method), WEIGHT_BYTES[dtype]
    trained = trained_parameters(shape, work, method)
    weights = frozen_bytes(shape, work, method, width)
    rank = work.rank if method in BESIDE else 0
    saved = saved_elements(shape, rank) * shape.layers * work.widest_batch * width
    activations = round(saved * SLACK)
    logits = round(work.widest_labels * shape.vocabulary * 4 * LOGIT_COPIES)
    served = shape.parameters * width - activations - logits if method == "qlora" else 0
    return Memory(
        process=PROCESS,
        weights=round(weights),
        trained=trained * TRAINED_BYTES,
        gradients=trained * GRADIENT_BYTES,
        optimizer=trained * ADAM_BYTES,
        activations=activations,
        logits=logits,
        served=max(0, served),
    )


def card_memory(shape: ModelShape, work: Work, method: str, dtype: str, memory: int) -> Memory:
    """The same on an accelerator with `memory` bytes of its own, where a run fits its passes to
    what is free; `process` is what it keeps for tiles of logits, widened matrices and the
    allocator. Only what torch holds is counted.
    """
    work, width = work.by(method), WEIGHT_BYTES[dtype]
    trained = trained_parameters(shape, work, method)
    weights = round(frozen_bytes(shape, work, method, width))
    free = memory - weights - trained * (TRAINED_BYTES + GRADIENT_BYTES + ADAM_BYTES)
    # A step is taken in parts; of pairs and answers of the model's own it is a batch at a time.
    parted = work.rows == 1 and not work.written
    batch = work.widest_batch * (work.accumulation if parted else 1)
    taken = widest_pass(
        shape,
        batch,
        free,
        width=width,
        longest=work.longest,
        parted=parted,
        checkpointed=work.checkpointed,
    )
    # Probes come behind the last step, in the place of its activations.
    whole = shape.parameters * width
    served = whole if method == "qlora" and SERVED_ROOM * whole < free else 0
    return Memory(
        process=RESERVED,
        weights=weights,
        trained=trained * TRAINED_BYTES,
        gradients=trained * GRADIENT_BYTES,
        optimizer=trained * ADAM_BYTES,
        activations=taken.bytes,
        logits=0,
        served=max(0, served - taken.bytes - RESERVED),
    )


def frozen_bytes(shape: ModelShape, work: Work, method: str, width: int) -> float:
    """The base, where it is frozen, and the copy that a run is held near, where that is another."""
    if method == "full":
        return 4 * shape.parameters if work.reference else 0
    if method == "qlora":
        return shape.linear_parameters * NF4_BYTES + width * (
            shape.parameters - shape.linear_parameters
        )
    copies = 2 if work.reference and method == "bottleneck" else 1
    return copies * shape.parameters * width


def trained_parameters(shape: ModelShape, work: Work, method: str) -> int:
    """How many numbers a method learns. Raises ProjectError for targets that name no layer."""
    if method == "full":
        return shape.parameters
    if method == "ia3":
        return shape.layers * (2 * shape.key_values + shape.intermediate)
    if method == "prompt":
        return work.rank * shape.hidden
    if method == "prefix":
        return work.rank * shape.layers * 2 * shape.key_values
    if method == "bottleneck":
        narrow = 2 * shape.hidden * work.rank + shape.hidden + work.rank
        return 2 * shape.layers * narrow
    pairs = shape.lora_parameters(work.targets, work.rank)
    return pairs + (shape.target_outputs(work.targets) if method == "dora" else 0)


def saved_elements(shape: ModelShape, rank: int) -> int:
    """Elements that one layer saves a token for the backward pass of adapters on all its linears.

    Six times hidden (two norms' inputs and outputs, queries, attention's output), the keys and
    values, four times intermediate (gate, its activation, up, their product), the adapters' inner
    states, and the statistics of norms and attention. Counted with saved-tensor hooks.
    """
    return (
        6 * shape.hidden
        + 2 * shape.key_values
        + 4 * shape.intermediate
        + 7 * rank
        + shape.heads
        + 2
    )
