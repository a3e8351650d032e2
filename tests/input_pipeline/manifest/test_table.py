"""Reading, joining, filtering and writing manifests, and the messages for those that are wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.manifest import ManifestError


def record(name: Any = "a.wav", duration: Any = 1.5, text: Any = "yes", **extra: Any) -> dict:
    return {"audio_filepath": name, "duration": duration, "text": text, **extra}


def write_lines(path: Path, *lines: str | dict) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_paths_are_relative_to_the_folder_of_the_manifest(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", record("x/a.wav"), record("/else/b.wav"), record("../c.wav"))
    read = manifest.read(path)
    assert read.audio == [f"{tmp_path}/x/a.wav", "/else/b.wav", f"{tmp_path}/../c.wav"]
    assert [read.path_as_written(row) for row in range(3)] == ["x/a.wav", "/else/b.wav", "../c.wav"]


def test_rows_know_their_line_speaker_and_extra_keys(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", record(speaker="fash", take=2), "", record("b.wav", 2, "你好", speaker=7))
    read = manifest.read(path)
    assert len(read) == 2
    assert read.where(1) == f"{path}:3 (b.wav)"
    assert [read.speaker(0), read.speaker(1)] == ["fash", "7"]
    assert read.extra[0] == {"speaker": "fash", "take": 2}
    assert manifest.read(write_lines(tmp_path / "null.jsonl", record(speaker=None))).speaker(0) == ""
    assert read.text == ["yes", "你好"]
    assert read.duration.tolist() == [1.5, 2.0]


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_harmless(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode() + b"\r\n\r\n" + json.dumps(record()).encode())
    assert manifest.read(path).line.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'a': 1}", "not JSON"),
        ("[1]", "a list instead of a JSON object"),
        ({"audio_filepath": "a.wav", "text": "x"}, "'duration' is missing"),
        ({"duration": 1, "text": "x"}, "'audio_filepath' is missing"),
        ({"audio_filepath": "a.wav", "duration": 1}, "'text' is missing"),
        (record(duration="1.5"), "'duration' is '1.5'; it must be a positive number"),
        (record(duration=0), "'duration' is 0"),
        (record(duration=-2.0), "'duration' is -2"),
        (record(duration=True), "'duration' is True"),
        ('{"audio_filepath": "a.wav", "duration": NaN, "text": ""}', "'duration' is nan"),
        ('{"audio_filepath": "a.wav", "duration": Infinity, "text": ""}', "'duration' is inf"),
        (record(text=None), "'text' is None"),
        (record(text=["a"]), "'text' is ['a']"),
        (record(name=""), "'audio_filepath' is ''"),
        (record(name=3), "'audio_filepath' is 3"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_remedy(tmp_path, line, message):
    path = write_lines(tmp_path / "m.jsonl", record(), line)
    with pytest.raises(ManifestError) as error:
        manifest.read(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


def test_wrong_files_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    cases = [("gone.jsonl", "does not exist"), ("empty.jsonl", "is empty"), ("latin.jsonl", ":1: not UTF-8")]
    for name, message in [*cases, ("", "cannot be read")]:
        with pytest.raises(ManifestError, match=message):
            manifest.read(tmp_path / name)


def test_text_and_audio_may_be_absent_where_they_are_not_needed(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "duration": 2}, record(text=None))
    assert manifest.read(path, need_text=False).text == ["", ""]
    path = write_lines(tmp_path / "t.jsonl", {"text": "only text"})
    only_text = manifest.read(path, need_audio=False)
    assert only_text.audio == [""]
    assert np.isnan(only_text.duration).all()
    assert only_text.where(0) == f"{path}:1"


def test_bad_lines_can_be_collected_instead_of_raised(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", "{", record(), record(duration=0))
    bad_lines: list[str] = []
    assert len(manifest.read(path, bad_lines=bad_lines)) == 1
    assert [line.split(": ")[0] for line in bad_lines] == [f"{path}:1", f"{path}:3"]


def test_several_manifests_are_joined_with_their_weights(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", record("a.wav"))
    second = write_lines(tmp_path / "b:c.jsonl", record("b.wav"), record("c.wav", speaker="s"))
    joined = manifest.read_many(f"{first}:2, {second}:0.5")
    assert joined.weights == (2.0, 0.5)
    assert joined.source.tolist() == [0, 1, 1]
    assert joined.where(2) == f"{second}:2 (c.wav)"
    assert manifest.read_many(str(second)).weights == (1.0,)


@pytest.mark.parametrize("spec", ["", "{0},", "{0}:0", "{0}:-1", "{0}:nan", "{0},{0}:2"])
def test_specifications_that_cannot_be_meant_are_refused(tmp_path, spec):
    path = write_lines(tmp_path / "a.jsonl", record())
    with pytest.raises(ManifestError, match=r"empty|weight|twice"):
        manifest.read_many(spec.format(path))


def test_selection_keeps_columns_together(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", *[record(f"{i}.wav", i + 1, f"t{i}", n=i) for i in range(4)])
    chosen = manifest.read(path).select([3, 1])
    assert chosen.text == ["t3", "t1"]
    assert chosen.duration.tolist() == [4.0, 2.0]
    assert chosen.line.tolist() == [4, 2]
    assert [extra["n"] for extra in chosen.extra] == [3, 1]


@pytest.mark.parametrize(
    ("durations", "unit"), [([1.5, 0.7, 2], 0.1), ([1.5, 0.75], 0.01), ([1.125, 2.0], 0.001), ([0.12345], 0.001)]
)
def test_rounding_of_durations_is_recognised(tmp_path, durations, unit):
    path = write_lines(tmp_path / "m.jsonl", *[record(duration=duration) for duration in durations])
    assert manifest.read(path).duration_unit_s == unit


def test_the_coarsest_rounding_of_several_manifests_counts(tmp_path):
    fine = write_lines(tmp_path / "fine.jsonl", record(duration=1.125))
    coarse = write_lines(tmp_path / "coarse.jsonl", record(duration=1.1))
    assert manifest.read_many(f"{fine},{coarse}").duration_unit_s == 0.1


def test_digest_follows_content_and_not_place(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    first = manifest.read(write_lines(tmp_path / "x" / "m.jsonl", record(), record("b.wav")))
    moved = manifest.read(write_lines(tmp_path / "y" / "n.jsonl", record(speaker="extra"), record("b.wav")))
    assert first.digest() == moved.digest()
    monkeypatch.chdir(tmp_path / "x")
    assert manifest.read("m.jsonl").digest() == first.digest()
    for other in (record(text="no"), record(duration=1.6), record("c.wav")):
        changed = manifest.read(write_lines(tmp_path / "x" / "c.jsonl", other, record("b.wav")))
        assert changed.digest() != first.digest()
    assert first.select([1, 0]).digest() != first.digest()


def test_duration_limits_are_inclusive_and_counted(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", *[record(duration=duration) for duration in (0.5, 1.0, 2.0, 3.0, 60.0)])
    kept, sentence = manifest.filter_duration(manifest.read(path), 1.0, 3.0)
    assert kept.duration.tolist() == [1.0, 2.0, 3.0]
    assert "dropped 2 of 5 utterances (1.0 of 1.1 min): 1 shorter than 1 s, 1 longer than 3 s" in sentence
    assert manifest.filter_duration(kept, 1.0, 3.0)[1] == ""


def test_duration_limits_that_leave_nothing_are_an_error(tmp_path):
    read = manifest.read(write_lines(tmp_path / "m.jsonl", record()))
    for limits, message in (((2.0, 3.0), "none is left"), ((3.0, 2.0), "must satisfy")):
        with pytest.raises(ManifestError, match=message):
            manifest.filter_duration(read, *limits)


def test_what_is_written_is_read_again_unescaped(tmp_path):
    path = tmp_path / "new" / "m.jsonl"
    manifest.write(path, [record(text="你好"), record("b.wav", speaker="s")])
    assert "你好" in path.read_text(encoding="utf-8")
    assert manifest.read(path).extra[1] == {"speaker": "s"}


def test_a_failed_write_leaves_the_old_manifest_and_no_litter(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", record())

    def records():
        yield record(text="new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        manifest.write(path, records())
    assert manifest.read(path).text == ["yes"]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_command_line_names_a_wrong_file_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "input_pipeline.manifest", "check", str(tmp_path / "gone.jsonl")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert ran.returncode == 2
    assert ran.stderr.strip().splitlines()[-1].endswith("gone.jsonl does not exist; check the path")
    assert "Traceback" not in ran.stderr


def test_half_a_surrogate_pair_is_written_as_the_escape_that_it_was(tmp_path):
    """JSON may hold it, UTF-8 may not: one broken text must not make the whole manifest unreadable."""
    source = write_lines(tmp_path / "m.jsonl", record(text="a\ud83d"), record(text="你好"))
    written = tmp_path / "written.jsonl"
    manifest.write(written, manifest.records(source))
    assert manifest.read(written).text == manifest.read(source).text
    assert "你好" in written.read_text(encoding="utf-8")
