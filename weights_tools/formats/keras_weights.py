"""Find our tensors in Keras's .weights.h5, which has no graph: layers are counted by their kind.

Keras calls the layers conv2d, conv2d_1, ... in the order in which the model made them, and so they
are here the order of the network. A layer that we have as one kind, others may have as another: the
classifier as a convolution of one pixel, say, or squeeze-and-excite as dense layers. Every such
choice is tried. The file has no batch-norm epsilon.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.arrays import Hdf5Arrays, natural
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.alignment import aligned
from weights_tools.assemble import find_variant, to_float32

LAYER = re.compile(
    r"(?P<layer>(?:.*/)?(?P<kind>[a-z0-9_]+?)(?:_[0-9]{1,5})?)/vars/(?P<index>[0-9])"
)
KINDS = ("conv2d", "depthwise_conv2d", "batch_normalization", "dense")
Shape = tuple[int, ...]


class Choice(NamedTuple):
    """As which kind of layer a model has some of ours."""

    classifier: str
    squeeze_excite: str
    depthwise: str


CHOICES = [
    Choice(*kinds)
    for kinds in product(("dense", "conv2d"), ("conv2d", "dense"), ("depthwise_conv2d", "conv2d"))
]


class KerasWeights(NamedTuple):
    """The arrays of a .weights.h5 file."""

    path: Path
    arrays: Hdf5Arrays
    headers: Mapping[str, tuple[str, Shape]]  # name -> type and shape
    layers: Mapping[str, list[list[str]]]  # kind -> for each layer the names of its arrays

    @property
    def classes(self) -> int:
        """The length of the classifier's bias, or 0 if there is none.

        The last convolution has a bias only if it is the classifier.
        """
        for kind in ("conv2d", "dense"):
            layers = self.layers[kind]
            if layers and len(shape := self.headers[layers[-1][-1]][1]) == 1:
                return shape[0]
        return 0

    def read(self, variant: str | None) -> tuple[Architecture, dict[str, np.ndarray]]:
        """Return the network and its tensors. Raises CheckpointError."""
        if not self.classes:
            raise CheckpointError(
                f"{self.path}: expected layers as Keras writes them (layers/dense/vars/1), "
                "the last of them with a bias for each class; found none"
            )
        best: dict[str, Choice] = {}

        def problems(architecture: Architecture) -> list[str]:
            tried = {choice: self._problems(architecture, choice) for choice in CHOICES}
            choice = best[architecture.variant] = min(CHOICES, key=lambda c: len(tried[c]))
            return tried[choice]

        architecture = find_variant(str(self.path), self.classes, problems, variant)
        choice = best[architecture.variant]
        shapes, tensors = architecture.tensor_shapes(), {}
        for kind, ours in _ours(architecture, choice).items():
            for names, theirs in zip(ours, self.layers[kind], strict=True):
                for name, stored in zip(names, theirs, strict=True):
                    tensors[name] = to_float32(self.arrays.read(stored)).reshape(shapes[name])
        return architecture, {name: tensors[name] for name in shapes}

    def compare(self, architecture: Architecture) -> tuple[list[str], list[str]]:
        """Return our tensors that found no match, and the arrays that no match used."""

        def faults(choice: Choice) -> tuple[list[str], list[str]]:
            pairs = dict(self._pairs(architecture, choice))
            arrays = [n for layers in self.layers.values() for names in layers for n in names]
            taken = set(pairs.values())
            missing = [name for name in architecture.tensor_shapes() if name not in pairs]
            return missing, [name for name in arrays if name not in taken]

        return min(map(faults, CHOICES), key=lambda both: len(both[0]) + len(both[1]))

    def _pairs(self, architecture: Architecture, choice: Choice) -> Iterator[tuple[str, str]]:
        """Yield our tensors and the arrays of the layers that look like ours, in their order."""
        shapes = architecture.tensor_shapes()
        for kind, ours in _ours(architecture, choice).items():
            theirs = self.layers[kind]
            pairs = aligned(
                [tuple(_sizes(shapes[name]) for name in names) for names in ours],
                [tuple(_sizes(self.headers[name][1]) for name in names) for names in theirs],
            )
            for mine, other in pairs:
                yield from zip(ours[mine], theirs[other], strict=True)

    def _problems(self, architecture: Architecture, choice: Choice) -> list[str]:
        shapes, problems = architecture.tensor_shapes(), []
        for kind, ours in _ours(architecture, choice).items():
            theirs = self.layers[kind]
            if len(ours) != len(theirs):
                problems.append(f"{kind}: expected {len(ours)} layers, found {len(theirs)}")
            for names, stored in zip(ours, theirs, strict=False):
                expected = [shapes[name] for name in names]
                found = [self.headers[name][1] for name in stored]
                if [*map(_sizes, expected)] != [*map(_sizes, found)]:
                    where = names[0].rpartition("/")[0]
                    problems.append(f"{where}: expected {expected}, found {found} in {stored[0]}")
        return problems


def open_keras_weights(path: Path) -> KerasWeights:
    """Return what is in a .weights.h5 file."""
    budget.check("weights_file_bytes", path.stat().st_size, "the file")
    arrays = Hdf5Arrays(path)
    headers = {name: arrays.header(name) for name in arrays.files}
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for name in sorted(arrays.files, key=natural):
        match = LAYER.fullmatch(name)
        if match and match["kind"] in found:
            found[match["kind"]].setdefault(match["layer"], []).append(name)
    layers = {kind: list(named.values()) for kind, named in found.items()}
    return KerasWeights(
        path, arrays, {name: (str(h.dtype), h.shape) for name, h in headers.items()}, layers
    )


def _sizes(shape: Shape) -> Shape:
    """Return a shape without axes of length 1, of which kinds of layers have different ones."""
    return tuple(side for side in shape if side != 1) or (1,) * (prod(shape) == 1)


def _ours(architecture: Architecture, choice: Choice) -> dict[str, list[list[str]]]:
    """Return the names of our tensors as the layers of Keras would have them, by kind."""
    layers: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for name in architecture.tensor_shapes():
        layer, tensor = name.rsplit("/", 1)
        kind = "conv2d"
        if layer == "logits":
            kind = choice.classifier
        elif layer.endswith(("se_reduce", "se_expand")):
            kind = choice.squeeze_excite
        elif layer.endswith("depthwise_conv"):
            kind = choice.depthwise
        elif layer.endswith("bn"):
            kind = "batch_normalization"
        group = tensor if tensor.startswith("kernel_") else ""
        layers[kind].setdefault(layer + group, []).append(name)
    return {kind: list(named.values()) for kind, named in layers.items()}
