"""Read the table in a checkpoint's index: byte-string keys in rising order, each with a value.

The layout is LevelDB's:

    file    data blocks, a metaindex block (empty here), an index block, and a footer of 48 bytes
    footer  where the metaindex and the index block lie, zeros up to 40 bytes, the magic number
    block   entries, uint32 offsets of the restarts, uint32 their count;
            then one byte for the compression and the masked CRC-32C of all before it
    entry   varints (shared, added, value length), the added bytes of the key, the value

An entry's key begins with the first `shared` bytes of the key before it. At a restart it shares
none. The index block has an entry for each data block: a key no smaller than any in that block, and
where the block lies.

Source: LevelDB's table_format.md.
"""

from collections.abc import Iterator

import numpy as np

from tinymixnet.errors import CheckpointError
from weights_tools.formats.crc32c import masked_crc32c
from weights_tools.formats.protobuf import read_varint
from weights_tools.formats.refusals import TABLE_MAGIC, damaged

MAX_KEY_BYTES = 1024  # MixNet's longest name has about 100
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # compression and checksum, after each block


def table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every (key, value) of the table's data blocks. Keys must rise strictly."""
    if len(table) < FOOTER_BYTES or not table.endswith(TABLE_MAGIC):
        raise damaged("the index does not end in the magic number of a table")
    footer = table[-FOOTER_BYTES : -len(TABLE_MAGIC)]
    _, _, position = block_handle(footer, 0)  # the metaindex block, of no use here
    offset, size, _ = block_handle(footer, position)
    previous_end, previous_ceiling = 0, None
    for ceiling, handle in block_entries(read_block(table, offset, size)):
        offset, size, end = block_handle(handle, 0)
        if end != len(handle):
            raise damaged("the index block says more of a block than its place")
        if offset < previous_end:  # else a small file could have the same bytes read many times
            raise damaged("a block of the index overlaps the one before it")
        for key, value in block_entries(read_block(table, offset, size)):
            if key > ceiling or (previous_ceiling is not None and key <= previous_ceiling):
                raise damaged(f"the key {key!r} lies in the wrong block")
            yield key, value
        previous_end, previous_ceiling = offset + size, ceiling


def block_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return where a block lies, as (offset, size), and the position after these two varints."""
    offset, position = read_varint(data, position, len(data))
    size, position = read_varint(data, position, len(data))
    return offset, size, position


def read_block(table: bytes, offset: int, size: int) -> bytes:
    """Return one block without its trailer, checked against its checksum."""
    end = offset + size
    if end + TRAILER_BYTES > len(table) - FOOTER_BYTES:
        raise damaged(f"a block of the index should end at byte {end}, past the end")
    stored = int.from_bytes(table[end + 1 : end + TRAILER_BYTES], "little")
    if masked_crc32c(table[offset : end + 1]) != stored:
        raise damaged(f"the block at byte {offset} of the index does not match its checksum")
    compression = table[end]
    if compression:
        kind = "snappy" if compression == 1 else f"an unknown method ({compression})"
        raise CheckpointError(
            f"the index is compressed with {kind}, which cannot be read here; TensorFlow itself"
            " writes it uncompressed: save the checkpoint again with TensorFlow"
        )
    return table[offset:end]


def block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every (key, value) of one block. Its list of restarts must agree with the entries."""
    count = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 - 4 * count  # where the entries end and the restarts begin
    if count < 1 or limit < 1:
        raise damaged("a block of the index has no entries or no restarts")
    restarts = np.frombuffer(block, "<u4", count, limit).tolist()
    key, position, restart = None, 0, 0
    while position < limit:
        is_restart = restart < count and restarts[restart] == position
        restart += is_restart
        shared, position = read_varint(block, position, limit)
        added, position = read_varint(block, position, limit)
        length, position = read_varint(block, position, limit)
        value_at = position + added
        if shared > len(key or b"") or value_at + length > limit or (is_restart and shared):
            raise damaged("an entry of the index reaches past its block or its neighbour")
        if shared + added > MAX_KEY_BYTES:
            raise CheckpointError(f"a name in the index has more than {MAX_KEY_BYTES} bytes")
        previous, key = key, (key or b"")[:shared] + block[position:value_at]
        if previous is not None and key <= previous:
            raise damaged(f"the key {key!r} of the index comes after {previous!r}")
        position = value_at + length
        yield key, block[value_at:position]
    if restarts[0] != 0 or restart != count:
        raise damaged("the restarts of a block of the index are not at its entries")
