"""Read the weights of a MixNet from a state dict: a file of names and tensors, without a graph.

timm's names say which tensor is which. With any other names the order of the tensors says so, where
the file keeps it: a PyTorch module lists its tensors as its author declared them, and nearly
everybody declares the layers in the order in which they are computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinymixnet.debug.arrays import NpyFiles, open_arrays
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.budget import budget
from tinymixnet.engine.weights import shape_problems
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import find_variant, list_some, to_float32
from weights_tools.exporters.notes import read_notes
from weights_tools.timm_names import (
    STEM,
    Source,
    axes_of,
    canonical_sources,
    is_counter,
    last_word,
    plain_names,
)  # fmt: skip

STATE_DICTS = ("safetensors", "npz", "pytorch")
PYTORCHCV = "features.init_block.conv1.conv.weight"  # a name that only pytorchcv has
SYMMETRIC = (
    "pads both sides alike where the stride is 2 and has another batch-norm epsilon, so our "
    "network would give other answers"
)
ASSUMED = (
    "a state dict does not say how its network pads, nor its batch-norm epsilon: TensorFlow's "
    "padding and 1e-3 are assumed, as in timm's tf_mixnet_*"
)
BY_ORDER = "not timm's names: its tensors were matched by their order and shape"


class Stored(Protocol):
    """A tensor that can be read later."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...


class StateDict(Protocol):
    """Names and tensors, in PyTorch's layouts, and what else the file says of them."""

    @property
    def tensors(self) -> Mapping[str, Stored]: ...

    @property
    def notes(self) -> Mapping[str, str]: ...

    def read(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class NpzStateDict:
    """An .npz of a state dict."""

    arrays: NpyFiles
    tensors: Mapping[str, Stored]

    @property
    def notes(self) -> Mapping[str, str]:
        return {}

    def read(self, name: str) -> np.ndarray:
        return self.arrays.read(f"{name}.npy")


class Read(NamedTuple):
    """What a state dict holds."""

    framework: str  # for people
    architecture: Architecture
    tensors: dict[str, np.ndarray]  # float32, by canonical name
    fields: dict[str, Any]  # of `Metadata`, as the file says
    remarks: tuple[str, ...]  # what a person should know


def open_state_dict(kind: str, path: Path) -> StateDict:
    """Return the names, the tensors and the notes in a file."""
    if kind == "safetensors":
        from weights_tools.formats.safetensors import open_safetensors

        return open_safetensors(path)
    if kind == "pytorch":
        from weights_tools.formats.pytorch import open_pytorch

        return open_pytorch(path)
    budget.check("weights_file_bytes", path.stat().st_size, "the file")
    arrays = open_arrays(path)
    assert isinstance(arrays, NpyFiles)  # `kind_of` has seen a zip of .npy files
    headers = {name.removesuffix(".npy"): arrays.header(name) for name in arrays.files}
    return NpzStateDict(arrays, headers)


def read_state_dict(kind: str, path: Path, variant: str | None) -> Read:
    """Return the weights in a state dict. Raises CheckpointError."""
    state, source = open_state_dict(kind, path), str(path)
    made_for = state.notes.get("architecture", "tf_")
    if made_for.startswith("mixnet_"):
        raise CheckpointError(
            f"{source}: made for timm's {made_for[:40]!r}, which {SYMMETRIC}; expected its tf_ "
            "variant"
        )
    plain = plain_names(state.tensors)
    by_name = any(name.endswith(STEM) for name in plain.values())
    if any(name.endswith(PYTORCHCV) for name in plain.values()):
        raise CheckpointError(
            f"{source}: these are the names of pytorchcv, whose MixNet {SYMMETRIC}; expected a "
            "port with TensorFlow's padding, such as timm's tf_mixnet_*"
        )
    if not by_name and kind == "safetensors":
        raise CheckpointError(
            f"{source}: no timm's names (no {STEM}), and a .safetensors file does not keep the "
            "order of its tensors, which would tell: save it with torch.save; found "
            f"{list_some(sorted(state.tensors)[:3]) or 'no tensor'}"
        )
    find = _by_name if by_name else _by_order
    architecture, places = find(state, source, variant)
    tensors = {
        name: to_float32(_shaped(state.read(theirs), axes))
        for name, (theirs, axes) in places.items()
    }
    known = read_notes(state.notes, architecture.classes)
    if averages := state.notes.get("averages"):
        known["averages"] = averages == "True"
    remarks = [] if by_name else [BY_ORDER]
    if chosen := state.notes.get("chosen"):
        remarks.append(chosen)
    if "architecture" not in state.notes:
        remarks.append(ASSUMED)
    framework = "PyTorch, with timm's names" if by_name else "PyTorch, with names we do not know"
    return Read(framework, architecture, tensors, known, tuple(remarks))


def _shaped(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return a tensor with our order of axes; a dense layer may be stored as a convolution."""
    return values.reshape(values.shape[: len(axes)]).transpose(axes)


def _our_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that a tensor has with our order of axes; None if it cannot have it."""
    if len(axes) == 2 and shape[2:] == (1, 1):
        shape = shape[:2]
    return tuple(shape[axis] for axis in axes) if len(shape) == len(axes) else None


Places = tuple[Architecture, dict[str, Source]]


def _by_name(state: StateDict, source: str, variant: str | None) -> Places:
    places = canonical_sources(state.tensors, source)
    shapes = {}
    for name, (theirs, axes) in places.items():
        stored = state.tensors[theirs].shape
        shape = _our_shape(stored, axes)
        if shape is None:
            raise CheckpointError(f"{source}: {theirs} has an unexpected shape {stored}")
        shapes[name] = shape
    classes = shapes.get("logits/bias", (0,))[0]
    if classes < 1:
        raise CheckpointError(f"{source}: expected a tf_mixnet, found no classifier.bias")

    def problems(architecture: Architecture) -> list[str]:
        return shape_problems(shapes, architecture)

    return find_variant(source, classes, problems, variant), places


def _by_order(state: StateDict, source: str, variant: str | None) -> Places:
    """Match by order and shape, and by the last word of a name: weight, running_var."""
    theirs = [name for name in state.tensors if not is_counter(name)]
    last = state.tensors[theirs[-1]].shape if theirs else ()
    if len(last) != 1 or last[0] < 1:
        raise CheckpointError(
            f"{source}: expected a MixNet's state dict, with timm's names or with the bias of "
            "the classes as its last tensor; found "
            f"{list_some(theirs[-1:]) or 'no tensor'} of shape {last}"
        )

    def problems(architecture: Architecture) -> list[str]:
        expected = architecture.tensor_shapes()
        wrong = []
        if len(theirs) != len(expected):
            wrong.append(f"expected {len(expected)} tensors, found {len(theirs)}")
        for (ours, shape), name in zip(expected.items(), theirs, strict=False):
            stored = state.tensors[name].shape
            if name.split(".")[-1] != last_word(ours) or _our_shape(stored, axes_of(ours)) != shape:
                wrong.append(f"{ours} {shape} does not fit {name} {stored}")
        return wrong

    architecture = find_variant(source, last[0], problems, variant)
    names = zip(architecture.tensor_shapes(), theirs, strict=True)
    return architecture, {ours: Source(name, axes_of(ours)) for ours, name in names}
