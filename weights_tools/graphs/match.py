"""Find our tensors in a graph by the order and shape of its convolutions, whatever it calls them.

MixNet is one chain: every convolution of a layer comes before every convolution of the next layer.
So the convolutions of a graph, in the order in which they are computed, are those of our table. The
groups of one layer are in the order in which their outputs are put together again.

Between a convolution and the next activation, a graph may multiply and add numbers for each
channel: a batch norm, or what an exporter made of one. A batch norm that is whole is taken as it
is. Anything else is folded: the factors go into the kernel, and the batch norm only adds. It then
has gamma 1, beta the sum, mean 0 and variance 1 - epsilon, so that it divides by exactly 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import find_variant, list_some, to_float32
from weights_tools.graphs.graph import Graph, Node
from weights_tools.graphs.norm import Norm, output_axis, scaled
from weights_tools.graphs.preprocessing import Preprocessing, find_preprocessing

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


@dataclass(frozen=True)
class Found:
    """The tensors that were found in a graph, with the canonical names."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing
    epsilon: float
    folded: bool  # whether any batch norm was folded
    only_size: int  # the only pixels a side at which its padding is ours; 0: any


def match(graph: Graph, source: str, variant: str | None = None) -> Found:
    """Return the tensors of the MixNet in a graph. Raises CheckpointError if it holds none."""
    return Matcher(graph.with_constants_computed(), source).find(variant)


def expected_kernels(architecture: Architecture) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of the kernels of each layer, all with four axes."""
    expected: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in architecture.tensor_shapes().items():
        if "/kernel" in name:
            full = shape if len(shape) == 4 else (1, 1, *shape)
            expected.setdefault(name.rsplit("/", 1)[0], []).append(full)
    return expected


class Matcher:
    """A graph without nodes of constants, and which of its nodes have weights."""

    def __init__(self, graph: Graph, source: str) -> None:
        self.graph = graph
        self.constants = graph.constants
        self.source = source
        self.consumers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.consumers.setdefault(name, []).append(node)
        self.weighted = [node for node in graph.nodes if self._kernel(node) is not None]

    def find(self, variant: str | None) -> Found:
        if not self.weighted:
            raise CheckpointError(f"{self.source}: no convolution with constant weights in it")
        classes = self.kernels(self.weighted[-1])[-1].shape[-1]
        wrong = {}

        def problems(architecture: Architecture) -> list[str]:
            _, wrong[architecture.variant] = self.layers(architecture)
            return wrong[architecture.variant]

        architecture = find_variant(self.source, classes, problems, variant)
        layers, _ = self.layers(architecture)
        only_size = self._check_padding(layers)
        tensors: dict[str, np.ndarray] = {}
        shapes = architecture.tensor_shapes()
        norms = {}
        for layer, nodes in layers.items():
            norm = norms[layer] = self._norm(layer, nodes)
            bn = layer.removesuffix("conv") + "bn"
            kernels = [kernel for node in nodes for kernel in self.kernels(node)]
            names = [n for n in shapes if n.rsplit("/", 1)[0] == layer and "/kernel" in n]
            whole = bool(norm.whole) and norm.steps == 1 and f"{bn}/gamma" in shapes
            if not whole:
                kernels = scaled(layer, kernels, norm.scale)
            for name, kernel in zip(names, kernels, strict=True):
                tensors[name] = to_float32(kernel.reshape(shapes[name]))
            if f"{layer}/bias" in shapes:
                tensors[f"{layer}/bias"] = to_float32(norm.shift)
        epsilons = {norm.epsilon for norm in norms.values() if norm.whole and norm.steps == 1}
        if len(epsilons) > 1:
            raise CheckpointError(
                f"{self.source}: its batch norms have different epsilons "
                f"({', '.join(f'{e:g}' for e in sorted(epsilons))}); expected one for all"
            )
        epsilon = float(f"{next(iter(epsilons), Metadata.epsilon):.7g}")  # float32 in the file
        folded = False
        for layer, norm in norms.items():
            bn = layer.removesuffix("conv") + "bn"
            if f"{bn}/gamma" not in shapes:
                continue
            statistics = norm.whole
            if not (norm.whole and norm.steps == 1):
                folded, one = True, np.ones_like(norm.shift)
                statistics = (one, norm.shift, 0 * one, one - epsilon)
            for name, values in zip(
                ("gamma", "beta", "moving_mean", "moving_variance"), statistics, strict=True
            ):
                tensors[f"{bn}/{name}"] = to_float32(values)
        preprocessing = find_preprocessing(self.graph, self.weighted[0], self.consumers)
        if preprocessing.bgr:
            stem = tensors["stem/conv/kernel"]
            tensors["stem/conv/kernel"] = np.ascontiguousarray(stem[:, :, ::-1])
        ordered = {name: tensors[name] for name in shapes}
        return Found(architecture, ordered, preprocessing, epsilon, folded, only_size)

    # -- which convolution is which layer ----------------------------------------------------------

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
        if (
            order == "GOIHW" and kernel.ndim == 5
        ):  # OpenVINO's: the groups have an axis of their own
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
        *_, last = [node.outputs[0], *(name for name, _ in self._walk(node.outputs[0]))]
        users = self.consumers.get(last, [])
        if len(users) == 1 and users[0].operation == "Concat":
            return users[0].inputs.index(last)
        return 0

    # -- what happens to its channels --------------------------------------------------------------

    def _walk(self, tensor: str) -> Iterator[tuple[str, Node]]:
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

    def _norm(self, layer: str, nodes: Sequence[Node]) -> Norm:
        """Return what happens to the channels of a layer up to its activation."""
        axis = output_axis(layer)
        parts, last = [], ""
        for node in nodes:
            width = sum(kernel.shape[axis] for kernel in self.kernels(node))
            part = Norm(np.ones(width), np.zeros(width))
            if len(node.inputs) > 2 and node.inputs[2]:
                part.apply(Node("Add", "", (), ()), [self._value(node, node.inputs[2])])
            last = self._apply(part, node.outputs[0])
            parts.append(part)
        users = self.consumers.get(last, [])
        if len(parts) == 1:
            return parts[0]
        norm = Norm(
            np.concatenate([part.scale for part in parts]),
            np.concatenate([part.shift for part in parts]),
            steps=sum(part.steps for part in parts),
        )
        if len(users) == 1 and users[0].operation == "Concat":
            self._apply(norm, users[0].outputs[0])
        return norm

    def constants_of(self, nodes: Sequence[Node]) -> set[str]:
        """Return the constants that the nodes of a layer, and what follows them, take."""
        taken = list(nodes)
        for node in nodes:
            last = node.outputs[0]
            for name, following in self._walk(last):
                taken.append(following)
                last = name
            for user in self.consumers.get(last, []):
                if user.operation == "Concat":
                    taken += [following for _, following in self._walk(user.outputs[0])]
        return {name for node in taken for name in node.inputs if name in self.constants}

    def _apply(self, norm: Norm, tensor: str) -> str:
        last = tensor
        for last, node in self._walk(tensor):  # noqa: B007  (the last one is returned)
            if node.operation not in PASSED:
                values = [self._value(node, n) for n in node.inputs if n in self.constants]
                sizes = {1, len(norm.scale)}
                if not all(value.size in sizes for value in values):
                    shapes = [value.shape for value in values]
                    raise CheckpointError(
                        f"{self.source}: {node.name[:80]}: expected a number for each of "
                        f"{len(norm.scale)} channels, found {shapes}"
                    )
                norm.apply(node, values)
        return last

    def _value(self, node: Node, name: str) -> np.ndarray:
        if name not in self.constants:
            raise CheckpointError(f"{self.source}: {node.name[:80]}: {name[:80]} is no constant")
        return self.constants[name]

    def _check_padding(self, layers: dict[str, list[Node]]) -> int:
        """Raise if a stride of 2 is padded alike on both sides: then ours gives other numbers.

        An image with an odd number of pixels a side is padded so by TensorFlow, too. Return this
        size, or 0 if every size is right.
        """
        symmetric, size, only_size = [], self.graph.input_size, 0
        for layer, nodes in layers.items():
            odd = size % 2 == 1
            if any(max(node.options.get("strides", (1, 1))) > 1 for node in nodes):
                size = (size + 1) // 2
            for node in nodes:
                top, left, bottom, right = node.options.get("pads") or (0, 0, 0, 0)
                strides = node.options.get("strides", (1, 1))
                if max(strides) > 1 and (top, left) == (bottom, right) and top:
                    only_size = self.graph.input_size
                    symmetric += [] if odd else [layer]
        if symmetric:
            raise CheckpointError(
                f"{self.source}: pads both sides alike where the stride is 2 (in "
                f"{list_some(list(dict.fromkeys(symmetric)))}), as timm's mixnet_* do; expected "
                "TensorFlow's padding, as in tf_mixnet_*"
            )
        return only_size
