"""THCHS-30 (Wang and Zhang 2015): 35 hours of read Mandarin news, 16 kHz WAV, with the official splits.

Apache License 2.0, https://www.openslr.org/18 (MD5 from PaddleSpeech's recipe). 60 speakers; the 10 speakers of test are in
no other split.
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, Preparation, Prepared, Recording

ARCHIVE = Archive("https://www.openslr.org/resources/18/data_thchs30.tgz", md5="2d2252bde5c8429929e1841d4cb95e90")
OFFICIAL_UTTERANCES = {"train": 10_000, "dev": 893, "test": 2_495}
RECIPE = "configs/aishell.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "thchs30", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write the manifests."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, "data_thchs30/data") / "data_thchs30"
    splits = {split: read_split(root, split) for split in OFFICIAL_UTTERANCES}
    return Prepared(preparation.write(splits, OFFICIAL_UTTERANCES), next_step.train(RECIPE, preparation.folder))


def read_split(root: Path, split: str) -> list[Recording]:
    """Read a split: its folder lists the utterances, data/ contains A11_0.wav and A11_0.wav.trn.

    Entries of a split's folder are links, files, or text files with a path, depending on the copy.
    """
    names = [assemble.file_id(path) for path in assemble.list_files(root / split, ".wav")]
    texts = [(name, read_transcript(root / "data" / f"{name}.wav.trn")) for name in names]
    return assemble.match(texts, (root / "data" / f"{name}.wav" for name in names), lambda name: name.partition("_")[0])


def read_transcript(path: Path) -> str:
    """Return the first line, which has the characters, without spaces; '' if the file is missing. Pinyin and phones follow."""
    if not path.is_file():
        return ""
    first, *_ = assemble.read_text(path).split("\n")
    return "".join(first.split())
