"""Read a TensorFlow checkpoint (the format called TensorBundle V2) with NumPy and nothing else.

A checkpoint is a few files with one prefix: PREFIX.index says of every variable its type, shape
and place, and PREFIX.data-00000-of-00001 (one file a shard) holds the values, little-endian, end to
end.
The index is a sorted table from byte-string keys to byte-string values, as LevelDB writes it:

    file    data blocks, a metaindex block (empty here), an index block, and a footer of 48 bytes
    footer  where the metaindex and the index block lie, zeros up to 40 bytes, the magic number
    block   entries, uint32 offsets of the restarts, uint32 their count;
            then one byte for the compression and the masked CRC-32C of all before it
    entry   varints (shared, added, value length), the added bytes of the key, the value: a key
            begins with the first `shared` bytes of the one before it; a restart shares none

The index block maps a key no smaller than any in a data block to where that block lies. In the data
blocks the key "" holds a BundleHeaderProto and every other key, a variable's name, a
BundleEntryProto: protobuf messages, of which the few fields needed here are decoded below.

Nothing in a file is believed: every number is checked against what is there before it is used,
every block and tensor against its checksum, and whatever is wrong ends in a `CheckpointError`.

Sources: LevelDB's table_format.md; TensorFlow's tensor_bundle.proto, tensor_shape.proto and
types.proto.
"""

import gzip
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, final

import numpy as np

from tinymixnet.errors import CheckpointError
from weights_tools.formats.crc32c import masked_crc32c

# Far above any MixNet, whose data is some 60 MB in one shard, and low enough that a file made to
# exhaust memory or patience ends in an error instead.
MAX_INDEX_BYTES = 16 << 20
MAX_ARCHIVE_BYTES = 512 << 20
MAX_ARCHIVE_MEMBERS = 10_000
MAX_TENSOR_BYTES = 256 << 20
MAX_VARIABLES = 100_000
MAX_NAME_BYTES = 4096
MAX_SHARDS = 256
MAX_RANK = 32  # NumPy 1's own limit

# TensorFlow's numbers for its types (types.proto). Those in _READABLE can be read, the rest listed.
_TYPE_NAMES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string",
    8: "complex64", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128",
    19: "float16", 20: "resource", 21: "variant", 22: "uint32", 23: "uint64",
}  # fmt: skip
_READABLE: dict[str, np.dtype] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "bfloat16": np.dtype("<u2"),  # NumPy has no such type; `read` widens the bits to float32
}

_WANTED = (
    "expected PREFIX.index with its data files beside it: give the prefix, the folder or a .tar.gz"
)

_TARS = (".tar", ".tgz", ".gz")

T = TypeVar("T")
OpenPart = Callable[[str], BinaryIO]  # opens the file that is the prefix plus a suffix (".index")


class Variable(NamedTuple):
    """What the index says of one variable, its values being `size` bytes of one data file."""

    name: str
    dtype: str  # "float32", "bfloat16", "string", ...
    shape: tuple[int, ...]
    shard: int  # the number of the data file
    offset: int  # bytes into that file
    size: int  # bytes
    crc: int  # masked CRC-32C of those bytes


@final
class Checkpoint:
    """An open checkpoint: `variables` lists what it holds, `read` gets the values of one.

    Use it in a `with` statement, or call `close`. Made by `open_checkpoint`.
    """

    def __init__(self, path: Path, variables: dict[str, Variable], shards: list[BinaryIO]) -> None:
        self.path = path
        self.variables = variables
        self._shards = shards

    def read(self, name: str) -> np.ndarray:
        """The values of one variable, checked against its CRC-32C, in a new array of its shape.

        float16, float32, float64, int32 and int64 come as they are; bfloat16, the upper half of a
        float32, comes widened to float32, which is exact. Raises `CheckpointError` for a name that
        is not there, any other type (strings, say), damaged values, and a closed checkpoint.
        """
        try:
            return self._read(name)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        except (OSError, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read {name!r}: {error!r}") from error

    def _read(self, name: str) -> np.ndarray:
        if name not in self.variables:
            raise CheckpointError(f"no variable {name!r} among the {len(self.variables)} in it")
        variable = self.variables[name]
        if variable.dtype not in _READABLE:
            readable = ", ".join(_READABLE)
            raise CheckpointError(
                f"{name!r} is of type {variable.dtype}; only {readable} can be read"
            )
        if not self._shards:
            raise CheckpointError(f"closed already; read {name!r} inside the with statement")
        self._shards[variable.shard].seek(variable.offset)
        data = self._shards[variable.shard].read(variable.size)
        if len(data) != variable.size:
            raise _damaged(f"the data file ends inside {name!r}")
        if masked_crc32c(data) != variable.crc:
            raise _damaged(f"the values of {name!r} do not match their checksum")
        array = np.frombuffer(data, _READABLE[variable.dtype])
        if variable.dtype == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(variable.shape).copy()

    def close(self) -> None:
        """Close the data files; closing twice does no harm."""
        for shard in self._shards:
            shard.close()
        self._shards = []

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a TensorFlow checkpoint: its index is read and checked, its values wait for `read`.

    `path` is any of: the prefix ("run/model.ckpt"), or one of the files that begin with it; a
    folder, where the text file `checkpoint` names the prefix or, without that file, the only
    *.index in the folder or one folder down does; a .tar.gz, .tgz or .tar, read into memory without
    unpacking anything to disk, links in it being ignored.

    Raises `CheckpointError` for anything missing, damaged, of another format, or beyond this
    reader: compressed blocks, partitioned variables, big-endian values, version 1 checkpoints.
    """
    try:
        return _open_bundle(Path(path), _find(Path(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the path, say
        raise CheckpointError(f"{path}: cannot be read: {error!r}") from error


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(f"{what}. It is damaged or cut short: copy or fetch it again")


def _open_bundle(path: Path, open_part: OpenPart) -> Checkpoint:
    """Index and data files together; every variable must lie inside its file, clear of others."""
    with open_part(".index") as file:
        index = file.read(MAX_INDEX_BYTES + 1)
    if len(index) > MAX_INDEX_BYTES:
        raise CheckpointError(f"the index has more than {MAX_INDEX_BYTES} bytes: not a MixNet's")
    variables, shard_count = _parse_index(index)
    with ExitStack() as stack:
        shards = [
            stack.enter_context(open_part(f".data-{shard:05d}-of-{shard_count:05d}"))
            for shard in range(shard_count)
        ]
        _check_places(variables, [file.seek(0, os.SEEK_END) for file in shards])
        stack.pop_all()
    return Checkpoint(path, variables, shards)


def _check_places(variables: dict[str, Variable], shard_sizes: list[int]) -> None:
    ends = [0] * len(shard_sizes)
    for variable in sorted(variables.values(), key=lambda v: (v.shard, v.offset, v.size)):
        end = variable.offset + variable.size
        if end > shard_sizes[variable.shard]:
            raise _damaged(
                f"{variable.name!r} should end at byte {end} of data file {variable.shard}, which"
                f" has {shard_sizes[variable.shard]} bytes"
            )
        if variable.size and variable.offset < ends[variable.shard]:
            raise _damaged(f"{variable.name!r} overlaps the variable before it in the data file")
        ends[variable.shard] = max(end, ends[variable.shard])


# -- finding the files ----------------------------------------------------------------------------


def _find(path: Path) -> OpenPart:
    """How to open the parts of the checkpoint that a user's path means."""
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{prefix}.index").is_file():
        return partial(_open_part, prefix)
    if path.is_dir():
        return partial(_open_part, _prefix_in(path))
    if not path.exists():
        raise CheckpointError(f"there is no such file, nor {prefix}.index; {_WANTED}")
    if path.name == "checkpoint":
        return partial(_open_part, _prefix_in(path.parent))
    with _open_file(path) as file:
        head = file.read(512)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
        tail = file.read(8)
    # A tar's header has "ustar" at byte 257; the oldest ones have not, so the name counts as well.
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar" or path.name.endswith(_TARS):
        return partial(_member_part, _read_archive(path))
    raise CheckpointError(f"this is {_describe(path, head, tail)}; {_WANTED}")


def _open_part(prefix: str, suffix: str) -> BinaryIO:
    return _open_file(Path(prefix + suffix))


def _open_file(path: Path) -> BinaryIO:
    if not path.exists():
        raise CheckpointError(f"{path} is missing; {_WANTED}")
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"{path} is not a plain file; {_WANTED}")
    return path.open("rb")


def _describe(path: Path, head: bytes, tail: bytes) -> str:
    if tail == _MAGIC:
        return _VERSION_1
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file (Keras's .h5, or weights that tinymixnet already reads)"
    if head.startswith(b"PK"):
        return "a zip file (Keras's .keras, PyTorch's .pt or NumPy's .npz)"
    if path.suffix in (".pb", ".pbtxt"):
        return "a TensorFlow graph or SavedModel (.pb), not a checkpoint of its variables"
    if path.suffix in (".h5", ".keras"):
        return f"a damaged Keras file ({path.suffix})"
    return "not a TensorFlow checkpoint or one without its index"


def _prefix_in(folder: Path) -> str:
    """The prefix of the only checkpoint in a folder, or of the one its `checkpoint` file names."""
    if (folder / "checkpoint").is_file():
        return str(folder / _name_in_state(folder / "checkpoint"))
    if (folder / "saved_model.pb").exists() or (folder / "saved_model.pbtxt").exists():
        raise CheckpointError(f"this is a TensorFlow SavedModel, not a checkpoint; {_WANTED}")
    for pattern in ("*.index", "*/*.index"):
        found = sorted(str(file) for file in folder.glob(pattern) if file.name[0] != ".")
        if found:
            return _only(found)
    raise CheckpointError(f"there is no *.index in this folder or one folder down; {_WANTED}")


def _only(indexes: list[str]) -> str:
    if len(indexes) > 1:
        listed = ", ".join(indexes[:10]) + (", ..." if len(indexes) > 10 else "")
        raise CheckpointError(f"{len(indexes)} checkpoints are here, give one of them: {listed}")
    return indexes[0].removesuffix(".index")


def _name_in_state(state: Path) -> str:
    """The file name that a `checkpoint` file gives: protobuf in text form, C-like escapes.

    Only the last part of the path in it counts: often it is a path on the machine that trained, and
    the files meant are those beside it.
    """
    with _open_file(state) as file:
        text = file.read(1 << 20)
    match = re.search(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', text, re.MULTILINE)
    if not match:
        raise _damaged("the file `checkpoint` names no model_checkpoint_path")
    raw = re.sub(
        rb"\\(?:([0-7]{1,3})|(.))",
        lambda escape: bytes([int(escape[1], 8) & 0xFF]) if escape[1] else escape[2],
        match[1],
    )
    try:
        name = re.split(r"[/\\]", raw.decode())[-1]
    except UnicodeDecodeError:
        raise _damaged("the file `checkpoint` names a path that is not UTF-8") from None
    if not name:
        raise _damaged("the file `checkpoint` names a folder, not a prefix")
    return name


# -- archives -------------------------------------------------------------------------------------


def _read_archive(path: Path) -> dict[str, bytes]:
    """The one checkpoint in a tar, as the bytes of its parts by suffix (".index")."""
    try:
        with _open_file(path) as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            members = _read_members(gzip.GzipFile(fileobj=file) if zipped else file)
    except (tarfile.HeaderError, zlib.error, EOFError, OSError) as error:
        raise _damaged(f"the archive cannot be unpacked ({error})") from error
    indexes = [name for name in members if name.endswith(".index")]
    if not indexes:
        raise CheckpointError(f"no *.index among the files in this archive; {_WANTED}")
    prefix = _only(indexes)
    return {name[len(prefix) :]: data for name, data in members.items() if name.startswith(prefix)}


def _read_members(stream: BinaryIO | gzip.GzipFile) -> dict[str, bytes]:
    """The plain files in a tar that may belong to a checkpoint, by name, read in one pass.

    A member is a header of 512 bytes and its data filled up to a multiple of 512. All other members
    are passed over: links, devices, and the records that extend a header (for names of more than
    100 bytes, say), which have been a way to attack readers of tars, Python's own among them.
    """
    members: dict[str, bytes] = {}
    left = MAX_ARCHIVE_BYTES
    for _ in range(MAX_ARCHIVE_MEMBERS):
        header = stream.read(tarfile.BLOCKSIZE)
        if not header.strip(b"\0"):  # the end: a block of zeros or nothing at all
            return members
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        filling = -member.size % tarfile.BLOCKSIZE
        left -= tarfile.BLOCKSIZE + member.size + filling
        if member.size < 0 or left < 0:
            raise CheckpointError(
                f"the archive unpacks to more than {MAX_ARCHIVE_BYTES} bytes, or {member.name!r} in"
                f" it has an impossible size ({member.size})"
            )
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        wanted = plain and re.search(r"\.(index|data-\d{5}-of-\d{5})$", member.name)
        # macOS puts a file "._x" with metadata beside each "x".
        if wanted and not member.name.rpartition("/")[2].startswith("."):
            members[member.name] = b"".join(_pieces(stream, member.size))
        else:
            filling += member.size
        for _ in _pieces(stream, filling):
            pass
    raise CheckpointError(f"the archive has more than {MAX_ARCHIVE_MEMBERS} members")


def _pieces(stream: BinaryIO | gzip.GzipFile, size: int) -> Iterator[bytes]:
    """So many bytes of a stream, a little at a time: a size that is a lie costs no memory."""
    while size:
        piece = stream.read(min(size, 1 << 20))
        if not piece:
            raise EOFError("it ends too early")
        size -= len(piece)
        yield piece


def _member_part(members: dict[str, bytes], suffix: str) -> BinaryIO:
    if suffix not in members:
        raise CheckpointError(f"the archive holds no plain file *{suffix}; is it complete?")
    return BytesIO(members[suffix])


# -- the table ------------------------------------------------------------------------------------

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of the table's data blocks, keys strictly rising."""
    if len(table) < _FOOTER_BYTES or not table.endswith(_MAGIC):
        raise _damaged("the index does not end in the magic number of a table")
    footer = table[-_FOOTER_BYTES : -len(_MAGIC)]
    _, _, position = _block_handle(footer, 0)  # the metaindex block, of no use here
    offset, size, _ = _block_handle(footer, position)
    floor = None
    for ceiling, handle in _block_entries(_block(table, offset, size)):
        offset, size, end = _block_handle(handle, 0)
        if end != len(handle):
            raise _damaged("the index block says more of a block than its place")
        for key, value in _block_entries(_block(table, offset, size)):
            if key > ceiling or (floor is not None and key <= floor):
                raise _damaged(f"the key {key!r} lies in the wrong block")
            yield key, value
        floor = ceiling


def _block_handle(data: bytes, position: int) -> tuple[int, int, int]:
    offset, position = _varint(data, position, len(data))
    size, position = _varint(data, position, len(data))
    return offset, size, position


def _block(table: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER_BYTES > len(table) - _FOOTER_BYTES:
        raise _damaged(f"a block of the index should end at byte {end}, past the end")
    stored = int.from_bytes(table[end + 1 : end + _TRAILER_BYTES], "little")
    if masked_crc32c(table[offset : end + 1]) != stored:
        raise _damaged(f"the block at byte {offset} of the index does not match its checksum")
    compression = table[end]
    if compression:
        kind = "snappy" if compression == 1 else f"an unknown method ({compression})"
        raise CheckpointError(
            f"the index is compressed with {kind}, which cannot be read here; TensorFlow itself"
            " writes it uncompressed: save the checkpoint again with TensorFlow"
        )
    return table[offset:end]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of one block; the list of restarts must agree with the entries."""
    count = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 - 4 * count
    if count < 1 or limit < 1:
        raise _damaged("a block of the index has no entries or no restarts")
    restarts = np.frombuffer(block, "<u4", count, limit).tolist()
    key, position, restart = None, 0, 0
    while position < limit:
        begins_anew = restart < count and restarts[restart] == position
        restart += begins_anew
        shared, position = _varint(block, position, limit)
        added, position = _varint(block, position, limit)
        length, position = _varint(block, position, limit)
        value_at = position + added
        if shared > len(key or b"") or value_at + length > limit or (begins_anew and shared):
            raise _damaged("an entry of the index reaches past its block or its neighbour")
        if shared + added > MAX_NAME_BYTES:
            raise CheckpointError(f"a name in the index has more than {MAX_NAME_BYTES} bytes")
        previous, key = key, (key or b"")[:shared] + block[position:value_at]
        if previous is not None and key <= previous:
            raise _damaged(f"the key {key!r} of the index comes after {previous!r}")
        position = value_at + length
        yield key, block[value_at:position]
    if restarts[0] != 0 or restart != count:
        raise _damaged("the restarts of a block of the index are not at its entries")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """An unsigned number of up to 64 bits, seven a byte, lowest first; and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise _damaged("a number in the index is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, position
    raise _damaged("a number in the index has more than 64 bits")


# -- the messages ---------------------------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types

_VERSION_1 = (
    "a TensorFlow checkpoint of version 1; load it in TensorFlow and save it again with"
    " tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V2)"
)


def _parse_index(table: bytes) -> tuple[dict[str, Variable], int]:
    """All variables by name, and the number of shards."""
    entries = _table_entries(table)
    key, header = next(entries)
    if key != b"":
        raise _damaged(f"the index begins with the key {key!r}, not with its header")
    shard_count = _parse_header(header)
    variables: dict[str, Variable] = {}
    for key, value in entries:
        if len(variables) == MAX_VARIABLES:
            raise CheckpointError(f"the index has more than {MAX_VARIABLES} variables")
        variable = _parse_entry(_name(key), value)
        if not 0 <= variable.shard < shard_count:
            raise _damaged(f"{variable.name!r} is in shard {variable.shard} of {shard_count}")
        variables[variable.name] = variable
    return variables, shard_count


def _name(key: bytes) -> str:
    if key.startswith(b"\0"):  # TensorFlow's key for one slice of a variable
        raise _partitioned("a variable")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _damaged(f"the name {key!r} is not UTF-8") from None


def _partitioned(what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} is partitioned (stored as slices), which cannot be read here; load it in"
        " TensorFlow and save it again without a partitioner"
    )


def _parse_header(message: bytes) -> int:
    """BundleHeaderProto: the number of shards, after checking that the values are readable."""
    if message[:1] == b"\x0a":  # in version 1 a message stands where the number of shards is
        raise CheckpointError(f"this is {_VERSION_1}")
    fields = _fields(message, {1: _VARINT, 2: _VARINT, 3: _BYTES})
    version = _fields(_single(fields, 3, b""), {2: _VARINT})
    if _single(version, 2, 0) > 1:
        raise CheckpointError("the checkpoint asks for a reader of a newer version of its format")
    if _single(fields, 2, 0) != 0:
        raise CheckpointError("the values are big-endian; save them on a little-endian machine")
    shard_count = _signed(_single(fields, 1, 0))
    if not 1 <= shard_count <= MAX_SHARDS:
        raise _damaged(f"the index speaks of {shard_count} data files, not 1 to {MAX_SHARDS}")
    return shard_count


def _parse_entry(name: str, message: bytes) -> Variable:
    """BundleEntryProto: one variable, its size in bytes checked against its shape."""
    wires = {1: _VARINT, 2: _BYTES, 3: _VARINT, 4: _VARINT, 5: _VARINT, 6: _FIXED32, 7: _BYTES}
    fields = _fields(message, wires)
    if fields[7]:
        raise _partitioned(repr(name))
    number = _single(fields, 1, 0)
    dtype = _TYPE_NAMES.get(number, f"number {number}")
    shape = _parse_shape(name, _single(fields, 2, b""))
    shard, offset, size = (_signed(_single(fields, number, 0)) for number in (3, 4, 5))
    if offset < 0 or size < 0:
        raise _damaged(f"{name!r} has a negative offset or size")
    if dtype in _READABLE:
        expected = math.prod(shape) * _READABLE[dtype].itemsize
        if size != expected:
            raise _damaged(f"{name!r}, {dtype} {shape}, has {size} bytes instead of {expected}")
        if size > MAX_TENSOR_BYTES:
            raise CheckpointError(f"{name!r} has {size} bytes, more than {MAX_TENSOR_BYTES}")
    return Variable(name, dtype, shape, shard, offset, size, _single(fields, 6, 0))


def _parse_shape(name: str, message: bytes) -> tuple[int, ...]:
    """TensorShapeProto: the length of every axis."""
    fields = _fields(message, {2: _BYTES, 3: _VARINT})
    if _single(fields, 3, 0):
        raise _damaged(f"{name!r} has no known shape")
    if len(fields[2]) > MAX_RANK:
        raise _damaged(f"{name!r} has {len(fields[2])} axes, more than {MAX_RANK}")
    shape = tuple(_signed(_single(_fields(axis, {1: _VARINT}), 1, 0)) for axis in fields[2])
    # An axis of 0 makes the whole empty, but NumPy refuses it all the same if the others are huge.
    if min(shape, default=0) < 0 or math.prod(max(axis, 1) for axis in shape) > 1 << 40:
        raise _damaged(f"{name!r} has the impossible shape {shape}")
    return shape


def _fields(message: bytes, wires: dict[int, int]) -> dict[int, list[Any]]:
    """The fields of a protobuf message whose numbers and wire types are given, others skipped."""
    fields: dict[int, list[Any]] = {number: [] for number in wires}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position, len(message))
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, position = _varint(message, position, len(message))
        elif wire == _BYTES:
            length, position = _varint(message, position, len(message))
            value, position = message[position : position + length], position + length
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
            value = int.from_bytes(message[position : position + length], "little")
            position += length
        else:
            raise _damaged(f"a message in the index has the unknown wire type {wire}")
        if position > len(message):
            raise _damaged("a message in the index is cut off")
        if number in wires:
            if wire != wires[number]:
                raise _damaged(f"field {number} in the index has the wrong wire type {wire}")
            fields[number].append(value)
    return fields


def _single(fields: dict[int, list[Any]], number: int, default: T) -> T:
    """The value of a field that stands once or, being zero or empty, not at all."""
    if len(fields[number]) > 1:
        raise _damaged(f"field {number} in the index stands twice")
    return fields[number][0] if fields[number] else default


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
