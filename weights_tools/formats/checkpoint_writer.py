"""Write TensorFlow checkpoints (TensorBundle V2), the counterpart of the reader in `checkpoint`.

`write_checkpoint` writes a whole checkpoint. It is put together from parts that can be used alone,
to make a checkpoint that is broken on purpose: `message` makes a protobuf message, `header_message`
and `entry_message` the values in the index, `block` and `table` the index itself. The modules of
the reader describe the format. TensorFlow reads what this writes: a test shows it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from tinymixnet.errors import InputError
from weights_tools.formats.checkpoint_index import TYPE_NAMES
from weights_tools.formats.checkpoint_table import FOOTER_BYTES, TRAILER_BYTES
from weights_tools.formats.crc32c import masked_crc32c
from weights_tools.formats.protobuf import BYTES, FIXED32, VARINT
from weights_tools.formats.refusals import TABLE_MAGIC

Entries = list[tuple[bytes, bytes]]

NUMBERS = {name: number for number, name in TYPE_NAMES.items()}
DTYPES = ("float16", "float32", "float64", "int32", "int64")  # that can be written


def varint(value: int) -> bytes:
    """Encode a number with seven bits in each byte, the lowest first; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def message(*fields: tuple[int, int | bytes], fixed32: Collection[int] = ()) -> bytes:
    """Make a protobuf message of (field number, value), numbers as varints or fixed32."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, bytes):
            encoded += varint(number << 3 | BYTES) + varint(len(value)) + value
        elif number in fixed32:
            encoded += varint(number << 3 | FIXED32) + value.to_bytes(4, "little")
        else:
            encoded += varint(number << 3 | VARINT) + varint(value)
    return encoded


def header_message(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    """Make a BundleHeaderProto; fields that are zero are left out, as protobuf does."""
    version = message((1, 1), *([(2, min_consumer)] if min_consumer else []))
    return message((1, shards), *([(2, endianness)] if endianness else []), (3, version))


def shape_message(shape: Iterable[int]) -> bytes:
    """Make a TensorShapeProto."""
    return message(*((2, message((1, axis)) if axis else b"") for axis in shape))


def entry_message(
    dtype: int,
    shape: Iterable[int] | bytes,
    *,
    shard: int = 0,
    offset: int = 0,
    size: int = 0,
    crc: int = 0,
    more: Iterable[tuple[int, int | bytes]] = (),
) -> bytes:
    """Make a BundleEntryProto; fields that are zero are left out, `more` fields come last."""
    encoded = shape if isinstance(shape, bytes) else shape_message(shape)
    fields: list[tuple[int, int | bytes]]
    fields = [(1, dtype), (2, encoded), (3, shard), (4, offset), (5, size), (6, crc)]
    kept = [(number, value) for number, value in fields if value or number == 2]
    return message(*kept, *more, fixed32=(6,))


def seal(block: bytes, compression: int = 0) -> bytes:
    """Add the trailer of a block: its compression byte and its checksum."""
    sealed = block + bytes([compression])
    return sealed + masked_crc32c(sealed).to_bytes(4, "little")


def block(entries: Entries, restart_interval: int = 16) -> bytes:
    """Make a block: keys without what they share with the one before, then the restarts."""
    data, restarts, previous = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart_interval == 0:
            restarts.append(len(data))
        else:
            shorter = min(len(key), len(previous))
            while shared < shorter and key[shared] == previous[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data += key[shared:] + value
        previous = key
    offsets = restarts or [0]
    return bytes(data) + np.array([*offsets, len(offsets)], "<u4").tobytes()


def table(entries: Entries, block_size: int = 4096, restart_interval: int = 16) -> bytes:
    """Make a table of sorted entries; a block that has `block_size` bytes takes no more of them."""
    groups: list[Entries] = []
    size = block_size  # of the last group
    for key, value in entries:
        if size >= block_size:
            groups.append([])
            size = 0
        groups[-1].append((key, value))
        size += len(key) + len(value)
    return table_of_blocks([(g[-1][0], seal(block(g, restart_interval))) for g in groups])


def table_of_blocks(blocks: Iterable[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Make a table of sealed blocks, each with the key that stands for it in the index block.

    compression: the byte in the trailer of the index block.
    """
    data, index = bytearray(), []
    for key, sealed in blocks:
        index.append((key, varint(len(data)) + varint(len(sealed) - TRAILER_BYTES)))
        data += sealed
    return table_with_index(bytes(data), block(index, restart_interval=1), compression)


def table_with_index(data: bytes, index_block: bytes, compression: int = 0) -> bytes:
    """Make a table of sealed blocks, and the block (not sealed) that says where they are."""
    metaindex = block([])
    footer = varint(len(data)) + varint(len(metaindex))
    data += seal(metaindex)
    footer += varint(len(data)) + varint(len(index_block))
    data += seal(index_block, compression)
    return data + footer.ljust(FOOTER_BYTES - len(TABLE_MAGIC), b"\0") + TABLE_MAGIC


def write_checkpoint(
    prefix: str | Path,
    tensors: Mapping[str, np.ndarray],
    *,
    shards: int = 1,
    block_size: int = 4096,
    restart_interval: int = 16,
    bfloat16: Collection[str] = (),
    edit: Callable[[dict[bytes, bytes]], None] = lambda entries: None,
) -> None:
    """Write PREFIX.index and its data files.

    tensors: name -> array of float16, float32, float64, int32 or int64.
    shards: the number of data files, which take the tensors in turn.
    block_size, restart_interval: how the index is cut, in bytes and entries.
    bfloat16: names of float32 tensors that are stored with the upper half of their bits.
    edit: is called with the entries of the index (key -> message, the header under b"") and may
        change them.
    """
    data = [bytearray() for _ in range(shards)]
    entries = {b"": header_message(shards)}
    for number, name in enumerate(sorted(tensors, key=str.encode)):
        array = tensors[name]
        dtype = array.dtype.name
        if dtype not in DTYPES:
            raise InputError(f"{name}: expected one of {', '.join(DTYPES)}, found {dtype}")
        if name in bfloat16:
            dtype, array = "bfloat16", (array.view(np.uint32) >> 16).astype("<u2")
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        shard = number % shards
        entries[name.encode()] = entry_message(
            NUMBERS[dtype], array.shape, shard=shard, offset=len(data[shard]), size=len(content),
            crc=masked_crc32c(content),
        )  # fmt: skip
        data[shard] += content
    edit(entries)
    index = table(sorted(entries.items()), block_size, restart_interval)
    Path(f"{prefix}.index").write_bytes(index)
    for shard, values in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(values)
