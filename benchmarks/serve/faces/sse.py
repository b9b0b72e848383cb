"""OpenAI's completions route, streamed, for engines that bring no server. Standard library only:
it runs in the peers' environments.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

# Prompt and how many tokens; gives the text of each step, and at the end the prompt's tokens.
Generate = Callable[[dict], AsyncIterator[str | int]]


def serve(port: int, generate: Generate) -> None:
    asyncio.run(_serve(port, generate))


async def _serve(port: int, generate: Generate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(reader, writer, generate)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=2**22)
    print("ready", flush=True)
    await server.serve_forever()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generate: Generate
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].split("\r\n", 1)[0] or 0)
    body = json.loads(await reader.readexactly(length)) if length else {}
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    prompt = 0
    async for piece in generate(body):
        if isinstance(piece, int):
            prompt = piece
            continue
        event = {"choices": [{"index": 0, "text": piece, "finish_reason": None}]}
        writer.write(f"data: {json.dumps(event)}\n\n".encode())
        await writer.drain()
    usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
    writer.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()
