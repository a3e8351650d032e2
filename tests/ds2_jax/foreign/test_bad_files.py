"""Files that are no release, or a damaged one: each is refused by name, and nothing is written."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ds2_jax.artifacts.bundle import ModelFileError
from ds2_jax.cli import import_model
from ds2_jax.configs import base
from tests.ds2_jax.foreign.originals import BINS, Original, fluid_file, v2_file, write_release

ORIGINAL = Original([2], 1, 3, 5)


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


GOOD = members_of(v2_file(ORIGINAL.v2()))
FC = "___fc_layer_0__.w0"
NAMED = ORIGINAL.fluid()


def v2_with(**changes: bytes | None) -> bytes:
    """Return params.tar.gz with members replaced, or removed (None); dots in names are written as `_dot_`."""
    members = GOOD | {name.replace("_dot_", "."): content for name, content in changes.items()}
    return tar_of({name: content for name, content in members.items() if content is not None})


def fluid_with(name: str, array: np.ndarray) -> bytes:
    return fluid_file(NAMED | {name: array.astype(np.float32)})


class Runs:
    """A pickle of it calls a function when it is loaded."""

    def __reduce__(self):
        return Path.write_text, (Path("executed"), "by the pickle")


V2_FILES = {
    "cut": (v2_file(ORIGINAL.v2())[:-200], "is damaged or incomplete"),
    "foreign tar": (tar_of({"a.txt": b"text"}), "has no parameters: a release has one params.tar.gz"),
    "no tar": (b"\x1f\x8bnot gzip at all", "damaged"),
    "nameless": (v2_with(**{FC: None, f"{FC}.protobuf": None}), f"no parameter {FC}"),
    "without description": (v2_with(**{f"{FC}.protobuf": None}), f"'{FC}' lacks its other half"),
    "foreign name": (v2_with(**{"___row_conv_0__.w0": GOOD[FC]}), "'___row_conv_0__.w0' lacks its other half"),
    "header": (v2_with(**{FC: struct.pack("<IIQ", 0, 8, 3) + bytes(12)}), f"{FC} states format 0, 8 bytes a value"),
    "short header": (v2_with(**{FC: b"abc"}), "less than its header of 16"),
    "description": (v2_with(**{f"{FC}.protobuf": b"\x0a\xff"}), "its description cannot be read"),
    "other description": (v2_with(**{f"{FC}.protobuf": b"\x0a\x01x\x10\x01"}), "description is of b'x' with 1 values"),
}


@pytest.mark.parametrize("case", V2_FILES)
def test_a_damaged_or_foreign_tar_is_refused_by_name(case, tmp_path):
    content, message = V2_FILES[case]
    (tmp_path / "params.tar.gz").write_bytes(content)  # alone: what it is counts before what is missing beside it
    refused(tmp_path, tmp_path / "params.tar.gz", message)


FLUID_FILES = {
    "empty": (b"", "is empty"),
    "cut": (fluid_file(NAMED)[:-2], "tensor 15 at byte .* 142 are left"),
    "cut in a header": (fluid_file(NAMED) + b"\0\0\0", "tensor 16 at byte"),
    "version": (b"\1" + fluid_file(NAMED)[1:], "tensor 0 at byte 0 .*version 1"),
    "text": (b"Not a parameter file, but a page of some server.", "tensor 0 at byte 0"),
    "huge": (
        struct.pack("<IQIi", 0, 0, 0, 8) + b"\x08\x05\x10" + b"\xff\xff\xff\xff\x0f",
        r"needs 17179869180 bytes, 0 are left",
    ),
    "doubles": (struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\x06\x10\x01" + bytes(8), "type 6 and shape"),
    "one tensor too few": (fluid_file({n: a for n, a in NAMED.items() if "1_fc_w" not in n}), "has 15 tensors"),
    "pickle": (pickle.dumps({"state": 1}, protocol=2), "is a pickle, as Paddle 2 and later write"),
    "pickle that runs code": (pickle.dumps(Runs(), protocol=2), "is a pickle"),
    "shape": (fluid_with("layer_0_conv2d_weight", np.ones((2, 1, 41, 9))), "layer_0_conv2d_weight has 738 values"),
    "transposed": (
        fluid_with("layer_1_fc_weight", NAMED["layer_1_fc_weight"].T),
        r"layer_1_fc_weight .*shape \[3, 162\]",
    ),
    "width": (fluid_with("layer_1_forward_rnn_weight", np.ones((4, 4))), "layer_1_forward_rnn_weight has 16 values"),
}


@pytest.mark.parametrize("case", FLUID_FILES)
def test_a_damaged_or_foreign_parameter_file_is_refused_by_name(case, tmp_path, monkeypatch):
    content, message = FLUID_FILES[case]
    (tmp_path / "params.pdparams").write_bytes(content)  # alone: what it is counts before what is missing beside it
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, tmp_path / "params.pdparams", message)


def test_statistics_and_vocabulary_of_another_model_are_refused(tmp_path):
    folder = write_release(tmp_path / "release", ORIGINAL, "fluid", "abcd")
    refused(tmp_path, folder, r"vocab\.txt has 4 symbols, and the network of .* 5")
    write_release(folder, ORIGINAL, "fluid")
    np.savez(folder / "mean_std.npz", mean=np.zeros((BINS - 1, 1)), std=np.ones((BINS - 1, 1)))
    refused(tmp_path, folder, r"mean_std\.npz has statistics of 160 features, .* has 161")
    np.savez(folder / "mean_std.npz", mean=np.zeros((BINS, 1)))
    refused(tmp_path, folder, r"mean_std\.npz cannot be used")
    (folder / "mean_std.npz").unlink()
    refused(tmp_path, folder, r"mean_std\.npz is missing")


def test_a_folder_with_both_kinds_or_none_is_refused(tmp_path):
    folder = write_release(tmp_path / "release", ORIGINAL, "fluid")
    write_release(folder, ORIGINAL, "v2")
    refused(tmp_path, folder, r"has params\.tar\.gz and params\.pdparams")
    (folder / "params.tar.gz").unlink()
    (folder / "params.pdparams").unlink()
    refused(tmp_path, folder, "has no parameters")


def refused(folder: Path, source: Path, message: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises((ModelFileError, ValueError, OSError), match=message):
        import_model.run_import(base.get_config(), str(source), "", str(folder / "bundle"))
    assert sorted(path.name for path in folder.iterdir()) == before
