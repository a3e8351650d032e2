"""The cache of remote shards: verified, bounded, shared, resumed; and reading from the store where it cannot keep one."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from input_pipeline import audio, manifest
from input_pipeline.columns import Strings
from input_pipeline.manifest.pack import pack
from input_pipeline.shards import cache as shard_cache
from input_pipeline.shards import format as shard_format
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.cache import CacheFull, Prefetcher, ShardCache
from input_pipeline.shards.format import ShardError, ShardInfo
from input_pipeline.storage import lock, object_store
from tests.runs import ROOT

SIZE = 300_000


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """Give each test a cache of its own, in tmp_path/cache."""
    monkeypatch.setenv("DS2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_cache, "RESERVED_BYTES", 0)
    monkeypatch.setattr(object_store, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    shard_source.reset()
    yield
    shard_source.reset()


def put(name: str, size: int = SIZE) -> tuple[str, ShardInfo]:
    """Store an object of random bytes."""
    content = np.random.default_rng(len(name)).bytes(size)
    url = f"s3://speech/cache/{name}"
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url, ShardInfo(size, hashlib.sha256(content).hexdigest(), 1)


def kept(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != ".lock")


def age(path: Path) -> None:
    os.utime(path, (0, 0))


def test_a_shard_is_fetched_once_and_verified(store, tmp_path):
    url, info = put("a")
    cache = ShardCache(tmp_path / "cache", 10**9)
    assert cache.fetch(url, info)
    assert hashlib.sha256(cache.path_of(info).read_bytes()).hexdigest() == info.sha256
    asked = len(store.asked("GET", "cache/a"))
    assert cache.fetch(url, info)
    assert len(store.asked("GET", "cache/a")) == asked
    assert kept(cache.folder) == [cache.path_of(info).name]


def test_wrong_content_never_gets_the_name_and_is_not_fetched_again(store, tmp_path):
    url, info = put("ab")
    wrong = info._replace(sha256="0" * 64)
    cache = ShardCache(tmp_path / "cache", 10**9)
    with pytest.raises(ShardError, match=r"s3://speech/cache/ab is not the shard .*SHA-256"):
        cache.fetch(url, wrong)
    assert not cache.fetch(url, wrong)
    assert kept(cache.folder) == []


def test_a_transfer_that_broke_goes_on_from_where_it_ended(store, tmp_path, monkeypatch):
    url, info = put("abc")
    cache = ShardCache(tmp_path / "cache", 10**9)
    real, calls = object_store.read, []

    def breaks(url, begin=0, size=None):
        calls.append(begin)
        if len(calls) == 3:
            raise object_store.ObjectStoreError("the cable is cut")
        return real(url, begin, size)

    monkeypatch.setattr(object_store, "read", breaks)
    with pytest.raises(object_store.ObjectStoreError, match="cable"):
        cache.fetch(url, info)
    assert kept(cache.folder) == [cache.path_of(info).name + ".part"]
    assert cache.fetch(url, info)
    assert calls == [0, 100_000, 200_000, 200_000]
    assert kept(cache.folder) == [cache.path_of(info).name]


def test_what_was_used_longest_ago_makes_room_and_what_is_in_use_stays(store, tmp_path):
    remote = [put("x" * length) for length in range(5, 9)]
    folder = tmp_path / "cache"
    before = ShardCache(folder, 3 * SIZE)
    for shard in remote[:3]:
        before.fetch(*shard)
    for number in range(3):  # as if an earlier run had used them
        os.utime(before.path_of(remote[number][1]), (number + 1, number + 1))
    pinned = shard_cache.pin(str(before.path_of(remote[0][1])))
    age(before.path_of(remote[0][1]))
    later = ShardCache(folder, 3 * SIZE)
    later.fetch(*remote[3])
    assert not later.path_of(remote[1][1]).exists()  # older than the third, and nobody reads it
    assert all(later.path_of(remote[number][1]).exists() for number in (0, 2, 3))
    later.fetch(*remote[1])
    with pytest.raises(CacheFull, match=r"0\.0009 of 0\.0009 GB, all of it in use"):
        later.fetch(*remote[2])
    assert len(kept(folder)) == 3
    os.close(pinned)
    later.fetch(*remote[2])
    assert not later.path_of(remote[0][1]).exists()


def test_a_run_never_removes_what_it_has_fetched_itself(store, tmp_path):
    remote = [put("y" * length) for length in range(5, 8)]
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    cache.fetch(*remote[0])
    cache.fetch(*remote[1])
    with pytest.raises(CacheFull):
        cache.fetch(*remote[2])
    with pytest.raises(CacheFull, match="larger than the cache"):
        ShardCache(tmp_path / "other", SIZE - 1).fetch(*remote[0])
    assert kept(tmp_path / "other") == []


def test_a_full_disk_is_a_full_cache(store, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "RESERVED_BYTES", 1 << 60)
    with pytest.raises(CacheFull, match=r"the disk of .* is full"):
        ShardCache(tmp_path / "cache", 10**9).fetch(*put("a"))
    assert kept(tmp_path / "cache") == []


def test_processes_share_the_work(store, tmp_path):
    url, info = put("shared")
    cache = ShardCache(tmp_path / "cache", 10**9)
    code = (
        "import sys\nfrom pathlib import Path\nfrom input_pipeline.shards.cache import ShardCache\n"
        "from input_pipeline.shards.format import ShardInfo\n"
        "cache = ShardCache(Path(sys.argv[1]), 10**9)\n"
        f"print(cache.fetch({url!r}, ShardInfo({info.bytes}, {info.sha256!r}, 1)))"
    )
    command = [sys.executable, "-c", code, str(cache.folder)]
    cache.folder.mkdir()
    part = cache.path_of(info).with_name(cache.path_of(info).name + ".part")
    with open(part, "ab") as held:  # as a process that is at it
        assert lock.lock_file(held.fileno())
        assert subprocess.check_output(command, cwd=ROOT, text=True, timeout=300).strip() == "False"
        assert not cache.fetch(url, info)
    assert subprocess.check_output(command, cwd=ROOT, text=True, timeout=300).strip() == "True"
    assert cache.path_of(info).exists()
    cache.path_of(info).unlink()
    together = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in together:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert kept(cache.folder) == [cache.path_of(info).name]


def packed(clips, name: str, shards: int = 3) -> Strings:
    """Pack the clips into the store; return their references."""
    return manifest.read(pack(str(clips), f"s3://speech/{name}", shards=shards).manifest).audio


def test_shards_are_prefetched_in_the_order_of_their_use(store, clips, tmp_path):
    references = packed(clips, "order")
    asked = len(store.requests)
    rows = np.arange(len(references))[::-1]
    shards = [shard for shard, _ in shard_source._shards_of(references[row] for row in rows)]
    assert shards == list(dict.fromkeys(references[row].partition("#")[0] for row in rows))  # each once
    needed = shard_source._shards_of(references[row] for row in rows)
    with Prefetcher(shard_source._cache(), needed, downloads=1) as prefetcher:
        prefetcher.wait()
    names = [path.rpartition("/")[2] for method, path, _ in store.requests[asked:] if "array_record" in path]
    assert list(dict.fromkeys(names)) == [f"manifest-0000{number}-of-00003.array_record" for number in (2, 1, 0)]
    assert len(kept(tmp_path / "cache")) == 3
    asked = len(store.requests)
    for path in references:
        audio.read(path)
    assert len(store.requests) == asked  # nothing is asked for any more


def test_records_are_read_from_the_store_until_their_shard_is_here(store, clips, tmp_path):
    references = packed(clips, "ranges")
    whole = [
        audio.read(clips.parent / json.loads(line)["audio_filepath"])[0] for line in clips.read_text().splitlines()
    ]
    got = shard_source.resolve_all(references)
    for path, expected in zip(references, whole, strict=True):
        clip = got[path]
        assert isinstance(clip, shard_source.Clip)
        np.testing.assert_array_equal(audio.read(clip)[0], expected)
        np.testing.assert_array_equal(audio.read(path)[0], expected)
    assert not os.path.exists(tmp_path / "cache")


def test_a_copy_that_was_damaged_is_removed_and_the_store_is_asked(store, clips, tmp_path, caplog):
    references = packed(clips, "damaged", shards=1)
    with shard_source.prefetch(references) as prefetcher:
        prefetcher.wait()
    (name,) = kept(tmp_path / "cache")
    copy = tmp_path / "cache" / name
    content = bytearray(copy.read_bytes())
    content[len(content) // 3] ^= 1
    copy.write_bytes(content)
    for path in references:
        audio.read(path)
    assert not copy.exists()
    assert "is damaged" in caplog.text


def make_bad(kind: str, tmp_path: Path, monkeypatch) -> str:
    """Make the cache unusable in one way; return what is said about it."""
    if kind == "full":
        monkeypatch.setenv("DS2_CACHE_GB", "1e-5")
        return "larger than the cache"
    if kind == "a file":
        (tmp_path / "cache").write_text("")
        return "cannot be written: File exists"
    if kind == "full disk":

        def no_space(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(object_store, "download", no_space)
        return "cannot be written: No space left on device"
    fsspec.filesystem("s3").rm(f"s3://speech/bad {kind}/manifest.shards.json")
    return "manifest.shards.json does not exist"


@pytest.mark.parametrize("kind", ["full", "a file", "full disk", "no index"])
def test_without_a_usable_cache_everything_is_read_from_the_store_and_it_is_said(
    store, clips, tmp_path, monkeypatch, caplog, kind
):
    references = packed(clips, f"bad {kind}")
    expected = make_bad(kind, tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING), shard_source.prefetch(references) as prefetcher:
        prefetcher.wait()
        assert all(len(audio.read(path)[0]) for path in references)
    (message,) = [record.getMessage() for record in caplog.records]
    assert expected in message
    assert "from the store one by one" in message
    if (tmp_path / "cache").is_dir():
        assert not [name for name in kept(tmp_path / "cache") if not name.endswith(".part")]


def test_a_shard_that_is_not_the_indexs_costs_its_records_only(store, clips, caplog):
    references = packed(clips, "exchanged", shards=2)
    files = fsspec.filesystem("s3")
    shard = "s3://speech/exchanged/manifest-00001-of-00002.array_record"
    content = bytearray(files.cat_file(shard))
    damaged_path = references[8]
    assert damaged_path.startswith(shard)
    content[shard_format.parse_reference(damaged_path).begin + 1000] ^= 1  # type: ignore[union-attr]
    files.pipe_file(shard, bytes(content))
    with shard_source.prefetch(references) as prefetcher:
        prefetcher.wait()
    assert "is not the shard that its index describes" in caplog.text
    got = shard_source.resolve_all(references)
    assert [path for path in references if "is damaged" in str(got[path])] == [damaged_path]


@pytest.mark.parametrize("value", ["much", "-1", "inf"])
def test_a_bound_that_is_no_number_is_refused(store, clips, monkeypatch, value):
    monkeypatch.setenv("DS2_CACHE_GB", value)
    with pytest.raises(ValueError, match=f"DS2_CACHE_GB is '{value}'"):
        shard_source.prefetch(Strings(["s3://speech/x-00000-of-00001.array_record#1"]))


def test_nothing_is_kept_where_the_bound_is_0_nor_anything_done_for_files(store, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("DS2_CACHE_GB", "0")

    def threads() -> int:
        return sum(thread.name == "shards" for thread in threading.enumerate())

    with shard_source.prefetch(packed(clips, "zero")):
        assert not threads()
    monkeypatch.setenv("DS2_CACHE_GB", "1")
    with shard_source.prefetch(Strings(["a.flac"])):
        assert not threads()
    assert not (tmp_path / "cache").exists()


def test_leaving_stops_the_threads(store, tmp_path):
    endless = (put("z" * 12) for _ in iter(int, 1))
    with Prefetcher(ShardCache(tmp_path / "cache", 10**9), endless, downloads=2) as prefetcher:
        pass
    prefetcher.wait()
