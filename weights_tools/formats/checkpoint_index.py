"""Decode a checkpoint's index: of each variable its type, its shape, and where its values lie.

In the table, the key "" holds a BundleHeaderProto. Every other key is the name of a variable and
holds its BundleEntryProto. Both are protobuf messages, of which the few fields needed here are
decoded. Every number is checked before it is used.

Sources: TensorFlow's tensor_bundle.proto, tensor_shape.proto and types.proto.
"""

import math
from typing import NamedTuple

import numpy as np

from tinymixnet.errors import CheckpointError
from weights_tools.formats import bfloat16
from weights_tools.formats.checkpoint_table import table_entries
from weights_tools.formats.protobuf import BYTES, FIXED32, VARINT, read_fields, signed, single
from weights_tools.formats.refusals import VERSION_1, damaged

# MixNet-L has some 500 variables, and a few times as many with what a training adds. A file that
# asks for far more only costs time.
MAX_VARIABLES = 20_000
MAX_SHARDS = 256
MAX_RANK = 32  # NumPy 1's own limit
MAX_ELEMENTS = 1 << 40

# TensorFlow's numbers for its types (types.proto). Those in READABLE can be read, the rest listed.
TYPE_NAMES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string",
    8: "complex64", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128",
    19: "float16", 20: "resource", 21: "variant", 22: "uint32", 23: "uint64",
}  # fmt: skip
READABLE: dict[str, np.dtype] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "bfloat16": bfloat16.BITS,
}


class Variable(NamedTuple):
    """What the index says of one variable: its values are `size` bytes of one data file."""

    name: str
    dtype: str  # "float32", "bfloat16", "string", ...
    shape: tuple[int, ...]
    shard: int  # the number of the data file
    offset: int  # bytes into that file
    size: int  # bytes
    crc: int  # masked CRC-32C of those bytes


def parse_index(table: bytes) -> tuple[dict[str, Variable], int]:
    """Return all variables by name, and the number of data files (shards)."""
    entries = table_entries(table)
    key, header = next(entries)
    if key != b"":
        raise damaged(f"the index begins with the key {key!r}, not with its header")
    shard_count = _parse_header(header)
    variables: dict[str, Variable] = {}
    for key, value in entries:
        if len(variables) == MAX_VARIABLES:
            raise CheckpointError(f"the index has more than {MAX_VARIABLES} variables")
        variable = _parse_entry(_name(key), value)
        if not 0 <= variable.shard < shard_count:
            raise damaged(f"{variable.name!r} is in shard {variable.shard} of {shard_count}")
        variables[variable.name] = variable
    return variables, shard_count


def _name(key: bytes) -> str:
    if key.startswith(b"\0"):  # TensorFlow's key for one slice of a variable
        raise _partitioned("a variable")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise damaged(f"the name {key!r} is not UTF-8") from None


def _partitioned(what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} is partitioned (stored as slices), which cannot be read here; load it in"
        " TensorFlow and save it again without a partitioner"
    )


def _parse_header(message: bytes) -> int:
    """BundleHeaderProto: return the number of shards, once it is known that values are readable."""
    if message[:1] == b"\x0a":  # in version 1 a message stands where the number of shards is
        raise CheckpointError(f"this is {VERSION_1}")
    fields = read_fields(message, {1: VARINT, 2: VARINT, 3: BYTES})
    version = read_fields(single(fields, 3, b""), {2: VARINT})
    if single(version, 2, 0) > 1:
        raise CheckpointError("the checkpoint asks for a reader of a newer version of its format")
    if single(fields, 2, 0) != 0:
        raise CheckpointError("the values are big-endian; save them on a little-endian machine")
    shard_count = signed(single(fields, 1, 0))
    if not 1 <= shard_count <= MAX_SHARDS:
        raise damaged(f"the index speaks of {shard_count} data files, not 1 to {MAX_SHARDS}")
    return shard_count


def _parse_entry(name: str, message: bytes) -> Variable:
    """BundleEntryProto: return one variable, its size in bytes checked against its shape."""
    fields = read_fields(
        message, {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES}
    )
    if fields[7]:
        raise _partitioned(repr(name))
    number = single(fields, 1, 0)
    dtype = TYPE_NAMES.get(number, f"number {number}")
    shape = _parse_shape(name, single(fields, 2, b""))
    shard, offset, size = (signed(single(fields, number, 0)) for number in (3, 4, 5))
    if offset < 0 or size < 0:
        raise damaged(f"{name!r} has a negative offset or size")
    if dtype in READABLE:
        expected = math.prod(shape) * READABLE[dtype].itemsize
        if size != expected:
            raise damaged(f"{name!r}, {dtype} {shape}, has {size} bytes instead of {expected}")
    return Variable(name, dtype, shape, shard, offset, size, single(fields, 6, 0))


def _parse_shape(name: str, message: bytes) -> tuple[int, ...]:
    """TensorShapeProto: return the length of every axis."""
    fields = read_fields(message, {2: BYTES, 3: VARINT})
    if single(fields, 3, 0):
        raise damaged(f"{name!r} has no known shape")
    if len(fields[2]) > MAX_RANK:
        raise damaged(f"{name!r} has {len(fields[2])} axes, more than {MAX_RANK}")
    axes = [read_fields(axis, {1: VARINT}) for axis in fields[2]]
    shape = tuple(signed(single(axis, 1, 0)) for axis in axes)
    # An axis of 0 makes the whole empty, but NumPy refuses it all the same if the others are huge.
    if min(shape, default=0) < 0 or math.prod(max(axis, 1) for axis in shape) > MAX_ELEMENTS:
        raise damaged(f"{name!r} has the impossible shape {shape}")
    return shape
