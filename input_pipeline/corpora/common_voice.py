"""Common Voice (Ardila et al. 2020), from a local release: read sentences in over a hundred languages, MP3.

CC0, https://commonvoice.mozilla.org, where users must agree not to identify speakers before they can download a release;
--source is the folder with the archive (cv-corpus-*-LOCALE.tar.gz; no digest is known) or its content. Splits are those
of the release (train, dev and test have different speakers). Texts: lower case without punctuation, by the rules of the
language; --text=as_is keeps them unchanged.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording
from input_pipeline.storage import tables
from input_pipeline.text import is_spaced, language_code

SPLITS = ("train", "dev", "test")
COLUMNS = ("client_id", "path", "sentence")
RECIPE, RECIPE_MANDARIN = "configs/librispeech_100.py", "configs/aishell.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "common_voice", "cv-corpus-*-LOCALE.tar.gz, or with its content")
    parser.add_argument("--locale", help="language, as in the release: en, zh-CN, ... (required if there are several)")
    parser.add_argument(
        "--text", choices=("plain", "as_is"), default="plain", help="lower case without punctuation, or unchanged"
    )
    parser.add_argument("--spell_numbers", action="store_true", help="write numbers as words of the language")


def prepare(args: argparse.Namespace) -> Prepared:
    """Unpack and scan; write the manifests."""
    preparation = Preparation.from_args(args)
    root = find_locale(preparation, Path(args.source).resolve(), args.locale)
    language = language_code(args.locale or root.name)
    rule = assemble.text_rule(args.text, language, spell=args.spell_numbers)
    splits = {split: read_split(root, split, rule) for split in SPLITS}
    filled = {split: recordings for split, recordings in splits.items() if recordings or split == "train"}
    for split in splits.keys() - filled.keys():
        print(f"  {root / split}.tsv lists no clips; {split}.jsonl is not written")
    held_out = {split: split if split in filled else "" for split in ("dev", "test")}
    recipe, of_recipe = (RECIPE, "en") if is_spaced(language) else (RECIPE_MANDARIN, "zh")
    train = next_step.train(recipe, preparation.folder, **held_out)
    return Prepared(preparation.write(filled), train + next_step.language_option(language, of_recipe))


def find_locale(preparation: Preparation, source: Path, locale: str | None) -> Path:
    """Return the folder of a locale, with its clips and TSV files; unpack it first if necessary. Raises CorpusError."""
    if source.name == locale and (source / "train.tsv").is_file():
        return source
    if locale is not None:
        archives = [path.name for path in source.glob("*.tar.gz") if f"-{path.name}".endswith(f"-{locale}.tar.gz")]
        if archives or assemble.find_root(source, f"{locale}/train.tsv") is not None:
            name = (archives or [f"{locale}.tar.gz"])[0]
            return preparation.obtain(Archive(name), f"{locale}/train.tsv") / locale
    folders = [path.parent for depth in ("", "*/", "*/*/") for path in sorted(source.glob(f"{depth}train.tsv"))]
    archives = sorted(path.name for path in source.glob("*.tar.gz"))
    if locale is None and len(folders) == 1:
        return folders[0]
    if locale is None and not folders and len(archives) == 1:
        return preparation.obtain(Archive(archives[0]), "train.tsv")
    content = ", ".join([*(path.name for path in folders), *archives]) or "neither train.tsv nor *.tar.gz"
    raise CorpusError(f"--source={source} contains {content}: choose one with --locale, or check the path")


def read_split(root: Path, split: str, rule: Callable[[str], str]) -> list[Recording]:
    """Read SPLIT.tsv, whose audio is clips/PATH. Clips in no split (invalid, or repeating a sentence) are ignored."""
    path = root / f"{split}.tsv"
    header, *rows = tables.read_table(path)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(missing)}: use the {split}.tsv of a release")
    truncated = ["\t".join(row) for row in rows if len(row) < len(header)]
    assemble.report_skipped(f"truncated lines of {path.name}", truncated)
    listed = [[row[header.index(name)] for name in COLUMNS] for row in rows if len(row) >= len(header)]
    speakers = {clip: speaker for speaker, clip, _ in listed}
    existing = set(os.listdir(root / "clips"))
    files = [root / "clips" / clip for clip in speakers if clip in existing]
    texts = ((clip, rule(text)) for _, clip, text in listed)
    return assemble.match(texts, files, speakers.__getitem__, key=os.path.basename)
