"""Hooks of mkdocs.yml: pages made from files outside of docs/, from the notebook, and from the packages' docstrings.

A guide may link to any file of the repository. Such a file becomes a page of the site: Markdown is rendered, everything
else is shown as code.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    "README.md": "index.md",
    "README.zh.md": "zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
NOTEBOOK = "docs/first_model.ipynb"
PAGES = TOP | {NOTEBOOK: "first_model.md"}  # repository file -> page
PACKAGES = ("ds2_jax", "input_pipeline", "decoding")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")  # the target of a relative link, without its anchor
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".json": "json", ".cff": "yaml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API reference to the navigation."""
    assert config.nav is not None
    config.nav.append({"API reference": [{name: page} for name, page in reference_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those of all repository files that pages link to."""
    for name, page in reference_pages():
        files.append(File.generated(config, page, content=reference(name)))
    files.remove(files.src_uris[Path(NOTEBOOK).name])
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by)]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        if page_of(source) not in files.src_uris:
            files.append(File.generated(config, page_of(source), content=content(source)))
        for target in links(source) - seen:
            if not target.startswith("docs/") and (ROOT / target).is_file():
                waiting.append(target)
                seen.add(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to repository files at their pages."""
    source = source_of(page.file.src_uri)
    return markdown if source is None else relink(markdown, source)


def reference_pages() -> list[tuple[str, str]]:
    """List each package and its subpackages with their pages."""
    names = []
    for package in PACKAGES:
        names += [package, *sorted(f"{package}.{init.parent.name}" for init in (ROOT / package).glob("*/__init__.py"))]
    return [(name, f"reference/{name}.md") for name in names]


def reference(name: str) -> str:
    """Write the page of a package: its own members, or those of all modules of a subpackage."""
    options = "" if "." in name else "\n    options:\n      show_submodules: false"
    return f"::: {name}{options}\n"


def page_of(source: str) -> str:
    """Return the page of a repository file."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return f"source/{source if source.endswith('.md') else source + '.md'}"


def source_of(page: str) -> str | None:
    """Return the repository file that a page shows; None for the API reference."""
    if page.startswith("reference/"):
        return None
    by_page = {found: source for source, found in PAGES.items()}
    if page in by_page:
        return by_page[page]
    if not page.startswith("source/"):
        return f"docs/{page}"
    source = page.removeprefix("source/")
    return source if (ROOT / source).is_file() else source.removesuffix(".md")


def content(source: str) -> str:
    """Return a repository file as Markdown."""
    text = (ROOT / source).read_text(encoding="utf-8")
    if source.endswith(".md"):
        return text
    if source == NOTEBOOK:
        return "\n".join(notebook_cells(text))
    fence = "`" * (2 + max([1, *map(len, re.findall("`+", text))]))
    language = LANGUAGES.get(Path(source).suffix, "text")
    return f"---\nhide: [toc]\n---\n\n# {source}\n\n{fence}{language}\n{text}\n{fence}\n"


def notebook_cells(text: str) -> Iterator[str]:
    """Yield the cells of a notebook, without outputs."""
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        yield f"```python\n{source}\n```\n" if cell["cell_type"] == "code" else f"{source}\n"


def links(source: str) -> set[str]:
    """Return the repository paths that a Markdown file links to."""
    if not source.endswith((".md", ".ipynb")):
        return set()
    return {resolve(target, source) for target in LINK.findall(content(source))}


def relink(markdown: str, source: str) -> str:
    """Rewrite the relative links of a repository file for its page."""

    def replace(match: re.Match) -> str:
        target = resolve(match[1], source)
        is_page = target in PAGES or target.endswith(".md") or not target.startswith("docs/")
        page = page_of(target) if is_page else target.removeprefix("docs/")
        return posixpath.relpath(page, posixpath.dirname(page_of(source)) or ".")

    return LINK.sub(replace, markdown) if source.endswith((".md", ".ipynb")) else markdown


def resolve(target: str, source: str) -> str:
    """Return a relative link of a repository file as a path from the repository's top."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
