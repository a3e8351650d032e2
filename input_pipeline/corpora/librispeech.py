"""LibriSpeech (Panayotov et al. 2015): 982 hours of read English from LibriVox, 16 kHz FLAC, 2,484 speakers.

CC BY 4.0, https://www.openslr.org/12. Seven parts in separate archives (MD5 from OpenSLR, sizes from tensorflow-datasets);
the official splits are among them. Mini LibriSpeech, https://www.openslr.org/31, has two more, taken from train-clean-100
and dev-clean (MD5 from PaddleSpeech).
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording

URL, MINI_URL = "https://www.openslr.org/resources/12", "https://www.openslr.org/resources/31"
MINI = ("train-clean-5", "dev-clean-2")
MD5_AND_BYTES: dict[str, tuple[str, int | None]] = {
    "train-clean-100": ("2a93770f6d5c6c964bc36631d331a522", 6_387_309_499),
    "train-clean-360": ("c0e676e450a7ff2f54aeade5171606fa", 23_049_477_885),
    "train-other-500": ("d1a0fd59409feb2c614ce4d30c387708", 30_593_501_606),
    "dev-clean": ("42e2234ba48799c1f50f24a7926300a1", 337_926_286),
    "dev-other": ("c8d0bcc9cca99d4f8b62fcc847357931", 314_305_928),
    "test-clean": ("32fa31d27d2e1cad72775fee3f4849a9", 346_663_984),
    "test-other": ("fb5a50374b501bb3bac4815ee91d3135", 328_757_843),
    "train-clean-5": ("5df7d4e78065366204ca6845bb08f490", None),
    "dev-clean-2": ("6d7ab67ac6a1d2c993d050e16d61080d", None),
}
OFFICIAL_UTTERANCES = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
    "train-clean-5": 1_519,
    "dev-clean-2": 1_089,
}
RECIPE = "configs/librispeech.py"
SMALLER_RECIPES = {  # if this part alone is for training
    "train-clean-100": "configs/librispeech_100.py",
    "train-clean-5": "configs/speechocean762.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "librispeech", "dev-clean.tar.gz and so on, or the parts' folders", URL)
    parser.add_argument(
        "--parts",
        default=",".join(part for part in MD5_AND_BYTES if part not in MINI),
        help=f"comma-separated (default: all but Mini LibriSpeech's {' and '.join(MINI)}, 61 GB to fetch and as much "
        "again to unpack): %(default)s",
    )


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan the parts; write a manifest for each."""
    preparation = Preparation.from_args(args)
    parts = assemble.parse_choice(args.parts, MD5_AND_BYTES, "--parts")
    records: dict[str, list[dict]] = {}
    for part in parts:  # one after another, so that finished parts stay if a later one fails
        root = preparation.obtain(archive(part), part)
        records |= preparation.write({part: read_part(root / part)}, OFFICIAL_UTTERANCES)
    return Prepared(records, describe_next_step(preparation.folder, parts))


def archive(part: str) -> Archive:
    """Return the archive of a part."""
    md5, size = MD5_AND_BYTES[part]
    return Archive(f"{MINI_URL if part in MINI else URL}/{part}.tar.gz", md5=md5, size=size)


def read_part(folder: Path) -> list[Recording]:
    """Read SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and the chapters' `.trans.txt`; convert texts to lower case."""
    transcripts = [line for path in assemble.list_files(folder, "trans.txt") for line in assemble.read_keyed(path)]
    if not transcripts:
        raise CorpusError(f"{folder}: contains no *.trans.txt, so it is not a part of LibriSpeech: check the path")
    texts = ((name, " ".join(text.lower().split())) for name, text in transcripts)
    return assemble.match(texts, assemble.list_files(folder, ".flac"), lambda name: name.partition("-")[0])


def describe_next_step(folder: Path, parts: list[str]) -> str:
    """Return the command that trains on the parts, or evaluates on them if none is for training."""
    by_kind = {kind: [part for part in parts if part.startswith(kind)] for kind in ("train", "dev", "test")}
    train, dev, test = by_kind.values()
    if not train:
        return next_step.evaluate(folder / f"{(test or dev)[0]}.jsonl")
    recipe = SMALLER_RECIPES.get(train[0], RECIPE) if len(train) == 1 else RECIPE
    return next_step.train(recipe, folder, train, *(kind[0] if kind else "" for kind in (dev, test)))
