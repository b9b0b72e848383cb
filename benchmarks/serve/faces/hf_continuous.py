"""transformers' own continuous batching on a GPU, behind HTTP: `PORT MODEL`. The base alone: it
mixes no adapters. Where there is no GPU it computes all the same, so that this can be tried there.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator

import torch
from sse import serve
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

# Of the card's free memory: other systems start and wait beside it.
SHARE = 0.15
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Model:
    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model = model.to(DEVICE).eval()
        self._numbers = itertools.count()
        self._manager = model.init_continuous_batching(
            # No token ends an answer: each is as long as it was asked to be.
            GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=64),
            ContinuousBatchingConfig(max_memory_percent=SHARE),
        )
        self._manager.warmup()
        self._manager.start()

    async def generate(self, body: dict) -> AsyncIterator[str | int]:
        ids = self._tokenizer(body["prompt"]).input_ids
        yield len(ids)
        name, told = f"request-{next(self._numbers)}", asyncio.Queue()
        self._manager.register_result_handler(name, told.put_nowait)
        self._manager.add_request(
            ids, request_id=name, max_new_tokens=body["max_tokens"], streaming=True
        )
        seen = 0
        while True:
            output = await told.get()
            if output.error:
                raise RuntimeError(output.error)
            if new := output.generated_tokens[seen:]:
                seen += len(new)
                yield self._tokenizer.decode(new) or " "
            if output.is_finished():
                return


if __name__ == "__main__":
    serve(int(sys.argv[1]), Model(sys.argv[2]).generate)
