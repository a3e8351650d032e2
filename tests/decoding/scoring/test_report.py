"""Reports of an evaluation: contents, order, histograms, and alignment in columns of plain text."""

import math
import re

import pytest

from decoding.scoring.error_rate import summarise
from decoding.scoring.report import Report, length_histogram, speaker_histogram, write_text
from decoding.scoring.report_page import write_html
from input_pipeline.text import ScoringRules

REFERENCES = ["enter six two", "go on then", "stop", "rub out all of it now"]
HYPOTHESES = ["enter sex two", "go then", "stop", "rub rub out all of if now now"]
NAMES = ["a.flac", "b.flac", "c.flac", "d.flac"]
SPEAKERS = ["fash", "menk", "menk", "fash"]


def make(references=REFERENCES, hypotheses=HYPOTHESES, language="en", **options) -> Report:
    """Score texts; without names, utterances are called a.flac and so on."""
    names = options.pop("names", NAMES[: len(references)])
    result = summarise(
        references, hypotheses, rules=ScoringRules.for_language(language), speakers=options.pop("speakers", None)
    )
    return Report(
        **{"title": "AN4", "result": result, "references": references, "hypotheses": hypotheses, "names": names}
        | options
    )


def report(write, tmp_path, *texts, worst=50, **options):
    write(tmp_path / "report", make(*texts, **options), worst=worst)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    return (tmp_path / "report").read_text(encoding="utf-8")


@pytest.mark.parametrize("write", [write_html, write_text])
def test_a_report_holds_rates_rules_speakers_confusions_and_utterances(write, tmp_path):
    content = report(write, tmp_path, speakers=SPEAKERS, title="AN4 test")
    for part in ("AN4 test", "case ignored", "38.46%", "Speakers", "fash", "Substitutions", "Deletions", "Insertions"):
        assert part in content
    assert "4 utterances, 3 with errors" in content
    assert content.index("d.flac") < content.index("a.flac") < content.index("b.flac")
    assert "c.flac" not in content
    assert content.index("fash") < content.index("menk")  # the worst speaker first


@pytest.mark.parametrize("write", [write_html, write_text])
def test_only_so_many_utterances_are_shown(write, tmp_path):
    content = report(write, tmp_path, worst=1)
    assert [name for name in NAMES if name in content] == ["d.flac"]


def test_text_alignment_stands_in_columns(tmp_path):
    lines = report(write_text, tmp_path).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("b.flac"))
    assert lines[at] == "b.flac: word errors 1 of 3, character errors 3 of 10"
    assert lines[at + 1 : at + 4] == ["  go on then", "  go *  then", "     D"]


def test_text_tables_have_labels_on_the_left_and_numbers_on_the_right(tmp_path):
    texts = ["a b c"] * 12 + ["x"], ["a b d"] + ["a b c"] * 11 + ["y"]
    names = [str(number) for number in range(13)]
    lines = report(write_text, tmp_path, *texts, speakers=["s"] * 12 + ["longer"], names=names).splitlines()
    at = lines.index("Substitutions")
    assert lines[at : at + 4] == [
        "Substitutions",
        "reference  recognised  times",
        "c          d               1",
        "x          y               1",
    ]
    at = lines.index("Speakers")
    assert lines[at : at + 4] == [
        "Speakers",
        "speaker      WER      CER  word errors  words",
        "longer   100.00%  100.00%            1      1",
        "s          2.78%    1.67%            1     36",
    ]


def test_wide_characters_take_two_columns(tmp_path):
    lines = report(write_text, tmp_path, ["你好世界"], ["你号世T界"], "zh").splitlines()
    assert lines[-3:] == ["  你 好 世 * 界", "  你 号 世 t 界", "     S     I"]


def test_marks_on_a_character_take_no_column(tmp_path):
    lines = report(write_text, tmp_path, ["x\u0323 b c"], ["x\u0323 b d"], "none").splitlines()
    assert lines[-3:] == ["  x\u0323 b c", "  x\u0323 b d", "      S"]


def test_long_alignments_are_broken_into_lines_that_fit(tmp_path):
    words = [f"word{i}" for i in range(60)]
    content = report(write_text, tmp_path, [" ".join(words)], [" ".join([*words[:40], "new", *words[41:]])])
    aligned = content[content.index("a.flac:") :].splitlines()[1:]
    assert max(map(len, aligned)) <= 110
    assert sum(line.split() == ["S"] for line in aligned) == 1
    assert [word for line in aligned if "word40" not in line for word in line.split()].count("word0") == 2


def test_mandarin_is_aligned_by_character_and_ranked_by_it(tmp_path):
    content = report(write_text, tmp_path, ["你好", "一二三四"], ["你们", "一八九四"], "zh")
    assert content.index("b.flac") < content.index("a.flac")
    assert re.search(r"characters \(CER\) +50.00%", content)


def test_frequent_confusions_come_first_and_are_cut_at_twenty(tmp_path):
    references = ["oh"] * 3 + [chr(ord("a") + i) for i in range(25)]
    content = report(write_text, tmp_path, references, ["no"] * 28, names=[f"u{i}" for i in range(28)])
    rows = content.split("Substitutions\n")[1].split("\n\n")[0].splitlines()[1:]
    assert rows[0].split() == ["oh", "no", "3"]
    assert len(rows) == 20


@pytest.mark.parametrize("write", [write_html, write_text])
def test_a_faultless_result_and_one_with_empty_texts_are_reported(write, tmp_path):
    assert "0 with errors" in report(write, tmp_path, ["a b"], ["a b"])
    content = report(write, tmp_path, ["a", "", "b"], ["", "oh no", "b"], speakers=["", "x", "y"])
    assert "3 utterances, 2 with errors, 1 without a reference" in content
    assert "(not named)" in content


@pytest.mark.parametrize("write", [write_html, write_text])
def test_half_a_surrogate_pair_does_not_stop_a_report(write, tmp_path):
    assert "\\ud83d" in report(write, tmp_path, ["a \ud83d b"], ["a b"], "none")


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "report").mkdir()
    with pytest.raises(OSError, match="report"):
        report(write_html, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_speakers_are_counted_by_their_error_rate():
    # Ten words each: no error for the first two, then one, one, and eleven (more words than were said).
    references = ["a b c d e f g h i j"] * 5
    hypotheses = [references[0], references[0], "x b c d e f g h i j", "a x c d e f g h i j", "x " * 11]
    (table,) = speaker_histogram(make(references, hypotheses, names=list("12345"), speakers=list("vwxyz")).result)
    assert (table.title, table.head) == ("Speakers by WER", ["WER", "speakers"])
    assert table.rows == [
        ["no errors", "2"],
        ["up to 20%", "2"],
        ["20 to 40%", "0"],
        ["40 to 60%", "0"],
        ["60 to 80%", "0"],
        ["80 to 100%", "0"],
        ["over 100%", "1"],
    ]
    assert table.bars == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.5]


def test_a_rate_on_an_edge_belongs_to_the_bin_below():
    references = ["a b c d e f g h i j"] * 4
    hypotheses = ["x b c d e f g h i j", "x y c d e f g h i j", "x y z d e f g h i j", "x y z w e f g h i j"]
    (table,) = speaker_histogram(make(references, hypotheses, names=list("1234"), speakers=list("wxyz")).result)
    assert table.rows == [
        ["no errors", "0"],
        *([label, "1"] for label in ("up to 10%", "10 to 20%", "20 to 30%", "30 to 40%")),
    ]


@pytest.mark.parametrize("speakers", [None, ["anna"] * 4])
def test_fewer_than_two_speakers_have_no_histogram(speakers):
    assert list(speaker_histogram(make(speakers=speakers).result)) == []


def test_error_rates_are_summed_by_length():
    # Words: 1 of 3, 1 of 3, 0 of 1, 3 of 6; the second lasts exactly as long as a bin's edge, the last is of unknown length.
    (table,) = length_histogram(make(durations=[0.9, 1.0, 1.5, math.nan], speakers=SPEAKERS))
    assert (table.title, table.head) == ("WER by length", ["length", "WER", "utterances"])
    assert table.rows == [["0.8 to 1 s", "33.33%", "1"], ["1 to 1.2 s", "33.33%", "1"], ["from 1.4 s", "0.00%", "1"]]
    assert table.bars == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("durations", [[], [math.nan] * 4, [2.0] * 4])
def test_lengths_that_are_unknown_or_all_the_same_have_no_histogram(durations):
    assert list(length_histogram(make(durations=durations))) == []


def test_long_recordings_share_the_last_bin():
    durations = [1 + i / 10 for i in range(97)] + [60.0, 300.0, 3600.0]
    report = make(["yes"] * 100, ["no"] * 100, names=[str(i) for i in range(100)], durations=durations)
    (table,) = length_histogram(report)
    assert [row[0] for row in table.rows] == ["under 2 s", "2 to 4 s", "4 to 6 s", "6 to 8 s", "8 to 10 s", "from 10 s"]
    assert sum(int(row[2]) for row in table.rows) == 100


@pytest.mark.parametrize("what", ["references", "names", "audio", "durations"])
def test_a_list_that_is_too_short_is_named(what):
    options = {what: [1.0] * 3} if what == "durations" else {what: ["a"] * 3}
    result = make().result
    given = {"references": REFERENCES, "hypotheses": HYPOTHESES, "names": NAMES} | options
    with pytest.raises(ValueError, match=f"{what} has 3 entries, the result has 4 utterances"):
        Report("AN4", result, **given)


@pytest.mark.parametrize("write", [write_html, write_text])
def test_invisible_characters_are_shown_by_their_code_points(write, tmp_path):
    content = report(write, tmp_path, ["می\u200cروم خانه"], ["میروم خانه"], language="fa")
    assert "\u200c" not in content
    assert "U+200C" in content
    assert content.count("U+200C") >= 2  # among the substitutions and in the alignment
