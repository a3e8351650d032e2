"""The published language models: a real (small) KenLM model, fetched from a server on this machine that breaks off."""

import collections
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from decoding.lm import command, published
from decoding.lm.published import GB, MODELS, DownloadError, PublishedModel
from tests.file_server import serving
from tests.runs import ROOT

CONTENT = (ROOT / "models" / "an4" / "lm.bin").read_bytes()
HALF = len(CONTENT) // 2
SMALL = PublishedModel("lm/small.klm", hashlib.md5(CONTENT).hexdigest(), len(CONTENT) / GB, "small", (2.5, 0.3))
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture(params=[SMALL, dataclasses.replace(SMALL, md5=None)], ids=["md5", "no md5"])
def model(request, monkeypatch) -> PublishedModel:
    monkeypatch.setitem(MODELS, "small", request.param)
    return request.param


@pytest.fixture
def server():
    with serving(CONTENT) as running:
        yield running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_published_models_are_those_of_the_original(capsys):
    assert {name: (m.md5, m.size_gb) for name, m in MODELS.items()} == {
        "en": ("099a601759d467cd0a8523ff939819c5", 8.3),
        "zh_small": ("29e02312deb2e59b3c8686c7966d4fe3", 2.8),
        "zh_large": (None, 70.4),
    }
    assert command.run_download(command.parse(["download"])) is None
    shown = capsys.readouterr().out
    for model in MODELS.values():
        assert f"{published.HOST}/{model.path}" in shown
    assert shown.count("not published") == 1


def test_a_size_in_gb_may_be_of_either_kind():
    assert MODELS["en"].least_bytes < 8.3 * 10**9 < 8.3 * 2**30 < MODELS["en"].most_bytes
    assert MODELS["en"].least_bytes > 8.2 * 10**9


def test_a_download_that_broke_off_goes_on_and_is_verified(model, server, tmp_path, capsys):
    target = tmp_path / "new" / "lm.klm"
    server.breaks_at = HALF
    with pytest.raises(DownloadError, match=r"broke after .* run the same command again"):
        published.download("small", str(target), server.url("small.klm"))
    assert not target.exists()
    server.breaks_at = None
    found = published.download("small", str(target), server.url("small.klm"))
    assert server.asked == ["HEAD", "GET", "HEAD", f"GET bytes={HALF}-"]
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["lm.klm", "lm.klm.sha256"]
    assert found == {"lm": str(target), "bytes": len(CONTENT), "verified": "md5" if model.md5 else "size, structure"}
    told = capsys.readouterr().out
    assert ("no checksum" in told) == (model.md5 is None)
    assert "--config.decode.alpha=1.086" in told


def test_what_is_there_is_verified_and_not_fetched_again(model, server, tmp_path):
    (tmp_path / "lm.klm").write_bytes(CONTENT)
    published.download("small", str(tmp_path / "lm.klm"), server.url("small.klm"))
    assert server.asked == []


def test_a_whole_file_that_was_not_looked_at_yet_is_not_fetched_again(server, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "small", dataclasses.replace(SMALL, md5=None))
    (tmp_path / "lm.klm.unverified").write_bytes(CONTENT)
    published.download("small", str(tmp_path / "lm.klm"), server.url("small.klm"))
    assert server.asked == ["HEAD"]
    assert names(tmp_path) == ["lm.klm", "lm.klm.sha256"]


@pytest.mark.parametrize("content", [b"<html>moved</html>" * 999, CONTENT[:-40], b"x" + CONTENT[1:]])
def test_another_file_does_not_take_the_name(model, content, tmp_path):
    with serving(content) as server, pytest.raises(DownloadError, match=r"wrong \(md5|is not the published file"):
        published.download("small", str(tmp_path / "lm.klm"), server.url("small.klm"))
    assert "lm.klm" not in names(tmp_path)


def test_a_wrong_size_is_refused_before_the_download(model, server, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "small", dataclasses.replace(model, size_gb=70.4))
    with pytest.raises(DownloadError, match=rf"offers {len(CONTENT):,} bytes, 70\.4 GB were published"):
        published.download("small", str(tmp_path / "lm.klm"), server.url("small.klm"))
    assert server.asked == ["HEAD"]


def test_a_server_that_does_not_tell_the_size_is_downloaded_from(model, server, tmp_path):
    server.head = False
    published.download("small", str(tmp_path / "lm.klm"), server.url("small.klm"))
    assert (tmp_path / "lm.klm").read_bytes() == CONTENT


def test_the_disk_must_take_what_is_missing(model, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, HALF))
    target = tmp_path / "deep" / "lm.klm"
    with pytest.raises(
        DownloadError, match=r"the disk of .* has [\d,]+ free; free some space, or choose another folder"
    ):
        published.download("small", str(target), server.url("small.klm"))
    assert not list(target.parent.glob("*.part"))
    part = "lm.klm.part" if model.md5 else "lm.klm.unverified.part"
    (target.parent / part).write_bytes(CONTENT[: HALF + 1])
    published.download("small", str(target), server.url("small.klm"))
    assert target.read_bytes() == CONTENT


def run_download(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "decoding.lm", "download", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_line_says_what_is_wrong(server, tmp_path):
    result = run_download("en", f"--output={tmp_path / 'lm.klm'}", f"--url={server.url('x')}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: http://127.0.0.1")
    assert "8.3 GB were published" in result.stderr
    assert f"--output={tmp_path / MODELS['en'].name}" in run_download("en", f"--output={tmp_path}").stderr
    refused = run_download("zh").stderr.replace("'", "")  # which Python 3.13 does not write around the choices
    assert "invalid choice: zh (choose from en, zh_small, zh_large)" in refused


def test_a_model_that_is_there_can_be_verified_offline(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(MODELS, "small", SMALL)
    (tmp_path / "lm.klm").write_bytes(CONTENT)
    monkeypatch.setattr(sys, "argv", ["lm", "download", "small", f"--output={tmp_path / 'lm.klm'}"])
    assert command.main() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verified"] == "md5"
