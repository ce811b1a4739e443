"""MixNet as data: the block strings, what they mean, and all shapes and counts that follow.

A block string describes one stage, e.g. `r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw`:

    r3     three blocks in a row: the first has the stride and the input filters written here,
           the others have stride 1 and as many input filters as output filters
    k3.5   depthwise kernel sizes, one for each group of channels
    a1.1   the 1x1 convolution that expands the channels has two groups (`a1`: one)
    p1.1   the 1x1 convolution that projects them back has two groups
    s11    stride 1 in both directions (`s22`: 2)
    e6     the expansion: six times as many channels inside the block as at its input
    i40 o40   filters at the input and the output, before scaling by the multiplier
    se0.5  squeeze-and-excite with half as many channels as the block's *input* (absent: none)
    sw     swish (absent: ReLU)

Source: Tan & Le, "MixConv: Mixed Depthwise Convolutional Kernels" (arXiv 1907.09595), and the
tables of the TensorFlow TPU repository.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple, TypeVar

from tinymixnet.engine.budget import budget
from tinymixnet.engine.kernels import split_channels
from tinymixnet.errors import InputError, printable, short_repr

Tensor = TypeVar("Tensor")

MIXNET_S = (
    "r1_k3_a1_p1_s11_e1_i16_o16",
    "r1_k3_a1.1_p1.1_s22_e6_i16_o24",
    "r1_k3_a1.1_p1.1_s11_e3_i24_o24",
    "r1_k3.5.7_a1_p1_s22_e6_i24_o40_se0.5_sw",
    "r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw",
    "r1_k3.5.7_a1_p1.1_s22_e6_i40_o80_se0.25_sw",
    "r2_k3.5_a1_p1.1_s11_e6_i80_o80_se0.25_sw",
    "r1_k3.5.7_a1.1_p1.1_s11_e6_i80_o120_se0.5_sw",
    "r2_k3.5.7.9_a1.1_p1.1_s11_e3_i120_o120_se0.5_sw",
    "r1_k3.5.7.9.11_a1_p1_s22_e6_i120_o200_se0.5_sw",
    "r2_k3.5.7.9_a1_p1.1_s11_e6_i200_o200_se0.5_sw",
)
MIXNET_M = (
    "r1_k3_a1_p1_s11_e1_i24_o24",
    "r1_k3.5.7_a1.1_p1.1_s22_e6_i24_o32",
    "r1_k3_a1.1_p1.1_s11_e3_i32_o32",
    "r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw",
    "r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw",
    "r1_k3.5.7_a1_p1_s22_e6_i40_o80_se0.25_sw",
    "r3_k3.5.7.9_a1.1_p1.1_s11_e6_i80_o80_se0.25_sw",
    "r1_k3_a1_p1_s11_e6_i80_o120_se0.5_sw",
    "r3_k3.5.7.9_a1.1_p1.1_s11_e3_i120_o120_se0.5_sw",
    "r1_k3.5.7.9_a1_p1_s22_e6_i120_o200_se0.5_sw",
    "r3_k3.5.7.9_a1_p1.1_s11_e6_i200_o200_se0.5_sw",
)

# variant: block strings, stem filters before scaling, multiplier
VARIANTS = {
    "mixnet-s": (MIXNET_S, 16, 1.0),
    "mixnet-m": (MIXNET_M, 24, 1.0),
    "mixnet-l": (MIXNET_M, 24, 1.3),
}
HEAD_FILTERS = 1536  # the multiplier leaves the head alone
MOST_BLOCKS = 200  # MixNet-L has 19: a file with more can only be meant to exhaust memory
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

_BLOCK_STRING = re.compile(
    r"r(?P<repeats>\d{1,3})_k(?P<kernels>\d{1,2}(?:\.\d{1,2}){0,9})"
    r"_a(?P<expand>1(?:\.1){0,9})_p(?P<project>1(?:\.1){0,9})"
    r"_s(?P<stride>[1-9])(?P=stride)_e(?P<ratio>\d{1,2})"
    r"_i(?P<inputs>\d{1,4})_o(?P<outputs>\d{1,4})"
    r"(?:_se(?P<se>0(?:\.\d{1,6})?|1(?:\.0)?))?(?P<swish>_sw)?",
    re.ASCII,
)


class Stage(NamedTuple):
    """What one block string says, unscaled."""

    repeats: int
    kernel_sizes: tuple[int, ...]
    expand_groups: int
    project_groups: int
    stride: int
    expand_ratio: int
    inputs: int
    outputs: int
    se_ratio: float
    swish: bool


class Block(NamedTuple):
    """One MixNet block with its numbers of channels worked out."""

    name: str  # blocks_0, blocks_1, ...
    inputs: int
    expanded: int
    outputs: int
    kernel_sizes: tuple[int, ...]
    expand_groups: int  # 0: the block does not expand
    project_groups: int
    stride: int
    se_width: int  # 0: no squeeze-and-excite
    swish: bool

    @property
    def residual(self) -> bool:
        """Whether the block's input is added to its output: only where their shapes agree."""
        return self.stride == 1 and self.inputs == self.outputs


class Part(NamedTuple):
    """A part of the network that can run by itself: the stem, a block or the head."""

    name: str
    layers: dict[str, tuple[int, ...]]  # with their shapes for one image
    block: Block | None


class Layer(NamedTuple):
    """A row of the network's table. shape is that of the layer's output for one image."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def parse_block_string(text: str) -> Stage:
    """Read one block string. Raises InputError when it does not follow the grammar above."""
    match = _BLOCK_STRING.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InputError(
            f"block string {short_repr(text)} does not read like "
            "r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw (strides equal in both directions)"
        )
    stage = Stage(
        repeats=int(match["repeats"]),
        kernel_sizes=tuple(int(k) for k in match["kernels"].split(".")),
        expand_groups=len(match["expand"].split(".")),
        project_groups=len(match["project"].split(".")),
        stride=int(match["stride"]),
        expand_ratio=int(match["ratio"]),
        inputs=int(match["inputs"]),
        outputs=int(match["outputs"]),
        se_ratio=float(match["se"] or 0),
        swish=match["swish"] is not None,
    )
    positive = (stage.repeats, *stage.kernel_sizes, stage.expand_ratio, stage.inputs, stage.outputs)
    if min(positive) < 1:
        raise InputError(
            f"block string {short_repr(text)}: only the squeeze-and-excite ratio may be 0"
        )
    return stage


def round_filters(filters: int, multiplier: float, divisor: int = 8) -> int:
    """Scale a number of filters and round it to a multiple of 8, but not to less than 90 % of it.

    round_filters(40, 1.3) -> 56: 52 lies halfway between 48 and 56, and halves round up.
    Multiplier 1 changes nothing. Source: the original's round_filters.
    """
    if multiplier == 1:
        return filters
    scaled = filters * multiplier
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


@dataclass(frozen=True)
class Architecture:
    """A whole network, without the values of its weights.

    `mixnet("mixnet-l")` makes the known ones. Raises InputError for block strings that do not
    parse, do not follow on each other or cannot be split into the groups they ask for.
    """

    variant: str
    block_strings: tuple[str, ...]
    stem_filters: int
    head_filters: int = HEAD_FILTERS
    multiplier: float = 1.0
    classes: int = 1000

    def __post_init__(self) -> None:
        name = printable(self.variant, 80)
        numbers = self.stem_filters, self.head_filters, self.classes
        if not all(isinstance(number, int) for number in numbers):
            raise InputError(
                f"{name}: filters and classes are whole numbers, not {short_repr(numbers)}"
            )
        if isinstance(self.block_strings, str) or not isinstance(self.multiplier, (int, float)):
            raise InputError(f"{name}: expected a tuple of block strings and a multiplier")
        if not self.block_strings or min(self.stem_filters, self.head_filters, self.classes) < 1:
            raise InputError(f"{name}: a network needs blocks, filters and classes")
        if not 0 < self.multiplier < 100:
            raise InputError(
                f"{name}: the multiplier is {short_repr(self.multiplier)}, expected 0..100"
            )
        repeats = sum(parse_block_string(text).repeats for text in self.block_strings)
        if repeats > MOST_BLOCKS:
            raise InputError(f"{name}: {repeats} blocks, expected at most {MOST_BLOCKS}")
        channels = self.stem
        for block in self.blocks:
            if block.inputs != channels:
                raise InputError(
                    f"{name}: {block.name} takes {block.inputs} channels, "
                    f"but the layer before it has {channels}"
                )
            channels = block.outputs
        self.tensor_shapes()  # splits all groups, so an impossible split raises its error here

    @cached_property
    def stem(self) -> int:
        """Filters of the stem after scaling."""
        return round_filters(self.stem_filters, self.multiplier)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in order, repeats written out and filters scaled."""
        blocks: list[Block] = []
        for stage in map(parse_block_string, self.block_strings):
            outputs = round_filters(stage.outputs, self.multiplier)
            for repeat in range(stage.repeats):
                first = repeat == 0
                inputs = round_filters(stage.inputs, self.multiplier) if first else outputs
                block = Block(
                    name=f"blocks_{len(blocks)}",
                    inputs=inputs,
                    expanded=inputs * stage.expand_ratio,
                    outputs=outputs,
                    kernel_sizes=stage.kernel_sizes,
                    expand_groups=stage.expand_groups if stage.expand_ratio > 1 else 0,
                    project_groups=stage.project_groups,
                    stride=stage.stride if first else 1,
                    se_width=max(1, int(inputs * stage.se_ratio)) if stage.se_ratio else 0,
                    swish=stage.swish,
                )
                blocks.append(block)
        return tuple(blocks)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weights, by canonical name, in TensorFlow's layouts, in order."""
        return dict(self._tensor_shapes)

    @cached_property
    def _tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}

        def norm(name: str, channels: int) -> None:
            shapes.update({f"{name}/{statistic}": (channels,) for statistic in BATCH_NORM})

        def pointwise(name: str, inputs: int, outputs: int, groups: int) -> None:
            cuts = zip(split_channels(inputs, groups), split_channels(outputs, groups), strict=True)
            shapes.update({f"{name}/kernel_{g}": (1, 1, i, o) for g, (i, o) in enumerate(cuts)})

        shapes["stem/conv/kernel"] = (3, 3, 3, self.stem)
        norm("stem/bn", self.stem)
        for b in self.blocks:
            if b.expand_groups:
                pointwise(f"{b.name}/expand_conv", b.inputs, b.expanded, b.expand_groups)
                norm(f"{b.name}/expand_bn", b.expanded)
            cut = split_channels(b.expanded, len(b.kernel_sizes))
            for g, (k, c) in enumerate(zip(b.kernel_sizes, cut, strict=True)):
                shapes[f"{b.name}/depthwise_conv/kernel_{g}"] = (k, k, c, 1)
            norm(f"{b.name}/depthwise_bn", b.expanded)
            if b.se_width:
                shapes[f"{b.name}/se_reduce/kernel"] = (1, 1, b.expanded, b.se_width)
                shapes[f"{b.name}/se_reduce/bias"] = (b.se_width,)
                shapes[f"{b.name}/se_expand/kernel"] = (1, 1, b.se_width, b.expanded)
                shapes[f"{b.name}/se_expand/bias"] = (b.expanded,)
            pointwise(f"{b.name}/project_conv", b.expanded, b.outputs, b.project_groups)
            norm(f"{b.name}/project_bn", b.outputs)
        shapes["head/conv/kernel"] = (1, 1, self.blocks[-1].outputs, self.head_filters)
        norm("head/bn", self.head_filters)
        shapes["logits/kernel"] = (self.head_filters, self.classes)
        shapes["logits/bias"] = (self.classes,)
        return shapes

    def layer_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Every layer by canonical name, in order, with the shape of its output for one image."""
        shapes: dict[str, tuple[int, ...]] = {}

        def add(scope: str, layers: str, *shape: int) -> None:
            shapes.update({scope + layer: shape for layer in layers.split()})

        add("", "image normalize", height, width, 3)
        h, w = -(-height // 2), -(-width // 2)
        add("stem/", "conv bn act", h, w, self.stem)
        for b in self.blocks:
            scope = f"{b.name}/"
            if b.expand_groups:
                add(scope, "expand_conv expand_bn expand_act", h, w, b.expanded)
            h, w = -(-h // b.stride), -(-w // b.stride)
            add(scope, "depthwise_conv depthwise_bn depthwise_act", h, w, b.expanded)
            if b.se_width:
                add(scope, "se_pool", 1, 1, b.expanded)
                add(scope, "se_reduce se_act", 1, 1, b.se_width)
                add(scope, "se_expand se_gate", 1, 1, b.expanded)
                add(scope, "se_scale", h, w, b.expanded)
            add(scope, "project_conv project_bn output", h, w, b.outputs)
        add("head/", "conv bn act", h, w, self.head_filters)
        add("head/", "pool", self.head_filters)
        add("", "logits probabilities", self.classes)
        return shapes

    def parts(self, height: int = 224, width: int = 224) -> list[Part]:
        """The stem, the blocks and the head; all layers belong to one of them."""
        blocks = [Part(block.name, {}, block) for block in self.blocks]
        parts = [Part("stem", {}, None), *blocks, Part("head", {}, None)]
        places, place = {part.name: i for i, part in enumerate(parts)}, 0
        for layer, shape in self.layer_shapes(height, width).items():
            place = places.get(layer.split("/")[0], place)
            parts[place].layers[layer] = shape
        return parts

    def layers(self, height: int = 224, width: int = 224) -> list[Layer]:
        """The network's table: a row for each layer, with its costs for one image.

        Only trainable parameters count; batch norm's moving statistics are not trained. A kernel of
        any kind costs as many multiply-adds at every output pixel as it has numbers.
        """
        tensors: dict[str, dict[str, int]] = {}
        for name, shape in self.tensor_shapes().items():
            layer, tensor = name.rsplit("/", 1)
            tensors.setdefault(layer, {})[tensor] = prod(shape)
        rows = []
        for name, shape in self.layer_shapes(height, width).items():
            sizes = tensors.get(name, {})
            trained = sum(size for t, size in sizes.items() if not t.startswith("moving_"))
            kernels = sum(size for t, size in sizes.items() if t.startswith("kernel"))
            rows.append(Layer(name, shape, trained, kernels * prod(shape[:-1])))
        return rows

    def parameters(self) -> int:
        """Trainable parameters of the whole network."""
        return sum(layer.parameters for layer in self.layers())

    def multiply_adds(self, height: int = 224, width: int = 224) -> int:
        """Multiply-adds of all convolutions and the dense layer for one image."""
        return sum(layer.multiply_adds for layer in self.layers(height, width))


def group_kernels(layer: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The kernels of a grouped or mixed convolution, one for each group, in order."""
    kernels: list[Tensor] = []
    while (name := f"{layer}/kernel_{len(kernels)}") in tensors:
        kernels.append(tensors[name])
    return kernels


def check_input_size(architecture: Architecture, height: int, width: int) -> None:
    """Raise TinyMixNetError if the budget does not allow for an image of this size."""
    what = f"{printable(architecture.variant)} at {height} x {width} pixels"
    largest = max(map(prod, architecture.layer_shapes(height, width).values()))
    budget.check("activation_bytes", 4 * largest, f"the largest layer of {what}")
    budget.check("network_multiply_adds", architecture.multiply_adds(height, width), what)


def mixnet(variant: str = "mixnet-l", classes: int = 1000) -> Architecture:
    """One of the published networks: mixnet-s, mixnet-m or mixnet-l.

    Raises InputError for another name.
    """
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise InputError(f"no network {short_repr(variant)}: expected one of {', '.join(VARIANTS)}")
    block_strings, stem_filters, multiplier = VARIANTS[variant]
    return Architecture(variant, block_strings, stem_filters, HEAD_FILTERS, multiplier, classes)
