"""Find our tensors in a graph by the order and shape of its convolutions, whatever it calls them.

Between a convolution and the next activation, a graph may multiply and add numbers for each
channel: a batch norm, or what an exporter made of one. A batch norm that is whole is taken as it
is. Anything else is folded: the factors go into the kernel, and the batch norm only adds. It then
has gamma 1, beta the sum, mean 0 and variance 1 - epsilon, so that it divides by exactly 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import find_variant, list_some, to_float32
from weights_tools.graphs.chain import PASSED, Chain
from weights_tools.graphs.graph import Graph, Node
from weights_tools.graphs.norm import Norm, output_axis, scaled
from weights_tools.graphs.preprocessing import Preprocessing, find_preprocessing

STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


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
    chain = Chain(graph, source)
    if not chain.weighted:
        raise CheckpointError(f"{chain.source}: no convolution with constant weights in it")
    classes = chain.kernels(chain.weighted[-1])[-1].shape[-1]
    architecture = find_variant(source, classes, lambda a: chain.layers(a)[1], variant)
    layers, _ = chain.layers(architecture)
    only_size = _check_padding(chain, layers)
    norms = {layer: _norm(chain, layer, nodes) for layer, nodes in layers.items()}
    epsilon = _epsilon(norms.values(), source)
    shapes, tensors = architecture.tensor_shapes(), {}
    folded = False
    for layer, norm in norms.items():
        bn = layer.removesuffix("conv") + "bn"
        kernels = [kernel for node in layers[layer] for kernel in chain.kernels(node)]
        names = [n for n in shapes if n.rsplit("/", 1)[0] == layer and "/kernel" in n]
        statistics, has_norm = norm.whole, f"{bn}/gamma" in shapes
        if not (norm.is_whole and has_norm):
            kernels = scaled(layer, kernels, norm.scale)
            one = np.ones_like(norm.shift)
            statistics = (one, norm.shift, 0 * one, one - epsilon)
        for name, kernel in zip(names, kernels, strict=True):
            tensors[name] = to_float32(kernel.reshape(shapes[name]))
        if f"{layer}/bias" in shapes:
            tensors[f"{layer}/bias"] = to_float32(norm.shift)
        if has_norm:
            folded |= not norm.is_whole
            for name, values in zip(STATISTICS, statistics, strict=True):
                tensors[f"{bn}/{name}"] = to_float32(values)
    preprocessing = find_preprocessing(chain.graph, chain.weighted[0], chain.consumers)
    if preprocessing.bgr:
        stem = tensors["stem/conv/kernel"]
        tensors["stem/conv/kernel"] = np.ascontiguousarray(stem[:, :, ::-1])
    ordered = {name: tensors[name] for name in shapes}
    return Found(architecture, ordered, preprocessing, epsilon, folded, only_size)


def _epsilon(norms: Iterable[Norm], source: str) -> float:
    """Return the epsilon of all batch norms that are whole, or the usual one if none is."""
    epsilons = {norm.epsilon for norm in norms if norm.is_whole}
    if len(epsilons) > 1:
        raise CheckpointError(
            f"{source}: its batch norms have different epsilons "
            f"({', '.join(f'{e:g}' for e in sorted(epsilons))}); expected one for all"
        )
    return float(f"{next(iter(epsilons), Metadata.epsilon):.7g}")  # float32 in the file


def _norm(chain: Chain, layer: str, nodes: Sequence[Node]) -> Norm:
    """Return what happens to the channels of a layer up to its activation."""
    axis = output_axis(layer)
    parts, last = [], ""
    for node in nodes:
        width = sum(kernel.shape[axis] for kernel in chain.kernels(node))
        part = Norm(np.ones(width), np.zeros(width))
        if len(node.inputs) > 2 and node.inputs[2]:
            part.apply(Node("Add", "", (), ()), [_value(chain, node, node.inputs[2])])
        last = _apply(chain, part, node.outputs[0])
        parts.append(part)
    users = chain.consumers.get(last, [])
    if len(parts) == 1:
        return parts[0]
    norm = Norm(
        np.concatenate([part.scale for part in parts]),
        np.concatenate([part.shift for part in parts]),
        steps=sum(part.steps for part in parts),
    )
    if len(users) == 1 and users[0].operation == "Concat":
        _apply(chain, norm, users[0].outputs[0])
    return norm


def _apply(chain: Chain, norm: Norm, tensor: str) -> str:
    last = tensor
    for last, node in chain.walk(tensor):  # noqa: B007  (the last one is returned)
        if node.operation not in PASSED:
            values = [_value(chain, node, n) for n in node.inputs if n in chain.constants]
            sizes = {1, len(norm.scale)}
            if not all(value.size in sizes for value in values):
                shapes = [value.shape for value in values]
                raise CheckpointError(
                    f"{chain.source}: {node.name[:80]}: expected a number for each of "
                    f"{len(norm.scale)} channels, found {shapes}"
                )
            norm.apply(node, values)
    return last


def _value(chain: Chain, node: Node, name: str) -> np.ndarray:
    if name not in chain.constants:
        raise CheckpointError(f"{chain.source}: {node.name[:80]}: {name[:80]} is no constant")
    return chain.constants[name]


def _check_padding(chain: Chain, layers: dict[str, list[Node]]) -> int:
    """Raise if a stride of 2 is padded alike on both sides: then ours gives other numbers.

    An image with an odd number of pixels a side is padded so by TensorFlow, too. Return this
    size, or 0 if every size is right.
    """
    symmetric, size, only_size = [], chain.graph.input_size, 0
    for layer, nodes in layers.items():
        odd = size % 2 == 1
        if any(max(node.options.get("strides", (1, 1))) > 1 for node in nodes):
            size = (size + 1) // 2
        for node in nodes:
            top, left, bottom, right = node.options.get("pads") or (0, 0, 0, 0)
            strides = node.options.get("strides", (1, 1))
            if max(strides) > 1 and (top, left) == (bottom, right) and top:
                only_size = chain.graph.input_size
                symmetric += [] if odd else [layer]
    if symmetric:
        raise CheckpointError(
            f"{chain.source}: pads both sides alike where the stride is 2 (in "
            f"{list_some(list(dict.fromkeys(symmetric)))}), as timm's mixnet_* do; expected "
            "TensorFlow's padding, as in tf_mixnet_*"
        )
    return only_size
