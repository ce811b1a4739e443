"""Decode protobuf messages, the binary records that a checkpoint's index consists of.

A message is a row of fields. Each field begins with a varint, its *tag*: the field's number times
8, plus its *wire type*, which says how the value is stored. A field that is zero or empty is left
out. Source: protobuf's description of its encoding.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from weights_tools.formats.refusals import damaged

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

# Fields in one message. Ours have at most 33, one for each axis of a shape; a file of millions of
# tiny fields would keep the reader busy for a long time.
MAX_FIELDS = 100

T = TypeVar("T")
Fields = dict[int, list[Any]]  # field number -> its values, in the order of the message


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the unsigned number at a position, and the position after it.

    A varint has seven bits in each byte, the lowest first; the top bit says that another byte
    follows. The number must end before `end` and have at most 64 bits.
    """
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise damaged("a number in the index is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, position
    raise damaged("a number in the index has more than 64 bits")


def read_fields(message: bytes, wire_types: Mapping[int, int]) -> Fields:
    """Decode the fields with the given numbers, and skip all others.

    wire_types: field number -> wire type that the field must have.
    """
    fields: Fields = {number: [] for number in wire_types}
    position = count = 0
    while position < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise damaged(f"a message in the index has more than {MAX_FIELDS} fields")
        tag, position = read_varint(message, position, len(message))
        number, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if wire_type == VARINT:
            value, position = read_varint(message, position, len(message))
        elif wire_type == BYTES:
            length, position = read_varint(message, position, len(message))
            value, position = message[position : position + length], position + length
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
            value = int.from_bytes(message[position : position + length], "little")
            position += length
        else:
            raise damaged(f"a message in the index has the unknown wire type {wire_type}")
        if position > len(message):
            raise damaged("a message in the index is cut off")
        if number in wire_types:
            if wire_type != wire_types[number]:
                raise damaged(f"field {number} in the index has the wrong wire type {wire_type}")
            fields[number].append(value)
    return fields


def single(fields: Fields, number: int, default: T) -> T:
    """Return the value of a field that may stand once, or the default if it was left out."""
    if len(fields[number]) > 1:
        raise damaged(f"field {number} in the index stands twice")
    return fields[number][0] if fields[number] else default


def signed(value: int) -> int:
    """Read an unsigned 64-bit number as the two's complement of a signed one."""
    return value - (1 << 64) if value >> 63 else value
