"""A local file server that supports resuming and can simulate failures, for tests of downloads."""

import contextlib
import http.server
import threading
from collections.abc import Iterator


class FileServer(http.server.ThreadingHTTPServer):
    """Serves the same content under every path; if `breaks_at` is set, closes the connection before that byte."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.breaks_at: int | None = None
        self.head = True  # whether HEAD is supported
        self.asked: list[str] = []  # method and range of each request

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self.server.asked.append("HEAD")
        if self.server.head:
            self._start(0)
        else:
            self.send_error(405)

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        self.server.asked.append(f"GET {span}".strip())
        start = int(span.removeprefix("bytes=").rstrip("-") or 0)
        self._start(start)
        with contextlib.suppress(ConnectionError):  # a client may close the connection early
            self.wfile.write(self.server.content[start : self.server.breaks_at])

    def _start(self, start: int) -> None:
        size = len(self.server.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """Serve this content until the end of the block."""
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
