"""Pair the names of the nodes in the original TensorFlow graph."""

from tinymixnet.debug.names.alignment import align
from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import is_number, plain, words_of
from tinymixnet.engine.architecture import Architecture

INNER = ("split", "sigmoid", "mul", "identity", "conv2d", "depthwise", "matmul", "concat")


def by_tensorflow(candidates: Candidates, architecture: Architecture) -> Names:
    """Pair nodes of the original graph (.../blocks_3/se/conv2d_10/BiasAdd), and its endpoints.

    TensorFlow numbers its nodes over the whole graph, so a number says nothing by itself. But
    within one scope, nodes of one kind are in the order of their numbers.
    """
    # "scope:operation" -> the numbers in the names of such nodes, and the names
    nodes_of: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for stored in candidates.shapes:
        if split := _split(words_of(stored)):
            scope, rest = split
            numbers = tuple(int(word) for word in rest if is_number(word))
            nodes_of.setdefault(f"{scope}:{_operation(rest)}", []).append((numbers, stored))
    places: Names = {}
    for scope, layers in _tensorflow_layers(architecture).items():
        nodes = [stored for _, stored in sorted(nodes_of.get(scope, []))]
        if scope.endswith(":mul") and len(nodes) == 2 * len(layers):
            nodes = nodes[1::2]  # swish multiplies by its constant 1 first
        for stored, layer in _in_order(candidates, nodes, layers).items():
            places[stored] = "" if layer in places.values() else layer
    for scope, named in nodes_of.items():
        for _, stored in named:
            if stored not in places and scope.endswith(INNER):
                places[stored] = ""
    endpoints = {"global_pool": f"{architecture.blocks[-1].name}/output", "truediv": "normalize"}
    tails = {
        stored: endpoints.get(plain(stored).removeprefix("mixnet_l_"))
        for stored in candidates.shapes
    }
    return {**{s: tail for s, tail in tails.items() if tail}, **places}


def _split(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the scope of a node (stem, head, blocks_3, blocks_3/se) and the words after it.

    A scope that stands after something else (mixnet_model/stem) counts before one at the start.
    """
    for i in [*range(1, len(words)), 0]:
        if words[i] in ("stem", "head"):
            scope, rest = words[i], words[i + 1 :]
        elif words[i] in ("block", "blocks") and i + 1 < len(words) and is_number(words[i + 1]):
            scope, rest = f"blocks_{words[i + 1]}", words[i + 2 :]
        else:
            continue
        return (f"{scope}/se", rest[1:]) if rest[:1] == ["se"] else (scope, rest)
    return None


def _operation(rest: list[str]) -> str:
    """Return the kind of a node, as the words after its scope tell it."""
    words = [word for word in rest if not word[0].isdecimal()] or [""]
    if any("norm" in word for word in words):
        return "norm" if "norm" in words[-1] or words[-1] in ("add", "normalization") else "split"
    if "depthwise" in words:
        return "depthwise"
    swish = {"identityn": "swish", "silu": "swish", "relu": "swish", "addv2": "add"}
    return "expansion" if words[0] == "expansion" else swish.get(words[-1], words[-1])


def _tensorflow_layers(architecture: Architecture) -> dict[str, list[str]]:
    """Return "scope:operation" -> the layers that such nodes are, in order.

    Where several kinds of nodes hold the same layer, the best of them comes first.
    """
    layers: dict[str, list[str]] = {}

    def add(scope: str, operations: str, *names: str) -> None:
        layers.update({f"{scope}:{operation}": [*names] for operation in operations.split()})

    for scope in ("stem", "head"):
        for operation in ("conv2d conv", "norm bn", "swish act", "mul act", "identity act"):
            add(scope, operation.split()[0], f"{scope}/{operation.split()[1]}")
    layers["stem:"] = ["stem/act"]
    add("head", "mean", "head/pool")
    add("head", "biasadd", "logits")
    add("head", "softmax", "probabilities")
    layers["head:"] = ["head/act", "head/pool", "logits"]
    for b in architecture.blocks:
        groups = {"expand": b.expand_groups, "depthwise": len(b.kernel_sizes)}
        groups = {**groups, "project": b.project_groups}
        parts = [part for part, count in groups.items() if count]
        acts = [f"{b.name}/{part}_act" for part in parts[:-1]]
        whole = [part for part in parts if groups[part] == 1]
        add(b.name, "norm", *(f"{b.name}/{part}_bn" for part in parts))
        add(b.name, "conv2d", *(f"{b.name}/{part}_conv" for part in whole if part != "depthwise"))
        add(b.name, "depthwise", *(f"{b.name}/{part}_conv" for part in whole if part[0] == "d"))
        add(b.name, "concat", *(f"{b.name}/{part}_conv" for part in parts if groups[part] > 1))
        add(b.name, "swish mul", *acts)
        add(b.name, "identity", *(acts if b.swish else []), f"{b.name}/output")
        layers[f"{b.name}:"] = layers[f"{b.name}:add"] = [f"{b.name}/output"]
        se = f"{b.name}/se"
        add(b.name, "expansion", f"{se}_scale" if b.se_width else acts[-1])
        if b.se_width:
            add(se, "mean", f"{se}_pool")
            add(se, "biasadd", f"{se}_reduce", f"{se}_expand")
            add(se, "swish identity", f"{se}_act")
            add(se, "mul", f"{se}_act", f"{se}_scale")
            add(se, "sigmoid", f"{se}_gate")
    return layers


def _in_order(candidates: Candidates, stored: list[str], layers: list[str]) -> Names:
    """Pair one to one if there are as many nodes as layers, else by order and shape."""
    if len(stored) == len(layers):
        return dict(zip(stored, layers, strict=True))
    return align(stored, layers, lambda s, n: int(candidates.fits(s, n)))
