"""From a PyTorch state dict with timm's names (tf_mixnet_s, _m, _l) to a weights file."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, shape_problems
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import (
    check_weights_output,
    file_sha256,
    find_variant,
    list_some,
    to_float32,
)
from weights_tools.formats.labels import check_labels, read_classes
from weights_tools.formats.safetensors import open_safetensors

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
    r"(?:blocks\.(?P<block>[0-9]{1,3}\.[0-9]{1,3})\.)?(?P<layer>\w+?|se\.\w+?)"
    r"(?:\.(?P<group>[0-9]{1,3}))?\.(?P<tensor>weight|bias|running_mean|running_var)"
)
# What wrappers put before every name: DataParallel, Lightning and checkpoints, torch.compile.
_WRAPPERS = re.compile(r"(?:(?:module|model|state_dict|_orig_mod)\.)+")


class Source(NamedTuple):
    """Where the values of one of our tensors are in a state dict."""

    name: str  # in the state dict
    axes: tuple[int, ...]  # the order in which our tensor has PyTorch's axes


def convert(
    state_dict: str | os.PathLike[str],
    output: str | os.PathLike[str],
    variant: str | None = None,
    float16: bool = False,
    labels: str | os.PathLike[str] | None = None,
    **metadata: Any,
) -> Weights:
    """Write the weights file of a .safetensors state dict and return what is in it.

    labels is a text file, one a line, or a table (.tsv) as `formats.labels.read_classes` takes it;
    without it the names in the file's own note `classes` count, separated by commas. metadata
    replaces fields of `Metadata`. Tensors of any numeric type become float32.

    Raises CheckpointError for a file that cannot be read or whose tensors are not those of a
    tf_mixnet, and InputError for an output that would overwrite something else.
    """
    source = str(state_dict)
    check_weights_output(output, inputs=[state_dict, labels])
    file = open_safetensors(source)
    if file.notes.get("architecture", "tf_").startswith("mixnet_"):
        raise CheckpointError(
            f"{source}: made for timm's {file.notes['architecture'][:40]!r}, which pads "
            "symmetrically and has another batch-norm epsilon; expected its tf_ variant"
        )
    sources = canonical_sources(file.tensors, source)
    shapes = {}
    for name, (theirs, axes) in sources.items():
        shape = file.tensors[theirs].shape
        if len(shape) != len(axes):
            raise CheckpointError(f"{source}: {theirs} has an unexpected shape {shape}")
        shapes[name] = tuple(shape[axis] for axis in axes)
    classes = shapes.get("logits/bias", (0,))[0]
    if classes < 1:
        raise CheckpointError(f"{source}: expected a tf_mixnet, found no classifier.bias")

    def problems(architecture: Architecture) -> list[str]:
        return shape_problems(shapes, architecture)

    architecture = find_variant(source, classes, problems, variant)
    noted = tuple(file.notes.get("classes", "").split(","))
    use_note = labels is None and len(noted) == classes and all(noted)
    if use_note:
        _check_noted(noted, source)
    tensors = {
        name: to_float32(file.read(theirs).transpose(axes))
        for name, (theirs, axes) in sources.items()
    }
    fields = {
        **({"labels": noted} if use_note else read_classes(labels, classes)),
        "name": Path(source).stem,
        "source": Path(source).name,
        "source_sha256": file_sha256(source),
        **metadata,
    }
    weights = Weights(architecture, tensors, Metadata(**fields))
    write_weights(output, weights, float16)
    return weights


def _check_noted(labels: tuple[str, ...], source: str) -> None:
    try:
        check_labels(labels, len(labels))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: its note `classes`: {error}") from None


def canonical_sources(names: Iterable[str], source: str) -> dict[str, Source]:
    """Return for each of our tensors timm's name of it, and the order of axes that makes it ours.

    timm counts blocks by stage, blocks.<stage>.<n>; in order, that is our count. Names may have the
    prefixes of wrappers, such as `module.`.
    """
    parsed = {
        theirs: _PARAMETER.fullmatch(_WRAPPERS.sub("", theirs, count=1))
        for theirs in names
        if not theirs.endswith("num_batches_tracked")
    }
    pairs = {match["block"] for match in parsed.values() if match and match["block"]}
    in_order = sorted(pairs, key=lambda pair: [int(part) for part in pair.split(".")])
    numbers = {pair: number for number, pair in enumerate(in_order)}
    # Only blocks with expansion have a conv_pwl.
    full = {match["block"] for match in parsed.values() if match and match["layer"] == "conv_pwl"}

    sources: dict[str, Source] = {}
    strange = []
    for theirs, match in parsed.items():
        ours = match and _canonical_name(match, numbers, full)
        if not ours:
            strange.append(theirs)
        elif ours in sources:
            both = f"{sources[ours].name!r} and {theirs!r}"
            raise CheckpointError(f"{source}: {both} are two values for one tensor, {ours}")
        else:
            sources[ours] = Source(theirs, _axes(ours))
    if strange:
        listed = list_some(sorted(strange))
        raise CheckpointError(
            f"{source}: expected timm's names of a tf_mixnet, found {len(strange)} others: {listed}"
        )
    return sources


def _canonical_name(
    match: re.Match[str], numbers: Mapping[str, int], full: Collection[str]
) -> str | None:
    """Return our name of a tensor whose name in timm was matched; None if we have no such layer."""
    block, layer, parameter = match["block"], match["layer"], match["tensor"]
    if block is None:
        ours = "logits" if layer == "classifier" else _OUTSIDE.get(layer)
    else:
        names = _FULL_BLOCK if block in full else _PLAIN_BLOCK
        ours = f"blocks_{numbers[block]}/{names[layer]}" if layer in names else None
    if ours is None:
        return None
    if ours.endswith("bn"):
        return f"{ours}/{_NORM[parameter]}"
    if parameter == "bias":
        return f"{ours}/bias"
    group = (
        f"_{match['group'] or 0}" if ours.startswith("blocks_") and ours.endswith("_conv") else ""
    )
    return f"{ours}/kernel{group}"


def _axes(ours: str) -> tuple[int, ...]:
    """Conv OIHW -> HWIO, depthwise (C, 1, k, k) -> (k, k, C, 1), dense (out, in) -> (in, out)."""
    if ours == "logits/kernel":
        return (1, 0)
    if "/kernel" not in ours:
        return (0,)
    return (2, 3, 0, 1) if "depthwise_conv" in ours else (2, 3, 1, 0)
