"""The language models that the original published: their addresses, and how downloads are verified.

They are published without terms of use; ask the publisher before using them in a product.
"""

import math
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from decoding.lm import model_file
from input_pipeline.storage import digests
from input_pipeline.storage import download as downloads
from input_pipeline.storage.download import DownloadError

HOST = "https://deepspeech.bj.bcebos.com"
FOLDER = "data/lm"
GB, GIB = 10**9, 2**30
TIMEOUT_S = 60


@dataclass(frozen=True)
class PublishedModel:
    """A KenLM binary. size_gb: as published, to one decimal; whether of 10^9 or 2^30 bytes is not stated."""

    path: str
    md5: str | None
    size_gb: float
    about: str
    weights: tuple[float, float]  # alpha (for log10) and beta that the original published

    @property
    def name(self) -> str:
        """Return the name of the file."""
        return self.path.rpartition("/")[2]

    @property
    def least_bytes(self) -> int:
        """Return the least size that rounds to the published one."""
        return int((self.size_gb - 0.05) * GB)

    @property
    def most_bytes(self) -> int:
        """Return the largest size that rounds to the published one."""
        return int((self.size_gb + 0.05) * GIB)


MODELS = {
    "en": PublishedModel(
        "en_lm/common_crawl_00.prune01111.trie.klm",
        "099a601759d467cd0a8523ff939819c5",
        8.3,
        "English words, 5-gram of CommonCrawl, pruned, trie",
        (2.5, 0.3),
    ),
    "zh_small": PublishedModel(
        "zh_lm/zh_giga.no_cna_cmn.prune01244.klm",
        "29e02312deb2e59b3c8686c7966d4fe3",
        2.8,
        "Mandarin characters, 5-gram, pruned, probing",
        (2.6, 5.0),
    ),
    "zh_large": PublishedModel(
        "zh_lm/zhidao_giga.klm", None, 70.4, "Mandarin characters, 5-gram, not pruned, probing", (2.6, 5.0)
    ),
}


def table() -> str:
    """Return a table of the models."""
    lines = [f"{'name':<10}{'size':>8}  {'md5':<34}{'what'}"]
    for name, model in MODELS.items():
        lines.append(f"{name:<10}{model.size_gb:>5} GB  {model.md5 or 'not published':<34}{model.about}")
        lines.append(f"{'':<20}{HOST}/{model.path}")
    return "\n".join(lines)


def download(name: str, output: str = "", url: str = "") -> dict:
    """Download a model, resume an earlier attempt, and verify it; return what to print as JSON.

    Raises DownloadError, also if the disk has too little room.
    """
    model = MODELS[name]
    target = Path(output or Path(FOLDER, model.name))
    if target.is_dir():
        raise DownloadError(f"--output={target} is a folder; name the file, --output={target / model.name}")
    url = url or f"{HOST}/{model.path}"
    if not target.exists():
        size = _announced_size(url)
        if size is not None and not model.least_bytes <= size <= model.most_bytes:
            raise DownloadError(
                f"{url}: the server offers {size:,} bytes, {model.size_gb} GB were published; check the address"
            )
    if model.md5:
        downloads.fetch(url, target, md5=model.md5)
    else:
        print(f"no checksum of {model.name} is published; its size and structure are verified instead", flush=True)
        _fetch_without_digest(url, target, model)
    digests.write_for(target)
    alpha, beta = model.weights
    print(
        f"the original decodes with alpha {alpha} for log10, which is --config.decode.alpha={alpha / math.log(10):.3f} here, "
        f"and --config.decode.beta={beta}; --mode=tune finds values for your network"
    )
    return {"lm": str(target), "bytes": target.stat().st_size, "verified": "md5" if model.md5 else "size, structure"}


def _fetch_without_digest(url: str, target: Path, model: PublishedModel) -> None:
    """Download a file unless it exists, and rename it if size and structure are as published. Raises DownloadError."""
    fetched = target
    if not target.exists():
        fetched = downloads.fetch(url, target.with_name(target.name + ".unverified"))
    size = fetched.stat().st_size
    difference = (
        "" if model.least_bytes <= size <= model.most_bytes else f"{size:,} bytes instead of {model.size_gb} GB"
    )
    if not difference:
        try:
            model_file.read_words(str(fetched))  # the words are at the end of the file, their number at its start
        except model_file.LanguageModelError as error:
            difference = str(error).split(";")[0]
    if difference:
        raise DownloadError(
            f"{fetched} is not the published file ({difference}): remove it and run the same command again"
        )
    os.replace(fetched, target)


def _announced_size(url: str) -> int | None:
    """Ask a server for the size of a file; None if it does not answer, which the download will report."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
    except (OSError, ValueError):
        return None
    return int(length) if length.isdigit() else None
