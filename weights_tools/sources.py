"""Read the weights of a MixNet from any file of another framework.

`read_source` is the one entry: the content of the file tells its kind, a state dict is read by its
names, a graph by the order of its operations.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinymixnet.debug.arrays import NpyFiles, open_arrays
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.weights import shape_problems
from tinymixnet.errors import CheckpointError, TinyMixNetError, printable
from weights_tools.assemble import find_variant, to_float32
from weights_tools.exporters.notes import read_notes
from weights_tools.formats.kinds import kind_of
from weights_tools.graphs.graph import Graph
from weights_tools.graphs.match import match
from weights_tools.graphs.preprocessing import Preprocessing
from weights_tools.timm_names import canonical_sources

STATE_DICTS = ("safetensors", "npz", "pytorch")


class Stored(Protocol):
    """A tensor that can be read later."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...


class StateDict(Protocol):
    """Names and tensors, in PyTorch's layouts."""

    @property
    def tensors(self) -> Mapping[str, Stored]: ...

    def read(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Source:
    """The weights of a MixNet that were found in a file."""

    kind: str  # see `formats.kinds.kind_of`
    framework: str  # who wrote the file, for people
    architecture: Architecture
    tensors: dict[str, np.ndarray]  # float32, by canonical name
    fields: Mapping[str, Any] = field(default_factory=dict)  # of `Metadata`, as the file says
    preprocessing: Preprocessing | None = None  # of a graph
    folded: bool = False  # whether a batch norm was folded


def read_source(path: Path, variant: str | None = None) -> Source:
    """Return the weights in a file of any kind. Raises CheckpointError."""
    kind = kind_of(path)
    with one_line(path):
        if kind in STATE_DICTS:
            return _from_state_dict(kind, path, variant)
        if kind == "keras-weights":
            from weights_tools.formats.keras_weights import read_keras_weights

            architecture, tensors = read_keras_weights(path, variant)
            return Source(kind, "Keras", architecture, tensors)
        graph = read_graph(kind, path)
        found = match(graph, str(path), variant)
        known = read_notes(graph.notes, found.architecture.classes)
        known["epsilon"] = found.epsilon
        if found.preprocessing.inside:
            known |= {"mean": found.preprocessing.mean, "std": found.preprocessing.std}
        if size := graph.input_size:
            known.setdefault("input_size", size)
        return Source(
            kind,
            graph.framework,
            found.architecture,
            found.tensors,
            known,
            found.preprocessing,
            found.folded,
        )


def read_graph(kind: str, path: Path) -> Graph:
    """Return the graph in a file. Each reader imports its own framework."""
    if kind == "onnx":
        from weights_tools.graphs.from_onnx import read_onnx as read
    elif kind == "openvino":
        from weights_tools.graphs.from_openvino import read_openvino as read
    elif kind == "tflite":
        from weights_tools.graphs.from_tflite import read_tflite as read
    elif kind == "keras":
        from weights_tools.graphs.from_keras import read_keras as read
    else:
        from weights_tools.graphs.from_tensorflow import read_tensorflow as read
    return read(path)


# -- state dicts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NpzStateDict:
    """An .npz of a state dict."""

    arrays: NpyFiles
    tensors: Mapping[str, Stored]

    def read(self, name: str) -> np.ndarray:
        return self.arrays.read(f"{name}.npy")


def open_state_dict(kind: str, path: Path) -> tuple[StateDict, Mapping[str, str]]:
    """Return names and tensors, and the notes of the file's maker."""
    if kind == "safetensors":
        from weights_tools.formats.safetensors import open_safetensors

        file = open_safetensors(path)
        return file, file.notes
    if kind == "pytorch":
        from weights_tools.formats.pytorch import open_pytorch

        return open_pytorch(path), {}
    arrays = open_arrays(path)
    assert isinstance(arrays, NpyFiles)  # `kind_of` has seen a zip of .npy files
    headers = {name.removesuffix(".npy"): arrays.header(name) for name in arrays.files}
    return NpzStateDict(arrays, headers), {}


def _from_state_dict(kind: str, path: Path, variant: str | None) -> Source:
    state, notes = open_state_dict(kind, path)
    source = str(path)
    if notes.get("architecture", "tf_").startswith("mixnet_"):
        raise CheckpointError(
            f"{source}: made for timm's {notes['architecture'][:40]!r}, which pads "
            "symmetrically and has another batch-norm epsilon; expected its tf_ variant"
        )
    places = canonical_sources(state.tensors, source)
    shapes = {}
    for name, (theirs, axes) in places.items():
        shape = state.tensors[theirs].shape
        if len(shape) != len(axes):
            raise CheckpointError(f"{source}: {theirs} has an unexpected shape {shape}")
        shapes[name] = tuple(shape[axis] for axis in axes)
    classes = shapes.get("logits/bias", (0,))[0]
    if classes < 1:
        raise CheckpointError(f"{source}: expected a tf_mixnet, found no classifier.bias")

    def problems(architecture: Architecture) -> list[str]:
        return shape_problems(shapes, architecture)

    architecture = find_variant(source, classes, problems, variant)
    tensors = {
        name: to_float32(state.read(theirs).transpose(axes))
        for name, (theirs, axes) in places.items()
    }
    known = read_notes(notes, classes)
    return Source(kind, "PyTorch, with timm's names", architecture, tensors, known)


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever a framework raises about a file into a CheckpointError of one line."""
    shown = printable(str(path))
    try:
        yield
    except TinyMixNetError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(shown) else f"{path}: {text}") from None
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({why})") from None
