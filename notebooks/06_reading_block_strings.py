# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How can one line of text describe a stage of the network?
#
# The original code does not spell out the layers of MixNet. It has a short list of lines such as
# `r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw`, and everything follows from them: every shape, every
# tensor, every count. This notebook takes one such line apart by hand, then lets the package do
# it, and then asks where in the network the parameters are and where the work is. At the end you
# read the whole network, line by line, against the same line of text.
#
# Before this: [03](03_depthwise_and_mixconv.ipynb) for depthwise kernels of several sizes,
# [05](05_swish_and_squeeze_excite.ipynb) for squeeze-and-excite.

# %%
import inspect
from math import prod
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import COLOURS, PALE, draw_bars, draw_map, panels

import tinymixnet
from tinymixnet import mixnet as one_screen
from tinymixnet.engine.architecture import (
    MIXNET_M,
    Architecture,
    mixnet,
    parse_block_string,
    round_filters,
)
from tinymixnet.engine.kernels import split_channels

# %% [markdown]
# ## By hand
#
# A line is a row of fields, each a letter or two and a number.
#
# | field | says |
# |---|---|
# | `r1` | repeats: how many blocks in a row |
# | `k3.5.7.9` | the depthwise kernel sizes, one for each group of channels |
# | `a1` | the 1x1 convolution that expands has one group (`a1.1`: two) |
# | `p1` | the 1x1 convolution that projects back has one group |
# | `s22` | stride 2, down and across |
# | `e6` | expand: six times as many channels inside the block |
# | `i32`, `o40` | filters in and out, before scaling |
# | `se0.5` | squeeze-and-excite, half as wide as the block's *input* |
# | `sw` | swish; without it ReLU |
#
# MixNet-L is the table of MixNet-M with all filters times 1.3, rounded to a multiple of 8. So the
# numbers of this line, in MixNet-L, are:

# %%
text = "r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw"
print(text.split("_"))

inputs = round(32 * 1.3 / 8) * 8
print(f"in:       32 x 1.3 = {32 * 1.3:.1f}, the nearest multiple of 8 is {inputs}")
print(f"out:      40 x 1.3 = {40 * 1.3:.1f}, as far from 48 as from 56: half rounds up")
print(f"expanded: {inputs} x 6 = {inputs * 6}")
print(f"a group:  {inputs * 6} / 4 kernel sizes = {inputs * 6 // 4} channels")
print(f"squeezed: {inputs} x 0.5 = {inputs // 2}")

# %% [markdown]
# ## The package's reading
#
# A regular expression holds the grammar, so a line with a typing error is refused instead of half
# understood.

# %%
Code(inspect.getsource(parse_block_string), language="python")

# %%
stage = parse_block_string(text)
for field, value in stage._asdict().items():
    print(f"{field:15} {value}")

# %%
try:
    parse_block_string(text.replace("s22", "s21"))
except tinymixnet.TinyMixNetError as error:
    print(error)

# %% [markdown]
# The rounding has one more rule: never lose more than a tenth of the filters. It matters for few
# filters, where a multiple of 8 is a coarse step.

# %%
Code(inspect.getsource(round_filters), language="python")

# %%
figure, axes = panels(1, 2, 3.8, width_ratios=[3, 2])
left, right = axes[0]
wished = np.arange(4, 60)
left.plot(wished, wished * 1.3, color=PALE, label="1.3 x filters")
steps = [round_filters(int(f), 1.3) for f in wished]
left.step(wished, steps, where="mid", color=COLOURS[0], label="round_filters")
nearest = [max(8, int(f * 1.3 / 8 + 0.5) * 8) for f in wished]
kept = [i for i, (a, b) in enumerate(zip(steps, nearest, strict=True)) if a != b]
left.plot(wished[kept], np.array(steps)[kept], "o", color=COLOURS[1], label="kept above 90 %")
left.set(xlabel="filters in the block string", ylabel="filters in MixNet-L")
left.set_title("A staircase along 1.3 times")
left.legend(frameon=False)

filters = sorted({24, *(parse_block_string(line).outputs for line in MIXNET_M)})
scaled = [round_filters(f, 1.3) for f in filters]
ratios = [s / f for s, f in zip(scaled, filters, strict=True)]
names = [f"{f} to {s}" for f, s in zip(filters, scaled, strict=True)]
draw_bars(right, names, ratios, "scaled by", "M's filters become L's", "%.2f")

# %% [markdown]
# ## From lines to blocks
#
# The repeats are written out: the first block of a stage takes the stride and `i`, the others
# stride 1 and `o` as their input. Where stride is 1 and in equals out, the block adds its input to
# its output: `residual`.

# %%
large = mixnet("mixnet-l")
print("block      in  expanded  out  kernels      stride  SE width  act    residual")
for b in large.blocks:
    sizes = ".".join(map(str, b.kernel_sizes))
    act = "swish" if b.swish else "relu"
    row = f"{b.name:9} {b.inputs:3} {b.expanded:9} {b.outputs:4}  {sizes:11} {b.stride:7}"
    print(f"{row} {b.se_width or '-':>9}  {act:6} {'yes' if b.residual else ''}".rstrip())

# %% [markdown]
# ## From a block to its tensors
#
# Block 3 is the one of our line. Its tensors can be foretold from the five numbers above; the
# package and the weights file must agree. A convolution kernel is (height, width, in, out), a
# depthwise one (height, width, channels, 1).

# %%
foretold = {
    "expand_conv/kernel_0": (1, 1, 40, 240),
    "depthwise_conv/kernel_0": (3, 3, 60, 1),
    "depthwise_conv/kernel_1": (5, 5, 60, 1),
    "depthwise_conv/kernel_2": (7, 7, 60, 1),
    "depthwise_conv/kernel_3": (9, 9, 60, 1),
    "se_reduce/kernel": (1, 1, 240, 20),
    "se_expand/kernel": (1, 1, 20, 240),
    "project_conv/kernel_0": (1, 1, 240, 56),
}
model = tinymixnet.load()
shapes = large.tensor_shapes()
for name, shape in foretold.items():
    full = f"blocks_3/{name}"
    assert shapes[full] == shape == model.tensors[full].shape, full
    print(f"{full:33} {shape!s:17} {prod(shape):6,} numbers")

# %% [markdown]
# ## Where the parameters are, and where the work
#
# A kernel costs its number of weights once in memory, and once in multiply-adds *at every output
# pixel*. Early layers have many pixels and few channels, late layers the opposite. So parameters
# pile up at the end, and the longest bars of work are near the beginning.


# %%
def part_of(layer):
    return layer.split("/")[0].replace("logits", "head").replace("normalize", "stem")


def kind_of(layer):
    scope, _, last = layer.rpartition("/")
    if not scope.startswith("blocks_"):
        return "stem, head, logits"
    kind = last.split("_")[0]
    return "squeeze-and-excite" if kind == "se" else kind


def totals(rows, key, field):
    sums = {}
    for row in rows:
        name = key(row.name)
        sums[name] = sums.get(name, 0) + getattr(row, field) / 1e6
    return {name: value for name, value in sums.items() if value}


rows = large.layers(224, 224)
for title, field in (("parameters", "parameters"), ("multiply-adds at 224", "multiply_adds")):
    print(f"{sum(getattr(row, field) for row in rows):13,} {title}")

figure, axes = panels(1, 2, 7.2, sharey=True)
for axis, field, label in (
    (axes[0, 0], "parameters", "millions of parameters"),
    (axes[0, 1], "multiply_adds", "millions of multiply-adds at 224 pixels"),
):
    kinds = ["expand", "depthwise", "squeeze-and-excite", "project", "stem, head, logits"]
    parts = list(totals(rows, part_of, "multiply_adds"))
    ends = np.zeros(len(parts))
    for kind, colour in zip(kinds, COLOURS, strict=False):
        some = totals([row for row in rows if kind_of(row.name) == kind], part_of, field)
        widths = np.array([some.get(part, 0) for part in parts])
        axis.barh(parts, widths, left=ends, color=colour, label=kind, edgecolor="white")
        ends += widths
    axis.set_xlabel(label)
axes[0, 0].set_ylabel("part of the network")
axes[0, 0].margins(y=0.01)
axes[0, 0].invert_yaxis()
axes[0, 0].legend(frameon=False, loc="center right")
axes[0, 0].set_title("Parameters: at the end")
_ = axes[0, 1].set_title("Work: all along, most where pixels are many")

# %%
figure, axes = panels(1, 2, 3.4, sharey=True)
by_kind = {field: totals(rows, kind_of, field) for field in ("parameters", "multiply_adds")}
for axis, field, label in (
    (axes[0, 0], "parameters", "% of the parameters"),
    (axes[0, 1], "multiply_adds", "% of the multiply-adds"),
):
    values = [by_kind[field][kind] for kind in kinds]
    shares = [100 * value / sum(values) for value in values]
    draw_bars(axis, kinds, shares, label, strong=[1, 2])
axes[0, 0].invert_yaxis()  # each draw_bars turned the shared axis once
axes[0, 0].set_title("Depthwise kernels are light ...")
_ = axes[0, 1].set_title("... squeeze-and-excite is almost free")

# %% [markdown]
# The depthwise kernels, the idea of the paper, are a small part of both. The weight is in the 1x1
# convolutions around them: expanding by six makes them large. And squeeze-and-excite has many
# parameters but hardly any work, for it runs on one pooled pixel.
#
# S, M and L differ in nothing but these lines, the stem and the multiplier:

# %%
print("           parameters  multiply-adds at 224  blocks")
for variant in ("mixnet-s", "mixnet-m", "mixnet-l"):
    a = mixnet(variant)
    print(f"{variant}  {a.parameters():11,}  {a.multiply_adds():20,}  {len(a.blocks):6}")
medium = mixnet("mixnet-m")
grown = large.multiply_adds() / medium.multiply_adds()
print(f"\nM to L: 1.3 times the filters, {grown:.2f} times the work; 1.3 squared is {1.3**2:.2f}")

# %% [markdown]
# A 1x1 convolution has filters in times filters out, so its work grows with the square. That is
# nearly the growth of the whole network. The difference comes from three things: the depthwise part
# has one factor, not two; the stem and the head are scaled on one side only; and the numbers of
# filters are rounded.
#
# ## On the photo
#
# If the lines say everything, they foretell the shape of every layer for the cat. Here is the
# check for all of them, and the last output at each resolution: brighter where the channels
# together are more active. Each halving of the resolution is an `s22`.

# %%
photo = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
pixels = model.pixels(photo)
n, h, w, _ = pixels.shape
layers = dict(model.layers(pixels))
expected = model.architecture.layer_shapes(h, w)
assert list(layers) == list(expected)
for name, tensor in layers.items():
    assert tensor.shape[1:] == expected[name], name
print(f"{len(layers)} layers, all with the shape that the block strings foretell")

stages = ["image", "blocks_0/output", "blocks_2/output", "blocks_6/output", "blocks_14/output"]
figure, axes = panels(1, len(stages), 3.0)
for axis, name in zip(axes[0], stages, strict=True):
    strength = np.sqrt(np.mean(layers[name][0] ** 2, axis=-1))
    rows_, columns_, channels = layers[name].shape[1:]
    title = f"{part_of(name)}\n{rows_} x {columns_} x {channels}"
    draw_map(axis, strength / strength.max(), title, None, limits=(0, 1))
    axis.label_outer()
_ = figure.colorbar(axes[0, -1].images[0], ax=axes, label="RMS of channels / largest", shrink=0.9)

# %% [markdown]
# ## Check: count it the slow way
#
# A toy network of one block, small enough to count every single multiplication with a counter in
# the innermost loop, over pixels, taps and channels. Taps that fall on padding count as well: a
# library multiplies those zeros too.

# %%
toy = Architecture("toy", ("r1_k3.5_a1_p1_s22_e2_i4_o6_se0.5",), 4, head_filters=8, classes=2)
block = toy.blocks[0]
counted = {"expand_conv": 0, "depthwise_conv": 0, "project_conv": 0}
side = 16  # of the image; the stem halves it, and so does the block
for _pixel in np.ndindex(side // 2, side // 2):
    for _pair in np.ndindex(block.inputs, block.expanded):
        counted["expand_conv"] += 1
for _pixel in np.ndindex(side // 4, side // 4):
    for size, channels in zip(block.kernel_sizes, split_channels(block.expanded, 2), strict=True):
        for _tap in np.ndindex(size, size, channels):
            counted["depthwise_conv"] += 1
    for _pair in np.ndindex(block.expanded, block.outputs):
        counted["project_conv"] += 1
by_package = {row.name.split("/")[-1]: row.multiply_adds for row in toy.layers(side, side)[5:]}
for layer, count in counted.items():
    print(f"{layer:15} counted {count:5}, the package says {by_package[layer]:5}")
    assert count == by_package[layer]

# %% [markdown]
# And the parameters of the whole MixNet-L, counted in the weights file itself. Moving statistics
# are not trained, so they are no parameters.

# %%
trained = sum(t.size for name, t in model.tensors.items() if "/moving_" not in name)
print(f"{trained:,} in the file, {model.architecture.parameters():,} from the block strings")
assert trained == model.architecture.parameters()

# %% [markdown]
# ## The whole network, line by line
#
# Now read `mixnet.py`, which [00](00_classify_a_photo.ipynb) showed first. The function `mixnet`
# takes the blocks of the table above as an argument, and they are all that it has to know about a
# variant. The `r` of all lines together say how often its loop runs.

# %%
Code(inspect.getsource(one_screen.mixnet), language="python")

# %%
repeats = [parse_block_string(line).repeats for line in large.block_strings]
print("r:", " + ".join(map(str, repeats)), "=", sum(repeats), "turns of the loop")
print(f"stem: {large.stem_filters} filters x 1.3 makes {round_filters(large.stem_filters, 1.3)}")
assert sum(repeats) == len(large.blocks)
assert model.tensors["stem/conv/kernel"].shape[-1] == round_filters(large.stem_filters, 1.3)

# %% [markdown]
# In `mixnet_block` each field of a block string has its place. Below is every line of it. The
# comment above a line says what our block string makes of that line in block 3.

# %%
block = large.blocks[3]
weights = one_screen.part("blocks_3", model.tensors)


def shapes_of(layer):
    """The shapes of a layer's kernels, in order."""
    return ", ".join(str(kernel.shape) for kernel in one_screen.kernels(layer, weights))


fields = {
    "activation =": "sw: swish. Without it ReLU",
    "y = x": f"i32: scaled and rounded, {block.inputs} channels",
    "if block.expand_groups": "e6: the block expands. With e1 the next two lines are left out",
    'kernels("expand_conv"': f"a1: one group, so one kernel, {shapes_of('expand_conv')}",
    '"expand_bn"': f"e6: {block.inputs} x 6 = {block.expanded} channels, each with its statistics",
    "mix_conv": f"s22: stride {block.stride}; k3.5.7.9: kernels {shapes_of('depthwise_conv')}",
    '"depthwise_bn"': f"{block.expanded} channels as before: none sees another",
    "if block.se_width": "se0.5: it has a squeeze-and-excite. Else these lines are left out",
    "w1, b1": f"se0.5: from {block.expanded} to {block.inputs} / 2 = {block.se_width} numbers",
    "w2, b2": f"and back to {block.expanded}",
    "squeeze_excite(": "sw: the activation between the two is swish here too",
    'kernels("project_conv"': f"p1: one group, so one kernel, {shapes_of('project_conv')}",
    '"project_bn"': f"o40: scaled and rounded, {block.outputs} channels; no activation",
    "return": f"s22: x and y differ in shape, so residual is {block.residual}",
}
source = inspect.getsource(one_screen.mixnet_block)
_, *lines = source[source.rindex('"""') :].splitlines()  # what comes after the docstring
assert len(lines) == len(fields)
commented = []
for line, (place, meaning) in zip(lines, fields.items(), strict=True):
    assert place in line, f"{place} is not in {line}"
    indent = " " * (len(line) - len(line.lstrip()))
    commented += [f"{indent}# {meaning}", line.split("  #")[0], ""]
Code("\n".join(commented), language="python")

# %% [markdown]
# And the function computes what it says: for block 3, and for the whole network, it gives the
# numbers of the layer-by-layer version and of `model`, which takes the fast way.

# %%
y = one_screen.mixnet_block(layers["blocks_2/output"], weights, block)
logits = one_screen.mixnet(pixels, model.tensors, model.architecture.blocks)
for name, ours, theirs in (
    ("block 3", y, layers["blocks_3/output"]),
    ("logits", logits, model(pixels)),
):
    largest = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert largest < 1e-5
    print(f"{name:8} {ours.shape!s:15} within 1e-5: {bool(largest < 1e-5)}")

# %% [markdown]
# ## Exercise
#
# Block 7 of MixNet-L comes from the line `r1_k3.5.7_a1_p1_s22_e6_i40_o80_se0.25_sw`. Work out,
# with paper and pencil: how many channels does it have inside, how wide is its squeeze-and-excite,
# and how many weights are in its depthwise kernels? Give the three numbers in this order.

# %% tags=["exercise"]
answer = None  # for example (192, 16, 5000)

# %% jupyter={"source_hidden": true} tags=["check"]
seven = large.blocks[7]
weights = sum(prod(s) for name, s in shapes.items() if name.startswith("blocks_7/depthwise_conv"))
hint = "scale the input filters first; the expanded channels are cut into three equal groups"
check(answer, (seven.expanded, seven.se_width, weights), hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# 40 x 1.3 = 52 rounds half up to 56 filters in, so 56 x 6 = 336 inside; the squeeze is a quarter
# of the *input*, 14; and each of the three kernel sizes has 112 channels:
#
# ```python
# answer = (336, 14, 112 * (3 * 3 + 5 * 5 + 7 * 7))
# ```
#
# </details>
#
# Next: [07, one block by hand](07_one_block_by_hand.ipynb), the block of our line, with real
# numbers in it.
