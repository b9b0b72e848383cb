"""One pass of a Llama, Qwen2 or Qwen3 over a stream, through kernels of our own.

The modules, weights and adapters are those of transformers and PEFT; only how they are computed is
ours. What an adapter put into a layer that is no plain low-rank pair is called as the module it is.
Imports torch, transformers and peft.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.train.attention import BranchAttention
from trimtab.train.kernels import Gated, Pair, Projections, RootNorm
from trimtab.train.stream import Stream

Model = PeftModel | PreTrainedModel

# Layers of one shape, plain causal attention in each and a bare linear head, of words or of scores.
ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
# By name, for bitsandbytes and what PEFT has for it are imported where a base lies in 4 bits.
FOUR_BITS = "bitsandbytes.nn.modules.Linear4bit"
PAIRED = frozenset({"peft.tuners.lora.layer.Linear", "peft.tuners.lora.bnb.Linear4bit"})
# Set on a model that several processes train: what wraps its layers must see each of them called,
# to know when to gather weights and when to average gradients.
IN_RANKS = "in_ranks"


def bare(model: Model) -> PreTrainedModel:
    """The language model itself, or the scorer, with whatever an adapter put into its layers."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    found: PreTrainedModel = causal
    return found


def learns_prompt(model: Model) -> bool:
    """Whether an adapter puts something before the prompt, which `bare` would leave out."""
    return isinstance(model, PeftModel) and any(
        adapter.is_prompt_learning for adapter in model.peft_config.values()
    )


def walkable(model: Model) -> bool:
    """Whether a stream is computed here as transformers would compute its rows.

    By one process in float32 on a CPU, a known architecture without sliding windows and without
    dropout in its attention, its modules as transformers made them but for what PEFT put into the
    layers.
    """
    causal: Any = bare(model)
    config: Any = causal.config
    if config.model_type not in ARCHITECTURES or learns_prompt(model):
        return False
    if hasattr(causal, IN_RANKS):
        return False
    windows = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = windows == {"full_attention"} and getattr(config, "attention_dropout", 0.0) == 0
    gated = config.hidden_act == "silu" and not causal.is_activation_checkpointing
    # A scalar head is called as the module it is.
    bare_head = hasattr(causal, "score") or type(causal.get_output_embeddings()) is nn.Linear
    at_home = causal.device.type == "cpu" and causal.dtype == torch.float32
    return plain and gated and at_home and bare_head and _untouched(causal)


def _untouched(causal: Any) -> bool:
    """Whether no hook and no other class stands where a layer's own code would be passed over."""
    module = type(causal).__module__
    return all(
        type(part).__module__ == module and not part._forward_hooks and not part._forward_pre_hooks
        for layer in causal.base_model.layers
        for part in (layer, layer.self_attn, layer.mlp)
    )


def drops(model: Model) -> bool:
    """Whether an adapter drops inputs at random: then what rows share is not the same in each."""
    adapters = model.peft_config.values() if isinstance(model, PeftModel) else ()
    return model.training and any(getattr(adapter, "lora_dropout", 0) for adapter in adapters)


def hidden_states(model: Model, stream: Stream) -> Tensor:
    """The last hidden states that predict the labels: [labels, width]."""
    backbone: Any = bare(model).base_model
    x = backbone.embed_tokens(torch.tensor(stream.tokens))
    turn = _turns(backbone, x, stream.positions)
    blocks = stream.blocks()
    for layer in backbone.layers[:-1]:
        x = _layer(layer, x, None, turn, turn, blocks)
    places, blocks = stream.asked()
    rows = torch.tensor(places)
    asked = (turn[0][rows], turn[1][rows])
    x = _layer(backbone.layers[-1], x, rows, asked, turn, blocks)
    where = torch.empty(len(stream.tokens), dtype=torch.long)
    where[rows] = torch.arange(len(places))
    return _norm(backbone.norm, x[where[torch.tensor(stream.sources)]])


def _turns(backbone: Any, x: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [tokens, D / 2]: transformers repeats them for the other half."""
    cos, sin = backbone.rotary_emb(x[None], torch.tensor([positions]))
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def _layer(
    layer: Any,
    x: Tensor,
    rows: Tensor | None,
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    blocks: list[Any],
) -> Tensor:
    """A layer's output for all places, or for `rows` alone."""
    attention, mlp = layer.self_attn, layer.mlp
    normed = _norm(layer.input_layernorm, x)
    if rows is None:
        q, k, v = project(normed, attention.q_proj, attention.k_proj, attention.v_proj)
    else:
        # In this order, so that a seed's masks fall to the same maps as in PEFT.
        (q,) = project(normed[rows], attention.q_proj)
        k, v = project(normed, attention.k_proj, attention.v_proj)
        x = x[rows]
    size = attention.head_dim
    if hasattr(attention, "q_norm"):
        q = _norm(attention.q_norm, q.view(len(q), -1, size)).flatten(1)
        k = _norm(attention.k_norm, k.view(len(k), -1, size)).flatten(1)
    mixed = BranchAttention.apply(q, k, v, turn_q, turn_k, blocks, size)  # type: ignore[no-untyped-call]
    x = x + project(mixed, attention.o_proj)[0]
    gate, up = project(_norm(layer.post_attention_layernorm, x), mlp.gate_proj, mlp.up_proj)
    gated = Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return x + project(gated, mlp.down_proj)[0]


def _norm(module: Any, x: Tensor) -> Tensor:
    found: Tensor = RootNorm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return found


def project(x: Tensor, *modules: nn.Module) -> tuple[Tensor, ...]:
    """What each module makes of one input, in one go where all are plain maps or their pairs."""
    maps = [_map(module) for module in modules]
    if any(found is None for found in maps):
        return tuple(module(x) for module in modules)
    pairs = tuple(found[0] for found in maps if found)
    weights = [weight for found in maps if found for weight in found[1]]
    outputs: tuple[Tensor, ...] = Projections.apply(x, pairs, *weights)  # type: ignore[no-untyped-call]
    return outputs


def _map(module: Any) -> tuple[Pair, tuple[Tensor | None, ...]] | None:
    """Scaling and dropout, and W, bias, A, B; None where the module computes something else."""
    if _plain(module):
        return Pair(1.0, 0.0), (module.weight, module.bias, None, None)
    if _named(module) not in PAIRED or not _plain(module.base_layer):
        return None
    base = module.base_layer
    if module.disable_adapters:
        return Pair(1.0, 0.0), (base.weight, base.bias, None, None)
    if module.merged or module.lora_variant or [*module.lora_A] != module.active_adapters:
        return None
    (name,) = module.active_adapters
    a, b, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
    if b.bias is not None or a.weight.dtype != torch.float32:
        return None
    rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    return Pair(module.scaling[name], rate), (base.weight, base.bias, a.weight, b.weight)


def _plain(module: Any) -> bool:
    """Whether it is a matrix in float32, or one in 4 bits that is multiplied in float32."""
    if type(module) is nn.Linear:
        return bool(module.weight.dtype == torch.float32)
    if _named(module) != FOUR_BITS:
        return False
    packing = module.weight.quant_state
    # Where a processor has a kernel for it, what does not learn may lie in an order of its own.
    reordered = getattr(packing, "packing_format_for_cpu", False)
    return not reordered and packing.dtype == module.compute_dtype == torch.float32


def _named(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
