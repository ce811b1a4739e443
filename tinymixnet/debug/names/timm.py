"""The names of timm's PyTorch modules."""

import re
from collections import Counter

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import plain
from tinymixnet.engine.architecture import Architecture, parse_block_string

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


def by_timm(candidates: Candidates, architecture: Architecture) -> Names:
    """Modules of timm's tf_mixnet: conv_stem, blocks.1.0.conv_pw, blocks.1.0 (its output), ...

    A batch norm's output before the activation is not to be had there: those layers are missing.
    Ignored are groups of a convolution (conv_pw.0), the parts of a batch norm (bn1.drop, bn1.act)
    and containers (blocks.1).
    """
    top = "|".join(TIMM)
    module = re.compile(rf"(?:.*?_)??(?:blocks_(\d+)_(\d+)(?:_(.+))?|({top}))")
    parsed = {stored: module.fullmatch(plain(stored)) for stored in candidates.shapes}
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
    return {
        stored: name for stored, name in places.items() if not name or name in candidates.expected
    }


def _timm_blocks(architecture: Architecture) -> list[tuple[int, int]]:
    """(stage, place in it) of every block: timm's stages are the first block string, then pairs."""
    stages = Counter(
        (index + 1) // 2
        for index, text in enumerate(architecture.block_strings)
        for _ in range(parse_block_string(text).repeats)
    )
    return [(stage, n) for stage, count in sorted(stages.items()) for n in range(count)]
