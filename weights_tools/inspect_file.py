"""Describe what is in a file: who wrote it, its notes, what is missing, and all of its tensors."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.architecture import VARIANTS, Architecture, mixnet
from tinymixnet.engine.hdf5 import SIGNATURE, Hdf5File
from tinymixnet.engine.metadata import CLASS_LISTS
from tinymixnet.engine.weights import find_weights, read_weights
from tinymixnet.errors import CheckpointError, TinyMixNetError, printable
from weights_tools.extract import AVERAGE, map_names, place_of
from weights_tools.formats.checkpoint import open_checkpoint
from weights_tools.formats.kinds import is_known, kind_of
from weights_tools.framework_errors import one_line
from weights_tools.graphs.fit import classes_of, compare
from weights_tools.sources import UNREADABLE, Source, read_graph, read_source
from weights_tools.state_dicts import STATE_DICTS, open_state_dict
from weights_tools.timm_names import STEM, is_counter, plain_names, timm_sources

Row = tuple[str, str, tuple[int, ...]]  # name, type, shape of a tensor
Parts = tuple[list[str], list[str]]  # what is missing, what is surplus
LISTED = 8  # missing or surplus tensors that a line names


class Description(NamedTuple):
    """What `inspect` says of a file."""

    kind: str  # weights, checkpoint, or a kind of `formats.kinds.kind_of`
    framework: str  # who wrote it, for people
    notes: Mapping[str, Any]  # of the maker, or our metadata
    network: str | None  # mixnet-s, -m or -l; None if it is none of them
    missing: list[str]  # what the nearest network has and the file lacks
    surplus: list[str]  # what the file has and the network does not need
    problem: str  # why the file cannot be used; "" if it can
    tensors: list[Row]


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is in a file as values that JSON has. Raises WeightsError or CheckpointError."""
    description = _inspect(path)._asdict()
    rows = [{"name": n, "dtype": d, "shape": list(s)} for n, d, s in description["tensors"]]
    return {"file": os.fspath(path), **description, "tensors": rows}


def describe(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the lines that `inspect` prints of a file.

    A weights file is read as strictly as for inference. Control characters in names and notes are
    escaped. Raises WeightsError or CheckpointError.
    """
    yield from map(printable, _lines(_inspect(path)))


def _lines(found: Description) -> Iterator[str]:
    yield f"file: {found.framework}"
    for key, value in found.notes.items():
        yield f"{key}: {_short(key, value)}"
    yield f"network: {found.network or 'no known MixNet'}"
    for title, names in (("missing", found.missing), ("surplus", found.surplus)):
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            yield f"{title}: {', '.join(names[:LISTED])}{more}"
    if found.problem:
        yield f"problem: {found.problem}"
    for name, dtype, shape in found.tensors:
        yield f"{name:<72} {dtype:<9} {' x '.join(map(str, shape)) or 'scalar'}"
    yield f"{len(found.tensors)} tensors"


def _short(key: str, value: Any) -> str:
    if key not in ("labels", *CLASS_LISTS):
        text = str(value)
        return text if len(text) <= 400 else f"{text[:400]}..."
    shown = ", ".join(map(str, value[:10]))
    return f"{len(value)}, {shown}{', ...' * (len(value) > 10)}" if value else "none"


def _inspect(path: str | os.PathLike[str]) -> Description:
    place = as_path(path)
    if path in VARIANTS and not os.path.exists(path):
        place = find_weights(path)
    if _is_ours(place):
        return _of_weights(place)
    if not is_known(place):
        return _of_checkpoint(place)
    kind = kind_of(place)
    with one_line(place, CheckpointError, UNREADABLE):
        if kind in STATE_DICTS:
            return _of_state_dict(kind, place)
        return _of_graph(kind, place)


def _is_ours(path: Path) -> bool:
    """Whether this should be a weights file of ours: HDF5 that is not Keras's, or so it is named.

    Anything else that has this name is told by the reader of weights files.
    """
    hdf5 = False
    if path.is_file():  # to open a named pipe would be to wait for ever
        with suppress(OSError), path.open("rb") as file:
            hdf5 = file.read(len(SIGNATURE)) == SIGNATURE
    if not hdf5:
        return path.suffix.lower() in (".h5", ".hdf5")
    try:
        return kind_of(path) not in ("keras", "keras-weights")
    except TinyMixNetError:
        return True


def _of_weights(path: Path) -> Description:
    architecture, tensors, metadata = read_weights(path)
    file = Hdf5File(path, isolated=False)
    notes = {
        "variant": architecture.variant,
        "block_strings": " ".join(architecture.block_strings),
        **{item.name: getattr(metadata, item.name) for item in fields(metadata)},
        "sha256": file.structure.attributes["sha256"],
    }
    rows = [(name, str(file.header(name).dtype), t.shape) for name, t in tensors.items()]
    known = architecture.variant if architecture.variant in VARIANTS else None
    return Description("weights", "weights of tinymixnet", notes, known, [], [], "", rows)


def _of_checkpoint(path: Path) -> Description:
    with open_checkpoint(path) as checkpoint:
        variables = list(checkpoint.variables.values())
        rows = [(v.name, v.dtype, v.shape) for v in variables]
        shapes = {v.name.removesuffix(AVERAGE): v.shape for v in variables}
    names = [name for name in shapes if place_of(name)]
    classes = next((shapes[n][0] for n in names if n.endswith("/dense/bias")), 1000)

    def compared(architecture: Architecture) -> Fit:
        mapped, _ = map_names(names, architecture)
        expected = architecture.tensor_shapes()
        missing = [name for name in expected if name not in mapped]
        surplus = [name for name in shapes if name not in mapped.values()]
        wrong = sum(shapes[theirs] != expected[name] for name, theirs in mapped.items())
        return Fit(missing, surplus, wrong, architecture.variant)

    network, missing, surplus = _nearest(classes, compared)
    notes = {"path": checkpoint.path}
    kind = "checkpoint"
    return Description(kind, "TensorFlow checkpoint", notes, network, missing, surplus, "", rows)


def _of_state_dict(kind: str, path: Path) -> Description:
    state = open_state_dict(kind, path)
    notes = dict(state.notes)
    rows = [(name, str(t.dtype), tuple(t.shape)) for name, t in sorted(state.tensors.items())]
    theirs = {plain: name for name, plain in plain_names(state.tensors).items()}
    head = theirs.get("classifier.bias")
    classes = state.tensors[head].shape[0] if head and state.tensors[head].shape else 1000

    def compared(architecture: Architecture) -> Fit:
        names = timm_sources(architecture)
        expected = {}  # timm's name -> the size of the tensor
        for ours, shape in architecture.tensor_shapes().items():
            expected[names[ours].name] = prod(shape)
        surplus = [
            name
            for plain, name in theirs.items()
            if plain not in expected and not is_counter(plain)
        ]
        sizes = {plain: prod(state.tensors[name].shape) for plain, name in theirs.items()}
        wrong = sum(sizes.get(name, size) != size for name, size in expected.items())
        return Fit(sorted(set(expected) - set(theirs)), surplus, wrong, architecture.variant)

    network, missing, surplus = _nearest(classes, compared)
    source, problem = _tried(path)
    if STEM not in theirs:  # names of another package: only their order can tell
        network, missing, surplus = None, [], []
    if source:
        network = source.architecture.variant
        remarks = [remark for remark in source.remarks if remark not in notes.values()]
        notes |= {"to know": "; ".join(remarks)} if remarks else {}
    framework = {"safetensors": "safetensors", "npz": "NumPy's .npz", "pytorch": "PyTorch"}[kind]
    return Description(kind, framework, notes, network, missing, surplus, problem, rows)


def _of_graph(kind: str, path: Path) -> Description:
    notes: dict[str, Any] = {}
    if kind == "keras-weights":
        from weights_tools.formats.keras_weights import open_keras_weights

        weights = open_keras_weights(path)
        rows = [(name, *header) for name, header in weights.headers.items()]
        framework, classes = "Keras, weights without their model", weights.classes
        compared: Callable[[Architecture], Parts] = weights.compare
    else:
        graph = read_graph(kind, path)
        rows = [(name, str(x.dtype), x.shape) for name, x in graph.constants.items()]
        framework, notes = graph.framework, dict(graph.notes)
        compared, classes = partial(compare, graph), classes_of(graph)
    source, problem = _tried(path)
    network, missing, surplus = _nearest(classes, lambda a: Fit(*compared(a), 0, a.variant))
    if source:
        network = source.architecture.variant
        notes["batch norm"] = "folded into the kernels" if source.folded else "as it was trained"
        if source.preprocessing:
            notes["preprocessing"] = source.preprocessing.sentence
    return Description(kind, framework, notes, network, missing, surplus, problem, rows)


def _tried(path: Path) -> tuple[Source | None, str]:
    """Return what `convert` would read, or None and why it would refuse the file."""
    try:
        return read_source(path), ""
    except CheckpointError as error:
        return None, str(error).removeprefix(f"{path}: ")


class Fit(NamedTuple):
    """How well the tensors of a file fit a network."""

    missing: list[str]
    surplus: list[str]
    wrong: int  # tensors of another shape
    variant: str

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.surplus) + self.wrong


def _nearest(
    classes: int, compared: Callable[[Architecture], Fit]
) -> tuple[str | None, list[str], list[str]]:
    """Return the network that fits best, or None, with what is missing and what is surplus."""
    fits = [compared(mixnet(name, max(classes, 1))) for name in VARIANTS]
    best = min(fits, key=lambda fit: fit.faults)
    known = 2 * (len(best.missing) + best.wrong) < len(mixnet(best.variant).tensor_shapes())
    return (best.variant if known else None), best.missing, best.surplus
