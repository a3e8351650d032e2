"""Checkpoints of deepspeech.pytorch, written by PyTorch itself in an environment of its own, and pickles that want more."""

import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest

from ds2_jax.artifacts.bundle import ModelFileError, load_bundle
from ds2_jax.cli import import_model
from ds2_jax.configs import base
from ds2_jax.foreign import deepspeech_pytorch, torch_file
from ds2_jax.network.model import init_variables
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


def zipped_tensors(tensors: dict[str, np.ndarray], labels: str) -> bytes:
    """Return a checkpoint as torch.save writes it, with tensors in float32."""
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    state = b"".join(plain(name) + tensor(name, array) for name, array in arrays.items())
    content = b"\x80\x02}(" + plain("labels") + plain(labels) + plain("state_dict") + b"}(" + state + b"uu."
    return zipped(content, {name: array.tobytes() for name, array in arrays.items()})


def tensor(key: str, array: np.ndarray) -> bytes:
    """Return the part of a pickle that builds a tensor from the storage of this key."""
    strides = tuple(n // array.itemsize for n in array.strides)
    storage = (
        b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain(key) + plain("cpu") + plain(array.size) + b"tQ"
    )
    numbers = plain(0) + plain(array.shape) + plain(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"tR"


def plain(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without its frame


def unidirectional(channels: tuple[int, int], hidden: int, context: int) -> dict[str, np.ndarray]:
    """Return random parameters of an LSTM that looks ahead; `context` includes the own frame."""
    rng = np.random.default_rng(0)
    first, second = channels
    norms = {"conv.seq_module.1": first, "conv.seq_module.4": second, "fc.0.module.0": hidden}
    shapes = {
        "conv.seq_module.0.weight": (first, 1, 41, 11),
        "conv.seq_module.0.bias": (first,),
        "conv.seq_module.3.weight": (second, first, 21, 11),
        "conv.seq_module.3.bias": (second,),
        "rnns.0.rnn.weight_ih_l0": (4 * hidden, second * 41),
        "rnns.0.rnn.weight_hh_l0": (4 * hidden, hidden),
        "rnns.0.rnn.bias_ih_l0": (4 * hidden,),
        "rnns.0.rnn.bias_hh_l0": (4 * hidden,),
        "lookahead.0.conv.weight": (hidden, 1, context),
        "fc.0.module.1.weight": (3, hidden),
    } | {
        f"{name}.{part}": (width,)
        for name, width in norms.items()
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    return {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


def test_inputs_are_reordered_by_bin_then_channel_and_the_lookahead_counts_frames_after_its_own(tmp_path):
    tensors = unidirectional((2, 3), hidden=5, context=4)
    (tmp_path / "model.pth").write_bytes(zipped_tensors(tensors, "_ab"))
    meta, variables = deepspeech_pytorch.read(tmp_path / "model.pth", 0, "en")
    params = variables["params"]
    theirs = tensors["rnns.0.rnn.weight_ih_l0"].reshape(20, 3, 41)  # [gates x H, C, F]
    np.testing.assert_array_equal(params["rnn_0"]["input_kernel"].reshape(41, 3, 20), theirs.transpose(2, 1, 0))
    assert (meta.model.lookahead, meta.model.bidirectional, meta.model.rnn_layers) == (3, False, 1)
    np.testing.assert_array_equal(params["lookahead"]["kernel"], tensors["lookahead.0.conv.weight"][:, 0].T)
    shapes = jax.tree.map(np.shape, jax.eval_shape(lambda: init_variables(meta.network, meta.feature_size, 0)))
    assert jax.tree.map(np.shape, variables) == shapes


def test_a_network_in_one_direction_that_looks_no_frame_ahead_is_refused(tmp_path):
    refused(tmp_path, zipped_tensors(unidirectional((2, 3), hidden=5, context=1), "_ab"), "looks no frame ahead")


class Calls:
    """Its pickle calls a function with arguments when it is loaded."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def zipped(content: bytes, storages: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", content)
        for key, values in storages.items():
            archive.writestr(f"model/data/{key}", values)
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
