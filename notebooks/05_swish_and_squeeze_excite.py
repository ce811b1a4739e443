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
# # Which channels does the network listen to?
#
# A block of MixNet works on hundreds of channels, and not all of them matter for every picture.
# Two small devices decide what gets through: an *activation*, value by value, and
# *squeeze-and-excite*, channel by channel. The second looks at the whole picture first. We show it
# two pictures, and see what it opens and closes for each.
#
# You need: [03](03_depthwise_and_mixconv.ipynb) and [04](04_folding_batch_norm.ipynb).

# %%
import inspect
import math
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import (
    STRONG,
    draw_bars,
    draw_image,
    draw_map,
    panels,
    show_lines,
)
from recorded import RECORDED, kernel_cases

import tinymixnet
from tinymixnet.engine.kernels import (
    global_average_pool,
    relu,
    sigmoid,
    softmax,
    squeeze_excite,
    swish,
)
from tinymixnet.engine.network import forward

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"

# %% [markdown]
# ## By hand: swish
#
# ReLU keeps what is positive and drops the rest. Swish multiplies each value by its own sigmoid, a
# number between 0 and 1: a value well above zero passes whole, one well below zero hardly at all.

# %%
print("     x   sigmoid(x)   x * sigmoid(x)   max(x, 0)")
for x in (-6.0, -2.0, -1.0, 0.0, 1.0, 2.0, 6.0):
    s = 1 / (1 + math.exp(-x))
    print(f"{x:6.1f}{s:13.4f}{x * s:17.4f}{max(x, 0):12.1f}")

# %%
x = np.linspace(-6, 6, 241)
lowest = x[swish(x).argmin()]
print(f"swish is lowest near x = {lowest:.2f}, where it is {swish(x).min():.3f}")
show_lines(x, {"swish": swish(x), "ReLU": relu(x), "sigmoid": sigmoid(x)}, "x", "value")

# %% [markdown]
# So swish has no corner, and just below zero it is not silent: it answers a little, with the other
# sign. MixNet uses ReLU in its first blocks and swish from the fourth on, as each block string
# says.
#
# ## The package's functions
#
# The formula above fails far from zero: `exp(1000)` is more than any float holds. The package's
# sigmoid computes only e to the power of -|x|. That can become too small for a float, but never
# too large, and zero is then the right result.

# %%
Code(inspect.getsource(sigmoid), language="python")

# %%
Code(inspect.getsource(swish), language="python")

# %%
extreme = np.array([-np.inf, -1000, -50, 0, 50, 1000, np.inf], np.float32)
print("x      ", extreme)
print("sigmoid", sigmoid(extreme))
print("swish  ", swish(extreme).round(3))

# %% [markdown]
# ## By hand: squeeze-and-excite
#
# *Squeeze*: of each channel only the mean over all pixels is kept. *Excite*: two small layers turn
# these means into one gate for each channel, a number between 0 and 1. Then each channel is
# multiplied by its gate, all its pixels alike. Two channels of four pixels, one number in between:

# %%
a, b = [[1, 3], [5, 7]], [[0, 0], [2, 2]]
mean_a, mean_b = (1 + 3 + 5 + 7) / 4, (0 + 0 + 2 + 2) / 4
print("means:", mean_a, mean_b)
between = max(1 * mean_a - 2 * mean_b, 0)  # weights 1 and -2, then ReLU
print("in between:", between)
gates = [1 / (1 + math.exp(-w * between)) for w in (0.5, -1.5)]  # weights 0.5 and -1.5
print("gates:", [round(gate, 4) for gate in gates])
print("first channel: ", [[round(v * gates[0], 3) for v in row] for row in a])
print("second channel:", [[round(v * gates[1], 3) for v in row] for row in b])

# %% [markdown]
# The first channel was strong and opened its own gate, and closed that of the other one.

# %%
Code(inspect.getsource(squeeze_excite), language="python")

# %%
Code(inspect.getsource(global_average_pool), language="python")

# %%
x = np.stack([a, b], axis=-1)[None].astype(np.float32)
reduce_kernel = np.array([1.0, -2.0], np.float32).reshape(1, 1, 2, 1)
expand_kernel = np.array([0.5, -1.5], np.float32).reshape(1, 1, 1, 2)
zero1, zero2 = np.zeros(1, np.float32), np.zeros(2, np.float32)
y = squeeze_excite(x, reduce_kernel, zero1, expand_kernel, zero2, relu)
print("first channel\n", y[0, ..., 0].round(3), "\nsecond channel\n", y[0, ..., 1].round(3), sep="")

# %% [markdown]
# ## Two pictures
#
# Only one photo comes with the package. For the second picture we draw a ship, in a few lines of
# NumPy: it is no photo, and the network takes it for what it is meant to be all the same.


# %%
def drawn_ship(size=300):
    """A freighter on the sea under a pale sky: (size, size, 3) uint8."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.array([162.0, 207.0, 247.0]) - 40 * y[..., None]  # the sky
    sea = y > 0.62
    waves = 8 * np.sin(60 * x + 25 * np.sin(9 * y))
    picture[sea] = np.array([35, 85, 140]) + waves[sea][:, None]
    hull = (y > 0.52) & (y < 0.72) & (x > 0.6 * y - 0.21) & (x < 1.28 - 0.7 * y)
    parts = {
        (45, 45, 55): hull,
        (150, 40, 35): hull & (y > 0.665),
        (235, 235, 230): (y > 0.40) & (y < 0.52) & (x > 0.55) & (x < 0.82),
        (190, 60, 40): (y > 0.27) & (y < 0.40) & (x > 0.64) & (x < 0.72),
        (90, 80, 70): (y > 0.22) & (y < 0.52) & (np.abs(x - 0.3) < 0.012),
    }
    for colour, where in parts.items():
        picture[where] = colour
    return picture.astype(np.uint8)


pictures = {"cat": model.pixels(PHOTO), "ship": model.pixels(drawn_ship())}
_, axes = panels(1, 4, 3.2, width_ratios=[2, 2, 2, 2])
for number, (name, pixels) in enumerate(pictures.items()):
    probabilities = softmax(model(pixels))[0]
    best = np.argsort(-probabilities)[:3]
    labels = [model.labels[i] for i in best]
    draw_image(axes[0, 2 * number], pixels[0], f"the {name}")
    draw_bars(
        axes[0, 2 * number + 1], labels, 100 * probabilities[best], "probability in %", strong=[0]
    )

# %% [markdown]
# ## What the gates open and close
#
# All gates of all blocks for both pictures; `blocks_3` is the first block that has any. Each dot
# is a channel. On the diagonal a gate is the same for both; far from it, the block listens to this
# channel for one of the pictures only.

# %%
layers = {name: dict(model.layers(pixels)) for name, pixels in pictures.items()}
gated = [block.name for block in model.architecture.blocks if block.se_width]
gates = {
    name: {block: outputs[f"{block}/se_gate"].ravel() for block in gated}
    for name, outputs in layers.items()
}
chosen = ["blocks_3", "blocks_5", "blocks_9", "blocks_14", "blocks_17"]
_, axes = panels(1, len(chosen), 2.9)
for axis, block in zip(axes[0], chosen, strict=True):
    axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
    axis.plot(gates["cat"][block], gates["ship"][block], ".", markersize=3, color=STRONG)
    axis.set(title=block, xlabel="gate, cat", ylabel="gate, ship", aspect="equal")
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.label_outer()

# %%
print("block      gates   below 0.1: cat  ship   mean |cat - ship|   correlation")
for block in gated:
    cat, ship = gates["cat"][block], gates["ship"][block]
    closed = 100 * (cat < 0.1).mean(), 100 * (ship < 0.1).mean()
    apart, alike = np.abs(cat - ship).mean(), np.corrcoef(cat, ship)[0, 1]
    print(f"{block:10} {len(cat):5} {closed[0]:13.0f} % {closed[1]:3.0f} %", end=" ")
    print(f"{apart:16.3f} {alike:15.2f}")

# %% [markdown]
# So squeeze-and-excite is two devices in one. In the early blocks the gates are questions about
# the picture: all of them are somewhat open, and which ones are more so depends on what is seen.
# In the last blocks most gates are shut, for both pictures alike: there squeeze-and-excite has
# become a list of the channels that are worth listening to, whatever the picture. It fits what
# [03](03_depthwise_and_mixconv.ipynb) found: the kernels of these blocks could learn little from
# small photos, and most of their channels are now closed.
#
# Block 5 disagrees most about our two pictures. Below are the channels it opens for one and closes
# for the other, before the gate: what did each of them see?

# %%
block = "blocks_5"
difference = gates["cat"][block] - gates["ship"][block]
ranked = np.argsort(-difference)
picked = [*ranked[:3], *ranked[-3:]]
figure, axes = panels(2, 7, 4.4)
for row, (name, pixels) in enumerate(pictures.items()):
    draw_image(axes[row, 0], pixels[0], f"the {name}")
    maps = layers[name][f"{block}/depthwise_act"][0]
    for axis, channel in zip(axes[row, 1:], picked, strict=True):
        largest = max(
            np.abs(layers[n][f"{block}/depthwise_act"][..., channel]).max() for n in layers
        )
        title = f"ch {channel}\ngate {gates[name][block][channel]:.2f}"
        shown = draw_map(axis, maps[..., channel] / largest, title, None, True, (-1, 1))
        axis.label_outer()
_ = figure.colorbar(shown, ax=axes[:, 1:], label="value / largest of both")

# %% [markdown]
# How much does that matter for the answer? Take the gates from the other picture, and leave
# everything else as it is: `forward` takes the foreign gates in place of its own.


# %%
def answer_with(pixels, replaced):
    """The probabilities when some layers are replaced by other tensors, by name."""
    steps = forward(pixels, model.architecture, model.tensors, model.metadata)
    name, tensor = next(steps)
    while name != "probabilities":
        name, tensor = steps.send(replaced.get(name, tensor))
    return tensor[0]


other = {"cat": "ship", "ship": "cat"}
exchanged = {"none": [], "block 5": ["blocks_5"], "blocks 3 to 8": gated[:6], "9 to 18": gated[6:]}
print(f"{'gates of the other picture in:':31}", *(f"{name:>14}" for name in exchanged))
for name, pixels in pictures.items():
    label, foreign = model.labels.index(name), layers[other[name]]
    shares = [
        answer_with(pixels, {f"{b}/se_gate": foreign[f"{b}/se_gate"] for b in blocks})[label]
        for blocks in exchanged.values()
    ]
    print(f"{'probability of ' + name:31}", *(f"{100 * p:12.1f} %" for p in shares))

# %% [markdown]
# Less than the dots made us think. The gates of one block are an adjustment that the other blocks
# make up for; those of all early blocks together cost the cat a good part of its lead, and the
# ship nothing. In the late blocks the two pictures have nearly the same gates, and it shows. Gates
# refine what the convolutions found. They do not decide.
#
# ## Check: against a loop, and against TensorFlow
#
# Here are block 5's gates for the cat, computed with plain Python numbers.


# %%
def naive_swish(value):
    return value / (1 + math.exp(-value))


def naive_dense(values, kernel, bias):
    columns = zip(*kernel.tolist(), strict=True)
    return [
        sum(v * w for v, w in zip(values, column, strict=True)) + float(b)
        for column, b in zip(columns, bias, strict=True)
    ]


x = layers["cat"]["blocks_5/depthwise_act"]
n, h, w, c = x.shape
values = x[0].reshape(h * w, c).T.tolist()
means = [sum(channel) / len(channel) for channel in values]
weights = {
    name: model.tensors[f"blocks_5/{name}"]
    for name in ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
}
narrow = naive_dense(means, weights["se_reduce/kernel"][0, 0], weights["se_reduce/bias"])
narrow = [naive_swish(value) for value in narrow]
wide = naive_dense(narrow, weights["se_expand/kernel"][0, 0], weights["se_expand/bias"])
naive_gates = np.array([1 / (1 + math.exp(-value)) for value in wide])
ours = squeeze_excite(x, *weights.values())
print("gates within 1e-5:   ", bool(np.abs(naive_gates - gates["cat"]["blocks_5"]).max() < 1e-5))
print("products within 1e-5:", bool(np.abs(ours - x * naive_gates).max() < 1e-5))

# %%
cases = kernel_cases()
operations = {
    "swish": swish,
    "sigmoid": sigmoid,
    "squeeze_excite_swish": squeeze_excite,
    "squeeze_excite_relu": lambda *arrays: squeeze_excite(*arrays, relu),
}
agree = []
with np.load(RECORDED) as recorded:
    for name, case in cases.items():
        if case.operation in operations:
            answer_ = operations[case.operation](*case.arrays)
            theirs = recorded[name]
            agree.append(np.abs(answer_ - theirs).max() <= 1e-6 * np.abs(theirs).max())
print(f"activations and gates that agree with TensorFlow: {sum(agree)} of {len(agree)}")

# %% [markdown]
# ## Exercise
#
# Suppose all weights and biases of a squeeze-and-excite are zero, as if it had not been trained.
# By which factor does it multiply every channel?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
shapes = (1, 1, 8, 2), (2,), (1, 1, 2, 8), (8,)
ones = np.ones((1, 4, 4, 8), np.float32)
untrained = squeeze_excite(ones, *(np.zeros(shape, np.float32) for shape in shapes))
check(answer, float(untrained.mean()), hint="what is the sigmoid of 0?")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = 1 / (1 + math.exp(0))
# ```
#
# Not 1, and not 0: an untrained gate is half open. Look again at the dots: the early blocks' gates
# lie around this value.
# </details>
#
# Next: you know all the parts. How is a network put together from them? [06: block
# strings](06_reading_block_strings.ipynb)
