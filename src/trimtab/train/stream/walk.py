"""One pass of a Llama, Mistral, Qwen2 or Qwen3 over a stream, through kernels of our own.

The modules, weights and adapters are those of transformers and PEFT; only how they are computed is
ours. What an adapter put into a layer that is no plain low-rank pair is called as the module it is.
Imports torch, transformers and peft.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from trimtab.train.room import keeps
from trimtab.train.stream.attention import BranchAttention
from trimtab.train.stream.cuda.varlen import Lengths, attention, flashes
from trimtab.train.stream.kernels import Gated, Pair, Projections, RootNorm
from trimtab.train.stream.stream import TILE, Block, Stream
from trimtab.train.stream.upload import upload

Model = PeftModel | PreTrainedModel

# Layers of one shape, plain causal attention in each and a bare linear head, of words or of scores.
ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# What is computed here, by device: on a card also as accelerate's autocast has it.
WIDTHS = {
    "cpu": frozenset({torch.float32}),
    "cuda": frozenset({torch.float32, torch.bfloat16}),
}
# By name, for bitsandbytes and what PEFT has for it are imported where a base lies in 4 bits.
FOUR_BITS = "bitsandbytes.nn.modules.Linear4bit"
PAIRED = frozenset({"peft.tuners.lora.layer.Linear", "peft.tuners.lora.bnb.Linear4bit"})
# Set on a model that several processes train: what wraps its layers must see each of them called,
# to know when to gather weights and when to average gradients.
IN_RANKS = "in_ranks"
# Set on a model that is trained on rows of at most so many tokens: none leaves a window as wide.
LONGEST = "longest"


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

    By one process, in float32 or on a card in bfloat16, a known architecture without windows that
    a row would leave and without dropout in its attention, its modules as transformers made them
    but for what PEFT put into the layers.
    """
    causal: Any = bare(model)
    config: Any = causal.config
    if config.model_type not in ARCHITECTURES or learns_prompt(model):
        return False
    if hasattr(causal, IN_RANKS):
        return False
    plain = _sees_all(causal) and getattr(config, "attention_dropout", 0.0) == 0
    gated = config.hidden_act == "silu"
    # A scalar head is called as the module it is.
    bare_head = hasattr(causal, "score") or type(causal.get_output_embeddings()) is nn.Linear
    at_home = causal.dtype in WIDTHS.get(causal.device.type, ())
    return plain and gated and at_home and bare_head and _untouched(causal)


def _sees_all(causal: Any) -> bool:
    """Whether every token sees all that is before it in its row."""
    config = causal.config
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    # Of the others the layers' types say whether the window is used.
    window = config.sliding_window if config.model_type == "mistral" else None
    return window is None or getattr(causal, LONGEST, math.inf) <= window


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
    """The last hidden states that predict the labels: [labels, width].

    Where the model is set to checkpoint activations, or the device has no room for them, a layer
    keeps its input alone and is computed again in the backward pass.
    """
    causal: Any = bare(model)
    backbone = causal.base_model
    device = causal.device
    x = backbone.embed_tokens(upload(stream.tokens, device))
    width = _width(x)
    turn = _turns(backbone, x, stream.positions, width)
    size = backbone.layers[0].self_attn.head_dim
    flash = flashes(x.new_empty(0, dtype=width), size)
    tile = len(stream.tokens) if flash else TILE
    layer_of: Any = _layer
    if torch.is_grad_enabled() and not keeps(causal, len(stream.tokens)):
        layer_of = partial(checkpoint, _layer, use_reentrant=False, preserve_rng_state=drops(model))
    seen = _seen(stream.blocks(tile), len(stream.tokens), device, flash)
    for layer in backbone.layers[:-1]:
        x = layer_of(layer, x, width, None, turn, turn, seen)
    places, blocks = stream.asked(tile)
    rows = upload(places, device)
    asked = (turn[0].index_select(0, rows), turn[1].index_select(0, rows))
    seen = _seen(blocks, len(stream.tokens), device, flash)
    x = layer_of(backbone.layers[-1], x, width, rows, asked, turn, seen)
    where = torch.empty(len(stream.tokens), dtype=torch.long)
    where[torch.tensor(places)] = torch.arange(len(places))
    sources = upload(where[torch.tensor(stream.sources)], device)
    return _norm(backbone.norm, x.index_select(0, sources), width)


def _width(x: Tensor) -> torch.dtype:
    """What products are computed in: autocast narrows those of a model that is kept wider."""
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return x.dtype


def _turns(
    backbone: Any, x: Tensor, positions: Sequence[int], width: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [tokens, D / 2]: transformers repeats them for the other half."""
    cos, sin = backbone.rotary_emb(x[None], upload([*positions], x.device)[None])
    half = cos.shape[-1] // 2
    return (
        cos[0, :, :half].to(width).contiguous(),
        sin[0, :, :half].to(width).contiguous(),
    )


def _seen(
    blocks: list[Block], tokens: int, device: torch.device, flash: bool
) -> list[Block] | Lengths:
    return Lengths.of(blocks, tokens, device) if flash else blocks


def _layer(
    layer: Any,
    x: Tensor,
    width: torch.dtype,
    rows: Tensor | None,
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    seen: list[Block] | Lengths,
) -> Tensor:
    """A layer's output for all places, or for `rows` alone; its products are in `width`."""
    heads, mlp = layer.self_attn, layer.mlp
    normed = _norm(layer.input_layernorm, x, width)
    if rows is None:
        q, k, v = project(normed, heads.q_proj, heads.k_proj, heads.v_proj)
    else:
        # In this order, so that a seed's masks fall to the same maps as in PEFT.
        (q,) = project(normed.index_select(0, rows), heads.q_proj)
        k, v = project(normed, heads.k_proj, heads.v_proj)
        x = x.index_select(0, rows)
    size = heads.head_dim
    if hasattr(heads, "q_norm"):
        q = _norm(heads.q_norm, q.view(len(q), -1, size), width).flatten(1)
        k = _norm(heads.k_norm, k.view(len(k), -1, size), width).flatten(1)
    if isinstance(seen, Lengths):
        mixed = attention(q, k, v, turn_q, turn_k, seen, size)
    else:
        mixed = BranchAttention.apply(q, k, v, turn_q, turn_k, seen, size)  # type: ignore[no-untyped-call]
    x = x + project(mixed, heads.o_proj)[0]
    normed = _norm(layer.post_attention_layernorm, x, width)
    gate, up = project(normed, mlp.gate_proj, mlp.up_proj)
    gated = Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return x + project(gated, mlp.down_proj)[0]


def _norm(module: Any, x: Tensor, width: torch.dtype) -> Tensor:
    found: Tensor = RootNorm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return found.to(width)


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
    if b.bias is not None or a.weight.dtype not in WIDTHS[a.weight.device.type]:
        return None
    rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    return Pair(module.scaling[name], rate), (base.weight, base.bias, a.weight, b.weight)


def _plain(module: Any) -> bool:
    """Whether it is a matrix of a width computed here, or one in 4 bits that is multiplied so."""
    widths = WIDTHS[module.weight.device.type]
    if type(module) is nn.Linear:
        return module.weight.dtype in widths
    if _named(module) != FOUR_BITS:
        return False
    packing = module.weight.quant_state
    # Where a processor has a kernel for it, what does not learn may lie in an order of its own.
    reordered = getattr(packing, "packing_format_for_cpu", False)
    return not reordered and packing.dtype == module.compute_dtype and packing.dtype in widths


def _named(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
