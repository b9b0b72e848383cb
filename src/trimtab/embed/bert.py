"""BERT's forward pass (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), in plain torch.

Reads a folder as the Hub lays it out: `config.json` and `model.safetensors`. Knows nothing of
tokenizers or of pooling.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trimtab.errors import BaseError

# What this code computes; a model that differs in one of them would come out wrong, not slow.
COMPUTED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
}


class Bert:
    """An encoder's layers in float32. Raises BaseError for a folder that holds something else."""

    def __init__(self, folder: Path) -> None:
        try:
            config = json.loads((folder / "config.json").read_bytes())
            weights = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise BaseError(f"{folder}: no encoder can be read: {error}") from error
        for field, value in COMPUTED.items():
            if config.get(field, value) != value:
                raise BaseError(
                    f"{folder}: its {field} is {config[field]!r}; only {value!r} is computed here",
                    hint="take an encoder of the BERT family, e.g. all-minilm-l6-v2",
                )
        self._weights = {name.removeprefix("bert."): w.float() for name, w in weights.items()}
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self.width = int(config["hidden_size"])
        self.vocabulary = int(config["vocab_size"])

    @torch.inference_mode()
    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (batch, tokens, width) of token ids (batch, tokens).

        `mask` (batch, tokens) is true where there is a token and false where there is padding.
        """
        states = self._embedded(ids)
        seen = mask[:, None, None, :]
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            mixed = self._attended(states, seen, f"{layer}.attention")
            states = self._normed(states + mixed, f"{layer}.attention.output.LayerNorm")
            inner = F.gelu(self._linear(states, f"{layer}.intermediate.dense"))
            inner = self._linear(inner, f"{layer}.output.dense")
            states = self._normed(states + inner, f"{layer}.output.LayerNorm")
        return states

    def _embedded(self, ids: Tensor) -> Tensor:
        def table(name: str) -> Tensor:
            return self._weights[f"embeddings.{name}.weight"]

        words = F.embedding(ids, table("word_embeddings"))
        places = table("position_embeddings")[: ids.shape[1]]
        # One text alone is all of the first type.
        states = words + places + table("token_type_embeddings")[0]
        return self._normed(states, "embeddings.LayerNorm")

    def _attended(self, states: Tensor, seen: Tensor, name: str) -> Tensor:
        batch, tokens, width = states.shape

        def heads(which: str) -> Tensor:
            found = self._linear(states, f"{name}.self.{which}")
            return found.view(batch, tokens, self._heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads("query"), heads("key"), heads("value"), attn_mask=seen
        )
        return self._linear(
            mixed.transpose(1, 2).reshape(batch, tokens, width), f"{name}.output.dense"
        )

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return F.linear(states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _normed(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(states, (self.width,), weight, bias, self._epsilon)
