"""MUSAN (Snyder, Chen and Povey 2015): 109 hours of noise, music and speech for augmentation, 16 kHz WAV, 2,016 files.

CC BY 4.0 or public domain, depending on the file, https://www.openslr.org/17 (MD5 from WeSpeaker's and other speaker
recognition recipes). Writes a manifest without texts for each kind; `speech` serves as babble noise.
"""

import argparse

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, Preparation, Prepared, Recording

ARCHIVE = Archive("https://www.openslr.org/resources/17/musan.tar.gz", md5="0c472d4fc0c5141eca47ad1ffeb2a7df")
OFFICIAL_FILES = {"noise": 930, "music": 660, "speech": 426}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "musan", ARCHIVE.name, ARCHIVE.url)
    parser.add_argument("--kinds", default=",".join(OFFICIAL_FILES), help="comma-separated (default: %(default)s)")


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write a manifest for each kind."""
    preparation = Preparation.from_args(args)
    kinds = assemble.parse_choice(args.kinds, OFFICIAL_FILES, "--kinds")
    root = preparation.obtain(ARCHIVE, "noise")
    splits = {kind: [Recording(path) for path in assemble.list_files(root / kind, ".wav")] for kind in kinds}
    return Prepared(
        preparation.write(splits, OFFICIAL_FILES), next_step.add_noise(preparation.folder / f"{kinds[0]}.jsonl")
    )
