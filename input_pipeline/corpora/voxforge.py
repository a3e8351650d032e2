"""VoxForge, English: 130 hours read and submitted by volunteers, 16 kHz WAV or FLAC, by the dialect they state.

GPL 3, http://www.voxforge.org. About 6,000 small archives, listed on a page (no digests; sizes and structure are
verified). Manifests by dialect group, as in the original's benchmark; an archive that states dialects of two groups is in
both. Only prompts in capital letters (with apostrophes, spaces and hyphens) are used.
"""

import argparse
import re
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import CorpusError, Preparation, Prepared, Recording
from input_pipeline.storage import download
from input_pipeline.storage.archive import ArchiveError

URL = "http://www.repository.voxforge1.org/downloads/SpeechCorpus/Trunk/Audio/Main/16kHz_16bit"
DIALECTS = ("american", "british", "australian", "european", "irish", "canadian", "indian")
GROUPS = {"american": "american-canadian", "canadian": "american-canadian"} | dict.fromkeys(
    ("british", "irish", "australian"), "commonwealth"
)
AT_ONCE = 8  # concurrent downloads: archives are small, and the server is slow to respond
MAX_FAILURES = 20  # archives that may fail before the preparation stops
RECIPE = "configs/voxforge_eval.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "voxforge", "the .tgz archives", URL)
    parser.add_argument("--dialects", default=",".join(DIALECTS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--no_groups", action="store_true", help="one manifest per dialect instead of per group")


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch and unpack all archives, scan, and write a manifest for each dialect group."""
    preparation = Preparation.from_args(args)
    dialects = assemble.parse_choice(args.dialects, DIALECTS, "--dialects")
    group_of = {dialect: dialect if args.no_groups else GROUPS.get(dialect, dialect) for dialect in dialects}
    groups = {folder: {group_of[dialect] for dialect in stated(folder, dialects)} for folder in obtain_all(preparation)}
    selected = [folder for folder in groups if groups[folder]]
    print(f"{len(selected):,} of {len(groups):,} archives state one of the dialects {', '.join(dialects)}")
    splits: dict[str, list[Recording]] = {group: [] for group in group_of.values()}
    for one in read_submissions(selected):
        for group in groups[Path(one.audio).parents[1]]:
            splits[group].append(one)
    records = preparation.write({group: recordings for group, recordings in splits.items() if recordings} or splits)
    first = preparation.folder / f"{next(iter(records))}.jsonl"
    return Prepared(records, next_step.evaluate(first, f"--config={RECIPE}"))


def stated(submission: Path, dialects: list[str]) -> list[str]:
    """Return the dialects in an archive's README, stated in a line such as `Pronunciation dialect: American English`."""
    readme = submission / "etc" / "README"
    lines = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    return [name for name in dialects if re.search(f"pronunciation dialect.*{name}", lines, re.IGNORECASE)]


def read_submissions(folders: list[Path]) -> list[Recording]:
    """Read submissions: etc/PROMPTS, with lines of `SUBMISSION/mfc/a0001 THE TEXT`, and the files in wav/ or flac/."""
    texts, files, unfit = [], [], set()
    for folder in folders:
        prompts = folder / "etc" / "PROMPTS"
        for path, text in assemble.read_keyed(prompts, errors="replace") if prompts.is_file() else ():
            key = f"{folder.name}/{path.rpartition('/')[2]}"
            text = text.replace("-", " ")
            if text.isupper() and text.replace(" ", "").replace("'", "").isalpha():
                texts.append((key, " ".join(text.lower().split())))
            else:
                unfit.add(key)
        files += [path for kind in ("wav", "flac") for path in assemble.list_files(folder / kind, ".wav", ".flac")]
    assemble.report_skipped("prompt not in capital letters", sorted(unfit))
    files = [path for path in files if key_of(path) not in unfit]
    return assemble.match(texts, files, lambda key: speaker_of(key.partition("/")[0]), key_of)


def key_of(path: str | Path) -> str:
    """Return SUBMISSION/a0001 for .../SUBMISSION/wav/a0001.wav, because file names repeat between submissions."""
    return f"{Path(path).parents[1].name}/{assemble.file_id(path)}"


def speaker_of(submission: str) -> str:
    """Return the user of `user-20080318-abc`; for anonymous users, the whole submission."""
    user = submission.partition("-")[0]
    return submission if user == "anonymous" else user


def obtain_all(preparation: Preparation) -> list[Path]:
    """Return the folders of all submissions: those unpacked in the source, those of its archives, or fetched ones."""
    if preparation.source is not None:
        folders = [
            path.parents[1] for depth in ("", "*/", "*/*/") for path in preparation.source.glob(f"{depth}etc/README")
        ]
        packed = {path.stem: path for depth in ("", "*/") for path in preparation.source.glob(f"{depth}*.tgz")}
        if not folders and not packed:
            raise CorpusError(
                f"--source={preparation.source}: contains no .tgz archive and no folder with etc/README: check the path"
            )
        unpacked = {path.name for path in folders}
        jobs = {name: str(path) for name, path in packed.items() if name not in unpacked}
    else:
        folders, jobs = [], list_archives((preparation.url or URL).rstrip("/") + "/")
    failed = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        pending = [threads.submit(unpack_one, preparation, name, address) for name, address in jobs.items()]
        try:
            for name, job in zip(jobs, tqdm(pending, desc="archives", delay=download.BAR_DELAY_S), strict=True):
                try:
                    folders.append(job.result())
                except (download.DownloadError, ArchiveError) as error:
                    failed.append(f"{name} ({error})")
                    if len(failed) > MAX_FAILURES or len(failed) == len(jobs):
                        raise
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    assemble.report_skipped("failed; run the same command again to retry", failed)
    return sorted(folders, key=lambda folder: folder.name)


def list_archives(url: str) -> dict[str, str]:
    """Return the addresses of the archives by name, from the page that lists them."""
    page = download.read_page(url)
    links = {urllib.parse.urljoin(url, link) for link in re.findall(r'href="([^"?#]+\.tgz)"', page)}
    if not links:
        raise CorpusError(f"{url}: lists no .tgz archive: check the address, or give another with --url")
    return {Path(urllib.parse.urlparse(link).path).stem: link for link in sorted(links)}


def unpack_one(preparation: Preparation, name: str, address: str) -> Path:
    """Return the folder of a submission, unpacked from a local or fetched archive."""
    unpacked = preparation.folder / "unpacked" / name
    if not unpacked.is_dir():
        packed = Path(address)
        if preparation.source is None:
            packed = download.fetch(address, preparation.folder / "archives" / f"{name}.tgz", quiet=True)
        preparation.unpack(packed, unpacked, quiet=True)
    root = assemble.find_root(unpacked, "etc")
    if root is None:
        raise ArchiveError(f"{name}.tgz: contains no folder etc")
    return root
