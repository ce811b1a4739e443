"""One small form of graph for all frameworks, and the constants in it.

Each reader in this folder turns its framework's file into a `Graph` with ONNX's names of
operations. What an operation of another framework does differently (the order of a kernel's axes,
say) stands in the options of its `Node`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

MOST_COMPUTED = 1 << 26  # numbers in all constants that are computed: MixNet-L has 7.3 million


@dataclass(frozen=True)
class Node:
    """One operation. Its inputs and outputs are names of tensors; "" is an input left out."""

    operation: str  # Conv, BatchNormalization, Add, ... as ONNX calls them
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A network as nodes in the order in which they are computed, and its constants."""

    framework: str  # who wrote the file, for people
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]  # tensor -> values
    inputs: tuple[str, ...]  # tensors that the user feeds
    shape: tuple[int, ...] = ()  # of the first input; 0 where any number is allowed
    notes: Mapping[str, str] = field(default_factory=dict)  # of the file's maker

    @property
    def input_size(self) -> int:
        """Pixels a side of the image, or 0 if the graph takes any size."""
        sides = self.shape[2:] if self.channels_first else self.shape[1:3]
        return sides[0] if len(self.shape) == 4 and sides[0] == sides[1] else 0

    @property
    def channels_first(self) -> bool:
        """Whether the image is (N, C, H, W). If the shape does not tell, the framework does."""
        if len(self.shape) == 4 and 3 in (self.shape[1], self.shape[3]):
            return self.shape[1] == 3
        return self.framework.startswith(("ONNX", "OpenVINO"))

    def with_constants_computed(self) -> "Graph":
        """Return the graph without the nodes that depend on constants alone.

        Exporters put casts, transpositions and quantisation scales between a stored kernel and the
        convolution that takes it.
        """
        constants, rest, left = dict(self.constants), [], MOST_COMPUTED
        for node in self.nodes:
            compute = CONSTANT_OPERATIONS.get(node.operation)
            inputs = [constants[name] for name in node.inputs if name in constants]
            known = bool(inputs) and len(inputs) == sum(map(bool, node.inputs))
            if compute and known and (size := _result_size(node, inputs)) <= left:
                constants[node.outputs[0]] = computed = compute(node.options, *inputs)
                left -= 0 if any(np.may_share_memory(computed, x) for x in inputs) else size
            else:
                rest.append(node)
        return replace(self, nodes=tuple(rest), constants=constants)


def _result_size(node: Node, inputs: Sequence[np.ndarray]) -> int:
    """Return how many numbers an operation makes. A column plus a row can make a huge table."""
    if node.operation in ("Add", "Sub", "Mul", "Div", "Maximum"):
        return math.prod(np.broadcast_shapes(*(x.shape for x in inputs)))
    return max(x.size for x in inputs)


def _axes(options: Mapping[str, Any], given: tuple[np.ndarray, ...]) -> list[int]:
    """Return the axes of an operation: an option in some frameworks, an input in others."""
    axes = given[0] if given else options.get("axes", ())
    return [int(axis) for axis in np.ravel(axes)]


def _transpose(options: Mapping[str, Any], x: np.ndarray, *order: np.ndarray) -> np.ndarray:
    axes = order[0] if order else options.get("perm")
    return x.transpose(None if axes is None else [int(axis) for axis in np.ravel(axes)])


def _reshape(options: Mapping[str, Any], x: np.ndarray, *shape: np.ndarray) -> np.ndarray:
    wanted = shape[0] if shape else options["shape"]
    return x.reshape([int(n) or x.shape[i] for i, n in enumerate(np.ravel(wanted))])


def _squeeze(options: Mapping[str, Any], x: np.ndarray, *given: np.ndarray) -> np.ndarray:
    axes = _axes(options, given)
    return x.squeeze(tuple(axes) if axes else None)


def _unsqueeze(options: Mapping[str, Any], x: np.ndarray, *given: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, tuple(_axes(options, given)))


def _cast(options: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    return x if x.dtype == np.float64 else x.astype(options.get("dtype", np.float32))


def _dequantize(
    options: Mapping[str, Any], x: np.ndarray, scale: np.ndarray, *zero: np.ndarray
) -> np.ndarray:
    shape = [1] * x.ndim
    if scale.size > 1:
        axis = options.get("axis", 1)
        if scale.size != x.shape[axis]:
            raise ValueError(f"{scale.size} scales for values of shape {x.shape}")
        shape[axis] = scale.size
    offset = zero[0].reshape(shape if zero[0].size > 1 else ()) if zero else 0
    return ((x.astype(np.float32) - offset) * scale.reshape(shape)).astype(np.float32)


CONSTANT_OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda options, x: x,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "DequantizeLinear": _dequantize,
    "Add": lambda options, a, b: a + b,
    "Sub": lambda options, a, b: a - b,
    "Mul": lambda options, a, b: a * b,
    "Div": lambda options, a, b: a / b,
    "Maximum": lambda options, a, b: np.maximum(a, b),
    "Sqrt": lambda options, x: np.sqrt(x),
    "Rsqrt": lambda options, x: 1 / np.sqrt(x),
    "Reciprocal": lambda options, x: 1 / x,
    "Neg": lambda options, x: -x,
}
