"""Find our tensors in Keras's .weights.h5, which has no graph: layers are counted by their kind.

Keras calls the layers conv2d, conv2d_1, ... in the order in which the model made them, and so they
are here the order of the network. The file has no batch-norm epsilon.
"""

import re
from pathlib import Path

import numpy as np

from tinymixnet.debug.arrays import Hdf5Arrays, natural
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.weights import shape_problems
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import find_variant, to_float32

LAYER = re.compile(
    r"(?:.*/)?(?P<layer>(?P<kind>[a-z0-9_]+?)(?:_[0-9]{1,5})?)/vars/(?P<index>[0-9])"
)
KINDS = ("conv2d", "depthwise_conv2d", "batch_normalization", "dense")


def read_keras_weights(
    path: Path, variant: str | None
) -> tuple[Architecture, dict[str, np.ndarray]]:
    """Return the network and its tensors. Raises CheckpointError."""
    arrays = Hdf5Arrays(path)
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for name in sorted(arrays.files, key=natural):
        match = LAYER.fullmatch(name)
        if match and match["kind"] in found:
            found[match["kind"]].setdefault(match["layer"], []).append(name)
    dense = list(found["dense"].values())
    if not dense:
        raise CheckpointError(f"{path}: no layers as Keras writes them (layers/dense/vars/0)")
    classes = arrays.header(dense[-1][0]).shape[-1]
    shapes = {name: arrays.header(name).shape for layers in found.values()
              for names in layers.values() for name in names}  # fmt: skip

    def problems(architecture: Architecture) -> list[str]:
        places, wrong = _places(architecture, found)
        return wrong + shape_problems(
            {n: shapes[theirs] for n, theirs in places.items()}, architecture
        )

    architecture = find_variant(str(path), classes, problems, variant)
    places, _ = _places(architecture, found)
    return architecture, {n: to_float32(arrays.read(theirs)) for n, theirs in places.items()}


def _places(
    architecture: Architecture, found: dict[str, dict[str, list[str]]]
) -> tuple[dict[str, str], list[str]]:
    """Return {our tensor: their array}, and what does not fit."""
    ours: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for name in architecture.tensor_shapes():
        layer, tensor = name.rsplit("/", 1)
        kind = "dense" if layer == "logits" else "conv2d"
        kind = "depthwise_conv2d" if layer.endswith("depthwise_conv") else kind
        kind = "batch_normalization" if layer.endswith("bn") else kind
        group = tensor if tensor.startswith("kernel_") else ""
        ours[kind].setdefault(layer + group, []).append(name)
    places: dict[str, str] = {}
    problems = []
    for kind in KINDS:
        left, right = list(ours[kind].values()), list(found[kind].values())
        if [len(names) for names in left] != [len(names) for names in right]:
            problems.append(
                f"{kind}: expected {len(left)} layers, found {len(right)}, or other arrays"
            )
            continue
        for names, theirs in zip(left, right, strict=True):
            places.update(zip(names, theirs, strict=True))
    return places, problems
