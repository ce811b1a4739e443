"""Traces: every layer of one run, one .npy a layer.

    a folder   manifest.json, stem/conv.npy, blocks_3/expand_conv.npy, ...
    a .npz     the same, each file a member
    a .h5      only from other programs: one dataset a layer

docs/traces.md describes the format. A file without a manifest is a dump of another program's
network; then `dumps.py` decides which tensor is which layer.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinymixnet.debug.arrays import CHUNK, DTYPES, LONGEST_NAME, MANIFEST, open_arrays, reading
from tinymixnet.debug.checks import as_path, expect
from tinymixnet.debug.manifest import (
    DUMP,
    FORMAT,
    MADE_BY,
    VERSION,
    Manifest,
    check_layer,
    manifest_layers,
    manifest_of,
    manifest_text,
    our_manifest,
    read_manifest,
    typed_field,
)
from tinymixnet.debug.quantization import read_quantization
from tinymixnet.engine.budget import budget
from tinymixnet.engine.files import atomic_folder, atomic_write, check_output
from tinymixnet.engine.hdf5 import Header
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError, TinyMixNetError, TraceError, printable, short_repr
from tinymixnet.model import Model

Create = Callable[[str], AbstractContextManager[IO[bytes]]]


# -- reading --------------------------------------------------------------------------------------


class Trace:
    """An open trace or foreign dump. A layer is read each time it is asked for, and not kept.

    trace[name] returns the layer as it is stored; integers that have a scale (`quantization.py`) as
    the numbers that they stand for. trace.header(name) is its shape and type, without its values.
    `names` are in the order of the manifest. Without a manifest they are in the order of the .npz,
    or in natural order (layer_2 before layer_10). Whatever is wrong raises TraceError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self.format = ""  # the manifest's, with the two below; empty without one
        self.made_by = ""
        self.exercise: dict[str, Any] = {}  # of a dump that `tinymixnet break` has made
        self._store = open_arrays(path)
        self._files = {file.removesuffix(".npy"): file for file in self._store.files}
        self._promised: dict[str, tuple[tuple[int, ...], str]] = {}  # name -> (shape, dtype)
        if self._store.manifest is not None:
            with reading(path / MANIFEST):
                fields = read_manifest(self._store.manifest)
                self.format, self.made_by = fields["format"], str(fields.get("made_by", ""))
                if "exercise" in fields:
                    self.exercise = typed_field(fields, "exercise", dict)
                layers = manifest_layers(fields)
                self.manifest = our_manifest(fields, layers) if self.format == FORMAT else None
                self._files = {name: file for name, file, _, _ in layers}
                self._promised = {name: (shape, dtype) for name, _, shape, dtype in layers}
                stored = set(self._store.files)
                absent = [file for file in self._files.values() if file not in stored]
                if absent:
                    raise TraceError(
                        f"lists {absent[0][:80]!r}, which is not there: record it anew"
                    )
        self.names = list(self._files)
        with reading(path):
            budget.check("dump_layers", len(self.names), "a dump")
            if not self.names:
                raise TraceError("no layers, expected .npy files, or arrays in a .npz or .h5")
            longest = max(map(len, self.names))
            if longest > LONGEST_NAME:
                raise TraceError(
                    f"refused, a name has {longest:,} characters, expected at most {LONGEST_NAME}"
                )
        # name -> how its integers are read
        self.quantization = read_quantization(
            path, set(self.names), lambda name: self.header(name).shape
        )

    def __repr__(self) -> str:
        kind = self.format or "foreign dump"
        return f"Trace({printable(self.path)}, {printable(kind)}, {len(self.names)} layers)"

    def header(self, name: str) -> Header:
        """Return shape and type of a layer; its size on disk and the manifest agree with them."""
        with reading(self.path / self._file(name)):
            header = self._store.header(self._file(name))
            stored = (header.shape, header.dtype.name)
            promised = self._promised.get(name, stored)
            if stored != promised:
                raise TraceError(f"is {stored}, but {MANIFEST} says {promised}: record it anew")
        return header

    def __getitem__(self, name: str) -> np.ndarray:
        self.header(name)
        with reading(self.path / self._file(name)):
            x = self._store.read(self._file(name))
        scales = self.quantization.get(name)
        return scales.real(x) if scales and x.dtype.kind in "iu" else x

    def _file(self, name: str) -> str:
        if not isinstance(name, str) or name not in self._files:
            raise TraceError(f"{self.path}: no layer {short_repr(name)}")
        return self._files[name]


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Open a folder of .npy files, a .npz or a .h5, with a manifest.json or without.

    Raises InputError for what is not a path, and TraceError for what is none of these, is damaged
    or has no layers.

    >>> open_trace("trace")["stem/conv"].shape
    (1, 112, 112, 32)
    """
    return Trace(as_path(path))


# -- writing --------------------------------------------------------------------------------------


def write_trace(
    path: str | os.PathLike[str],
    layers: Iterable[tuple[str, np.ndarray]],
    manifest: Manifest,
    inputs: Iterable[Any] = (),
    force: bool = False,
) -> None:
    """Write a trace while its layers come: a .npz if the path ends so, else a folder.

    Only one layer is held in memory. `manifest.layers` is ignored, the layers that come are listed
    instead. The trace takes its name only when it is whole. Only an older trace of ours is
    replaced, and nothing that is one of the `inputs` (see `check_output`, also for `force`).
    Anything else that is there, and whatever cannot be written, raises TraceError.
    """
    fields = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(expect(manifest, Manifest, "manifest")),
    }
    del fields["layers"]

    def is_own(trace: Trace) -> bool:
        return trace.format == FORMAT and trace.made_by.split(" ")[0] == MADE_BY

    check = _checker(path, is_own, inputs, force)
    _write(path, layers, fields, lambda name: f"{name}.npy", check)


def write_dump(
    path: str | os.PathLike[str],
    layers: Iterable[tuple[str, np.ndarray]],
    made_by: str = "",
    inputs: Iterable[Any] = (),
    force: bool = False,
    exercise: dict[str, Any] | None = None,
) -> None:
    """Write a foreign dump: as `write_trace`, but of any network, with layers of any name.

    Only an older dump with the same `made_by` is replaced. exercise: what `break` notes in the
    manifest of its dumps, as values that JSON has.
    """
    fields = {"format": DUMP, "version": VERSION, "made_by": expect(made_by, str, "made_by")}
    if exercise is not None:
        fields["exercise"] = expect(exercise, dict, "exercise")
    unsafe = re.compile("[^A-Za-z0-9._-]+")
    count = iter(range(budget.dump_layers + 1))
    _write(
        path,
        layers,
        fields,
        lambda name: f"{next(count):04}_{unsafe.sub('_', name)[-100:]}.npy",
        _dump_checker(path, made_by, inputs, force),
    )


def check_dump(
    path: str | os.PathLike[str], made_by: str = "", inputs: Iterable[Any] = (), force: bool = False
) -> None:
    """Raise TraceError unless `write_dump` may write to `path`, before any work is done."""
    try:
        _dump_checker(path, made_by, inputs, force)()
    except TraceError as error:
        raise TraceError(f"{as_path(path)}: not written, {error}") from None


def _dump_checker(
    path: str | os.PathLike[str], made_by: str, inputs: Iterable[Any], force: bool
) -> Callable[[], None]:
    def is_own(trace: Trace) -> bool:
        return trace.format == DUMP and trace.made_by == made_by

    return _checker(path, is_own, inputs, force)


def _checker(
    path: str | os.PathLike[str],
    is_own: Callable[["Trace"], bool],
    inputs: Iterable[Any],
    force: bool,
) -> Callable[[], None]:
    """Return a function that raises TraceError unless a trace may be written to `path`."""
    final = as_path(path)
    if not isinstance(inputs, (list, tuple, set, frozenset)):
        raise InputError(f"inputs: expected a list of paths, found {short_repr(inputs)}")
    sources = list(inputs)
    expect(force, bool, "force")

    def check() -> None:
        if final.suffix in (".h5", ".hdf5", ".npy"):
            raise TraceError("a trace is a folder or a .npz")
        try:
            own = partial(_is_trace, is_own=is_own)
            archive = final.suffix == ".npz"
            check_output(final, sources, own, folder=not archive, force=force)
        except InputError as error:
            raise TraceError(str(error).removeprefix(f"{printable(final)}: ")) from None

    return check


def _write(
    path: str | os.PathLike[str],
    layers: Iterable[tuple[str, np.ndarray]],
    fields: dict[str, Any],
    file_of: Callable[[str], str],
    check: Callable[[], None],
) -> None:
    final = as_path(path)
    listed: dict[str, dict[str, Any]] = {}
    archive = final.suffix == ".npz"
    try:
        check()
        with _new_archive(final) if archive else _new_folder(final, check) as create:
            for layer in expect(layers, Iterable, "layers"):  # type: ignore[type-abstract]
                name, array = _named(layer)
                entry = {"name": name, "shape": array.shape, "dtype": array.dtype.name}
                file = file_of(name)
                check_layer({**entry, "shape": [*array.shape], "file": file})
                if array.dtype.name not in DTYPES or name in listed:
                    raise TraceError(f"{name}: {array.dtype}, or a second layer of this name")
                budget.check("layer_bytes", array.nbytes, f"the layer {name}")
                budget.check("dump_layers", len(listed) + 1, "a dump")
                with create(file) as stream:
                    _write_npy(stream, array)
                listed[name] = entry if file == f"{name}.npy" else {**entry, "file": file}
            with create(MANIFEST) as stream:
                stream.write(manifest_text(fields, [*listed.values()]).encode())
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{final}: cannot be written ({reason})") from None
    except TinyMixNetError as error:
        if type(error) not in (TraceError, TinyMixNetError):  # raised by the iterator of layers
            raise
        raise TraceError(f"{final}: not written, {error}") from None


def _named(layer: Any) -> tuple[str, np.ndarray]:
    """Return a (name, array) that somebody handed in, checked."""
    if not isinstance(layer, tuple) or len(layer) != 2 or not isinstance(layer[0], str):
        raise InputError(f"layers: expected pairs of name and array, found {type(layer).__name__}")
    name, values = layer
    if len(name) > LONGEST_NAME:
        raise TraceError(f"{name[:40]!r}...: a name of over {LONGEST_NAME} characters")
    try:
        return name, np.asarray(values, order="C")
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: not an array ({error})") from None


def _write_npy(stream: IO[bytes], array: np.ndarray) -> None:
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), CHUNK):
        stream.write(data[start : start + CHUNK])


@contextmanager
def _new_archive(final: Path) -> Iterator[Create]:
    import zipfile  # slow to import

    with atomic_write(final) as new, zipfile.ZipFile(new, "w") as archive:
        yield lambda file: archive.open(zipfile.ZipInfo(file), "w", force_zip64=True)


@contextmanager
def _new_folder(final: Path, check: Callable[[], None]) -> Iterator[Create]:
    with atomic_folder(final) as new:

        @contextmanager
        def create(file: str) -> Iterator[IO[bytes]]:
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            with open(new / file, "xb") as stream:
                yield stream

        yield create
        check()  # recording takes a while: is there still nothing else?


def _is_trace(place: Path, is_own: Callable[[Trace], bool]) -> bool:
    """Whether a trace of the right kind is there, with nothing added to it."""
    with suppress(TinyMixNetError):
        trace = Trace(place)
        if not trace.names or not is_own(trace):
            return False
        if not place.is_dir():
            return place.suffix == ".npz"
        expected = {MANIFEST, *trace._files.values()}
        folders = {parent.as_posix() for file in expected for parent in Path(file).parents}
        return all(
            entry.relative_to(place).as_posix() in (folders if entry.is_dir() else expected)
            for entry in place.rglob("*")
        )
    return False


# -- recording ------------------------------------------------------------------------------------


def record(
    model: Model,
    pixels: np.ndarray,
    path: str | os.PathLike[str],
    patterns: Sequence[str] = ("*",),
    image_name: str = "",
    preprocessing: str = "",
    inputs: Iterable[Any] = (),
    force: bool = False,
) -> int:
    """Run the model, write the layers that fit a pattern ('blocks_3/*'), and return how many.

    pixels (N, H, W, 3) as for `Model`. inputs and force as in `write_trace`. Raises InputError for
    a pattern that no layer fits, and TraceError as `write_trace` does.

    >>> record(model, pixels, "trace", ["stem/*", "logits"])
    4
    """
    expect(model, Model, "model")
    expect(image_name, str, "image_name")
    expect(preprocessing, str, "preprocessing")
    texts = isinstance(patterns, (list, tuple))
    if not texts or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"patterns: expected a list of texts, found {short_repr(patterns)}")
    images = check_pixels(pixels).astype(np.float32)
    names = model.architecture.layer_shapes(*images.shape[1:3])
    wanted = {name for name in names if any(fnmatchcase(name, p) for p in patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"no layer is called {pattern!r}: see `tinymixnet summary`")
    manifest = manifest_of(model, images, image_name, preprocessing)
    layers = ((name, layer) for name, layer in model.layers(images) if name in wanted)
    write_trace(path, layers, manifest, inputs, force)
    return len(wanted)
