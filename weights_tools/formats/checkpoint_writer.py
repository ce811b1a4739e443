"""Write TensorFlow checkpoints (TensorBundle V2) for the tests, whole or broken on purpose.

The parts are there to be combined: `message` makes a protobuf message, `block` and `table` the
index, and `write_checkpoint` a whole checkpoint, whose `edit` may change the index's entries before
it is written. That the format is right is shown by TensorFlow itself, which reads what this writes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from weights_tools.formats.crc32c import masked_crc32c

Entries = list[tuple[bytes, bytes]]

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
STRING, BFLOAT16 = 7, 14
MAGIC = 0xDB4775248B80FB57


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as its 64-bit two's complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def message(*fields: tuple[int, int | bytes], fixed32: Collection[int] = ()) -> bytes:
    """A protobuf message: ints as varints (or fixed32 for those numbers), bytes as they are."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, bytes):
            encoded += varint(number << 3 | 2) + varint(len(value)) + value
        elif number in fixed32:
            encoded += varint(number << 3 | 5) + value.to_bytes(4, "little")
        else:
            encoded += varint(number << 3) + varint(value)
    return encoded


def header_message(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    """BundleHeaderProto; zeros are left out, as proto3 does."""
    version = message((1, 1), *([(2, min_consumer)] if min_consumer else []))
    return message((1, shards), *([(2, endianness)] if endianness else []), (3, version))


def shape_message(shape: Iterable[int]) -> bytes:
    """TensorShapeProto."""
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
    """BundleEntryProto; zeros are left out, `more` fields stand at the end."""
    encoded = shape if isinstance(shape, bytes) else shape_message(shape)
    fields: list[tuple[int, int | bytes]] = [
        (1, dtype),
        (2, encoded),
        (3, shard),
        (4, offset),
        (5, size),
        (6, crc),
    ]
    kept = [(number, value) for number, value in fields if value or number == 2]
    return message(*kept, *more, fixed32=(6,))


def seal(block: bytes, compression: int = 0) -> bytes:
    """A block as it stands in the file: with its compression byte and checksum."""
    sealed = block + bytes([compression])
    return sealed + masked_crc32c(sealed).to_bytes(4, "little")


def block(entries: Entries, restart_interval: int = 16) -> bytes:
    """A block of a table: entries that share their beginnings, then the offsets of the restarts."""
    data, restarts, previous = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart_interval == 0:
            restarts.append(len(data))
        else:
            while key[: shared + 1] == previous[: shared + 1]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data += key[shared:] + value
        previous = key
    offsets = restarts or [0]
    return data + np.array([*offsets, len(offsets)], "<u4").tobytes()


def table(entries: Entries, block_size: int = 4096, restart_interval: int = 16) -> bytes:
    """A table of sorted entries, a new block begun once one has `block_size` bytes of them."""
    groups: list[Entries] = []
    for key, value in entries:
        if not groups or sum(len(k) + len(v) for k, v in groups[-1]) >= block_size:
            groups.append([])
        groups[-1].append((key, value))
    return table_of_blocks([(g[-1][0], seal(block(g, restart_interval))) for g in groups])


def table_of_blocks(blocks: Iterable[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A table of blocks that are sealed already, each with the key that stands for it.

    `compression` is the byte of the index block.
    """
    data, index = b"", []
    for key, sealed in blocks:
        index.append((key, varint(len(data)) + varint(len(sealed) - 5)))
        data += sealed
    return table_with_index(data, block(index, restart_interval=1), compression)


def table_with_index(data: bytes, index_block: bytes, compression: int = 0) -> bytes:
    """A table of sealed blocks and, not sealed yet, the block that says where they are."""
    metaindex = block([])
    footer = varint(len(data)) + varint(len(metaindex))
    data += seal(metaindex)
    footer += varint(len(data)) + varint(len(index_block))
    data += seal(index_block, compression)
    return data + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


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
    """Write PREFIX.index and its data files; the shards take the tensors in turn.

    float32 tensors named in `bfloat16` lose the lower half of their bits. `edit` gets the entries
    of the index (key to message, the header under b"") and may change them.
    """
    data = [bytearray() for _ in range(shards)]
    entries = {b"": header_message(shards)}
    for number, name in enumerate(sorted(tensors, key=str.encode)):
        array = tensors[name]
        dtype = DTYPES[array.dtype.name]
        if name in bfloat16:
            dtype, array = BFLOAT16, (array.view(np.uint32) >> 16).astype("<u2")
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        shard = number % shards
        entries[name.encode()] = entry_message(
            dtype, array.shape, shard=shard, offset=len(data[shard]), size=len(content),
            crc=masked_crc32c(content),
        )  # fmt: skip
        data[shard] += content
    edit(entries)
    index = table(sorted(entries.items()), block_size, restart_interval)
    Path(f"{prefix}.index").write_bytes(index)
    for shard, written in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(written)
