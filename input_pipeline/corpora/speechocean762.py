"""speechocean762 (Zhang et al. 2021): 6 hours of English read by 250 native speakers of Mandarin, half of them children.

CC BY 4.0, https://www.openslr.org/101. Texts are the prompts, so mispronounced words are written as intended. Test is the
official test set; dev is a tenth of train, by speaker (`groups.split_by_group`).
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import Archive, Preparation, Prepared, Recording

ARCHIVE = Archive("https://www.openslr.org/resources/101/speechocean762.tar.gz")
OFFICIAL_UTTERANCES = {"train": 2_500, "test": 2_500}
DEV_SHARE = 0.1
RECIPE = "configs/speechocean762.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "speechocean762", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write the manifests."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, "train/wav.scp")
    official = {split: read_split(root, split) for split in OFFICIAL_UTTERANCES}
    assemble.compare_counts(official, OFFICIAL_UTTERANCES)
    splits = {
        **groups.split_by_group(official["train"], {"dev": DEV_SHARE}, groups.by_speaker),
        "test": official["test"],
    }
    return Prepared(preparation.write(splits), next_step.train(RECIPE, preparation.folder))


def read_split(root: Path, split: str) -> list[Recording]:
    """Read a split in Kaldi's format: wav.scp, text and utt2spk; the audio is WAVE/SPEAKER0001/000010011.WAV."""
    listed = dict(assemble.read_keyed(root / split / "wav.scp"))
    speakers = dict(assemble.read_keyed(root / split / "utt2spk"))
    texts = [(name, " ".join(text.lower().split())) for name, text in assemble.read_keyed(root / split / "text")]
    files = [root / path for path in listed.values() if (root / path).is_file()]
    return assemble.match(texts, files, lambda name: speakers.get(name, name[:5]))
