"""Read what is in a .tar: names, and where the bytes of each file lie. Nothing is unpacked.

A reader of our own, because Python's `tarfile` trusts the archive: in many of its versions a
negative size sends it in a circle, and a crafted header of a megabyte takes it hours.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tinymixnet.errors import InputError

BLOCK = 512  # bytes: of a header, and what a file's bytes are padded to
LARGEST_HEADER = 1 << 16  # bytes of a long name, or of a list of attributes
LONGEST_DIGITS = 20  # of a number
REGULAR = (b"0", b"\0", b"7")
WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
FOLDER = b"5"
LONG_NAME, LONG_LINK, ATTRIBUTES, ALL_ATTRIBUTES, SPARSE = b"L", b"K", b"x", b"g", b"S"


class Member(NamedTuple):
    """An entry of an archive."""

    name: str
    kind: bytes  # one of the letters above; SPARSE also for a sparse file of another notation
    start: int  # of its bytes in the archive
    size: int  # bytes


def read_tar(path: Path) -> list[Member]:
    """Return all entries of an archive, in its order. Raises InputError if it is damaged."""
    try:
        with path.open("rb") as file:
            return list(_members(file, os.fstat(file.fileno()).st_size))
    except InputError as error:
        raise InputError(f"{path}: damaged, or not a .tar: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _members(file: IO[bytes], length: int) -> Iterator[Member]:
    """Yield the entries of an archive of so many bytes. A block of zeros ends it."""
    position = 0
    given: dict[str, bytes] = {}  # what a header says about the next entry
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise InputError(f"it ends after {length:,} bytes, without the mark of an end")
        if not any(header):
            return
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise InputError(f"no header where one is expected, after {position:,} bytes")
        kind, start = header[156:157], position + BLOCK
        size = _whole(given["size"], 10) if "size" in given else _octal(header[124:136])
        if kind in WITHOUT_BYTES:
            size = 0
        if kind == SPARSE:
            start = _after_sparse_map(file, header, start)
        position = start + size + -size % BLOCK
        if start + size > length:
            raise InputError(f"it ends after {length:,} bytes, inside a file")
        if kind in (LONG_NAME, LONG_LINK, ATTRIBUTES, ALL_ATTRIBUTES):
            if size > LARGEST_HEADER:
                raise InputError(f"a header of {size:,} bytes, at most {LARGEST_HEADER:,} are read")
            file.seek(start)
            content = file.read(size)
            if kind == LONG_NAME:
                given["path"] = content.rstrip(b"\0")
            elif kind == ATTRIBUTES:
                given |= _attributes(content)
            continue
        if any(name.startswith("GNU.sparse.") for name in given):
            kind = SPARSE
        name = given.get("path", _name(header))
        yield Member(name.decode("utf-8", "surrogateescape"), kind, start, size)
        given = {}


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _octal(field: bytes) -> int:
    """Return a number in octal digits, or in bytes after a first one of 0x80, as GNU writes it."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    return _whole(field.strip(b" \0") or b"0", 8)


def _whole(digits: bytes, base: int) -> int:
    try:
        if len(digits) <= LONGEST_DIGITS and digits.isdigit():
            return int(digits, base)
    except ValueError:  # an 8 or a 9 among octal digits
        pass
    raise InputError(f"{digits[:LONGEST_DIGITS]!r} is no number of bytes")


def _attributes(content: bytes) -> dict[str, bytes]:
    """Return what a list of attributes says: of each its length, its name and its value."""
    found: dict[str, bytes] = {}
    position = 0
    while position < len(content) and content[position]:
        space = content.find(b" ", position, position + LONGEST_DIGITS)
        digits = content[position : max(space, position)]
        length = int(digits) if digits.isdigit() else 0
        name, equals, value = content[space + 1 : position + length - 1].partition(b"=")
        end = position + length
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise InputError("a list of attributes that is damaged")
        found[name.decode("utf-8", "replace")] = value
        position = end
    return found


def _after_sparse_map(file: IO[bytes], header: bytes, start: int) -> int:
    """Return where the bytes of a sparse file begin: its map may fill more blocks."""
    more = header[482]
    while more:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise InputError("it ends inside a header")
        more, start = block[504], start + BLOCK
    return start
