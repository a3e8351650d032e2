"""LJ Speech 1.1 (Ito 2017): 24 hours of English audiobooks, one speaker, 22.05 kHz WAV, 13,100 clips.

Public domain, https://keithito.com/LJ-Speech-Dataset (SHA-256 from torchaudio and tensorflow-datasets). There are no
official splits and only one speaker: dev and test are whole chapters (of LJ001 to LJ050) with 4 % of the clips each
(`groups.split_by_group`).
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared, Recording
from input_pipeline.text import ScoringRules

ARCHIVE = Archive(
    "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
    sha256="be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
    size=2_748_572_632,
)
OFFICIAL_UTTERANCES = {"all": 13_100}
SHARES = {"dev": 0.04, "test": 0.04}
RECIPE = "configs/ljspeech.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "ljspeech", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write the manifests."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, "metadata.csv")
    recordings = assemble.match(
        read_metadata(root / "metadata.csv"), assemble.list_files(root / "wavs", ".wav"), lambda name: "lj"
    )
    assemble.compare_counts({"all": recordings}, OFFICIAL_UTTERANCES)
    records = preparation.write(groups.split_by_group(recordings, SHARES, chapter_of))
    return Prepared(records, next_step.train(RECIPE, preparation.folder))


def read_metadata(path: Path) -> list[tuple[str, str]]:
    """Return ids and texts of `LJ001-0001|as printed|numbers spelled out`: the last column, lower case, no punctuation."""
    rules = ScoringRules.for_language("en")
    transcripts = []
    for number, line in enumerate(assemble.read_text(path).split("\n"), start=1):
        if line.strip():
            columns = line.split("|")
            if len(columns) != 3:
                raise CorpusError(
                    f"{path}:{number}: {len(columns)} columns instead of 3 separated by '|': correct the line"
                )
            transcripts.append((columns[0], rules.apply(columns[2])))
    return transcripts


def chapter_of(recording: Recording) -> str:
    """Return the chapter of a recording: LJ001 for LJ001-0001.wav."""
    return assemble.file_id(recording.audio).partition("-")[0]
