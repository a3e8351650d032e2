"""Chromium for tests, controlled over the DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.runs import Program, wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
LARGEST_MESSAGE = 1 << 26  # bytes; pictures are large
READABLE = 4.5  # contrast of text, WCAG AA
# Errors of scripts and violations of the page's content security policy:
WATCH = """window.problems = [];
addEventListener("error", event => problems.push(event.message));
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => problems.push(event.violatedDirective));"""
CONTRASTS = """(() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const paint = colours => {
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = colour => colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const grounds = element => element ? [...grounds(element.parentElement), getComputedStyle(element).backgroundColor] : ["white"];
  const contrast = element => {
    const behind = paint(grounds(element)), front = paint([...grounds(element), getComputedStyle(element).color]);
    const [a, b] = [luminance(behind), luminance(front)].sort((a, b) => b - a);
    return (a + 0.05) / (b + 0.05);
  };
  const texts = [...document.body.querySelectorAll("*")].filter(e => e.checkVisibility() && !e.disabled &&
    [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
  return texts.map(e => [`${e.tagName} ${e.className} ${e.textContent}`, contrast(e)]);
})()"""


class Browser:
    """A browser with one page. folder: for its profile and downloads. options: further ones of the command line."""

    def __init__(self, folder: Path, *options: str):
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self._profile = folder / "profile"
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={self._profile}", *options, "about:blank"]
        self._log = (folder / "chromium.log").open("w")
        self._process = Program(command, stdout=self._log, stderr=self._log)
        self._runner = asyncio.Runner()
        self._numbers = itertools.count(1)

    def __enter__(self) -> "Browser":
        address = self._profile / "DevToolsActivePort"
        wait_until(lambda: address.exists() and address.read_text().count("\n") >= 1)
        self._runner.run(self._connect(int(address.read_text().split()[0])))
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *_) -> None:
        self._runner.run(self._http.close())
        self._runner.close()
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    async def _connect(self, port: int) -> None:
        self._http = aiohttp.ClientSession()
        async with self._http.get(f"http://127.0.0.1:{port}/json/list") as response:
            [page] = [target for target in await response.json() if target["type"] == "page"]
        self._socket = await self._http.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=LARGEST_MESSAGE)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._runner.run(asyncio.wait_for(self._call(method, parameters), 60))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = json.loads(await self._socket.receive_str())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self.evaluate("window.isBefore = true")
        self.call("Page.navigate", url=address)
        self.wait_for("!window.isBefore && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 30) -> Any:
        """Wait until an expression is true; return its value, which is {} for an element."""
        deadline = time.monotonic() + timeout_s
        while (value := self.evaluate(expression)) in (None, False, 0, ""):
            assert time.monotonic() < deadline, f"{expression} was not true within {timeout_s:g} s"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        """Return the visible text of the first element that matches."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Click in the middle of an element as a mouse does."""
        script = f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}}); const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        x, y = self.evaluate(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def contrasts(self) -> list[tuple[str, float]]:
        """Return each visible text, with its element, and its contrast, of 1 to 21."""
        return [(text, contrast) for text, contrast in self.evaluate(CONTRASTS)]

    def memory(self) -> int:
        """Return the bytes of memory that the page uses: of the largest process for pages, without what it shares."""
        return max(
            _own_memory(pid) for pid in _descendants(self._process.pid) if "--type=renderer" in _command_line(pid)
        )

    def key(self, kind: str, key: str, code: str, **more: Any) -> None:
        """Send an event of a key: keyDown or keyUp."""
        self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, **more)

    def choose_files(self, selector: str, *paths: str | Path) -> None:
        """Choose files in an input, as in the system's dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def emulate(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the size of the page in pixels, and the preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """Write a picture (PNG) of what is visible."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it has ended
        return ""


def _own_memory(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Private_"))


def _descendants(pid: int) -> list[int]:
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(below for child in children for below in _descendants(child))]
