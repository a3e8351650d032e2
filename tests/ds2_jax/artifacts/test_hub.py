"""Bundles from a hub: a local server that speaks its two routes, a model's description and a file's content."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds2_jax.artifacts import hub
from ds2_jax.artifacts.bundle import ModelFileError
from tests.conftest import CLIPS
from tests.runs import ROOT

BUNDLE = ROOT / "models" / "an4"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLIP = CLIPS / "cen1-mtos-b.flac"
LOAD = "import sys, ds2_jax; print(ds2_jax.load(sys.argv[1], engine='greedy').transcribe(sys.argv[2]).text)"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves models/an4 as org/an4, and knows no other model."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        """Send the head of the answer and return its content."""
        path, resolve = self.path.split("?")[0], f"/org/an4/resolve/{COMMIT}/"
        content, tag = b"{}", ""
        files = [
            {"type": "file", "rfilename": f.name, "path": f.name, "size": f.stat().st_size} for f in BUNDLE.iterdir()
        ]
        if path == "/api/models/org/an4/revision/main":
            content = json.dumps({"id": "org/an4", "sha": COMMIT, "private": False, "siblings": files}).encode()
        elif path == f"/api/models/org/an4/tree/{COMMIT}":  # asked by newer clients
            content = json.dumps([{**file, "oid": COMMIT} for file in files]).encode()
        elif path.startswith(resolve):
            content = (BUNDLE / path.removeprefix(resolve)).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def load(model: str, endpoint: str, home: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOAD, model, str(CLIP)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


def test_a_bundle_is_downloaded_and_transcribes(address, tmp_path):
    done = load("hf://org/an4", address, tmp_path)
    assert done.stdout == "s m i t h\n", done.stderr
    [stored] = tmp_path.rglob("model.safetensors")
    assert stored.read_bytes() == (BUNDLE / "model.safetensors").read_bytes()


def test_an_unknown_model_is_named(address, tmp_path):
    done = load("hf://org/other", address, tmp_path)
    assert "ModelFileError: hf://org/other cannot be downloaded" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["hf://", "hf://an4", "hf://org/", "hf://org/an4/model.safetensors"])
def test_an_address_that_names_no_model_is_refused(name):
    with pytest.raises(ModelFileError, match="hf://organisation/name"):
        hub.fetch(name)
