"""The loss of a batch whose prompts begin alike, computed without repeating their beginning.

Fine-tuning data of one task share a system message. Under causal attention its hidden states and
keys are the same in every row, so they are computed once and their keys and values repeated; and
logits are computed only where there are labels. Loss and gradients are those of the plain
computation, which tests hold it to. Knows nothing of trainers.
"""

from typing import Any

import torch.nn.functional as functional
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

Model = PeftModel | PreTrainedModel

# Plain causal attention in every layer and a bare linear head: what the identity above rests on.
ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
# Below this many tokens a second pass through the layers costs more than it saves.
SHORTEST = 16
IGNORED = -100
# Set on a model that several processes train: its layers must be called once each and in order,
# for that is how what wraps them knows when to gather weights and when to average gradients.
IN_RANKS = "in_ranks"


def bare(model: Model) -> PreTrainedModel:
    """The causal language model itself, with whatever an adapter put into its layers."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    found: PreTrainedModel = causal
    return found


def learns_prompt(model: Model) -> bool:
    """Whether an adapter puts something before the prompt, which `bare` would leave out."""
    return isinstance(model, PeftModel) and any(
        adapter.is_prompt_learning for adapter in model.peft_config.values()
    )


def shares_prefix(model: Model) -> bool:
    """Whether a prefix may be shared: known architecture, no sliding window, no dropout.

    With dropout a shared prefix would be masked alike in every row, which is another computation.
    """
    config: Any = bare(model).config
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    adapters = model.peft_config.values() if isinstance(model, PeftModel) else ()
    dropout = max((getattr(adapter, "lora_dropout", 0) for adapter in adapters), default=0)
    attention = getattr(config, "attention_dropout", 0.0)
    plain = set(layers) == {"full_attention"} and dropout == 0 and attention == 0
    known = config.model_type in ARCHITECTURES
    checkpointed = bare(model).is_activation_checkpointing
    ranked = hasattr(bare(model), IN_RANKS)
    return known and plain and not checkpointed and not learns_prompt(model) and not ranked


def shared_prefix(tokens: Tensor, labels: Tensor) -> int:
    """How many leading columns are the same in every row and predict no label.

    `tokens` and `labels` are [batch, length], padded on the right; 0 where sharing does not pay.
    """
    same = (tokens == tokens[0]).all(dim=0).long().cumprod(dim=0)
    first = int((labels != IGNORED).any(dim=0).long().argmax())
    length = min(int(same.sum()), first - 1)
    return length if length >= SHORTEST and tokens.shape[0] > 1 else 0


def label_logprobs(model: Model, tokens: Tensor, labels: Tensor) -> Tensor:
    """Natural log-probabilities of the labels, row by row: one number for each label not ignored.

    `tokens` and `labels` are [batch, length], padded on the right. No attention mask is needed:
    padding stands after everything that counts, where causal attention cannot see it.
    """
    causal: Any = bare(model)
    if shares_prefix(model):
        prefix = shared_prefix(tokens, labels)
        targets = labels[:, prefix + 1 :]
        hidden = _hidden_states(causal, tokens, prefix)[:, :-1]
        logits = causal.get_output_embeddings()(hidden[targets != IGNORED])
    else:
        targets = labels[:, 1:]
        # What is learnt before the prompt comes back before the columns that were asked for.
        logits = model(input_ids=tokens).logits[:, -tokens.shape[1] : -1][targets != IGNORED]
    wanted = targets[targets != IGNORED]
    return -functional.cross_entropy(logits.float(), wanted, reduction="none")


def _hidden_states(causal: Any, tokens: Tensor, prefix: int) -> Tensor:
    """Last hidden states of the columns from `prefix` on: [batch, length - prefix, hidden]."""
    backbone = causal.base_model
    if not prefix:
        states: Tensor = backbone(input_ids=tokens, use_cache=False).last_hidden_state
        return states
    cache = backbone(input_ids=tokens[:1, :prefix], use_cache=True).past_key_values
    cache.batch_repeat_interleave(tokens.shape[0])
    states = backbone(
        input_ids=tokens[:, prefix:], past_key_values=cache, use_cache=True
    ).last_hidden_state
    return states
