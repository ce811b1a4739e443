"""Traces: every layer of one run, one .npy a layer, read strictly and never unpickled.

    a folder   manifest.json, stem/conv.npy, blocks_3/expand_conv.npy, ...
    a .npz     the same, each file a member
    a .h5      other people's only: one dataset a layer

docs/traces.md has the format. What has no manifest is a dump of somebody else's network, and
`dumps.py` finds out which layer is which.
"""

import ast
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet import __version__
from tinymixnet.architecture import Architecture
from tinymixnet.errors import InputError, TinyMixNetError, TraceError
from tinymixnet.model import Model, check_pixels
from tinymixnet.weights import written_whole

if TYPE_CHECKING:
    import h5py

FORMAT, VERSION = "tinymixnet trace", 1
DUMP = "tinymixnet dump"  # what `write_dump` makes: layers in order, of a network that is not ours
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
Create = Callable[[str], AbstractContextManager[IO[bytes]]]


class Header(NamedTuple):
    """What a stored layer says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Manifest:
    """What a trace was made of, and its layers as (name, shape, dtype) in the network's order."""

    architecture: Architecture
    image_shape: tuple[int, ...]  # N, H, W, 3
    image_sha256: str  # `image_hash` of the pixels
    weights_sha256: str  # `weights_hash` of the model
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: float
    weights_name: str = ""
    image_name: str = ""
    preprocessing: str = ""  # the preset; empty: the pixels came as they are
    made_by: str = f"tinymixnet {__version__}"
    layout: str = "NHWC"
    version: int = VERSION
    layers: tuple[tuple[str, tuple[int, ...], str], ...] = ()


# -- reading --------------------------------------------------------------------------------------


class Trace:
    """A trace or a foreign dump, opened: a layer is read when it is asked for, and not kept.

    trace[name] gives the layer as it is stored, trace.header(name) its shape and type without
    reading it. `names` are in the manifest's order; without one in a .npz's own order, else in
    natural order (layer_2 before layer_10). Whatever is wrong raises TraceError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self._store = _store(path)
        self._files = {file.removesuffix(".npy"): file for file in self._store.files}
        self._promised: dict[str, tuple[tuple[int, ...], str]] = {}
        if self._store.manifest is not None:
            with _reading(path / MANIFEST):
                self.manifest, layers = _read_manifest(self._store.manifest)
                self._files = {name: file for name, file, _, _ in layers}
                self._promised = {name: (shape, dtype) for name, _, shape, dtype in layers}
                there = set(self._store.files)
                absent = [file for file in self._files.values() if file not in there]
                if absent:
                    raise TraceError(
                        f"lists {absent[0][:80]!r}, which is not there: record it anew"
                    )
        self.names = list(self._files)
        if not self.names:
            raise TraceError(f"{path}: no layers, expected .npy files, or arrays in a .npz or .h5")

    def header(self, name: str) -> Header:
        """Shape and type of a layer; its size on disk and the manifest agree with them."""
        with _reading(self.path / self._file(name)):
            header = self._store.header(self._file(name))
            found = (header.shape, header.dtype.name)
            promised = self._promised.get(name, found)
            if found != promised:
                raise TraceError(f"is {found}, but {MANIFEST} says {promised}: record it anew")
        return header

    def __getitem__(self, name: str) -> np.ndarray:
        self.header(name)
        with _reading(self.path / self._file(name)):
            return self._store.read(self._file(name))

    def _file(self, name: str) -> str:
        if name not in self._files:
            raise TraceError(f"{self.path}: no layer {name!r}")
        return self._files[name]


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Open a folder of .npy files, a .npz or a .h5, with a manifest.json or without.

    Raises TraceError for what is none of these, is damaged or has nothing in it.
    """
    return Trace(Path(path))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
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


def _store(path: Path) -> "_Npys | _Hdf5":
    """Where the layers lie, by what the path is."""
    with _reading(path):
        if path.is_dir():
            return _Npys(*_folder(path))
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError("neither a folder nor a file")
        with path.open("rb") as file:
            start = file.read(8)
        if start[:4] == b"PK\x03\x04":
            return _Npys(*_archive(path))
        if start == b"\x89HDF\r\n\x1a\n":
            return _Hdf5(path)
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


class _Npys:
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


class _Hdf5:
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


# -- the manifest ---------------------------------------------------------------------------------


def _read_manifest(
    data: bytes,
) -> tuple[Manifest | None, list[tuple[str, str, tuple[int, ...], str]]]:
    """What manifest.json says, and the layers as (name, file, shape, dtype); None for a dump."""
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON ({error})") from None
    if not isinstance(about, dict) or about.get("format") not in (FORMAT, DUMP):
        raise TraceError(f"not a trace's: expected format {FORMAT!r}; other dumps need no manifest")
    if about.get("version") != VERSION:
        found = str(about.get("version"))[:40]
        raise TraceError(f"expected version {VERSION}, found {found}: record it anew")
    layers = [_layer(entry) for entry in _typed(about, "layers", list)]
    if len({name for name, *_ in layers}) < len(layers):
        raise TraceError("lists a layer twice")
    if about["format"] == DUMP:
        return None, layers
    architecture = _typed(about, "architecture", dict)
    network = Architecture(
        variant=_typed(architecture, "variant", str),
        block_strings=tuple(_list(architecture, "block_strings", str)),
        stem_filters=_typed(architecture, "stem_filters", int),
        head_filters=_typed(architecture, "head_filters", int),
        multiplier=_typed(architecture, "multiplier", float),
        classes=_typed(architecture, "classes", int),
    )
    image_shape = tuple(_list(about, "image_shape", int, 4))
    if min(image_shape) < 1 or max(image_shape) > CHUNK:
        raise TraceError(f"image_shape: expected [N, H, W, 3], found {image_shape}")
    texts = "image_sha256 weights_sha256 weights_name image_name preprocessing made_by layout"
    if about.get("layout") != "NHWC":
        raise TraceError("layout: expected NHWC")
    return Manifest(
        architecture=network,
        image_shape=image_shape,
        mean=tuple(_list(about, "mean", float, 3)),
        std=tuple(_list(about, "std", float, 3)),
        epsilon=_typed(about, "epsilon", float),
        **{name: _typed(about, name, str) for name in texts.split()},
        layers=tuple((name, shape, dtype) for name, _, shape, dtype in layers),
    ), layers


def _layer(entry: Any) -> tuple[str, str, tuple[int, ...], str]:
    if not isinstance(entry, dict):
        raise TraceError("layers: expected objects with name, shape and dtype")
    name, dtype = _typed(entry, "name", str), _typed(entry, "dtype", str)
    file = _typed({"file": f"{name}.npy", **entry}, "file", str)
    parts = file.split("/")
    bad = any(part[:1] in ("", ".") for part in parts) or re.search(r"[\\:\0]", file)
    if bad or not file.endswith(".npy"):
        raise TraceError(f"refused, the file {file[:80]!r} may lie outside the trace")
    return name, file, tuple(_list(entry, "shape", int)), dtype


def _typed(about: Mapping[str, Any], key: str, kind: type) -> Any:
    value = about.get(key)
    if kind is float and type(value) is int and abs(value) < CHUNK:
        value = float(value)
    usable = not isinstance(value, (int, float)) or abs(value) < LARGEST  # NaN is not
    if type(value) is not kind or not usable:
        raise TraceError(f"{key}: expected {kind.__name__}, found {str(value)[:80]!r}")
    return value


def _list(about: Mapping[str, Any], key: str, kind: type, length: int | None = None) -> list[Any]:
    values = _typed(about, key, list)
    if length not in (None, len(values)):
        raise TraceError(f"{key}: expected {length} values, found {len(values)}")
    return [_typed({key: value}, key, kind) for value in values]


# -- writing --------------------------------------------------------------------------------------


def write_trace(
    path: str | os.PathLike[str], layers: Iterable[tuple[str, np.ndarray]], manifest: Manifest
) -> None:
    """Write a trace as its layers come: a .npz where the path ends so, else a folder.

    Only one layer is held at a time; the manifest's own `layers` are not looked at. The trace takes
    its name when it is whole. An older trace of that name is replaced; anything else there, and
    whatever cannot be written, raises TraceError.
    """
    about = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    del about["layers"]
    _write(path, layers, about, lambda name: f"{name}.npy")


def write_dump(
    path: str | os.PathLike[str], layers: Iterable[tuple[str, np.ndarray]], made_by: str = ""
) -> None:
    """As `write_trace`, but of any network, whatever its layers are called: a foreign dump."""
    about = {"format": DUMP, "version": VERSION, "made_by": made_by}
    count = iter(range(MOST_FILES))
    plain = re.compile("[^A-Za-z0-9._-]+")
    _write(path, layers, about, lambda name: f"{next(count):04}_{plain.sub('_', name)[-100:]}.npy")


def _write(
    path: str | os.PathLike[str],
    layers: Iterable[tuple[str, np.ndarray]],
    about: dict[str, Any],
    file_of: Callable[[str], str],
) -> None:
    final = Path(os.path.realpath(path))
    listed: dict[str, dict[str, Any]] = {}
    try:
        _see_replaceable(final)
        with (_new_archive if final.suffix == ".npz" else _new_folder)(final) as create:
            for name, layer in layers:
                array = np.asarray(layer, order="C")
                entry = {"name": name, "shape": array.shape, "dtype": array.dtype.name}
                file = file_of(name)
                _layer({**entry, "shape": [*array.shape], "file": file})
                if array.dtype.name not in DTYPES or name in listed:
                    raise TraceError(f"{name}: {array.dtype}, or a second layer of this name")
                with create(file) as stream:
                    _write_npy(stream, array)
                listed[name] = entry if file == f"{name}.npy" else {**entry, "file": file}
            with create(MANIFEST) as stream:
                stream.write(_json(about, [*listed.values()]).encode())
    except TraceError as error:
        raise TraceError(f"{path}: not written, {error}") from None
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise TraceError(f"{path}: cannot be written ({what})") from None


def _json(about: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    """manifest.json, with a line for each fact and each layer."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    rows = ",\n  ".join(map(json.dumps, layers))
    return "{\n " + ",\n ".join([*lines, f'"layers": [\n  {rows}\n ]']) + "\n}\n"


def _write_npy(stream: IO[bytes], array: np.ndarray) -> None:
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), CHUNK):
        stream.write(data[start : start + CHUNK])


@contextmanager
def _new_archive(final: Path) -> Iterator[Create]:
    with written_whole(final) as beside, zipfile.ZipFile(beside, "w") as archive:
        yield lambda file: archive.open(zipfile.ZipInfo(file), "w", force_zip64=True)


@contextmanager
def _new_folder(final: Path) -> Iterator[Create]:
    """A hidden folder beside, which takes the name in the end; the older one goes only then."""
    beside = Path(tempfile.mkdtemp(prefix=f".{final.name[:50]}.", suffix=".tmp", dir=final.parent))
    new, old = beside / "new", beside / "old"

    @contextmanager
    def create(file: str) -> Iterator[IO[bytes]]:
        (new / file).parent.mkdir(parents=True, exist_ok=True)
        with open(new / file, "xb") as stream:
            yield stream

    try:
        new.mkdir()
        yield create
        _see_replaceable(final)
        if final.exists():
            os.replace(final, old)
        try:
            os.replace(new, final)
        except BaseException:
            if old.exists():
                os.replace(old, final)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _see_replaceable(final: Path) -> None:
    """Raise TraceError unless there is nothing, or a trace of ours with nothing added to it."""
    if not final.parent.is_dir():
        raise TraceError(f"no folder {final.parent}")
    if final.suffix in (".h5", ".hdf5", ".npy"):
        raise TraceError("a trace is a folder or a .npz")
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    with suppress(TraceError):
        trace = Trace(final)
        kind = zipfile.is_zipfile(final) == (final.suffix == ".npz")
        there = {p.relative_to(final).as_posix() for p in final.rglob("*") if not p.is_dir()}
        if trace._promised and kind and there <= {MANIFEST, *trace._files.values()}:
            return
    raise TraceError("something else than a trace is there already: name another place")


# -- recording ------------------------------------------------------------------------------------


def record(
    model: Model,
    pixels: np.ndarray,
    path: str | os.PathLike[str],
    patterns: Sequence[str] = ("*",),
    image_name: str = "",
    preprocessing: str = "",
) -> int:
    """Run the model and write the layers that fit a pattern ('blocks_3/*'); returns how many.

    pixels as for `Model`. Raises InputError for a pattern that no layer fits, and TraceError as
    `write_trace` does.
    """
    images = check_pixels(pixels).astype(np.float32)
    names = model.architecture.layer_shapes(*images.shape[1:3])
    wanted = {name for name in names if any(fnmatchcase(name, p) for p in patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"no layer is called {pattern!r}: see `tinymixnet summary`")
    about = model.metadata
    manifest = Manifest(
        architecture=model.architecture,
        image_shape=images.shape,
        image_sha256=image_hash(images),
        weights_sha256=weights_hash(model),
        mean=about.mean,
        std=about.std,
        epsilon=about.epsilon,
        weights_name=about.name,
        image_name=image_name,
        preprocessing=preprocessing,
    )
    layers = ((name, layer) for name, layer in model.layers(images) if name in wanted)
    write_trace(path, layers, manifest)
    return len(wanted)


def image_hash(pixels: np.ndarray) -> str:
    """SHA-256 of the pixels as float32, NHWC, in C order, little-endian."""
    return sha256(np.ascontiguousarray(pixels, "<f4").data).hexdigest()


def weights_hash(model: Model) -> str:
    """SHA-256 of all tensors by name, shape and values, whatever file they came in."""
    digest = sha256()
    for name, tensor in sorted(model.tensors.items()):
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor, "<f4").data)
    return digest.hexdigest()
