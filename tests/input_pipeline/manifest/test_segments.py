"""Rows that are segments or channels of longer files: the same corpus as clips of their own, for every user of a manifest."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline import audio, manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment.audio_effects import ImpulseResponse, NoiseClip
from input_pipeline.augment.clip_cache import ClipCache, Clips
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import ManifestError, command, join, stats
from input_pipeline.manifest.pack import pack
from input_pipeline.manifest.segments import REFUSED_KEYS
from input_pipeline.text import TextRules, Vocabulary
from tests.runs import slow

RATE = 16000
PAUSE_S = 0.5


def write(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def single(clips, tmp_path) -> str:
    """Return a manifest of clips, each a file of its own."""
    lines = []
    for number, line in enumerate(json.loads(text) for text in clips.read_text().splitlines()):
        samples, _ = soundfile.read(clips.parent / line["audio_filepath"], dtype="int16")
        soundfile.write(tmp_path / f"{number}.flac", samples, RATE)
        lines.append({"audio_filepath": f"{number}.flac", "duration": len(samples) / RATE, "text": line["text"]})
    return write(tmp_path / "single.jsonl", lines)


@pytest.fixture
def joined(single, tmp_path) -> str:
    """Return a manifest of the same clips as segments of two calls of two channels."""
    rows, lines = manifest.read(single), []
    for call, channel in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at, parts = 0, []
        for row in range(2 * call + channel, len(rows), 4):
            samples, _ = soundfile.read(rows.audio[row], dtype="int16")
            place = {"offset": at / RATE, "duration": len(samples) / RATE, "channel": channel}
            lines.append((row, {"audio_filepath": f"call{call}.flac", "text": rows.text[row], **place}))
            parts += [samples, np.zeros(int(PAUSE_S * RATE), np.int16)]
            at += len(samples) + int(PAUSE_S * RATE)
        np.save(tmp_path / f"{call}{channel}.npy", np.concatenate(parts))
    for call in (0, 1):
        sides = [np.load(tmp_path / f"{call}{channel}.npy") for channel in (0, 1)]
        both = np.zeros((max(map(len, sides)), 2), np.int16)
        for channel, side in enumerate(sides):
            both[: len(side), channel] = side
        soundfile.write(tmp_path / f"call{call}.flac", both, RATE)
    return write(tmp_path / "joined.jsonl", [line for _, line in sorted(lines, key=lambda pair: pair[0])])


def batches(path: str, **load) -> list[dict]:
    rows = manifest.read(path)
    labels, _ = encode_transcripts(rows, Vocabulary.build(rows.text), TextRules("en"))
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=20), "utterance")
    corpus = Corpus(rows, labels, front_end, BatchSettings(size=5, buckets=2), load=LoadSettings(**load))
    return list(corpus.batches(corpus.plan_epoch(0)))


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one["valid"].any()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_batches_are_those_of_single_clips(single, joined, workers):
    assert_same(batches(joined, workers=workers), batches(single))


def test_statistics_are_those_of_single_clips(single, joined):
    ours, theirs = (stats.compute(manifest.read(path).clips, FeatureSettings()) for path in (joined, single))
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.std, theirs.std)


def test_the_doctor_finds_nothing_to_mend(single, joined, tmp_path, capsys):
    assert command.main(["check", joined, f"--output={tmp_path / 'clean.jsonl'}"]) == 0
    assert "12 utterances, 0 removed, 0 durations corrected" in capsys.readouterr().out
    clean = manifest.read(tmp_path / "clean.jsonl")
    assert clean.digest() == manifest.read(joined).digest()


def test_the_doctor_names_segments_that_are_not_there_and_those_that_are_twice(joined, tmp_path, capsys):
    lines = [json.loads(text) for text in Path(joined).read_text().splitlines()]
    lines[1] |= {"offset": 500.0}
    lines[2] |= {"duration": 600.0}
    lines[3] |= {"channel": 2}
    lines.append(dict(lines[0]))
    assert command.main(["check", write(tmp_path / "bad.jsonl", lines), f"--output={tmp_path / 'clean.jsonl'}"]) == 1
    report = capsys.readouterr().out
    for part in ("cannot begin at 500 s", "cannot end at 600", "no channel 2", "the same segment as line 1"):
        assert part in report
    assert "9 utterances, 4 removed, 0 durations corrected" in report


def test_packed_segments_are_cut_and_stay_the_same_corpus(single, joined, tmp_path):
    packed = pack(joined, str(tmp_path / "out"), shards=3).manifest
    rows, original = manifest.read(packed), manifest.read(joined)
    assert rows.digest() == original.digest() != manifest.read(single).digest()
    assert [rows.name(row) for row in range(12)] == [original.name(row) for row in range(12)]
    assert_same(batches(packed), batches(single))
    pack(single, str(tmp_path / "files"), shards=3)
    cut, files = (sum(path.stat().st_size for path in (tmp_path / name).glob("*_record")) for name in ("out", "files"))
    assert cut < 1.3 * files
    again = pack(packed, str(tmp_path / "again"), shards=1, name="again").manifest
    assert manifest.read(again).digest() == original.digest()
    assert_same(batches(again), batches(single))


def test_the_digest_depends_on_offset_and_channel(tmp_path):
    line = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}
    parts: tuple[dict, ...] = (
        {},
        {"offset": 0.0},
        {"offset": 1.0},
        {"channel": 0},
        {"channel": 1},
        {"offset": 1.0, "channel": 1},
    )
    digests = {manifest.read(write(tmp_path / "m.jsonl", [{**line, **part}])).digest() for part in parts}
    assert len(digests) == len(parts)
    null = manifest.read(write(tmp_path / "m.jsonl", [{**line, "offset": None, "channel": None}])).digest()
    assert null == manifest.read(write(tmp_path / "m.jsonl", [line])).digest()


def test_messages_name_the_part(joined):
    rows = manifest.read(joined)
    line = json.loads(Path(joined).read_text().splitlines()[4])
    end = round(line["offset"] + line["duration"], 3)
    assert rows.where(4).endswith(f"joined.jsonl:5 (call0.flac, {round(line['offset'], 3):g} to {end:g} s, channel 0)")


def test_joined_clips_come_from_the_segments(single, joined, tmp_path):
    for path in (single, joined):
        options = [f"--output={tmp_path / Path(path).stem}_out.jsonl", "--per=2", "--pause_s=0"]
        assert join.main([path, *options]) == 0
    ours, theirs = (manifest.read(tmp_path / f"{name}_out.jsonl") for name in ("joined", "single"))
    for one, other in zip(ours.audio, theirs.audio, strict=True):
        np.testing.assert_array_equal(audio.read(one)[0], audio.read(other)[0])


def test_noise_and_impulse_responses_may_be_segments(joined):
    rows = manifest.read(joined)
    for kind in (NoiseClip, ImpulseResponse):
        clips = Clips("noise", kind, rows)
        clips.check(RATE)
        cache = ClipCache(kind, 1 << 30)
        first, second = (cache.read(rows.clips[row], RATE) for row in (0, 4))  # of one file
        assert first is not second
        assert first is cache.read(rows.clips[0], RATE)


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_other_keys_that_mean_a_part_are_refused_unless_ignored(single, tmp_path, capsys, key):
    lines = [json.loads(text) for text in Path(single).read_text().splitlines()]
    lines[2][key] = 1.5
    path = write(tmp_path / "parts.jsonl", lines)
    with pytest.raises(ManifestError, match=rf"parts\.jsonl:3: the key '{key}' .*'offset' and 'duration'.*ignore_keys"):
        manifest.read(path)
    assert len(manifest.read(path, ignore_keys=manifest.parse_ignored(f"speed, {key}"))) == 12
    assert command.main(["check", path, f"--output={tmp_path / 'clean.jsonl'}"]) == 1
    assert f"the key '{key}'" in capsys.readouterr().out
    assert command.main(["check", path, f"--ignore_keys={key}"]) == 0
    assert len(manifest.read(path, need_text=False, ignore_keys=[key]).extra[2]) == 1


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"offset": -1}, "'offset' is -1"),
        ({"offset": "1"}, "'offset' is '1'"),
        ({"offset": True}, "'offset' is True"),
        ({"channel": "left"}, "'channel' is 'left'"),
        ({"channel": 1.5}, r"'channel' is 1\.5"),
        ({"channel": -1}, "'channel' is -1"),
    ],
)
def test_values_that_are_no_part_are_refused_unless_ignored(tmp_path, part, said):
    path = write(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "duration": 1.0, "text": "a", **part}])
    with pytest.raises(ManifestError, match=rf"m\.jsonl:1: {said}"):
        manifest.read(path)
    rows = manifest.read(path, ignore_keys=list(part))
    assert rows.clips[0] == str(tmp_path / "a.wav")


def test_wrong_headers_are_reported_and_kept(single, tmp_path, capsys, caplog):
    rows = manifest.read(single)
    lines = [json.loads(text) for text in Path(single).read_text().splitlines()][:3]
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", audio.read(rows.audio[number])[0], RATE, subtype="PCM_16")
        content = (tmp_path / f"{number}.wav").read_bytes()
        stated = {0: len(content) - 44, 1: 0, 2: 3 * len(content)}[number]
        (tmp_path / f"{number}.wav").write_bytes(content[:40] + stated.to_bytes(4, "little") + content[44:])
        lines[number]["audio_filepath"] = f"{number}.wav"
    path = write(tmp_path / "headers.jsonl", lines)
    assert command.main(["check", path, f"--output={tmp_path / 'clean.jsonl'}"]) == 1
    report = capsys.readouterr().out
    assert "[header]: 1 (kept" in report
    assert "[unreadable]: 1 (removed" in report
    assert "ffmpeg -ignore_length 1" in report
    assert "2 utterances, 1 removed, 0 durations corrected" in report
    with caplog.at_level(logging.WARNING):
        [batch] = batches(path)
    assert sorted(batch["valid"][batch["utterance"] >= 0]) == [False, True, True]
    assert "1.wav has" in caplog.text
