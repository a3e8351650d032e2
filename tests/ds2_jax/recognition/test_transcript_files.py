"""Each format is parsed again and compared with the words that were written."""

import csv
import json
import re

import pytest

from decoding.hypothesis import Word
from ds2_jax.recognition.cues import CueSettings
from ds2_jax.recognition.long_recording import Passage
from ds2_jax.recognition.recording import Turn
from ds2_jax.recognition.transcript_files import (
    FORMATS,
    NamedTranscript,
    check_count,
    format_transcripts,
    short_names,
    suffix_of,
)
from input_pipeline.audio import Segment

SETTINGS = CueSettings()


def passage(*texts: str, start_s: float) -> Passage:
    words = [Word(text, start_s + 0.5 * i, start_s + 0.5 * i + 0.4, 0.9) for i, text in enumerate(texts)]
    return Passage(" ".join(texts), words, 0.9, -1.0, words[0].start_s, words[-1].end_s)


@pytest.fixture
def call() -> NamedTranscript:
    """Return a call of two speakers."""
    turns = [
        Turn("L", passage("good", "morning", start_s=0.25)),
        Turn("R", passage('say "hi"', "there", start_s=1.0)),
        Turn("L", passage("yes", start_s=3661.5)),
    ]
    return NamedTranscript(
        Segment("calls/one two.wav"), 3670.0, turns, {"audio_filepath": "calls/one two.wav", "text": "x"}
    )


@pytest.fixture
def lecture() -> NamedTranscript:
    """Return a recording of one speaker, who pauses."""
    turns = [Turn("", passage("good", "morning", start_s=0.25)), Turn("", passage("yes", start_s=60.0))]
    return NamedTranscript(Segment("lecture.mp3"), 70.0, turns, {"audio_filepath": "lecture.mp3", "text": "y"})


def test_subtitles_name_the_speaker(call):
    blocks = re.findall(r"(\S+) --> (\S+)\n((?:.+\n)+)", format_transcripts(".srt", [call], SETTINGS))
    assert blocks == [
        ("00:00:00,250", "00:00:01,150", "L: good morning\n"),
        ("00:00:01,000", "00:00:02,000", 'R: say "hi" there\n'),
        ("01:01:01,500", "01:01:02,500", "L: yes\n"),
    ]
    assert format_transcripts(".vtt", [call], SETTINGS).startswith("WEBVTT\n\n00:00:00.250 --> ")


def test_tables_and_text_hold_several_recordings(call, lecture):
    rows = list(csv.DictReader(format_transcripts(".tsv", [call, lecture], SETTINGS).splitlines(), delimiter="\t"))
    assert [(row["audio"], row["start_s"], row["speaker"], row["text"]) for row in rows] == [
        ("calls/one two.wav", "0.250", "L", "good morning"),
        ("calls/one two.wav", "1.000", "R", 'say "hi" there'),
        ("calls/one two.wav", "3661.500", "L", "yes"),
        ("lecture.mp3", "0.250", "", "good morning"),
        ("lecture.mp3", "60.000", "", "yes"),
    ]
    text = format_transcripts(".txt", [call, lecture], SETTINGS)
    assert text == 'L: good morning\nR: say "hi" there\nL: yes\n\ngood morning\nyes\n'


def test_ctm_has_a_line_for_each_word(call, lecture):
    lines = [line.split(" ") for line in format_transcripts(".ctm", [lecture], SETTINGS).splitlines()]
    assert lines == [
        ["lecture", "1", "0.250", "0.400", "good", "0.9000"],
        ["lecture", "1", "0.750", "0.400", "morning", "0.9000"],
        ["lecture", "1", "60.000", "0.400", "yes", "0.9000"],
    ]
    channels = [line.split()[:2] for line in format_transcripts(".ctm", [call], SETTINGS).splitlines()]
    assert channels == [["one_two", "1"]] * 3 + [["one_two", "2"]] * 2


def test_ctm_has_the_times_and_channels_of_the_file():
    """Also for parts of a file, whatever their order, and where only the right channel speaks."""
    parts = [
        NamedTranscript(Segment("call.wav", 10.5, 4.0, 1), 4.0, [Turn("", passage("later", start_s=0.25))]),
        NamedTranscript(Segment("call.wav", 0.5, 4.0, 1), 4.0, [Turn("", passage("first", start_s=0.25))]),
        NamedTranscript(Segment("call.wav", 0.5, 4.0, 0), 4.0, [Turn("", passage("left", start_s=0.5))]),
        NamedTranscript(Segment("stereo.wav"), 4.0, [Turn("R", passage("right", start_s=1.0))]),
        NamedTranscript(Segment("three.wav"), 4.0, [Turn("3", passage("third", start_s=1.0))]),
    ]
    assert [line.split()[:5] for line in format_transcripts(".ctm", parts, SETTINGS).splitlines()] == [
        ["call", "1", "1.000", "0.400", "left"],
        ["call", "2", "0.750", "0.400", "first"],
        ["call", "2", "10.750", "0.400", "later"],
        ["stereo", "2", "1.000", "0.400", "right"],
        ["three", "3", "1.000", "0.400", "third"],
    ]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/one two.wav", "v1.5.flac", "a/one two.wav"], ["one_two", "v1.5", "one_two"]),
        (["a/x.flac", "b/x.flac", "y.flac"], ["a_x", "b_x", "y"]),
        (["x.flac", "x.wav"], ["x.flac", "x.wav"]),
        (["a b.wav", "a_b.wav"], ["a_b.wav_1", "a_b.wav_2"]),
        (["-"], ["-"]),
    ],
)
def test_names_of_recordings_differ(paths, names):
    assert [short_names(paths)[path] for path in paths] == names


def test_json_has_segments_with_words(call, lecture):
    first, second = json.loads(format_transcripts(".json", [call, lecture], SETTINGS))
    assert [segment["speaker"] for segment in first["segments"]] == ["L", "R", "L"]
    assert first["segments"][1]["words"][1] == {"text": "there", "start_s": 1.5, "end_s": 1.9, "confidence": 0.9}
    assert second["text"] == "good morning yes"
    assert second["duration_s"] == 70.0
    lines = format_transcripts(".jsonl", [call, lecture], SETTINGS).splitlines()
    assert [json.loads(line) for line in lines] == [call.record, lecture.record]


def test_a_textgrid_has_a_tier_without_gaps_for_each_speaker(call):
    text = format_transcripts(".TextGrid", [call], SETTINGS)
    assert re.findall(r'name = "(.*)"', text) == ["L", "R"]
    for tier in text.split("item [")[2:]:
        intervals = re.findall(r'xmin = (\S+)\n +xmax = (\S+)\n +text = "(.*)"', tier)
        assert len(intervals) == int(re.findall(r"intervals: size = (\d+)", tier)[0])
        assert [start for start, *_ in intervals] == ["0.000", *(end for _, end, _ in intervals[:-1])]
        assert intervals[-1][1] == "3670.000"
    assert 'text = "say ""hi"""' in text


def test_silence_gives_empty_files():
    silence = NamedTranscript(Segment("silence.wav"), 5.0, [])
    assert format_transcripts(".srt", [silence], SETTINGS) == ""
    assert format_transcripts(".vtt", [silence], SETTINGS) == "WEBVTT\n"
    assert 'text = ""' in format_transcripts(".TextGrid", [silence], SETTINGS)
    assert json.loads(format_transcripts(".json", [silence], SETTINGS))[0]["segments"] == []


def test_the_name_of_a_file_says_its_format():
    assert [suffix_of(name) for name in ("a.srt", "b.SRT", "c.textgrid", "d", "x/e.jsonl")] == [
        ".srt",
        ".srt",
        ".TextGrid",
        ".jsonl",
        ".jsonl",
    ]
    with pytest.raises(ValueError, match=r"a\.docx: \.docx is no format of transcripts: use \.jsonl, .*\.srt"):
        suffix_of("a.docx")
    for suffix in FORMATS:
        check_count(suffix, 1)
    with pytest.raises(ValueError, match=r"a \.srt file holds one recording, of 2 given"):
        check_count(".srt", 2)
