"""Read arrays from files that may be hostile: .npy in a folder or a .npz, datasets in a .h5.

Nothing is unpickled, and no size is believed: before anything is allocated, the size that a header
promises must be the size that is there, and the budget must allow it. Whatever goes wrong is a
TraceError of one line.
"""

import ast
import io
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tinymixnet.debug.strict_json import LARGEST_JSON
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import SIGNATURE, Hdf5File, Header
from tinymixnet.engine.hdf5_structure import INFLATION
from tinymixnet.errors import TinyMixNetError, TraceError, printable

MANIFEST = "manifest.json"
LARGEST_NUMBER = 1 << 32  # for a side of a shape, and for any number in a manifest
LONGEST_HEADER = 4096  # bytes of a .npy's header
LONGEST_NAME = 512  # characters; TensorFlow's longest names of MixNet have about 100
MOST_BRACKETS = 100  # of one kind in a .npy header: thousands are too many for Python's parser
CHUNK = 1 << 20  # bytes read or written at once
DTYPES = {f"float{bits}" for bits in (16, 32, 64)}
DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
MEMBER = b"PK\x01\x02"  # begins the entry of each member in the directory of a zip
LONGEST_MEMBER = 4096  # bytes of such an entry

Open = Callable[[str], AbstractContextManager[tuple[IO[bytes], int]]]  # a stream and its size


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error inside the block into a TraceError of one line that begins with the path."""
    place = printable(str(path))
    try:
        yield
    except TinyMixNetError as error:
        raise TraceError(f"{place}: {error}") from None
    except FileNotFoundError:
        raise TraceError(f"{place}: no such file or folder") from None
    except MemoryError:
        raise TraceError(f"{place}: there is not enough memory to read it") from None
    except Exception as error:  # zipfile, zlib, HDF5 raise nearly any type on damaged files
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())
        reason = printable(reason[:200]) or type(error).__name__
        raise TraceError(f"{place}: cannot be read ({reason})") from None


def open_arrays(path: Path) -> "NpyFiles | Hdf5Arrays":
    """Open a folder of .npy files, a .npz or a .h5; the file's content decides which it is."""
    with reading(path):
        if path.is_dir():
            return NpyFiles(*_folder(path))
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError("neither a folder nor a file")
        with path.open("rb") as file:
            start = file.read(8)
        if start[:4] == b"PK\x03\x04":
            return NpyFiles(*_archive(path))
        if start == SIGNATURE:
            return Hdf5Arrays(path)
        hint = ": give the folder it lies in" if start[:6] == b"\x93NUMPY" else ""
        raise TraceError(f"not a trace, expected a folder of .npy files, a .npz or a .h5{hint}")


def _folder(path: Path) -> tuple[list[str], Open]:
    """List the .npy files and the manifest of a folder and of all folders in it.

    Hidden files are left out. Links to files are followed, links to folders are not: they may lead
    back to where they are.
    """
    files: list[str] = []
    folders = [""]
    entries_seen = 0
    for prefix in folders:  # grows while it is read
        with os.scandir(path / prefix) as entries:
            for entry in entries:
                entries_seen += 1
                if entries_seen > budget.dump_layers:
                    budget.check("dump_layers", entries_seen, "a folder of so many files")
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif (name.endswith(".npy") or name == MANIFEST) and _is_file(entry):
                    files.append(name)

    @contextmanager
    def opened(file: str) -> Iterator[tuple[IO[bytes], int]]:
        with open(path / file, "rb", opener=_open_now) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TraceError("not a file any more")
            yield stream, status.st_size

    return sorted(files, key=natural), opened


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _open_now(path: str, flags: int) -> int:
    """Open a file without waiting, should it have become a FIFO since it was listed."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _CountedFile(io.BufferedReader):
    """A file for zipfile that counts the members of a zip while their list is read.

    zipfile reads the list at once and makes an object of each entry, which takes ten times the
    memory. So counting these objects would be too late.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        size = rest if size is None or size < 0 else min(size, rest)
        limit = LONGEST_MEMBER * budget.dump_layers
        if size > limit:
            raise TraceError(f"refused, its directory has {size:,} bytes, at most {limit:,}")
        data = super().read(size)
        budget.check("dump_layers", data.count(MEMBER), "an archive of so many files")
        return data


def _archive(path: Path) -> tuple[list[str], Open]:
    """List the members of a .npz."""
    import zipfile  # slow to import, and not every command needs it

    with _CountedFile(io.FileIO(path)) as file, zipfile.ZipFile(file):
        pass  # not too many members
    archive = zipfile.ZipFile(path)
    members = {info.filename: info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise TraceError("refused, two members have one name")

    @contextmanager
    def opened(file: str) -> Iterator[tuple[IO[bytes], int]]:
        info = members[file]
        factor = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: INFLATION}.get(info.compress_type)
        if factor is None:
            raise TraceError("refused, neither stored nor deflated")
        if info.file_size > factor * min(info.compress_size, path.stat().st_size):
            raise TraceError(f"damaged, cannot unpack to {info.file_size:,} bytes")
        with archive.open(info) as stream:
            yield stream, info.file_size

    # In a circle of references Python might end the file first, and warn that nobody closed it.
    weakref.finalize(opened, archive.close)
    return list(members), opened


def natural(name: str) -> str:
    """Return a key that sorts numbers inside names by value: layer_2 before layer_10."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), name)


class NpyFiles:
    """Layers that are .npy files, of a folder or of a .npz."""

    def __init__(self, files: list[str], opened: Open) -> None:
        self.files = [file for file in files if file.endswith(".npy")]
        self.manifest: bytes | None = None
        self._open = opened
        self._parsed: dict[str, NpyHeader] = {}
        if MANIFEST in files:
            with opened(MANIFEST) as (stream, size):
                if size > LARGEST_JSON:
                    raise TraceError(f"{MANIFEST}: refused, {size:,} bytes")
                self.manifest = stream.read(size)

    def header(self, file: str) -> Header:
        """Return shape and type of a layer, without reading its values."""
        return self._parse(file).header

    def _parse(self, file: str) -> "NpyHeader":
        if file not in self._parsed:
            with self._open(file) as (stream, size):
                self._parsed[file] = read_header(stream, size)
        return self._parsed[file]

    def read(self, file: str) -> np.ndarray:
        """Return the values of a layer."""
        (shape, dtype), fortran, start = self._parse(file)
        with self._open(file) as (stream, size):
            if size - start != prod(shape) * dtype.itemsize:
                raise TraceError("changed while it was read")
            stream.read(start)  # not seek: then zipfile would not compare the checksum
            flat = np.empty(prod(shape), dtype)
            left = flat.view(np.uint8).data
            while len(left):
                count = stream.readinto(left[:CHUNK])  # type: ignore[attr-defined]
                if not count:
                    raise TraceError("truncated")
                left = left[count:]
            if stream.read(1):  # this also makes zipfile compare the checksum
                raise TraceError("longer than its header says")
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


class NpyHeader(NamedTuple):
    """The header of a .npy file."""

    header: Header
    fortran: bool  # whether the first axis varies fastest
    start: int  # where the values begin, in bytes


def read_header(stream: IO[bytes], size: int) -> NpyHeader:
    """Return the header of a .npy file of `size` bytes. Raises TinyMixNetError.

    The layout of the header is NumPy's (NEP 1). Its shape and type must ask for exactly the bytes
    that follow it, and for no more than the budget allows.
    """
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY":
        raise TraceError("not a .npy file: write it with numpy.save")
    wide = start[6:7] != b"\x01"  # from version 2 on, the length has four bytes
    field = stream.read(4 if wide else 2)
    length = int.from_bytes(field, "little")
    if length > LONGEST_HEADER:
        raise TraceError(f"refused, its header has {length:,} bytes")
    text = stream.read(length).decode("latin1")
    try:
        if "\\" in text or len(text) < length or max(map(text.count, "([{+-~")) > MOST_BRACKETS:
            raise ValueError
        parts = ast.literal_eval(text.strip())
        descr, fortran, shape = parts["descr"], parts["fortran_order"], parts["shape"]
        if len(parts) != 3 or type(fortran) is not bool or type(shape) is not tuple:
            raise ValueError
    except Exception:  # a crafted header can make the parser raise nearly anything
        raise TraceError("damaged, its header is not that of a .npy file") from None
    if not isinstance(descr, str) or not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248])", descr):
        kind = printable(str(descr)[:40])
        raise TraceError(f"refused, of type {kind}; expected floats or whole numbers")
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= LARGEST_NUMBER for n in shape):
        raise TraceError(f"damaged, of shape {printable(str(shape)[:80])}")
    dtype = np.dtype(descr)
    start_of_values = 8 + len(field) + length
    nbytes, stored = prod(shape) * dtype.itemsize, size - start_of_values
    if nbytes != stored:
        raise TraceError(f"damaged, {shape} {dtype} takes {nbytes:,} bytes, there are {stored:,}")
    budget.check("layer_bytes", nbytes, "a layer")
    return NpyHeader(Header(shape, dtype), fortran, start_of_values)


class Hdf5Arrays:
    """Layers that are datasets of an HDF5 file."""

    manifest = None

    def __init__(self, path: Path) -> None:
        self._file = Hdf5File(path, isolated=True)
        if self._file.structure.problems:
            raise TraceError(self._file.structure.problems[0])
        self.files = sorted(self._file.structure.datasets, key=natural)

    def header(self, file: str) -> Header:
        header = self._file.header(file)
        if header.dtype.name not in DTYPES:
            raise TraceError("refused, neither floats nor whole numbers")
        budget.check("layer_bytes", prod(header.shape) * header.dtype.itemsize, "a layer")
        return header

    def read(self, file: str) -> np.ndarray:
        self.header(file)
        return self._file.read(file)
