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
# The original code does not spell out the layers of MixNet. It has a short list of lines, and
# everything follows from them: every shape, every tensor, every count. You take one such line apart
# by hand, let the package do the same, and see where in the network the weights are and where the
# work is. At the end you read the whole network, line by line.
#
# Read before: [02](02_depthwise_and_mixconv.ipynb) for depthwise kernels of several sizes,
# [05](05_swish_and_squeeze_excite.ipynb) for squeeze-and-excite (SE).

# %%
from start import *

# %% [markdown]
# ## By hand
#
# A line is a row of fields. Each is one or two letters and, except `sw`, a number or several.

# %%
text = "r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw"
meanings = [
    "repeats: one block of this kind",
    "depthwise kernels of 3 x 3, 5 x 5, 7 x 7 and 9 x 9 pixels, one for each group of channels",
    "the 1 x 1 convolution that expands has one group of channels",
    "the 1 x 1 convolution that projects back has one group",
    "stride 2, down and across",
    "expands: 6 times as many channels inside",
    "32 filters in, before scaling",
    "40 filters out, before scaling",
    "SE, half the input's width",
    "swish",
]
pictures.show_block_string(text, meanings)

# %% [markdown]
# Where a field is different: `r3` is three blocks in a row, `a1.1` is two groups, `s11` is stride
# 1, `e1` does not expand at all. A line without `se` has no squeeze-and-excite. A line without `sw`
# uses ReLU.
#
# MixNet-L has the lines of MixNet-M, with all filters times 1.3 and rounded to a multiple of 8. So
# in MixNet-L the numbers of this line are:

# %%
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
from tinymixnet.engine.architecture import parse_block_string

show(parse_block_string)

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
# The rounding has a second rule: never fall below 90 % of the scaled number. It matters where the
# filters are few, because there a multiple of 8 is a coarse step.

# %%
from tinymixnet.engine.architecture import round_filters

show(round_filters)

# %%
from tinymixnet.engine.architecture import MIXNET_M

wished = np.arange(4, 60)
rounded = [round_filters(int(f), 1.3) for f in wished]
nearest = [max(8, int(f * 1.3 / 8 + 0.5) * 8) for f in wished]
filters = sorted({24, *(parse_block_string(line).outputs for line in MIXNET_M)})
pairs = [(f, round_filters(f, 1.3)) for f in filters]
pictures.show_scaling(wished, rounded, nearest, pairs)

# %% [markdown]
# On the left, the steps follow the straight line of 1.3 times. At the orange points, rounding alone
# would have lost more than a tenth. On the right are all numbers of filters that the lines of
# MixNet-M have. The rounding is why their factors are only near 1.3.
#
# ## From lines to blocks
#
# Now the repeats are written out. The first block of a stage has the stride and the `i` of its
# line, the others have stride 1, and `o` is also their input. Where the stride is 1 and the block
# has as many channels in as out, it adds its input to its output: `residual`.

# %%
from tinymixnet.engine.architecture import mixnet

large = mixnet("mixnet-l")
print("block      in  expanded  out  kernels      stride  SE width  act    residual")
for b in large.blocks:
    sizes = ".".join(map(str, b.kernel_sizes))
    act = "swish" if b.swish else "relu"
    row = f"{b.name:9} {b.inputs:3} {b.expanded:9} {b.outputs:4}  {sizes:11} {b.stride:7}"
    print(f"{row} {b.se_width or '-':>9}  {act:6} {'yes' if b.residual else ''}".rstrip())

# %% [markdown]
# The same as a drawing: above, one block with all its parts; below, the whole row of blocks. Find
# in the row what the table says: which kernel sizes a block has, where the number of channels
# grows, where the pixels become fewer, and which blocks have no residual.

# %%
from IPython.display import Image

Image("../docs/mixnet_block.png", width=860)

# %% [markdown]
# ## From a block to its tensors
#
# Block 3 is the one of our line. Its tensors follow from the five numbers above, and the package
# and the weights file must agree. A convolution kernel is (height, width, in, out), a depthwise one
# (height, width, channels, 1).

# %%
from math import prod

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
shapes = large.tensor_shapes()
for name, shape in foretold.items():
    full = f"blocks_3/{name}"
    assert shapes[full] == shape == model.tensors[full].shape, full
    print(f"{full:33} {shape!s:17} {prod(shape):6,} numbers")

# %% [markdown]
# ## Where the parameters are, and where the work is
#
# A kernel has to be stored once, but it is applied *at every output pixel*: each of its numbers is
# multiplied and added there. Early layers have many pixels and few channels, late layers few pixels
# and many channels. So most parameters are near the end, while the work is spread over the whole
# network.


# %%
def part_of(layer):
    return layer.split("/")[0].replace("logits", "head").replace("normalize", "stem")


def kind_of(layer):
    scope, _, last = layer.rpartition("/")
    if not scope.startswith("blocks_"):
        return "stem, head, logits"
    kind = last.split("_")[0]
    return "squeeze-and-excite" if kind == "se" else kind


# %%
rows = large.layers(224, 224)
kinds = ["expand", "depthwise", "squeeze-and-excite", "project", "stem, head, logits"]


def millions(field):
    """Sum a column of the table of layers: {kind: {part: millions}}."""
    sums = {kind: {} for kind in kinds}
    for row in rows:
        if value := getattr(row, field) / 1e6:
            parts, part = sums[kind_of(row.name)], part_of(row.name)
            parts[part] = parts.get(part, 0) + value
    return sums


parameters, work = millions("parameters"), millions("multiply_adds")
labels = "millions of parameters", "millions of multiply-adds at 224 pixels"
pictures.show_costs(dict(zip(labels, (parameters, work), strict=True)))

# %%
totals = {
    "parameters": {kind: sum(parts.values()) for kind, parts in parameters.items()},
    "multiply-adds": {kind: sum(parts.values()) for kind, parts in work.items()},
}
for cost, values in totals.items():
    print(f"{sum(values.values()):6.1f} million {cost}")
pictures.show_shares(totals, strong=[1, 2])

# %% [markdown]
# The depthwise kernels, the idea of the paper, are a small part of both. Most is in the 1x1
# convolutions around them: expanding by six makes these large. And squeeze-and-excite has many
# parameters but hardly any work, because it runs on one pooled pixel.
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
# A 1x1 convolution has as many numbers as filters in times filters out, so its work grows with the
# square of 1.3. The whole network grows almost as much. The difference has three causes: the work
# of the depthwise part grows with 1.3 and not with its square, the stem and the head are scaled on
# one side only, and the numbers of filters are rounded.
#
# ## On the photo
#
# If the lines say everything, they foretell the shape of every layer for the cat. Here all of them
# are checked. Then you see the output of the last block at each resolution: brighter where the
# channels together are stronger. Each halving of the resolution after the stem is an `s22`.

# %%
pixels = model.pixels(CAT)
n, h, w, _ = pixels.shape
layers = dict(model.layers(pixels))
expected = model.architecture.layer_shapes(h, w)
assert {name: tensor.shape[1:] for name, tensor in layers.items()} == expected
print(f"{len(layers)} layers, all with the shape that the block strings foretell")

last = [
    b.name for b, after in zip(large.blocks, large.blocks[1:], strict=False) if after.stride > 1
]
names = ["image", *(f"{name}/output" for name in [*last, large.blocks[-1].name])]
strengths = [np.sqrt(np.mean(layers[name][0] ** 2, axis=-1)) for name in names]
titles = [f"{name.split('/')[0]}\n{layers[name].shape[1:]}" for name in names]
maps = [strength / strength.max() for strength in strengths]
pictures.show_maps(maps, titles, "RMS / largest", height=2.9)

# %% [markdown]
# ## Check: count it the slow way
#
# A toy network of one block is small enough to count every single multiplication with a counter in
# the innermost loop, over pixels, taps and channels. Taps that fall on padding count as well: a
# library multiplies those zeros, too.

# %%
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.kernels import split_channels

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

# %%
by_package = {row.name: row.multiply_adds for row in toy.layers(side, side)}
for layer, count in counted.items():
    print(f"{layer:15} counted {count:5}, the package says {by_package[f'blocks_0/{layer}']:5}")
    assert count == by_package[f"blocks_0/{layer}"]

# %% [markdown]
# And the parameters of the whole network that comes with the package, counted in its weights file.
# Moving statistics are not trained, so they are no parameters.

# %%
trained = sum(t.size for name, t in model.tensors.items() if "/moving_" not in name)
print(f"{trained:,} in the file, {model.architecture.parameters():,} from the block strings")
assert trained == model.architecture.parameters()

# %% [markdown]
# ## The whole network, line by line
#
# Now read `mixnet.py`, which [00](00_classify_a_photo.ipynb) showed first. Its function `mixnet`
# takes the blocks of the table above as an argument. That is all that it has to know about a
# variant: the loop runs once for each block, and the `r` of all lines together say how often.

# %%
from tinymixnet import mixnet as one_screen

show(one_screen.mixnet)

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
expand, depthwise, project = (
    ", ".join(str(kernel.shape) for kernel in one_screen.kernels(f"{layer}_conv", weights))
    for layer in ("expand", "depthwise", "project")
)

# %%
fields = {
    "activation =": "sw: swish. Without it ReLU",
    "y = x": f"i32: scaled and rounded, {block.inputs} channels",
    "if block.expand_groups": "e6: the block expands. With e1 the next two lines are left out",
    'kernels("expand_conv"': f"a1: one group, so one kernel, {expand}",
    '"expand_bn"': f"e6: {block.inputs} x 6 = {block.expanded} channels, each with its statistics",
    "mix_conv": f"s22: stride {block.stride}; k3.5.7.9: kernels {depthwise}",
    '"depthwise_bn"': f"{block.expanded} channels as before: none sees another",
    "if block.se_width": "se0.5: it has a squeeze-and-excite. Else these lines are left out",
    "w1, b1": f"se0.5: from {block.expanded} to {block.inputs} / 2 = {block.se_width} numbers",
    "w2, b2": f"and back to {block.expanded}",
    "squeeze_excite(": "sw: the activation between the two is swish here, too",
    'kernels("project_conv"': f"p1: one group, so one kernel, {project}",
    '"project_bn"': f"o40: scaled and rounded, {block.outputs} channels; no activation",
    "return": f"s22: x and y differ in shape, so residual is {block.residual}",
}

# %%
import inspect

from IPython.display import Code

source = inspect.getsource(one_screen.mixnet_block)
_, *lines = source[source.rindex('"""') :].splitlines()  # what comes after the docstring
commented = []
for line, (place, meaning) in zip(lines, fields.items(), strict=True):
    assert place in line, f"{place} is not in {line}"
    indent = " " * (len(line) - len(line.lstrip()))
    commented += [f"{indent}# {meaning}", line.split("  #")[0], ""]
Code("\n".join(commented), language="python")

# %% [markdown]
# This short version computes what the other two of the package compute: the layer-by-layer version
# for block 3, and `model`, which takes the fast path, for the whole network.

# %%
y = one_screen.mixnet_block(layers["blocks_2/output"], weights, block)
logits = one_screen.mixnet(pixels, model.tensors, model.architecture.blocks)
for name, ours, theirs in (
    ("block 3", y, layers["blocks_3/output"]),
    ("logits", logits, model(pixels)),
):
    largest = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert largest < 1e-5
    print(f"{name:8} {ours.shape!s:16} within 1e-5: {bool(largest < 1e-5)}")

# %% [markdown]
# ### Exercise 1
#
# How many blocks does the line `r3_k3.5.7_a1_p1_s22_e6_i40_o40_se0.25_sw` describe, and how many of
# them add their input to their output? Give the two numbers in this order.

# %% tags=["exercise"]
answer = None  # for example (2, 2)

# %% jupyter={"source_hidden": true} tags=["check"]
line = "r3_k3.5.7_a1_p1_s22_e6_i40_o40_se0.25_sw"
written_out = Architecture("exercise", (line,), stem_filters=40).blocks
hint = "the stride belongs to the first block only, and a block with stride 2 has a smaller output"
check(answer, (len(written_out), sum(b.residual for b in written_out)), hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = (3, 2)
# ```
#
# The first block halves the rows and columns, so its input does not fit its output.
# </details>

# %% [markdown]
# ### Exercise 2
#
# Block 7 of MixNet-L comes from the line `r1_k3.5.7_a1_p1_s22_e6_i40_o80_se0.25_sw`. Work out with
# paper and pencil: how many channels does it have inside, how wide is its squeeze-and-excite, and
# how many weights are in its depthwise kernels? Give the three numbers in this order.

# %% tags=["exercise"]
answer = None  # for example (192, 16, 5000)

# %% jupyter={"source_hidden": true} tags=["check"]
seven = large.blocks[7]
numbers = sum(prod(s) for name, s in shapes.items() if name.startswith("blocks_7/depthwise_conv"))
hint = "scale the input filters first; the expanded channels are cut into three equal groups"
check(answer, (seven.expanded, seven.se_width, numbers), hint)

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

# %% [markdown]
# ### Exercise 3
#
# `parse_block_string` reads a line into a `Stage`. Write the way back: a function
# `write_block_string(stage)` that returns the line. The names of the fields stand above, in the
# output of the cell with `stage._asdict()`. The check calls it for all lines of MixNet-S and
# MixNet-M.

# %% tags=["exercise"]
answer = None  # the function itself: answer = write_block_string

# %% jupyter={"source_hidden": true} tags=["check"]
from tinymixnet.engine.architecture import MIXNET_S

lines = [*MIXNET_S, *MIXNET_M]
stages = [parse_block_string(line) for line in lines]
for_all = (lambda stages: [answer(stage) for stage in stages]) if callable(answer) else answer
hint = 'join with "."; f"{0.5:g}" is "0.5"; se_ratio 0 means no _se, and the stride stands twice'
check(for_all, lines, hint, given=(stages,))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def write_block_string(stage):
#     kernels = ".".join(map(str, stage.kernel_sizes))
#     expand, project = (".".join("1" * n) for n in (stage.expand_groups, stage.project_groups))
#     line = f"r{stage.repeats}_k{kernels}_a{expand}_p{project}_s{stage.stride}{stage.stride}"
#     line += f"_e{stage.expand_ratio}_i{stage.inputs}_o{stage.outputs}"
#     if stage.se_ratio:
#         line += f"_se{stage.se_ratio:g}"
#     return line + ("_sw" if stage.swish else "")
#
#
# answer = write_block_string
# ```
#
# </details>

# %% [markdown]
# Next: [07, one block by hand](07_one_block_by_hand.ipynb): the block of our line, with real
# numbers in it.
