"""vLLM's wire format over a real HTTP server, with our own tiny engine behind it.

It speaks what `vllm.entrypoints.openai` of vLLM 0.32 speaks, as seen on the wire, and computes
every answer. Some of vLLM's ways to fail can be planted. `tests/engine/test_vllm_server.py` asks
the same of the real thing.
"""

import asyncio
import json
import secrets
import socket
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from trimtab.engine.local import LocalEngine
from trimtab.errors import IdentityError
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest, VersionFiles

KEY = "sekret"
VERSION = "0.32.0"


@dataclass
class Vllm:
    """`ignores_adapters` answers as the base under an adapter's name; `breaks_after` so many tokens
    the connection of a stream is cut, `ends_after` so many it ends as if all were said; `cached` is
    told as cached tokens; `root` is told in place of the base's path; `busy` is the Retry-After of
    the 429 that every request gets, `fails` the status of another failure.
    """

    base: Path
    context: int = 512
    root: str | None = None
    ignores_adapters: bool = False
    breaks_after: int | None = None
    ends_after: int | None = None
    pause_s: float = 0.0
    cached: int = 0
    busy: str | None = None
    fails: int | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.engine = LocalEngine(self.base, torch.float32, torch.device("cpu"))
        self.model = self.base.name
        asyncio.run(self.engine.load(self._files(self.model, None)))

    def _files(self, name: str, adapter: str | None) -> VersionFiles:
        return VersionFiles(name, self.base, Path(adapter) if adapter else None, self.base, ())

    def app(self) -> FastAPI:
        app = FastAPI()
        loading: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

        app.add_middleware(Keyed)

        @app.get("/version")
        async def version() -> dict[str, str]:
            return {"version": VERSION}

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            base = {"id": self.model, "root": self.root or str(self.base), "parent": None}
            cards = [base | {"max_model_len": self.context}]
            cards += [
                {"id": name, "root": path, "parent": self.model, "max_model_len": None}
                for name, path in self.adapters.items()
            ]
            return {"object": "list", "data": cards}

        @app.post("/v1/load_lora_adapter")
        async def load(body: dict[str, Any]) -> Response:
            name, path = body["lora_name"], body["lora_path"]
            async with loading[name]:
                if name in self.adapters:
                    return refused(400, f"The lora adapter '{name}' has already been loaded.")
                try:
                    files = self._files(name, None if self.ignores_adapters else path)
                    await self.engine.load(files)
                except IdentityError as error:
                    return refused(500, error.message)
                self.adapters[name] = path
            return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

        @app.post("/v1/unload_lora_adapter")
        async def unload(body: dict[str, Any]) -> Response:
            name = body["lora_name"]
            if self.adapters.pop(name, None) is None:
                return refused(404, f"The lora adapter '{name}' cannot be found.")
            await self.engine.unload(name)
            return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

        @app.post("/v1/completions")
        async def completions(body: dict[str, Any]) -> Response:
            self.bodies.append(body)
            if self.busy is not None:
                return PlainTextResponse("busy", 429, headers={"Retry-After": self.busy})
            if self.fails is not None:
                return refused(self.fails, "planted")
            if body["model"] not in (self.model, *self.adapters):
                return refused(404, f"The model `{body['model']}` does not exist.")
            if body.get("stream"):
                return StreamingResponse(self.stream(body), media_type="text/event-stream")
            if any(len(prompt) + 1 > self.context for prompt in body["prompt"]):
                return refused(400, f"This model's maximum context length is {self.context}.")
            return JSONResponse(await self.scored(body))

        return app

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        known = {
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "seed",
        }
        sampling = Sampling(
            **{name: body[name] for name in known & body.keys()},
            stop_tokens=tuple(body["stop_token_ids"]),
            top_logprobs=body["logprobs"],
        )
        request = GenerateRequest(
            body["model"], tuple(body["prompt"]), sampling, secrets.token_hex(8)
        )
        count = 0
        try:
            async for chunk in self.engine.generate(request):
                if count == self.breaks_after:
                    raise RuntimeError("planted: the connection breaks")
                if count == self.ends_after:
                    return
                count += 1
                row = {f"token_id:{t}": value for t, value in (chunk.top[0] if chunk.top else ())}
                row.setdefault(f"token_id:{chunk.tokens[0]}", chunk.logprobs[0])
                choice = {
                    "index": 0,
                    "text": chunk.text,
                    "token_ids": list(chunk.tokens),
                    "finish_reason": chunk.finish_reason,
                    "logprobs": {
                        "token_logprobs": list(chunk.logprobs),
                        "tokens": [f"token_id:{t}" for t in chunk.tokens],
                        "top_logprobs": [row],
                    },
                }
                yield ": a proxy keeps the connection\n\n"
                yield frame({"choices": [{"index": 0, "text": "", "finish_reason": None}]})
                yield frame({"choices": [choice]})
                await asyncio.sleep(self.pause_s)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        usage = {"prompt_tokens": len(request.prompt), "completion_tokens": count}
        details = {"prompt_tokens_details": {"cached_tokens": self.cached}}
        yield frame({"choices": [], "usage": usage | details})
        yield "data: [DONE]\n\n"

    async def scored(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            asked = ScoreRequest(
                body["model"], tuple(prompt[:1]), (tuple(prompt[1:]),), secrets.token_hex(8)
            )
            [score] = await self.engine.score(asked)
            pairs = zip(prompt[1:], score.logprobs, strict=True)
            rows = [{str(token): {"logprob": value, "rank": 1}} for token, value in pairs]
            choices.append({"index": index, "text": "", "prompt_logprobs": [None, *rows]})
        return {"choices": choices}

    @contextmanager
    def listening(self) -> Iterator[str]:
        """The address while it serves."""
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self.app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            self.engine.close()


@dataclass(frozen=True)
class Keyed:
    """Refuses who has not the key. One that went through Starlette's own class for middleware would
    end a stream that fails as if it were whole, and the connection would not be cut.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["path"].startswith("/v1")
        if asked and Headers(scope=scope).get("authorization") != f"Bearer {KEY}":
            await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def refused(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status)


def frame(event: dict[str, Any]) -> str:
    return f"data: {json.dumps({'id': 'cmpl-1', 'object': 'text_completion'} | event)}\n\n"
