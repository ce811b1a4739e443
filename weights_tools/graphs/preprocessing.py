"""Find out what a graph does to its image before the first convolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinymixnet.engine.metadata import Metadata
from weights_tools.graphs.graph import Graph, Node

KEPT = ("Identity", "Cast", "Transpose", "Pad", "Reshape", "Squeeze", "Unsqueeze")
SMALL = 8.0  # means and deviations of colours of 0..1 are below this, those of 0..255 above


@dataclass(frozen=True)
class Preprocessing:
    """What the graph's input must be for the first convolution to get a normalised RGB image."""

    inside: bool  # whether the graph subtracts the mean and divides by the deviation
    mean: tuple[float, ...] = Metadata.mean  # RGB, of 0..255
    std: tuple[float, ...] = Metadata.std
    unit: bool = False  # the input is 0..1
    bgr: bool = False  # the first kernel takes blue first
    reversed_inside: bool = False  # the graph exchanges red and blue itself

    @property
    def sentence(self) -> str:
        """What to tell a person."""
        if not self.inside:
            return "no normalisation in the graph: ImageNet's mean and deviation are assumed"
        order = "BGR" if self.bgr != self.reversed_inside else "RGB"
        return f"normalises inside; its input is {order}, 0..{1 if self.unit else 255}"


def find_preprocessing(
    graph: Graph, first: Node, consumers: Mapping[str, Sequence[Node]]
) -> Preprocessing:
    """Return what happens between the graph's input and its first convolution."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    chain: list[Node] = []
    tensor = first.inputs[0]
    while (node := makers.get(tensor)) is not None:
        chain.append(node)
        changing = [name for name in node.inputs if name and name not in graph.constants]
        if node.operation == "Concat" and len({_origin(n, makers, graph) for n in changing}) == 1:
            tensor = _origin(changing[0], makers, graph)
            continue
        if not changing:
            break
        tensor = changing[0]
    scale, shift, exchanged = np.ones(3), np.zeros(3), False
    for node in reversed(chain):
        values = [np.ravel(graph.constants[n]) for n in node.inputs if n in graph.constants]
        if _exchanges(node, values, makers):
            scale, shift, exchanged = scale[::-1], shift[::-1], not exchanged
        elif node.operation in ("Add", "Sub", "Mul", "Div") and values and values[0].size in (1, 3):
            value = values[0].astype(np.float64)
            if node.operation in ("Mul", "Div"):
                factor = value if node.operation == "Mul" else 1 / value
                scale, shift = scale * factor, shift * factor
            else:
                shift = shift + (value if node.operation == "Add" else -value)
    if np.array_equal(scale, np.ones(3)) and not shift.any():
        return Preprocessing(False, reversed_inside=exchanged)
    mean, std = -shift / scale, 1 / scale
    unit = bool(np.abs(mean).max() < SMALL and np.abs(std).max() < SMALL)
    if unit:
        mean, std = 255 * mean, 255 * std
    usual = np.array(Metadata.mean)
    bgr = bool(np.abs(mean[::-1] - usual).sum() < np.abs(mean - usual).sum())
    if bgr:
        mean, std = mean[::-1], std[::-1]
    return Preprocessing(True, _rounded(mean), _rounded(std), unit, bgr, exchanged)


def _origin(tensor: str, makers: Mapping[str, Node], graph: Graph) -> str:
    """Return what a channel was cut from: the input of the Split or Slice that made it."""
    node = makers.get(tensor)
    if node is None or node.operation not in ("Split", "Slice"):
        return tensor
    return next(name for name in node.inputs if name and name not in graph.constants)


def _exchanges(node: Node, values: Sequence[np.ndarray], makers: Mapping[str, Node]) -> bool:
    """Whether a node exchanges the first and the last channel."""
    if node.operation == "Reverse":
        return True
    if node.operation == "Gather":
        return any(list(value) == [2, 1, 0] for value in values)
    if node.operation == "Concat" and len(node.inputs) == 3:
        split = makers.get(node.inputs[0])
        return split is not None and split.outputs[:3] == node.inputs[::-1]
    return False


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Return the numbers that were meant: a graph has them in float32."""
    return tuple(float(f"{value:.7g}") for value in values)
