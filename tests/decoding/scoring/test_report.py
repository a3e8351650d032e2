"""Reports of an evaluation: what stands in them, escaping, alignment in columns, and order."""

import re
from html.parser import HTMLParser

import pytest

from decoding.scoring.error_rate import summarise
from decoding.scoring.report import write_html, write_text
from input_pipeline.text import ScoringRules

REFERENCES = ["enter six two", "go on then", "stop", "rub out all of it now"]
HYPOTHESES = ["enter sex two", "go then", "stop", "rub rub out all of if now now"]
NAMES = ["a.flac", "b.flac", "c.flac", "d.flac"]
SPEAKERS = ["fash", "menk", "menk", "fash"]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collect the text of a page, its attributes, and whether all tags are closed in order."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def report(write, tmp_path, references=REFERENCES, hypotheses=HYPOTHESES, language="en", **options):
    names = options.pop("names", NAMES[: len(references)])
    speakers = options.pop("speakers", None)
    result = summarise(references, hypotheses, rules=ScoringRules.for_language(language), speakers=speakers)
    write(tmp_path / "report", result, references, hypotheses, names, **{"title": "AN4", **options})
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


def test_the_page_is_well_formed_and_needs_nothing_from_outside(tmp_path):
    page = report(write_html, tmp_path, speakers=SPEAKERS)
    attributes = Page(page).attributes
    assert not [name for name, _ in attributes if name in ("src", "href")]
    assert not re.search(r"https?:|@import|url\(", page)
    assert "color-scheme: light dark" in page


def test_markup_in_texts_names_and_title_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    page = report(
        write_html, tmp_path, [f"a {attack} b"], ["a & b"], "none", names=[attack], speakers=[attack], title=attack
    )
    assert "<script" not in page
    assert Page(page).text.count(attack) == 6  # title, heading, confusion, speaker, utterance, its substitution


def test_errors_carry_a_letter_besides_their_colour(tmp_path):
    page = report(write_html, tmp_path)
    assert "<span class='S'>sex<sup>S</sup></span>" in page
    assert "<span>on</span><span class='D'>&nbsp;<sup>D</sup></span>" in page
    assert page.count("<sup>I</sup>") == 2


def test_text_alignment_stands_in_columns(tmp_path):
    lines = report(write_text, tmp_path).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("b.flac"))
    assert lines[at] == "b.flac: word errors 1 of 3, character errors 3 of 10"
    assert lines[at + 1 : at + 4] == ["  go on then", "  go *  then", "     D"]


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
