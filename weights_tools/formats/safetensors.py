"""Read a .safetensors file, the safe way to store a PyTorch state dict, with NumPy alone.

    8 bytes   the length of the header, little-endian
    header    JSON: name -> {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, and under
              "__metadata__" notes of the maker, text -> text
    values    little-endian, in C order, end to end; the offsets count from here

Nothing in the file is trusted: the header must describe all bytes that follow it, each once.
Source: the format's description in the README of huggingface/safetensors.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError, TinyMixNetError
from weights_tools.formats import bfloat16
from weights_tools.formats.refusals import name_format, open_plain_file

MAX_HEADER_BYTES = 2 << 20  # MixNet-L's has some 100,000
MAX_TENSORS = 20_000  # MixNet-L has some 700
MAX_RANK = 32  # NumPy 1's own limit
MAX_ELEMENTS = 1 << 40
NOTES = "__metadata__"
EXPECTED = "expected a .safetensors file"

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": bfloat16.BITS,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class StoredTensor(NamedTuple):
    """What the header says of one tensor: its values are `size` bytes of the file."""

    dtype: str  # "float32", "bfloat16", ...
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    size: int  # bytes


class Safetensors(NamedTuple):
    """A .safetensors file whose header was checked. `read` gets the values of one tensor."""

    path: Path
    notes: dict[str, str]
    tensors: dict[str, StoredTensor]

    def __repr__(self) -> str:
        return f"Safetensors({str(self.path)!r}, {len(self.tensors)} tensors)"

    def read(self, name: str) -> np.ndarray:
        """Return the values of one tensor in a new array; bfloat16 widened to float32."""
        stored = self.tensors[name]
        is_bfloat16 = stored.dtype == "bfloat16"
        array = np.empty(stored.shape, bfloat16.BITS if is_bfloat16 else np.dtype(stored.dtype))
        if array.size:
            with self.path.open("rb") as file:
                file.seek(stored.start)
                count = file.readinto(array.reshape(-1).view(np.uint8).data)
            if count != stored.size:
                raise CheckpointError(f"{self.path}: the file ends inside {name!r}")
        return bfloat16.widen(array) if is_bfloat16 else array


def open_safetensors(path: str | os.PathLike[str]) -> Safetensors:
    """Read and check the header of a .safetensors file. Raises CheckpointError."""
    path = as_path(path)
    try:
        return _open(path)
    except TinyMixNetError as error:
        raise CheckpointError(f"{path}: {error}") from None
    # ValueError: no JSON, or a NUL in the path; RecursionError: lists in lists without end.
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: not a safetensors file we can read ({error})") from None


def _open(path: Path) -> Safetensors:
    with open_plain_file(path, EXPECTED) as file:
        file_size = os.fstat(file.fileno()).st_size
        budget.check("weights_file_bytes", file_size, "the file")
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, MAX_HEADER_BYTES))
    if not text.startswith(b"{"):
        name = name_format(path)
        raise CheckpointError(f"this is {name}; {EXPECTED}") if name else _bad("no header in it")
    if len(text) < length:
        raise _bad(f"a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
    header = json.loads(
        text.decode(),
        object_pairs_hook=_unique,
        parse_int=_parse_integer,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )
    notes = header.pop(NOTES, None) or {}
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise _bad(f"{NOTES} is not a map from text to text")
    if len(header) > MAX_TENSORS:
        raise _bad(f"{len(header):,} tensors, at most {MAX_TENSORS:,} are allowed")
    start = 8 + length
    tensors = {name: _parse_tensor(name, entry, start) for name, entry in header.items()}
    _check_places(tensors, start, file_size)
    return Safetensors(path, notes, tensors)


def _bad(why: str) -> CheckpointError:
    return CheckpointError(f"not a safetensors file we can read ({why})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise _bad("a name stands twice in its header")
    return entries


def _parse_integer(digits: str) -> int:
    if len(digits) > 20:  # more than any 64-bit number; to convert millions of digits takes hours
        raise _bad(f"a number of {len(digits):,} digits in its header")
    return int(digits)


def _refuse_number(text: str) -> None:
    raise _bad(f"the number {text[:20]} in its header")


def _parse_tensor(name: str, entry: Any, start: int) -> StoredTensor:
    """Return what the header says of one tensor, its size in bytes checked against its shape."""
    short = repr(name[:80])
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"{short} needs dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _bad(f"{short} is of type {str(dtype)[:40]!r}, expected one of {', '.join(DTYPES)}")
    if not _are_sizes(shape) or math.prod(max(axis, 1) for axis in shape) >= MAX_ELEMENTS:
        raise _bad(f"{short} has the impossible shape {str(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad(f"{short} has the impossible data_offsets {str(offsets)[:80]}")
    size, expected = offsets[1] - offsets[0], math.prod(shape) * DTYPES[dtype].itemsize
    if size != expected:
        raise _bad(f"{short}, {dtype} {shape}, has {size} bytes instead of {expected}")
    kind = "bfloat16" if dtype == "BF16" else DTYPES[dtype].name
    return StoredTensor(kind, tuple(shape), start + offsets[0], size)


def _are_sizes(numbers: Any) -> bool:
    """Whether this is a short list of 64-bit numbers that are not negative."""
    if not isinstance(numbers, list) or len(numbers) > MAX_RANK:
        return False
    return all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _check_places(tensors: dict[str, StoredTensor], start: int, file_size: int) -> None:
    """Raise unless the tensors fill the file from `start` to its end, without gap or overlap."""
    end = start
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if stored.start != end:
            raise _bad(f"{name[:80]!r} begins at byte {stored.start:,}, expected {end:,}")
        end += stored.size
    if end != file_size:
        raise _bad(f"its tensors end at byte {end:,}, the file at {file_size:,}")


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    """Write tensors, in the order of their names, with notes of text. An old file is replaced."""
    types = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
    header: dict[str, Any] = {NOTES: dict(notes)} if notes else {}
    end, stored = 0, []
    for name, tensor in sorted(tensors.items()):
        dtype = tensor.dtype.newbyteorder("<") if tensor.dtype.itemsize > 1 else tensor.dtype
        values = np.ascontiguousarray(tensor, dtype)
        offsets = [end, end := end + values.nbytes]
        header[name] = {"dtype": types[dtype], "shape": [*tensor.shape], "data_offsets": offsets}
        stored.append(values)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values begin at a multiple of 8 bytes
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in stored:
            file.write(values.data)
