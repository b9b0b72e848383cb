"""The routes of a vLLM server, and what its refusals mean.

OpenAI's, and those for LoRA adapters, of vLLM 0.32 (in `vllm/entrypoints`:
`openai/completion/protocol.py`, `entrypoints/serve/lora`). Knows nothing of versions.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from trimtab.errors import (
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
    VersionNotLoaded,
)

TIMEOUT = httpx.Timeout(600.0, connect=5.0)
# A key that does not fit, a server or a proxy before it that is busy or gone.
NOT_ABOUT_THE_ADAPTER = (401, 403, 429, 502, 503, 504)
HINT = "it may be starting or restarting; try again in a moment"


@dataclass(frozen=True, slots=True)
class Server:
    """Where a vLLM server answers, and what is known of it beside what it tells.

    `priority` says that it was started with `--scheduling-policy priority`: another one refuses
    requests that carry one. `max_rank` is that of an adapter, None where nobody knows.
    """

    url: str
    key: str = ""
    device: str = "remote"
    dtype: str = "unknown"
    priority: bool = False
    max_rank: int | None = None


class Routes:
    """A client of one server. Raises what `refusal` makes of its answers, and EngineUnavailable
    where it cannot be reached or the connection breaks: `lost` is called first then.
    """

    def __init__(self, server: Server, lost: Callable[[], None]) -> None:
        self.server = server
        self._lost = lost
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        # What is asked for by address is not behind the proxy that the environment may name. And
        # a connection that is kept may be one that the server has just closed: a new one is cheap.
        self._client = httpx.AsyncClient(
            base_url=server.url,
            headers=headers,
            timeout=TIMEOUT,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def version(self) -> str:
        return str((await self._json(self._client.get("/version"), None)).get("version"))

    async def models(self) -> list[dict[str, Any]]:
        """The cards of bases and adapters; an adapter's has a `parent`."""
        found = await self._json(self._client.get("/v1/models"), None)
        cards = found.get("data")
        if not isinstance(cards, list):
            raise self.gone("/v1/models lists no models: is it a vLLM server?")
        return cards

    async def complete(self, body: dict[str, Any], patience_s: float | None) -> dict[str, Any]:
        """A completion as a whole. Raises EngineOverloaded where it is not there in time."""
        with _patient(patience_s):
            async with asyncio.timeout(patience_s):
                call = self._client.post("/v1/completions", json=body)
                return await self._json(call, body["model"])

    @asynccontextmanager
    async def stream(
        self, body: dict[str, Any], patience_s: float | None
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The frames of a completion as they come; leaving it makes the server stop. Raises
        EngineOverloaded where the first does not come within `patience_s`.
        """
        try:
            async with AsyncExitStack() as stack:
                with _patient(patience_s):
                    async with asyncio.timeout(patience_s):
                        call = self._client.stream("POST", "/v1/completions", json=body)
                        response = await stack.enter_async_context(call)
                        if response.status_code != httpx.codes.OK:
                            await response.aread()
                            raise self._refused(response, body["model"])
                        frames = self._frames(response.aiter_lines(), body["model"])
                        first = await anext(frames, None)
                yield _chained(first, frames)
        except httpx.TransportError as error:
            raise self._broken(error) from error

    async def _frames(
        self, lines: AsyncIterator[str], model: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What a proxy sends to keep a connection is none, and neither is the mark at the end."""
        async for line in lines:
            if line.startswith("data: {"):
                yield self._frame(line, model)

    def _frame(self, line: str, model: str) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
        except ValueError as error:
            raise self.gone("a frame of its stream cannot be read") from error
        if "error" in event:
            raise self.refusal(int(event["error"].get("code") or 500), line[6:].encode(), model)
        return event

    async def order(self, route: str, **body: str) -> None:
        """Load or unload an adapter. A server without these routes was not started for it."""
        try:
            response = await self._client.post(f"/v1/{route}", json=body)
        except httpx.TransportError as error:
            raise self._broken(error) from error
        told = _message(response.content)
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.NOT_FOUND and told == "Not Found":
            raise EngineError(
                f"{self.server.url} loads no adapters while it serves",
                hint="start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            )
        if response.status_code in NOT_ABOUT_THE_ADAPTER:
            raise self._refused(response, None)
        if route == "unload_lora_adapter":
            raise not_loaded(body["lora_name"])
        raise IdentityError(
            f"vLLM refused the adapter in {body['lora_path']}: {told}",
            hint="does it belong to this base, and does the server see this folder?",
        )

    async def _json(self, call: Any, model: str | None) -> dict[str, Any]:
        try:
            response = await call
        except httpx.TransportError as error:
            raise self._broken(error) from error
        if response.status_code != httpx.codes.OK:
            raise self._refused(response, model)
        try:
            found: Any = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self.gone(f"{response.url.path} is not answered as vLLM would: is it one?")
        return found

    def _refused(self, response: httpx.Response, model: str | None) -> TrimtabError:
        error = self.refusal(response.status_code, response.content, model)
        if response.status_code == httpx.codes.BAD_GATEWAY:
            # A proxy says what it met behind it.
            self._lost()
        after = response.headers.get("retry-after", "")
        # A server, or a proxy before it, may name a date instead; then we say a second, as ever.
        if isinstance(error, EngineOverloaded) and after.isdecimal() and len(after) < 9:
            error.retry_s = max(1.0, float(after))
        return error

    def refusal(self, status: int, content: bytes, model: str | None) -> TrimtabError:
        """The error that an answer of the server means; `model` is what was asked for."""
        told = _message(content)
        if status == httpx.codes.NOT_FOUND and model is not None:
            return not_loaded(model)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return EngineError(
                f"{self.server.url} refused the key", hint="set TRIMTAB_VLLM_KEY to its API key"
            )
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return EngineOverloaded(f"vLLM: {told}", hint="try again later")
        if httpx.codes.is_client_error(status):
            return RequestRefused(f"vLLM: {told}", hint="change the request: it can never work")
        return self.gone(f"{status} {told}")

    def _broken(self, error: httpx.TransportError) -> EngineUnavailable:
        self._lost()
        return self.gone(str(error) or type(error).__name__)

    def gone(self, why: str) -> EngineUnavailable:
        return EngineUnavailable(f"vLLM at {self.server.url}: {why}", hint=HINT)


def not_loaded(version: str) -> VersionNotLoaded:
    return VersionNotLoaded(f"version {version} is not loaded", hint="load it, then ask again")


@contextmanager
def _patient(patience_s: float | None) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise EngineOverloaded(
            f"vLLM did not answer within {patience_s} s", hint="try again later"
        ) from None


async def _chained(
    first: dict[str, Any] | None, others: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    if first is not None:
        yield first
    async for other in others:
        yield other


def _message(content: bytes) -> str:
    """What the server says is wrong, in one line; its errors come in three shapes."""
    try:
        found = json.loads(content)
        error = found.get("error") or found.get("detail") or found
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = content[:200].decode(errors="replace")
    return " ".join(str(text).split())[:300]
