"""The documentation site builds without warnings, has no broken links, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.runs import ROOT

FETCHED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
}  # loaded when a page is viewed


class Page(HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if FETCHED.get(tag) in values:
            self.fetched.add(values[FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {
        path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"
    }  # served for any path, so its relative links are not checked


def broken(page: Path, target: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(target)
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if path.is_dir():
        path /= "index.html"
    if not path.is_file():
        return True
    return path in pages and bool(parts.fragment) and unquote(parts.fragment) not in pages[path].anchors


@pytest.mark.slow
def test_every_link_and_picture_has_a_target(site, pages):
    local = {(page, target) for page in pages for target in pages[page].links | pages[page].fetched}
    local = {(page, target) for page, target in local if not urlsplit(target).scheme}
    assert len(local) > 500
    assert sorted(f"{page.relative_to(site)}: {target}" for page, target in local if broken(page, target, pages)) == []


@pytest.mark.slow
def test_viewing_a_page_loads_nothing_from_other_hosts(site, pages):
    assert sorted({target for page in pages.values() for target in page.fetched if urlsplit(target).netloc}) == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", styles)


@pytest.mark.slow
def test_every_guide_and_every_package_has_a_page(site):
    guides = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert guides <= {path.name for path in site.glob("*.html")}
    packages = {
        package.parent
        for room in ("ds2_jax", "input_pipeline", "decoding")
        for package in ROOT.glob(f"{room}/*/__init__.py")
    }
    for package in packages:
        name = ".".join(package.relative_to(ROOT).parts)
        page = (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        modules = {module.stem for module in package.glob("*.py") if not module.stem.startswith("__")}
        assert all(f'id="{name}.{module}"' in page for module in modules), name


@pytest.mark.slow
def test_a_broken_link_is_detected(site, pages):
    page = site / "index.html"
    assert broken(page, "nothing.html", pages)
    assert broken(page, "settings.html#nothing", pages)
    assert not broken(page, "settings.html#recipes", pages)
