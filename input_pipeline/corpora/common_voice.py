"""Common Voice (Ardila et al. 2020), a release that you have: read sentences in over a hundred languages, MP3.

CC0, https://commonvoice.mozilla.org, where one agrees to not identify speakers before a release can be downloaded; so
--source names the folder with the archive (cv-corpus-*-LOCALE.tar.gz, no digest is known here) or its content. Splits
are the release's (train, dev and test have different speakers). Texts: lower case, no punctuation; --text=as_is keeps
them.
"""

import argparse
import csv
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
    root = find_locale(place, args.locale)
    spaceless = root.name.partition("-")[0] in WITHOUT_SPACES
    rules = assemble.text_rule(args.text, spaces=not spaceless)
    splits = {split: read_split(root, split, rules) for split in SPLITS}
    recipe = RECIPE_MANDARIN if spaceless else RECIPE
    return Prepared(place.write(splits), next_step.train(recipe, place.folder))


def find_locale(place: Place, locale: str | None) -> Path:
    """Return the folder of the language with its clips and TSV files, unpacked first if need be."""
    assert place.source is not None
    if locale is not None and (root := assemble.find_root(place.source, f"{locale}/train.tsv")) is not None:
        return root / locale
    found = [path.parent for depth in ("", "*/", "*/*/") for path in sorted(place.source.glob(f"{depth}train.tsv"))]
    if locale is None and len(found) == 1:
        return found[0]
    ending = "" if locale is None else locale
    archives = sorted(path.name for path in place.source.glob(f"*{ending}.tar.gz"))
    if len(archives) == 1 and not (locale is None and found):
        return place.obtain(Archive(archives[0], file=archives[0]), "train.tsv")
    there = ", ".join(sorted({path.name for path in found} | set(archives))) or "neither train.tsv nor *.tar.gz"
    raise CorpusError(f"--source={place.source} holds {there}; choose one by --locale, or check the path")


def read_split(root: Path, split: str, rules: Callable[[str], str]) -> list[Recording]:
    """Read SPLIT.tsv; the audio is clips/PATH. Clips in no split (invalidated, or more of a sentence) are not wanted."""
    path = root / f"{split}.tsv"
    rows = csv.DictReader(assemble.read_text(path).split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = set(COLUMNS) - set(rows.fieldnames or [])
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(sorted(missing))}; this is not a release's {split}.tsv")
    texts, speakers = [], {}
    for row in rows:
        texts.append((row["path"], rules(row["sentence"] or "")))
        speakers[row["path"]] = row["client_id"]
    files = [root / "clips" / name for name in speakers if (root / "clips" / name).is_file()]
    return assemble.match(texts, files, speakers.__getitem__, key=lambda clip: Path(clip).name)
