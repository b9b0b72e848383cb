"""OpenVINO GenAI's continuous batching behind HTTP: `PORT MODEL.gguf`."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from queue import Empty, SimpleQueue

import openvino_genai
from sse import serve


class Pipeline:
    """One thread steps the pipeline; event loops wait for what it reads."""

    def __init__(self, model: str) -> None:
        config = openvino_genai.SchedulerConfig()
        config.cache_size = 1
        config.max_num_seqs = 32
        config.enable_prefix_caching = True
        self._pipe = openvino_genai.ContinuousBatchingPipeline(model, config, "CPU")
        self._tokenizer = self._pipe.get_tokenizer()
        self._arrived: SimpleQueue = SimpleQueue()
        self._running: dict = {}
        threading.Thread(target=self._work, daemon=True).start()

    async def generate(self, body: dict) -> AsyncIterator[str | int]:
        mailbox: asyncio.Queue = asyncio.Queue()
        self._arrived.put((body, asyncio.get_running_loop(), mailbox))
        while (piece := await mailbox.get()) is not None:
            yield piece

    def _work(self) -> None:
        count = 0
        while True:
            try:
                while True:
                    body, loop, mailbox = self._arrived.get(block=not self._running)
                    config = openvino_genai.GenerationConfig()
                    config.max_new_tokens = config.min_new_tokens = body["max_tokens"]
                    config.ignore_eos = True
                    ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False).input_ids
                    handle = self._pipe.add_request(count, ids, config)
                    loop.call_soon_threadsafe(mailbox.put_nowait, ids.shape[1])
                    self._running[count] = (handle, loop, mailbox, [])
                    count += 1
            except Empty:
                pass
            self._pipe.step()
            for number, (handle, loop, mailbox, told) in list(self._running.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        told += output.generated_ids
                        text = self._tokenizer.decode(list(output.generated_ids))
                        loop.call_soon_threadsafe(mailbox.put_nowait, text or " ")
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    loop.call_soon_threadsafe(mailbox.put_nowait, None)
                    del self._running[number]


if __name__ == "__main__":
    serve(int(sys.argv[1]), Pipeline(sys.argv[2]).generate)
