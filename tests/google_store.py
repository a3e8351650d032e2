"""Google's object store on this machine, for tests: an emulator, with what its clients rely on and it leaves out.

Generations (a header of each download, and the conditions of a request), without which TensorStore at times refuses to
write on; and uploads that end in a carriage return, which the emulator's e-mail parser would cut off.
"""

import contextlib
import re
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer
from typing import Any

import pytest

BUCKET = "speech"
OBJECT = re.compile(r"/b/([^/]+)/o(?:/(.+))?$")


class _Server(HTTPServer):
    """Answers one request at a time; the others wait instead of being refused."""

    request_queue_size = 128


@contextlib.contextmanager
def google_store() -> Iterator[str]:
    """Run the store with one bucket, let the clients of this process find it, and yield the bucket's address."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    gcsfs = pytest.importorskip("gcsfs")
    storage = emulator.Storage(use_memory_fs=True)
    emulator.buckets.create_bucket(BUCKET, storage)
    with (
        _Server(("127.0.0.1", 0), partial(_handler(emulator), storage)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(emulator, "_read_data", partial(_read_data, emulator, emulator._read_data))
        address = f"http://127.0.0.1:{server.server_address[1]}"
        patch.setenv("STORAGE_EMULATOR_HOST", address)  # of gcsfs
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)  # of what writes arrays
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        gcsfs.GCSFileSystem.clear_instance_cache()  # of clients that know another address
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"gs://{BUCKET}"
        finally:
            server.shutdown()
            thread.join()


def _handler(emulator: Any) -> type:
    class Handler(emulator.RequestHandler):
        """Checks the conditions of a request, and names the generation of what is downloaded."""

        generation = ""

        def do_GET(self) -> None:
            if self._holds(unchanged=304):
                super().do_GET()

        def do_POST(self) -> None:
            if self._holds(unchanged=412):
                super().do_POST()

        def end_headers(self) -> None:
            if self.generation:
                self.send_header("x-goog-generation", self.generation)
            super().end_headers()

        def _holds(self, unchanged: int) -> bool:
            url = urllib.parse.urlparse(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            found = OBJECT.search(url.path)
            bucket, name = found.groups() if found else ("", "")
            name = urllib.parse.unquote(name or query.get("name", ""))
            self.generation = self.storage.objects.get(bucket, {}).get(name, {}).get("generation", "")
            status = 0
            if query.get("ifGenerationMatch", self.generation or "0") != (self.generation or "0"):
                status = 412
            elif self.generation and query.get("ifGenerationNotMatch") == self.generation:
                status = unchanged
            if status:
                emulator._read_raw_data(self)  # else the client, still writing, sees a broken connection
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            return not status

    return Handler


def _read_data(emulator: Any, read: Any, handler: Any, query: dict) -> Any:
    """Read what a request sends; of an upload in two parts, metadata and content, exactly the bytes of the content."""
    kind = handler.headers.get("Content-Type", "")
    if not kind.startswith("multipart/related"):
        return read(handler, query)
    boundary = b"--" + kind.rpartition("boundary=")[2].strip('"').encode()
    parts = emulator._read_raw_data(handler).split(boundary)[1:-1]
    (_, meta), (head, content) = (part.removeprefix(b"\n").split(b"\n\n", 1) for part in parts)
    return {
        "meta": emulator.json.loads(meta),
        "content": content.removesuffix(b"\n"),
        "content-type": head.decode().partition(": ")[2],
    }
