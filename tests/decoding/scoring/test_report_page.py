"""The HTML report: well-formed, self-contained, accessible, and playing its audio in a real browser."""

import itertools
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from decoding.scoring.report_page import CURVES, write_html
from tests.conftest import CLIPS
from tests.decoding.scoring.test_report import HYPOTHESES, NAMES, REFERENCES, SPEAKERS, make
from tests.runs import ROOT

VOID = {"meta", "br", "img"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NARROW = 360  # pixels, the width of a small phone


class Page(HTMLParser):
    """Collect the elements of a page with their attributes, and its text; check that tags are closed in order."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        """Return all values of an attribute."""
        return [
            value or "" for _, attributes in self.elements for name, value in attributes.items() if name == attribute
        ]

    def tags(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path, *texts, worst: int = 50, **options) -> str:
    write_html(folder / "report.html", make(*texts, **options), worst=worst)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_neither_scripts_nor_other_hosts(tmp_path):
    (tmp_path / CURVES).touch()
    page = page_of(tmp_path, speakers=SPEAKERS, audio=[str(tmp_path / name) for name in NAMES])
    found = Page(page)
    assert not found.tags("script")
    assert not found.tags("link")
    assert not re.search(r"https?:|//|@import|url\(", page)
    assert set(found.values("src")) == {CURVES, "a.flac", "b.flac", "d.flac"}
    assert "color-scheme: light dark" in page


def test_landmarks_headings_captions_and_language_guide_screen_readers(tmp_path):
    found = Page(page_of(tmp_path, speakers=SPEAKERS, durations=[1.0, 2.0, 3.0, 4.0]))
    assert found.tags("html") == [{"lang": "en"}]
    assert [len(found.tags(tag)) for tag in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
    assert len(found.tags("caption")) == len(found.tags("table")) == 7
    unseen = [caption.get("class") == "unseen" for caption in found.tags("caption")]
    assert sum(unseen) == 2  # of the rates and of the folded table, which headings name already
    assert all(cell["scope"] in ("row", "col") for cell in found.tags("th"))
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= set(found.values("href"))
    assert set(ids) >= set(found.values("aria-labelledby"))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


BAR = "<td class='bar' aria-hidden='true'>{}</td>"
FULL = BAR.format("<span style='width:100.0%'></span>")


def test_tables_are_written_with_their_labels_bars_and_numbers(tmp_path):
    texts = ["a b c"] * 12 + ["x"], ["a b d"] + ["a b c"] * 11 + ["y"]
    names, lengths = [str(number) for number in range(13)], [1.0] * 12 + [3.0]
    page = page_of(tmp_path, *texts, speakers=["s"] * 12 + ["longer"], names=names, durations=lengths)
    tables = [table.splitlines() for table in re.findall("<table.*?</table>", page, re.DOTALL)]
    rates, histogram, by_length, speakers, confusions = tables
    number = "<th scope='col' class='n'>"
    assert rates[0:4] == [
        "<table>",
        "<caption class=unseen>Words and characters</caption>",
        f"<thead><tr><td></td>{number}words (WER)</th>{number}characters (CER)</th></tr></thead><tbody>",
        "<tr><th scope='row'>rate</th><td class='n'>5.41%</td><td class='n'>3.28%</td></tr>",
    ]
    assert histogram == [
        "<table class=wide>",
        "<caption>Speakers by WER</caption>",
        f"<thead><tr><th scope='col'>WER</th>{BAR.format('')}{number}speakers</th></tr></thead><tbody>",
        f"<tr><th scope='row' class='label'>no errors</th>{BAR.format('')}<td class='n'>0</td></tr>",
        f"<tr><th scope='row' class='label'>up to 50%</th>{FULL}<td class='n'>1</td></tr>",
        f"<tr><th scope='row' class='label'>50 to 100%</th>{FULL}<td class='n'>1</td></tr>",
        "</tbody></table>",
    ]
    assert by_length[-2] == (
        f"<tr><th scope='row' class='label'>from 1.6 s</th>{FULL}<td class='n'>100.00%</td><td class='n'>1</td></tr>"
    )
    assert speakers[1] == "<caption class=unseen>Speakers</caption>"
    assert confusions[1:4] == [
        "<caption>Substitutions</caption>",
        f"<thead><tr><th scope='col'>reference</th><th scope='col'>recognised</th>{number}times</th></tr></thead><tbody>",
        "<tr><th scope='row'>c</th><td>d</td><td class='n'>1</td></tr>",
    ]


def test_an_alignment_is_read_out_as_two_sentences(tmp_path):
    page = page_of(tmp_path, ["你好世界"], ["你号世界"], language="zh")
    assert "Reference: <span lang='zh'>你好世界</span>. Recognised: <span lang='zh'>你号世界</span>." in page
    assert "<div class='pairs' dir='auto' lang='zh' aria-hidden='true'>" in page


def test_the_head_states_the_facts_that_are_known(tmp_path):
    facts = {"Model": "runs/<an4>", "Checkpoint": "", "Decoding": "greedy"}
    page = page_of(tmp_path, facts=facts)
    head = page[page.index("<header>") : page.index("</header>")]
    assert "<dt>Model</dt><dd>runs/&lt;an4&gt;</dd><dt>Decoding</dt><dd>greedy</dd><dt>Scoring</dt>" in head
    assert "38.46%" in head


def test_mandarin_names_its_character_error_rate_first(tmp_path):
    page = page_of(tmp_path, ["你好"], ["你们"], language="zh")
    assert page.index("CER <b>50.00%</b>") < page.index("WER <b>")


def test_curves_are_shown_where_they_lie_beside_the_page(tmp_path):
    assert not Page(page_of(tmp_path)).tags("img")
    (tmp_path / CURVES).touch()
    (picture,) = Page(page_of(tmp_path)).tags("img")
    assert picture["src"] == CURVES
    assert picture["alt"]


def test_histograms_are_drawn_as_bars_beside_their_figures(tmp_path):
    page = page_of(tmp_path, speakers=SPEAKERS, durations=[1.0, 2.0, 3.0, 4.0])
    by_length = page[page.index("WER by length") : page.index("</table>", page.index("WER by length"))]
    assert re.findall(r"width:([\d.]+)%'.*?<td class='n'>([\d.]+%)", by_length) == [
        ("66.7", "33.33%"),
        ("66.7", "33.33%"),
        ("100.0", "50.00%"),
    ]
    assert "<td class='bar' aria-hidden='true'></td><td class='n'>0.00%</td>" in by_length


def test_many_speakers_are_folded(tmp_path):
    texts = ["yes"] * 30
    page = page_of(tmp_path, texts, texts, names=texts, speakers=[f"s{i}" for i in range(30)])
    assert "<details><summary>30 speakers" in page
    assert "<details open><summary>2 speakers" in page_of(tmp_path, speakers=SPEAKERS)


def test_markup_in_texts_names_facts_and_title_is_escaped(tmp_path):
    attack = "<script>alert('1')</script>"
    given: dict[str, Any] = {"names": [attack], "speakers": [attack], "title": attack, "facts": {attack: attack}}
    page = page_of(tmp_path, [f"a {attack} b"], ["a & b"], "none", audio=[f"{tmp_path}/{attack}.wav"], **given)
    assert "<script" not in page
    found = Page(page)
    assert [audio["aria-label"] for audio in found.tags("audio")] == [attack]
    # title, heading, fact and its name, confusion, speaker, utterance, its substitution; its reference has more around it
    assert found.text.count(attack) == 8


def test_errors_carry_a_letter_besides_their_colour(tmp_path):
    page = page_of(tmp_path)
    assert "<span class='S'>sex<sup>S</sup></span>" in page
    assert "<span>on</span><span class='D'>&nbsp;<sup>D</sup></span>" in page
    assert page.count("<sup>I</sup>") == 2


@pytest.mark.parametrize(
    ("audio", "url"),
    [
        ("clips/a.flac", "../../clips/a.flac"),
        ("runs/one/a.WAV", "a.WAV"),
        ("clips/50% #1?/a b.mp3", "../../clips/50%25%20%231%3F/a%20b.mp3"),
        ("clips/a'b\".ogg", "../../clips/a%27b%22.ogg"),
        ("clips/你.opus", "../../clips/%E4%BD%A0.opus"),
        ("clips/\udcff.wav", "../../clips/%FF.wav"),
        ("runs/one/a:b.wav", "a%3Ab.wav"),
        ("clips/a.sph", None),
        ("", None),
    ],
)
def test_audio_is_named_relative_to_the_page(audio, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/one").mkdir()
    found = Page(page_of(Path("runs/one"), ["a"], ["b"], audio=[audio])).tags("audio")
    assert [element["src"] for element in found] == ([url] if url else [])
    assert all(element["preload"] == "none" and "controls" in element for element in found)


def test_an_utterance_says_how_long_it_is_where_that_is_known(tmp_path):
    page = page_of(tmp_path, ["a", "b"], ["x", "y"], durations=[1.26, math.nan])
    assert "word errors 1 of 1, character errors 1 of 1, 1.3 s</p>" in page
    assert "word errors 1 of 1, character errors 1 of 1</p>" in page


# Added to the page: tells the page around it what has been loaded, and how wide its content is.
PROBE = """
<script>
const loaded = [...document.querySelectorAll("audio")].map(player => new Promise(done => {
  player.addEventListener("loadedmetadata", () => done(player.duration));
  player.addEventListener("error", () => done(player.error.message));
  player.load();
}));
addEventListener("load", async () => parent.postMessage({
  durations: await Promise.all(loaded),
  picture: document.querySelector("img").naturalWidth,
  content: document.documentElement.scrollWidth,
  width: innerWidth,
}, "*"));
</script>
"""
# A window of chromium is at least 500 pixels wide, a frame is not.
FRAME = f"""
<script>addEventListener("message", event => document.body.textContent = "FOUND" + JSON.stringify(event.data) + "END");</script>
<body><iframe src="probe.html" width="{NARROW}" height="800" style="border: 0"></iframe></body>
"""


def open_in_browser(page: Path) -> dict:
    """Open FRAME -> what the browser loaded and measured."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    result = subprocess.run([str(BROWSER), *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search("FOUND({.*})END", result.stdout)
    assert found, result.stdout + result.stderr
    return json.loads(found[1])


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_browser_loads_audio_and_picture_and_the_page_fits_a_phone(clips, tmp_path):
    folder = tmp_path / "50% #1?"  # which an address has to escape
    shutil.copytree(CLIPS, folder / "clips")
    shutil.copy(ROOT / "docs" / "performance.png", folder / CURVES)
    lines = [json.loads(line) for line in clips.read_text().splitlines()][:4]
    given: dict[str, Any] = {
        "audio": [str(folder / "clips" / line["audio_filepath"]) for line in lines],
        "durations": [line["duration"] for line in lines],
        "names": ["a_very_long_name_without_any_space_" * 4, *NAMES[1:]],
        "speakers": SPEAKERS,
    }
    texts = [*REFERENCES[:3], "w" * 200], [*HYPOTHESES[:2], "x" * 200, HYPOTHESES[3]]
    (folder / "probe.html").write_text(page_of(folder, *texts, **given) + PROBE)
    (folder / "frame.html").write_text(FRAME)
    found = open_in_browser(folder / "frame.html")
    assert sorted(found["durations"]) == pytest.approx(sorted(given["durations"]), abs=0.1)
    assert found["picture"] > 0
    assert found["content"] <= found["width"] == NARROW
