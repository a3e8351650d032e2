"""Training manifests of the transcripts of which a model is sure."""

import json
import shutil

import pytest

from input_pipeline import manifest
from input_pipeline.manifest import command
from tests.runs import ROOT, run_main

SURE = {"text": "go", "confidence": 0.9, "duration": 1.0, "words": [{"text": "go", "confidence": 0.9}]}


@pytest.fixture
def transcripts(tmp_path):
    """Return a function that writes transcripts and returns their file."""

    def write(*records: dict) -> str:
        path = tmp_path / "new.jsonl"
        lines = (json.dumps({"audio_filepath": f"{n}.wav"} | record) for n, record in enumerate(records))
        path.write_text("\n".join(lines))
        return str(path)

    return write


def select(source: str, output, *options: str) -> list[dict]:
    assert command.main(["select", source, f"--output={output}", *options]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_what_a_model_transcribed_can_be_trained_on(tmp_path):
    """Whole files and segments, named relative to the folder of the transcription."""
    path = "cen1-fjdn-b.flac"
    for folder in ("given", "train"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tests/clips" / path, tmp_path / "given")
    rows = [{"audio_filepath": path, "duration": 1.5}, {"audio_filepath": path, "offset": 0.25, "duration": 1.0}]
    manifest.write(tmp_path / "given" / "new.jsonl", rows)
    flags = ["--config.restore=models/an4", f"--config.data.test={tmp_path / 'given' / 'new.jsonl'}"]
    result = run_main("--mode=infer", *flags, f"--output={tmp_path / 'transcripts.jsonl'}")
    assert result.returncode == 0, result.stderr
    select(str(tmp_path / "transcripts.jsonl"), tmp_path / "train" / "pseudo.jsonl", "--min_confidence=0.1")
    made = manifest.read(tmp_path / "train" / "pseudo.jsonl")
    assert made.text[0] == "n e l s o n"
    assert list(made.duration) == [1.5, 1.0]
    assert [getattr(clip, "offset_s", clip) for clip in made.clips] == [
        str(tmp_path / "given" / path),
        0.25,
    ]


def test_each_threshold_leaves_out_what_is_below_it(transcripts, tmp_path, capsys):
    doubtful = {
        "text": "go on",
        "confidence": 0.95,
        "duration": 2.0,
        "words": [{"confidence": 0.99}, {"confidence": 0.6}],
    }
    given = transcripts(SURE, doubtful, SURE | {"text": " "}, SURE | {"confidence": 0.899}, {"error": "is damaged"})
    texts = [one["text"] for one in select(given, tmp_path / "a.jsonl", "--min_confidence=0.9")]
    assert texts == ["go", "go on"]
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0]
        == "confidence of 4 utterances: 10 % below 0.899, 25 % below 0.900, 50 % below 0.900, 75 % below 0.912, 90 % below 0.935"
    )
    assert shown[1].endswith(
        "2 of 5 utterances, 0.1 of 0.1 minutes; left out: 1 without text, 1 of a confidence below 0.9, 1 with an error"
    )
    [kept] = select(given, tmp_path / "b.jsonl", "--min_confidence=0.9", "--min_word_confidence=0.7")
    assert kept["text"] == "go"
    [kept] = select(given, tmp_path / "c.jsonl", "--min_confidence=0", "--min_duration=1.5", "--max_duration=2")
    assert kept["text"] == "go on"
    assert "words" not in kept


def test_what_training_could_not_read_again_is_left_out(transcripts, tmp_path, capsys):
    given = transcripts(SURE, SURE | {"remarks": ["a.wav ends early"]}, SURE | {"audio_filepath": "-"})
    [kept] = select(given, tmp_path / "a.jsonl", "--min_confidence=0.5")
    assert kept["audio_filepath"].endswith("/0.wav")
    assert "1 of a file with something wrong, 1 of standard input" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "options", "expected"),
    [
        ([SURE], ["--min_confidence=1.5"], "--min_confidence=1.5: must be from 0 to 1"),
        ([SURE], ["--min_confidence=nan"], "--min_confidence=nan: must be from 0 to 1"),
        ([SURE], ["--min_confidence=0.5", "--min_duration=2", "--max_duration=1"], "must satisfy 0 <= shortest"),
        (
            [SURE],
            ["--min_confidence=0.95"],
            "no utterance is selected, so {output} is not written; left out: 1 of a conf",
        ),
        (
            [{"text": "go", "duration": 1.0}],
            ["--min_confidence=0.5"],
            "new.jsonl:1 is no transcript with a text, a conf",
        ),
        ([SURE | {"confidence": "high"}], ["--min_confidence=0.5"], "new.jsonl:1 is no transcript with a text, a conf"),
        ([SURE, {"turns": []}], ["--min_confidence=0.5"], "new.jsonl:2 is a conversation of several channels"),
        ([SURE], ["--min_confidence=0.5", "--output={given}"], "which is read, and would be lost"),
        ([], ["--min_confidence=0.5"], "no utterance is selected"),
    ],
)
def test_what_cannot_be_selected_is_named_and_nothing_is_written(
    records, options, expected, transcripts, tmp_path, capsys
):
    given, output = transcripts(*records), tmp_path / "out.jsonl"
    before = open(given).read()  # noqa: SIM115
    options = [option.format(given=given) for option in options]
    assert command.main(["select", given, f"--output={output}", *options]) == 2
    assert expected.format(output=output) in capsys.readouterr().err
    assert not output.exists()
    assert open(given).read() == before  # noqa: SIM115
