"""Paths become content in one place: files stay paths, records and objects are read, and errors stand for themselves."""

import pytest

from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import ShardError
from input_pipeline.shards.writer import ShardWriter
from input_pipeline.storage import object_store


@pytest.fixture
def shard(tmp_path) -> str:
    """Return the path of a shard of one record, b"audio"."""
    with ShardWriter(tmp_path / "a.array_record") as writer:
        writer.write({"text": "a"}, b"audio")
        writer.finish()
    return str(tmp_path / "a.array_record")


def test_a_file_stays_its_path_and_a_record_becomes_its_content(shard):
    assert shard_source.resolve("audio/a.flac") == "audio/a.flac"
    clip = shard_source.resolve(f"{shard}#0")
    assert isinstance(clip, shard_source.Clip)
    assert (clip.getvalue(), clip.name) == (b"audio", f"{shard}#0")
    with pytest.raises(ShardError, match=r"has 1 records, and no number 1"):
        shard_source.resolve(f"{shard}#1")


@pytest.mark.parametrize("remote", [False, True])
def test_of_several_paths_each_is_resolved_once_and_errors_stand_in_place_of_content(shard, request, remote):
    paths = ["a.flac", f"{shard}#0", f"{shard}#1", "a.flac"]
    if remote:
        request.getfixturevalue("store")
        paths.append("s3://speech/nothing.flac")
    found = shard_source.resolve_all(paths)
    assert list(found) == list(dict.fromkeys(paths))
    assert found["a.flac"] == "a.flac"
    assert isinstance(found[f"{shard}#0"], shard_source.Clip)
    assert isinstance(found[f"{shard}#1"], ShardError)
    if remote:
        assert isinstance(found["s3://speech/nothing.flac"], object_store.Missing)
