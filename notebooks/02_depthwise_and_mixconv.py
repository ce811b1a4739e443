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
# # What does a 9x9 kernel see that a 3x3 does not, and what does it cost?
#
# MixNet has its name from one idea: a layer whose channels are split into groups, and each group
# looks around with a kernel of another size, 3x3 up to 11x11. Large kernels are known to be
# expensive. Here they are affordable, because these convolutions are *depthwise*: no channel sees
# another.
#
# You need: [01](01_same_padding.ipynb) and [02](02_convolution_as_im2col.ipynb).

# %%
import inspect
from itertools import pairwise
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import (
    draw_box,
    draw_image,
    draw_lines,
    draw_map,
    panels,
    show_bars,
    show_maps,
)
from recorded import RECORDED, kernel_cases

import tinymixnet
from tinymixnet.engine.architecture import group_kernels, mixnet
from tinymixnet.engine.kernels import (
    depthwise_conv2d,
    mix_conv,
    same_padding,
    split_channels,
    windows,
)

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
pixels = model.pixels(PHOTO)

# %% [markdown]
# ## By hand: two channels, two kernels
#
# The first channel gets a kernel that adds left and right neighbour, the second one that takes the
# upper from the lower. With zeros around (SAME padding) the sums can be done in the head.

# %%
first = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
second = 10 * first
across = np.array([[0, 0, 0], [1, 0, 1], [0, 0, 0]])
down = np.array([[0, -1, 0], [0, 0, 0], [0, 1, 0]])
print("middle row of the first, left + right :", [0 + 5, 4 + 6, 5 + 0])
print("middle row of the second, lower - upper:", [70 - 10, 80 - 20, 90 - 30])

x = np.stack([first, second], axis=-1)[None].astype(np.float32)
kernel = np.stack([across, down], axis=-1)[..., None].astype(np.float32)
y = depthwise_conv2d(x, kernel)
print("\nfirst channel\n", y[0, :, :, 0], "\nsecond channel\n", y[0, :, :, 1], sep="")

# %% [markdown]
# Nothing of the first channel is in the second result. In an ordinary convolution every output
# would be a sum over both channels.
#
# ## The package's functions

# %%
Code(inspect.getsource(depthwise_conv2d), language="python")

# %% [markdown]
# There is no im2col here: `windows` copies nothing, and `einsum` multiplies each window with its
# channel's kernel and adds up. The mixed layer is the same once for each group, side by side:

# %%
Code(inspect.getsource(mix_conv), language="python")

# %%
Code(inspect.getsource(split_channels), language="python")

# %%
kernels = group_kernels("blocks_3/depthwise_conv", model.tensors)
for kernel in kernels:
    print("kernel", kernel.shape, f"{kernel.size:6,} weights")
print("groups of", split_channels(sum(k.shape[2] for k in kernels), len(kernels)), "channels")

# %% [markdown]
# ## What it costs
#
# A depthwise kernel costs its area: K * K multiply-adds for each output value. From 3x3 to 9x9
# that is 81 / 9 times as much. An ordinary convolution costs its area *times the number of input
# channels*, and there are hundreds of them. Per output value of block 3:

# %%
block = model.architecture.blocks[3]
sizes = block.kernel_sizes
names = [f"depthwise {k}x{k}" for k in sizes]
costs = [k * k for k in sizes]
names += ["expand 1x1", "project 1x1", f"ordinary 3x3, {block.expanded} ch"]
costs += [block.inputs // block.expand_groups, block.expanded // block.project_groups]
costs += [9 * block.expanded]
print(f"a 9x9 costs {costs[3] / costs[0]:.0f} times a 3x3,", end=" ")
print(f"an ordinary 3x3 costs {costs[-1] / costs[3]:.1f} times a depthwise 9x9")
show_bars(names, costs, "multiply-adds for one output value", numbers="%d", strong=range(4))

# %% [markdown]
# So the large kernel costs nine times as much, but nine times very little. Here is how much that
# is in the whole network, at the 224 pixels of the paper:

# %%
network = mixnet("mixnet-l")
work: dict[str, int] = {}
for layer in network.layers(224, 224):
    kind = layer.name.rpartition("/")[2].removesuffix("_conv")
    work[kind] = work.get(kind, 0) + layer.multiply_adds
conv = work.pop("conv")
total = network.multiply_adds(224, 224)
kinds = {kind: work[kind] for kind in ("expand", "depthwise", "project", "se_reduce", "se_expand")}
kinds |= {"stem and head": conv, "logits": work["logits"]}
show_bars(
    list(kinds),
    [100 * amount / total for amount in kinds.values()],
    f"% of {total:,} multiply-adds",
    strong=[list(kinds).index("depthwise")],
)

# %% [markdown]
# (Multiply-adds are not time. A matrix product keeps a processor busy at every step; a depthwise
# convolution has little to do with each number it fetches. [09](09_where_the_time_goes.ipynb)
# measures the time of both.)
#
# ## What each size can see
#
# First without a photo: one bright pixel, kernels full of ones. What lights up is every output
# that has seen the pixel.

# %%
dot = np.zeros((1, 11, 11, 1), np.float32)
dot[0, 5, 5] = 1
seen = [depthwise_conv2d(dot, np.ones((k, k, 1, 1), np.float32))[0, ..., 0] for k in sizes]
show_maps(
    seen, [f"{k}x{k}: {int(s.sum())} outputs" for k, s in zip(sizes, seen, strict=True)], "output"
)

# %% [markdown]
# In the network there are layers below, and each of them has looked around too. How far does *one*
# value of block 3 reach into the photo? Ask the network: change a few pixels of the photo at a
# time, and see how much the value in the middle moves. Below that is done with patches of 4x4
# pixels, for every patch, and averaged over the channels of each group. The box is what the
# arithmetic says: everything that could have any influence at all.


# %%
def middle_of_block_3(images):
    """The value in the middle of block 3's mixed convolution, (N, channels)."""
    for name, tensor in model.layers(images):
        if name == "blocks_3/depthwise_conv":
            return tensor[:, 4, 4]


PATCH = 4
count = pixels.shape[1] // PATCH
before = middle_of_block_3(pixels)
effect = []
for row in range(count):
    images = np.repeat(pixels, count, axis=0)
    for column, image in enumerate(images):
        place = np.s_[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        image[place] = 255 - image[place]
    effect.append(np.abs(middle_of_block_3(images) - before))
effect = np.stack(effect)  # (rows of patches, columns of patches, channels)

# Backwards from block 3 to the stem, the largest kernel of each layer: input size, kernel, stride.
below = [(16, 3, 1), (32, 7, 2), (32, 3, 1), (64, 3, 2)]
reach = []
for k in sizes:
    low = high = 4  # the value's place at block 3's output
    for size, kernel_size, stride in [(16, k, 2), *below]:
        low = low * stride - same_padding(size, kernel_size, stride)[0]
        high = high * stride - same_padding(size, kernel_size, stride)[0] + kernel_size - 1
    reach.append((low, high))

_, axes = panels(1, 5, 3.0)
draw_image(axes[0, 0], pixels[0], "photo")
groups = np.split(effect, np.cumsum(split_channels(effect.shape[2], 4))[:-1], axis=-1)
for axis, k, group, (low, high) in zip(axes[0, 1:], sizes, groups, reach, strict=True):
    shown = np.kron(group.mean(-1), np.ones((PATCH, PATCH)))
    draw_map(axis, shown / shown.max(), f"through {k}x{k}", None, limits=(0, 1))
    draw_box(axis, low, low, high - low + 1, high - low + 1)
    axis.label_outer()
    inside = np.s_[low // PATCH : high // PATCH + 1, low // PATCH : high // PATCH + 1]
    outside = group.mean(-1).sum() - group.mean(-1)[inside].sum()
    print(f"{k}x{k}: pixels {low} to {high}; any effect from outside:", bool(outside > 1e-3))
_ = axes[0, 4].figure.colorbar(axes[0, 4].images[0], ax=axes[0, 1:], label="effect / largest")

# %% [markdown]
# Two things to take from this. Every group reaches far, for the groups below are mixed in. And
# what reaches far does not weigh much: the effect fades towards the border of the box, most of all
# for the 3x3 group, while the 9x9 group sees half the face.
#
# ## What each group has learned
#
# A single kernel looks like noise: 81 weights, trained on small photos, do not show what they are
# for. But there are many kernels, and an average shows what they have in common. Any pattern is a
# sum of waves. A kernel answers strongly to some waves and weakly to others, and how strongly to
# which is its *spectrum*, the squared magnitude of its Fourier transform. The centre of a spectrum
# stands for slow waves (large areas), its border for fast ones (pixel to pixel).
#
# Below, for each group of block 3: one kernel, the average spectrum of all its kernels (1 is what
# kernels of random numbers would show everywhere), and what that one kernel answers to the photo,
# with stride 1 for more pixels.


# %% tags=["readme"]
def spectrum(kernel, size=32):
    """The mean power of a group's kernels at each frequency, 1 on average, slow waves central."""
    power = np.abs(np.fft.fft2(kernel[..., 0], (size, size), axes=(0, 1))) ** 2
    return np.fft.fftshift((power / power.mean(axis=(0, 1))).mean(axis=-1))


layers = {}
for name, tensor in model.layers(pixels):
    layers[name] = tensor
inputs = np.split(layers["blocks_3/expand_act"], len(sizes), axis=-1)  # four equal groups

figure, axes = panels(3, 5, 6.6, width_ratios=[1.3, 1, 1, 1, 1], layout="compressed")
draw_image(axes[0, 0], pixels[0], "what the network sees")
explained = [
    "What they pass: the\nmean spectrum of\neach group. Centre:\nlarge areas. Edge:\nfine detail.",
    "What the kernel in\nthe top row answers\nto the photo.",
]
for axis, text in zip(axes[1:, 0], explained, strict=True):
    axis.axis("off")
    axis.text(0.02, 0.5, text, va="center", fontsize=12)
spectra = [spectrum(kernel) for kernel in kernels]
limits = (0.0, max(float(power.max()) for power in spectra))
for axis, k, kernel, power, x in zip(axes.T[1:], sizes, kernels, spectra, inputs, strict=True):
    answers = depthwise_conv2d(x, kernel)[0]
    best = int(answers.std(axis=(0, 1)).argmax())
    weights, shown = kernel[..., best, 0], answers[..., best] - answers[..., best].mean()
    signed = draw_map(axis[0], weights / np.abs(weights).max(), f"{k}x{k}", None, True, (-1, 1))
    waves = draw_map(axis[1], power, "", None, limits=limits)
    axis[1].set(xticks=[0, 16, 31], xticklabels=["-½", "0", "½"], xlabel="waves a pixel")
    axis[1].set(yticks=[0, 16, 31], yticklabels=["-½", "0", "½"], ylabel="waves a pixel")
    draw_map(axis[2], shown / np.abs(shown).max(), "", None, True, (-1, 1))
for axis in axes[:, 2:].flat:
    axis.set_ylabel("")
figure.colorbar(signed, ax=axes[0], label="weight / largest")
figure.colorbar(waves, ax=axes[1], label="power")
_ = figure.colorbar(signed, ax=axes[2], label="answer / largest")

# %% [markdown]
# The groups have divided the work. The 3x3 kernels pass nearly everything and keep the detail; the
# larger a kernel, the more it prefers slow waves: it averages over areas, or compares two areas
# with each other, which a 3x3 cannot do because a slow wave hardly changes within three pixels.
#
# Is that so in every block? The curve below is the mean over all directions: power at a frequency,
# where random kernels of the same size have 1 at all of them.


# %%
def power_by_frequency(kernel, edges):
    """The mean of a group's spectrum over rings of frequencies."""
    power = spectrum(kernel)
    f = np.fft.fftshift(np.fft.fftfreq(len(power)))
    distance = np.hypot(f[:, None], f)
    rings = pairwise(edges)
    return [power[(distance >= low) & (distance < high)].mean() for low, high in rings]


edges = np.linspace(0, 0.5, 9)
middles = (edges[1:] + edges[:-1]) / 2
_, axes = panels(1, 3, 3.8, sharey=True)
for axis, number in zip(axes[0], (3, 9, 17), strict=True):
    block = model.architecture.blocks[number]
    block_kernels = group_kernels(f"{block.name}/depthwise_conv", model.tensors)
    curves = {f"{len(k)}x{len(k)}": power_by_frequency(k, edges) for k in block_kernels}
    side = layers[f"{block.name}/depthwise_conv"].shape[1]
    title = f"{block.name}, {side}x{side} outputs"
    draw_lines(axis, middles, curves, "waves a pixel", "power (random: 1)", title, marker="o")
    axis.label_outer()

# %% [markdown]
# No. Early on, the groups differ from each other and from chance; in the late blocks, by this
# measure, no kernel can be told from random numbers. These weights have learned from small photos,
# and five times halved, a small photo is a few pixels wide: there are no areas left to tell apart.
# The outermost taps of a large kernel then lie on the padding at every position. A tap that only
# ever meets zeros changes no answer, and so training never had a reason to change it. Those can be
# counted:

# %%
print("block      size   kernel   taps that meet a pixel    spread: met    never met")
for number in (3, 7, 9, 15, 17):
    block = model.architecture.blocks[number]
    side = layers[f"{block.name}/expand_act"].shape[1]
    block_kernels = group_kernels(f"{block.name}/depthwise_conv", model.tensors)
    largest = len(block_kernels[-1])
    ones = np.ones((1, side, side, 1))
    met = windows(ones, (largest, largest), block.stride).max(axis=(0, 1, 2, 3)) > 0
    spread = f"{block_kernels[-1][met].std():.3f}"
    never = f"{block_kernels[-1][~met].std():.3f}" if not met.all() else "-"
    print(
        f"{block.name:10} {side:2}x{side:<4} {largest}x{largest}"
        f"{met.sum():14} of {met.size}{spread:>18}{never:>13}"
    )

# %% [markdown]
# The taps that never met a pixel have the same spread in every block. Nothing else in the network
# does: these are the random numbers from before training, made smaller by weight decay. Of the 9x9
# kernels in the last blocks only the 3x3 in the middle is in use here. On the 224 pixels that
# MixNet was made for, those blocks have 7x7 pixels and every tap finds one somewhere. A network
# and the size of its pictures belong together.
#
# ## Check: against loops, and against TensorFlow
#
# One output of every group by hand: the taps that lie on the picture, one after another.

# %%
x = layers["blocks_3/expand_act"]
mixed = mix_conv(x, kernels, stride=2)
largest = 0.0
row, column = 0, 5  # at the upper edge, where taps are missing
for group, kernel in enumerate(kernels):
    k = len(kernel)
    before, _ = same_padding(x.shape[1], k, 2)
    for channel in range(kernel.shape[2]):
        total = 0.0
        for i in range(k):
            for j in range(k):
                at_row, at_column = 2 * row + i - before, 2 * column + j - before
                if 0 <= at_row < x.shape[1] and 0 <= at_column < x.shape[2]:
                    value = float(inputs[group][0, at_row, at_column, channel])
                    total += value * float(kernel[i, j, channel, 0])
        ours = mixed[0, row, column, group * kernel.shape[2] + channel]
        largest = max(largest, abs(total - ours))
print("within 1e-5 of the loops:", bool(largest < 1e-5))

# %%
agree = []
with np.load(RECORDED) as recorded:
    for name, case in kernel_cases().items():
        if case.operation == "mix_conv":
            ours = mix_conv(*case.arrays, case.stride)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print(f"mixed convolutions that agree with TensorFlow: {sum(agree)} of {len(agree)}")

# %% [markdown]
# ## Exercise
#
# At 224 pixels, block 3 of MixNet-L gets 56x56 pixels and has stride 2; its four groups have the
# channels printed further up. How many multiply-adds does its whole mixed convolution take?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
costs = {layer.name: layer.multiply_adds for layer in network.layers(224, 224)}
check(answer, costs["blocks_3/depthwise_conv"], hint="every output value costs the kernel's area")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = 28 * 28 * 60 * (3**2 + 5**2 + 7**2 + 9**2)
# ```
#
# Half of it is the 9x9 group alone.
# </details>
#
# Next: after each of these convolutions stands a batch norm, and in the fast network it is gone.
# [04: Where does batch norm go, and where does rounding come in?](04_folding_batch_norm.ipynb)
