"""A web server of a few files in memory, with the faults of real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file.

    Attributes:
        content: its bytes.
        headers: sent along.
        breaks_after: connections are cut after so many bytes of an answer; None for never.
        knows_ranges: whether a Range is honoured.
        status: of every answer; 200 becomes 206 for a range.
    """

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    knows_ranges: bool = True
    status: int = 200


class FileServer:
    """The files by path; the requests that came, (method, path, Range), and their tokens."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range of every GET of a path."""
        return [asked for method, name, asked in self.requests if (method, name) == ("GET", path)]


@contextmanager
def serving() -> Iterator[FileServer]:
    """Run a server for the length of a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path, asked = self.path.split("?")[0], self.headers.get("Range")
            files.requests.append((self.command, path, asked))
            files.tokens.append(self.headers.get("Authorization"))
            served = files.files.get(path, Served(b"gone", status=404))
            start, status = 0, served.status
            if asked and served.knows_ranges:
                start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            body = served.content[start:]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **served.headers}.items():
                self.send_header(name, value)
            if status == 206:
                end = len(served.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.end_headers()
            if with_body:
                self.wfile.write(body[: served.breaks_after])

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files = FileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
