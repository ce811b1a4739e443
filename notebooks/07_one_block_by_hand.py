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
# # What happens inside one block?
#
# MixNet is a stem, a head, and between them a row of blocks of one kind: widen the channels, look
# around with several kernel sizes, weigh the channels, narrow them again. Here you walk through
# one block, first with numbers small enough to check in your head, then with the weights of block
# 3 and a cat. Every step is one call of a function you have met in the notebooks before, and every
# result is compared with what the network itself computes there.
#
# Before this: [02](02_convolution_as_im2col.ipynb) to [05](05_swish_and_squeeze_excite.ipynb) for
# the kernels, [06](06_reading_block_strings.ipynb) for the block's line
# `r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw`.

# %%
import inspect
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import COLOURS, draw_map, panels, show_maps

import tinymixnet
from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import (
    batch_norm,
    global_average_pool,
    grouped_conv2d,
    mix_conv,
    pointwise_conv2d,
    sigmoid,
    swish,
)
from tinymixnet.engine.network import mixnet_block, statistics

# %% [markdown]
# ## By hand
#
# A toy block: one channel in, two inside, one out. The expanding kernel is (1, -1): the first
# inner channel holds x, the second -x, and ReLU keeps the positive part of each. The first channel
# is then summed over 3 x 3 pixels, the second over 5 x 5, at every second pixel. The gates have no
# inputs but a bias, chosen so that they are one half and three quarters. The last kernel adds both
# channels. Batch norm does nothing here: mean 0, variance 1 less the epsilon.

# %%
epsilon = 1e-3
block = Block("toy", 1, 2, 1, (3, 5), 1, 1, 2, 1, swish=False)


def idle_norm(name, channels):
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    values = {"gamma": ones, "beta": zeros, "moving_mean": zeros, "moving_variance": ones - epsilon}
    return {f"toy/{name}/{key}": np.float32(value) for key, value in values.items()}


def kernel(values, *shape):
    return np.array(values, np.float32).reshape(shape)


tensors = {
    "toy/expand_conv/kernel_0": kernel([1, -1], 1, 1, 1, 2),
    **idle_norm("expand_bn", 2),
    "toy/depthwise_conv/kernel_0": np.ones((3, 3, 1, 1), np.float32),
    "toy/depthwise_conv/kernel_1": np.ones((5, 5, 1, 1), np.float32),
    **idle_norm("depthwise_bn", 2),
    "toy/se_reduce/kernel": kernel([0, 0], 1, 1, 2, 1),
    "toy/se_reduce/bias": kernel([0], 1),
    "toy/se_expand/kernel": kernel([0, 0], 1, 1, 1, 2),
    "toy/se_expand/bias": kernel([0, math.log(3)], 2),
    "toy/project_conv/kernel_0": kernel([1, 1], 1, 1, 2, 1),
    **idle_norm("project_bn", 1),
}
rows, columns = np.indices((4, 4))
x = (rows - columns).astype(np.float32)[None, :, :, None]
print(x[0, :, :, 0])

# %% [markdown]
# The package's block hands out every layer and takes back the tensor to go on with. A loop that
# sends each one back unchanged just watches.


# %%
def watch(block, x, tensors, epsilon):
    """Every layer of a block, by name."""
    seen, steps = {}, mixnet_block(x, block, tensors, epsilon)
    try:
        name, tensor = next(steps)
        while True:
            seen[name.split("/")[1]] = tensor
            name, tensor = steps.send(tensor)
    except StopIteration:
        return seen


toy = watch(block, x, tensors, epsilon)
figure, axes = panels(2, 5, 5.4)
shown = ("expand_conv", "expand_act", "depthwise_act", "se_scale", "output")
for column, layer in enumerate(shown):
    for channel in range(2):
        axis = axes[channel, column]
        if channel == toy[layer].shape[-1]:
            axis.set_visible(False)
            continue
        values = toy[layer][0, :, :, channel]
        title = f"{layer}\nchannel {channel}"
        draw_map(axis, values, title, None, True, limits=(-12, 12), numbers=".4g")
        axis.set(xlabel="column" if channel or column == 4 else "", ylabel="" if column else "row")

# %% [markdown]
# Follow one number, the top left of the output, with nothing but additions. TensorFlow's padding
# for stride 2 on four pixels puts nothing before and one after for the 3 x 3 kernel, one before
# and two after for the 5 x 5 (see [01](01_same_padding.ipynb)). So the first sum covers rows and
# columns 0..2, the second -1..3, of which -1 is padding and adds nothing.

# %%
first = sum(max(r - c, 0) for r in range(0, 3) for c in range(0, 3))
second = sum(max(c - r, 0) for r in range(0, 4) for c in range(0, 4))
print(f"3 x 3 sum of the positive part: {first}; 5 x 5 sum of the negative part: {second}")
print(f"times the gates, and added: {first} / 2 + {second} * 3 / 4 = {first / 2 + second * 3 / 4}")
print(f"the package: {toy['output'][0, 0, 0, 0]:.4f}")
assert abs(toy["output"][0, 0, 0, 0] - (first / 2 + second * 3 / 4)) < 1e-4

# %% [markdown]
# ## The package's block
#
# This is all of it. Read it once now, and once more at the end.

# %%
Code(inspect.getsource(mixnet_block), language="python")

# %% [markdown]
# ## Block 3 and the cat, step by step
#
# `layers` has every layer of the network for the photo: what we compute ourselves has to equal it.
# The block's input is the output of block 2.

# %%
model = tinymixnet.load()
photo = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
layers = dict(model.layers(model.pixels(photo)))
tensors, epsilon = model.tensors, model.metadata.epsilon
b = model.architecture.blocks[3]
print(b)


def same(layer, tensor):
    """Compare a step with the network's own layer, and print its shape and range."""
    assert np.array_equal(tensor, layers[layer]), layer
    print(f"{layer:24} {tensor.shape!s:16} {tensor.min():6.2f} to {tensor.max():5.2f}, the same")


x = layers["blocks_2/output"]
same("blocks_2/output", x)

# %% [markdown]
# **1. Expand.** At every pixel, 40 numbers become 240: a product with a 40 x 240 matrix. No pixel
# sees another. Then batch norm and swish.

# %%
conv = grouped_conv2d(x, group_kernels("blocks_3/expand_conv", tensors))
same("blocks_3/expand_conv", conv)
bn = batch_norm(conv, *statistics("blocks_3/expand_bn", tensors), epsilon)
same("blocks_3/expand_bn", bn)
expanded = swish(bn)
same("blocks_3/expand_act", expanded)

loud = np.argsort(-x[0].std(axis=(0, 1)))[:6]
maps = [x[0, :, :, c] for c in loud]
show_maps(maps, [f"in, {c}" for c in loud], "value", signs=True, title="Six channels of the input")

# %%
edges = np.cumsum([0, *(k.shape[2] for k in group_kernels("blocks_3/depthwise_conv", tensors))])
spread = expanded[0].std(axis=(0, 1))
chosen = [int(a + spread[a:z].argmax()) for a, z in pairwise(edges)]
maps = [expanded[0, :, :, c] for c in chosen]
titles = [f"channel {c}" for c in chosen]
show_maps(
    maps, titles, "value", 4, signs=True, title="Expanded: the liveliest channel of each group"
)

# %% [markdown]
# **2. Look around.** The 240 channels are cut into four groups of 60. Channels of the first group
# look at 3 x 3 pixels, those of the last at 9 x 9, each with a kernel of its own. Stride 2: half
# the rows, half the columns.

# %%
kernels = group_kernels("blocks_3/depthwise_conv", tensors)
conv = mix_conv(expanded, kernels, b.stride)
same("blocks_3/depthwise_conv", conv)
bn = batch_norm(conv, *statistics("blocks_3/depthwise_bn", tensors), epsilon)
same("blocks_3/depthwise_bn", bn)
looked = swish(bn)
same("blocks_3/depthwise_act", looked)

weights = [kernels[g][:, :, c - edges[g], 0] for g, c in enumerate(chosen)]
sizes = [f"{len(k)} x {len(k)}" for k in kernels]
scaled = [w / np.abs(w).max() for w in weights]
titles = [f"{size}, channel {c}" for size, c in zip(sizes, chosen, strict=True)]
show_maps(scaled, titles, "weight / largest", 4, signs=True, title="The kernels")
maps = [looked[0, :, :, c] for c in chosen]
show_maps(maps, titles, "value", 4, signs=True, title="The same channels after it")

# %% [markdown]
# **3. Weigh the channels.** The mean of each channel, 240 numbers, is squeezed to 20 and stretched
# to 240 gates between 0 and 1. A gate multiplies its whole channel.

# %%
pooled = global_average_pool(looked)[:, None, None, :]
same("blocks_3/se_pool", pooled)
kernel, bias = tensors["blocks_3/se_reduce/kernel"], tensors["blocks_3/se_reduce/bias"]
reduced = pointwise_conv2d(pooled, kernel, bias)
same("blocks_3/se_reduce", reduced)
squeezed = swish(reduced)
same("blocks_3/se_act", squeezed)
kernel, bias = tensors["blocks_3/se_expand/kernel"], tensors["blocks_3/se_expand/bias"]
stretched = pointwise_conv2d(squeezed, kernel, bias)
same("blocks_3/se_expand", stretched)
gate = sigmoid(stretched)
same("blocks_3/se_gate", gate)
weighed = looked * gate
same("blocks_3/se_scale", weighed)

figure, axes = panels(1, 2, 3.6, width_ratios=[3, 1])
gates = gate[0, 0, 0]
for group, (a, z) in enumerate(pairwise(edges)):
    ordered = np.sort(gates[a:z])[::-1]
    axes[0, 0].bar(np.arange(a, z), ordered, width=1, color=COLOURS[group])
    size = len(kernels[group])
    axes[0, 0].text((a + z) / 2, 1.02, f"{size} x {size}", ha="center", color=COLOURS[group])
axes[0, 0].set(xlabel="channels of each group, the most open first", ylabel="gate", ylim=(0, 1.1))
axes[0, 0].margins(x=0.01)
closed = 100 * np.array([np.mean(gates[a:z] < 0.5) for a, z in pairwise(edges)])
axes[0, 1].bar(sizes, closed, color=COLOURS[:4])
_ = axes[0, 1].set(xlabel="kernel size of the group", ylabel="% of gates below one half")

# %% [markdown]
# **4. Project.** 240 channels become 56, again pixel by pixel. A batch norm follows and, on
# purpose, no activation: few channels carry the result, and ReLU or swish would wipe out the
# negative half of it. Stride 2 changed the shape, so there is no residual here.

# %%
conv = grouped_conv2d(weighed, group_kernels("blocks_3/project_conv", tensors))
same("blocks_3/project_conv", conv)
output = batch_norm(conv, *statistics("blocks_3/project_bn", tensors), epsilon)
same("blocks_3/project_bn", output)
assert not b.residual
same("blocks_3/output", output)

loud = np.argsort(-output[0].std(axis=(0, 1)))[:6]
maps = [output[0, :, :, c] for c in loud]
show_maps(
    maps, [f"out, {c}" for c in loud], "value", signs=True, title="Six channels of the output"
)

# %% [markdown]
# ## Who sees what
#
# Change 2 x 2 pixels in the middle of the block's input, run the block again, and see which
# outputs move. Before squeeze-and-excite the change stays within reach of each kernel: a group
# with a larger kernel carries it further. Then the gates, which have seen the mean of everything,
# carry a little of it to *every* pixel.


# %%
def touched(layer):
    """How much a layer of the block moves when the middle of its input is doubled."""
    return np.abs(after[layer] - before[layer])[0]


poked = x.copy()
poked[0, 8:10, 8:10] *= 2
before = watch(b, x, tensors, epsilon)
after = watch(b, poked, tensors, epsilon)
moved = [touched("depthwise_act")[:, :, a:z].max(-1) for a, z in pairwise(edges)]
moved.append(touched("se_scale").max(-1))
figure, axes = panels(1, 5, 3.0)
for axis, values, title in zip(axes[0], moved, [*sizes, "after the gates"], strict=True):
    image = draw_map(axis, np.log10(np.maximum(values, 1e-7)), title, None, limits=(-7, 1))
    axis.set_title(f"{title}\n{np.count_nonzero(values)} of {values.size} pixels")
    axis.label_outer()
_ = figure.colorbar(image, ax=axes, label="log10 of change", shrink=0.9)

# %% [markdown]
# ## Check: the whole block in loops
#
# The same block once more, with no kernel of the package and no NumPy arithmetic: Python's own
# floats, an index at a time.


# %%
def by_loops(x, block, tensors, epsilon):
    """A block with stride 2 and one expand and project group: nested lists in, nested lists out."""
    side, half = len(x), len(x) // 2

    def norm(name, c, value):
        gamma, beta, mean, variance = vectors[name]
        return (value - mean[c]) / math.sqrt(variance[c] + epsilon) * gamma[c] + beta[c]

    def act(value):
        return value / (1 + math.exp(-value))

    names = [f"{part}_bn" for part in ("expand", "depthwise", "project")]
    vectors = {n: [v.tolist() for v in statistics(f"{block.name}/{n}", tensors)] for n in names}
    t = {name: v.tolist() for name, v in tensors.items() if name.startswith(f"{block.name}/")}
    widen, narrow = (t[f"{block.name}/{p}_conv/kernel_0"][0][0] for p in ("expand", "project"))
    wide = [[[0.0] * block.expanded for _ in range(side)] for _ in range(side)]
    for r, c, o in np.ndindex(side, side, block.expanded):
        total = sum(value * row[o] for value, row in zip(x[r][c], widen, strict=True))
        wide[r][c][o] = act(norm("expand_bn", o, total))

    seen = [[[0.0] * block.expanded for _ in range(half)] for _ in range(half)]
    share = block.expanded // len(block.kernel_sizes)
    for r, c, o in np.ndindex(half, half, block.expanded):
        group, member = divmod(o, share)
        size = block.kernel_sizes[group]
        weights = t[f"{block.name}/depthwise_conv/kernel_{group}"]
        top, left = 2 * r - (size - 2) // 2, 2 * c - (size - 2) // 2  # SAME: the odd zero is after
        total = 0.0
        for i in range(max(0, -top), min(size, side - top)):
            for j in range(max(0, -left), min(size, side - left)):
                total += wide[top + i][left + j][o] * weights[i][j][member][0]
        seen[r][c][o] = act(norm("depthwise_bn", o, total))

    means = [sum(p[o] for line in seen for p in line) / half**2 for o in range(block.expanded)]
    few = list(t[f"{block.name}/se_reduce/bias"])
    for m, row in zip(means, t[f"{block.name}/se_reduce/kernel"][0][0], strict=True):
        few = [f + m * w for f, w in zip(few, row, strict=True)]
    many = list(t[f"{block.name}/se_expand/bias"])
    for f, row in zip(few, t[f"{block.name}/se_expand/kernel"][0][0], strict=True):
        many = [m + act(f) * w for m, w in zip(many, row, strict=True)]
    gates = [1 / (1 + math.exp(-m)) for m in many]

    out = np.zeros((half, half, block.outputs))
    for r, c, o in np.ndindex(out.shape):
        total = sum(v * g * w[o] for v, g, w in zip(seen[r][c], gates, narrow, strict=True))
        out[r, c, o] = norm("project_bn", o, total)
    return out


slow = by_loops(x[0].tolist(), b, tensors, epsilon)
assert slow.shape == output.shape[1:]

# %% tags=["rounding"]
error = np.abs(output[0] - slow).max() / np.abs(slow).max()
print(f"largest difference / largest value: {error:.1e}")
assert error < 1e-5

# %% [markdown]
# ## Exercise
#
# Now from memory. Write block 4, without looking up: input `layers["blocks_3/output"]`, output
# `layers["blocks_4/output"]`. Its line is `k3.5_a1.1_p1.1_s11_e6 ... se0.5_sw`: two groups
# wherever there were one or four, stride 1, and *one thing more* than block 3 has. All functions
# you need are imported above; the names of the tensors begin with `blocks_4/`.

# %% tags=["exercise"]
answer = None  # the output of block 4, an array (1, 8, 8, 56)

# %% jupyter={"source_hidden": true} tags=["check"]
hint = "expand, depthwise, squeeze-and-excite, project, each with its batch norm; then the residual"
check(answer, layers["blocks_4/output"].tolist(), hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def convolve(layer, function, x, *stride):
#     y = function(x, group_kernels(f"blocks_4/{layer}_conv", tensors), *stride)
#     return batch_norm(y, *statistics(f"blocks_4/{layer}_bn", tensors), epsilon)
#
#
# def fully(layer, x):
#     return pointwise_conv2d(
#         x, tensors[f"blocks_4/{layer}/kernel"], tensors[f"blocks_4/{layer}/bias"]
#     )
#
#
# shortcut = layers["blocks_3/output"]
# y = swish(convolve("expand", grouped_conv2d, shortcut))
# y = swish(convolve("depthwise", mix_conv, y, 1))
# z = global_average_pool(y)[:, None, None, :]
# y = y * sigmoid(fully("se_expand", swish(fully("se_reduce", z))))
# answer = convolve("project", grouped_conv2d, y) + shortcut
# ```
#
# </details>
#
# Next: [08, debugging layer by layer](08_debugging_layer_by_layer.ipynb): what if one of these
# steps is wrong?
