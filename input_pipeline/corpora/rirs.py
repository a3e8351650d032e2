"""RIRS_NOISES (Ko et al. 2017): 325 measured and 60,000 simulated room impulse responses, and noises; 16 kHz WAV.

Apache License 2.0, https://www.openslr.org/28 (MD5 from OpenSLR). Manifests without texts: `real` (measured; many have
several channels, of which the first is used), `smallroom`, `mediumroom`, `largeroom` (simulated), `pointsource_noise`
(MUSAN's free sounds) and `isotropic_noise` (recorded in the measured rooms).
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, Preparation, Prepared, Recording

ARCHIVE = Archive("https://www.openslr.org/resources/28/rirs_noises.zip", md5="e6f48e257286e05de56413b4779d8ffb")
LISTS = {
    "real": "real_rirs_isotropic_noises/rir_list",
    "isotropic_noise": "real_rirs_isotropic_noises/noise_list",
    "pointsource_noise": "pointsource_noises/noise_list",
}
SIMULATED = ("smallroom", "mediumroom", "largeroom")
OFFICIAL_FILES = {"real": 325, "pointsource_noise": 843, "smallroom": 20_000, "mediumroom": 20_000, "largeroom": 20_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "rirs", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack and scan; write a manifest for each kind."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, "RIRS_NOISES/simulated_rirs")
    splits = {kind: read_list(root, root / "RIRS_NOISES" / path) for kind, path in LISTS.items()}
    for room in SIMULATED:
        files = assemble.list_files(root / "RIRS_NOISES" / "simulated_rirs" / room, ".wav")
        splits[room] = [Recording(path) for path in files]
    return Prepared(preparation.write(splits, OFFICIAL_FILES), next_step.add_rooms(preparation.folder / "real.jsonl"))


def read_list(root: Path, path: Path) -> list[Recording]:
    """Read lines such as `--rir-id 1 --room-id A RIRS_NOISES/....wav`; the last column is a path in the archive."""
    lines = [line.split() for line in assemble.read_text(path).split("\n")]
    return [Recording(root / columns[-1]) for columns in lines if columns]
