"""The convolutions of a graph, in order: which of them are which layer, and what follows them.

MixNet is one chain: every convolution of a layer comes before every convolution of the next layer.
So the convolutions of a graph, in the order in which they are computed, are those of our table. The
groups of one layer are in the order in which their outputs are put together again.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import CheckpointError
from weights_tools.graphs.graph import Graph, Node

WEIGHTED = ("Conv", "Gemm", "MatMul")
PASSED = ("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
KERNEL_AXES = {  # the order of a kernel's axes -> the order that makes it ours (H, W, in, out)
    "OIHW": (2, 3, 1, 0),
    "HWIO": (0, 1, 2, 3),
    "OHWI": (1, 2, 3, 0),
}
DEPTHWISE_AXES = {  # the same for (k, k, C, 1): one filter for each channel
    "OIHW": (2, 3, 0, 1),
    "HWIO": (0, 1, 2, 3),
    "OHWI": (1, 2, 3, 0),
}


def expected_kernels(architecture: Architecture) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of the kernels of each layer, all with four axes."""
    expected: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in architecture.tensor_shapes().items():
        if "/kernel" in name:
            full = shape if len(shape) == 4 else (1, 1, *shape)
            expected.setdefault(name.rsplit("/", 1)[0], []).append(full)
    return expected


class Chain:
    """A graph without nodes of constants, and which of its nodes have weights."""

    def __init__(self, graph: Graph, source: str = "the graph") -> None:
        self.graph = graph = graph.with_constants_computed()
        self.constants = graph.constants
        self.source = source
        _check_order(graph, source)
        self.consumers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.consumers.setdefault(name, []).append(node)
        self.weighted = [node for node in graph.nodes if self._kernel(node) is not None]

    def layers(self, architecture: Architecture) -> tuple[dict[str, list[Node]], list[str]]:
        """Return the nodes of each layer that has a kernel, and what does not fit."""
        layers: dict[str, list[Node]] = {}
        problems, rest = [], list(self.weighted)
        for layer, shapes in expected_kernels(architecture).items():
            count = 1 if rest and len(self.kernels(rest[0])) == len(shapes) else len(shapes)
            nodes, rest = rest[:count], rest[count:]
            nodes.sort(key=self._place)
            found = [kernel.shape for node in nodes for kernel in self.kernels(node)]
            if found != shapes:
                problems.append(f"{layer}: expected kernels {shapes}, found {found or 'none'}")
                if len(found) < len(shapes):
                    break
            layers[layer] = nodes
        if rest:
            problems.append(f"{len(rest)} more convolutions or matrix products")
        return layers, problems

    def _kernel(self, node: Node) -> np.ndarray | None:
        """Return the constant kernel of a node; None if it has none."""
        if node.operation not in WEIGHTED or len(node.inputs) < 2:
            return None
        return self.constants.get(node.inputs[1])

    def kernels(self, node: Node) -> list[np.ndarray]:
        """Return a kernel for each group, (H, W, in, out), or (H, W, C, 1) of a depthwise one."""
        kernel = self._kernel(node)
        assert kernel is not None
        if node.operation != "Conv":
            matrix = kernel.T if node.options.get("transposed") else kernel
            return [matrix.reshape(1, 1, *matrix.shape[-2:])]
        order, groups = node.options["axes"], node.options.get("groups", 1)
        if order == "GOIHW" and kernel.ndim == 5:  # of OpenVINO: an axis for the groups
            groups, order = kernel.shape[0], "OIHW"
            kernel = kernel.reshape(-1, *kernel.shape[2:])
        if kernel.ndim != 4:
            raise CheckpointError(
                f"{self.source}: {node.name[:80]}: expected a kernel with 4 axes, found "
                f"{kernel.shape}"
            )
        if node.options.get("depthwise"):
            return [kernel.transpose(DEPTHWISE_AXES[order])]
        first = kernel.shape[order.index("O")] // groups
        if groups > 1 and kernel.shape[order.index("I")] == 1 and first == 1:
            return [kernel.transpose(DEPTHWISE_AXES[order])]
        whole = kernel.transpose(KERNEL_AXES[order])
        return np.split(whole, groups, axis=3)

    def _place(self, node: Node) -> int:
        """Return where a node's output stands among the inputs of the Concat that takes it."""
        *_, last = [node.outputs[0], *(name for name, _ in self.walk(node.outputs[0]))]
        users = self.consumers.get(last, [])
        if len(users) == 1 and users[0].operation == "Concat":
            return users[0].inputs.index(last)
        return 0

    def walk(self, tensor: str) -> Iterator[tuple[str, Node]]:
        """Yield (output, node) as long as a single node takes a tensor and changes each channel."""
        while len(users := self.consumers.get(tensor, [])) == 1:
            node = users[0]
            constant = any(name in self.constants for name in node.inputs)
            if not (
                node.operation in PASSED
                or (node.operation in ARITHMETIC and constant and len(node.inputs) == 2)
                or (node.operation == "BatchNormalization" and constant)
            ):
                return
            if node.operation in ("Sub", "Div") and node.inputs[0] in self.constants:
                return  # the constant minus x: no scale and shift of a batch norm
            tensor = node.outputs[0]
            yield tensor, node

    def constants_of(self, nodes: Sequence[Node]) -> set[str]:
        """Return the constants that the nodes of a layer, and what follows them, take."""
        taken = list(nodes)
        for node in nodes:
            last = node.outputs[0]
            for name, following in self.walk(last):
                taken.append(following)
                last = name
            for user in self.consumers.get(last, []):
                if user.operation == "Concat":
                    taken += [following for _, following in self.walk(user.outputs[0])]
        return {name for node in taken for name in node.inputs if name in self.constants}


def _check_order(graph: Graph, source: str) -> None:
    """Raise unless each operation comes after those that it needs, so that none run in a circle."""
    made: set[str] = set()
    later = {name for node in graph.nodes for name in node.outputs if name}
    for node in graph.nodes:
        late = [name for name in node.inputs if name in later and name not in made]
        again = made.intersection(node.outputs)
        if late or again:
            raise CheckpointError(
                f"{source}: its operations are in no order in which they could be computed, see "
                f"{node.name[:80]!r}"
            )
        made.update(filter(None, node.outputs))
