"""Foreign dumps: whoever wrote them, as layers of our network, NHWC, under canonical names.

Two questions are answered from names, shapes and order alone, before any values are read: which
stored tensor is which layer (the maps of names below), and how its axes are laid out.
"""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from tinymixnet.architecture import Architecture, parse_block_string
from tinymixnet.errors import TraceError
from tinymixnet.traces import Header, Trace, open_trace

Shape = tuple[int, ...]
Names = dict[str, str]  # stored name -> canonical name

LARGEST_MAP = 1 << 22  # bytes of a user's JSON map
MOST_GUESSES = 200  # of what unmatched names may be: nobody reads more
MOST_NODES = 4000  # that are matched by their order: it takes time with the square


class Dump:
    """The layers of a dump that fit our network; `open_dump` makes one.

    dump[name] is the layer `name` as (N, H, W, C) or (N, C), float32, or float64 where it is stored
    so; dump.raw(name) is as stored, also for mismatched ones. Both raise TraceError for a layer
    that the dump lacks.
    """

    def __init__(self, trace: Trace, expected: Mapping[str, Shape], layout: str | None) -> None:
        self.trace = trace
        self.expected = dict(expected)  # canonical name -> (N, ...)
        self.headers: dict[str, Header] = {name: trace.header(name) for name in trace.names}
        self.theirs: dict[str, str] = {}  # canonical -> stored name, of the layers that fit
        self.map = ""  # which map of names was taken
        self.layouts: dict[str, str] = {}  # canonical -> NHWC or NCHW
        self.ambiguous: list[str] = []  # layers whose layout nothing decides
        self.mismatched: dict[str, tuple[Shape, Shape]] = {}  # canonical -> found, expected
        self.unmatched: dict[str, str | None] = {}  # stored name -> nearest canonical one
        self._misfits: dict[str, str] = {}  # canonical -> stored name, of the mismatched
        self._layout = layout

    @property
    def names(self) -> list[str]:
        """The layers that the dump has, in the network's order."""
        return [name for name in self.expected if name in self.theirs]

    @property
    def missing(self) -> list[str]:
        """The layers that the dump has not, not even in another shape."""
        there = {*self.theirs, *self.mismatched}
        return [name for name in self.expected if name not in there]

    @property
    def half(self) -> bool:
        """Whether any layer is stored as float16, so that finer differences are lost."""
        return any(
            self.headers[name].dtype.itemsize == 2 and self.headers[name].dtype.kind == "f"
            for name in self.theirs.values()
        )

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.theirs:
            raise TraceError(f"{self.trace.path}: no layer that fits {name}")
        x = self.raw(name)
        x = x.astype(
            np.float64 if x.dtype.itemsize == 8 and x.dtype.kind == "f" else np.float32, copy=False
        )
        shape = self.expected[name]
        if self.layouts[name] == "NCHW" and len(shape) == 4:
            n, h, w, c = shape
            x = x.reshape(n, c, h, w).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(x.reshape(shape))

    def raw(self, name: str) -> np.ndarray:
        """A layer as it is stored."""
        stored = {**self._misfits, **self.theirs}
        if name not in stored:
            raise TraceError(f"{self.trace.path}: no layer {name}")
        return self.trace[stored[name]]

    def fits(self, stored: str, name: str) -> bool:
        """Whether a stored tensor can be a layer, by its shape."""
        return bool(layouts_of(self.headers[stored].shape, self.expected[name]))

    def _place(self, places: Names) -> None:
        """Give each stored tensor its layer, the first that fits; decide layouts."""
        for stored, name in places.items():
            if not name:
                continue
            if name not in self.theirs and self.fits(stored, name):
                self.theirs[name] = stored
                self._misfits.pop(name, None)
            elif name not in self.theirs and name not in self._misfits:
                self._misfits[name] = stored
        found = {n: self.headers[s].shape for n, s in self._misfits.items()}
        self.mismatched = {n: (found[n], self.expected[n]) for n in self.expected if n in found}
        placed = {*self.theirs.values(), *self._misfits.values()}
        left = [name for name in self.headers if name not in placed and places.get(name) != ""]
        missing = self.missing
        guesses = {name: nearest(name, missing) for name in left[:MOST_GUESSES]}
        self.unmatched = {name: guesses.get(name) for name in left}
        self._decide_layouts()

    def _decide_layouts(self) -> None:
        fits = {
            n: layouts_of(self.headers[s].shape, self.expected[n]) for n, s in self.theirs.items()
        }
        votes = Counter(layouts[0] for layouts in fits.values() if len(layouts) == 1)
        majority = None if votes["NHWC"] == votes["NCHW"] else votes.most_common(1)[0][0]
        decided = majority or self._layout
        for name in self.names:
            open_ = len(fits[name]) == 2
            self.layouts[name] = (decided or "NHWC") if open_ else fits[name][0]
            if open_ and decided is None and prod(self.expected[name][1:-1]) > 1:
                self.ambiguous.append(name)


@lru_cache(1 << 16)
def layouts_of(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """The layouts in which a tensor of this shape can be the layer; none: it cannot be.

    expected is (N, H, W, C) or (N, C). Where N is 1 the batch axis may be missing, and a map of
    one pixel may be a vector: then and in a square of equal sides either layout fits.
    """
    n, *spatial, c = expected
    vector = prod(spatial) == 1
    layouts = {
        "NHWC": [(n, *(spatial or (1, 1)), c)],
        "NCHW": [(n, c, *(spatial or (1, 1)))],
    }
    for shapes in layouts.values():
        if vector:
            shapes.append((n, c))
        if n == 1:
            shapes.extend([s[1:] for s in shapes])
    return tuple(layout for layout, shapes in layouts.items() if shape in shapes)


def open_dump(
    path: str | os.PathLike[str],
    architecture: Architecture,
    batch: int,
    height: int,
    width: int,
    names: str | os.PathLike[str] | None = None,
    layout: str | None = None,
) -> Dump:
    """Open a dump of `batch` images of height x width pixels as layers of a network.

    names: a shipped map (canonical, tensorflow, timm, onnx), a JSON file {their name: canonical
    name}, or None for the shipped map that places most. layout, "NHWC" or "NCHW", is for shapes
    that fit both ways. Raises TraceError.
    """
    if layout not in (None, "NHWC", "NCHW"):
        raise TraceError(f"layout={layout!r}: expected 'NHWC' or 'NCHW'")
    shapes = architecture.layer_shapes(height, width)
    dump = Dump(open_trace(path), {n: (batch, *s) for n, s in shapes.items()}, layout)
    dump.map, places = _choose(dump, architecture, names)
    dump._place(places)
    return dump


def _choose(
    dump: Dump, architecture: Architecture, names: str | os.PathLike[str] | None
) -> tuple[str, Names]:
    canonical = by_canonical(dump, architecture)
    if names is None:
        found = {n: {**canonical, **MAPS[n](dump, architecture)} for n in MAPS if n != "onnx"}
        best = max(found, key=lambda name: _fitting(dump, found[name]))
        if 4 * _fitting(dump, found[best]) >= len(dump.headers):
            return best, found[best]  # names say more than order and shapes
        ordered = by_order(dump, architecture)
        if _fitting(dump, ordered) > _fitting(dump, found[best]):
            return "onnx", ordered
        return best, found[best]
    if os.fspath(names) in MAPS:
        chosen = str(names)
        places = MAPS[chosen](dump, architecture)
        return chosen, places if chosen == "onnx" else {**canonical, **places}
    given = _read_map(Path(names), dump)  # comes before our own names, should both name a layer
    return os.fspath(names), {**given, **canonical, **given}


def _fitting(dump: Dump, places: Names) -> int:
    """How many layers a map gives a tensor that fits."""
    return len({name for stored, name in places.items() if name and dump.fits(stored, name)})


def _read_map(path: Path, dump: Dump) -> Names:
    if not path.is_file():
        raise TraceError(f"{path}: neither a file nor one of {', '.join(MAPS)}")
    try:
        if path.stat().st_size > LARGEST_MAP:
            raise TraceError(f"{path}: refused, too large for a map of names")
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise TraceError(f"{path}: expected an object of names, {{theirs: canonical}}")
    for name in entries.values():
        if name not in dump.expected:
            guess = nearest(name, list(dump.expected))
            raise TraceError(f"{path}: no layer {name!r}" + (f", is it {guess}?" if guess else ""))
    exact = {stored: entries[stored] for stored in dump.headers if stored in entries}
    plain_entries = {plain(theirs): name for theirs, name in entries.items()}
    lossy = {s: plain_entries[plain(s)] for s in dump.headers if plain(s) in plain_entries}
    return {**lossy, **exact}


def plain(name: str) -> str:
    """A name without all that is lost in file names: lower case, and `_` for other characters."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate most like a name, None where none is like it."""
    forms = {plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(plain(name), forms, n=1, cutoff=0.6)
    return forms[close[0]] if close else None


# -- maps of names --------------------------------------------------------------------------------
#
# Each takes a dump and gives {stored name: canonical name}, or "" for a tensor that is known to be
# no layer of its own, such as one group of a convolution.


def by_canonical(dump: Dump, architecture: Architecture) -> Names:
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


def by_timm(dump: Dump, architecture: Architecture) -> Names:
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


def by_tensorflow(dump: Dump, architecture: Architecture) -> Names:
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


def _in_order(dump: Dump, stored: list[str], layers: list[str]) -> Names:
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


def by_order(dump: Dump, architecture: Architecture) -> Names:
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


def _kinds(dump: Dump, stored: Sequence[str]) -> dict[str, Sequence[str] | None]:
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


MAPS: dict[str, Callable[[Dump, Architecture], Names]] = {
    "canonical": by_canonical,
    "tensorflow": by_tensorflow,
    "timm": by_timm,
    "onnx": by_order,
}
