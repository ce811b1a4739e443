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
# # How does a photo become the word "cat"?
#
# A photo is a block of numbers. A classifier turns that block into one number for each word, and
# the words with the largest numbers are its answer. This notebook walks the whole way once,
# quickly: photo, pixels, logits, probabilities. The other ten take the steps apart.
#
# Everything runs on the weights that come with the package. They know the ten classes of CIFAR-10
# and were trained on photos of 32 x 32 pixels, which will matter below.

# %%
import inspect
import math
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import draw_bars, draw_image, panels, show_images, show_maps
from recorded import RECORDED, kernel_cases

import tinymixnet
from tinymixnet import mixnet
from tinymixnet.engine.images import PRESETS, read_image, thumbnail_preset
from tinymixnet.engine.kernels import softmax

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"

for label, probability, index in model.classify(PHOTO, top=5):
    print(f"{label:10} {100 * probability:6.2f} %   (class {index})")

# %% [markdown]
# ## The whole network on one screen
#
# The network that gave this answer is one file, `tinymixnet/mixnet.py`, and here it is. Read
# `mixnet` from top to bottom: `x` is the picture, each line replaces it by the next one, and the
# comments say what shape it then has. Nearly all of the work is done in `mixnet_block`, which is
# called once for each block, each time with other weights. You need not understand every line now:
# notebooks 01 to 05 explain the functions that the file imports, and
# [06](06_reading_block_strings.ipynb) comes back and reads it line by line.

# %%
Code(inspect.getsource(mixnet), language="python")

# %% [markdown]
# ## From the photo to the answer
#
# The network is one of four steps that `model.classify` took:
#
# 1. `read_image` decoded the file: a photo upright, in red, green and blue, 0 to 255.
# 2. A *preset* cropped and resized it to the size the network was trained on.
# 3. The network turned these pixels into *logits*: one number for each class, of any size and sign.
#    `model` takes a faster way to the same numbers, which [09](09_where_the_time_goes.ipynb) shows.
# 4. `softmax` turned the logits into probabilities.

# %%
photo = np.asarray(read_image(PHOTO))
pixels = model.pixels(PHOTO)  # (1, S, S, 3): a batch of one
logits = model(pixels)
probabilities = softmax(logits)
print("photo", photo.shape, photo.dtype)
print("pixels", pixels.shape, pixels.dtype, f"{pixels.min():.0f} to {pixels.max():.0f}")
print("logits", logits.shape, logits.dtype)
on_one_screen = mixnet.mixnet(pixels, model.tensors, model.architecture.blocks)
difference = np.abs(on_one_screen - logits).max() / np.abs(logits).max()
print("those of mixnet.py, within 1e-5:", bool(difference < 1e-5))

_, axes = panels(1, 4, 3.6, width_ratios=[3, 2, 2, 2])
draw_image(axes[0, 0], photo, "photo")
draw_image(axes[0, 1], pixels[0], "pixels")
draw_bars(axes[0, 2], model.labels, logits[0], "logit", "logits", None, [3])
draw_bars(
    axes[0, 3], model.labels, 100 * probabilities[0], "probability in %", "softmax", None, [3]
)

# %% [markdown]
# ## The last step first: softmax by hand
#
# Take three logits small enough for paper. Softmax raises e to each and divides by the sum, so
# that the results are positive and add up to 1. A difference of 1 between two logits makes a ratio
# of e between their probabilities, wherever the two logits lie.

# %%
toy = [2.0, 1.0, 0.0]
powers = [math.exp(value) for value in toy]
print("e^x         ", [f"{power:.4f}" for power in powers])
print("their sum   ", f"{sum(powers):.4f}")
by_hand = [power / sum(powers) for power in powers]
print("shares      ", [f"{share:.4f}" for share in by_hand])
print("first ratio ", f"{by_hand[0] / by_hand[1]:.4f}", "and e is", f"{math.e:.4f}")

# %% [markdown]
# The package's function does the same for a whole batch. One line is there for safety alone: it
# subtracts the largest logit first. Read it and say why that changes no answer.

# %%
Code(inspect.getsource(softmax), language="python")

# %% [markdown]
# Subtracting a constant multiplies every power by the same factor, which the division takes out
# again. Without it, one large logit makes the calculation fail:

# %%
print("package     ", softmax(np.array([toy])).round(4)[0])
print("1000 higher ", softmax(np.array([toy]) + 1000).round(4)[0])
try:
    math.exp(1000)
except OverflowError as error:
    print("by hand at 1000: OverflowError,", error)

# %% [markdown]
# ## What the network sees: four presets
#
# Networks are trained on photos of one size, cut in one way, and answer best to the same cut. The
# package has four ways to make the pixels; which one to use is written in the weights file.
#
# | preset | whose | what it does |
# |---|---|---|
# | `tf` | TensorFlow's evaluation | centre square, bilinear resize without averaging |
# | `timm` | PyTorch Image Models | bicubic resize that averages, then a centre crop |
# | `omz` | Open Model Zoo | centre crop of the same proportions, squeezed to a square |
# | `thumbnail` | these weights | centre square, shrunk to a thumbnail, enlarged again |
#
# This is the first place where two libraries with equal weights disagree: before a single layer
# has run, their pixels differ.

# %%
seen = {name: model.pixels(PHOTO, preset=name)[0] for name in PRESETS}
show_images(list(seen.values()), list(seen))

# %%
for name, image in seen.items():
    first, second = model.classify(PHOTO, top=2, preset=name)
    print(
        f"{name:9}  {first.label:5} {100 * first.probability:5.1f} %,"
        f"  {second.label:5} {100 * second.probability:5.1f} %,"
        f"  mean |difference| to timm {abs(image - seen['timm']).mean():5.1f} of 255"
    )

# %% [markdown]
# The sharp versions are not called a cat, although to us they look more like one. The weights have
# only ever seen enlarged thumbnails: to them, fine fur is a texture that no photo of a cat ever
# had. A preset is part of the weights, not a matter of taste.

# %%
Code(inspect.getsource(thumbnail_preset), language="python")

# %% [markdown]
# ## The network at a glance
#
# Between pixels and logits stand a first convolution (the *stem*), a row of blocks, and a *head*.
# Each row below is one of these, with the shape of what comes out of it for one image, and what it
# costs in multiply-adds: one multiply-add is one product and one addition.

# %%
height, width = pixels.shape[1:3]
rows: dict[str, list] = {}
for layer in model.architecture.layers(height, width):
    part = layer.name.split("/")[0]
    row = rows.setdefault(part, [(), 0, 0])
    row[0], row[1], row[2] = layer.shape, row[1] + layer.parameters, row[2] + layer.multiply_adds
print(f"{'part':14} {'output':>14} {'parameters':>11} {'multiply-adds':>14}")
for part, (shape, parameters, multiply_adds) in rows.items():
    print(f"{part:14} {'x'.join(map(str, shape)):>14} {parameters:11,} {multiply_adds:14,}")
print(f"{'all':14} {'':14} {model.architecture.parameters():11,}", end="")
print(f" {model.architecture.multiply_adds(height, width):14,}")

# %% [markdown]
# Read the rows from top to bottom: the picture is halved five times, and the number of channels
# grows. The network knows less and less about *where* something is, and more and more about *what*
# it is. `model.features` returns the last output at each resolution. Below is one channel of each,
# the one that varies most over this photo.

# %%
features = model.features(pixels)
strongest = []
for name, tensor in features.items():
    channel = int(tensor[0].std(axis=(0, 1)).argmax())
    chosen = tensor[0, :, :, channel]
    strongest.append((chosen / np.abs(chosen).max(), f"{name}\nchannel {channel}"))
show_maps(
    [chosen for chosen, _ in strongest],
    [name for _, name in strongest],
    "value / largest |value|",
    columns=5,
    signs=True,
    height=3.4,
)

# %% [markdown]
# ## Check: the last layer by a loop, and softmax against TensorFlow
#
# The last layer is a *dense* one: each logit is a weighted sum of the numbers that come out of the
# head. Here it is as a loop over plain Python numbers. Only its input comes from the package.

# %%
pooled = model.embed(pixels)[0].tolist()
kernel = model.tensors["logits/kernel"].tolist()
naive_logits = []
for output, bias in enumerate(model.tensors["logits/bias"].tolist()):
    total = bias
    for channel, value in enumerate(pooled):
        total += value * kernel[channel][output]
    naive_logits.append(total)

difference = np.abs(logits[0] - naive_logits).max() / np.abs(naive_logits).max()
print("inputs of each logit:", len(pooled))
print("within 1e-5 of the loop:", bool(difference < 1e-5))

# %% [markdown]
# The repository also holds what TensorFlow answered to small questions. The questions are made
# again from seeds; TensorFlow is not needed to read its answers.

# %%
case = kernel_cases()["softmax/usual"]
with np.load(RECORDED) as recorded:
    theirs = recorded["softmax/usual"]
print("rows and classes:", theirs.shape)
print("within 1e-6 of TensorFlow:", bool(np.abs(softmax(case.arrays[0]) - theirs).max() < 1e-6))

# %% [markdown]
# ## Exercise
#
# Halve all logits of the photo. Does the best class change? And what is its probability then? Put
# the probability, a number between 0 and 1, into `answer`, run the cell, then the folded one.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
halved = [math.exp(float(value) / 2) for value in logits[0]]
check(answer, max(halved) / sum(halved), hint="softmax(...) takes any logits; .max() is the best")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = softmax(logits / 2).max()
# ```
#
# The order never changes, because e^x only grows. But the ratio of any two probabilities becomes
# its square root, so the best class gets less and all others together get more. The answer is the
# same, only less certain. A program that asks "is it at least 50 % sure?" would decide otherwise.
# </details>

# %% [markdown]
# Next: the stem halves the picture, and to do so it must say what lies beyond the edge. [01: Where
# do the zeros go?](01_same_padding.ipynb)
