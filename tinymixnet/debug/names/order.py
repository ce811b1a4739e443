"""Pair nodes whose names say little (ONNX, OpenVINO) with layers by their order and shape."""

import re
from collections.abc import Sequence
from math import prod

from tinymixnet.debug.names.alignment import align
from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import by_canonical, plain
from tinymixnet.engine.architecture import Architecture

MOST_NODES = 4000  # that are paired by order: the time grows with their number times 280 layers
LAST_WORDS = 200  # characters at the end of a name in which its operation is looked for

OPERATIONS = {  # what a name may say of a node's kind; the last one in the name counts
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
OPERATION = re.compile("|".join(f"({words})" for words in OPERATIONS))
KINDS = {  # kind of node -> the last words of the names of the layers that it may be
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
    "input": "image normalize",  # some graphs take an image that is normalised already
}


def by_order(candidates: Candidates, architecture: Architecture) -> Names:
    """Pair nodes in the order in which they are computed, whatever they are called.

    Takes the longest list of pairs (tensor, layer) in which both sides go forward and every shape
    fits. If several layers of one shape follow each other and the dump has fewer of them, the
    operations in the tensors' names decide (Conv, BatchNormalization, Relu, Mul, ...). If they do
    not, the last of these layers are taken. A Conv without a BatchNormalization after it has it
    folded in, so it is our bn.
    """
    stored = list(candidates.shapes)
    if len(stored) > MOST_NODES:
        return {}
    if blocks := _blocks_alone(candidates, stored):
        return blocks
    kinds = _kinds(candidates, stored)
    words = {layer: re.split("[/_]", layer)[-1] for layer in candidates.expected}

    ours = {s: n for s, n in by_canonical(candidates, architecture).items() if n != "image"}

    def weigh(name: str, layer: str) -> int:
        if name in ours:
            return 8 * int(ours[name] == layer and candidates.fits(name, layer))
        known = kinds[name]
        if not candidates.fits(name, layer) or (known is not None and words[layer] not in known):
            return 0
        if prod(candidates.shapes[name]) != prod(candidates.expected[layer]):
            return 1  # its channels may be padded, but it is more likely another layer
        if known is None:  # the last tensor is more likely the logits than the probabilities
            return 1 if layer == "probabilities" else 2
        return 4

    return align(stored, list(candidates.expected), weigh)


def _blocks_alone(candidates: Candidates, stored: Sequence[str]) -> Names:
    """Pair a dump that holds what each block gives, and maybe the answer, but nothing else."""
    layers = [layer for layer in candidates.expected if layer.endswith("/output")]
    layers += ["logits", "probabilities"][: len(stored) - len(layers)]
    if len(stored) != len(layers):
        return {}
    pairs = dict(zip(stored, layers, strict=True))
    return pairs if all(candidates.fits(name, layer) for name, layer in pairs.items()) else {}


def _kinds(candidates: Candidates, stored: Sequence[str]) -> dict[str, Sequence[str] | None]:
    """Return for each tensor the words that its layer's name may end in; None if all may.

    The names of the tensors before and after it count, too.
    """
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
    kinds = [match.lastindex for match in OPERATION.finditer(plain(name)[-LAST_WORDS:])]
    return list(OPERATIONS.values())[kinds[-1] - 1] if kinds and kinds[-1] else None
