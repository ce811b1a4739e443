"""From a PyTorch state dict with timm's names (tf_mixnet_s, _m, _l) to a weights file."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, shape_problems
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import CheckpointError
from weights_tools.labels import read_labels
from weights_tools.variants import find_variant

_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_OUTSIDE = {"conv_stem": "stem/conv", "bn1": "stem/bn", "conv_head": "head/conv", "bn2": "head/bn"}
# A block without expansion has three layers fewer, and timm then counts and names differently.
_PLAIN_BLOCK = {
    "conv_dw": "depthwise_conv",
    "bn1": "depthwise_bn",
    "conv_pw": "project_conv",
    "bn2": "project_bn",
}
_FULL_BLOCK = {
    "conv_pw": "expand_conv",
    "bn1": "expand_bn",
    "conv_dw": "depthwise_conv",
    "bn2": "depthwise_bn",
    "se.conv_reduce": "se_reduce",
    "se.conv_expand": "se_expand",
    "conv_pwl": "project_conv",
    "bn3": "project_bn",
}
_PARAMETER = re.compile(
    r"(?:blocks\.(?P<block>\d+\.\d+)\.)?(?P<layer>\w+?|se\.\w+?)"
    r"(?:\.(?P<group>\d+))?\.(?P<tensor>weight|bias|running_mean|running_var)"
)


def convert(
    state_dict: str | os.PathLike[str],
    output: str | os.PathLike[str],
    variant: str | None = None,
    float16: bool = False,
    labels: str | os.PathLike[str] | None = None,
    **about: Any,
) -> Weights:
    """Write the weights file of a .safetensors state dict and return what is in it.

    labels is a text file, one a line; without it the names in the file's own note `classes` count,
    separated by commas. about replaces fields of `Metadata`. Raises CheckpointError for a file that
    cannot be read or whose tensors are not those of a tf_mixnet.
    """
    source = str(state_dict)
    tensors, notes = read_safetensors(source)
    if notes.get("architecture", "tf_").startswith("mixnet_"):
        raise CheckpointError(
            f"{source}: made for timm's {notes['architecture']}, which pads symmetrically and has "
            "another batch-norm epsilon; expected its tf_ variant"
        )
    canonical = canonical_tensors(tensors, source)
    shapes = {name: tensor.shape for name, tensor in canonical.items()}
    classes = shapes.get("logits/bias", (0,))[0]
    if classes < 1:
        raise CheckpointError(f"{source}: expected a tf_mixnet, found no classifier.bias")

    def problems(architecture: Architecture) -> list[str]:
        return shape_problems(shapes, architecture)

    architecture = find_variant(source, classes, problems, variant)
    noted = tuple(notes.get("classes", "").split(","))
    use_note = labels is None and len(noted) == classes and all(noted)
    metadata = Metadata(
        **{
            "labels": noted if use_note else read_labels(labels, classes),
            "name": Path(source).stem,
            "source": Path(source).name,
            "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
            **about,
        }
    )
    weights = Weights(architecture, canonical, metadata)
    write_weights(output, weights, float16)
    return weights


def read_safetensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a .safetensors file, and the notes its maker left."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise CheckpointError(
            f"{path}: reading it needs one more package: pip install 'tinymixnet[safetensors]'"
        ) from None
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # of the library's own types, and what NumPy makes of bad headers
        raise CheckpointError(f"{path}: not a safetensors file we can read ({error})") from None


def canonical_tensors(tensors: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Tensors under canonical names in TensorFlow's layouts, from timm's names in PyTorch's.

    timm counts blocks by stage, blocks.<stage>.<n>; in order, that is our count.
    """
    parsed = {name: _PARAMETER.fullmatch(name) for name in tensors}
    pairs = {m["block"] for m in parsed.values() if m and m["block"]}
    order = sorted(pairs, key=lambda pair: [int(part) for part in pair.split(".")])
    projecting = {m["block"] for m in parsed.values() if m and m["layer"] == "conv_pwl"}

    canonical, strange = {}, []
    for name, tensor in tensors.items():
        match = parsed[name]
        if name.endswith("num_batches_tracked"):
            continue
        if match is None:
            strange.append(name)
            continue
        block, layer, parameter = match["block"], match["layer"], match["tensor"]
        if block is None:
            ours = "logits" if layer == "classifier" else _OUTSIDE.get(layer)
        else:
            names = _FULL_BLOCK if block in projecting else _PLAIN_BLOCK
            ours = f"blocks_{order.index(block)}/{names[layer]}" if layer in names else None
        if ours is None:
            strange.append(name)
        elif ours.endswith("bn"):
            canonical[f"{ours}/{_NORM[parameter]}"] = tensor
        elif parameter == "bias":
            canonical[f"{ours}/bias"] = tensor
        else:
            group = f"_{match['group'] or 0}" if ours.endswith("_conv") else ""
            canonical[f"{ours}/kernel{group}"] = _tensorflow_layout(tensor, ours, name, source)
    if strange:
        listed = ", ".join(sorted(strange)[:5])
        raise CheckpointError(
            f"{source}: expected timm's names of a tf_mixnet, found {len(strange)} others: {listed}"
        )
    return canonical


def _tensorflow_layout(tensor: np.ndarray, ours: str, name: str, source: str) -> np.ndarray:
    """Conv OIHW -> HWIO, depthwise (C, 1, k, k) -> (k, k, C, 1), dense (out, in) -> (in, out)."""
    if tensor.ndim != (2 if ours == "logits" else 4):
        raise CheckpointError(f"{source}: {name} has an unexpected shape {tensor.shape}")
    if ours == "logits":
        return tensor.T
    if ours.endswith("depthwise_conv"):
        return tensor.transpose(2, 3, 0, 1)
    return tensor.transpose(2, 3, 1, 0)
