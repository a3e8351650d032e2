"""Files of `torch.save`, read without PyTorch and without running anything that they contain.

A pickle names the functions that build its objects. Here, those of tensors are replaced by our own, classes of other packages
(saved configurations, callbacks) become inert, and a pickle that names a function of Python itself is refused.
"""

import collections
import io
import pickle
import struct
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of PyTorch before 1.6 begin
ZIP = b"PK\x03\x04"
TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
PATHS = {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"}
# What Python's own modules may contribute: types that hold values. They, too, become inert.
PLAIN = {
    "builtins": {"object", "set", "frozenset", "list", "dict", "tuple", "int", "float", "str", "bytes", "bytearray", "complex"},
    "collections": {"defaultdict", "deque", "Counter"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "pathlib": PATHS,
    "pathlib._local": PATHS,  # of Python 3.13
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "argparse": {"Namespace"},
    "typing": {"Any"},
}  # fmt: skip


def is_torch(path: Path) -> bool:
    """Return whether a file was written by `torch.save`."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    return start == LEGACY or start.startswith(ZIP)


def read(path: Path) -> Any:
    """Read the object of a file: dictionaries, lists and plain values as they are, tensors as arrays.

    Raises ModelFileError for a damaged file, and for one that names a function of Python.
    """
    try:
        with path.open("rb") as file:
            return _read_zip(file) if file.read(4) == ZIP else _read_legacy(file)
    except _Refused as error:
        raise ModelFileError(
            f"{path} is refused: loading it would call {error}, and no saved model needs this; do not load it elsewhere either"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise ModelFileError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged, incomplete or no file of torch.save"
        ) from error


class _Refused(Exception):
    """The name of a function that a pickle wants to call."""


class _Inert:
    """An object of a class that is not loaded; it ignores what is done to it."""

    def __init__(self, *args: Any, **kwargs: Any):
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        """Ignore an item."""

    def extend(self, values: Any) -> None:
        """Ignore items."""

    def add(self, value: Any) -> None:
        """Ignore an item."""


class _Unpickler(pickle.Unpickler):
    """Reads plain values, and tensors from storages that `load` returns by key, type and size."""

    def __init__(self, file: Any, load: Callable[[str, str, int], np.ndarray]):
        super().__init__(file, encoding="utf-8")
        self._load = load

    def find_class(self, module: str, name: str) -> Any:
        """Return a replacement for a class or function. Raises _Refused for functions of Python."""
        # protocol 2 has the names of Python 2
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _rebuild_parameter
        if module == "torch" and name in TYPES:
            return TYPES[name]
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names and name not in PLAIN.get(module, ()):
            raise _Refused(f"{module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return a storage: its identity is ('storage', type, key, device, size)."""
        kind, dtype, key, _, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, str):
            raise ValueError(f"a stored object is {kind!r} of the type {dtype!r}, which is unknown")
        return self._load(str(key), dtype, int(size))


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """Return a view of a storage. Raises ValueError where it would leave the storage."""
    del rest
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if offset < 0 or min((0, *size, *stride)) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError(f"a tensor of shape {size} and stride {stride} does not fit into its {len(storage)} values")
    steps = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    del rest
    return data


def _read_zip(file: Any) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("it has no data.pkl")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

        def load(key: str, dtype: str, size: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, size)

        return _Unpickler(io.BytesIO(archive.read(names[0])), load).load()


def _read_legacy(file: Any) -> Any:
    """Read pickles in a row (mark, version, system, object, keys of storages), then the storages."""
    storages: dict[str, np.ndarray] = {}

    def allocate(key: str, dtype: str, size: int) -> np.ndarray:
        if size * np.dtype(dtype).itemsize > length:
            raise ValueError(f"a storage of {size} values does not fit into the file")
        return storages.setdefault(key, np.zeros(size, dtype))

    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    for _ in range(3):
        _Unpickler(file, allocate).load()
    result = _Unpickler(file, allocate).load()
    for key in _Unpickler(file, allocate).load():
        [size] = struct.unpack("<q", file.read(8))
        storage = storages[str(key)]
        content = file.read(size * storage.itemsize)
        if size != len(storage) or len(content) != storage.nbytes:
            raise ValueError(f"storage {key} ends early")
        storage[:] = np.frombuffer(content, storage.dtype)
    return result
