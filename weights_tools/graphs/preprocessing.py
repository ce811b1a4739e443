"""Find out what a graph does to its image before the first convolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinymixnet.engine.metadata import Metadata
from weights_tools.graphs.graph import Graph, Node

KEPT = ("Identity", "Cast", "Transpose", "Pad", "Reshape", "Squeeze", "Unsqueeze", "Dropout")
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
    unknown: tuple[str, ...] = ()  # operations before the first convolution that tell us nothing

    @property
    def sentence(self) -> str:
        """What to tell a person."""
        order = "BGR" if self.bgr != self.reversed_inside else "RGB"
        if self.inside:
            said = f"normalises inside; its input is {order}, 0..{1 if self.unit else 255}"
        else:
            said = "no normalisation in the graph: ImageNet's mean and deviation are assumed"
            said += f"; exchanges red and blue, so its input is {order}" * self.reversed_inside
        if self.unknown:
            said += f"; also does {', '.join(self.unknown)[:200]} first, which is not understood"
        return said


def find_preprocessing(
    graph: Graph, first: Node, consumers: Mapping[str, Sequence[Node]]
) -> Preprocessing:
    """Return what happens between the graph's input and its first convolution."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    chain: list[Node] = []
    put_together = set()  # nodes that only put the channels of one tensor together again
    tensor = first.inputs[0]
    while (node := makers.get(tensor)) is not None:
        chain.append(node)
        changing = [name for name in node.inputs if name and name not in graph.constants]
        if node.operation == "Concat" and len({_origin(n, makers, graph) for n in changing}) == 1:
            put_together.add(node.name)
            tensor = _origin(changing[0], makers, graph)
            continue
        if not changing:
            break
        tensor = changing[0]
    scale, shift, exchanged = np.ones(3), np.zeros(3), False
    unknown: dict[str, None] = {}  # in order
    for node in reversed(chain):
        values = [np.ravel(graph.constants[n]) for n in node.inputs if n in graph.constants]
        numbers = [value.astype(np.float64) for value in values if value.dtype.kind in "fiu"]
        turned = node.operation in ("Sub", "Div") and node.inputs[0] in graph.constants  # 1 - x
        known = bool(numbers) and all(value.size in (1, 3) for value in numbers) and not turned
        if _exchanges(node, graph, makers):
            scale, shift, exchanged = scale[::-1], shift[::-1], not exchanged
        elif node.operation in ("Mul", "Div") and known:
            factor = numbers[0] if node.operation == "Mul" else 1 / numbers[0]
            scale, shift = scale * factor, shift * factor
        elif node.operation in ("Add", "Sub") and known:
            shift = shift + (numbers[0] if node.operation == "Add" else -numbers[0])
        elif node.operation == "BatchNormalization" and known and len(numbers) == 4:
            gamma, beta, mean, variance = numbers
            factor = gamma / np.sqrt(variance + node.options["epsilon"])
            scale, shift = scale * factor, (shift - mean) * factor + beta
        elif node.operation not in KEPT and node.name not in put_together:
            unknown[node.operation] = None
    if np.array_equal(scale, np.ones(3)) and not shift.any():
        return Preprocessing(False, reversed_inside=exchanged, unknown=tuple(unknown))
    mean, std = -shift / scale, 1 / scale
    unit = bool(np.abs(mean).max() < SMALL and np.abs(std).max() < SMALL)
    if unit:
        mean, std = 255 * mean, 255 * std
    usual = np.array(Metadata.mean)
    bgr = bool(np.abs(mean[::-1] - usual).sum() < np.abs(mean - usual).sum())
    if bgr:
        mean, std = mean[::-1], std[::-1]
    rounded = _rounded(mean), _rounded(std)
    return Preprocessing(True, *rounded, unit, bgr, exchanged, tuple(unknown))


def _origin(tensor: str, makers: Mapping[str, Node], graph: Graph) -> str:
    """Return what a channel was cut from: the input of the Split or Slice that made it."""
    node = makers.get(tensor)
    if node is None or node.operation not in ("Split", "Slice"):
        return tensor
    return next(name for name in node.inputs if name and name not in graph.constants)


def _exchanges(node: Node, graph: Graph, makers: Mapping[str, Node]) -> bool:
    """Whether a node exchanges the first and the last channel."""

    def numbers(node: Node, place: int) -> list[int]:
        """Return a constant input of a node as a list of numbers."""
        value = graph.constants.get(node.inputs[place]) if place < len(node.inputs) else None
        return [] if value is None else [int(number) for number in np.ravel(value)[:8]]

    if node.operation == "Reverse":
        return True
    if node.operation == "Slice":  # x[..., ::-1]
        return -1 in numbers(node, 4 if graph.framework.startswith("ONNX") else 3)
    if node.operation == "Gather":
        return any(numbers(node, place) == [2, 1, 0] for place in (0, 1))
    cut = [makers.get(name) for name in node.inputs[:3]]
    if node.operation != "Concat" or len(node.inputs) < 3 or None in cut:
        return False
    if all(part.operation == "Slice" for part in cut if part):
        starts = [numbers(part, 1) for part in cut if part]
        return [start for start in zip(*starts, strict=False) if len(set(start)) > 1] == [(2, 1, 0)]
    return cut[0] is not None and cut[0].outputs[:3] == node.inputs[2::-1]


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Return the numbers that were meant: a graph has them in float32."""
    return tuple(float(f"{value:.7g}") for value in values)
