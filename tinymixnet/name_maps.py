"""Which stored tensor is which layer: the names that other implementations give to MixNet's layers.

Each map takes a dump and gives {stored name: canonical name}, or "" for a tensor that is known to
be no layer of its own, such as one group of a convolution.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tinymixnet.architecture import Architecture, parse_block_string

if TYPE_CHECKING:
    from tinymixnet.dumps import Dump

Names = dict[str, str]  # stored name -> canonical name

MOST_NODES = 4000  # that are matched by their order: it takes time with the square


def plain(name: str) -> str:
    """A name without all that is lost in file names: lower case, and `_` for other characters."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate most like a name, None where none is like it."""
    forms = {plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(plain(name), forms, n=1, cutoff=0.6)
    return forms[close[0]] if close else None


def by_canonical(dump: "Dump", architecture: Architecture) -> Names:
    """Our own names; whatever stands before them does not matter (run1/stem/conv)."""
    layers = {plain(name): name for name in dump.expected}
    places = {}
    for stored in dump.headers:
        words = plain(stored).split("_")
        tails = ("_".join(words[i:]) for i in range(min(len(words), 16)))
        if found := next((layers[tail] for tail in tails if tail in layers), None):
            places[stored] = found
    return places


TIMM = {  # timm's batch norms apply the activation too, where one follows
    "conv_stem": "stem/conv",
    "bn1": "stem/act",
    "conv_head": "head/conv",
    "bn2": "head/act",
    "global_pool": "head/pool",
    "classifier": "logits",
}
TIMM_BLOCK = {
    "conv_pw": "expand_conv",
    "bn1": "expand_act",
    "conv_dw": "depthwise_conv",
    "bn2": "depthwise_act",
    "se_conv_reduce": "se_reduce",
    "se_act1": "se_act",
    "se_conv_expand": "se_expand",
    "se_gate": "se_gate",
    "se": "se_scale",
    "conv_pwl": "project_conv",
    "bn3": "project_bn",
    "": "output",
}
TIMM_BLOCK_0 = {  # without expansion
    "conv_dw": "depthwise_conv",
    "bn1": "depthwise_act",
    "conv_pw": "project_conv",
    "bn2": "project_bn",
    **{name: layer for name, layer in TIMM_BLOCK.items() if name[:2] in ("", "se")},
}
TIMM_INNER = re.compile(
    r"(.*_)?(conv_\w+_\d+|bn\d_(drop|act)|aa|drop_path|global_pool_\w+|blocks(_\d+)?)"
)


def by_timm(dump: "Dump", architecture: Architecture) -> Names:
    """Modules of timm's tf_mixnet: conv_stem, blocks.1.0.conv_pw, blocks.1.0 (its output), ...

    A batch norm's output before the activation is not to be had there: those layers are missing.
    Ignored are groups of a convolution (conv_pw.0), the parts of a batch norm (bn1.drop, bn1.act)
    and containers (blocks.1).
    """
    top = "|".join(TIMM)
    module = re.compile(rf"(?:.*?_)??(?:blocks_(\d+)_(\d+)(?:_(.+))?|({top}))")
    parsed = {stored: module.fullmatch(plain(stored)) for stored in dump.headers}
    seen = {(int(m[1]), int(m[2])) for m in parsed.values() if m and m[1]}
    order = sorted(seen) if len(seen) == len(architecture.blocks) else _timm_blocks(architecture)
    places = {}
    for stored, found in parsed.items():
        if TIMM_INNER.fullmatch(plain(stored)):
            places[stored] = ""
        elif found and found[1] and (key := (int(found[1]), int(found[2]))) in order:
            block = architecture.blocks[order.index(key)]
            names = TIMM_BLOCK if block.expand_groups else TIMM_BLOCK_0
            if layer := names.get(found[3] or ""):
                places[stored] = f"{block.name}/{layer}"
        elif found and found[4] in TIMM:
            places[stored] = TIMM[found[4]]
    return {stored: name for stored, name in places.items() if not name or name in dump.expected}


def _timm_blocks(architecture: Architecture) -> list[tuple[int, int]]:
    """(stage, place in it) of every block: timm's stages are the first block string, then pairs."""
    stages = Counter(
        (index + 1) // 2
        for index, text in enumerate(architecture.block_strings)
        for _ in range(parse_block_string(text).repeats)
    )
    return [(stage, n) for stage, count in sorted(stages.items()) for n in range(count)]


def by_tensorflow(dump: "Dump", architecture: Architecture) -> Names:
    """Nodes of the original graph (.../blocks_3/se/conv2d_10/BiasAdd) and its endpoints (block_3).

    Within a scope the nodes of one kind are in the order of their numbers; those numbers count
    over the whole graph, so only their order says anything.
    """
    scoped = re.compile(r"(?:.*?_)?(?:blocks?_(\d+)|(stem|head))((?:_se)?)(?:_(.*))?")
    scopes: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for stored in dump.headers:
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
        for stored, layer in _in_order(dump, nodes, layers).items():
            places[stored] = "" if layer in places.values() else layer
    inner = ("split", "sigmoid", "mul", "identity", "conv2d", "depthwise", "matmul", "concat")
    for scope, nodes_of_one in scopes.items():
        for _, stored in nodes_of_one:
            if stored not in places and scope.endswith(inner):
                places[stored] = ""
    endpoints = {"global_pool": f"{architecture.blocks[-1].name}/output", "truediv": "normalize"}
    tails = {
        stored: endpoints.get(plain(stored).removeprefix("mixnet_l_")) for stored in dump.headers
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


def _in_order(dump: "Dump", stored: list[str], layers: list[str]) -> Names:
    """One tensor a layer where there are as many, else by shape."""
    if len(stored) == len(layers):
        return dict(zip(stored, layers, strict=True))
    return align(stored, layers, lambda s, n: int(dump.fits(s, n)))


OPERATIONS = {  # what a node's name tells of its kind; the last one in the name counts
    "batch_?norm": "bn",
    "convolution": "convolution",  # OpenVINO's: the bias is added by a node of its own
    "conv|concat": "conv",
    "biasadd|bias_add": "bias",
    "relu|swish|silu": "act",
    "sigmoid": "gate",
    "matmul": "matmul",
    "mul": "mul",
    "add": "add",
    "mean|averagepool": "pool",
    "gemm": "dense",
    "softmax": "softmax",
    "sub|split|slice|pad|transpose|shape|quantize": "inner",
    "div": "division",
    "input|image": "input",
}
KINDS = {  # the layers that such a node may be, by the last word of their names
    "bn": "bn",
    "convolution": "conv",
    "conv": "conv reduce expand",
    "bias": "reduce expand logits",
    "act": "act",
    "gate": "gate",
    "matmul": "logits",
    "mul": "act scale",
    "add": "output",
    "pool": "pool",
    "dense": "logits",
    "softmax": "probabilities",
    "inner": "",
    "division": "normalize",
    "input": "image normalize",  # who normalises outside calls the result the image too
}


def by_order(dump: "Dump", architecture: Architecture) -> Names:
    """Nodes in the order in which they are computed (ONNX, OpenVINO), whatever they are called.

    The longest run of pairs (tensor, layer) in which both go forward and every shape fits. Where
    several layers of one shape follow each other and the dump has fewer of them, operations in the
    tensors' names decide (Conv, BatchNormalization, Relu, Mul, Sigmoid, Add, ...); where they do
    not, the last layers of the run are taken. A Conv that no BatchNormalization follows has it
    folded in, and so is our bn.
    """
    stored = list(dump.headers)
    if len(stored) > MOST_NODES:
        return {}
    kinds = _kinds(dump, stored)
    words = {layer: re.split("[/_]", layer)[-1] for layer in dump.expected}

    ours = {s: n for s, n in by_canonical(dump, architecture).items() if n != "image"}

    def weigh(name: str, layer: str) -> int:
        if name in ours:
            return 8 * int(ours[name] == layer and dump.fits(name, layer))
        known = kinds[name]
        if not dump.fits(name, layer) or (known is not None and words[layer] not in known):
            return 0
        if known is None:  # a network that ends in one such tensor has no softmax
            return 1 if layer == "probabilities" else 2
        return 4

    return align(stored, list(dump.expected), weigh)


def _kinds(dump: "Dump", stored: Sequence[str]) -> dict[str, Sequence[str] | None]:
    """Which words a layer's name may end in, by the tensor's name and that of the next one."""
    operations = [_last_operation(name) for name in stored]
    kinds: dict[str, Sequence[str] | None] = {}
    for i, name in enumerate(stored):
        now = operations[i]
        before, after = operations[max(i - 1, 0)], operations[min(i + 1, len(stored) - 1)]
        words = None if now is None else KINDS[now].split()
        if after == "bias" or (now in ("convolution", "matmul") and after == "add"):
            words = []
        elif now == "add" and before in ("convolution", "matmul"):
            words = ["bn", "reduce", "expand", "logits"]
        elif now in ("conv", "convolution") and after not in ("bn", None):
            words = [*KINDS["conv"].split(), "bn"]
        kinds[name] = words
    return kinds


def _last_operation(name: str) -> str | None:
    pattern = "|".join(f"({words})" for words in OPERATIONS)
    found = [match.lastindex for match in re.finditer(pattern, plain(name))]
    return list(OPERATIONS.values())[found[-1] - 1] if found and found[-1] else None


def align(stored: Sequence[str], layers: Sequence[str], weigh: Callable[[str, str], int]) -> Names:
    """The heaviest set of pairs in which both sides go forward; of equal ones the latest."""
    best = [[0] * (len(layers) + 1)]
    for name in stored:
        above, row = best[-1], [0]
        for j, layer in enumerate(layers):
            weight = weigh(name, layer)
            row.append(max(above[j + 1], row[j], above[j] + weight if weight else 0))
        best.append(row)
    pairs, i, j = [], len(stored), len(layers)
    while i and j:
        weight = weigh(stored[i - 1], layers[j - 1])
        if weight and best[i][j] == best[i - 1][j - 1] + weight:
            i, j = i - 1, j - 1
            pairs.append((stored[i], layers[j]))
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return dict(reversed(pairs))


MAPS: dict[str, Callable[["Dump", Architecture], Names]] = {
    "canonical": by_canonical,
    "tensorflow": by_tensorflow,
    "timm": by_timm,
    "onnx": by_order,
}
