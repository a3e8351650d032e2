"""Free Spoken Digit Dataset 1.0.9 (Jackson et al.): English digits, one word per clip, 8 kHz WAV, 2,500 clips, 5 speakers.

CC BY-SA 4.0, https://github.com/Jakobovski/free-spoken-digit-dataset (SHA-256 from tensorflow-datasets). Officially,
clips 0 to 4 of each digit and speaker are test; dev consists of clips 5 to 9. Every speaker is therefore in every split.
With --split=speakers, dev and test are one speaker each (`groups.split_by_group`).
"""

import argparse

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording

ARCHIVE = Archive(
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
    sha256="8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
    size=11_975_353,
)
OFFICIAL_UTTERANCES = {"all": 2_500}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_CLIPS, DEV_CLIPS = range(5), range(5, 10)
SPEAKER_SHARES = {"dev": 0.2, "test": 0.2}
RECIPE = "configs/an4.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "fsdd", ARCHIVE.name, ARCHIVE.url)
    parser.add_argument("--split", choices=("official", "speakers"), default="official", help="by clip, or by speaker")


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write the manifests."""
    preparation = Preparation.from_args(args)
    files = assemble.list_files(preparation.obtain(ARCHIVE, "recordings") / "recordings", ".wav")
    recordings = [read_name(path) for path in files]
    assemble.compare_counts({"all": recordings}, OFFICIAL_UTTERANCES)
    if args.split == "speakers":
        splits = groups.split_by_group(recordings, SPEAKER_SHARES, groups.by_speaker)
    else:
        splits = {"train": [], "dev": [], "test": []}
        for one in recordings:
            splits[official_split(one)].append(one)
    return Prepared(preparation.write(splits), next_step.train(RECIPE, preparation.folder))


def read_name(path: str) -> Recording:
    """Return a recording with digit and speaker from a file name such as 7_jackson_32.wav."""
    digit, _, rest = assemble.file_id(path).partition("_")
    speaker, _, clip = rest.rpartition("_")
    if not (digit.isdecimal() and int(digit) < len(DIGITS) and speaker and clip.isdecimal()):
        raise CorpusError(f"{path}: the name is not DIGIT_SPEAKER_CLIP.wav: remove the file")
    return Recording(path, DIGITS[int(digit)], speaker)


def official_split(recording: Recording) -> str:
    """Return the split of a clip, which follows from its number in the file name."""
    clip = int(assemble.file_id(recording.audio).rpartition("_")[2])
    return "test" if clip in TEST_CLIPS else "dev" if clip in DEV_CLIPS else "train"
