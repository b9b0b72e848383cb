"""PPO: clipped steps towards reward, advantages by a value head that learns along (TRL has it no
more). The rollouts, and the penalty's reference, are those of GRPO. Imports torch and trl.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from trimtab.train.online import advantage as ppo
from trimtab.train.online.rollouts import RolloutTrainer, built
from trimtab.train.prepare import Prepared
from trimtab.train.stream.fused import as_stream
from trimtab.train.stream.stream import IGNORED
from trimtab.train.stream.walk import bare, hidden_states, walkable
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch.watch import Watch

HEAD = "value_head"


@dataclass
class PPOConfig(GRPOConfig):
    """Beside GRPO's fields those of the value head; `beta` weighs the penalty, `epsilon` clips."""

    beta: float = 0.05
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_clip: float = 0.2
    value_weight: float = 0.1


class SealedPPO(RolloutTrainer, GRPOTrainer):
    """PPO over prompts that are tokens already.

    The head is a linear map of the last hidden state in float32. It hangs on the model while the
    run lasts, so that optimizer and checkpoints hold it, and is no part of what the run leaves. It
    reads the states of the text alone: what virtual tokens add is the policy's, not the baseline's.
    """

    def __init__(self, *, prepared: Prepared, **given: Any) -> None:
        causal = bare(prepared.attached.model)
        head = torch.nn.Linear(causal.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        causal.add_module(HEAD, head.to(causal.device))
        self._ppo: PPOConfig = given["args"]
        super().__init__(prepared=prepared, **given)

    @property
    def _head(self) -> torch.nn.Linear:
        head: torch.nn.Linear = getattr(bare(self.accelerator.unwrap_model(self.model)), HEAD)
        return head

    def _calculate_rewards(self, *given: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*given)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """GRPO's rollouts, their advantages taken token by token instead of group by group."""
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = made["completion_mask"]
        with torch.no_grad():
            old, _ = self._logps(made)
            values = self._values(made)
        kl = old - made["ref_per_token_logps"] if "ref_per_token_logps" in made else 0 * old
        weights = self.reward_weights.to(self._rewards)
        rewards = ppo.token_rewards((self._rewards * weights).sum(dim=1), kl, mask, self.beta)
        found, returns = ppo.advantages(
            rewards, values, mask, self._ppo.gamma, self._ppo.gae_lambda
        )
        own_kl = ppo.masked_mean(kl, mask).item()
        self._metrics["train"]["kl"].append(self.mean_over_tokens(own_kl, mask))
        return made | {
            "advantages": ppo.whitened(found, mask, self.over_ranks(found[mask.bool()])),
            "returns": returns,
            "old_values": values,
            "old_per_token_logps": old,
        }

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        mask = inputs["completion_mask"]
        logps, entropy = self._logps(inputs)
        values = self._values(inputs)
        old = inputs["old_per_token_logps"]
        policy, value = (
            (each * mask).sum() / self.counted(mask.sum())
            for each in (
                ppo.policy_losses(logps, old, inputs["advantages"], self.epsilon_low),
                ppo.value_losses(
                    values, inputs["old_values"], inputs["returns"], self._ppo.value_clip
                ),
            )
        )
        metrics = self._metrics["train"]
        metrics["policy_loss"].append(policy.item())
        metrics["value_loss"].append(value.item())
        metrics["entropy"].append(ppo.masked_mean(entropy, mask).item())
        loss: Tensor = policy + self._ppo.value_weight * value
        return loss / float(self.current_gradient_accumulation_steps)

    def _logps(self, made: dict[str, Any]) -> tuple[Tensor, Tensor]:
        tokens, seen, kept = _joined(made)
        logps, entropy, _ = self._get_per_token_logps_and_entropies(
            self.model, tokens, seen, kept, compute_entropy=True
        )
        return logps, entropy

    def _values(self, made: dict[str, Any]) -> Tensor:
        """What is expected before each token of the answer: [answers, tokens], 0 behind its end
        where the stream computes it.
        """
        tokens, seen, kept = _joined(made)
        model: Any = self.accelerator.unwrap_model(self.model)
        if walkable(model):
            labels = tokens.masked_fill(seen == 0, IGNORED)
            labels[:, :-kept] = IGNORED
            with self.narrowing():
                asked = hidden_states(model, as_stream(model, tokens, seen, labels))
            found: Tensor = self._head(asked.float()).squeeze(-1)
            mask = seen[:, -kept:].bool()
            return found.new_zeros(mask.shape).masked_scatter(mask, found)
        backbone: Any = bare(model).base_model
        with self.accelerator.autocast():
            hidden = backbone(input_ids=tokens, attention_mask=seen, use_cache=False)
        states = hidden.last_hidden_state[:, -kept - 1 : -1].float()
        values: Tensor = self._head(states).squeeze(-1)
        return values

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        # The head lies in the folder before it is sealed.
        folder = self._checkpoint(self.state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self._head.state_dict()), folder / f"{HEAD}.safetensors")
        super()._write_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._head.load_state_dict(load_file(Path(resume_from_checkpoint) / f"{HEAD}.safetensors"))

    def finish(self) -> None:
        """Take the head off again."""
        delattr(bare(self.accelerator.unwrap_model(self.model)), HEAD)


def _joined(made: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
    tokens = torch.cat([made["prompt_ids"], made["completion_ids"]], dim=1)
    seen = torch.cat([made["prompt_mask"], made["completion_mask"]], dim=1)
    return tokens, seen, made["completion_ids"].shape[1]


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    return built(SealedPPO, prepared, checkpoints, watch)
