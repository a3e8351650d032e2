"""Shards: what is written comes back, whole or as ranges of bytes, and what is damaged is told as such."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from input_pipeline import audio
from input_pipeline.shards import format as shard_format
from input_pipeline.shards.format import OpenShards, ShardError, parse_reference
from input_pipeline.shards.writer import ShardWriter
from tests.runs import OWN_MOUNTS, ROOT, run_with_mount

BLOCK = 1 << 16
SIZES = {
    "small": [0, 1, 23, 24, 25, 100],
    "about a block": [BLOCK - 90, BLOCK - 64, BLOCK - 40, BLOCK - 1, BLOCK, BLOCK + 1],
    "many blocks": [3 * BLOCK, 10 * BLOCK + 7, 1_000_001],
    "any": [int(size) for size in np.random.default_rng(0).integers(0, 200_000, 150)],
}


def write_shard(path: Path, clips: list[bytes]) -> tuple[shard_format.ShardInfo, list[tuple[int, int]]]:
    with ShardWriter(path) as writer:
        for number, clip in enumerate(clips):
            writer.write({"text": f"num {number} 你好", "speaker": "s"}, clip)
        return writer.finish()


def random_clips(sizes: list[int]) -> list[bytes]:
    rng = np.random.default_rng(1)
    return [rng.bytes(size) for size in sizes]


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> tuple[Path, list[bytes]]:
    """Return a shard of ten records of 30,000 bytes."""
    path = tmp_path_factory.mktemp("shard") / "a-00000-of-00001.array_record"
    clips = random_clips([30_000] * 10)
    info, _ = write_shard(path, clips)
    index = {"source": "", "shards": {path.name: info._asdict()}}
    path.with_name("a.shards.json").write_text(json.dumps(index))
    return path, clips


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_records_come_back_in_any_order_and_as_ranges_of_bytes(tmp_path, sizes):
    path = tmp_path / "a.array_record"
    clips = random_clips(sizes)
    info, ranges = write_shard(path, clips)
    content = path.read_bytes()
    assert info.bytes == len(content)
    assert info.records == len(clips)
    shard = shard_format.OpenShard(str(path))
    for number in np.random.default_rng(2).permutation(len(clips)):
        begin, size = ranges[number]
        record = shard_format.strip_block_headers(content[begin : begin + size], begin)
        assert record == shard.read(int(number))
        line, clip = shard_format.decode_record(record, "a")
        assert clip == clips[number]
        assert line == {"text": f"num {number} 你好", "speaker": "s"}
    assert os.listdir(tmp_path) == ["a.array_record"]


def test_a_shard_describes_itself_and_any_reader_of_the_format_reads_it(shard):
    path, clips = shard
    assert [clip for _, clip in shard_format.records(str(path))] == clips
    assert [line["speaker"] for line, _ in shard_format.records(str(path))] == ["s"] * 10
    reader = ArrayRecordReader(str(path), "")
    assert reader.num_records() == 10
    assert all(raw.endswith(clip) for raw, clip in zip(reader.read_all(), clips, strict=True))


def test_grain_reads_the_shards_too(shard):
    code = (
        "import sys, grain\nfrom absl import flags\nflags.FLAGS.mark_as_parsed()\n"
        "source = grain.sources.ArrayRecordDataSource([sys.argv[1]])\nprint(len(source), len(source[3]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, shard[0]], capture_output=True, text=True, timeout=300, cwd=ROOT)
    count, size = map(int, ran.stdout.split())
    assert count == 10
    assert size > 30_000


def test_the_same_content_makes_the_same_bytes(shard, tmp_path):
    path, clips = shard
    write_shard(tmp_path / "b.array_record", clips)
    assert (tmp_path / "b.array_record").read_bytes() == path.read_bytes()


def test_threads_read_one_shard_and_few_stay_open(shard, tmp_path):
    path, clips = shard
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.array_record")
        shutil.copyfile(path, paths[-1])
    cache = OpenShards(limit=2)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def read(step: int) -> bool:
        record = cache.get(str(paths[step % 5])).read(step % 10)
        return shard_format.decode_record(record, "")[1] == clips[step % 10]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x/a-00001-of-00002.array_record#17:1048600+81920", ("x/a-00001-of-00002.array_record", 17, 1048600, 81920)),
        ("s3://b/a.array_record#0", ("s3://b/a.array_record", 0, 0, 0)),
        ("a.array_record", None),
        ("a.array_record#x", None),
        ("a#1.flac", None),
        ("", None),
    ],
)
def test_references_are_told_from_paths(path, expected):
    assert parse_reference(path) == expected


def damage(path: Path, target: Path, place: int) -> Path:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_shard_that_ends_early_is_named_with_its_sizes(shard, tmp_path, share):
    path, _ = shard
    target = tmp_path / path.name
    whole = path.read_bytes()
    target.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ShardError, match=r"not a complete ArrayRecord file"):
        shard_format.OpenShard(str(target))
    shutil.copyfile(path.with_name("a.shards.json"), tmp_path / "a.shards.json")
    with pytest.raises(ShardError, match=rf"{path.name} ends early: .* of {len(whole):,} bytes; copy it again"):
        shard_format.OpenShard(str(target))
    with pytest.raises(audio.AudioError, match="ends early"):
        audio.read(f"{target}#3")


def test_one_damaged_record_leaves_the_others(shard, tmp_path):
    path, clips = shard
    target = damage(path, tmp_path / "b.array_record", 100_000)
    opened = shard_format.OpenShard(str(target))
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        assert shard_format.decode_record(opened.read(number), "")[1] == clips[number]
    with pytest.raises(ShardError, match=r"b\.array_record: record 3 is damaged"):
        opened.read(3)


def test_a_missing_record_shard_or_foreign_content_is_named(shard, tmp_path):
    path, _ = shard
    with pytest.raises(audio.AudioError, match=r"has 10 records, and no number 10"):
        audio.read(f"{path}#10")
    with pytest.raises(audio.AudioError, match=r"gone.array_record does not exist; copy the shards beside"):
        audio.read(f"{tmp_path}/gone.array_record#1")
    with pytest.raises(audio.AudioError, match=r"#2 is not in an audio format that libsndfile can read"):
        audio.info(f"{path}#2")  # random bytes
    with pytest.raises(ShardError, match="not a record of python -m"):
        shard_format.decode_record(b"something else altogether", "x")
    good = shard_format.encode_record({"a": 1}, b"audio")
    for place in range(4, len(good)):
        bad = bytearray(good)
        bad[place] ^= 4
        with pytest.raises(ShardError, match="x is damaged"):
            shard_format.decode_record(bytes(bad), "x")


def test_an_index_that_is_none_is_named(tmp_path):
    for content in ("", "[]", '{"shards": {"a": {"bytes": 1}}}', "\udcff"):
        (tmp_path / "a.shards.json").write_text(content, errors="surrogateescape")
        with pytest.raises(ShardError, match=r"a\.shards\.json is not an index of shards"):
            shard_format.read_index(str(tmp_path / "a.shards.json"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs the open files of a process")
def test_a_writer_that_is_left_unfinished_leaves_nothing(tmp_path):
    def opened() -> list[str]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return [
            path for path in (os.readlink(link) for link in links if os.path.lexists(link)) if str(tmp_path) in path
        ]

    with ShardWriter(tmp_path / "a.array_record") as writer:
        writer.write({}, b"1")
        assert len(opened()) == 1
        assert [re.sub("[0-9a-f]{8}", "*", name) for name in os.listdir(tmp_path)] == [".a.array_record.*.tmp"]
    assert not os.listdir(tmp_path)
    assert not opened()
    with pytest.raises(OSError, match="nowhere"):
        ShardWriter(tmp_path / "nowhere" / "a.array_record")


@pytest.mark.skipif(not OWN_MOUNTS, reason="mounting needs unshare and user namespaces")
def test_a_full_disk_is_the_systems_error(tmp_path):
    code = """
import os, sys
from pathlib import Path
from tests.input_pipeline.shards.test_format import write_shard
try:
    write_shard(Path(sys.argv[1], "a.array_record"), [os.urandom(1_000_000)] * 100)
except OSError as error:
    print(error.strerror)
print(os.listdir(sys.argv[1]))
"""
    assert run_with_mount("size=2m", tmp_path / "disk", code) == ["No space left on device", "[]"]


def test_open_shards_are_not_sent_to_processes(shard):
    cache = OpenShards()
    cache.get(str(shard[0]))
    with pytest.raises(TypeError):
        pickle.dumps(cache)
    assert threading.active_count() < 50
