"""How long training takes and what it costs, from counted operations and a measured rate."""

from dataclasses import asdict, dataclass

from trimtab.plan.machine import Machine
from trimtab.plan.memory import WEIGHT_BYTES, trained_parameters
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work

# The share of the machine's rate that a step reaches; 0.6 to 0.7 was measured at 135M parameters.
EFFICIENCY = 0.6
# One more token of every answer in a batch is a pass of few rows: much is read, little computed. Of
# eight answers at 135M parameters on one core, by benchmarks/train/writing.py.
WRITING = 0.25
# Importing the libraries, and reading and hashing the weights, in seconds and bytes a second.
START_S, READ_RATE = 12.0, 5e8
# Golden probes score this many prompts, and twice.
PROBE_PROMPTS = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """`operations` of training; seconds to start, to train and to probe; US dollars for all
    `machines` from beginning to end.
    """

    operations: float
    start_s: float
    training_s: float
    probes_s: float
    usd: float
    machines: int = 1

    @property
    def seconds(self) -> float:
        return self.start_s + self.training_s + self.probes_s

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"seconds": self.seconds}


def training_cost(
    shape: ModelShape, work: Work, method: str, machine: Machine, devices: int = 1
) -> Cost:
    """Time at the machine's measured rate, of `devices` like its own; price at its price an hour,
    of as many machines like it as they lie in. What ranks send each other is not counted.
    """
    operations = training_operations(shape, work, method)
    training = operations / (machine.rate * EFFICIENCY)
    training += writing_operations(shape, work) / (machine.rate * WRITING)
    training /= devices
    start = START_S + shape.parameters * WEIGHT_BYTES[machine.dtype] / READ_RATE
    probed = 2 * min(PROBE_PROMPTS, work.records) * work.tokens / work.records
    probes = probed * 2 * shape.linear_parameters / (machine.rate * EFFICIENCY)
    hours, machines = (start + training + probes) / 3600, machine.holding(devices)
    usd = hours * machine.usd_hour * machines
    return Cost(operations, start, training, probes, usd, machines)


def training_operations(shape: ModelShape, work: Work, method: str) -> float:
    """Floating-point operations of the whole run, but those of writing answers.

    A frozen matrix costs 4 a parameter and token (2 forward, 2 for the gradient of its input), a
    trained one 6; attention 12 x hidden x length a layer and token (scores and values, forward and
    twice that backward; Kaplan et al. 2020, section 2.1); the head is computed where labels are.
    """
    work, trained = work.by(method), trained_parameters(shape, work, method)
    full = method == "full"
    forward = 2 * work.forwards
    matrices = shape.linear_parameters * ((6 if full else 4) + forward)
    matrices += 0 if full else 6 * trained
    length = work.tokens / work.records / work.rows
    attention = (12 + 2 * forward) * shape.layers * shape.hidden * length
    head = shape.vocabulary * shape.hidden * ((6 if full else 4) + forward)
    return (matrices + attention) * work.computed_tokens + head * work.labelled_tokens


def writing_operations(shape: ModelShape, work: Work) -> float:
    """Operations of the model's own answers: each token of each row once through every matrix."""
    rows = work.rows * min(work.batch_size, work.records)
    parameters = shape.linear_parameters + shape.vocabulary * shape.hidden
    return 2 * parameters * rows * work.steps_of_writing
