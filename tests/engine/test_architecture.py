"""The architecture's numbers against the published ones, and its grammar against bad input."""

import re
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shared import SHARED
from tests.support.synthetic import TINY
from tinymixnet.engine.architecture import (
    MIXNET_M,
    MIXNET_S,
    Architecture,
    Block,
    Stage,
    mixnet,
    parse_block_string,
    round_filters,
)
from tinymixnet.errors import InputError

FACTS = SHARED / "mixnet-facts.md"

# variant: trainable parameters, millions of multiply-adds at 224, of these depthwise
PUBLISHED = {
    "mixnet-s": (4_134_606, 239.17, 38.99),
    "mixnet-m": (5_014_382, 339.17, 64.76),
    "mixnet-l": (7_329_252, 555.25, 85.82),
}

# MixNet-L as built. Blocks; pixels a side and channels at the input; expanded channels (and groups,
# 0: no expansion); depthwise kernels; channels each; stride; SE width; swish; outputs (and groups);
# residual.
MIXNET_L = """
    0      112   32    32 0   3          32  1    0  relu    32 1  yes
    1      112   32   192 2   3,5,7      64  2    0  relu    40 2  no
    2       56   40   120 2   3         120  1    0  relu    40 2  yes
    3       56   40   240 1   3,5,7,9    60  2   20  swish   56 1  no
    4-6     28   56   336 2   3,5       168  1   28  swish   56 2  yes
    7       28   56   336 1   3,5,7     112  2   14  swish  104 1  no
    8-10    14  104   624 2   3,5,7,9   156  1   26  swish  104 2  yes
    11      14  104   624 1   3         624  1   52  swish  160 1  no
    12-14   14  160   480 2   3,5,7,9   120  1   80  swish  160 2  yes
    15      14  160   960 1   3,5,7,9   240  2   80  swish  264 1  no
    16-18    7  264  1584 1   3,5,7,9   396  1  132  swish  264 2  yes
"""


# -- the published networks -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", PUBLISHED)
def test_counts_are_the_published_ones(variant: str) -> None:
    architecture = mixnet(variant)
    parameters, multiply_adds, depthwise = PUBLISHED[variant]
    assert architecture.parameters() == parameters
    assert round(architecture.multiply_adds() / 1e6, 2) == multiply_adds
    rows = [row for row in architecture.layers() if row.name.endswith("depthwise_conv")]
    assert round(sum(row.multiply_adds for row in rows) / 1e6, 2) == depthwise


def table_rows() -> list[tuple[int, list[str]]]:
    """Return a row of MIXNET_L for each single block: (number, the row's other cells)."""
    rows = []
    for first, *cells in map(str.split, MIXNET_L.strip().splitlines()):
        low, high = first.split("-") if "-" in first else (first, first)
        rows += [(number, cells) for number in range(int(low), int(high) + 1)]
    return rows


def test_mixnet_l_has_19_blocks() -> None:
    assert [number for number, _ in table_rows()] == list(range(19))
    assert [b.name for b in mixnet("mixnet-l").blocks] == [f"blocks_{i}" for i in range(19)]


@pytest.mark.parametrize(("number", "cells"), table_rows())
def test_mixnet_l_block_by_block(number: int, cells: list[str]) -> None:
    pixels, inputs, expanded, groups, ks, each, stride, se, act, outputs, out_groups, same = cells
    architecture = mixnet("mixnet-l")
    block = architecture.blocks[number]
    assert block == Block(
        name=f"blocks_{number}",
        inputs=int(inputs),
        expanded=int(expanded),
        outputs=int(outputs),
        kernel_sizes=tuple(map(int, ks.split(","))),
        expand_groups=int(groups),
        project_groups=int(out_groups),
        stride=int(stride),
        se_width=int(se),
        swish=act == "swish",
    )
    assert block.residual == (same == "yes")
    tensors = architecture.tensor_shapes()
    for g, k in enumerate(block.kernel_sizes):
        assert tensors[f"{block.name}/depthwise_conv/kernel_{g}"] == (k, k, int(each), 1)
    before = "stem/act" if number == 0 else f"blocks_{number - 1}/output"
    shapes = architecture.layer_shapes(224, 224)
    assert shapes[before] == (int(pixels), int(pixels), int(inputs))
    side = int(pixels) // int(stride)
    assert shapes[f"{block.name}/output"] == (side, side, int(outputs))


def test_mixnet_l_around_its_blocks() -> None:
    tensors = mixnet("mixnet-l").tensor_shapes()
    assert tensors["stem/conv/kernel"] == (3, 3, 3, 32)
    assert tensors["head/conv/kernel"] == (1, 1, 264, 1536)
    assert tensors["logits/kernel"] == (1536, 1000)
    assert mixnet("mixnet-l", classes=10).tensor_shapes()["logits/kernel"] == (1536, 10)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_published_networks_split_their_channels_evenly(variant: str) -> None:
    shares: dict[str, set[tuple[int, ...]]] = {}
    for name, shape in mixnet(variant).tensor_shapes().items():
        layer, numbered, _ = name.partition("/kernel_")
        if numbered:
            shares.setdefault(layer, set()).add(shape[2:])
    assert len(shares) > 16
    assert all(len(shapes) == 1 for shapes in shares.values())


def test_block_strings_are_those_of_the_facts() -> None:
    if not FACTS.exists():
        pytest.skip(f"no {FACTS}")
    strings = re.findall(r"\br\d_k[\w.]+_o\d+[\w.]*", FACTS.read_text())
    assert tuple(strings) == MIXNET_S + MIXNET_M


def test_unknown_network() -> None:
    with pytest.raises(InputError, match=r"'mixnet-xl'.*mixnet-s, mixnet-m, mixnet-l"):
        mixnet("mixnet-xl")


# -- scaling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "multiplier", "rounded"),
    [
        (24, 1.3, 32),  # 31.2
        (32, 1.3, 40),  # 41.6, down
        (40, 1.3, 56),  # 52, half way: up
        (80, 1.3, 104),
        (120, 1.3, 160),  # 156, half way: up
        (200, 1.3, 264),  # 260, half way: up
        (4, 1.3, 8),  # never fewer than 8
        (8, 1.4, 16),  # 11.2: 8 would be less than nine tenths
        (14, 1.3, 24),  # 18.2: 16 would be
        (14, 1.25, 16),  # 17.5: 16 is not
        (11, 1.0, 11),  # multiplier 1 changes nothing
    ],
)
def test_round_filters(filters: int, multiplier: float, rounded: int) -> None:
    assert round_filters(filters, multiplier) == rounded


@given(
    st.integers(1, 60) | st.integers(61, 2000),
    st.integers(10, 400).filter(lambda percent: percent != 100),
)
def test_round_filters_is_the_nearest_allowed_multiple_of_8(filters: int, percent: int) -> None:
    scaled = filters * (percent / 100)
    allowed = [n for n in range(8, 8300, 8) if n >= 0.9 * scaled]
    assert round_filters(filters, percent / 100) == min(
        allowed, key=lambda n: (abs(n - scaled), -n)
    )


# -- block strings --------------------------------------------------------------------------------


def test_a_block_string_with_everything() -> None:
    assert parse_block_string("r3_k3.5.11_a1.1_p1.1.1_s22_e6_i40_o80_se0.25_sw") == Stage(
        repeats=3,
        kernel_sizes=(3, 5, 11),
        expand_groups=2,
        project_groups=3,
        stride=2,
        expand_ratio=6,
        inputs=40,
        outputs=80,
        se_ratio=0.25,
        swish=True,
    )


def test_a_block_string_with_the_least() -> None:
    stage = parse_block_string("r1_k3_a1_p1_s11_e1_i16_o24")
    assert stage == Stage(1, (3,), 1, 1, 1, 1, 16, 24, 0.0, False)


@pytest.mark.parametrize(("ending", "ratio"), [("se0", 0), ("se0.0", 0), ("se1", 1), ("se1.0", 1)])
def test_squeeze_and_excite_ratios(ending: str, ratio: float) -> None:
    text = f"r1_k3_a1_p1_s11_e1_i16_o24_{ending}"
    assert parse_block_string(text).se_ratio == ratio
    assert Architecture("one", (text,), 16).blocks[0].se_width == 16 * ratio


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r1",
        "k3_r1_a1_p1_s11_e1_i16_o16",  # another order
        "r1_k3_a1_p1_s11_e1_i16",  # no outputs
        "r1_k3_a1_p1_s12_e1_i16_o16",  # unequal strides
        "r1_k3_a1_p1_s1_e1_i16_o16",  # one stride
        "r1_k3_a1_p1_s00_e1_i16_o16",
        "r1_k3_a2_p1_s11_e1_i16_o16",  # groups are written as ones
        "r1_k3_a1_p1.2_s11_e1_i16_o16",
        "r1_k3._a1_p1_s11_e1_i16_o16",
        "r1_k.3_a1_p1_s11_e1_i16_o16",
        "r1_k3,5_a1_p1_s11_e1_i16_o16",
        "r-1_k3_a1_p1_s11_e1_i16_o16",
        "r1_k3_a1_p1_s11_e1.5_i16_o16",
        "r1_k3_a1_p1_s11_e1_i16_o16_se2",  # a ratio above 1
        "r1_k3_a1_p1_s11_e1_i16_o16_se-0.5",
        "r1_k3_a1_p1_s11_e1_i16_o16_se",
        "r1_k3_a1_p1_s11_e1_i16_o16_sw_se0.5",
        "r1_k3_a1_p1_s11_e1_i16_o16_noskip",
        "r1_k3_a1_p1_s11_e1_i16_o16 ",
        "r1_k3_a1_p1_s11_e1_i16_o16\n",
        "R1_K3_A1_P1_S11_E1_I16_O16",
        "r9999_k3_a1_p1_s11_e1_i16_o16",  # more digits than any network needs
        "r1_k3_a1_p1_s11_e1_i99999_o16",
    ],
)
def test_block_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match="does not read like") as caught:
        parse_block_string(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "r0_k3_a1_p1_s11_e1_i16_o16",
        "r1_k0_a1_p1_s11_e1_i16_o16",
        "r1_k3.0_a1_p1_s11_e1_i16_o16",
        "r1_k3_a1_p1_s11_e0_i16_o16",
        "r1_k3_a1_p1_s11_e1_i0_o16",
        "r1_k3_a1_p1_s11_e1_i16_o0",
    ],
)
def test_block_strings_with_zeros(text: str) -> None:
    with pytest.raises(InputError, match="may be 0"):
        parse_block_string(text)


@pytest.mark.parametrize("value", [np.zeros((99, 99)), "x" * 9999, ["r1"] * 999, None, 1.5])
@pytest.mark.parametrize("function", [parse_block_string, mixnet])
def test_the_message_of_a_wrong_argument_is_short(function: Any, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        function(value)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"classes": np.zeros(9999)}, {"stem_filters": [1] * 9999}, {"multiplier": np.zeros(9999)}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_message_of_a_wrong_number_is_short(wrong: dict[str, Any]) -> None:
    right = {"variant": "x" * 9999, "block_strings": (BLOCK,), "stem_filters": 16}
    with pytest.raises(InputError) as caught:
        Architecture(**(right | wrong))
    assert len(str(caught.value)) < 250


@given(st.text("rkapseiow_.0123456789", max_size=40))
def test_any_text_is_a_stage_or_an_input_error(text: str) -> None:
    try:
        stage = parse_block_string(text)
    except InputError:
        return
    assert stage.repeats >= 1


# -- what follows from them -----------------------------------------------------------------------


def test_repeats_take_stride_1_and_the_outputs_as_inputs() -> None:
    architecture = Architecture("three", ("r3_k3_a1_p1_s22_e2_i16_o24_se0.5_sw",), 16)
    first, *repeats = architecture.blocks
    assert (first.inputs, first.expanded, first.outputs, first.stride) == (16, 32, 24, 2)
    assert first.se_width == 8
    assert not first.residual
    for block in repeats:
        assert (block.inputs, block.expanded, block.outputs, block.stride) == (24, 48, 24, 1)
        assert block.se_width == 12
        assert block.residual


def test_no_shortcut_around_a_stride_or_another_number_of_channels() -> None:
    def residual(stride: str, outputs: int) -> bool:
        text = f"r1_k3_a1_p1_s{stride}_e1_i16_o{outputs}"
        return Architecture("one", (text,), 16).blocks[0].residual

    assert residual("11", 16)
    assert not residual("22", 16)
    assert not residual("11", 24)


def test_squeeze_and_excite_has_at_least_one_channel() -> None:
    blocks = Architecture("thin", ("r1_k3_a1_p1_s11_e6_i3_o3_se0.25",), 3).blocks
    assert blocks[0].se_width == 1


def test_uneven_splits_favour_the_first_group() -> None:
    shapes = TINY.tensor_shapes()
    cuts = {
        "blocks_1/expand_conv": [(1, 1, 3, 5), (1, 1, 2, 5)],  # 5 into 10
        "blocks_1/depthwise_conv": [(3, 3, 4, 1), (5, 5, 3, 1), (7, 7, 3, 1)],  # 10
        "blocks_1/project_conv": [(1, 1, 5, 4), (1, 1, 5, 3)],  # 10 into 7
        "blocks_3/depthwise_conv": [
            (k, k, c, 1) for k, c in zip((3, 5, 7, 9, 11), (5, 4, 4, 4, 4), strict=True)
        ],
        "blocks_3/project_conv": [(1, 1, 11, 5), (1, 1, 10, 4)],  # 21 into 9
        "blocks_4/expand_conv": [(1, 1, 5, 14), (1, 1, 4, 13)],  # 9 into 27
    }
    for layer, expected in cuts.items():
        cut = [shape for name, shape in shapes.items() if name.startswith(f"{layer}/kernel")]
        assert cut == expected


ONE = Architecture("one", ("r1_k3.5_a1.1_p1_s22_e2_i4_o6_se0.5_sw",), 4, head_filters=10, classes=3)


def test_tensor_shapes_of_a_network_small_enough_to_count() -> None:
    def norm(layer: str, size: int) -> dict[str, tuple[int, ...]]:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return {f"{layer}/{name}": (size,) for name in names}

    expected: dict[str, tuple[int, ...]] = {
        "stem/conv/kernel": (3, 3, 3, 4),
        **norm("stem/bn", 4),
        "blocks_0/expand_conv/kernel_0": (1, 1, 2, 4),
        "blocks_0/expand_conv/kernel_1": (1, 1, 2, 4),
        **norm("blocks_0/expand_bn", 8),
        "blocks_0/depthwise_conv/kernel_0": (3, 3, 4, 1),
        "blocks_0/depthwise_conv/kernel_1": (5, 5, 4, 1),
        **norm("blocks_0/depthwise_bn", 8),
        "blocks_0/se_reduce/kernel": (1, 1, 8, 2),
        "blocks_0/se_reduce/bias": (2,),
        "blocks_0/se_expand/kernel": (1, 1, 2, 8),
        "blocks_0/se_expand/bias": (8,),
        "blocks_0/project_conv/kernel_0": (1, 1, 8, 6),
        **norm("blocks_0/project_bn", 6),
        "head/conv/kernel": (1, 1, 6, 10),
        **norm("head/bn", 10),
        "logits/kernel": (10, 3),
        "logits/bias": (3,),
    }
    shapes = ONE.tensor_shapes()
    assert shapes == expected
    assert list(shapes) == list(expected)


def test_layers_of_a_network_small_enough_to_count() -> None:
    """At 33 x 35: 17 x 18 after the stem, 9 x 9 after the block."""
    stem, block, block_out = (17, 18, 4), (17, 18, 8), (9, 9, 6)
    expected = [
        ("image", (33, 35, 3), 0, 0),
        ("normalize", (33, 35, 3), 0, 0),
        ("stem/conv", stem, 108, 108 * 17 * 18),
        ("stem/bn", stem, 8, 0),
        ("stem/act", stem, 0, 0),
        ("blocks_0/expand_conv", block, 16, 16 * 17 * 18),
        ("blocks_0/expand_bn", block, 16, 0),
        ("blocks_0/expand_act", block, 0, 0),
        ("blocks_0/depthwise_conv", (9, 9, 8), 36 + 100, (36 + 100) * 81),
        ("blocks_0/depthwise_bn", (9, 9, 8), 16, 0),
        ("blocks_0/depthwise_act", (9, 9, 8), 0, 0),
        ("blocks_0/se_pool", (1, 1, 8), 0, 0),
        ("blocks_0/se_reduce", (1, 1, 2), 16 + 2, 16),
        ("blocks_0/se_act", (1, 1, 2), 0, 0),
        ("blocks_0/se_expand", (1, 1, 8), 16 + 8, 16),
        ("blocks_0/se_gate", (1, 1, 8), 0, 0),
        ("blocks_0/se_scale", (9, 9, 8), 0, 0),
        ("blocks_0/project_conv", block_out, 48, 48 * 81),
        ("blocks_0/project_bn", block_out, 12, 0),
        ("blocks_0/output", block_out, 0, 0),
        ("head/conv", (9, 9, 10), 60, 60 * 81),
        ("head/bn", (9, 9, 10), 20, 0),
        ("head/act", (9, 9, 10), 0, 0),
        ("head/pool", (10,), 0, 0),
        ("logits", (3,), 30 + 3, 30),
        ("probabilities", (3,), 0, 0),
    ]
    rows = ONE.layers(33, 35)
    assert [tuple(row) for row in rows] == expected
    assert ONE.multiply_adds(33, 35) == sum(cost for *_, cost in expected)
    assert ONE.parameters() == sum(parameters for _, _, parameters, _ in expected)


def test_layers_absent_from_blocks_that_do_without() -> None:
    first = [name for name in mixnet("mixnet-l").layer_shapes(224, 224) if "blocks_0/" in name]
    assert first == [
        "blocks_0/depthwise_conv",
        "blocks_0/depthwise_bn",
        "blocks_0/depthwise_act",
        "blocks_0/project_conv",
        "blocks_0/project_bn",
        "blocks_0/output",
    ]


@pytest.mark.parametrize("architecture", [*map(mixnet, PUBLISHED), TINY], ids=lambda a: a.variant)
def test_every_trained_tensor_is_counted_once(architecture: Architecture) -> None:
    shapes = architecture.tensor_shapes()
    trained = sum(prod(s) for name, s in shapes.items() if "/moving_" not in name)
    assert architecture.parameters() == trained
    layers = set(architecture.layer_shapes(32, 32))
    assert {name.rpartition("/")[0] for name in shapes} <= layers


@given(st.integers(32, 300), st.integers(32, 300))
def test_every_stride_halves_and_rounds_up(height: int, width: int) -> None:
    shapes = mixnet("mixnet-s").layer_shapes(height, width)
    assert shapes["head/act"] == (-(-height // 32), -(-width // 32), 1536)
    assert shapes["head/pool"] == (1536,)
    assert shapes["probabilities"] == (1000,)


# -- networks that cannot be ----------------------------------------------------------------------

BLOCK = "r1_k3_a1_p1_s11_e1_i16_o16"


@pytest.mark.parametrize(
    ("strings", "stem", "head", "classes", "message"),
    [
        ((), 16, 8, 8, "needs blocks"),
        ((BLOCK,), 0, 8, 8, "filters"),
        ((BLOCK,), 16, 0, 8, "filters"),
        ((BLOCK,), 16, 8, 0, "classes"),
        ((BLOCK,), 24, 8, 8, "blocks_0 takes 16 channels, but the layer before it has 24"),
        ((BLOCK, BLOCK.replace("i16", "i24")), 16, 8, 8, "blocks_1 takes 24 .* before it has 16"),
        (("r1_k3.5.7_a1_p1_s11_e1_i2_o2",), 2, 8, 8, "2 channels into 3 groups"),
        (("r1_k3_a1.1.1_p1_s11_e6_i2_o2",), 2, 8, 8, "2 channels into 3 groups"),
        (("r1_k3_a1_p1.1.1_s11_e6_i2_o2",), 2, 8, 8, "2 channels into 3 groups"),
        (("nonsense",), 16, 8, 8, "'nonsense'"),
    ],
)
def test_networks_that_cannot_be(
    strings: tuple[str, ...], stem: int, head: int, classes: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Architecture("impossible", strings, stem, head, classes=classes)
