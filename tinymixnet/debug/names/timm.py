"""The names of timm's PyTorch modules."""

from collections import Counter
from itertools import pairwise

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import is_number, words_of
from tinymixnet.engine.architecture import Architecture, parse_block_string

TIMM = {  # a batch norm of timm applies the activation as well, if one follows
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


def by_timm(candidates: Candidates, architecture: Architecture) -> Names:
    """Pair the modules of timm's tf_mixnet: conv_stem, blocks.1.0.conv_pw, blocks.1.0 (its output).

    timm has no module for a batch norm without its activation, so those layers are missing. Groups
    of a convolution (conv_pw.0), parts of a batch norm (bn1.drop, bn1.act) and containers
    (blocks.1) are no layers.
    """
    modules = {stored: _module(words_of(stored)) for stored in candidates.shapes}
    seen = {(module[0], module[1]) for module in modules.values() if isinstance(module, tuple)}
    order = sorted(seen) if len(seen) == len(architecture.blocks) else timm_blocks(architecture)
    numbers = {place: number for number, place in enumerate(order)}
    places = {}
    for stored, module in modules.items():
        if _is_inner(words_of(stored)):
            places[stored] = ""
        elif isinstance(module, str):
            places[stored] = TIMM[module]
        elif module is not None and module[:2] in numbers:
            block = architecture.blocks[numbers[module[:2]]]
            names = TIMM_BLOCK if block.expand_groups else TIMM_BLOCK_0
            if layer := names.get(module[2]):
                places[stored] = f"{block.name}/{layer}"
    return {
        stored: name for stored, name in places.items() if not name or name in candidates.expected
    }


def _module(words: list[str]) -> tuple[int, int, str] | str | None:
    """Return (stage, block in it, module in that), or the name of a module outside the blocks."""
    for i, word in enumerate(words):
        if word == "blocks" and len(words) > i + 2 and all(map(is_number, words[i + 1 : i + 3])):
            return int(words[i + 1]), int(words[i + 2]), "_".join(words[i + 3 :])
        if len(words) - i <= 2 and (rest := "_".join(words[i:])) in TIMM:
            return rest
    return None


def _is_inner(words: list[str]) -> bool:
    """Whether a module is a part of a layer, or holds several layers."""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in ("aa", "blocks") or (before == "drop" and last == "path"):
        return True
    if is_number(last) and (before == "blocks" or "conv" in words[:-2]):
        return True
    if before[:2] == "bn" and before[2:].isdecimal() and last in ("drop", "act"):
        return True
    return ("global", "pool") in pairwise(words[:-1])  # and something after it


def timm_blocks(architecture: Architecture) -> list[tuple[int, int]]:
    """Return (stage, place in it) of each block.

    The first stage of timm is the first block string, each further stage is a pair of them.
    """
    stages = Counter(
        (index + 1) // 2
        for index, text in enumerate(architecture.block_strings)
        for _ in range(parse_block_string(text).repeats)
    )
    return [(stage, n) for stage, count in sorted(stages.items()) for n in range(count)]


def timm_names(architecture: Architecture) -> dict[str, str]:
    """Return the name of timm's module for each layer that has one, in the network's order."""
    names = {layer: module for module, layer in TIMM.items()}
    for block, (stage, number) in zip(architecture.blocks, timm_blocks(architecture), strict=True):
        modules = TIMM_BLOCK if block.expand_groups else TIMM_BLOCK_0
        names |= {
            f"{block.name}/{layer}": f"blocks.{stage}.{number}.{module}".rstrip(".")
            for module, layer in modules.items()
        }
    order = [layer for part in architecture.parts() for layer in part.layers]
    return {layer: names[layer] for layer in order if layer in names}
