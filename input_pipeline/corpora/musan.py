"""MUSAN (Snyder, Chen and Povey 2015): 109 hours of noise, music and speech to augment with, 16 kHz WAV, 2,016 files.

CC BY 4.0 and public domain, by file, http://www.openslr.org/17 (MD5: that of WeSpeaker's and other speaker recognition
recipes). One manifest a kind, without texts: babble is made of several `speech` files, or of one.
"""

import argparse

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, Place, Prepared, Recording

ARCHIVE = Archive("http://www.openslr.org/resources/17/musan.tar.gz", md5="0c472d4fc0c5141eca47ad1ffeb2a7df")
OFFICIAL_FILES = {"noise": 930, "music": 660, "speech": 426}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "musan", ARCHIVE.name, ARCHIVE.url)
    parser.add_argument("--kinds", default=",".join(OFFICIAL_FILES), help="comma-separated (default: %(default)s)")


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write a manifest a kind."""
    place = Place.of(args)
    kinds = assemble.choose(args.kinds, OFFICIAL_FILES, "--kinds")
    root = place.obtain(ARCHIVE, "noise")
    splits = {kind: [Recording(path) for path in assemble.list_files(root / kind, ".wav")] for kind in kinds}
    return Prepared(place.write(splits, OFFICIAL_FILES), next_step.add_noise(place.folder / f"{kinds[0]}.jsonl"))
