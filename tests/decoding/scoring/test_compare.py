import json
import math
from pathlib import Path

import numpy as np
import pytest

from decoding.scoring.compare import Errors, compare, main

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 12, 300)
ERRORS = RNG.binomial(LENGTHS, 0.3)


def errors(*runs) -> Errors:
    return Errors(np.array(runs), LENGTHS)


def test_rates_and_their_difference():
    found = compare(errors(ERRORS), errors(ERRORS // 2))
    before, after = ERRORS.sum() / LENGTHS.sum(), (ERRORS // 2).sum() / LENGTHS.sum()
    assert (found.base, found.new) == pytest.approx((before, after))
    assert found.change == pytest.approx(after - before)
    assert found.ratio == pytest.approx(after / before)
    assert found.change_interval[0] < found.change < found.change_interval[1] < 0
    assert found.ratio_interval[0] < found.ratio < found.ratio_interval[1] < 1
    assert found.better == 1.0


def test_the_interval_is_that_of_the_mean_of_paired_differences():
    """With references of equal length, the difference of rates is a mean, whose standard error is known."""
    lengths, before = np.full(400, 10), RNG.binomial(10, 0.3, 400)
    after = np.clip(before - RNG.binomial(1, 0.1, 400), 0, None)
    low, high = compare(Errors(before[None], lengths), Errors(after[None], lengths)).change_interval
    error = (after - before).std() / 10 / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_models_of_equal_errors_do_not_differ():
    found = compare(errors(ERRORS), errors(ERRORS))
    assert (found.change_interval, found.ratio_interval) == ((0.0, 0.0), (1.0, 1.0))
    assert (found.better, found.equal) == (0.0, 1.0)
    chance = compare(errors(ERRORS), errors(RNG.binomial(LENGTHS, 0.3)))
    assert chance.change_interval[0] < 0 < chance.change_interval[1]


def test_what_one_training_shows_and_another_does_not_is_no_difference():
    good, bad = ERRORS // 2, np.minimum(ERRORS + 1, LENGTHS)
    assert compare(errors(ERRORS), errors(good)).change_interval[1] < 0
    both = compare(errors(ERRORS), errors(good, bad))
    assert both.change_interval[0] < 0 < both.change_interval[1]
    assert both.new == pytest.approx([good.sum() / LENGTHS.sum(), bad.sum() / LENGTHS.sum()])


def test_seeds_alone_show_a_difference_no_more_often_than_they_should():
    """Two equal models, of two trainings each, whose seeds matter more than the utterances."""
    rng, lengths, wrong = np.random.default_rng(0), np.full(400, 10), 0
    for trial in range(60):
        runs = rng.binomial(10, np.clip(rng.normal(0.3, 0.03, (4, 1)), 0, 1), (4, 400))
        low, high = compare(
            Errors(runs[:2], lengths), Errors(runs[2:], lengths), resamples=400, seed=trial
        ).change_interval
        wrong += not low <= 0 <= high
    assert wrong <= 6


def test_a_base_without_errors_has_no_ratio_but_one():
    none, some = np.array([[0, 0]]), np.array([[2, 3]])
    lengths = np.array([5, 5])
    perfect = compare(Errors(none, lengths), Errors(none, lengths))
    assert (perfect.ratio, perfect.ratio_interval) == (1.0, (1.0, 1.0))
    worse = compare(Errors(none, lengths), Errors(some, lengths))
    assert (worse.ratio, worse.ratio_interval) == (math.inf, (math.inf, math.inf))


def test_empty_references_count_insertions_and_alone_have_no_rate():
    found = compare(Errors(np.array([[1, 0]]), np.array([0, 4])), Errors(np.array([[0, 0]]), np.array([0, 4])))
    assert found.base == pytest.approx([0.25])
    with pytest.raises(ValueError, match="all references are empty"):
        compare(Errors(np.array([[1]]), np.array([0])), Errors(np.array([[1]]), np.array([0])))


@pytest.fixture
def transcripts(tmp_path):
    def write(name: str, *texts: str | None, references=("go left", "stop now please"), audio="a{}.wav") -> str:
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            for row, (text, reference) in enumerate(zip(texts, references, strict=True)):
                result = {"error": "it is damaged"} if text is None else {"text": text, "confidence": 0.9}
                record = {"audio_filepath": audio.format(row), "duration": 1.0, "reference": reference}
                file.write(json.dumps(record | result) + "\n")
        return str(path)

    return write


def test_the_command_compares_files_of_several_trainings(transcripts, capsys):
    base = f"{transcripts('b1', 'go', 'stop')},{transcripts('b2', 'left', 'stop now')}"
    new = transcripts("n", "go left", "Stop, now please.")
    assert main([base, new]) == 0
    out = capsys.readouterr().out
    assert "2 utterances; scoring: case ignored, punctuation removed, full-width forms folded" in out
    assert "WER  base 50.00% (60.00, 40.00), new 0.00%" in out
    assert "difference -50.00 points (-" in out
    assert "of the resamples, equal in " in out
    assert "seeds" not in out
    assert main([base.split(",")[0], new]) == 0
    assert "other seeds would change: give several trainings of each model" in capsys.readouterr().out
    assert main([base, new, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["utterances"], found["wer"]["base"], found["wer"]["new"]) == (2, [0.6, 0.4], [0.0])


def test_languages_without_spaces_have_no_word_error_rate(transcripts, capsys):
    references = ("你好", "再见")
    base = transcripts("b", "你", "再见", references=references)
    assert main([base, transcripts("n", "你 好", "再见", references=references), "--language=zh"]) == 0
    out = capsys.readouterr().out
    assert "CER  base 25.00%, new 0.00%" in out
    assert "WER" not in out


def test_utterances_without_a_transcript_are_left_out_and_counted(transcripts, capsys):
    assert main([transcripts("b", "go", None), transcripts("n", "go left", "stop")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("1 utterances")
    assert "1 utterances have no transcript in " in err


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"audio": "b{}.wav"},
            "differ in utterance 1: audio_filepath is 'a0.wav' and 'b0.wav': transcribe the same manifest",
        ),
        ({"references": ("go left", "stop")}, "differ in utterance 2: reference is 'stop now please' and 'stop'"),
        ({"texts": (None, None)}, "no utterance has a transcript in all files"),
        ({"texts": ("go",), "references": ("go left",)}, "has 2 utterances, "),
        ({"texts": (), "references": ()}, "is empty: name a file of --mode=infer"),
    ],
)
def test_what_cannot_be_compared_is_named(other, message, transcripts, capsys):
    options = {"texts": ("go", "stop")} | other
    assert main([transcripts("b", "go", "stop"), transcripts("n", *options.pop("texts"), **options)]) == 2
    assert message in capsys.readouterr().err


def test_silence_has_no_reference_and_editors_leave_marks(transcripts, tmp_path, capsys):
    """--mode=infer writes no reference of an empty text, and editors on Windows a byte order mark and blank lines."""
    base, new = transcripts("b", "go", "stop"), transcripts("n", "go left", "stop now please")
    for path, silence in ((Path(base), "uh"), (Path(new), "")):
        record = json.dumps({"audio_filepath": "silence.wav", "duration": 1.0, "text": silence})
        path.write_text(path.read_text() + record + "\n\n", encoding="utf-8-sig", newline="\r\n")
    assert main([base, new, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["utterances"], found["wer"]["base"], found["wer"]["new"]) == (3, [0.8], [0.0])


def test_other_files_are_named_with_the_line(transcripts, tmp_path, capsys):
    (tmp_path / "manifest.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "go"}\n')
    (tmp_path / "table.jsonl").write_text("go left\n")
    (tmp_path / "null.jsonl").write_text('{"reference": "go", "text": null}\n')
    (tmp_path / "latin.jsonl").write_bytes(b'{"reference": "caf\xe9", "text": "go"}\n')
    base = transcripts("b", "go", "stop")
    for name, message in (
        ("manifest", "manifest.jsonl has no reference: transcribe"),
        ("table", ":1 is not JSON"),
        ("null", ":1 is no transcript"),
        ("latin", "latin.jsonl is not UTF-8"),
        ("gone", "gone.jsonl cannot be read (No such file or directory): name a file"),
    ):
        assert main([base, str(tmp_path / f"{name}.jsonl")]) == 2
        assert message in capsys.readouterr().err
