"""AISHELL-1 (Bu et al. 2017): 178 hours of read Mandarin, 16 kHz WAV, 400 speakers; splits are the official ones.

Apache License 2.0, http://www.openslr.org/33 (MD5: the original's). The archive holds one archive a speaker.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Place, Prepared, Recording
from input_pipeline.storage import archive, download

ARCHIVE = Archive("http://www.openslr.org/resources/33/data_aishell.tgz", md5="2f494334227864a8a8fec932999db9d8")
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
OFFICIAL_UTTERANCES = {"train": 120_098, "dev": 14_326, "test": 7_176}
RECIPE = "configs/aishell.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "aishell", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch and unpack, the speakers' archives too, scan, and write the manifests."""
    place = Place.of(args)
    root = place.obtain(ARCHIVE, TRANSCRIPTS)
    unpacked = unpack_speakers(root / "wav", place)
    # all white space is removed: characters are learnt, and words are parted differently from text to text
    texts = [(name, "".join(text.split())) for name, text in assemble.read_keyed(root / TRANSCRIPTS)]
    files = [path for folder in {root / "wav", unpacked} for path in assemble.list_files(folder, ".wav")]
    recordings = assemble.match(texts, sorted(files), speaker_of)
    splits: dict[str, list[Recording]] = {split: [] for split in OFFICIAL_UTTERANCES}
    for one in recordings:
        split = Path(one.audio).parts[-3]  # of .../train/S0002/BAC009S0002W0122.wav
        if split not in splits:
            raise CorpusError(f"{one.audio}: lies in none of {', '.join(splits)}; this is not AISHELL-1's layout")
        splits[split].append(one)
    records = place.write(splits, OFFICIAL_UTTERANCES)
    return Prepared(records, next_step.train(RECIPE, place.folder))


def unpack_speakers(wav: Path, place: Place) -> Path:
    """Unpack wav/S0002.tar.gz and so on into a folder each and return where; those there already are left.

    In a source nothing is changed: what is in it goes to the target folder.
    """
    own = place.source is None or wav.is_relative_to(place.folder)
    target = wav if own else place.folder / "wav"
    for packed in tqdm(sorted(wav.glob("*.tar.gz")), desc="unpack speakers", delay=download.BAR_DELAY_S):
        folder = target / packed.name.removesuffix(".tar.gz")
        if not folder.is_dir():
            archive.extract(packed, folder, quiet=True)
        if own:
            packed.unlink()
    return target


def speaker_of(utterance: str) -> str:
    """Return the speaker, S0002, of BAC009S0002W0122."""
    return utterance[6:11]
