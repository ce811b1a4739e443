"""Tensors of a dump that are no activations: weights, and the numbers that a graph works out.

OpenVINO and the older ONNX exporter compute shapes, indices and paddings in the graph, and a dump
of every node has hundreds of them. Others dump the weights along with the layers.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.names.layouts import Shape, layouts_of
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.network import statistics
from tinymixnet.model import Model

MOST_NUMBERS = 16  # integers that are a shape, an index or a padding: two for each axis, and more
MOST_FRACTIONS = 8  # the same while the graph computes them as floating-point numbers
SAME = 1e-4  # largest relative difference of the marks of the same weights
NUMBERS, WEIGHTS = "numbers", "weights"


class Marks(NamedTuple):
    """Numbers of a tensor that do not depend on the order of its values."""

    size: int
    mean: float
    deviation: float
    lowest: float
    highest: float

    def near(self, other: "Marks") -> bool:
        within = SAME * max(abs(self.lowest), abs(self.highest), 1e-30)
        pairs = zip(self[1:], other[1:], strict=True)
        return self.size == other.size and all(abs(a - b) <= within for a, b in pairs)


def constants(model: Model, dump: Dump, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, NUMBERS or WEIGHTS) for those of these tensors that are no activations."""
    rest: list[str] = []
    for name in names:
        header = dump.headers[name]
        if _is_number(header.shape, header.dtype):
            yield name, NUMBERS
        else:
            rest.append(name)
    if not rest:
        return
    known = _known_weights(model)
    kernels = {_axes(x.shape) for x in model.tensors.values() if x.ndim > 1}
    for name in rest:
        shape = dump.headers[name].shape
        alike = known.get(prod(shape), ())
        is_layer = any(layouts_of(shape, expected) for expected in set(dump.expected.values()))
        if (_axes(shape) in kernels and not is_layer) or (
            alike and any(_marks(dump.trace[name]).near(marks) for marks in alike)
        ):
            yield name, WEIGHTS


def _is_number(shape: Shape, dtype: "np.dtype[np.generic]") -> bool:
    """Whether a tensor is a shape, an index, a padding, or anything of so few values."""
    size = prod(shape)
    if dtype.kind in "iub":
        return len(shape) <= 2 and size <= MOST_NUMBERS
    return len(shape) <= 1 and size <= MOST_FRACTIONS


def _axes(shape: Shape) -> Shape:
    """Return the sizes of the axes but for 1, in no order: kernels are stored in many orders."""
    return tuple(sorted(size for size in shape if size > 1))


def _known_weights(model: Model) -> dict[int, list[Marks]]:
    """Return the marks of our weights by their size, also of those with a batch norm folded in."""
    known: dict[int, list[Marks]] = {}

    def add(x: Array) -> None:
        known.setdefault(x.size, []).append(_marks(x))

    tensors, epsilon = model.tensors, model.metadata.epsilon
    for x in (*tensors.values(), model.metadata.mean, model.metadata.std):
        add(np.asarray(x, np.float32))
    for name in tensors:
        norm, _, tensor = name.rpartition("/")
        if tensor != "gamma":
            continue
        gamma, beta, mean, variance = statistics(norm, tensors)
        scale = gamma / np.sqrt(variance + epsilon)
        add(scale)
        add(beta - mean * scale)
        conv = norm.removesuffix("bn") + "conv"
        kernels = group_kernels(conv, tensors) or [tensors[f"{conv}/kernel"]]
        depthwise = conv.endswith("depthwise_conv")
        sizes = [kernel.shape[2 if depthwise else 3] for kernel in kernels]
        for kernel, factor in zip(kernels, np.split(scale, np.cumsum(sizes)[:-1]), strict=True):
            add(kernel * (factor[:, None] if depthwise else factor))
    return known


def _marks(x: Array) -> Marks:
    with np.errstate(all="ignore"):
        values = x.astype(np.float32, copy=False)
        spread = float(values.std(dtype=np.float64))
        mean = float(values.mean(dtype=np.float64))
        return Marks(x.size, mean, spread, float(values.min()), float(values.max()))
