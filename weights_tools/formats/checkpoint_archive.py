"""Read the checkpoint in a .tar or .tar.gz without unpacking anything to disk.

A tar is a row of members: a header of 512 bytes, then the data, filled up to a multiple of 512.
"""

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.formats.checkpoint_files import EXPECTED, OpenPart, Part, only_prefix
from weights_tools.formats.refusals import damaged, open_plain_file

MAX_MEMBERS = 10_000
# Numbers of a trained network can hardly be packed. Whatever unpacks to more than SMALL bytes and
# to more than MAX_RATIO times its size was made to fill the memory.
SMALL, MAX_RATIO = 64 << 20, 20
CHUNK = 1 << 20  # bytes read at once

_GZIP = b"\x1f\x8b"
_TAR_SUFFIXES = (".tar", ".tgz", ".gz")


def is_archive(path: Path) -> bool:
    """Whether a file is a tar, or is called one: the oldest tars have no magic number."""
    with open_plain_file(path, EXPECTED) as file:
        head = file.read(tarfile.BLOCKSIZE)
    return head[:2] == _GZIP or head[257:262] == b"ustar" or path.name.endswith(_TAR_SUFFIXES)


def open_archive(path: Path) -> OpenPart:
    """Return how to open the files of the one checkpoint in an archive."""
    try:
        with open_plain_file(path, EXPECTED) as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            members = _unpack_members(file) if packed else _find_members(file)
    except (tarfile.HeaderError, zlib.error, EOFError, OSError) as error:
        raise damaged(f"the archive cannot be unpacked ({error})") from error
    indexes = [name for name in members if name.endswith(".index")]
    if not indexes:
        raise CheckpointError(f"no *.index among the files in this archive; {EXPECTED}")
    prefix = only_prefix(indexes)

    def open_member(suffix: str) -> Part:
        if prefix + suffix not in members:
            raise CheckpointError(f"the archive holds no plain file *{suffix}; is it complete?")
        start, size, unpacked = members[prefix + suffix]
        return Part(unpacked or path.open("rb"), start, size)

    return open_member


Members = dict[str, tuple[int, int, BinaryIO | None]]  # name -> start, size, stream if unpacked


def _find_members(file: BinaryIO) -> Members:
    """Find where the members of a plain tar lie; they are read later, from the file itself."""
    members: Members = {}
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    for member in _headers(file):
        start = file.tell()
        if start + member.size > end:
            raise EOFError("it ends too early")
        if _is_wanted(member):
            members[member.name] = (start, member.size, None)
        file.seek(start + _padded(member.size))
    return members


def _unpack_members(file: BinaryIO) -> Members:
    """Unpack the wanted members of a .tar.gz into memory, in one pass."""
    members: Members = {}
    packed_size = os.fstat(file.fileno()).st_size
    unpacked_size = 0
    stream = gzip.GzipFile(fileobj=file)
    for member in _headers(stream):
        unpacked_size += tarfile.BLOCKSIZE + _padded(member.size)
        budget.check("checkpoint_bytes", unpacked_size, "unpacking the archive")
        if unpacked_size > max(SMALL, MAX_RATIO * packed_size):
            raise CheckpointError(
                f"refused, the archive has {packed_size:,} bytes and unpacks to {unpacked_size:,} "
                "or more: no trained network can be packed so well"
            )
        data = BytesIO()
        for piece in _pieces(stream, _padded(member.size)):
            if _is_wanted(member):
                data.write(piece)
        if _is_wanted(member):
            members[member.name] = (0, member.size, data)
    return members


def _headers(stream: BinaryIO | gzip.GzipFile) -> Iterator[tarfile.TarInfo]:
    """Yield the header of each member; the caller then reads past the member's data."""
    for _ in range(MAX_MEMBERS):
        header = stream.read(tarfile.BLOCKSIZE)
        if not header.strip(b"\0"):  # the end: a block of zeros or nothing at all
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.size < 0:
            raise damaged(f"{member.name!r} in the archive has an impossible size ({member.size})")
        yield member
    raise CheckpointError(f"the archive has more than {MAX_MEMBERS} members")


def _is_wanted(member: tarfile.TarInfo) -> bool:
    """Whether a member is a plain file that may belong to a checkpoint.

    All others are passed over: links, devices, and the records that extend a header (for names of
    more than 100 bytes, say), which have been a way to attack readers of tars, Python's own among
    them. macOS puts a file "._x" with metadata beside each "x".
    """
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    named = re.search(r"\.(index|data-[0-9]{5}-of-[0-9]{5})$", member.name)
    return plain and named is not None and not member.name.rpartition("/")[2].startswith(".")


def _padded(size: int) -> int:
    """Bytes that a member of this size takes in the archive."""
    return size + -size % tarfile.BLOCKSIZE


def _pieces(stream: gzip.GzipFile, size: int) -> Iterator[bytes]:
    """Yield so many bytes, a little at a time: a size that is a lie costs no memory."""
    while size:
        piece = stream.read(min(size, CHUNK))
        if not piece:
            raise EOFError("it ends too early")
        size -= len(piece)
        yield piece
