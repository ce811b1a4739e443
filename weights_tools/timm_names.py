"""timm's names of a MixNet's tensors, as they stand in PyTorch state dicts, and ours for them.

`canonical_sources` goes from their names to ours, `timm_sources` from ours to theirs. The facts are
those of timm's tf_mixnet_s, _m and _l. A block is blocks.<stage>.<n>, a convolution of several
groups has one more number (conv_pw.0), and PyTorch has the output channels first.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from tinymixnet.debug.names.timm import timm_blocks
from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import CheckpointError
from weights_tools.assemble import list_some

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
STEM = "conv_stem.weight"  # the first tensor of timm's names
# What wrappers put before every name: DataParallel, Lightning and checkpoints, torch.compile.
_WRAPPERS = re.compile(r"(?:(?:module|model|state_dict|_orig_mod)\.)+")


class Source(NamedTuple):
    """Where the values of one of our tensors are in a state dict."""

    name: str  # in the state dict
    axes: tuple[int, ...]  # the order in which our tensor has PyTorch's axes


def canonical_sources(names: Iterable[str], source: str) -> dict[str, Source]:
    """Return for each of our tensors timm's name of it, and the order of axes that makes it ours.

    timm counts blocks by stage, blocks.<stage>.<n>; in order, that is our count. Names may have the
    prefixes of wrappers, such as `module.`.
    """
    parsed = {
        theirs: _PARAMETER.fullmatch(plain)
        for theirs, plain in plain_names(names).items()
        if not is_counter(theirs)
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
            sources[ours] = Source(theirs, axes_of(ours))
    if strange:
        listed = list_some(sorted(strange))
        raise CheckpointError(
            f"{source}: expected timm's names of a tf_mixnet, found {len(strange)} others: {listed}"
        )
    return sources


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name, and what it is without what wrappers put before it (module., say).

    What else stands before the only conv_stem.weight is a wrapper, too: net.conv_stem.weight.
    """
    plain = {name: _WRAPPERS.sub("", name, count=1) for name in names}
    stems = [name for name in plain.values() if name.endswith(f".{STEM}")]
    wrapper = stems[0].removesuffix(STEM) if len(stems) == 1 else ""
    return {name: rest.removeprefix(wrapper) for name, rest in plain.items()}


def is_counter(name: str) -> bool:
    """Whether a tensor only counts steps of the training, and is no part of the network."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "n_averaged")


def last_word(ours: str) -> str:
    """Return the last word of the name that PyTorch gives to one of our tensors."""
    tensor = ours.rpartition("/")[2]
    return _PARAMETERS["kernel" if tensor.startswith("kernel") else tensor]


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


def axes_of(ours: str) -> tuple[int, ...]:
    """Conv OIHW -> HWIO, depthwise (C, 1, k, k) -> (k, k, C, 1), dense (out, in) -> (in, out)."""
    if ours == "logits/kernel":
        return (1, 0)
    if "/kernel" not in ours:
        return (0,)
    return (2, 3, 0, 1) if "depthwise_conv" in ours else (2, 3, 1, 0)


def timm_sources(architecture: Architecture) -> dict[str, Source]:
    """Return timm's name of each of our tensors, and the order of axes that makes it ours."""
    shapes = architecture.tensor_shapes()
    stages = {
        block.name: f"blocks.{stage}.{number}"
        for block, (stage, number) in zip(
            architecture.blocks, timm_blocks(architecture), strict=True
        )
    }
    outside = {**_inverse(_OUTSIDE), "logits": "classifier"}
    sources = {}
    for name in shapes:
        layer, tensor = name.rsplit("/", 1)
        block, _, part = layer.partition("/")
        if block in stages:
            full = f"{block}/expand_conv/kernel_0" in shapes
            names = _inverse(_FULL_BLOCK if full else _PLAIN_BLOCK)
            theirs = f"{stages[block]}.{names[part]}"
        else:
            theirs = outside[layer]
        if f"{layer}/kernel_1" in shapes:  # one of several groups: conv_pw.0
            theirs += "." + tensor.removeprefix("kernel_")
        sources[name] = Source(f"{theirs}.{last_word(name)}", axes_of(name))
    return sources


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}


_PARAMETERS = {**_inverse(_NORM), "bias": "bias", "kernel": "weight"}  # ours -> PyTorch's
