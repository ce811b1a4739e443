"""The names of the nodes in the original TensorFlow graph."""

import re

from tinymixnet.debug.names.alignment import align
from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import plain
from tinymixnet.engine.architecture import Architecture


def by_tensorflow(candidates: Candidates, architecture: Architecture) -> Names:
    """Nodes of the original graph (.../blocks_3/se/conv2d_10/BiasAdd) and its endpoints (block_3).

    Within a scope the nodes of one kind are in the order of their numbers; those numbers count
    over the whole graph, so only their order says anything.
    """
    scoped = re.compile(r"(?:.*?_)?(?:blocks?_(\d+)|(stem|head))((?:_se)?)(?:_(.*))?")
    scopes: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for stored in candidates.shapes:
        if found := scoped.fullmatch(plain(stored)):
            rest = found[4] or ""
            numbers = tuple(int(n) for n in re.findall(r"(?<![a-z0-9])\d{1,9}(?![a-z0-9])", rest))
            scope = (f"blocks_{found[1]}" if found[1] else found[2]) + found[3].replace("_", "/")
            scopes.setdefault(f"{scope}:{_operation(rest)}", []).append((numbers, stored))
    places: Names = {}
    for scope, layers in _tensorflow_layers(architecture).items():
        nodes = [stored for _, stored in sorted(scopes.get(scope, []))]
        if scope.endswith(":mul") and len(nodes) == 2 * len(layers):
            nodes = nodes[1::2]  # swish multiplies by its constant 1 first
        for stored, layer in _in_order(candidates, nodes, layers).items():
            places[stored] = "" if layer in places.values() else layer
    inner = ("split", "sigmoid", "mul", "identity", "conv2d", "depthwise", "matmul", "concat")
    for scope, nodes_of_one in scopes.items():
        for _, stored in nodes_of_one:
            if stored not in places and scope.endswith(inner):
                places[stored] = ""
    endpoints = {"global_pool": f"{architecture.blocks[-1].name}/output", "truediv": "normalize"}
    tails = {
        stored: endpoints.get(plain(stored).removeprefix("mixnet_l_"))
        for stored in candidates.shapes
    }
    return {**{s: tail for s, tail in tails.items() if tail}, **places}


def _operation(rest: str) -> str:
    """The kind of node that the part of its name after the scope tells."""
    words = re.findall(r"(?<![a-z0-9])[a-z][a-z0-9]*", rest) or [""]
    if "norm" in rest:
        return "norm" if "norm" in words[-1] or words[-1] in ("add", "normalization") else "split"
    if "depthwise" in words:
        return "depthwise"
    swish = {"identityn": "swish", "silu": "swish", "relu": "swish", "addv2": "add"}
    return "expansion" if words[0] == "expansion" else swish.get(words[-1], words[-1])


def _tensorflow_layers(architecture: Architecture) -> dict[str, list[str]]:
    """scope:operation -> the layers that such nodes are, in order; the best source first."""
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
    """One tensor a layer where there are as many, else by shape."""
    if len(stored) == len(layers):
        return dict(zip(stored, layers, strict=True))
    return align(stored, layers, lambda s, n: int(candidates.fits(s, n)))
