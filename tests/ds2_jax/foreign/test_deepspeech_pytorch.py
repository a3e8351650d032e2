"""Checkpoints of deepspeech.pytorch, written by PyTorch itself in an environment of its own, and pickles that want more."""

import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from ds2_jax.artifacts.bundle import ModelFileError, load_bundle
from ds2_jax.cli import import_model
from ds2_jax.configs import base
from ds2_jax.foreign import torch_file
from tests.ds2_jax.serving import clients

AGREEMENT = 1e-4  # of logits
PROGRAM = Path(__file__).with_name("torch_networks.py")


@pytest.fixture(scope="session")
def torch_python(tmp_path_factory) -> str:
    """Return a Python with PyTorch: that of DS2_TORCH_PYTHON, or of a new environment."""
    return os.environ.get("DS2_TORCH_PYTHON") or clients.install(tmp_path_factory.mktemp("torch"), "torch", "numpy")


def write_checkpoint(python: str, folder: Path, *arguments: str) -> tuple[np.ndarray, np.ndarray]:
    """Let PyTorch write model.pth; return a spectrogram [T, F] and PyTorch's logits [U, K]."""
    spectrogram = np.random.default_rng(0).normal(0, 1, (61, 161)).astype(np.float32)
    np.save(folder / "spectrogram.npy", spectrogram)
    subprocess.run([python, str(PROGRAM), str(folder), *arguments], check=True, timeout=300)
    return spectrogram, np.load(folder / "output.npy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "directions", "file_format"),
    [("lstm", "2", "zip"), ("gru", "2", "legacy"), ("lstm", "1", "legacy"), ("gru", "1", "zip")],
)
def test_logits_are_those_of_pytorchs_own_layers(cell, directions, file_format, torch_python, tmp_path):
    spectrogram, theirs = write_checkpoint(torch_python, tmp_path, cell, directions, file_format)
    import_model.run_import(base.get_config(), str(tmp_path / "model.pth"), "", str(tmp_path / "bundle"))
    meta, variables = load_bundle(tmp_path / "bundle")
    assert "".join(meta.vocabulary.symbols) == "'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
    padded = np.pad(spectrogram[None], ((0, 0), (0, 9), (0, 0)))
    run = jax.jit(lambda x, frames: meta.network.apply(variables, x, frames, train=False))
    ours, lengths = run(padded, np.array([len(spectrogram)]))
    assert lengths[0] == len(theirs)
    assert np.ptp(theirs, axis=0).max() > 0.1
    np.testing.assert_allclose(ours[0, : lengths[0]], theirs, atol=AGREEMENT)


@pytest.mark.slow
def test_damaged_files_and_other_networks_are_refused(torch_python, tmp_path):
    write_checkpoint(torch_python, tmp_path, "rnn", "2", "legacy")
    refused(tmp_path, (tmp_path / "model.pth").read_bytes(), "recurrent layers have 1 gates: only LSTM")
    write_checkpoint(torch_python, tmp_path, "lstm", "1", "legacy")
    content = (tmp_path / "model.pth").read_bytes()
    refused(tmp_path, content[:-100], "damaged, incomplete")
    refused(
        tmp_path, content.replace(b"lookahead.0.conv", b"lookahead.1.conv"), r"no tensor lookahead\.0\.conv\.weight"
    )
    refused(tmp_path, content.replace(b"labels", b"others"), "has no labels")


class Calls:
    """Its pickle calls a function with arguments when it is loaded."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, "touch executed"), r"posix\.system"),
        (Calls(subprocess.check_call, ["touch", "executed"]), r"subprocess\.check_call"),
        (Calls(eval, "open('executed', 'w')"), r"builtins\.eval"),
        (Calls(getattr, "", "join"), r"builtins\.getattr"),
    ],
    ids=["system", "subprocess", "eval", "getattr"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_wants_to_run_code_is_refused(call, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, zipped(pickle.dumps({"state_dict": call}, protocol)), f"refused: loading it would call .*{name}")
    assert not Path("executed").exists()


def test_classes_that_are_unknown_are_inert(tmp_path):
    content = {"labels": ["_", "a"], "config": PROGRAM, "counts": Calls(np.dtype, "f4"), "nested": {"list": [1, None]}}
    (tmp_path / "model.pth").write_bytes(zipped(pickle.dumps(content, 2)))
    read = torch_file.read(tmp_path / "model.pth")
    assert (read["labels"], read["nested"]) == (["_", "a"], {"list": [1, None]})
    assert type(read["config"]) is type(read["counts"]) is torch_file._Inert


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_of_any_version_of_python_are_inert(module, tmp_path):
    path = b"c" + module.encode() + b"\nPosixPath\nX\x01\x00\x00\x00b\x85R"
    (tmp_path / "model.pth").write_bytes(zipped(b"\x80\x02}(X\x06\x00\x00\x00config" + path + b"u."))
    assert type(torch_file.read(tmp_path / "model.pth")["config"]) is torch_file._Inert


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(pickle.dumps([1, 2], 2)), "has no state_dict of tensors"),
        (zipped(pickle.dumps({"state_dict": {"a": 1}}, 2)), "has no state_dict of tensors"),
        (zipped(pickle.dumps({"state_dict": {}}, 2)), "has no labels"),
        (zipped(pickle.dumps({"state_dict": {}, "labels": "ab_"}, 2)), "the blank, '_', is needed there"),
        (zipped(pickle.dumps({"state_dict": {}, "labels": "_ab"}, 2)), r"no tensor conv\.seq_module\.0\.weight"),
        (
            zipped(pickle.dumps({"state_dict": {}, "labels": "_ab", "audio_conf": {"window": "hann"}}, 2)),
            "was trained with hann windows",
        ),
        (
            zipped(pickle.dumps({"state_dict": {}, "labels": "_ab", "audio_conf": {"sample_rate": -1}}, 2)),
            "sample_rate_hz is -1",
        ),
        (zipped(b"\x80\x02}"), "damaged, incomplete"),
        (b"PK\x03\x04 and no more", "damaged, incomplete"),
        (torch_file.LEGACY + b"\x80\x02", "damaged, incomplete"),
    ],
    ids=[
        "list",
        "numbers",
        "no labels",
        "blank",
        "no tensors",
        "window",
        "rate",
        "pickle cut",
        "zip cut",
        "legacy cut",
    ],
)
def test_other_files_are_refused_by_what_they_lack(content, message, tmp_path):
    refused(tmp_path, content, message)


def refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "model.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        import_model.run_import(base.get_config(), str(folder / "model.pth"), "", str(folder / "bundle"))
    assert not (folder / "bundle").exists()
