"""The page in a real browser, with a real server: microphone, files, saving, errors, accessibility."""

import asyncio
import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile

from ds2_jax.serving.sessions import BACKLOG_S
from tests.browser import READABLE, WATCH, Browser, needs_chromium
from tests.conftest import CLIPS
from tests.runs import ROOT, wait_until
from tests.servers import MODEL, server

pytestmark = needs_chromium

PAGE = ROOT / "ds2_jax" / "serving" / "page.html"
PICTURE = ROOT / "docs" / "live_page.png"
TOKEN = "page-test"
SESSIONS = 2
CLIP, TEXT = CLIPS / "cen1-mtos-b.flac", "s m i t h"
FILES = {"cen1-mjjs2-b.flac": "s k e e s", "cen1-msjr-b.flac": "r o z e v e l d"}
BEFORE_S, AFTER_S = 0.6, 1.2  # silence around the clip
NOISE = 0.002  # standard deviation, makes the model less sure of some words
IDLE = "jobs.length === 0 && talk === null"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a server with a token and few sessions."""
    with server(f"--config.serve.sessions={SESSIONS}", f"--token={TOKEN}") as (host, port):
        yield f"http://{host}:{port}/"


def write_speech(path: Path) -> Path:
    """Write the clip with silence around it."""
    samples, rate = soundfile.read(CLIP, dtype="int16")
    silence = np.zeros(int(BEFORE_S * rate), np.int16), np.zeros(int(AFTER_S * rate), np.int16)
    soundfile.write(path, np.concatenate([silence[0], samples, silence[1]]), rate)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """A browser whose microphone gives the clip from its start each time that it is opened."""
    folder = tmp_path_factory.mktemp("browser")
    speech = write_speech(folder / "speech.wav")
    options = f"--use-file-for-fake-audio-capture={speech}%noloop", "--use-fake-ui-for-media-stream"
    with Browser(folder, *options, "--host-resolver-rules=MAP ds2.test 127.0.0.1") as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield browser


@pytest.fixture
def page(browser, address) -> Iterator[Browser]:
    """The browser with the page, just loaded, at the width of a notebook."""
    browser.emulate(1280, 800)
    browser.open("about:blank")
    browser.open(f"{address}?token={TOKEN}")
    browser.wait_for("document.getElementById('model').textContent")
    yield browser
    browser.wait_for(IDLE)
    assert browser.evaluate("problems") == []


def lines(page: Browser) -> list[str]:
    """Return the final results that the page shows, without their times."""
    return page.evaluate("[...document.querySelectorAll('#lines .line span:not(.word)')].map(e => e.textContent)")


def error_of(page: Browser) -> str:
    """Wait for an error; return it."""
    return page.wait_for("!document.getElementById('alert').hidden && document.getElementById('error').textContent")


def metric(address: str, name: str) -> int:
    """Return what the server counts."""
    with urllib.request.urlopen(f"{address}metrics?token={TOKEN}", timeout=10) as response:
        [count] = re.findall(rf"^ds2_{name} (\d+)$", response.read().decode(), re.MULTILINE)
    return int(count)


def press(page: Browser, kind: str, **more) -> None:
    page.key(kind, " ", "Space", windowsVirtualKeyCode=32, **more)


def test_the_button_records_and_text_appears_while_one_speaks(page):
    assert page.evaluate("location.search") == ""  # the token does not stay in the address
    page.evaluate("""window.levels = []; window.bar = document.getElementById("bar");
        new MutationObserver(() => levels.push(parseFloat(bar.style.width))).observe(bar, {attributes: true})""")
    page.click("#mic")
    assert page.evaluate("document.getElementById('mic').ariaPressed") == "true"
    partial = page.wait_for("document.querySelector('#partials .line span')?.textContent")
    assert lines(page) == []
    assert TEXT.startswith(partial)
    page.wait_for("document.querySelector('#lines .line')")
    page.click("#mic")
    page.wait_for("document.getElementById('partials').childElementCount === 0")
    assert lines(page) == [TEXT]
    assert page.evaluate("document.getElementById('mic').ariaPressed") == "false"
    assert 20 < page.evaluate("Math.max(...levels)") < 100  # percent
    assert page.evaluate("levels.at(-1)") == 0
    delay = re.fullmatch(r"Delay (\d+) ms", page.text("#delay"))
    assert delay
    assert 0 < int(delay[1]) < 5000
    word = page.evaluate("document.querySelector('#lines .word').title")
    assert re.fullmatch(r"\d+ % confidence, \d\.\d\d to \d\.\d\d s", word)


@pytest.mark.parametrize(
    ("text", "joiner", "direction"),
    [
        ("東京です", "", "ltr"),
        ("ที่นี่", "", "ltr"),
        ("می‌خواهم بخوانم", " ", "rtl"),
        ("שלום עולם", " ", "rtl"),
        ("a b", " ", "ltr"),
    ],
)
def test_words_stand_as_in_their_text_and_in_its_direction(page, text, joiner, direction):
    words = [{"text": word, "confidence": 1.0, "start_s": 0.0, "end_s": 1.0} for word in text.split(joiner or None)]
    if not joiner:
        words = [{**words[0], "text": character} for character in text]
    for number, word in enumerate(words):
        word["start_s"] = number
    line = json.dumps({"text": text, "words": words, "start_s": 0.0, "end_s": 1.0})
    page.evaluate(f"showLine(addSource('file', true), {line})")
    shown = "[...document.querySelectorAll('#lines .line > span')].at(-1)"
    assert page.evaluate(f"{shown}.textContent") == text
    assert page.evaluate(f"getComputedStyle({shown}).direction") == direction
    assert page.evaluate(f"dropWords({line}, 0.5).text") == text.removeprefix(words[0]["text"] + joiner)


def test_the_space_bar_records_while_it_is_held(page):
    page.evaluate("document.getElementById('mic').focus()")
    press(page, "keyDown", text=" ")
    page.wait_for("talk?.isSending")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        press(page, "keyDown", text=" ", autoRepeat=True)
        time.sleep(0.1)
        assert page.evaluate("talk.isSending")
    press(page, "keyUp")
    assert not page.evaluate("talk.isSending")
    page.wait_for("sources[0]?.lines.some(line => line.reason === 'commit')")
    assert " ".join(lines(page)) == TEXT[: len(" ".join(lines(page)))]
    assert page.evaluate("talk.session.hasEnded") is False  # the next press needs no new connection
    page.evaluate("stopTalking()")


def test_a_microphone_that_stops_while_it_connects_leaves_nothing_open(page, address):
    before = metric(address, "sessions_total")
    page.evaluate("""(() => {
        const slow = (kind, name) => { const method = kind[name];
            kind[name] = async function (...values) { window.step = name; await sleep(300); return method.apply(this, values); }; };
        slow(AudioWorklet.prototype, "addModule");
        slow(Session.prototype, "open"); })()""")
    page.click("#mic")
    page.wait_for("window.step === 'addModule'")
    page.click("#mic")  # a double click; the microphone is closed twice
    page.wait_for("talk === null")
    page.click("#mic")
    page.wait_for("window.step === 'open'")
    page.evaluate("talk.microphone.media.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    assert "was disconnected" in error_of(page)
    wait_until(lambda: metric(address, "sessions_total") > before, 20)
    wait_until(lambda: metric(address, "sessions") == 0, 20)


def test_of_a_long_silence_half_a_minute_is_remembered(page):
    kept = page.evaluate("""(() => {
        const session = new Session(addSource("Microphone", true), 16000, {isLive: true});
        session.socket = {readyState: WebSocket.OPEN, send() {}};
        for (let n = 0; n < 30000; n++) session.send(new Int16Array(320));
        const before = session.sendings.length;
        session.measure({type: "partial", text: "s", processed_s: 599});
        return [before, session.sendings.length, document.getElementById("delay").textContent]; })()""")
    assert kept[0] == pytest.approx(30 / 0.02, abs=1)
    assert kept[1] == pytest.approx(1 / 0.02, abs=1)
    assert kept[2].startswith("Delay ")


def test_a_press_of_the_space_bar_in_a_control_does_not_record(page):
    page.evaluate("document.getElementById('files').focus()")
    press(page, "keyDown")
    assert page.evaluate("talk") is None
    press(page, "keyUp")


def saved(page: Browser, name: str) -> str:
    """Return the content of a download, as soon as it is complete."""
    path, end = page.downloads / name, time.monotonic() + 20
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end, f"{name} was not saved: {list(page.downloads.iterdir())}"
        time.sleep(0.02)
    content = path.read_text()
    path.unlink()
    return content


def test_files_are_transcribed_with_progress_and_saved_in_four_formats(page):
    page.evaluate("""window.shares = []; new MutationObserver(() => shares.push(document.getElementById("percent").textContent))
        .observe(document.getElementById("percent"), {childList: true, characterData: true})""")
    page.choose_files("#files", *(CLIPS / name for name in FILES))
    page.wait_for("jobs.length === 0 && sources.length === 2")
    assert lines(page) == list(FILES.values())
    shares = page.evaluate("shares.map(text => parseInt(text))")
    assert shares.count(0) == len(FILES)
    assert shares[-1] == 100
    assert any(0 < share < 100 for share in shares)
    seconds = [soundfile.info(CLIPS / name).duration for name in FILES]
    for kind in ("txt", "srt", "vtt", "json"):
        page.click(f"[data-save={kind}]")
    assert saved(page, "transcript.txt").splitlines() == list(FILES.values())
    segments = json.loads(saved(page, "transcript.json"))
    assert segments["model"] == Path(MODEL).name
    for segment, text, name in zip(segments["segments"], FILES.values(), FILES, strict=True):
        assert (segment["text"], segment["source"]) == (text, name)
        assert " ".join(word["text"] for word in segment["words"]) == text
        assert all(0 < word["confidence"] <= 1 for word in segment["words"])
    times = [(s["words"][0]["start_s"], s["words"][-1]["end_s"]) for s in segments["segments"]]
    assert 0 < times[0][0] < times[0][1] < seconds[0] < times[1][0] < times[1][1] < sum(seconds)
    cues = [
        f"{stamp(start)} --> {stamp(end)}\n{text}\n" for (start, end), text in zip(times, FILES.values(), strict=True)
    ]
    assert saved(page, "transcript.vtt") == "WEBVTT\n\n" + "\n".join(cues)
    numbered = [f"{n}\n{re.sub(r'[.](?=[0-9]{3})', ',', cue)}" for n, cue in enumerate(cues, 1)]
    assert saved(page, "transcript.srt") == "\n".join(numbered)

    second = list(FILES)[1]  # saved alone, its times are those of the file
    page.evaluate(f"document.getElementById('sources').value = {json.dumps(second)}")
    page.click("[data-save=vtt]")
    start = stamp(times[1][0] - seconds[0])
    assert saved(page, f"{Path(second).stem}.vtt").splitlines()[2].startswith(start[:-1])


def stamp(seconds: float) -> str:
    """Return seconds as WebVTT writes times."""
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def test_a_dropped_file_is_transcribed(page):
    data = {"items": [], "files": [str(CLIP)], "dragOperationsMask": 1}
    for kind, invites in (("dragEnter", False), ("dragOver", True), ("drop", False)):
        page.call("Input.dispatchDragEvent", type=kind, x=640, y=300, data=data)
        assert page.evaluate("document.getElementById('drop').hidden") is not invites
    page.wait_for("jobs.length === 0 && sources.length === 1")
    assert lines(page) == [TEXT]
    assert page.text("#status") == f"Transcribed {CLIP.name}"
    page.evaluate("window.confirm = () => true")
    page.click("#clear")
    assert lines(page) == []
    assert page.evaluate("document.querySelector('[data-save=txt]').disabled")


def test_a_file_that_is_no_audio_is_named(page, tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("no audio")
    page.choose_files("#files", path, CLIP)
    assert "notes.wav cannot be read as audio" in error_of(page)
    page.wait_for("jobs.length === 0 && sources.length === 1")
    assert lines(page) == [TEXT]  # the other file


def test_what_follows_clear_is_shown_saved_and_cleared(page, long_file):
    # The microphone's audio after 1.9 s, in the middle of the clip, is sent when the transcript has been cleared:
    page.evaluate("""window.confirm = () => true; window.held = []; Session.prototype.send = (send => function (samples) {
        if (held && this.sent > 1.9 * this.rate_hz) held.push(samples); else send.call(this, samples);
    })(Session.prototype.send)""")
    page.click("#mic")
    page.wait_for("document.querySelector('#partials .line .word') && held.length")
    page.click("#clear")
    assert page.text("#partials") == ""
    page.evaluate(
        "{ const waiting = held; window.held = null; for (const samples of waiting) talk.session.send(samples); }"
    )
    page.wait_for("document.querySelector('#lines .line')")
    [rest] = lines(page)
    assert TEXT.endswith(f" {rest}")
    page.click("[data-save=txt]")
    assert saved(page, "transcript.txt") == f"{rest}\n"
    page.click("#clear")
    assert lines(page) == []
    assert page.evaluate("talk.isSending")

    page.choose_files("#files", long_file)
    page.wait_for("document.querySelectorAll('#lines .line').length > 1")
    assert (
        page.evaluate("""(() => { document.getElementById("clear").click();
        return document.getElementById("lines").childElementCount; })()""")
        == 0
    )
    page.wait_for("document.querySelector('#lines .line')")
    page.click("#cancel")
    page.wait_for(IDLE)
    assert page.text("#lines h3") == long_file.name
    assert page.evaluate("sources.flatMap(source => source.lines).map(line => line.text)") == lines(page)
    assert page.evaluate("[...document.querySelectorAll('.save button, #clear')].every(button => !button.disabled)")
    assert page.evaluate("document.getElementById('empty').hidden")


@pytest.fixture(scope="module")
def long_file(tmp_path_factory) -> Path:
    """Three quarters of a minute of clips, with pauses that end lines."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    samples, rate_hz = soundfile.read(CLIP, dtype="int16")
    soundfile.write(path, np.tile(np.pad(samples, (0, 24000)), 12), rate_hz)
    return path


def test_a_file_is_given_up_while_it_is_read_and_when_the_page_is_left(page, address, long_file):
    page.evaluate("""OfflineAudioContext.prototype.decodeAudioData = (decode => async function (data) {
        await window.held; return decode.call(this, data); })(OfflineAudioContext.prototype.decodeAudioData)""")
    page.evaluate("void (window.held = new Promise(() => {}))")
    page.choose_files("#files", CLIP, CLIP)
    page.wait_for("document.getElementById('status').textContent === 'Reading the file'")
    page.click("#cancel")
    page.wait_for("document.getElementById('job').hidden")
    page.evaluate("void (window.held = null)")
    page.choose_files("#files", long_file)
    page.wait_for("sources[0]?.lines.length")
    page.open(f"{address}healthz")
    wait_until(lambda: metric(address, "sessions") == 0, 20)
    page.evaluate("history.back()")
    page.wait_for("typeof jobs === 'object' && jobs.length === 0")
    assert TEXT in lines(page)
    assert page.evaluate("document.getElementById('alert').hidden")


async def hold_sessions(address: str, count: int, then) -> None:
    """Run a blocking function in a thread while `count` sessions are in use."""
    async with aiohttp.ClientSession() as http, contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            socket = await stack.enter_async_context(http.ws_connect(f"{address}stream?token={TOKEN}"))
            assert (await socket.receive_json())["type"] == "ready"
        await asyncio.to_thread(then)


def test_a_server_whose_sessions_are_all_in_use_is_busy(page, address):
    def talk() -> None:
        page.click("#mic")
        assert error_of(page) == f"The server is busy: all {SESSIONS} sessions are in use: try again later."

    asyncio.run(hold_sessions(address, SESSIONS, talk))
    page.click("#dismiss")
    page.choose_files("#files", CLIP)
    page.wait_for("jobs.length === 0 && sources.some(source => source.lines.length)")


def enter_token(page: Browser) -> None:
    """Type the token into the field that has the focus."""
    page.wait_for("document.activeElement?.id === 'token'")
    page.call("Input.insertText", text=TOKEN)
    page.key("keyDown", "Enter", "Enter", windowsVirtualKeyCode=13, text="\r")


def test_without_the_token_a_field_asks_for_it(page, address):
    page.evaluate("sessionStorage.clear()")
    page.call("Network.clearBrowserCookies")
    page.open(address)
    enter_token(page)
    page.wait_for("document.getElementById('model')?.textContent")
    assert page.evaluate("location.search") == ""


def test_a_page_whose_token_is_no_longer_valid_asks_for_another_one(page):
    page.call("Network.clearBrowserCookies")
    page.evaluate("sessionStorage.setItem('ds2-token', 'old')")
    page.click("#mic")
    assert "does not accept this token" in error_of(page)
    enter_token(page)
    page.wait_for("document.getElementById('access').hidden && document.activeElement.id === 'mic'")
    assert page.evaluate("document.getElementById('alert').hidden")
    page.choose_files("#files", CLIP)
    page.wait_for("jobs.length === 0 && sources.some(source => source.lines.length)")
    assert lines(page) == [TEXT]


def test_without_https_the_page_says_why_there_is_no_microphone(page, address):
    page.open(address.replace("127.0.0.1", "ds2.test") + f"?token={TOKEN}")
    page.wait_for("document.getElementById('model').textContent")
    assert page.evaluate("document.getElementById('mic').disabled")
    assert page.evaluate("document.querySelector('.why.needed')?.id") == "why"
    assert re.search(r"localhost and of HTTPS.*--tls_cert and --tls_key", page.text("#why"))
    page.choose_files("#files", CLIP)
    page.wait_for("jobs.length === 0 && sources.length === 1")
    assert lines(page) == [TEXT]  # files need no microphone


def test_a_refused_microphone_and_a_missing_one_are_explained(address, tmp_path):
    with Browser(tmp_path / "refused", "--deny-permission-prompts") as browser:
        browser.open(f"{address}?token={TOKEN}")
        browser.wait_for("document.getElementById('model').textContent")
        browser.click("#mic")
        assert "allow it for this page" in error_of(browser)
        assert browser.evaluate("document.getElementById('mic').ariaPressed") == "false"
        browser.evaluate(
            "failTalking({microphone: new Microphone()}, explainMicrophone(new DOMException('', 'NotFoundError')))"
        )
        assert "No microphone was found" in error_of(browser)


EVERY_KIND_OF_TEXT = """(() => {
  const words = Array.from({length: 101}, (_, percent) => ({text: "word", start_s: 0, end_s: 1, confidence: percent / 100}));
  const source = addSource("contrast"), live = document.createElement("p");
  showLine(source, {text: "word", words, start_s: 0, end_s: 1});
  live.className = "line partial";
  document.getElementById("partials").append(live);
  showPartial(live, {text: "word", words, settled: 50, start_s: 0});
  showError("error");
  document.getElementById("access").hidden = false;
  return new Set([...document.querySelectorAll("#lines .word")].map(e => getComputedStyle(e).color)).size;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_readable_at_every_confidence(page, scheme):
    page.emulate(1280, 800, scheme)
    time.sleep(0.3)  # a button changes its colour gradually
    assert page.evaluate(EVERY_KIND_OF_TEXT) > 30  # shades of words
    contrasts = page.contrasts()
    assert len(contrasts) > 200
    assert [text for text, contrast in contrasts if contrast < READABLE] == []


@pytest.mark.parametrize("width", [320, 375])
def test_the_page_fits_a_phone(page, width):
    page.choose_files("#files", *(CLIPS / name for name in FILES))
    page.wait_for("jobs.length === 0 && sources.length === 2")
    page.emulate(width, 740)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    outside = """[...document.querySelectorAll("button, select, label, p")].filter(e => e.checkVisibility()).filter(e => {
        const box = e.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; }).map(e => e.outerHTML)"""
    assert page.evaluate(outside) == []
    for control in ("#mic", ".files"):
        height = page.evaluate(f"document.querySelector('{control}').getBoundingClientRect().height")
        assert height >= 44


def test_a_screen_reader_finds_names_and_hears_final_results_only(page):
    page.choose_files("#files", CLIP)
    page.wait_for("jobs.length === 0 && sources.length === 1")
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    for role, name in (
        ("heading", "DS2-JAX live speech"),
        ("button", "Microphone"),
        ("meter", "Level of the microphone"),
        ("log", "Final results"),
        ("button", "Choose audio files"),
        *(("button", f"Save as {kind}") for kind in ("txt", "srt", "vtt", "json")),
    ):
        assert (role, name) in named
    assert [
        pair for pair in named if pair[0] in ("button", "textbox", "combobox", "meter", "log") and not pair[1]
    ] == []
    assert page.evaluate("document.getElementById('lines').ariaLive") == "polite"
    assert (
        page.evaluate("document.getElementById('partials').closest('[aria-live], [role=log], [role=status]')") is None
    )
    assert page.evaluate("document.getElementById('alert').parentElement.getAttribute('role')") == "alert"


def test_every_control_is_reached_by_the_tab_key_and_shows_the_focus(page):
    page.choose_files("#files", CLIP)
    page.wait_for("jobs.length === 0 && sources.length === 1")
    page.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(7):
        page.key("keyDown", "Tab", "Tab", windowsVirtualKeyCode=9)
        page.key("keyUp", "Tab", "Tab", windowsVirtualKeyCode=9)
        found.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.save"))
        outline = "getComputedStyle(document.activeElement.closest('.files') ?? document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
    assert found == ["txt", "srt", "vtt", "json", "clear", "mic", "files"]


def test_the_page_is_one_file_that_names_no_other_host():
    content = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:https?|wss?):?//[^\s'\"`>]*", content)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script[^>]+src|<link[^>]+stylesheet|@import|\burl\(", content)


@pytest.mark.slow
def test_a_long_file_is_sent_as_fast_as_it_is_recognised(page, tmp_path):
    pieces = [np.pad(soundfile.read(clip, dtype="int16")[0], (8000, 24000)) for clip in sorted(CLIPS.glob("*.flac"))]
    soundfile.write(tmp_path / "long.flac", np.concatenate(pieces), 16000)
    page.evaluate("""window.ahead = []; Session.prototype.send = (send => function (samples) {
        ahead.push(this.sent / this.rate_hz - this.processed_s); send.call(this, samples); })(Session.prototype.send)""")
    page.choose_files("#files", tmp_path / "long.flac")
    page.wait_for("jobs.length === 0 && sources.length === 1", 200)
    assert 5 < page.evaluate("Math.max(...ahead)") < BACKLOG_S
    assert len(lines(page)) >= len(pieces)  # the pauses between the clips end lines


@pytest.mark.slow
def test_a_connection_that_is_lost_keeps_the_text(browser):
    with server("--config.serve.sessions=1", "--config.serve.stop_s=0.5") as (host, port):
        browser.open(f"http://{host}:{port}/")
        browser.wait_for("document.getElementById('model').textContent")
        browser.click("#mic")
        browser.wait_for("document.querySelector('#lines .line')")
    assert error_of(browser) == "The server has stopped. The text so far is kept."
    assert lines(browser) == [TEXT]
    browser.click("#mic")
    browser.wait_for("document.getElementById('error').textContent.startsWith('The server does not answer')")
    browser.wait_for(IDLE)


@pytest.mark.slow
@pytest.mark.skipif(
    "DS2_PICTURES" not in os.environ, reason="DS2_PICTURES is not set: docs/live_page.png stays as it is"
)
def test_the_picture_of_the_guide_is_taken(page, tmp_path):
    rng = np.random.default_rng(0)
    pieces = [soundfile.read(clip, dtype="float32")[0] for clip in sorted(CLIPS.glob("*.flac"))[1:6]]
    noisy = [np.pad(piece + rng.normal(0, NOISE, len(piece)), (8000, 24000)) for piece in pieces]
    soundfile.write(tmp_path / "letters.wav", np.concatenate(noisy), 16000)
    page.emulate(1280, 760)
    page.choose_files("#files", tmp_path / "letters.wav")
    page.wait_for("jobs.length === 0 && sources.length === 1")
    page.click("#mic")
    page.wait_for("document.querySelectorAll('#partials .word').length >= 3")
    page.screenshot(PICTURE)
    page.click("#mic")
    assert PICTURE.stat().st_size > 10_000
