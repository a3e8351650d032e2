"""Common Voice (Ardila et al. 2020), a release that you have: read sentences in over a hundred languages, MP3.

CC0, https://commonvoice.mozilla.org, where one agrees to not identify speakers before a release can be downloaded; so
--source names the folder with the archive (cv-corpus-*-LOCALE.tar.gz, no digest is known here) or its content. Splits
are the release's (train, dev and test have different speakers). Texts: lower case, no punctuation; --text=as_is keeps
them.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Place, Prepared, Recording

SPLITS = ("train", "dev", "test")
COLUMNS = ("client_id", "path", "sentence")
RECIPE, RECIPE_MANDARIN = "configs/librispeech_100.py", "configs/aishell.py"
WITHOUT_SPACES = ("zh", "ja", "yue", "nan")  # languages that are written without them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "common_voice", "cv-corpus-*-LOCALE.tar.gz, or with its content")
    parser.add_argument("--locale", help="language, as in the release: en, zh-CN, ... (needed if there are several)")
    parser.add_argument(
        "--text", choices=("plain", "as_is"), default="plain", help="lower-case words only, or as it is"
    )


def prepare(args: argparse.Namespace) -> Prepared:
    """Unpack and scan; write the manifests."""
    place = Place.of(args)
    root = find_locale(place, Path(args.source).resolve(), args.locale)
    spaceless = (args.locale or root.name).partition("-")[0] in WITHOUT_SPACES
    rule = assemble.text_rule(args.text, spaces=not spaceless)
    splits = {split: read_split(root, split, rule) for split in SPLITS}
    filled = {split: found for split, found in splits.items() if found or split == "train"}
    for split in splits.keys() - filled.keys():
        print(f"  {root / split}.tsv lists no clip; there is no {split}.jsonl")
    held_out = {split: split if split in filled else "" for split in ("dev", "test")}
    recipe = RECIPE_MANDARIN if spaceless else RECIPE
    return Prepared(place.write(filled), next_step.train(recipe, place.folder, **held_out))


def find_locale(place: Place, source: Path, locale: str | None) -> Path:
    """Return the folder of the language with its clips and TSV files, unpacked first if need be."""
    if source.name == locale and (source / "train.tsv").is_file():
        return source
    if locale is not None:
        archives = [path.name for path in source.glob("*.tar.gz") if f"-{path.name}".endswith(f"-{locale}.tar.gz")]
        if archives or assemble.find_root(source, f"{locale}/train.tsv") is not None:
            name = (archives or [f"{locale}.tar.gz"])[0]
            return place.obtain(Archive(name), f"{locale}/train.tsv") / locale
    found = [path.parent for depth in ("", "*/", "*/*/") for path in sorted(source.glob(f"{depth}train.tsv"))]
    archives = sorted(path.name for path in source.glob("*.tar.gz"))
    if locale is None and len(found) == 1:
        return found[0]
    if locale is None and not found and len(archives) == 1:
        return place.obtain(Archive(archives[0]), "train.tsv")
    there = ", ".join([*(path.name for path in found), *archives]) or "neither train.tsv nor *.tar.gz"
    raise CorpusError(f"--source={source} holds {there}; choose one by --locale, or check the path")


def read_split(root: Path, split: str, rule: Callable[[str], str]) -> list[Recording]:
    """Read SPLIT.tsv; the audio is clips/PATH. Clips in no split (invalidated, or more of a sentence) are not wanted."""
    path = root / f"{split}.tsv"
    header, *rows = assemble.read_rows(path)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(missing)}; this is not a release's {split}.tsv")
    assemble.name_skipped(
        f"are lines of {path.name} that are cut off", ["\t".join(row) for row in rows if len(row) < len(header)]
    )
    listed = [[row[header.index(name)] for name in COLUMNS] for row in rows if len(row) >= len(header)]
    speakers = {clip: speaker for speaker, clip, _ in listed}
    there = set(os.listdir(root / "clips"))
    files = [root / "clips" / clip for clip in speakers if clip in there]
    texts = ((clip, rule(text)) for _, clip, text in listed)
    return assemble.match(texts, files, speakers.__getitem__, key=os.path.basename)
