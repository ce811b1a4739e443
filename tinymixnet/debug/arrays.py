"""Arrays in files that nobody vouches for: .npy in a folder or a .npz, datasets in a .h5.

Read strictly and never unpickled: nothing is allocated before the size that a header promises is
the size there is, and whatever goes wrong is a TraceError of one line.
"""

import ast
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tinymixnet.engine.hdf5 import SIGNATURE, Hdf5File, Header
from tinymixnet.engine.hdf5_structure import INFLATION
from tinymixnet.errors import TinyMixNetError, TraceError

MANIFEST = "manifest.json"
LARGEST = 1 << 32  # bytes of a layer
LARGEST_MANIFEST = 1 << 22  # bytes
LONGEST_HEADER = 4096  # bytes of a .npy's header
MOST_FILES = 50_000  # in a folder: more, and it is not a dump but somebody's disk
CHUNK = 1 << 20  # bytes read or written at once
DTYPES = {f"float{bits}" for bits in (16, 32, 64)}
DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

Open = Callable[[str], AbstractContextManager[tuple[IO[bytes], int]]]  # a stream and its size


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a TraceError of one line that begins with the path."""
    try:
        yield
    except TinyMixNetError as error:
        raise TraceError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file or folder") from None
    except Exception as error:  # zipfile, zlib, json, HDF5 raise nearly any type on damaged files
        what = " ".join(str(getattr(error, "strerror", "") or error).split())
        raise TraceError(f"{path}: cannot be read ({what[:200] or type(error).__name__})") from None


def open_arrays(path: Path) -> "NpyFiles | Hdf5Arrays":
    """Where the layers lie, by what the path is."""
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
    """The files of a folder and all below it, hidden ones left out; links to folders too."""
    found: list[str] = []
    folders = [path]
    for folder in folders:  # grows as it goes
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file():
                    found.append(os.path.relpath(entry.path, path).replace(os.sep, "/"))
                if len(found) + len(folders) > MOST_FILES:
                    raise TraceError(f"refused, more than {MOST_FILES} files and folders")

    @contextmanager
    def opened(file: str) -> Iterator[tuple[IO[bytes], int]]:
        with open(path / file, "rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size

    return sorted(found, key=natural), opened


def _archive(path: Path) -> tuple[list[str], Open]:
    """The members of a .npz."""
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

    return list(members), opened


def natural(name: str) -> str:
    """A key that sorts numbers inside names by value: layer_2 before layer_10."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), name)


class NpyFiles:
    """Layers that are .npy files, wherever those are opened from."""

    def __init__(self, files: list[str], opened: Open) -> None:
        self.files = [file for file in files if file.endswith(".npy")]
        self.manifest: bytes | None = None
        self._open = opened
        if MANIFEST in files:
            with opened(MANIFEST) as (stream, size):
                if size > LARGEST_MANIFEST:
                    raise TraceError(f"{MANIFEST}: refused, {size:,} bytes")
                self.manifest = stream.read(size)

        self._parsed: dict[str, NpyHeader] = {}

    def header(self, file: str) -> Header:
        return self._parse(file).header

    def _parse(self, file: str) -> "NpyHeader":
        if file not in self._parsed:
            with self._open(file) as (stream, size):
                self._parsed[file] = read_header(stream, size)
        return self._parsed[file]

    def read(self, file: str) -> np.ndarray:
        (shape, dtype), fortran, start = self._parse(file)
        with self._open(file) as (stream, size):
            if size - start != prod(shape) * dtype.itemsize:
                raise TraceError("changed while it was read")
            stream.read(start)  # not seek: zipfile would give up comparing the checksum
            flat = np.empty(prod(shape), dtype)
            left = flat.view(np.uint8).data
            while len(left):
                count = stream.readinto(left[:CHUNK])  # type: ignore[attr-defined]
                if not count:
                    raise TraceError("truncated")
                left = left[count:]
            if stream.read(1):  # also makes zipfile compare the checksum
                raise TraceError("longer than its header says")
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


class NpyHeader(NamedTuple):
    """The header of a .npy file."""

    header: Header
    fortran: bool  # whether the first axis varies fastest
    start: int  # where the values begin, in bytes


def read_header(stream: IO[bytes], size: int) -> NpyHeader:
    """The header of a .npy file of `size` bytes.

    Nothing is believed: the size that shape and type ask for has to be the size there is. The
    layout of the header is NumPy's (NEP 1).
    """
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY":
        raise TraceError("not a .npy file: write it with numpy.save")
    wide = start[6:7] != b"\x01"  # from version 2 on the length has four bytes
    field = stream.read(4 if wide else 2)
    length = int.from_bytes(field, "little")
    if length > LONGEST_HEADER:
        raise TraceError(f"refused, its header has {length:,} bytes")
    text = stream.read(length).decode("latin1")
    try:
        if "\\" in text or len(text) < length:
            raise ValueError
        parts = ast.literal_eval(text.strip())
        descr, fortran, shape = parts["descr"], parts["fortran_order"], parts["shape"]
        if len(parts) != 3 or type(fortran) is not bool or type(shape) is not tuple:
            raise ValueError
    except Exception:  # a crafted header can make the parser raise nearly anything
        raise TraceError("damaged, its header is not that of a .npy file") from None
    if not isinstance(descr, str) or not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248])", descr):
        raise TraceError(f"refused, of type {str(descr)[:40]}; expected floats or whole numbers")
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
        raise TraceError(f"damaged, of shape {str(shape)[:80]}")
    dtype = np.dtype(descr)
    start_of_values = 8 + len(field) + length
    nbytes, stored = prod(shape) * dtype.itemsize, size - start_of_values
    if nbytes != stored:
        raise TraceError(f"damaged, {shape} {dtype} takes {nbytes:,} bytes, there are {stored:,}")
    if nbytes > LARGEST:
        raise TraceError(f"refused, {nbytes:,} bytes are more than a layer has")
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
        if prod(header.shape) * header.dtype.itemsize > LARGEST:
            raise TraceError(f"refused, {header.shape} {header.dtype} is more than a layer has")
        return header

    def read(self, file: str) -> np.ndarray:
        self.header(file)
        return self._file.read(file)
