"""Parameter files of PaddlePaddle: a tar of the V2 API, and one file of concatenated tensors of Fluid.

Both are little-endian. Nothing in them is executed, and nothing is allocated by a size that the file does not have.
"""

import math
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError

DESCRIPTION = ".protobuf"  # ending of the member that describes a parameter
V2_HEADER = struct.Struct("<IIQ")  # format, bytes of a value, number of values
FLOAT32 = 5  # in a tensor's description
MOST_BYTES = 1 << 32  # of one parameter; the largest published one has 0.1 GB
MOST_LEVELS = 16
PICKLE = b"\x80"


class Parameter(NamedTuple):
    """Values [n] f32, and the shape that the file states; () if it states none."""

    values: np.ndarray
    shape: tuple[int, ...]


def read_v2(path: Path) -> dict[str, Parameter]:
    """Read `params.tar.gz`, parameters by name. Raises ModelFileError naming the file and the member."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isfile() or member.size > MOST_BYTES or member.name in contents:
                    raise ModelFileError(f"{path}: the member {member.name!r} is not a parameter; {_ADVICE}")
                contents[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ModelFileError(f"{path} cannot be read ({error}): it is damaged or incomplete; copy it again") from error
    names = [name for name in contents if not name.endswith(DESCRIPTION)]
    alone = [n for n in contents if n.endswith(DESCRIPTION) and n.removesuffix(DESCRIPTION) not in contents]
    alone += [name for name in names if name + DESCRIPTION not in contents]
    if alone or not names:
        what = f"{min(alone)!r} lacks its other half" if alone else "it has no members"
        raise ModelFileError(f"{path}: {what}; a parameter has two members, NAME and NAME{DESCRIPTION}; {_ADVICE}")
    return {name: _read_v2_member(path, name, contents[name], contents[name + DESCRIPTION]) for name in names}


_ADVICE = "give the params.tar.gz of a V2 release"


def _read_v2_member(path: Path, name: str, content: bytes, description: bytes) -> Parameter:
    """Combine the two members of a parameter. Raises ModelFileError."""
    where, held = f"{path}: {name}", (len(content) - V2_HEADER.size) // 4
    if len(content) < V2_HEADER.size:
        raise ModelFileError(f"{where} has {len(content)} bytes, less than its header of {V2_HEADER.size}; {_ADVICE}")
    kind, width, count = V2_HEADER.unpack_from(content)
    if (kind, width) != (0, 4) or count * 4 != len(content) - V2_HEADER.size:
        raise ModelFileError(
            f"{where} states format {kind}, {width} bytes a value and {count} values, and holds {held} values: the file is "
            "damaged, or of another version"
        )
    fields = _fields_of(where, description)
    stated = next((value for number, value in fields if number == 1), None)
    shape = tuple(value for number, value in fields if number == 9 and isinstance(value, int))
    size = next((value for number, value in fields if number == 2), None)
    if stated != name.encode() or size != count or (shape and math.prod(shape) != count):
        raise ModelFileError(
            f"{where}: its description is of {stated!r} with {size!r} values and the shape {list(shape)}, "
            f"and it has {count}: the file is damaged"
        )
    return Parameter(np.frombuffer(content, "<f4", offset=V2_HEADER.size).astype(np.float32), shape)


def read_fluid(path: Path) -> list[Parameter]:
    """Read `params.pdparams` of Fluid: tensors without names, in the order of the file.

    Raises ModelFileError naming the file, the tensor and its first byte, also for the pickles that Paddle 2 writes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if content.startswith(PICKLE):
        raise ModelFileError(
            f"{path} is a pickle, as Paddle 2 and later write, whose networks differ: give the params.pdparams of a release of "
            "Fluid (1.6 to 1.8)"
        )
    tensors: list[Parameter] = []
    offset = 0
    while offset < len(content):
        try:
            tensor, end = _read_tensor(content, offset)
        except (ValueError, struct.error) as error:
            raise ModelFileError(
                f"{path}: tensor {len(tensors)} at byte {offset} cannot be read ({error}): the file is damaged, incomplete or "
                "no params.pdparams of Fluid"
            ) from error
        tensors.append(tensor)
        offset = end
    if not tensors:
        raise ModelFileError(f"{path} is empty: copy it again")
    return tensors


def _read_tensor(content: bytes, offset: int) -> tuple[Parameter, int]:
    """Read the tensor that begins at a byte; return it and where it ends. Raises ValueError, struct.error."""
    version, levels = struct.unpack_from("<IQ", content, offset)
    offset += 12
    if version != 0 or levels > MOST_LEVELS:
        raise ValueError(f"version {version} with {levels} levels, 0 is needed")
    for _ in range(levels):
        offset += 8 + struct.unpack_from("<Q", content, offset)[0]
    version, length = struct.unpack_from("<Ii", content, offset)
    offset += 8
    if version != 0 or not 0 <= length <= len(content) - offset:
        raise ValueError(f"version {version} with a description of {length} bytes")
    fields = list(_fields(content[offset : offset + length]))
    offset += length
    shape = tuple(value for number, value in fields if number == 2 and isinstance(value, int))
    kind = next((value for number, value in fields if number == 1), None)
    if kind != FLOAT32 or not shape or not all(0 < size < MOST_BYTES for size in shape):
        raise ValueError(f"type {kind!r} and shape {list(shape)}, type {FLOAT32} (float32) is needed")
    count = math.prod(shape)
    if count * 4 > len(content) - offset:
        raise ValueError(f"its shape {list(shape)} needs {count * 4} bytes, {len(content) - offset} are left")
    values = np.frombuffer(content, "<f4", count, offset).astype(np.float32)
    return Parameter(values, shape), offset + count * 4


def _fields_of(where: str, message: bytes) -> list[tuple[int, int | bytes]]:
    try:
        return list(_fields(message))
    except ValueError as error:
        raise ModelFileError(f"{where}: its description cannot be read ({error}): the file is damaged") from error


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protocol buffer: numbers, or bytes. Raises ValueError."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} is of the unknown type {kind}")
        if length > len(message) - position:
            raise ValueError(f"field {number} ends after the message")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it is cut")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than 10 bytes")
