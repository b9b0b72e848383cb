"""The reference that an objective is held near: always the base. Imports torch, peft and trl."""

from peft import PeftModel
from transformers import PreTrainedModel

from trimtab.train.model import load
from trimtab.train.prepare import Prepared
from trimtab.train.stream.fused import answer_fast
from trimtab.train.stream.walk import Model, learns_prompt

COPY = "ref"


def frozen_copy(prepared: Prepared) -> PreTrainedModel | None:
    """The base once more; None where switching an adapter of PEFT off is it.

    Bottlenecks could be switched off too, but TRL puts a reference into evaluation mode for good.
    """
    if isinstance(prepared.attached.model, PeftModel):
        return None
    copy = load(prepared.base, prepared.machine, prepared.attached.method)
    copy.requires_grad_(False)
    return copy


def settle_reference(prepared: Prepared, reference: Model | None) -> None:
    """Behind TRL's trainer, which made its `reference` or lets the adapter be switched off: the
    base alone is the reference, and both answer by the stream, where that can.
    """
    _forget_copy(prepared.attached.model)
    answer_fast(prepared.attached.model)
    if reference is not None:
        answer_fast(reference)


def _forget_copy(model: Model) -> None:
    """Drop the second adapter that TRL makes of one that begins as it is.

    A fresh adapter changes nothing, so the base without it gives the same reference, and neither
    memory nor checkpoints carry it twice.
    """
    if not isinstance(model, PeftModel) or COPY not in model.peft_config:
        return
    if learns_prompt(model):
        del model.peft_config[COPY], model.prompt_encoder[COPY], model.prompt_tokens[COPY]
    else:
        model.delete_adapter(COPY)
