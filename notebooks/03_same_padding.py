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
# # Where do the zeros go?
#
# A kernel that looks at three pixels needs, at the edge of a picture, pixels that are not there.
# Zeros stand in for them, and somebody must decide how many go on which side. TensorFlow and
# PyTorch decide differently. No program crashes because of it. Every feature just lies one pixel
# off.
#
# You need: [00](00_classify_a_photo.ipynb).

# %%
import inspect
import math
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import draw_image, draw_map, panels, show_maps
from recorded import RECORDED, kernel_cases

import tinymixnet
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import conv2d, depthwise_conv2d, mix_conv, normalize, same_padding
from tinymixnet.engine.network import forward

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"

# %% [markdown]
# ## By hand: six pixels, a kernel of three, a stride of two
#
# TensorFlow's rule is called SAME. With a stride s it promises n / s outputs, rounded up, from n
# pixels, whatever the kernel. From that all else follows:
#
# - the last kernel begins (outputs - 1) * s pixels after the first,
# - so the data must be (outputs - 1) * s + k long, k the kernel's size,
# - what is missing is added as zeros: half of them, rounded *down*, before, the rest after.

# %%
row = [10, 20, 30, 40, 50, 60]
n, k, s = len(row), 3, 2
outputs = math.ceil(n / s)
needed = (outputs - 1) * s + k  # from the first pixel of the first window to the last of the last
missing = needed - n
before = missing // 2
after = missing - before
print(f"outputs {outputs}, zeros {missing}: {before} before, {after} after")

padded = [0] * before + row + [0] * after
for position in range(outputs):
    start = position * s
    window = padded[start : start + k]
    print(f"SAME        output {position} sees {window}, its centre is {window[k // 2]}")

# %% [markdown]
# One zero, and it stands after the data. PyTorch's usual `padding=1` adds one on each side. The
# number of outputs is the same, so the code that follows runs as before. The pixels are not the
# same:

# %%
padded = [0, *row, 0]
for position in range(outputs):
    start = position * s
    window = padded[start : start + k]
    print(f"symmetric   output {position} sees {window}, its centre is {window[k // 2]}")

# %% [markdown]
# ## The package's function

# %%
Code(inspect.getsource(same_padding), language="python")

# %% [markdown]
# Here are all kernel sizes of MixNet, on an even and an odd size, with both strides. There are
# more zeros after than before only where the stride is 2 and the size is even. A picture whose
# size is a power of two is even at every layer with stride 2.

# %%
print("kernel  stride   even size (64)   odd size (63)")
for stride in (1, 2):
    for kernel in (3, 5, 7, 9, 11):
        even, odd = same_padding(64, kernel, stride), same_padding(63, kernel, stride)
        print(f"{kernel:4}{stride:8}   {even!s:>14} {odd!s:>15}")

# %% [markdown]
# ## One pixel, seen
#
# A picture of two bright pixels, neighbours, and a kernel that is zero except in its centre: with
# stride 1 it copies the picture. With stride 2 it keeps every second pixel, and the padding
# decides *which*.
#
# The package has no symmetric padding, but it needs no other convolution for it. With stride 1, a
# kernel of odd size has as many zeros before as after: its padding is symmetric. To have stride 2
# on symmetric padding, take every second row and column of that: `[:, ::2, ::2]`.

# %%
dot = np.zeros((1, 8, 8, 1))
dot[0, 3, 3], dot[0, 4, 4] = 1, 2
centre = np.zeros((3, 3, 1, 1))
centre[1, 1] = 1
halved = depthwise_conv2d(dot, centre, stride=2)
moved = depthwise_conv2d(dot, centre, stride=1)[:, ::2, ::2]
show_maps(
    [dot[0, ..., 0], halved[0, ..., 0], moved[0, ..., 0]],
    ["the picture", "SAME, stride 2", "symmetric, stride 2"],
    "value",
    numbers=".0f",
    height=3.6,
)

# %% [markdown]
# SAME kept the odd rows and columns, and with them the first of the two bright pixels. Symmetric
# padding kept the even ones and the second bright pixel, which now lies in another place. A
# smoother kernel would see both, but half an output pixel away from where they were in training.
#
# ## On the photo: the stem
#
# The stem is a 3x3 convolution of stride 2. Here is one of its channels with either padding, and
# the difference.

# %%
pixels = model.pixels(PHOTO)
x = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]
same = conv2d(x, kernel, stride=2)
shifted = conv2d(x, kernel, stride=1)[:, ::2, ::2]

channel = int((same - shifted)[0].std(axis=(0, 1)).argmax())
figure, axes = panels(1, 4, 3.2, width_ratios=[4, 5, 5, 5])
draw_image(axes[0, 0], pixels[0], "pixels")
limits = (-float(np.abs(same[..., channel]).max()), float(np.abs(same[..., channel]).max()))
named = {"SAME": same, "symmetric": shifted, "difference": same - shifted}
for axis, (name, tensor) in zip(axes[0, 1:], named.items(), strict=True):
    last = name == "difference"
    draw_map(axis, tensor[0, ..., channel], name, "value" if last else None, True, limits)

# %% [markdown]
# The two maps look alike, as if the difference were all noise. It is not noise: it is a move. Take
# one row off the top and one column off the left of the photo, and put them on at the other end:
# everything moves by one pixel. The symmetric stem then gives what SAME gave before, except at the
# edge, where zeros take the place of other pixels.

# %%
rolled = np.roll(x, (-1, -1), axis=(1, 2))
again = conv2d(rolled, kernel, stride=1)[:, ::2, ::2]
inside = np.s_[:, 1:-1, 1:-1]
for name, tensor in {"the photo": shifted, "the moved photo": again}.items():
    largest = np.abs(tensor - same)[inside].max()
    print(f"symmetric on {name:16} differs from SAME on the photo by up to {largest:.4f}")

# %% [markdown]
# ## Five times one pixel
#
# MixNet halves the picture five times. One pixel there is one pixel of *that layer's input*, and
# the deeper the layer, the more pixels of the photo this is:

# %%
size, step, moved_by = pixels.shape[1], 1, 0
for name, stride in [("stem", 2), *((b.name, b.stride) for b in model.architecture.blocks)]:
    if stride == 2:
        moved_by += step
        print(f"{name:9} {size:3} px wide, a pixel is {step:2} of the photo's: {moved_by:2} in all")
        size, step = size // 2, 2 * step

# %% [markdown]
# So at the end of the network, every feature is that many pixels of the photo away from where it
# was in training. We can watch it: `forward` shows each layer and takes a replacement for it. The
# replaced layers get the package's own kernels, weights and inputs. Only their zeros are in other
# places.


# %%
def probabilities_with(replaced):
    """The probabilities when the layers of stride 2 that are named pad symmetrically."""
    strides = {f"{b.name}/depthwise_conv": b.stride for b in model.architecture.blocks}
    steps = forward(pixels, model.architecture, model.tensors, model.metadata)
    name, tensor = next(steps)
    for _ in model.architecture.layer_shapes(*pixels.shape[1:3]):
        if name == "probabilities":
            return tensor[0]
        inputs = tensor
        name, tensor = steps.send(tensor)
        if name in replaced and name == "stem/conv":
            tensor = conv2d(inputs, kernel, 1)[:, ::2, ::2]
        elif name in replaced and strides.get(name) == 2:
            tensor = mix_conv(inputs, group_kernels(name, model.tensors), 1)[:, ::2, ::2]


layers = ["stem/conv"]
layers += [f"{b.name}/depthwise_conv" for b in model.architecture.blocks if b.stride == 2]
print(f"{'symmetric in':25} {'answer':8}", *(f"{model.labels[i]:>6}" for i in (3, 5, 6)))
for some in [[], *([layer] for layer in layers), layers]:
    name = {0: "none", 1: "".join(some)}.get(len(some), "all five")
    percent = 100 * probabilities_with(some)
    shown = [f"{percent[i]:6.1f}" for i in (3, 5, 6)]
    print(f"{name:25} {model.labels[percent.argmax()]:8}", *shown, "%")

# %% [markdown]
# Nothing fails. One pixel in one layer is enough to change the animal, and in another place it
# makes the network *more* sure of the cat: on a single photo this bug can pass for an improvement,
# and nobody looks for a bug in an answer that seems right. [08](08_debugging_layer_by_layer.ipynb)
# finds it by comparing layer with layer.
#
# So this is the second reason why libraries disagree. A PyTorch layer with stride 2 and
# `padding=1` computes this other network. With TensorFlow's weights, PyTorch has to be told to pad
# by hand first.
#
# ## Check: against a loop, and against TensorFlow
#
# The rule says "as few zeros as will do, the odd one after". A loop can look for that, without a
# formula: try every number of zeros in turn until there are enough positions for the kernel.

# %%
wrong = 0
for size in range(1, 60):
    for k in range(1, 12):
        for s in (1, 2, 3):
            wanted = math.ceil(size / s)
            zeros = 0
            while len(range(0, size + zeros - k + 1, s)) < wanted:
                zeros += 1
            placed = [0, 0]
            for number in range(zeros):  # in turn: after, before, after, ...
                placed[(number + 1) % 2] += 1
            wrong += tuple(placed) != same_padding(size, k, s)
print("cases in which loop and package differ:", wrong)

# %%
cases = kernel_cases()
agree = []
with np.load(RECORDED) as recorded:
    for name, case in cases.items():
        if name.startswith("depthwise_conv2d/") and case.stride == 2:
            ours = depthwise_conv2d(*case.arrays, case.stride)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print(
    f"depthwise convolutions of stride 2 that agree with TensorFlow: {sum(agree)} of {len(agree)}"
)

# %% [markdown]
# ## Exercise
#
# A picture is 57 pixels wide. How many zeros does SAME put before and after it for a kernel of 9
# and a stride of 2? Work it out on paper, then write `answer = (before, after)`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
check(answer, same_padding(57, 9, 2), hint="57 is odd; how many outputs are there?")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# outputs = (57 + 1) // 2
# zeros = (outputs - 1) * 2 + 9 - 57
# answer = (zeros // 2, zeros - zeros // 2)
# ```
#
# As many before as after: on odd sizes the two paddings are the same. A port that is tested with
# odd pictures alone passes, and fails on all the usual sizes.
# </details>
#
# Next: the padding is settled, the kernel can move. [02: How is a convolution one matrix
# product?](02_convolution_as_im2col.ipynb)
