"""Run a local S3-compatible store (moto, in memory) for tests and benchmarks, with optional latency and truncated answers.

`python -m benchmarks.local_store [LATENCY_S]` prints the environment variables of its clients as a JSON line, and serves
until its standard input is closed.
"""

import argparse
import json
import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from input_pipeline.storage import console

BUCKET = "speech"


class LocalStore:
    """A server with one bucket; `environment` has the environment variables of its clients.

    latency_s: delay before each answer.
    """

    def __init__(self, latency_s: float = 0.0):
        self.latency_s = latency_s
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self._breaks: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> "LocalStore":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def break_after(self, name: str, size: int, times: int) -> None:
        """Truncate the next `times` answers to GET after `size` bytes, for objects whose path contains `name`."""
        with self._lock:
            self._breaks += [(name, size)] * times

    def asked(self, method: str, name: str) -> list[str]:
        """Return the ranges of the requests by this method for objects whose path contains `name`."""
        return [span for used, path, span in self.requests if used == method and name in path]

    def _answer(self, environ: dict, start_response) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path, environ.get("HTTP_RANGE", "")))
            broken = next((b for b in self._breaks if method == "GET" and b[0] in path), None)
            if broken:
                self._breaks.remove(broken)
        if self.latency_s:
            time.sleep(self.latency_s)
        body = self._app(environ, start_response)
        return _first(body, broken[1]) if broken else body


def _first(body: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the first bytes of a body, although its header announces more."""
    for part in body:
        yield part[:size]
        size -= len(part)
        if size <= 0:
            return


@console.command
def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("latency_s", nargs="?", type=float, default=0.0, help="seconds by which each answer is delayed")
    with LocalStore(parser.parse_args().latency_s) as store:
        print(json.dumps(store.environment), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
