"""Traces: every layer of one run, one .npy a layer, read strictly and never unpickled.

    a folder   manifest.json, stem/conv.npy, blocks_3/expand_conv.npy, ...
    a .npz     the same, each file a member
    a .h5      other people's only: one dataset a layer

docs/traces.md has the format. What has no manifest is a dump of somebody else's network, and
`dumps.py` finds out which layer is which.
"""

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinymixnet.debug.arrays import (
    CHUNK,
    DTYPES,
    LARGEST,
    MANIFEST,
    MOST_FILES,
    open_arrays,
    reading,
)
from tinymixnet.engine import __version__
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.files import atomic_write
from tinymixnet.engine.hdf5 import Header
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError, TraceError
from tinymixnet.model import Model

FORMAT, VERSION = "tinymixnet trace", 1
DUMP = "tinymixnet dump"  # what `write_dump` makes: layers in order, of a network that is not ours

Create = Callable[[str], AbstractContextManager[IO[bytes]]]


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
        self._store = open_arrays(path)
        self._files = {file.removesuffix(".npy"): file for file in self._store.files}
        self._promised: dict[str, tuple[tuple[int, ...], str]] = {}
        if self._store.manifest is not None:
            with reading(path / MANIFEST):
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
        with reading(self.path / self._file(name)):
            header = self._store.header(self._file(name))
            found = (header.shape, header.dtype.name)
            promised = self._promised.get(name, found)
            if found != promised:
                raise TraceError(f"is {found}, but {MANIFEST} says {promised}: record it anew")
        return header

    def __getitem__(self, name: str) -> np.ndarray:
        self.header(name)
        with reading(self.path / self._file(name)):
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
    with atomic_write(final) as beside, zipfile.ZipFile(beside, "w") as archive:
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
    manifest = manifest_of(model, images, image_name, preprocessing)
    layers = ((name, layer) for name, layer in model.layers(images) if name in wanted)
    write_trace(path, layers, manifest)
    return len(wanted)


def manifest_of(
    model: Model, images: np.ndarray, image_name: str = "", preprocessing: str = ""
) -> Manifest:
    """What a trace of this run says of itself; images (N, H, W, 3) float32."""
    about = model.metadata
    return Manifest(
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
