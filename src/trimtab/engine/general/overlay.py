"""An adapter laid over a base, whatever kind it is of: LoRA in all its forms and IA3 (PEFT), prompt
and prefix tuning (PEFT), bottlenecks (ours).

Every adapter gets a module tree of its own over the base's tensors, which are shared and not
copied. So adapters of different kinds never meet, one that is refused leaves no trace, and to
forget one is to drop its tree. Knows nothing of requests.
"""

import copy
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file
from transformers import DynamicCache, PreTrainedModel

from trimtab import bottleneck
from trimtab.engine.faults import first_line
from trimtab.engine.general.roomy import new_cache, slides
from trimtab.engine.load import UNREADABLE, first_not_finite
from trimtab.errors import BaseError, IdentityError

FOLDED = ("LORA", "IA3")
SERVED = (*FOLDED, "PROMPT_TUNING", "PREFIX_TUNING", bottleneck.PEFT_TYPE)
HINT = "the adapter was not trained on this base, or its files are damaged"


@dataclass(frozen=True, slots=True)
class Lead:
    """Keys and values of the virtual tokens that go before every prompt: a pair a layer, each
    (1, heads, length, width).
    """

    length: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def fill(self, cache: DynamicCache) -> None:
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, index)


@dataclass(frozen=True, slots=True)
class Overlay:
    """A model that answers with an adapter; `lead` is there for prompt and prefix tuning."""

    model: PreTrainedModel
    lead: Lead | None = None


def lay_over(base: PreTrainedModel, folder: Path) -> Overlay:
    """The adapter in `folder` over a base, which is left as it was.

    Raises IdentityError unless what the result holds equals the file, tensor by tensor: an adapter
    that attaches to nothing would answer as the base does, and nobody would notice.
    """
    try:
        weights = load_file(folder / "adapter_model.safetensors")
        if (kind := _peft_type(folder)) not in SERVED:
            raise ValueError(f"adapters of type {kind} are not served")
        if kind == bottleneck.PEFT_TYPE:
            return Overlay(_with_bottlenecks(base, folder))
        config = PeftConfig.from_pretrained(str(folder), local_files_only=True)
        if isinstance(config, PromptTuningConfig | PrefixTuningConfig):
            return _with_virtual_tokens(base, config, weights)
        adapted: Any = _with_layers(base, config, folder, weights).get_base_model()
        return Overlay(adapted)
    except BaseError as error:
        raise IdentityError(f"{folder}: {error.message}", hint=error.hint) from error
    except IdentityError as error:
        raise IdentityError(f"{folder}: {error.message}", hint=error.hint) from error
    except UNREADABLE as error:
        raise IdentityError(f"{folder}: {first_line(error)}", hint=HINT) from error


def merged(base: PreTrainedModel, folder: Path) -> Overlay:
    """As `lay_over`, with the adapter folded into weights of its own where its kind allows that.

    What cannot be folded, virtual tokens and bottlenecks, stays beside them.
    """
    overlay = lay_over(base, folder)
    if _peft_type(folder) not in FOLDED:
        return overlay
    module: Any
    for module in list(overlay.model.modules()):
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            # The base's tensors are shared: the fold is made in a copy.
            module.base_layer = copy.deepcopy(module.base_layer)
            module.merge()
    return overlay


def _with_layers(
    base: PreTrainedModel, config: PeftConfig, folder: Path, weights: dict[str, torch.Tensor]
) -> PeftModel:
    if isinstance(config, LoraConfig):
        width = base.config.get_text_config().hidden_size
        if config.r > width:
            raise IdentityError(
                f"its rank of {config.r} is more than the base is wide, {width}", hint=HINT
            )
        if not math.isfinite(config.lora_alpha):
            raise IdentityError(f"its alpha is {config.lora_alpha}", hint=HINT)
        # Some starts, PiSSA for one, take parts out of the base's weights; training did that.
        config.init_lora_weights = True
    config.inference_mode = True
    model = PeftModel(_twin(base), config)
    model.load_adapter(str(folder), "default", local_files_only=True)
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    _compare(weights, held)
    return model.eval()


def _with_virtual_tokens(
    base: PreTrainedModel,
    config: PromptTuningConfig | PrefixTuningConfig,
    weights: dict[str, torch.Tensor],
) -> Overlay:
    if slides(new_cache(base.config)):
        # Padding lies between them and a row's own tokens, and the window would count it.
        raise ValueError("virtual tokens are not served over sliding windows of attention")
    config.inference_mode = True
    if isinstance(config, PromptTuningConfig):
        # Training began with the words of a text, perhaps; what it made of them is in the file.
        config.prompt_tuning_init = PromptTuningInit.RANDOM
    twin = _twin(base)
    model = PeftModel(twin, config)
    encoder: Any = model.prompt_encoder["default"]
    held = {"prompt_embeddings": encoder.embedding.weight}
    _compare(weights, held, equal=False)
    with torch.no_grad():
        encoder.embedding.weight.copy_(weights["prompt_embeddings"])
    model.eval()
    with torch.inference_mode():
        cache: Any
        if isinstance(config, PromptTuningConfig):
            cache = new_cache(base.config)
            places = torch.arange(config.num_virtual_tokens, device=base.device).unsqueeze(0)
            embeddings = model.get_prompt(batch_size=1).to(base.dtype)
            base(inputs_embeds=embeddings, position_ids=places, past_key_values=cache)
        else:
            cache = model.get_prompt(batch_size=1)
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Overlay(base, Lead(config.num_virtual_tokens, layers))


def _with_bottlenecks(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model = _twin(base)
    bottleneck.load(model, folder).to(base.dtype)
    return model


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """Other modules over the same tensors."""
    shared = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _compare(
    weights: dict[str, torch.Tensor], held: dict[str, torch.Tensor], equal: bool = True
) -> None:
    """Raises IdentityError where names, shapes or, unless told otherwise, numbers differ."""
    strays = sorted(weights.keys() ^ held.keys())
    if strays or not weights:
        raise IdentityError(
            f"{len(strays)} of {len(weights)} weights attach to nothing or are missing"
            + (f", the first is {strays[0]}" if strays else ""),
            hint=HINT,
        )
    if broken := first_not_finite(weights.items()):
        raise IdentityError(f"{broken} holds NaN or infinity", hint=HINT)
    for key, weight in weights.items():
        if held[key].shape != weight.shape:
            found, wanted = tuple(weight.shape), tuple(held[key].shape)
            raise IdentityError(f"{key} is of shape {found}, not {wanted}", hint=HINT)
        if equal and not torch.equal(held[key].cpu(), weight.to(held[key].dtype)):
            raise IdentityError(f"{key} was not loaded as it is", hint=HINT)


def _peft_type(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_bytes()).get("peft_type"))
