"""Arrays in files that nobody vouches for: .npy in a folder or a .npz, datasets in a .h5.

Read strictly and never unpickled: nothing is allocated before the size that a header promises is
the size there is, and whatever goes wrong is a TraceError of one line.
"""

import ast
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from tinymixnet.errors import TinyMixNetError, TraceError

if TYPE_CHECKING:
    import h5py

MANIFEST = "manifest.json"
LARGEST = 1 << 32  # bytes of a layer
LARGEST_MANIFEST = 1 << 22  # bytes
LONGEST_HEADER = 4096  # bytes of a .npy's header
MOST_FILES = 50_000  # in a folder: more, and it is not a dump but somebody's disk
CHUNK = 1 << 20  # bytes read or written at once
INFLATION = 1032  # deflated data never unpacks to more times its size
DTYPES = {f"float{bits}" for bits in (16, 32, 64)}
DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

Open = Callable[[str], AbstractContextManager[tuple[IO[bytes], int]]]  # a stream and its size


class Header(NamedTuple):
    """What a stored layer says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


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


def open_arrays(path: Path) -> "NpyFiles | Hdf5File":
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
        if start == b"\x89HDF\r\n\x1a\n":
            return Hdf5File(path)
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

    def header(self, file: str) -> Header:
        with self._open(file) as (stream, size):
            return read_header(stream, size)[0]

    def read(self, file: str) -> np.ndarray:
        with self._open(file) as (stream, size):
            (shape, dtype), fortran = read_header(stream, size)
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


def read_header(stream: IO[bytes], size: int) -> tuple[Header, bool]:
    """The header of a .npy of `size` bytes, and whether its first axis varies fastest.

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
    nbytes, there = prod(shape) * dtype.itemsize, size - 8 - len(field) - length
    if nbytes != there:
        raise TraceError(f"damaged, {shape} {dtype} takes {nbytes:,} bytes, there are {there:,}")
    if nbytes > LARGEST:
        raise TraceError(f"refused, {nbytes:,} bytes are more than a layer has")
    return Header(shape, dtype), fortran


class Hdf5File:
    """Layers that are datasets of an HDF5 file."""

    manifest = None

    def __init__(self, path: Path) -> None:
        import h5py

        self._file = h5py.File(path, "r", locking=False)
        self._datasets = _datasets(self._file)
        self._size = path.stat().st_size
        self.files = sorted(self._datasets, key=natural)

    def header(self, file: str) -> Header:
        from h5py import h5d, h5t, h5z

        dataset = self._datasets[file]
        kind, plist = dataset.id.get_type(), dataset.id.get_create_plist()
        number = isinstance(kind, (h5t.TypeFloatID, h5t.TypeIntegerID))
        if not number or dataset.dtype.name not in DTYPES or dataset.shape is None:
            raise TraceError("refused, neither floats nor whole numbers")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if filters not in ([], [h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]):
            raise TraceError(f"refused, filters {filters}; store it plain or with gzip")
        if plist.get_layout() == h5d.VIRTUAL or plist.get_external_count():
            raise TraceError("refused, its values lie in another file")
        stored = dataset.id.get_storage_size()
        most = stored * (INFLATION if filters else 1)
        if dataset.nbytes > LARGEST or stored > self._size or dataset.nbytes > most:
            raise TraceError(f"damaged, {dataset.nbytes:,} bytes, but {stored:,} are stored")
        return Header(dataset.shape, dataset.dtype)

    def read(self, file: str) -> np.ndarray:
        dataset = self._datasets[file]
        if not dataset.chunks:
            return dataset[()]
        array = np.empty(dataset.shape, dataset.dtype)
        if prod(dataset.chunks) * dataset.dtype.itemsize > 2 * max(array.nbytes, CHUNK):
            raise TraceError(f"refused, chunks {dataset.chunks} of an array {dataset.shape}")
        for box in dataset.iter_chunks():
            chunk = _unpack(dataset, tuple(cut.start for cut in box))
            array[box] = chunk[tuple(slice(cut.stop - cut.start) for cut in box)]
        return array


def _unpack(dataset: "h5py.Dataset", start: tuple[int, ...]) -> np.ndarray:
    """One chunk, unpacked here: the HDF5 library would go on for as long as the packed data do."""
    nbytes = prod(dataset.chunks) * dataset.dtype.itemsize
    info = dataset.id.get_chunk_info_by_coord(start)
    if info.byte_offset is None or info.size > 2 * nbytes + CHUNK:
        raise TraceError("damaged, a part of it is missing")
    skipped, data = dataset.id.read_direct_chunk(start)
    if dataset.compression and not skipped:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data, nbytes + 1)
    if len(data) != nbytes or skipped:
        raise TraceError("damaged, its packed data has another size")
    flat = np.frombuffer(data, np.uint8)
    if dataset.shuffle:  # the first bytes of all numbers, then all second bytes, ...
        flat = np.stack([*flat.reshape(dataset.dtype.itemsize, -1)], axis=-1)
    return flat.reshape(-1).view(dataset.dtype).reshape(dataset.chunks)


def _datasets(file: "h5py.File") -> dict[str, "h5py.Dataset"]:
    """All datasets by full name: in a bounded number of steps, and never into another file."""
    from h5py import Dataset, h5d, h5g, h5l, h5o

    found: dict[str, Dataset] = {}
    groups, objects = [("", file["/"].id)], 0
    for start, group in groups:  # grows as it goes; a group that contains itself soon is too much
        objects += group.get_num_objs()
        if objects > MOST_FILES or len(start) > LONGEST_HEADER:
            raise TraceError(f"refused, more than {MOST_FILES} arrays, or groups in themselves")
        for name in group:
            # A name with a slash in it would be looked up as a path, by way of any link.
            if b"/" in name or group.links.get_info(name).type != h5l.TYPE_HARD:
                raise TraceError(f"{start}{name.decode()}: refused, a soft or external link")
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                groups.append((f"{start}{name.decode()}/", item))
            # Already to ask a virtual dataset for its shape may open the files it is made of.
            elif isinstance(item, h5d.DatasetID):
                if item.get_create_plist().get_layout() == h5d.VIRTUAL:
                    raise TraceError(f"{start}{name.decode()}: refused, a virtual dataset")
                found[start + name.decode()] = Dataset(item)
    return found
