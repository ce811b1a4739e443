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
# MixNet has its name from one idea: the channels of a layer are split into groups, and each group
# has its own kernel size, from 3x3 up to 9x9 (in MixNet-S 11x11). Large kernels are expensive in
# an ordinary convolution. Here they are cheap, because these convolutions are *depthwise*: each
# channel is filtered by itself.
#
# Read before: [01](01_convolution.ipynb). At the edge of a picture some pixels under the kernel
# are missing, and zeros take their place; exactly where they go is the subject of
# [03](03_same_padding.ipynb).

# %%
from start import *

# %%
pictures.show_connections()

# %% [markdown]
# ## By hand: two channels, two kernels
#
# The kernel of the first channel adds the left and the right neighbour. The kernel of the second
# channel subtracts the upper neighbour from the lower one. The sums are small enough to do in your
# head.

# %%
from tinymixnet.engine.kernels import depthwise_conv2d

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
# would be a sum over both channels. So a depthwise layer looks *around*, but never *across*
# channels; the 1x1 convolutions before and after it do that.
#
# ## The package's functions

# %%
show(depthwise_conv2d)

# %% [markdown]
# There is no im2col here. `windows` shows the patch at every position without a copy, and `einsum`
# multiplies each patch with the kernel of its channel and adds up. The mixed layer does this once
# for each group and puts the results side by side:

# %%
from tinymixnet.engine.kernels import mix_conv, split_channels

show(mix_conv)

# %%
from tinymixnet.engine.architecture import group_kernels

kernels = group_kernels("blocks_3/depthwise_conv", model.tensors)
for kernel in kernels:
    print("kernel", kernel.shape, f"{kernel.size:6,} weights")
print("groups of", split_channels(sum(k.shape[2] for k in kernels), len(kernels)), "channels")

# %% [markdown]
# ## What it costs
#
# A depthwise kernel costs its area: K * K multiply-adds for each output value. From 3x3 to 9x9
# that is 81 / 9 times as much. An ordinary convolution costs its area *times the number of input
# channels*, and there are hundreds of them. For one output value in block 3:

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
pictures.show_bars(names, costs, "multiply-adds for one output value", "", "%d", range(4))

# %% [markdown]
# The large kernel costs nine times as much, but nine times very little. This is its share of the
# whole network, at the 224 pixels of the paper:

# %%
from tinymixnet.engine.architecture import mixnet

network = mixnet("mixnet-l")
work = dict.fromkeys(["stem and head", "expand", "depthwise", "project"], 0)
for layer in network.layers(224, 224):
    kind = layer.name.rpartition("/")[2].removesuffix("_conv")
    kind = "stem and head" if kind == "conv" else kind
    work[kind] = work.get(kind, 0) + layer.multiply_adds
work = {kind: amount for kind, amount in work.items() if amount}
total = network.multiply_adds(224, 224)
percent = [100 * amount / total for amount in work.values()]
strong = [list(work).index("depthwise")]
pictures.show_bars(list(work), percent, f"% of {total:,} multiply-adds", strong=strong)

# %% [markdown]
# Multiply-adds are not time. A depthwise convolution uses each number that it reads from memory
# only a few times, a matrix product many times. [09](09_where_the_time_goes.ipynb) measures the
# time of both.
#
# ## What it sees: a toy
#
# Two pictures with two bright dots each. In the first they are six pixels apart, in the second
# eight. Collect every patch that a kernel of size K can see in either picture, and sort them. If
# both pictures give the same patches, then no kernel of that size can tell the pictures apart: it
# gives the same answers, only in other places.

# %%
from tinymixnet.engine.kernels import windows

near, far = np.zeros((2, 1, 24, 24, 1), np.float32)
near[0, 12, [8, 14]] = far[0, 12, [8, 16]] = 1
for k in (3, 5, 7, 9):
    patches = [windows(dots, (k, k), 1).reshape(-1, k * k).tolist() for dots in (near, far)]
    same = sorted(patches[0]) == sorted(patches[1])
    print(f"{k}x{k}: the pictures have", "the same patches" if same else "different patches")

ends = np.zeros((9, 9, 1, 1), np.float32)
ends[4, [0, 8]] = 1  # looks for two dots that are eight pixels apart
shown = [x[0, ..., 0] for x in (near, far, *(depthwise_conv2d(x, ends) for x in (near, far)))]
titles = ["six apart", "eight apart", "9x9 on the first", "9x9 on the second"]
pictures.show_maps(shown, titles, "value")

# %% [markdown]
# A kernel can compare two places only if it covers both. The 9x9 kernel in this example gives its
# largest answer only where two dots are eight pixels apart.
#
# ## How far it sees: the receptive field
#
# The receptive field is the part of the photo that one value can depend on. A single layer sees K
# pixels. But the layers below have looked around, too, and a pixel of a halved picture stands for
# two pixels of the one before. So each layer adds (K - 1) *steps*, where a step is the distance in
# the photo between two neighbours in the layer's input. A 1x1 convolution adds nothing.


# %%
def receptive_fields(blocks, choose):
    """How many pixels of the photo one value depends on, after the stem and after each block."""
    size, step, fields = 1, 1, {}
    kernels = [(b.name, choose(b.kernel_sizes), b.stride) for b in blocks]
    for name, k, stride in [("stem", 3, 2), *kernels]:
        size += (k - 1) * step
        step *= stride
        fields[name] = size
    return fields


# %%
blocks = model.architecture.blocks
fields = {
    "through the largest kernels": receptive_fields(blocks, max),
    "through the 3x3 kernels alone": receptive_fields(blocks, min),
}
pixels = model.pixels(CAT)
boxes = ["blocks_1", "blocks_3", "blocks_5"]
pictures.show_receptive_fields(pixels[0], fields, boxes)
for way, field in fields.items():
    sides = ", ".join(f"{name} {field[name]}" for name in (*boxes, "blocks_18"))
    covering = next(name for name, side in field.items() if side >= pixels.shape[1])
    print(f"{way}: {sides} pixels; covers the photo from {covering} on")

# %% [markdown]
# Two things make it grow: large kernels, and halving the picture, after which every step counts
# double. Compare the curves (each number on the axis is about three times the one before): through
# the large kernels the convolutions cover the whole photo some blocks earlier. (From the end of
# block 3 on, squeeze-and-excite also tells every value something about the mean of the whole
# picture: [05](05_swish_and_squeeze_excite.ipynb).)
#
# ## Is that true? Ask the network
#
# We take one value in the middle of block 3's mixed convolution. Its receptive field is smaller
# than 64x64 pixels, so 64x64 pixels of the photo must be enough to compute it:

# %%
PATCH, CROP = 4, 64


def values_of_block_3(images, row, column):
    """One pixel of block 3's mixed convolution, with all its channels: (N, channels)."""
    for name, tensor in model.layers(images):
        if name == "blocks_3/depthwise_conv":
            return tensor[:, row, column]


part = pixels[:, 40:104, 40:104]  # from pixel 40, which is pixel 40 / 8 = 5 of block 3
before = values_of_block_3(part, 3, 3)
whole = values_of_block_3(pixels, 3 + 5, 3 + 5)
print("the same value from 64x64 as from all pixels:", np.allclose(before, whole, atol=1e-4))

# %% [markdown]
# Now change this part by 4x4 pixels at a time, and see how much the value moves. The map shows
# that for every patch of 4x4, as the mean over the channels of each group. The box is what the
# arithmetic says: everything that can have any influence at all.

# %%
effect = []
for row in range(0, CROP, PATCH):
    images = np.repeat(part, CROP // PATCH, axis=0)
    for column, image in enumerate(images):
        patch = image[row : row + PATCH, column * PATCH : (column + 1) * PATCH]
        patch[:] = (patch + 128) % 256  # every colour changes by 128
    effect.append(np.abs(values_of_block_3(images, 3, 3) - before))
cuts = np.cumsum(split_channels(block.expanded, len(sizes)))[:-1]
effects = [group.mean(axis=-1) for group in np.split(np.stack(effect), cuts, axis=-1)]

# %%
from tinymixnet.engine.kernels import same_padding

reach = []
below = [(16, 3, 1), (32, 7, 2), (32, 3, 1), (64, 3, 2)]  # input size, kernel, stride: to the stem
for k, effect in zip(sizes, effects, strict=True):
    low = high = 3
    for size, kernel_size, stride in [(16, k, 2), *below]:
        zeros, _ = same_padding(size, kernel_size, stride)  # before the first pixel
        low, high = low * stride - zeros, high * stride - zeros + kernel_size - 1
    reach.append((low, high))
    inside = np.s_[low // PATCH : high // PATCH + 1, low // PATCH : high // PATCH + 1]
    outside = effect.sum() - effect[inside].sum()
    print(f"{k}x{k}: {high - low + 1} pixels; effect from outside:", bool(outside > 1e-3))
pictures.show_effects(part[0], sizes, effects, reach)

# %% [markdown]
# Nothing outside a box has an effect, so the arithmetic is right. But look at the colours, too:
# what lies far out can have an effect, and has little. That is so in most networks, because there
# are many ways from the middle of the field to the value, and few from its border. The part that
# really counts is smaller than the receptive field. Compare it between the groups.
#
# ## What each group has learned
#
# One kernel of 81 weights does not show what it is for. But a layer has many kernels, and their
# average shows what they have in common. Any pattern is a sum of waves. A kernel answers strongly
# to some waves and weakly to others, and how strongly to which is its *spectrum*, the squared
# magnitude of its Fourier transform. The centre of a spectrum stands for slow waves (large areas),
# its border for fast ones (detail from pixel to pixel).
#
# For each group of block 3 you see one kernel, then the average spectrum of all kernels of the
# group (kernels of random numbers would show 1 everywhere), and then what that one kernel answers
# to the photo, with stride 1 to have more pixels.


# %%
def spectrum(kernel, size=32):
    """The mean power of a group's kernels at each frequency, 1 on average, slow waves central."""
    power = np.abs(np.fft.fft2(kernel[..., 0], (size, size), axes=(0, 1))) ** 2
    return np.fft.fftshift((power / power.mean(axis=(0, 1))).mean(axis=-1))


# %% tags=["readme"]
layers = dict(model.layers(pixels))
inputs = np.split(layers["blocks_3/expand_act"], cuts, axis=-1)
chosen, answers = [], []
for kernel, x in zip(kernels, inputs, strict=True):
    y = depthwise_conv2d(x, kernel)[0]
    strongest = int(y.std(axis=(0, 1)).argmax())  # the channel whose answers vary most
    chosen.append(kernel[..., strongest, 0])
    answers.append(y[..., strongest])
pictures.show_groups(pixels[0], chosen, [spectrum(kernel) for kernel in kernels], answers)

# %% [markdown]
# Compare the spectra from left to right. If the groups have divided the work, the bright spot in
# the centre becomes smaller and stronger: a larger kernel prefers slower waves. It averages over
# areas, or compares two areas with each other. A 3x3 kernel cannot do that, because a slow wave
# hardly changes within three pixels.
#
# Is it so in every block? The curves below are the mean over all directions: the power at each
# frequency, where random kernels of any size have 1 (dashed).

# %%
f = np.fft.fftshift(np.fft.fftfreq(32))
rings = np.digitize(np.hypot(f[:, None], f), np.linspace(0, 0.5, 9))  # 1 to 8, and 9: the corners
powers = {}
for number in (3, 9, 17):
    layer = f"blocks_{number}/depthwise_conv"
    spectra = {f"{len(k)}x{len(k)}": spectrum(k) for k in group_kernels(layer, model.tensors)}
    side = layers[layer].shape[1]
    powers[f"blocks_{number}, {side}x{side} outputs"] = {
        name: [power[rings == ring].mean() for ring in range(1, 9)]
        for name, power in spectra.items()
    }
pictures.show_powers(np.arange(8) / 16 + 1 / 32, powers)

# %% [markdown]
# Look at the left part of each panel: the higher a curve is there, the more that group prefers
# large areas. The nearer a curve is to the dashed line, the less it differs from chance.
#
# In the last blocks a photo of this size is only a few pixels wide. There the outermost weights of
# a large kernel lie on the zeros at every position, and a weight that only ever meets zeros changes
# no answer. Those can be counted:

# %%
print("block      input   stride  largest kernel   weights that meet a pixel")
for number in (3, 7, 9, 15, 17):
    block = model.architecture.blocks[number]
    side = layers[f"{block.name}/expand_act"].shape[1]
    k = max(block.kernel_sizes)
    ones = np.ones((1, side, side, 1))
    met = windows(ones, (k, k), block.stride).max(axis=(0, 1, 2, 3)) > 0
    print(
        f"{block.name:10} {side:2}x{side:<4} {block.stride:4}  {k:9}x{k} {met.sum():17} of {k * k}"
    )

# %% [markdown]
# Where not all of them meet a pixel, a network that was trained on pictures of this size had no
# reason to change the others. On the 224 pixels that MixNet was made for, the last blocks have 7x7
# pixels, and every weight of a 9x9 kernel meets one somewhere. A network and the size of its
# pictures belong together.
#
# ## Check: against loops, and against TensorFlow
#
# One output pixel of all groups by hand: the weights that lie on the picture, one after another.

# %%
x, stride, row, column = layers["blocks_3/expand_act"], 2, 0, 5  # at the upper edge
mixed = mix_conv(x, kernels, stride)[0, row, column]
sums = []
for group, kernel in zip(inputs, kernels, strict=True):
    k = len(kernel)
    zeros, _ = same_padding(x.shape[1], k, stride)
    total = np.zeros(kernel.shape[2])
    for i in range(k):
        for j in range(k):
            y_in, x_in = stride * row + i - zeros, stride * column + j - zeros
            if 0 <= y_in < x.shape[1] and 0 <= x_in < x.shape[2]:
                total += group[0, y_in, x_in].astype(float) * kernel[i, j, :, 0]
    sums.append(total)
print("within 1e-5 of the loops:", bool(np.abs(np.concatenate(sums) - mixed).max() < 1e-5))

# %%
from recorded import RECORDED, kernel_cases

agree = []
with np.load(RECORDED) as recorded:
    for name, case in kernel_cases().items():
        if case.operation == "mix_conv":
            ours = mix_conv(*case.arrays, case.stride)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print(f"mixed convolutions that agree with TensorFlow: {sum(agree)} of {len(agree)}")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# At 224 pixels, block 3 of MixNet-L gets 56x56 pixels and has stride 2; the channels of its four
# groups are printed further up. How many multiply-adds does its whole mixed convolution take?

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
# ### Exercise 2
#
# Several depthwise 3x3 layers with stride 1, one after the other, see as far as a single 9x9. How
# many layers does that take, and how many multiply-adds for each output value do they cost
# together? `answer = (layers, multiply_adds)`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
count = next(n for n in range(1, 20) if 1 + n * (3 - 1) == 9)
check(answer, (count, 9 * count), hint="each layer adds K - 1 pixels to what one pixel sees")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# layers = (9 - 1) // (3 - 1)
# answer = (layers, layers * 3 * 3)
# ```
#
# That is fewer multiply-adds than 81, and also fewer weights: four small kernels cannot make every
# 9x9 kernel. And it is four layers, each of which has to read and write the whole picture.
# </details>
#
# ### Exercise 3
#
# A depthwise convolution is also a sum of *shifted pictures*: for each of the K * K places in the
# kernel, the whole picture is shifted, multiplied by that place's weights, and added. (The fast
# path builds on this idea.) Write a function that does so: `f(x, kernel)` with x (H, W, C),
# kernel (K, K, C), K odd and stride 1, and as many zeros on each side as the kernel needs. Then
# `answer = f`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
rng = np.random.default_rng(2)
x, kernel = rng.normal(size=(6, 7, 4)), rng.normal(size=(5, 5, 4))
expected = depthwise_conv2d(x[None], kernel[..., None])[0]
hint = "pad with np.pad by K // 2, then two loops over the kernel, none over the picture"
check(answer, expected, hint, given=(x, kernel))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def add_shifted_pictures(x, kernel):
#     height, width, _ = x.shape
#     k = len(kernel)
#     padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
#     total = np.zeros_like(x)
#     for i in range(k):
#         for j in range(k):
#             total += padded[i : i + height, j : j + width] * kernel[i, j]
#     return total
#
#
# answer = add_shifted_pictures
# ```
#
# Each of the K * K steps works on the whole picture at once, which is why it is quick in NumPy.
# </details>
#
# Next: where exactly do the zeros at the edge go?
# [03: Padding](03_same_padding.ipynb)
