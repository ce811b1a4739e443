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
# MixNet is a stem, a head, and between them a row of blocks of one kind. You walk through one of
# them, first with numbers small enough to check in your head, then with the weights of block 3 and
# a cat. Every step is one call of a function that you know from the notebooks before, and every
# result is compared with what the network itself computes there.
#
# Read before: [01](01_convolution.ipynb) to [05](05_swish_and_squeeze_excite.ipynb) for the
# functions, [06](06_reading_block_strings.ipynb) for the block's line
# `r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw`.

# %%
from start import *

# %% [markdown]
# Here is block 3 with the cat in it. The higher a box, the more channels; the wider, the more
# columns. The block expands the channels, filters each by itself with one of four kernel sizes,
# weighs them by their gates, and projects them back to few channels.

# %%
layers = dict(model.layers(model.pixels(CAT)))
b = model.architecture.blocks[3]
print(b)
pictures.show_block(layers["blocks_2/output"], layers, "blocks_3", b.kernel_sizes)

# %% [markdown]
# In the fourth box each line is a channel. The paler it is, the more its gate is closed.
#
# ## By hand
#
# A toy block: one channel in, two inside, one out. The expanding kernel is (1, -1): the first
# inner channel holds x, the second -x, and ReLU keeps the positive part of each. The first channel
# is then summed over 3 x 3 pixels, the second over 5 x 5, at every second pixel. The gates depend
# on a bias only, chosen so that they are one half and three quarters. The last kernel adds both
# channels. Batch norm does nothing here: its mean is 0, its variance 1 less the epsilon.

# %%
import math

from tinymixnet.engine.architecture import Block

epsilon = 1e-3
toy_block = Block("toy", 1, 2, 1, (3, 5), 1, 1, 2, 1, swish=False)
print(toy_block)


# %%
def array(values, *shape):
    return np.array(values, np.float32).reshape(shape)


toy_tensors = {
    "toy/expand_conv/kernel_0": array([1, -1], 1, 1, 1, 2),
    "toy/depthwise_conv/kernel_0": np.ones((3, 3, 1, 1), np.float32),
    "toy/depthwise_conv/kernel_1": np.ones((5, 5, 1, 1), np.float32),
    "toy/se_reduce/kernel": array([0, 0], 1, 1, 2, 1),
    "toy/se_reduce/bias": array([0], 1),
    "toy/se_expand/kernel": array([0, 0], 1, 1, 1, 2),
    "toy/se_expand/bias": array([0, math.log(3)], 2),
    "toy/project_conv/kernel_0": array([1, 1], 1, 1, 2, 1),
}

# %%
idle = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1 - epsilon}
for layer, channels in (("expand_bn", 2), ("depthwise_bn", 2), ("project_bn", 1)):
    for statistic, value in idle.items():
        toy_tensors[f"toy/{layer}/{statistic}"] = np.full(channels, value, np.float32)

rows, columns = np.indices((4, 4))
toy_x = (rows - columns).astype(np.float32)[None, :, :, None]
print(toy_x[0, :, :, 0])

# %% [markdown]
# The package's block is a generator. It hands out every layer and goes on with the array that it
# is sent. This function sends each layer back unchanged and collects them:

# %%
from tinymixnet.engine.network import mixnet_block


def watch(x, block, tensors, epsilon):
    """Every layer of a block, by name."""
    seen, steps = {}, mixnet_block(x, block, tensors, epsilon)
    try:
        name, tensor = next(steps)
        while True:
            seen[name.split("/")[1]] = tensor
            name, tensor = steps.send(tensor)
    except StopIteration:
        return seen


# %%
toy = watch(toy_x, toy_block, toy_tensors, epsilon)
steps = ("expand_conv", "expand_act", "depthwise_act", "se_scale", "output")
pictures.show_toy_block(toy, steps)

# %% [markdown]
# Follow one number, the top left of the output, with nothing but additions. On four pixels with
# stride 2, TensorFlow's padding puts no zeros before and one after for the 3 x 3 kernel, one before
# and two after for the 5 x 5 (see [03](03_same_padding.ipynb)). So the first sum covers the rows
# and columns 0 to 2. The second covers -1 to 3, where -1 is padding and adds nothing.

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
show(mixnet_block)

# %% [markdown]
# ## Block 3 and the cat, step by step
#
# `layers` has every layer of the network for the photo, and whatever you compute here has to equal
# it. The block's input is the output of block 2.

# %%
tensors, epsilon = model.tensors, model.metadata.epsilon


def same(layer, tensor):
    """Compare a step with the network's own layer, and print its shape and range."""
    assert np.array_equal(tensor, layers[layer]), layer
    print(f"{layer:24} {tensor.shape!s:16} {tensor.min():6.2f} to {tensor.max():5.2f}, the same")


x = layers["blocks_2/output"]
same("blocks_2/output", x)

# %% [markdown]
# **1. Expand.** At every pixel, 40 numbers become 240: a product with a 40 x 240 matrix. No pixel
# sees another. Then follow batch norm and swish.

# %%
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import batch_norm, grouped_conv2d, swish
from tinymixnet.engine.network import statistics

conv = grouped_conv2d(x, group_kernels("blocks_3/expand_conv", tensors))
same("blocks_3/expand_conv", conv)
bn = batch_norm(conv, *statistics("blocks_3/expand_bn", tensors), epsilon)
same("blocks_3/expand_bn", bn)
expanded = swish(bn)
same("blocks_3/expand_act", expanded)

# %%
lively = np.argsort(-x[0].std(axis=(0, 1)))[:6]
titles = [f"in, channel {c}" for c in lively]
title = "Input: the six channels that vary most"
pictures.show_maps([x[0, :, :, c] for c in lively], titles, "value", signs=True, title=title)

# %%
from itertools import pairwise

edges = np.cumsum([0, *(k.shape[2] for k in group_kernels("blocks_3/depthwise_conv", tensors))])
groups = list(pairwise(edges.tolist()))
spread = expanded[0].std(axis=(0, 1))
chosen = [int(a + spread[a:z].argmax()) for a, z in groups]
maps, titles = [expanded[0, :, :, c] for c in chosen], [f"channel {c}" for c in chosen]
title = "Expanded: the channel of each group that varies most"
pictures.show_maps(maps, titles, "value", 4, signs=True, title=title)

# %% [markdown]
# **2. Filter.** The 240 channels are cut into four groups of 60. Channels of the first group look
# at 3 x 3 pixels, those of the last at 9 x 9, each with a kernel of its own. Stride 2: half the
# rows, half the columns.

# %%
from tinymixnet.engine.kernels import mix_conv

kernels = group_kernels("blocks_3/depthwise_conv", tensors)
conv = mix_conv(expanded, kernels, b.stride)
same("blocks_3/depthwise_conv", conv)
bn = batch_norm(conv, *statistics("blocks_3/depthwise_bn", tensors), epsilon)
same("blocks_3/depthwise_bn", bn)
filtered = swish(bn)
same("blocks_3/depthwise_act", filtered)

# %%
sizes = [f"{len(k)} x {len(k)}" for k in kernels]
titles = [f"{size}, channel {c}" for size, c in zip(sizes, chosen, strict=True)]
weights = [kernels[g][:, :, c - edges[g], 0] for g, c in enumerate(chosen)]
scaled = [w / np.abs(w).max() for w in weights]
title = "The kernels of these channels"
pictures.show_maps(scaled, titles, "weight / largest", 4, signs=True, title=title)

# %%
maps = [filtered[0, :, :, c] for c in chosen]
title = "The same channels, filtered"
pictures.show_maps(maps, titles, "value", 4, signs=True, title=title)

# %% [markdown]
# **3. Weigh the channels.** The mean of each channel, 240 numbers, is squeezed to 20 and expanded
# to 240 gates between 0 and 1. A gate multiplies its whole channel.

# %%
from tinymixnet.engine.kernels import global_average_pool, pointwise_conv2d, sigmoid

pooled = global_average_pool(filtered)[:, None, None, :]
same("blocks_3/se_pool", pooled)
kernel, bias = tensors["blocks_3/se_reduce/kernel"], tensors["blocks_3/se_reduce/bias"]
reduced = pointwise_conv2d(pooled, kernel, bias)
same("blocks_3/se_reduce", reduced)
squeezed = swish(reduced)
same("blocks_3/se_act", squeezed)
kernel, bias = tensors["blocks_3/se_expand/kernel"], tensors["blocks_3/se_expand/bias"]
before_sigmoid = pointwise_conv2d(squeezed, kernel, bias)
same("blocks_3/se_expand", before_sigmoid)
gate = sigmoid(before_sigmoid)
same("blocks_3/se_gate", gate)
weighed = filtered * gate
same("blocks_3/se_scale", weighed)

# %%
pictures.show_gates_by_group(gate.ravel(), edges, sizes)

# %% [markdown]
# Does the block listen to all kernel sizes alike for this photo? The right chart counts the gates
# that let less than half through.
#
# **4. Project.** 240 channels become 56, again pixel by pixel. A batch norm follows and, on
# purpose, no activation: these few channels carry the whole result, and ReLU or swish would remove
# most of its negative half. Stride 2 has changed the shape, so there is no residual here.

# %%
conv = grouped_conv2d(weighed, group_kernels("blocks_3/project_conv", tensors))
same("blocks_3/project_conv", conv)
output = batch_norm(conv, *statistics("blocks_3/project_bn", tensors), epsilon)
same("blocks_3/project_bn", output)
assert not b.residual
same("blocks_3/output", output)

# %%
lively = np.argsort(-output[0].std(axis=(0, 1)))[:6]
titles = [f"out, channel {c}" for c in lively]
title = "Output: the six channels that vary most"
pictures.show_maps([output[0, :, :, c] for c in lively], titles, "value", signs=True, title=title)

# %% [markdown]
# ## Who sees what
#
# Change 2 x 2 pixels in the middle of the block's input, run the block again, and see which
# outputs change. Before the gates, the change stays within reach of each kernel: the larger the
# kernel, the further it gets. But the gates depend on the mean of everything, so they carry a
# little of the change to pixels that no kernel reaches. (Dark blue: no change.)

# %%
middle = slice(x.shape[1] // 2 - 1, x.shape[1] // 2 + 1)
poked = x.copy()
poked[0, middle, middle] *= 2
before, after = (watch(image, b, tensors, epsilon) for image in (x, poked))
changed = {layer: np.abs(after[layer] - before[layer])[0] for layer in before}
moved = [changed["depthwise_act"][:, :, a:z].max(-1) for a, z in groups]
moved.append(changed["se_scale"].max(-1))
pictures.show_changes(moved, [*sizes, "after the gates"])

# %% [markdown]
# ## Check: the whole block in loops
#
# The same block once more, with no function of the package and no NumPy arithmetic: Python's own
# numbers, one at a time. First what comes after each convolution:

# %%
mine = {name: v.tolist() for name, v in tensors.items() if name.startswith("blocks_3/")}


def norm(layer, channel, value):
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = (mine[f"blocks_3/{layer}/{n}"][channel] for n in names)
    return (value - mean) / math.sqrt(variance + epsilon) * gamma + beta


def act(value):
    return value / (1 + math.exp(-value))


# %% [markdown]
# Expand:


# %%
def expand_at(pixel):
    """The expanded numbers of one pixel."""
    columns = zip(*mine["blocks_3/expand_conv/kernel_0"][0][0], strict=True)
    sums = [sum(v * w for v, w in zip(pixel, column, strict=True)) for column in columns]
    return [act(norm("expand_bn", channel, value)) for channel, value in enumerate(sums)]


wide = [[expand_at(pixel) for pixel in row] for row in x[0].tolist()]


# %% [markdown]
# Filter:


# %%
def filter_at(row, column, channel):
    """One number after the depthwise kernel of a channel, at an output pixel."""
    group, member = divmod(channel, b.expanded // len(b.kernel_sizes))
    size, side = b.kernel_sizes[group], len(wide)
    weights = mine[f"blocks_3/depthwise_conv/kernel_{group}"]
    top, left = (2 * place - (size - 2) // 2 for place in (row, column))  # the odd zero is after
    total = 0.0
    for i in range(max(0, -top), min(size, side - top)):
        for j in range(max(0, -left), min(size, side - left)):
            total += wide[top + i][left + j][channel] * weights[i][j][member][0]
    return act(norm("depthwise_bn", channel, total))


half, inner = range(len(wide) // 2), range(b.expanded)
seen = [[[filter_at(row, column, c) for c in inner] for column in half] for row in half]

# %% [markdown]
# Weigh the channels:


# %%
def sums_of(values, kernel, bias):
    """One weighted sum for each column of a 1x1 kernel, plus its bias."""
    columns = zip(*kernel[0][0], strict=True)
    pairs = [zip(values, column, strict=True) for column in columns]
    return [start + sum(v * w for v, w in pair) for start, pair in zip(bias, pairs, strict=True)]


means = [sum(pixel[c] for row in seen for pixel in row) / len(half) ** 2 for c in inner]
few = sums_of(means, mine["blocks_3/se_reduce/kernel"], mine["blocks_3/se_reduce/bias"])
few = [act(value) for value in few]
many = sums_of(few, mine["blocks_3/se_expand/kernel"], mine["blocks_3/se_expand/bias"])
slow_gates = [1 / (1 + math.exp(-value)) for value in many]

# %% [markdown]
# Project:


# %%
def project_at(pixel):
    """The output of one pixel."""
    values = [value * g for value, g in zip(pixel, slow_gates, strict=True)]
    sums = sums_of(values, mine["blocks_3/project_conv/kernel_0"], [0.0] * b.outputs)
    return [norm("project_bn", channel, value) for channel, value in enumerate(sums)]


slow = np.array([[project_at(pixel) for pixel in row] for row in seen])
assert slow.shape == output.shape[1:]

# %% tags=["rounding"]
error = np.abs(output[0] - slow).max() / np.abs(slow).max()
print(f"largest difference / largest value: {error:.1e}")
assert error < 1e-5

# %% [markdown]
# ### Exercise 1
#
# Take one number of block 3's `depthwise_conv` in the last group of channels, away from the border.
# On how many numbers of the block's input does it depend?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
hint = (
    "how many pixels does its kernel cover, and how many channels of each went into the expansion?"
)
check(answer, b.kernel_sizes[-1] ** 2 * b.inputs, hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = 9 * 9 * 40
# ```
#
# The depthwise kernel sees 9 x 9 pixels of one expanded channel, and each of those is made of all
# 40 input channels. (So is each in the first group, but there it is 3 x 3 pixels.)
# </details>

# %% [markdown]
# ### Exercise 2
#
# How much do the gates let through of each kernel size? Write an expression for the mean gate of
# each group: four numbers, the first for 3 x 3. `gate` is (1, 1, 1, 240), and `groups` is a list of
# pairs: where a group of channels begins, and where the next one begins.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
hint = "gate[0, 0, 0, a:z] are the gates of one group; loop over `for a, z in groups`"
check(answer, [float(part.mean()) for part in np.split(gate.ravel(), edges[1:-1])], hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = [gate[0, 0, 0, a:z].mean() for a, z in groups]
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# Now from memory: write block 4 as a function of its input x, without looking up. The check calls
# it with `layers["blocks_3/output"]` and expects `layers["blocks_4/output"]`. Its line is
# `k3.5_a1.1_p1.1_s11_e6 ... se0.5_sw`: two groups wherever there were one or four, stride 1, and
# *one thing more* than block 3 has. All functions that you need are imported above; the names of
# the tensors begin with `blocks_4/`.

# %% tags=["exercise"]
answer = None  # a function of x that returns the output of block 4

# %% jupyter={"source_hidden": true} tags=["check"]
hint = "expand, depthwise, squeeze-and-excite, project, each with its batch norm; then the residual"
check(answer, layers["blocks_4/output"].tolist(), hint, given=(layers["blocks_3/output"],))

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
# def block_4(x):
#     y = swish(convolve("expand", grouped_conv2d, x))
#     y = swish(convolve("depthwise", mix_conv, y, 1))
#     z = global_average_pool(y)[:, None, None, :]
#     y = y * sigmoid(fully("se_expand", swish(fully("se_reduce", z))))
#     return convolve("project", grouped_conv2d, y) + x
#
#
# answer = block_4
# ```
#
# </details>

# %% [markdown]
# Next: [08, debugging layer by layer](08_debugging_layer_by_layer.ipynb): what if one of these
# steps is wrong?
