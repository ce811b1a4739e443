"""Read HDF5 files that may be damaged or hostile. All reading of HDF5 goes through this module.

The HDF5 library is written in C and trusts much of what a file says. So we use it as little as we
can. It only tells us which datasets there are, and at which bytes of the file their values lie. We
check these numbers against the size of the file, and then read and unpack the bytes ourselves.

Two rules follow from bugs that we met:

- The library never copies values for us. A chunk whose record claims more bytes than the chunk
  has made it write beyond the end of its buffer.
- h5py's own lock is held around every use of the library. Not all of h5py's functions take it, and
  two threads inside the library at once destroy its memory.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.errors import TinyMixNetError

if TYPE_CHECKING:  # h5py takes longer to import than all of ours: import it when a file comes
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_OBJECTS = 50_000  # datasets and groups in a file; a group that contains itself has no end
LONGEST_NAME = 4096  # bytes of a dataset's full name
LARGEST_TEXT = 65_536  # bytes of an attribute
INFLATION = 1032  # deflate never unpacks to more than this many times its size
SMALLEST_LIMIT = 1 << 20  # bytes: a chunk may always be this large, however small the array is


class Header(NamedTuple):
    """What a stored array says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Hdf5File:
    """The datasets of an open HDF5 file, by full name; `open_hdf5` makes one.

    Everything that is not a plain array of numbers or of fixed-length text raises TinyMixNetError.
    """

    def __init__(self, file: "h5py.File", path: Path) -> None:
        self._file = file
        self._path = path
        self._size = path.stat().st_size
        with _lock():
            self._datasets = _walk(file)
        self.names = list(self._datasets)

    def header(self, name: str) -> Header:
        """Shape and type of a dataset, once it is known that its values can be read."""
        with _lock():
            return self._header(name)

    def read(self, name: str) -> np.ndarray:
        """All values of a dataset."""
        with _lock():
            header = self._header(name)
            chunks, places = _places(self._datasets[name], header)
            packed = self._datasets[name].compression is not None
            shuffled = bool(self._datasets[name].shuffle)
        array = np.empty(header.shape, header.dtype)
        nbytes = prod(chunks) * header.dtype.itemsize
        for start, offset, size in places:
            data = self._bytes(offset, size)
            if packed:
                data = _inflate(data, nbytes)
            elif len(data) != nbytes:
                raise TinyMixNetError(f"damaged, a chunk has {len(data):,} bytes, not {nbytes:,}")
            if shuffled:
                data = _unshuffle(data, header.dtype.itemsize)
            box = tuple(
                slice(first, min(first + length, end))
                for first, length, end in zip(start, chunks, header.shape, strict=True)
            )
            chunk = np.frombuffer(data, header.dtype).reshape(chunks)
            array[box] = chunk[tuple(slice(side.stop - side.start) for side in box)]
        return array

    def attributes(self) -> dict[str, Any]:
        """The attributes of the root group as plain Python values."""
        with _lock():
            return {name: _attribute(self._file, name) for name in self._file.attrs}

    def _header(self, name: str) -> Header:
        from h5py import h5d, h5t, h5z

        dataset = self._datasets[name]
        kind, plist = dataset.id.get_type(), dataset.id.get_create_plist()
        text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
        number = isinstance(kind, (h5t.TypeFloatID, h5t.TypeIntegerID))
        if not (text or number) or dataset.shape is None:
            raise TinyMixNetError("refused, neither floats nor whole numbers nor fixed-length text")
        dtype = dataset.dtype
        if number and h5t.py_create(dtype) != kind:  # a float of 7 bits, say, that NumPy lacks
            raise TinyMixNetError("refused, numbers of a type that NumPy does not have")
        if plist.get_external_count():
            raise TinyMixNetError("refused, its values are stored in another file")
        if plist.get_layout() not in (h5d.CONTIGUOUS, h5d.CHUNKED):
            raise TinyMixNetError("refused, not stored as one run of bytes or in chunks")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if filters not in ([], [h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]):
            raise TinyMixNetError(f"refused, filters {filters}; store it plain or with gzip")
        nbytes = prod(dataset.shape) * dtype.itemsize
        if nbytes > self._size * (INFLATION if filters else 1):
            raise TinyMixNetError(
                f"damaged, {nbytes:,} bytes cannot be in a file of {self._size:,} bytes"
            )
        if dataset.chunks:
            chunk_bytes = prod(dataset.chunks) * dtype.itemsize
            if chunk_bytes > 2 * max(nbytes, SMALLEST_LIMIT):
                raise TinyMixNetError(
                    f"refused, chunks of {dataset.chunks} in an array of {dataset.shape}"
                )
        return Header(dataset.shape, dtype)

    def _bytes(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= offset + size <= self._size:
            raise TinyMixNetError("damaged, its values lie beyond the end of the file")
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[Hdf5File]:
    """Open an HDF5 file for reading. Raises TinyMixNetError or whatever h5py finds wrong."""
    import h5py

    with Path(path).open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:  # HDF5 would look for it further on, too
            raise TinyMixNetError("not an HDF5 file")
    with _lock():
        file = h5py.File(path, "r", locking=False)
    try:
        yield Hdf5File(file, Path(path))
    finally:
        with _lock():
            file.close()


def _lock() -> Any:
    """h5py's own lock; a thread that has it may take it again."""
    from h5py._objects import phil

    return phil


def _walk(file: "h5py.File") -> dict[str, "h5py.Dataset"]:
    """All datasets by full name, in a bounded number of steps, never following a link elsewhere."""
    from h5py import Dataset, h5d, h5g, h5l, h5o

    datasets: dict[str, Dataset] = {}
    groups, objects = [("", file["/"].id)], 0
    for start, group in groups:  # grows as it goes
        objects += group.get_num_objs()
        if objects > MOST_OBJECTS or len(start) > LONGEST_NAME:
            raise TinyMixNetError(f"refused, over {MOST_OBJECTS} arrays, or groups in themselves")
        for name in group:
            path = start + name.decode()
            # A name with a slash in it would be looked up as a path, which may contain any link.
            if b"/" in name or group.links.get_info(name).type != h5l.TYPE_HARD:
                raise TinyMixNetError(f"{path}: refused, a soft or external link")
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                groups.append((f"{path}/", item))
            elif not isinstance(item, h5d.DatasetID):
                raise TinyMixNetError(f"{path}: unexpected, neither an array nor a group of arrays")
            # Even to ask a virtual dataset for its shape may open the files that it is made of.
            elif item.get_create_plist().get_layout() == h5d.VIRTUAL:
                raise TinyMixNetError(f"{path}: refused, a virtual dataset")
            else:
                datasets[path] = Dataset(item)
    return datasets


def _places(
    dataset: "h5py.Dataset", header: Header
) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], int, int]]]:
    """The shape of a chunk, and where each one lies: (first index, offset in the file, bytes)."""
    nbytes = prod(header.shape) * header.dtype.itemsize
    if not nbytes:
        return header.shape, []
    if not dataset.chunks:
        offset = dataset.id.get_offset()
        if offset is None:
            raise TinyMixNetError("damaged, nothing is stored")
        return header.shape, [((0,) * len(header.shape), offset, nbytes)]
    most = 2 * prod(dataset.chunks) * header.dtype.itemsize + SMALLEST_LIMIT
    places = []
    for box in dataset.iter_chunks():
        start = tuple(side.start for side in box)
        info = dataset.id.get_chunk_info_by_coord(start)
        if info.byte_offset is None or info.size > most or info.filter_mask:
            raise TinyMixNetError("damaged, a part of it is missing")
        places.append((start, info.byte_offset, info.size))
    return dataset.chunks, places


def _inflate(data: bytes, nbytes: int) -> bytes:
    """Unpack a chunk to exactly `nbytes`; a bomb stops one byte later."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, nbytes + 1)
    if len(unpacked) != nbytes or not unpacker.eof:
        raise TinyMixNetError("damaged, its packed data has another size")
    return unpacked


def _unshuffle(data: bytes, itemsize: int) -> bytes:
    """HDF5's shuffle stores the first bytes of all numbers, then all second bytes, and so on."""
    planes = np.frombuffer(data, np.uint8).reshape(itemsize, -1)
    return np.stack([*planes], axis=-1).tobytes()


def _attribute(file: "h5py.File", name: str) -> Any:
    """An attribute as str, int, float, bool or a tuple of up to three of them."""
    from h5py import h5a, h5t

    attribute = h5a.open(file.id, name.encode())
    kind = attribute.get_type()
    plain = isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID))
    plain |= isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    few = attribute.shape is not None and prod(attribute.shape) <= 3
    if not plain or not few or attribute.get_storage_size() > LARGEST_TEXT:
        raise TinyMixNetError(f"attribute {name}: neither numbers nor text of fixed length")
    value = file.attrs[name]
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = value.decode() if isinstance(value, bytes) else value
    return tuple(value) if isinstance(value, list) else value
