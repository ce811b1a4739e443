"""Graphs whose names say little (ONNX, OpenVINO): pair nodes and layers by order and shape."""

import re
from collections.abc import Sequence

from tinymixnet.debug.names.alignment import align
from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import by_canonical, plain
from tinymixnet.engine.architecture import Architecture

MOST_NODES = 4000  # that are matched by their order: the time grows with the square

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


def by_order(candidates: Candidates, architecture: Architecture) -> Names:
    """Nodes in the order in which they are computed (ONNX, OpenVINO), whatever they are called.

    The longest run of pairs (tensor, layer) in which both go forward and every shape fits. Where
    several layers of one shape follow each other and the dump has fewer of them, operations in the
    tensors' names decide (Conv, BatchNormalization, Relu, Mul, Sigmoid, Add, ...); where they do
    not, the last layers of the run are taken. A Conv that no BatchNormalization follows has it
    folded in, and so is our bn.
    """
    stored = list(candidates.shapes)
    if len(stored) > MOST_NODES:
        return {}
    kinds = _kinds(candidates, stored)
    words = {layer: re.split("[/_]", layer)[-1] for layer in candidates.expected}

    ours = {s: n for s, n in by_canonical(candidates, architecture).items() if n != "image"}

    def weigh(name: str, layer: str) -> int:
        if name in ours:
            return 8 * int(ours[name] == layer and candidates.fits(name, layer))
        known = kinds[name]
        if not candidates.fits(name, layer) or (known is not None and words[layer] not in known):
            return 0
        if known is None:  # a network that ends in one such tensor has no softmax
            return 1 if layer == "probabilities" else 2
        return 4

    return align(stored, list(candidates.expected), weigh)


def _kinds(candidates: Candidates, stored: Sequence[str]) -> dict[str, Sequence[str] | None]:
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
