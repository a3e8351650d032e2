"""A model of another program, by its file, folder or archive: read as one of ours."""

import contextlib
import dataclasses
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta
from ds2_jax.foreign import deepspeech_pytorch, torch_file
from ds2_jax.foreign.containers import PICKLE, read_fluid, read_v2
from ds2_jax.foreign.original import read_fluid_network, read_v2_network
from input_pipeline.audio.features import FeatureSettings, feature_size
from input_pipeline.audio.front_end import FeatureStats
from input_pipeline.storage import archive
from input_pipeline.text import Vocabulary

V2, FLUID = "params.tar.gz", "params.pdparams"
STATS, SYMBOLS = "mean_std.npz", "vocab.txt"


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of another program as one of ours.

    format: of its file. network: its layers. arrays: parameters by role, such as `conv0.var`. names: what a role is called in
    the file.
    """

    meta: ModelMeta
    variables: dict
    format: str
    network: str
    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, str]


def read(source: str, source_rate_hz: int, language: str) -> Imported:
    """Read a release of the original, or a checkpoint of deepspeech.pytorch.

    source: a folder with the parameters, `mean_std.npz` and `vocab.txt`; the parameters in such a folder; an archive of one; or
    a checkpoint. source_rate_hz: as in FeatureSettings. Raises ModelFileError and other ValueErrors that name the file.
    """
    if Path(source).is_file() and torch_file.is_torch(Path(source)):
        return _read_torch(Path(source), source_rate_hz, language)
    return _read_original(source, source_rate_hz, language)


def _read_torch(path: Path, source_rate_hz: int, language: str) -> Imported:
    meta, variables = deepspeech_pytorch.read(path, source_rate_hz, language)
    s, flat = meta.model, traverse_util.flatten_dict(variables, sep=".")
    network = f"2 convolutions, {s.rnn_layers} recurrent layers ({s.cell.upper()}{'' if s.bidirectional else ', one direction'})"
    return Imported(meta, variables, "deepspeech.pytorch", network, flat, {name: name for name in flat})


def _read_original(source: str, source_rate_hz: int, language: str) -> Imported:
    features = FeatureSettings(source_rate_hz=source_rate_hz)
    size = feature_size(features)
    with _opened(Path(source)) as parameters:
        if _is_v2(parameters):
            kind, network = "V2", read_v2_network(str(parameters), read_v2(parameters), size)
        else:
            kind, network = "Fluid", read_fluid_network(str(parameters), read_fluid(parameters), size)
        stats, symbols = (_beside(parameters, name) for name in (STATS, SYMBOLS))
        statistics, vocabulary = FeatureStats.load(stats), Vocabulary.load(symbols)
        if statistics.mean.size != size:
            raise ModelFileError(
                f"{stats} has statistics of {statistics.mean.size} features, and the original's spectrogram has {size}: it "
                "belongs to another model"
            )
        if network.symbols != vocabulary.size:
            raise ModelFileError(
                f"{symbols} has {vocabulary.size - 1} symbols, and the network of {parameters} {network.symbols - 1} (besides "
                "the blank): it belongs to another model"
            )
    meta = ModelMeta(network.settings, features, "corpus", statistics, vocabulary, language)
    return Imported(meta, network.variables(), kind, network.topology.describe(), network.arrays, network.names)


def with_language(model: Imported, language: str) -> Imported:
    """Return the same model for another language."""
    return dataclasses.replace(model, meta=dataclasses.replace(model.meta, language=language))


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """Yield the path of the parameters, with the files of the release beside it."""
    if source.is_dir():
        yield _find(source, source)
    elif not source.is_file():
        raise ModelFileError(f"--source={source} does not exist: give a file or folder of a release")
    elif _is_tar(source) and not _is_v2(source):
        with tempfile.TemporaryDirectory() as folder:
            yield _find(archive.extract(source, Path(folder, "release"), quiet=True), source)
    else:
        yield source


def _find(folder: Path, source: Path) -> Path:
    """Return the only parameter file in a folder. Raises ModelFileError."""
    found = [path for name in (V2, FLUID) for path in sorted(folder.rglob(name))]
    if len(found) != 1:
        what = f"has {' and '.join(str(path.relative_to(folder)) for path in found)}" if found else "has no parameters"
        raise ModelFileError(
            f"{source} {what}: a release has one {V2} (V2) or {FLUID} (Fluid); give that file as --source"
        )
    return found[0]


def _beside(parameters: Path, name: str) -> Path:
    path = parameters.with_name(name)
    if not path.is_file():
        raise ModelFileError(f"{path} is missing: a release has it beside its parameters, {parameters.name}")
    return path


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"\x1f\x8b" or (not start.startswith(PICKLE) and tarfile.is_tarfile(path))


def _is_v2(path: Path) -> bool:
    """Return whether the first member of a tar is one of a V2 parameter. Raises ModelFileError for a damaged one."""
    if not _is_tar(path):
        return False
    try:
        with tarfile.open(path) as tar:
            first = tar.next()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read ({error}): it is damaged or incomplete; copy it again") from error
    return first is not None and first.name.startswith("___")
