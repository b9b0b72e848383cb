"""transformers behind HTTP: `PORT MODEL [ADAPTERS...]`.

What waits is generated together as one static batch, which on a CPU is several times faster than
the library's own continuous batching. Adapters are PEFT's, mixed in a batch.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from queue import Empty, SimpleQueue

import torch
from sse import serve
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Pieces(BaseStreamer):
    """Hands each row's next token to its reader."""

    def __init__(self, tokenizer, rows: list) -> None:
        self._tokenizer, self._rows, self._begun = tokenizer, rows, False

    def put(self, value: torch.Tensor) -> None:
        if not self._begun:  # the prompts come first
            self._begun = True
            return
        for (_, loop, mailbox), token in zip(self._rows, value.tolist(), strict=True):
            loop.call_soon_threadsafe(mailbox.put_nowait, self._tokenizer.decode([token]) or " ")

    def end(self) -> None:
        pass


class Model:
    def __init__(self, folder: str, adapters: list[str]) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if adapters:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, adapters[0], "adapter-0").eval()
            for number, adapter in enumerate(adapters[1:], 1):
                self._model.load_adapter(adapter, f"adapter-{number}")
        self._adapted = bool(adapters)
        self._arrived: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def generate(self, body: dict) -> AsyncIterator[str | int]:
        mailbox: asyncio.Queue = asyncio.Queue()
        self._arrived.put((body, asyncio.get_running_loop(), mailbox))
        while (piece := await mailbox.get()) is not None:
            yield piece

    def _work(self) -> None:
        while True:
            rows = [self._arrived.get()]
            try:
                # Requests of one burst come within milliseconds.
                while len(rows) < 32:
                    rows.append(self._arrived.get(timeout=0.01))
            except Empty:
                pass
            with torch.no_grad():
                self._batch(rows)

    def _batch(self, rows: list) -> None:
        inputs = self._tokenizer(
            [body["prompt"] for body, _, _ in rows], return_tensors="pt", padding=True
        )
        most = max(body["max_tokens"] for body, _, _ in rows)
        more = {}
        if self._adapted:
            names = [body["model"] for body, _, _ in rows]
            more["adapter_names"] = [n if n.startswith("adapter-") else "__base__" for n in names]
        for (_, loop, mailbox), mask in zip(rows, inputs.attention_mask, strict=True):
            loop.call_soon_threadsafe(mailbox.put_nowait, int(mask.sum()))
        self._model.generate(
            **inputs,
            max_new_tokens=most,
            min_new_tokens=most,
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
            streamer=Pieces(self._tokenizer, rows),
            **more,
        )
        for _, loop, mailbox in rows:
            loop.call_soon_threadsafe(mailbox.put_nowait, None)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Model(sys.argv[2], sys.argv[3:]).generate)
