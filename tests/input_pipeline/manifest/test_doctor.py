"""The doctor on real audio files, each with one problem."""

import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline import manifest
from input_pipeline.manifest import command, examination
from input_pipeline.manifest.doctor import Limits
from input_pipeline.manifest.examination import Clip
from input_pipeline.manifest.text_checks import suspicious_texts
from input_pipeline.text import normalise

RATE_HZ = 16000
SPEECH = os.environ.get("DS2_SPEECH_DATA", "")


def voice(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise at the level of speech, other for each seed."""
    return 0.1 * np.random.default_rng(seed).uniform(-1, 1, round(seconds * rate_hz))


class Clinic:
    """Builds a corpus in a folder and checks it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self.capsys = folder, capsys
        self.lines: list[str] = []
        for seed in (1, 2):
            self.add(f"good{seed}.wav", voice(2.0, seed))

    def add(self, name: str, samples: np.ndarray | None = None, rate_hz: int = RATE_HZ, **changes) -> None:
        duration = 2.0 if samples is None else len(samples) / rate_hz
        if samples is not None:
            soundfile.write(self.folder / name, samples, rate_hz)
        record = {"audio_filepath": name, "duration": round(duration, 3) or 0.01, "text": "yes", "speaker": name}
        self.lines.append(json.dumps({**record, **changes}))

    def check(self, *options: str) -> tuple[int, str]:
        path = self.folder / "m.jsonl"
        path.write_text("\n".join(self.lines))
        code = command.main(["check", str(path), *options])
        return code, "".join(self.capsys.readouterr())


@pytest.fixture
def clinic(tmp_path, capsys):
    return Clinic(tmp_path, capsys)


def test_a_sound_manifest_passes_with_its_figures(clinic):
    code, report = clinic.check()
    assert code == 0
    assert "no problems found" in report
    assert "2 utterances" in report
    assert "speakers: 2" in report
    assert f"{RATE_HZ} Hz (2)" in report
    assert "characters a second: 1.50 to 1.50" in report
    assert re.search(r"levels: -24\.\d dBFS \(90 % of the clips from -24\.\d to -24\.\d\)", report)


@pytest.mark.parametrize(
    ("kind", "name", "samples", "changes", "message"),
    [
        ("missing", "gone.wav", None, {}, "no such file"),
        ("empty", "empty.wav", voice(0.0), {}, "no samples"),
        ("empty", "short.wav", voice(0.015), {}, "less than a window of 20 ms"),
        ("silent", "zero.wav", np.zeros(32000), {}, "mean level -inf dBFS"),
        ("silent", "faint.wav", voice(2.0) / 1000, {}, "mean level -8"),
        ("clipped", "loud.wav", np.clip(voice(2.0) * 50, -1, 1), {}, "of the samples at full scale"),
        ("duration", "liar.wav", voice(2.0), {"duration": 3.5}, "3.5 s stated, the audio has 2.000 s"),
        ("text", "mute.wav", voice(2.0), {"text": " "}, "no text"),
        ("ctc", "fast.wav", voice(0.2), {"text": "aabcdef"}, "8 frames needed (repeats included), 7 in 0.200 s"),
        ("rate", "phone.wav", voice(4.0), {}, "8000 Hz, while most have 16000 Hz"),
        ("line", "bad.wav", None, {"duration": "long"}, "'duration' is 'long'"),
        ("duplicate", "good1.wav", None, {}, "the same file as line 1"),
        ("duplicate", "copy.wav", voice(2.0, 2), {}, "the same audio as line 2"),
        ("implausible", "dash.wav", voice(2.0), {"text": "- ..."}, "'- ...' has neither letters nor digits"),
        ("digits", "bus.wav", voice(2.0), {"text": "bus 7"}, "'bus 7'"),
        ("case", "loud.wav", voice(2.0), {"text": "YES"}, "'YES' is upper case, most texts are lower case"),
        ("case", "mixed.wav", voice(2.0), {"text": "yES"}, "'yES' is mixed case, most texts are lower case"),
        (
            "scripts",
            "slip.wav",
            voice(2.0),
            {"text": "w\u043erd"},
            "'w\u043erd' has '\u043e' (U+043E CYRILLIC SMALL LETTER O)",
        ),
        ("invisible", "bom.wav", voice(2.0), {"text": "y\u200bes"}, "'y<U+200B>es'"),
    ],
)
def test_each_problem_is_found_and_named_with_its_line(clinic, kind, name, samples, changes, message):
    clinic.add(name, samples, 8000 if kind == "rate" else RATE_HZ, **changes)
    code, report = clinic.check()
    assert code == 1
    found = [line for line in report.splitlines() if "m.jsonl:3" in line]
    assert len(found) == 1, report
    assert message in found[0]
    assert f"[{kind}]: 1" in report


def test_a_text_far_too_short_for_its_audio_is_named_and_a_slow_corpus_is_not(clinic):
    clinic.add("slow.wav", voice(4.5, 5), text="3")
    _, report = clinic.check()
    assert "slow.wav): '3' for 4.500 s of audio" in report
    assert (
        "digits among words; spell them as words: --spell_numbers of prepare custom, or the setting text.spell_n"
        in report
    )
    clinic.lines = [line.replace("yes", "3") for line in clinic.lines]
    assert "no problems found" in clinic.check()[1]


def test_of_copies_with_different_texts_none_stays(clinic):
    for name, seed, text in [("a", 5, "no"), ("b", 5, "no"), ("c", 5, "now"), ("d", 6, "same"), ("e", 6, " same ")]:
        clinic.add(f"{name}.wav", voice(2.0, seed), text=text)
    clinic.add("good1.wav", None, text="never")
    output = clinic.folder / "cleaned.jsonl"
    code, report = clinic.check(f"--output={output}")
    assert code == 1
    assert "the same audio with different texts [conflict]: 5 (removed in a cleaned manifest)" in report
    assert "m.jsonl:3 (a.wav): the same audio as line 5, with another text: 'no'" in report
    assert "m.jsonl:1 (good1.wav): the same file as line 8, with another text: 'yes'" in report
    assert "duplicates [duplicate]: 1" in report
    assert manifest.read(output).text == ["yes", "same"]


def test_unusual_rates_are_one_line_each_with_a_count(clinic):
    for number, rate in enumerate((8000, 8000, 11025), start=5):
        clinic.add(f"{number}.wav", voice(2.0, number, rate), rate)
    report = clinic.check()[1]
    assert "unusual sample rates [rate]: 3 (kept" in report
    assert f"  8000 Hz, while most have 16000 Hz: 2 clips, the first {clinic.folder}/m.jsonl:3 (5.wav)\n" in report
    assert "  11025 Hz, while most have 16000 Hz: 1 clips" in report


def test_invisible_characters_are_counted_by_code_point(clinic):
    clinic.add("a.wav", voice(2.0, 5), text="\ufeffa\u200b \u200b")
    clinic.add("b.wav", voice(2.0, 6), text="a\u00a0b\u200b")
    clinic.add("c.wav", voice(2.0, 7), text="\u0645\u06cc\u200c\u0631\u0648\u0645")  # Persian words may have joiners
    report = clinic.check("--ignore=implausible")[1]
    assert "invisible characters [invisible]: 2 (kept" in report
    assert "  U+200B ZERO WIDTH SPACE 3 times in 2 utterances: lines 3, 4\n" in report
    assert "  U+FEFF ZERO WIDTH NO-BREAK SPACE 1 times" in report
    assert "  U+00A0 NO-BREAK SPACE 1 times in 1 utterances: lines 4\n" in report


def test_several_manifests_are_checked_and_what_they_share_is_named(clinic):
    clinic.add("own.wav", voice(2.0, 9), text="words", speaker="ann")
    code, report = clinic.check()
    assert code == 0
    (train := clinic.folder / "train.jsonl").write_text("\n".join(clinic.lines))
    clinic.lines = []
    clinic.add("renamed.wav", voice(2.0, 2), text="other", speaker="ben")
    clinic.add("new.wav", voice(2.0, 10), text="words", speaker="ann")
    code, report = clinic.check(str(train))
    assert code == 1
    test = clinic.folder / "m.jsonl"
    assert "audio that several manifests share [leak]: 1\n" in report
    assert f"  {train}:2 (good2.wav): the same audio as {test}:1 (renamed.wav), with another text\n" in report
    assert f"speakers that several manifests share [speaker]: 1\n  ann: 1 in {test}, 1 in {train}\n" in report
    assert clinic.check(str(train), "--ignore=leak,speaker")[0] == 0
    clinic.lines = clinic.lines[:0]
    clinic.add("other.wav", voice(2.0, 11), speaker="cid")
    code, report = clinic.check(str(train))
    assert code == 0
    assert "no audio and no speaker is in several manifests" in report


def test_a_missing_file_says_what_may_be_overlooked(clinic):
    clinic.add("GOOD1.wav")
    clinic.add("x\\good1.wav")
    report = clinic.check()[1]
    assert "no such file; there is good1.wav: upper and lower case differ" in report
    assert "no such file; it has back slashes: write / between folders" in report


def test_text_that_just_fits_its_audio_is_fine(clinic):
    clinic.add("fits.wav", voice(0.2, 5), text="abcdefg")  # 19 frames, 7 after stride 3
    assert clinic.check()[0] == 0
    assert clinic.check("--stride=4")[0] == 1
    assert clinic.check("--stride=4", "--hop_ms=5")[0] == 0


def test_unreadable_audio_is_found(clinic):
    (clinic.folder / "noise.wav").write_bytes(b"this is no audio" * 100)
    clinic.add("noise.wav")
    code, report = clinic.check()
    assert code == 1
    assert "unreadable audio [unreadable]: 1" in report


def test_letters_that_only_capitals_show_as_borrowed_are_no_problem(clinic):
    clinic.add("chechen.wav", voice(2.0, 3), text="кIант")
    assert "look alike" not in clinic.check("--language=ce")[1]


def test_what_training_normalises_in_every_language_is_no_unknown_character(clinic):
    vocabulary = clinic.folder / "vocabulary.txt"
    vocabulary.write_text("y\ne\ns\n \né\n", encoding="utf-8")
    clinic.add("decomposed.wav", voice(2.0, 3), text="ye\u0301s")
    clinic.add("spaces.wav", voice(2.0, 4), text="yes\u00a0 yes")
    clinic.add("invisible.wav", voice(2.0, 5), text="y\u200bes")
    cleaned = clinic.folder / "clean.jsonl"
    report = clinic.check(f"--vocabulary={vocabulary}", f"--output={cleaned}")[1]
    assert "outside the vocabulary" not in report
    assert len(manifest.read(cleaned)) == len(clinic.lines)


def test_unknown_characters_are_counted_with_their_lines(clinic):
    vocabulary = clinic.folder / "vocabulary.txt"
    vocabulary.write_text("".join(f"{character}\n" for character in "esy"))
    clinic.add("a.wav", voice(2.0, 3), text="yes é é")
    clinic.add("b.wav", voice(2.0, 4), text="eé")
    code, report = clinic.check(f"--vocabulary={vocabulary}")
    assert code == 1
    assert "'é' (U+00E9) 3 times in 2 utterances: lines 3, 4" in report
    assert "' ' (U+0020) 2 times in 1 utterances: lines 3" in report


def test_durations_rounded_to_tenths_are_right_even_beside_a_wrong_one(clinic):
    for seed, seconds in enumerate((1.04, 1.33, 0.96), start=10):
        clinic.add(f"{seed}.wav", voice(seconds, seed), duration=round(seconds, 1))
    assert clinic.check()[0] == 0
    clinic.add("liar.wav", voice(1.5, 20), duration=9.999)
    assert "[duration]: 1" in clinic.check()[1]


@pytest.mark.parametrize("finer", [1.234, None])
def test_durations_shorter_than_the_batch_plan_allows_are_corrected(clinic, finer):
    """Tenths beside thousandths, or cut off instead of rounded: the plan would make no room for the clip."""
    stated = {1.04: 1.0, 1.33: 1.3, 0.96: 1.0} if finer else {1.07: 1.0, 1.33: 1.3, 1.16: 1.1}
    for seed, (seconds, said) in enumerate(stated.items(), start=10):
        clinic.add(f"{seed}.wav", voice(seconds, seed), duration=said)
    if finer:
        clinic.add("fine.wav", voice(finer, 30), duration=finer)
    output = clinic.folder / "cleaned.jsonl"
    code, report = clinic.check(f"--output={output}")
    assert code == 1
    assert "[duration]: 2" in report
    cleaned = manifest.read(output)
    for seconds, duration in zip([2.0, 2.0, *stated, *([finer] if finer else [])], cleaned.duration, strict=True):
        assert seconds <= duration + cleaned.duration_unit_s / 2 + 1e-9
    assert command.main(["check", str(output)]) == 0


def test_the_cleaned_manifest_is_clean_and_counts_what_was_done(clinic):
    clinic.add("gone.wav")
    clinic.add("liar.wav", voice(1.234, 5), duration=30.0)
    clinic.lines.append("not JSON")
    output = clinic.folder / "cleaned.jsonl"
    code, report = clinic.check(f"--output={output}")
    assert code == 1
    assert f"wrote {output}: 3 utterances, 2 removed, 1 durations corrected" in report
    cleaned = manifest.read(output)
    assert [cleaned.path_as_written(row) for row in range(3)] == ["good1.wav", "good2.wav", "liar.wav"]
    assert cleaned.duration.tolist() == [2.0, 2.0, 1.2]  # rounded as the others are
    assert cleaned.speaker(2) == "liar.wav"
    assert command.main(["check", str(output)]) == 0


def test_a_cleaned_manifest_in_another_folder_finds_its_audio(clinic, tmp_path):
    output = tmp_path / "other" / "cleaned.jsonl"
    assert clinic.check(f"--output={output}")[0] == 0
    assert manifest.read(output).audio == [str(clinic.folder / "good1.wav"), str(clinic.folder / "good2.wav")]


def test_the_first_of_duplicates_stays_unless_it_is_removed_itself(clinic):
    clinic.add("first.wav", voice(2.0, 7), text="")
    clinic.add("second.wav", voice(2.0, 7), text="words")
    _, report = clinic.check()
    assert "[text]: 1" in report
    assert "[duplicate]" not in report


def test_limits_and_ignored_kinds(clinic):
    clinic.add("long.wav", voice(4.0, 8))
    clinic.add("gone.wav")
    assert "long.wav): 4.000 s" in clinic.check("--max_duration=3")[1]
    assert clinic.check("--max_duration=3", "--ignore=limits,missing")[0] == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ignore=colour", "no kind 'colour'"),
        ("--stride=0", "must be above 0"),
        ("--output={folder}/m.jsonl", "m.jsonl, which is read, and would be lost"),
        ("{folder}/m.jsonl", "name each manifest once"),
        ("{folder}/n.jsonl --output=x", "--output=x is the cleaned form of one manifest"),
        ("--min_duration=-1", "0 <= shortest <= longest"),
        ("--vocabulary={folder}/gone.txt", "gone.txt"),
    ],
)
def test_invalid_options_are_refused_in_one_line(clinic, option, message):
    code, report = clinic.check(*option.format(folder=clinic.folder).split())
    assert code == 2
    assert message in report.strip().splitlines()[-1]


def test_long_lists_are_cut_and_say_so(clinic):
    for number in range(5):
        clinic.add(f"gone{number}.wav")
    assert "and 3 more (--show=0 for all)" in clinic.check("--show=2")[1]
    assert "gone4.wav" in clinic.check("--show=0")[1]


def test_a_manifest_without_a_single_good_line_is_reported(clinic):
    clinic.lines = ["{", "[]"]
    code, report = clinic.check()
    assert code == 1
    assert "[line]: 2" in report


def test_processes_find_the_same_in_the_same_order(tmp_path):
    paths = [str(tmp_path / f"{number}.wav") for number in range(2 * examination.CLIPS_PER_WORKER)]
    for number, path in enumerate(paths[::3]):
        soundfile.write(path, voice(0.1, number), RATE_HZ)
    assert examination.examine_all(paths, workers=2) == [examination.examine(path) for path in paths]


@pytest.mark.skipif(not SPEECH, reason="DS2_SPEECH_DATA names no folder with speech")
def test_an4_test_set_is_sound(capsys):
    assert command.main(["check", f"{SPEECH}/an4/test.jsonl", "--workers=1"]) == 0
    assert "130 utterances, 0.10 h" in capsys.readouterr().out


def test_a_missing_shard_is_told_once_with_its_clips(clinic):
    for record in range(3):
        clinic.add(f"m-00000-of-00002.array_record#{record}")
    clinic.add("gone.wav")
    code, report = clinic.check("--output", str(clinic.folder / "clean.jsonl"))
    assert code == 1
    shard = clinic.folder / "m-00000-of-00002.array_record"
    assert f"  there is no shard {shard}; copy it there, or pack again: 3 clips\n" in report
    assert report.count("m-00000-of-00002") == 1
    assert "no such file" in report
    assert "2 utterances, 4 removed" in report


@pytest.mark.parametrize(("window_ms", "hop_ms", "stride"), [(20.0, 10.0, 3), (25.0, 10.0, 1), (10.0, 10.0, 2)])
def test_output_frames_are_those_of_whole_windows(window_ms, hop_ms, stride):
    limits = Limits(-60.0, 0.01, 0.1, 30.0, window_ms, hop_ms, stride)
    window, hop = int(16 * window_ms), int(16 * hop_ms)
    for samples in (0, 1, window - 1, window, window + hop - 1, window + hop, window + 9 * hop - 1, 16000):
        windows = len(range(0, samples - window + 1, hop))
        assert limits.output_frames(Clip(samples=samples, rate_hz=16000)) == len(range(0, windows, stride))


def test_scripts_are_judged_in_composed_text_without_invisible_characters():
    raw = [unicodedata.normalize("NFD", "ч\u0103ваш ч\u0115лхи"), "o\u00adкно"]
    found = suspicious_texts([normalise(text, "none") for text in raw], [2.0, 2.0], raw)
    assert [(problem.row, problem.kind) for problem in found if problem.kind == "scripts"] == [(1, "scripts")]
