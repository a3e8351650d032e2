"""The page that recognises speech without a server, in a real browser: its texts, times and figures are those of the program."""

import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ds2_jax
from decoding.native import browser_build
from decoding.search import greedy
from ds2_jax.recognition.recogniser import Recogniser, Transcript
from input_pipeline.text import Vocabulary
from tests.browser import READABLE, WATCH, Browser, needs_chromium
from tests.conftest import CLIPS
from tests.runs import ROOT

DEMO = ROOT / "docs" / "demo"
PICTURE = ROOT / "docs" / "browser.png"
MODELS = ("an4", "an4_live")
CLIP, TEXT = CLIPS / "cen1-mtos-b.flac", "s m i t h"
ALL = sorted(CLIPS.glob("*.flac"))
TIME_TOLERANCE_S = 0.031  # a frame, for a symbol whose frames have nearly the same probabilities
REGISTRY = ("registry.npmjs.org", 443)
IDLE = "document.getElementById('files').disabled === false"
needs_emscripten = pytest.mark.skipif(not browser_build.available(), reason="emscripten is not installed")


def is_reachable() -> bool:
    """Tell whether the npm registry can be reached."""
    try:
        socket.create_connection(REGISTRY, timeout=10).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of the page, as `make demo` fills it."""
    if not is_reachable():
        pytest.skip("the npm registry cannot be reached, from which onnxruntime-web comes")
    folder = copy_page(tmp_path_factory.mktemp("made") / "demo")
    command = [sys.executable, "-m", "docs.demo.make", *(f"models/{name}" for name in MODELS), f"--output={folder}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return folder


def copy_page(folder: Path) -> Path:
    """Copy the page without what is made."""
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("vendor", "models", "__pycache__"))
    return folder


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    """Serve a folder as `python -m http.server` does, in a thread."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """A browser whose microphone gives the clip each time that it is opened."""
    folder = tmp_path_factory.mktemp("browser")
    samples, rate = soundfile.read(CLIP, dtype="int16")
    soundfile.write(folder / "speech.wav", np.pad(samples, (int(0.6 * rate), int(1.2 * rate))), rate)
    options = f"--use-file-for-fake-audio-capture={folder / 'speech.wav'}%noloop", "--use-fake-ui-for-media-stream"
    with Browser(folder, *options) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield browser


@pytest.fixture
def page(browser, made) -> Iterator[Browser]:
    """The browser with the page, its first model loaded, at the width of a notebook."""
    server = serve(made)
    browser.emulate(1280, 800)
    browser.open(f"http://127.0.0.1:{server.server_port}/")
    browser.wait_for(IDLE, timeout_s=60)
    yield browser
    browser.wait_for(IDLE)
    assert browser.evaluate("problems") == []
    server.shutdown()


@pytest.fixture(scope="module")
def models() -> dict[str, Recogniser]:
    return {name: ds2_jax.load(str(ROOT / "models" / name)) for name in MODELS}


def transcribe(page: Browser, clips: list[Path]) -> list[list[tuple[str, float, float]]]:
    """Give files to the page; return the words of each with their times."""
    count = page.evaluate("document.querySelectorAll('#results article').length")
    page.choose_files("#files", *clips)
    page.wait_for(f"document.querySelectorAll('#results article').length === {count + len(clips)}", timeout_s=120)
    page.wait_for(IDLE)
    return shown(page)[count:]


def shown(page: Browser) -> list[list[tuple[str, float, float]]]:
    """Return the words of all results with their times."""
    results = page.evaluate("""[...document.querySelectorAll("#results article")].map(article =>
        [...article.querySelectorAll("li")].filter(item => item.querySelector("small")).map(item =>
            [item.querySelector("span").textContent, ...item.querySelector("small").textContent.match(/[0-9.]+/g).map(Number)]))""")
    return [[(text, start, end) for text, start, end in words] for words in results]


def differences(found: list[list[tuple[str, float, float]]], expected: list[Transcript]) -> list[str]:
    """Describe the results that are not the expected ones."""
    return [
        f"{words} instead of {transcript.text}: {transcript.words}"
        for words, transcript in zip(found, expected, strict=True)
        if [word for word, _, _ in words] != [word.text for word in transcript.words]
        or any(
            max(abs(start - word.start_s), abs(end - word.end_s)) > TIME_TOLERANCE_S
            for (_, start, end), word in zip(words, transcript.words, strict=False)
        )
    ]


@needs_chromium
@pytest.mark.parametrize("symbols", [(" ", "a", "b", "é"), ("我", "们", "好")], ids=["with spaces", "without"])
def test_words_are_those_of_greedy_decoding(browser, tmp_path, symbols):
    """On sharpened noise, so that blanks, repeats and spaces are frequent, also at both ends."""
    server = serve(copy_page(tmp_path / "demo"))
    browser.open(f"http://127.0.0.1:{server.server_port}/")
    names = ["", *symbols]
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 3, (seed, len(names))).astype(np.float32)
        log_probs = noise - np.log(np.exp(noise).sum(axis=1, keepdims=True))
        found = browser.evaluate(f"""import("./transcript.js").then(({{decodeGreedily, groupWords}}) => groupWords(
            decodeGreedily(Float32Array.from({log_probs.ravel().tolist()}), {len(names)}), {json.dumps(names)}, 0.03))""")
        words = greedy.decode_log_probs(log_probs, Vocabulary(symbols), 0.03).words
        assert [word["text"] for word in found] == [word.text for word in words]
        for name in ("start_s", "end_s", "confidence"):
            assert [word[name] for word in found] == pytest.approx([getattr(word, name) for word in words], abs=1e-5)
    server.shutdown()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("name", MODELS)
def test_files_have_the_greedy_texts_and_times_of_the_program(page, name):
    choose_model(page, name)
    page.click("[data-method=greedy]")
    program = ds2_jax.load(str(ROOT / "models" / name), engine="greedy")
    assert differences(transcribe(page, ALL), program.transcribe([str(clip) for clip in ALL])) == []


@pytest.mark.slow
@needs_chromium
@needs_emscripten
@pytest.mark.parametrize("name", MODELS)
def test_files_have_the_texts_and_times_of_the_program_with_its_language_model(page, models, name):
    choose_model(page, name)
    assert page.evaluate("document.querySelector('[data-method=lm]').ariaPressed") == "true"
    assert differences(transcribe(page, ALL), models[name].transcribe([str(clip) for clip in ALL])) == []


def choose_model(page: Browser, name: str) -> None:
    """Choose a model as with the mouse, and wait until it is loaded."""
    page.evaluate(f"""(() => {{ const models = document.getElementById("models"); models.value = {json.dumps(name)};
        models.dispatchEvent(new Event("change")); }})()""")
    page.wait_for(f"document.getElementById('figures').textContent.includes('Model {name}:')", timeout_s=60)
    page.wait_for(IDLE)


@pytest.mark.slow
@needs_chromium
def test_the_microphone_has_the_text_of_the_program_and_shows_it_while_one_speaks(page):
    page.click("#mic")
    assert page.evaluate("document.getElementById('mic').ariaPressed") == "true"
    page.wait_for(f"document.getElementById('partial').textContent === {json.dumps(TEXT)}")
    page.click("#mic")
    page.wait_for("document.querySelector('#results article') && document.getElementById('partial').hidden")
    [words] = shown(page)
    assert " ".join(word for word, _, _ in words) == TEXT
    assert page.evaluate("document.getElementById('mic').ariaPressed") == "false"


@pytest.mark.slow
@needs_chromium
def test_the_space_bar_records_while_it_is_held(page):
    page.key("keyDown", " ", "Space", windowsVirtualKeyCode=32)
    page.wait_for("document.getElementById('mic').ariaPressed === 'true'")
    page.wait_for("document.getElementById('partial').textContent")
    page.key("keyUp", " ", "Space", windowsVirtualKeyCode=32)
    page.wait_for("document.querySelector('#results article')")
    assert page.evaluate("document.getElementById('mic').ariaPressed") == "false"


@pytest.mark.slow
@needs_chromium
def test_the_figures_of_the_guide_are_printed(made, tmp_path, capsys):
    server = serve(made)
    with Browser(tmp_path) as page:  # one that has shown nothing else, whose memory would count
        page.open(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for(IDLE, timeout_s=60)
        idle = page.memory()
        transcribe(page, ALL)
        figures, after = page.text("#figures"), page.memory()
    server.shutdown()
    found = re.search(r"([\d.]+) MB, loaded in ([\d.]+) s.*real-time factor (\d+\.\d+)", figures)
    assert found, figures
    assert float(found[3]) < 1
    with capsys.disabled():
        print(f"\n{figures}\nmemory of the page: {idle / 1e6:.0f} MB, {after / 1e6:.0f} MB after {len(ALL)} clips")


@pytest.mark.slow
@needs_chromium
@needs_emscripten
def test_the_latest_audio_is_decoded_again_with_another_method(page):
    [with_model] = transcribe(page, [ALL[0]])
    page.evaluate("window.shownAs = document.getElementById('picture').ariaLabel")
    page.click("[data-method=greedy]")
    page.wait_for("document.querySelector('[data-method=greedy]').ariaPressed === 'true'")
    page.click("[data-method=lm]")
    page.wait_for("document.getElementById('picture').ariaLabel === window.shownAs")
    assert shown(page) == [with_model]


@pytest.mark.slow
@needs_chromium
def test_a_file_that_is_no_audio_is_named(page, tmp_path):
    (tmp_path / "notes.wav").write_text("not audio")
    page.choose_files("#files", tmp_path / "notes.wav")
    page.wait_for("!document.getElementById('alert').hidden")
    assert page.text("#error").startswith("notes.wav cannot be read as audio")


@pytest.mark.slow
@needs_chromium
def test_without_what_is_made_the_page_says_how_to_make_it(browser, tmp_path):
    server = serve(copy_page(tmp_path / "demo"))
    browser.open(f"http://127.0.0.1:{server.server_port}/")
    browser.wait_for("!document.getElementById('alert').hidden")
    assert "run make demo" in browser.text("#error")
    assert browser.evaluate("document.getElementById('mic').disabled")
    server.shutdown()


@pytest.mark.slow
@needs_chromium
def test_without_a_decoder_the_page_decodes_greedily_and_says_so(browser, made, tmp_path):
    shutil.copytree(made, tmp_path / "demo", ignore=shutil.ignore_patterns("decoder"))
    server = serve(tmp_path / "demo")
    browser.open(f"http://127.0.0.1:{server.server_port}/")
    browser.wait_for(IDLE, timeout_s=60)
    assert "was not compiled" in browser.text("#figures")
    assert browser.evaluate("document.querySelector('[data-method=lm]').disabled")
    assert [word for word, _, _ in transcribe(browser, [CLIP])[0]] == TEXT.split()
    server.shutdown()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_readable(page, scheme):
    page.emulate(1280, 800, scheme)
    transcribe(page, ALL[:2])
    contrasts = page.contrasts()
    assert len(contrasts) > 20
    assert [text for text, contrast in contrasts if contrast < READABLE] == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [320, 375])
def test_the_page_fits_a_phone(page, width):
    transcribe(page, ALL[:2])
    page.emulate(width, 740)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    for control in ("#mic", ".files"):
        assert page.evaluate(f"document.querySelector('{control}').getBoundingClientRect().height") >= 44


@pytest.mark.slow
@needs_chromium
def test_a_screen_reader_finds_names_and_every_control_is_reached_by_the_tab_key(page):
    transcribe(page, [CLIP])
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    for pair in (
        ("button", "Microphone"),
        ("meter", "Level of the microphone"),
        ("log", "Results"),
        ("combobox", "Model"),
    ):
        assert pair in named
    assert any(role == "image" and "s: 0.39 to" in name for role, name in named), named
    unnamed = [pair for pair in named if pair[0] in ("button", "combobox", "meter", "log", "image") and not pair[1]]
    assert unnamed == []
    page.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(7):  # six without the native decoder, which has a switch of its own
        page.key("keyDown", "Tab", "Tab", windowsVirtualKeyCode=9)
        page.key("keyUp", "Tab", "Tab", windowsVirtualKeyCode=9)
        if page.evaluate("document.activeElement === document.body"):
            break
        found.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.method"))
        outline = "getComputedStyle(document.activeElement.closest('.files') ?? document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
    assert [name for name in found if name != "lm"] == ["models", "greedy", "clear", "scroll", "mic", "files"]


def test_the_page_names_no_other_host_and_loads_only_what_is_beside_it():
    for path in DEMO.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text(encoding="utf-8")
            assert set(re.findall(r"https?://[^\s\"'%]+", text)) <= {"http://www.w3.org/2000/svg"}, path
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (DEMO / "index.html").read_text(encoding="utf-8"))
    assert policy
    assert "connect-src 'self'" in policy[1]


@pytest.mark.slow
@needs_chromium
@pytest.mark.skipif("DS2_PICTURES" not in os.environ, reason="DS2_PICTURES is not set: docs/browser.png stays as it is")
def test_the_picture_of_the_guide_is_taken(page):
    page.emulate(1280, 980)
    transcribe(page, [CLIPS / "cen1-msjr-b.flac"])
    page.screenshot(PICTURE)
    assert PICTURE.stat().st_size > 10_000
