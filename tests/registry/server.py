"""A real HTTP server on this machine that can do less than it should."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served. `drops` is how many answers end after `drop_after` bytes of their body."""

    content: dict[str, bytes]
    ranges: bool = True
    drops: int = 0
    drop_after: int = 0
    sends_length: bool = True
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0
    url: str = ""


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, files)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, files: Files) -> None:
    asked = handler.headers.get("Range")
    files.asked.append(asked)
    body = files.content.get(handler.path)
    if body is None:
        handler.send_error(404)
        return
    start = int(re.fullmatch(r"bytes=(\d+)-", asked or "bytes=0-")[1])  # type: ignore[index]
    partial = asked is not None and files.ranges
    if partial and start >= len(body):
        handler.send_error(416)
        return
    body = body[start:] if partial else body
    handler.send_response(206 if partial else 200)
    if files.sends_length:
        handler.send_header("Content-Length", str(len(body)))
    else:
        handler.send_header("Connection", "close")
    handler.end_headers()
    if files.drops:
        files.drops -= 1
        body = body[: files.drop_after]
        handler.close_connection = True
    handler.wfile.write(body)
    files.sent += len(body)
