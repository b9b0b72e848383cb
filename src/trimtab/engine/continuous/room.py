"""How much a step takes at once, and how much is remembered, by the device that computes it."""

import sys
from dataclasses import dataclass

import torch

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.errors import EngineError

CACHE_BYTES = 2**30
"""What keys and values may take on a CPU; a whole context always has room."""
CACHE_SHARE = 0.25
"""The same on a GPU, of the memory that is free beside the weights: other bases and encoders may
follow, or a run train beside.
"""
LONGEST_SHARE = 0.6
"""Of that memory, for the sake of one whole context that needs more."""
PROMPT_TOKENS = 4096
"""Of prompts in one step, at most."""
THREAD_PROMPT_TOKENS = 48
"""The same on a CPU, for each of its threads: with more the weights are read no more often than
used, and who came first would wait for who came next.
"""
RUNNING = 32
"""Sequences in one step."""
GPU_RUNNING = 128
"""The same on a GPU, where a step of many takes hardly longer than one of few."""


@dataclass(frozen=True, slots=True)
class Room:
    prompt_tokens: int
    running: int
    cache_bytes: int
    longest_bytes: int = sys.maxsize

    def blocks(self, context: int, each: int) -> int:
        """How many blocks of `each` bytes are remembered: for a whole context at least, where that
        finds room at all. Raises EngineError where there is none for anything.
        """
        whole = -(-context // BLOCK) + 1
        count = max(self.cache_bytes // each, min(whole, self.longest_bytes // each))
        if count < 2:
            raise EngineError(
                f"beside its weights the base needs {2 * each} bytes for keys and values at least",
                hint="stop what else uses the device, or serve a smaller base",
            )
        return count


def room(device: torch.device) -> Room:
    """Ask when the weights are there."""
    if device.type == "cpu":
        prompts = THREAD_PROMPT_TOKENS * max(2, torch.get_num_threads())
        return Room(prompts, RUNNING, CACHE_BYTES)
    if device.type != "cuda":
        return Room(PROMPT_TOKENS, GPU_RUNNING, CACHE_BYTES)
    free, _ = torch.cuda.mem_get_info(device)
    shares = (int(share * free) for share in (CACHE_SHARE, LONGEST_SHARE))
    return Room(PROMPT_TOKENS, GPU_RUNNING, *shares)
