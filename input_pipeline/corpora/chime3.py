"""Background noise of CHiME-3 (Barker et al. 2015): bus, café, pedestrian area and street, as used by the original.

See the terms of the CHiME challenge. The original's address no longer exists: --source is a folder with a local copy of
its archive (MD5 from the original), of the four archives in it, or of their content. Writes one manifest, `background`,
without texts.
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording
from input_pipeline.storage import archive

ARCHIVE = Archive(
    "https://d4s.myairbridge.com/packagev2/AG0Y3DNBE5IWRRTV/?dlid=W19XG7T0NNHB027139H0EQ",
    md5="c3ff512618d7a67d4f85566ea1bc39ec",
    file="myairbridge-AG0Y3DNBE5IWRRTV.zip",
)
INNER = tuple(f"CHiME3_background_{location}" for location in ("bus", "caf", "ped", "str"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "chime3", f"{ARCHIVE.name}, or {INNER[0]}.zip and so on, or their content")


def prepare(args: argparse.Namespace) -> Prepared:
    """Unpack the archive and those in it, and scan; write one manifest of all noises."""
    preparation = Preparation.from_args(args)
    source = Path(args.source)
    root = source if has_noise(source) else preparation.obtain(ARCHIVE, f"{INNER[0]}.zip")
    files = [path for folder in unpack_inner(root, preparation.folder) for path in assemble.list_files(folder, ".wav")]
    records = preparation.write({"background": [Recording(path) for path in files]})
    return Prepared(records, next_step.add_noise(preparation.folder / "background.jsonl"))


def has_noise(source: Path) -> bool:
    """Return whether a source contains inner archives or their content."""
    return any((source / f"{name}.zip").is_file() for name in INNER) or assemble.find_root(source, "CHiME3") is not None


def unpack_inner(root: Path, folder: Path) -> list[Path]:
    """Unpack each inner archive once into a folder with its name; return these folders, or the root if there are none."""
    unpacked = []
    for name in INNER:
        target = folder / name
        if (root / f"{name}.zip").is_file() and not target.is_dir():
            archive.extract(root / f"{name}.zip", target)
        if target.is_dir():
            unpacked.append(target)
    if not unpacked and not assemble.list_files(root, ".wav"):
        raise CorpusError(f"{root}: contains none of {', '.join(INNER)} and no WAV file: check --source")
    return unpacked or [root]
