"""Bottleneck adapters (Houlsby et al. 2019), which are ours and not PEFT's: see `bottleneck`."""

from transformers import PreTrainedModel

from trimtab.bottleneck import Attached, BottleneckConfig, attach
from trimtab.train.settings import TrainSettings


def attached(model: PreTrainedModel, settings: TrainSettings) -> Attached:
    """Put bottlenecks `train.rank` wide behind every sublayer; all else is frozen.

    Raises BaseError where the architecture has no sublayer that they could follow.
    """
    model.requires_grad_(False)
    return attach(model, BottleneckConfig(size=settings.rank))
