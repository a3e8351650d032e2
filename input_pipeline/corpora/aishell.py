"""AISHELL-1 (Bu et al. 2017): 178 hours of read Mandarin, 16 kHz WAV, 400 speakers, with the official splits.

Apache License 2.0, https://www.openslr.org/33 (MD5 from the original). The archive contains an archive for each speaker.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording
from input_pipeline.storage import archive, download

ARCHIVE = Archive("https://www.openslr.org/resources/33/data_aishell.tgz", md5="2f494334227864a8a8fec932999db9d8")
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
OFFICIAL_UTTERANCES = {"train": 120_098, "dev": 14_326, "test": 7_176}
RECIPE = "configs/aishell.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "aishell", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch and unpack the archive and those of the speakers, scan, and write the manifests."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, TRANSCRIPTS)
    unpacked = unpack_speakers(root / "wav", preparation)
    # white space is removed: the symbols are characters, and word boundaries are inconsistent
    texts = [(name, "".join(text.split())) for name, text in assemble.read_keyed(root / TRANSCRIPTS)]
    files = [path for folder in {root / "wav", unpacked} for path in assemble.list_files(folder, ".wav")]
    recordings = assemble.match(texts, sorted(files), speaker_of)
    splits: dict[str, list[Recording]] = {split: [] for split in OFFICIAL_UTTERANCES}
    for one in recordings:
        split = Path(one.audio).parts[-3]  # of .../train/S0002/BAC009S0002W0122.wav
        if split not in splits:
            raise CorpusError(f"{one.audio}: not in one of {', '.join(splits)}, as in AISHELL-1: check the source")
        splits[split].append(one)
    records = preparation.write(splits, OFFICIAL_UTTERANCES)
    return Prepared(records, next_step.train(RECIPE, preparation.folder))


def unpack_speakers(wav: Path, preparation: Preparation) -> Path:
    """Unpack each of wav/S0002.tar.gz and so on into a folder, unless it exists; return the parent folder.

    A source is not changed: its archives are unpacked into the target folder.
    """
    own = preparation.source is None or wav.is_relative_to(preparation.folder)
    target = wav if own else preparation.folder / "wav"
    for packed in tqdm(sorted(wav.glob("*.tar.gz")), desc="unpack speakers", delay=download.BAR_DELAY_S):
        folder = target / packed.name.removesuffix(".tar.gz")
        if not folder.is_dir():
            archive.extract(packed, folder, quiet=True)
        if own:
            packed.unlink()
    return target


def speaker_of(utterance: str) -> str:
    """Return the speaker of an utterance: S0002 for BAC009S0002W0122."""
    return utterance[6:11]
