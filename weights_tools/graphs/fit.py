"""Say how well a graph fits a network: which of our tensors it lacks, which of its own are left."""

from collections.abc import Iterable
from contextlib import suppress

from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import CheckpointError
from weights_tools.alignment import aligned
from weights_tools.graphs.chain import Chain, expected_kernels
from weights_tools.graphs.graph import Graph, Node


def classes_of(graph: Graph) -> int:
    """Return the width of the last convolution or product, or 0 if the graph has none of ours."""
    chain = Chain(graph)
    try:
        return chain.kernels(chain.weighted[-1])[-1].shape[-1] if chain.weighted else 0
    except CheckpointError:  # a kernel without four axes
        return 0


def compare(graph: Graph, architecture: Architecture) -> tuple[list[str], list[str]]:
    """Return our tensors that found no match, and the graph's constants that no match used.

    A layer counts as found if all its kernels are there, with their shapes and in their order. Of
    the graph's constants those with several numbers count, and only floats: others are shapes and
    axes.
    """
    chain = Chain(graph)
    try:
        layers, problems = chain.layers(architecture)
    except CheckpointError as error:
        problems = [str(error)]
    if problems:
        layers = _found_layers(chain, architecture)
    missing = [name for name in architecture.tensor_shapes() if _layer_of(name) not in layers]
    used = {name for nodes in layers.values() for name in chain.constants_of(nodes)}
    if chain.weighted:
        used.update(_before(chain, chain.weighted[0]))
    used = _stored(graph, used)
    surplus = [
        name
        for name, values in graph.constants.items()
        if name not in used and values.dtype.kind == "f" and values.size > 1
    ]
    return missing, surplus


def _layer_of(name: str) -> str:
    """Return the layer of a tensor; of a batch norm, the layer with a kernel before it."""
    layer = name.rsplit("/", 1)[0]
    return f"{layer.removesuffix('bn')}conv" if layer.endswith("bn") else layer


def _found_layers(chain: Chain, architecture: Architecture) -> dict[str, list[Node]]:
    """Return the nodes of the layers all of whose kernels are there, others being left out."""
    ours = [(layer, s) for layer, shapes in expected_kernels(architecture).items() for s in shapes]
    theirs = []
    for node in chain.weighted:
        with suppress(CheckpointError):  # a kernel without four axes is none of ours
            theirs += [(node, kernel.shape) for kernel in chain.kernels(node)]
    pairs = aligned([shape for _, shape in ours], [shape for _, shape in theirs])
    found: dict[str, list[Node]] = {}
    for mine, other in pairs:
        found.setdefault(ours[mine][0], []).append(theirs[other][0])
    wanted = expected_kernels(architecture)
    return {
        layer: list({id(node): node for node in nodes}.values())
        for layer, nodes in found.items()
        if len(nodes) == len(wanted[layer])
    }


def _before(chain: Chain, first: Node) -> Iterable[str]:
    """Yield the constants of all operations before a node."""
    makers = {name: node for node in chain.graph.nodes for name in node.outputs}
    waiting, seen = [first.inputs[0]], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            yield from (name for name in node.inputs if name in chain.constants)
            waiting += node.inputs


def _stored(graph: Graph, used: Iterable[str]) -> set[str]:
    """Return the constants as the file has them, from which others were computed."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    waiting, stored = list(used), set()
    while waiting:
        name = waiting.pop()
        if name not in stored:
            stored.add(name)
            if name in makers and name not in graph.constants:
                waiting += makers[name].inputs
    return stored
