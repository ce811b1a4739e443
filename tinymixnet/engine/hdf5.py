"""Read HDF5 files that may be damaged or hostile. All reading of HDF5 goes through this module.

`hdf5_structure.py` tells which datasets there are and at which bytes of the file their values lie.
Here these bytes are read and unpacked, by us and not by the HDF5 library. In the library, a chunk
whose record claimed too many bytes led to writes beyond the end of a buffer. No size from the file
is believed before it is compared with the size of the file, and nothing is allocated before the
budget allows it.
"""

import os
import re
import sys
import zlib
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tinymixnet.engine import hdf5_structure
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5_structure import Dataset, Structure, describe, parse_structure
from tinymixnet.errors import TinyMixNetError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHILD_SECONDS = 60  # that the description of a file may take
LARGEST_DESCRIPTION = 1 << 28  # bytes that the child process may print
DEFLATE, SHUFFLE = 1, 2  # HDF5's numbers of its filters
READABLE = re.compile(r"[<>|=](f[248]|[iu][1248]|S[0-9]{1,9})")  # types, as NumPy writes them


class Header(NamedTuple):
    """What a stored array says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Hdf5File:
    """The arrays of an HDF5 file, by full name. Everything wrong with it raises TinyMixNetError.

    With `isolated` the structure of the file is read in another process, which may crash or hang
    without harm. That takes a moment longer. Without it, this happens only for files that have no
    checksums on their structures. Those that we write have them.
    """

    def __init__(self, path: str | os.PathLike[str], isolated: bool) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            start = file.read(len(SIGNATURE) + 1)
            self._size = os.fstat(file.fileno()).st_size
        if not start.startswith(SIGNATURE):  # the library would also search later in the file
            raise TinyMixNetError("not an HDF5 file")
        checksummed = start[len(SIGNATURE) :] >= b"\x02"  # the version of the superblock
        here = checksummed and not isolated
        self.structure = describe(self.path) if here else describe_in_child(self.path)

    def header(self, name: str) -> Header:
        """Shape and type of an array that can be read."""
        dataset = self._dataset(name)
        return Header(dataset.shape, np.dtype(dataset.dtype))

    def read(self, name: str) -> np.ndarray:
        """All values of an array."""
        return self.read_all([name])[name]

    def read_all(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """All values of some arrays. The file is opened once."""
        with self.path.open("rb") as file:
            return {name: self._values(name, file) for name in names}

    def _values(self, name: str, file: BinaryIO) -> np.ndarray:
        dataset, (shape, dtype) = self._dataset(name), self.header(name)
        chunks = dataset.chunks or shape
        array = np.empty(shape, dtype)
        nbytes = prod(chunks) * dtype.itemsize
        for start, offset, size in dataset.places:
            if not 0 <= offset <= offset + size <= self._size:
                raise TinyMixNetError("damaged, its values lie beyond the end of the file")
            file.seek(offset)
            data = file.read(size)
            if DEFLATE in dataset.filters:
                data = _inflate(data, nbytes)
            if len(data) != nbytes:
                raise TinyMixNetError(f"damaged, {len(data):,} bytes instead of {nbytes:,}")
            flat = np.frombuffer(data, np.uint8)
            if SHUFFLE in dataset.filters:
                flat = _unshuffle(flat, dtype.itemsize)
            place = tuple(
                slice(first, min(first + length, end))
                for first, length, end in zip(start, chunks, shape, strict=True)
            )
            inside = tuple(slice(side.stop - side.start) for side in place)
            array[place] = flat.view(dtype).reshape(chunks)[inside]
        return array

    def _dataset(self, name: str) -> Dataset:
        dataset = self.structure.datasets[name]
        if dataset.problem:
            raise TinyMixNetError(dataset.problem)
        if not READABLE.fullmatch(dataset.dtype):
            raise TinyMixNetError(f"refused, type {dataset.dtype[:40]}")
        return dataset


def describe_in_child(path: Path) -> Structure:
    """As `describe`, in another process: if that crashes or hangs, it is the file's fault."""
    import subprocess  # slow to import, and only needed here
    import tempfile

    search = [*sys.path, str(Path(__file__).resolve().parents[2])]
    module = hdf5_structure.__name__
    code = (
        f"import sys; sys.path[:] = {search}; from {module} import print_structure; "
        f"print_structure(sys.argv[1], {budget.dump_layers})"
    )
    with tempfile.TemporaryFile() as output:
        try:
            status = subprocess.run(
                [sys.executable, "-c", code, os.path.abspath(path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=CHILD_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            raise TinyMixNetError(
                f"refused, the HDF5 library needs over {CHILD_SECONDS} s to see what is in it"
            ) from None
        if status:
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            raise TinyMixNetError(f"damaged, it makes the HDF5 library crash ({how})")
        output.seek(0)
        text = output.read(LARGEST_DESCRIPTION + 1)
    if len(text) > LARGEST_DESCRIPTION:
        raise TinyMixNetError("refused, far too many arrays and chunks")
    return parse_structure(text)


def _inflate(data: bytes, nbytes: int) -> bytes:
    """Unpack a chunk that should have `nbytes`; stop one byte later, if there are more."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, nbytes + 1)
    if len(unpacked) != nbytes or not unpacker.eof:
        raise TinyMixNetError("damaged, its packed data has another size")
    return unpacked


def _unshuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """HDF5's shuffle stores the first bytes of all numbers, then all second bytes, and so on."""
    return np.stack([*data.reshape(itemsize, -1)], axis=-1).reshape(-1)
