"""Objects of a store: read in ranges, patiently; and each reason why not is told with what to do."""

import os
import subprocess
import sys
import threading

import fsspec
import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.storage import object_store
from input_pipeline.storage.object_store import Missing, ObjectStoreError
from tests.google_store import google_store
from tests.runs import ROOT

BUCKET = "s3://speech/objects"
PIECE = 100_000


@pytest.fixture(scope="module")
def content(store) -> bytes:
    """Return what s3://speech/objects/a.bin holds."""
    data = np.random.default_rng(0).bytes(1_000_003)
    with fsspec.open(f"{BUCKET}/a.bin", "wb") as file:
        file.write(data)
    return data


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(object_store, "PIECE_BYTES", PIECE)


def test_objects_are_read_whole_in_ranges_and_by_lines(store, content):
    assert object_store.read(f"{BUCKET}/a.bin") == content
    assert object_store.read(f"{BUCKET}/a.bin", 7, 50_000) == content[7:50_007]
    assert object_store.size_of(f"{BUCKET}/a.bin") == len(content)
    assert object_store.exists(f"{BUCKET}/a.bin")
    assert not object_store.exists(f"{BUCKET}/b.bin")
    assert b"\n".join(object_store.lines(f"{BUCKET}/a.bin")) == content.removesuffix(b"\n")


@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n", b"\n\n"])
def test_files_come_back_from_googles_store_whatever_they_end_in(end, tmp_path):
    content = np.random.default_rng(1).bytes(1000) + end
    (tmp_path / "a").write_bytes(content)
    with google_store() as bucket:
        object_store.upload(tmp_path / "a", f"{bucket}/a.bin")
        assert object_store.read(f"{bucket}/a.bin") == content


@pytest.mark.parametrize("begin", [999_000, 1_000_003, 2_000_000])
def test_an_object_that_ends_early_is_named(store, content, begin):
    with pytest.raises(ObjectStoreError, match=r"a\.bin ends .*upload it again"):
        object_store.read(f"{BUCKET}/a.bin", begin, 5_000)


def test_a_broken_transfer_is_taken_up_again(store, content, tmp_path):
    asked = len(store.asked("GET", "a.bin"))
    store.break_after("a.bin", 1000, times=3)
    assert object_store.read(f"{BUCKET}/a.bin", 10, 300_000) == content[10:300_010]
    assert len(store.asked("GET", "a.bin")) == asked + 4
    store.break_after("a.bin", 1000, times=3)
    object_store.download(f"{BUCKET}/a.bin", tmp_path / "part", len(content))
    assert (tmp_path / "part").read_bytes() == content


def test_a_store_that_has_answered_is_waited_for_longer(store, content, monkeypatch, caplog):
    def breaks(times: int) -> bytes:
        calls = iter(range(times))

        def call() -> bytes:
            if next(calls, None) is not None:
                raise TimeoutError("nobody there")
            return b"content"

        return object_store._retry(call, "s3://speech/x")

    assert breaks(object_store.PATIENT_ATTEMPTS - 1) == b"content"
    assert "s3://speech/x: the store does not answer (nobody there); trying again" in caplog.text
    with pytest.raises(ObjectStoreError, match=r"s3://speech/x: the store cannot be reached \(nobody there\)"):
        breaks(object_store.PATIENT_ATTEMPTS)
    monkeypatch.setattr(object_store, "_answered", set())
    assert breaks(object_store.ATTEMPTS - 1) == b"content"
    monkeypatch.setattr(object_store, "_answered", set())
    with pytest.raises(ObjectStoreError, match="cannot be reached"):
        breaks(object_store.ATTEMPTS)


def test_a_download_goes_on_from_where_it_ended(store, content, tmp_path):
    part = tmp_path / "part"
    part.write_bytes(content[:654_321])
    asked = len(store.asked("GET", "a.bin"))
    object_store.download(f"{BUCKET}/a.bin", part, len(content))
    assert part.read_bytes() == content
    spans = store.asked("GET", "a.bin")[asked:]
    assert [int(span.removeprefix("bytes=").partition("-")[0]) for span in spans] == [
        654_321,
        754_321,
        854_321,
        954_321,
    ]
    part.write_bytes(content + b"too long")
    object_store.download(f"{BUCKET}/a.bin", part, len(content))
    assert part.read_bytes() == content


def test_a_download_stops_when_asked_and_keeps_what_it_has(store, content, tmp_path):
    stop = threading.Event()
    stop.set()
    (tmp_path / "part").write_bytes(content[:10])
    with pytest.raises(object_store.Stopped):
        object_store.download(f"{BUCKET}/a.bin", tmp_path / "part", len(content), stop)
    assert (tmp_path / "part").read_bytes() == content[:10]


def test_what_is_missing_is_named(store, tmp_path):
    with pytest.raises(Missing, match=r"s3://nobucket/x does not exist .*bucket.*check bucket and path"):
        object_store.read("s3://nobucket/x")
    with pytest.raises(Missing, match=r"s3://speech/nothing does not exist"):
        object_store.size_of("s3://speech/nothing")
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(Missing, match=r"s3://nobucket/x does not exist"):
        object_store.upload(tmp_path / "x", "s3://nobucket/x")
    with pytest.raises(manifest.ManifestError, match=r"manifest s3://speech/gone.jsonl does not exist"):
        manifest.read("s3://speech/gone.jsonl")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("gs://b/x", "gs://b/x needs gcsfs: pip install gcsfs"),
        ("az://b/x", "az://b/x needs adlfs: pip install adlfs"),
        ("gopher://b/x", "there is no store gopher://; use s3:// or gs://"),
        ("s3://not a bucket/x", "is not a valid address"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(store, url, named, monkeypatch):
    for package, protocol in (("gcsfs", "gs"), ("adlfs", "az")):  # as if it were not installed, and never used
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(ObjectStoreError, match=named):
        object_store.read(url)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the store cannot be reached"),
    ],
)
def test_credentials_and_network_that_are_not_there_are_named(store, changed, named, tmp_path):
    environment = os.environ | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "AWS_MAX_ATTEMPTS": "1"}
    environment |= {name: value for name, value in changed.items() if value}
    for name, value in changed.items():
        if value is None:
            environment.pop(name)
    code = (
        "from input_pipeline import manifest\nfrom input_pipeline.storage import object_store\nobject_store.FIRST_PAUSE_S = 0.01\n"
        "try: manifest.read('s3://speech/x.jsonl')\nexcept manifest.ManifestError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert named in ran.stdout, ran.stderr
    assert ran.stdout.startswith("manifest s3://speech/x.jsonl")
