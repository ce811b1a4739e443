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
# # Which layer of a port is wrong, and why?
#
# Somebody has written MixNet again, in another framework. It runs, all shapes are right, and the
# answers are a little off. Ten numbers at the end cannot say where a network of hundreds of layers
# went wrong; the layers can. In this notebook you plant a mistake yourself, the one that PyTorch
# suggests to everybody who ports MixNet, and then find it as if you did not know: first the layer,
# then its name. On the way you learn to tell a mistake from rounding, which every correct port has
# as well.
#
# Before this: [01](01_same_padding.ipynb), for TensorFlow's SAME padding, and
# [07](07_one_block_by_hand.ipynb), for what is in a block.

# %%
import inspect
import tempfile
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import COLOURS, draw_bars, draw_map, panels

import tinymixnet
from tinymixnet.debug import traces
from tinymixnet.debug.compare import compare, isolated
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.measure import measure
from tinymixnet.debug.tables import table
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import conv2d, mix_conv, relu
from tinymixnet.engine.network import forward

# %% [markdown]
# ## The mistake, by hand
#
# A 3 x 3 kernel with stride 2 on a side of four pixels needs one zero of padding. TensorFlow puts
# it *behind* the data. PyTorch's `padding=1` puts one on each side, and its last window never
# reaches the second. A kernel that is 1 in the middle and 0 elsewhere shows which pixels the two
# look at.

# %%
toy = (10 * np.arange(4)[:, None] + np.arange(4)).astype(np.float32)[None, :, :, None]
middle = np.zeros((3, 3, 1, 1), np.float32)
middle[1, 1] = 1


def like_pytorch(convolution, x, kernel):
    """Stride 2 on symmetric padding: every second output of stride 1 (kernels of odd size)."""
    return convolution(x, kernel, 1)[:, ::2, ::2]


ours, theirs = conv2d(toy, middle, 2), like_pytorch(conv2d, toy, middle)
_, axes = panels(1, 3, 3.4)
limits = (0, 33)
draw_map(axes[0, 0], toy[0, :, :, 0], "input: row, column", None, limits=limits, numbers="02.0f")
draw_map(axes[0, 1], ours[0, :, :, 0], "TensorFlow's SAME", None, limits=limits, numbers="02.0f")
_ = draw_map(axes[0, 2], theirs[0, :, :, 0], "symmetric", None, limits=limits, numbers="02.0f")

# %% [markdown]
# One looks at odd rows and columns, the other at even ones: every feature moves by a pixel.
# Nothing crashes, because the shapes are the same. `like_pytorch` borrows the package's kernel:
# with stride 1 the padding of a kernel of odd size is symmetric, as
# [01](01_same_padding.ipynb) says. A loop over the definition of symmetric padding confirms it for
# all kernel sizes.

# %%
rng = np.random.default_rng(8)
for size in (3, 5, 7, 9):
    x = rng.normal(size=(1, 10, 8, 1)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, 1)).astype(np.float32)
    slow = np.zeros((5, 4))
    for r, c, i, j in np.ndindex(5, 4, size, size):
        row, column = 2 * r + i - size // 2, 2 * c + j - size // 2
        if 0 <= row < 10 and 0 <= column < 8:
            slow[r, c] += float(x[0, row, column, 0]) * float(kernel[i, j, 0, 0])
    assert np.abs(like_pytorch(conv2d, x, kernel)[0, :, :, 0] - slow).max() < 1e-4
    assert np.abs(conv2d(x, kernel, 2)[0, :, :, 0] - slow).max() > 0.1
print("symmetric padding it is")

# %% [markdown]
# ## Planting it in the network
#
# The package's forward pass shows every layer and takes back the tensor to go on with:

# %%
Code(inspect.getsource(forward), language="python")

# %% [markdown]
# So a port with a mistake needs no second network. Where a layer is to be wrong, we send something
# else.

# %%
model = tinymixnet.load()
pixels = model.pixels(Path(tinymixnet.__file__).parent / "data" / "cat.jpg")
with_stride = [f"{b.name}/depthwise_conv" for b in model.architecture.blocks if b.stride == 2]


def port(mistakes, tensors=None, dtype=np.float32):
    """The layers of a port: mistakes has a function (input, tensor) for each wrong layer."""
    tensors = {name: t.astype(dtype) for name, t in (tensors or model.tensors).items()}
    steps = forward(pixels.astype(dtype), model.architecture, tensors, model.metadata)
    name, tensor = next(steps)
    while True:
        yield name, tensor
        before = tensor
        try:
            name, tensor = steps.send(tensor)
        except StopIteration:
            return
        if name in mistakes:
            tensor = mistakes[name](before, tensor)


def shifted(name):
    """The stem's convolution or a block's depthwise one, padded like PyTorch."""
    if name == "stem/conv":
        return lambda x, _: like_pytorch(conv2d, x, model.tensors["stem/conv/kernel"])
    return lambda x, _: like_pytorch(mix_conv, x, group_kernels(name, model.tensors))


padding = {name: shifted(name) for name in ["stem/conv", *with_stride]}
right, wrong = dict(model.layers(pixels)), dict(port(padding))
assert all(np.array_equal(tensor, right[name]) for name, tensor in port({}))
print("layers with the mistake:", ", ".join(padding))

_, axes = panels(1, 2, 3.8, sharex=True, sharey=True)
for axis, layers, title in zip(axes[0], (right, wrong), ("the package", "the port"), strict=True):
    percent = 100 * layers["probabilities"][0]
    draw_bars(axis, model.labels, percent, "probability in %", title, strong=[percent.argmax()])
axes[0, 0].invert_yaxis()  # each draw_bars turned the shared axis once

# %% [markdown]
# Still a cat, so a quick test would pass; only less sure of it. What does the first wrong layer
# look like?

# %%
channel = int(np.abs(wrong["stem/conv"] - right["stem/conv"])[0].mean(axis=(0, 1)).argmax())
a, b = (layers["stem/conv"][0, :, :, channel] for layers in (right, wrong))
largest = max(np.abs(a).max(), np.abs(b).max(), np.abs(a - b).max())
figure, axes = panels(1, 3, 3.6)
titles = "SAME", "symmetric", "difference"
for axis, values, title in zip(axes[0], (a, b, a - b), titles, strict=True):
    draw_map(axis, values, f"{title}, channel {channel}", None, True, limits=(-largest, largest))
    axis.label_outer()
_ = figure.colorbar(axes[0, 0].images[0], ax=axes, label="value of stem/conv", shrink=0.9)

# %% [markdown]
# Two pictures that look alike to us, and a difference wherever there is an edge, for edges have
# moved.
#
# ## Recording both
#
# A *trace* is a folder with one `.npy` a layer. Ours comes with a manifest; the port's is a dump
# as anybody can write one in any framework.

# %%
temporary = tempfile.TemporaryDirectory(prefix="notebook-")  # gone when the kernel ends
here = Path(temporary.name)
count = traces.record(model, pixels, here / "ours", image_name="cat.jpg")
traces.write_dump(here / "port", wrong.items(), made_by="a port with a mistake")
some = sorted(path.name for path in (here / "ours" / "blocks_3").iterdir())
print(f"{count} layers; of block 3: {', '.join(some[:4])} ...")

trace = traces.open_trace(here / "ours")
print("first layers:", trace.names[:4])
assert np.array_equal(trace["blocks_3/output"], right["blocks_3/output"])

# %% [markdown]
# ## The first layer that differs
#
# `compare` goes through both, layer by layer. Its error is the largest difference divided by the
# largest value of the layer. It needs nothing but the two recordings.

# %%
n, h, w, _ = pixels.shape
dump = open_dump(here / "port", model.architecture, n, h, w)
comparison = compare(((name, trace[name]) for name in trace.names), dump)
print(f"first layer past the tolerance of {comparison.tolerance:g}: {comparison.first}")
assert comparison.first == "stem/conv"

# %% tags=["rounding"]
lines = table(comparison).splitlines()
header = next(i for i, line in enumerate(lines) if line.startswith("layer "))
print("\n".join(lines[header : header + 11]))

# %% [markdown]
# That names the *first* wrong layer. All layers after it are wrong too, by what they inherit, and
# whether one of them has a mistake of its own cannot be seen. So `isolated` feeds each of our
# layers the *port's* input. What is then left is the error that the layer adds by itself.

# %%
Code(inspect.getsource(isolated), language="python")

# %%
alone = isolated(model, pixels, dump)
guilty = [row.layer for row in alone.rows if row.guilty]
print("layers that add an error of their own:", ", ".join(guilty))
assert guilty == list(padding)

inherited = np.array([row.error for row in alone.rows])
added = np.array([row.added for row in alone.rows])
floor = 1e-8  # equal layers have error 0, which has no logarithm
figure, axes = panels(1, 1, 4.4)
axis = axes[0, 0]
axis.plot(np.maximum(inherited, floor), color=COLOURS[0], label="inherited and added")
axis.plot(np.maximum(added, floor), ".", color=COLOURS[1], label="added by the layer itself")
axis.axhline(alone.tolerance, color="gray", linestyle=":", label="tolerance")
for i, row in enumerate(alone.rows):
    if row.guilty:
        name = row.layer.split("/")[0].replace("blocks_", "block ")
        axis.plot(i, row.added, "o", color=COLOURS[1], markersize=10)
        place = {"ha": "center", "va": "top", "rotation": 90}
        axis.annotate(name, (i, row.added), (9, -9), textcoords="offset points", **place)
axis.set(xlabel="layer, in the network's order", ylabel="largest difference / largest value")
axis.set(yscale="log", ylim=(floor / 3, 30), title="One bad layer makes all the rest look bad")
_ = axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.12))

# %% [markdown]
# The blue line says that something is wrong from the beginning; the orange dots say where. All of
# them lie at the bottom but for one layer at each halving of the resolution. (At the bottom means
# exactly zero here, for this port borrows our kernels; with a framework of its own there would be
# rounding.)
#
# ## The name of the mistake
#
# What do the guilty layers have in common? Stride 2, which makes padding a suspect. `diagnose`
# asks the same for a whole list of known mistakes: it makes each mistake itself, on the port's own
# input, and looks which one gives the port's output.

# %% tags=["rounding"]
diagnosis = diagnose(model, pixels, dump)
print(diagnosis.text())

# %%
print(diagnosis.slugs, "at", len(diagnosis.causes[0].places), "layers")
assert diagnosis.slugs == ["symmetric-padding"]
assert set(diagnosis.causes[0].places) == set(padding)

# %% [markdown]
# And after the repair?

# %%
traces.write_dump(here / "repaired", port({}), made_by="the port, repaired")
repaired = open_dump(here / "repaired", model.architecture, n, h, w)
print("alike:", compare(model.layers(pixels), repaired).alike)
print("causes:", diagnose(model, pixels, repaired).slugs)

# %% [markdown]
# ## Mistake or rounding?
#
# No two libraries add in the same order, so no two agree in every bit: each layer rounds its
# float32 numbers a little differently. How large may an error be before it is a mistake? Run the
# network once in float64, whose rounding is far smaller, and look how the error of float32 grows
# from layer to layer. Beside it three mistakes: the padding, in the stem alone; the padding, in
# the last place alone; and the mildest we can think of, PyTorch's usual epsilon of 1e-5 in a
# single batch norm, where MixNet has 1e-3.


# %%
def with_epsilon(name, epsilon):
    """A batch norm with another epsilon: the same as another variance."""
    tensors = dict(model.tensors)
    variance = f"{name}/moving_variance"
    tensors[variance] = tensors[variance] + np.float32(epsilon - model.metadata.epsilon)
    return tensors


def errors(layers, reference):
    """The error of each layer, as `compare` measures it."""
    return [measure(name, reference[name], tensor, 0).error for name, tensor in layers]


exact = dict(port({}, dtype=np.float64))
last = with_stride[-1]
runs = {
    "float32 rounding": port({}),
    "padding in the stem": port({"stem/conv": padding["stem/conv"]}),
    f"padding in {last.split('/')[0]}": port({last: padding[last]}),
    "epsilon in blocks_4": port({}, with_epsilon("blocks_4/expand_bn", 1e-5)),
}
curves = {what: np.array(errors(layers, exact)) for what, layers in runs.items()}

figure, axes = panels(1, 1, 4.6)
axis = axes[0, 0]
for (what, values), style in zip(curves.items(), ("-", "-", "--", "-."), strict=True):
    axis.plot(np.maximum(values, floor), style, label=what)
axis.axhline(1e-4, color="gray", linestyle=":", label="tolerance")
axis.set(xlabel="layer, in the network's order", ylabel="largest difference / largest value")
axis.set(yscale="log", ylim=(floor / 2, 30), title="Rounding stays low, a mistake jumps")
_ = figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside right center")

# %% tags=["rounding"]
for what, values in curves.items():
    print(f"{what:22} worst layer {values.max():.1e}, probabilities {values[-1]:.1e}")
first, rest = curves["float32 rounding"][:3], curves["float32 rounding"][3:]
print(f"rounding: {first.max():.1e} at first, then from {rest.min():.1e} to {rest.max():.1e}")

# %%
rounding = curves["float32 rounding"]
assert rounding.max() < 1e-5
for what, values in curves.items():
    if what != "float32 rounding":
        assert values.max() > 1e-4
        jump = int(np.argmax(values > 1e-4))
        assert values[:jump].max() < 1e-5
        print(f"{what:24} first past 1e-4 at {list(exact)[jump]}")

# %% [markdown]
# Three things to read off the picture:
#
# - Rounding enters at every layer, and yet it hardly grows: batch norm brings each layer back to
#   the same scale, and errors of random sign cancel. From the first convolution to the last layer
#   it stays in one band.
# - A mistake does not grow out of that band. It *jumps* out of it, within one layer, by orders of
#   magnitude. That is why a tolerance between the two works, and why its exact value matters
#   little.
# - After the jump it stays. Later layers neither repair a mistake nor make it much worse, so the
#   error at the end says nothing about where.

# %% [markdown]
# ## Exercise
#
# Here is another port, with one mistake in one layer: its activation is ReLU where it should be
# swish. The layer is drawn by lot, so reading the code does not help. Which one is it? Give its
# name.

# %%
swish_layers = [
    f"{block.name}/{part}"
    for block in model.architecture.blocks
    if block.swish
    for part in ("expand_act", "depthwise_act", "se_act")
]
lot = swish_layers[np.random.default_rng(2024).integers(len(swish_layers))]
traces.write_dump(here / "other", port({lot: lambda x, _: relu(x)}), made_by="another port")
other = open_dump(here / "other", model.architecture, n, h, w)

# %% tags=["exercise"]
answer = None  # "blocks_3/expand_act", for example

# %% jupyter={"source_hidden": true} tags=["check"]
check(answer, lot, hint="compare and isolated both know; diagnose would even tell the name")

# %% [markdown]
# <details><summary>Answer</summary>
#
# One mistake only, so the first layer that differs is the guilty one:
#
# ```python
# answer = compare(model.layers(pixels), other).first
# ```
#
# With several mistakes you would need `isolated(model, pixels, other)` and its `guilty` rows; and
# `diagnose(model, pixels, other)` names the mistake as well.
#
# </details>

# %% [markdown]
# On the command line all of this is three commands: `tinymixnet trace IMAGE -o DIR`, `tinymixnet
# compare DIR OTHER` and `tinymixnet diagnose IMAGE OTHER`.
#
# Next: [09, where the time goes](09_where_the_time_goes.ipynb): the same numbers, faster.
