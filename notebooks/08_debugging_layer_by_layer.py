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
# Somebody has written MixNet again, in another framework. It runs, all shapes are right, but the
# answers are not ours. The numbers at the end cannot say where a network of hundreds of layers
# went wrong, but the layers can. In this notebook you plant a mistake yourself, one that PyTorch
# makes easy, and then find it as if you did not know about it: first the layer, then the name of
# the mistake.
#
# Read before: [03](03_same_padding.ipynb), for TensorFlow's SAME padding,
# [04](04_batch_norm.ipynb), for rounding, and [07](07_one_block_by_hand.ipynb), for what is in a
# block.

# %%
from start import *

# %% [markdown]
# The whole notebook in one drawing. Run both networks and compare them layer by layer: that names
# the *first* wrong layer. All layers after it are wrong, too, but they may have inherited that. So
# run ours once more and feed each layer with what the *port* had there. Now a layer differs only
# if it adds an error of its own.

# %%
pictures.show_compare_and_isolated()

# %% [markdown]
# ## The mistake, by hand
#
# A 3 x 3 kernel with stride 2 on a side of four pixels needs one zero of padding. TensorFlow puts
# it *behind* the data. PyTorch's `padding=1` puts one on each side, and its last window never
# reaches the second. A kernel that is 1 in the middle and 0 elsewhere shows which pixels the two
# look at.

# %%
from tinymixnet.engine.kernels import conv2d

toy = (10 * np.arange(4)[:, None] + np.arange(4)).astype(np.float32)[None, :, :, None]
middle = np.zeros((3, 3, 1, 1), np.float32)
middle[1, 1] = 1


def like_pytorch(convolution, x, kernel):
    """Stride 2 on symmetric padding: every second output of stride 1 (kernels of odd size)."""
    return convolution(x, kernel, 1)[:, ::2, ::2]


maps = [x[0, :, :, 0] for x in (toy, conv2d(toy, middle, 2), like_pytorch(conv2d, toy, middle))]
titles = "input: row, column", "TensorFlow's SAME", "symmetric"
pictures.show_maps(maps, titles, "value of the pixel", numbers="02.0f")

# %% [markdown]
# One looks at odd rows and columns, the other at even ones: every feature moves by a pixel.
# Nothing crashes, because the shapes are the same. `like_pytorch` borrows the package's kernel:
# with stride 1 the padding of a kernel of odd size is symmetric, as
# [03](03_same_padding.ipynb) says. A loop over the definition of symmetric padding confirms it for
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
print("like_pytorch pads symmetrically; the package's kernel does not")

# %% [markdown]
# ## Planting it in the network
#
# The package's `forward` hands out every layer, and takes back the tensor to go on with:

# %%
from tinymixnet.engine.network import forward

show(forward)

# %% [markdown]
# So a port with a mistake needs no second network. Where a layer is to be wrong, we send something
# else.

# %%
pixels = model.pixels(CAT)


# %%
def port(mistakes):
    """Yield the layers of a port; mistakes: {name of a layer: function (input, output)}."""
    steps = forward(pixels, model.architecture, model.tensors, model.metadata)
    name, tensor = next(steps)
    while True:
        yield name, tensor
        before = tensor  # the input of the next layer
        try:
            name, tensor = steps.send(before)
        except StopIteration:
            return
        if name in mistakes:
            tensor = mistakes[name](before, tensor)


# %% [markdown]
# The mistake goes into each layer with stride 2: the stem's convolution and some depthwise ones.

# %%
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import mix_conv


def shifted(name):
    """The stem's convolution or a block's depthwise one, padded like PyTorch."""
    if name == "stem/conv":
        return lambda x, _: like_pytorch(conv2d, x, model.tensors["stem/conv/kernel"])
    return lambda x, _: like_pytorch(mix_conv, x, group_kernels(name, model.tensors))


# %%
halving = [
    f"{block.name}/depthwise_conv" for block in model.architecture.blocks if block.stride == 2
]
padding = {name: shifted(name) for name in ["stem/conv", *halving]}
right, wrong = dict(model.layers(pixels)), dict(port(padding))
assert all(np.array_equal(tensor, right[name]) for name, tensor in port({}))
print("layers with the mistake:", ", ".join(padding))

# %% [markdown]
# How much do the answers tell? These are the best classes of both.

# %%
answers = {"the package": right["probabilities"][0], "the port": wrong["probabilities"][0]}
best = [c for values in answers.values() for c in np.argsort(-values)[:5]]
best = list(dict.fromkeys(best))  # each class once, in order
percents = {name: 100 * values[best] for name, values in answers.items()}
pictures.show_answers([model.labels[c] for c in best], percents)

# %% [markdown]
# The answers have moved. On another photo the first word may still be right, and then a quick test
# passes. Right or wrong, the answers do not say why. What does the first wrong layer look like?

# %%
a, b = right["stem/conv"][0], wrong["stem/conv"][0]
channel = int(np.abs(a - b).mean(axis=(0, 1)).argmax())
maps = [values[:, :, channel] for values in (a, b, a - b)]
titles = [f"{what}, channel {channel}" for what in ("SAME", "symmetric", "difference")]
pictures.show_maps(maps, titles, "value of stem/conv", signs=True)

# %% [markdown]
# Two pictures that look alike to us, and a difference wherever there is an edge, because edges
# have moved.
#
# ## Recording both
#
# A *trace* is a folder with one `.npy` for each layer. Ours comes with a manifest; the port's is a
# dump that anybody can write in any framework.

# %%
import tempfile
from pathlib import Path

from tinymixnet.debug import traces

temporary = tempfile.TemporaryDirectory(prefix="notebook-")  # gone when the kernel ends
here = Path(temporary.name)
count = traces.record(model, pixels, here / "ours", image_name="cat.jpg")
traces.write_dump(here / "port", wrong.items(), made_by="a port with a mistake")
files = sorted(path.name for path in (here / "ours" / "blocks_3").iterdir())
print(f"{count} layers; of block 3: {', '.join(files[:4])} ...")

trace = traces.open_trace(here / "ours")
print("first layers:", trace.names[:4])
assert np.array_equal(trace["blocks_3/output"], right["blocks_3/output"])

# %% [markdown]
# ## The first layer that differs
#
# `compare` goes through both, layer by layer. Its error is the largest difference divided by the
# largest value of the layer. It needs nothing but the two recordings.

# %%
from tinymixnet.debug.compare import compare
from tinymixnet.debug.dumps import open_dump


def opened(folder):
    """A dump in our temporary folder, with the names of our layers."""
    return open_dump(here / folder, model.architecture, *pixels.shape[:3])


comparison = compare(((name, trace[name]) for name in trace.names), opened("port"))
print(f"first layer past the tolerance of {comparison.tolerance:g}: {comparison.first}")
assert comparison.first == "stem/conv"

# %% tags=["rounding"]
from tinymixnet.debug.tables import table

lines = table(comparison).splitlines()
header = next(i for i, line in enumerate(lines) if line.startswith("layer "))
print("\n".join(lines[header : header + 11]))

# %% [markdown]
# ## The layers that add an error
#
# That was the upper half of the drawing. Now the lower half: `isolated` feeds each of our layers
# with the port's input and compares what comes out.

# %%
from tinymixnet.debug.compare import isolated

show(isolated)

# %%
alone = isolated(model, pixels, opened("port"))
guilty = [row.layer for row in alone.rows if row.guilty]
print("layers that add an error of their own:", ", ".join(guilty))
assert guilty == list(padding)

# %%
pictures.show_inherited_and_added(alone)

# %% [markdown]
# The blue line says that something is wrong from the beginning; the orange dots say where. All of
# them lie at the bottom but for one layer at each halving of the resolution. (At the bottom means
# exactly zero here, because this port borrows our kernels. With a framework of its own there would
# be rounding.)
#
# ## The name of the mistake
#
# What do the guilty layers have in common? Stride 2, which makes padding a suspect. `diagnose`
# asks the same for a whole list of known mistakes: it makes each mistake itself, on the port's own
# input, and looks which one gives the port's output.

# %% tags=["rounding"]
from tinymixnet.debug.diagnose import diagnose

diagnosis = diagnose(model, pixels, opened("port"))
print(diagnosis.text())

# %%
print(diagnosis.slugs, "at", len(diagnosis.causes[0].places), "layers")
assert diagnosis.slugs == ["symmetric-padding"]
assert set(diagnosis.causes[0].places) == set(padding)

# %% [markdown]
# And after the repair?

# %%
traces.write_dump(here / "repaired", port({}), made_by="the port, repaired")
print("alike:", compare(model.layers(pixels), opened("repaired")).alike)
print("causes:", diagnose(model, pixels, opened("repaired")).slugs)

# %% [markdown]
# ## Mistake or rounding?
#
# No two libraries add in the same order, so no two agree in every bit: each layer rounds its
# float32 numbers a little differently. How large may an error be before it is a mistake? Run the
# network once in float64, whose rounding is far smaller, and look how the error of float32 goes
# from layer to layer. Beside it are three mistakes: the padding in the stem alone; the padding in
# the last place alone; and a mild one, PyTorch's usual epsilon of 1e-5 in a single batch norm,
# where MixNet has 1e-3.

# %%
from tinymixnet.debug.measure import measure
from tinymixnet.engine.kernels import batch_norm
from tinymixnet.engine.network import statistics

exact_tensors = {name: tensor.astype(np.float64) for name, tensor in model.tensors.items()}
exact_pixels = pixels.astype(np.float64)
exact = dict(forward(exact_pixels, model.architecture, exact_tensors, model.metadata))

# %%
last, normed = halving[-1], "blocks_4/expand_bn"
other_epsilon = {normed: lambda x, _: batch_norm(x, *statistics(normed, model.tensors), 1e-5)}
curves = {}
for what, mistakes in {
    "float32 rounding": {},
    "padding in the stem": {"stem/conv": padding["stem/conv"]},
    f"padding in {last.split('/')[0]}": {last: padding[last]},
    "epsilon in blocks_4": other_epsilon,
}.items():
    errors = [measure(name, exact[name], y, 0).error for name, y in port(mistakes)]
    curves[what] = np.array(errors)

# %%
pictures.show_errors_by_layer(curves, tolerance=1e-4)

# %% tags=["rounding"]
for what, values in curves.items():
    print(f"{what:22} worst layer {values.max():.1e}, probabilities {values[-1]:.1e}")

# %%
for what, values in curves.items():
    past = np.flatnonzero(values > 1e-4)
    first = list(exact)[past[0]] if len(past) else "nowhere"
    before = values[: past[0]] if len(past) else values
    assert before.max() < 1e-5
    print(f"{what:24} first past 1e-4: {first}")

# %% [markdown]
# Three things to read off the picture:
#
# - Rounding enters at every layer, and yet it does not add up to much: each batch norm brings the
#   numbers back to the same scale, and errors of random sign partly cancel. From the first
#   convolution to the last layer it stays far below the tolerance.
# - A mistake does not grow out of that band. It *jumps* out of it, within one layer. That is why a
#   tolerance between the two works, and why its exact value matters little.
# - After the jump it stays. Later layers do not repair a mistake, so the error at the end says
#   nothing about where it came from.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# Now somebody else plants the mistake: the game of `tinymixnet break`. It draws one from the
# catalogue of `diagnose`, makes it in one layer of the network, and writes down what all layers
# give then. It does not tell what it has drawn, and it draws another one each time this cell runs.
# Only the dump `opened("puzzle")` can tell. What is the mistake called? The names are those of
# [porting mistakes](../docs/porting_mistakes.md).

# %%
from tinymixnet.debug.exercise import judge, make_exercise

secret = int(np.random.default_rng().integers(1_000_000))
game = make_exercise(model, pixels, here / "puzzle", secret, level=2, photo=CAT)
print(f"{game.mistakes} mistake, {game.layers} layers")

# %% tags=["exercise"]
answer = None  # "bgr", for example

# %% jupyter={"source_hidden": true} tags=["check"]
from tinymixnet.errors import InputError

hint = "which layer adds an error, what does it compute, and what do its values look like?"
try:
    found = answer is not None and judge(here / "puzzle", answer).right
except InputError as error:  # no mistake has this name
    found, hint = False, str(error)
check(answer, answer if found else "the name of another mistake", hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# `isolated(model, pixels, opened("puzzle"))` has one guilty row, which says where. What it is
# called, one can guess from the kind of the layer and from its maps, with `pictures.show_maps` as
# above. Or one asks:
#
# ```python
# answer = ",".join(diagnose(model, pixels, opened("puzzle"), photo=CAT).slugs)
# ```
#
# `make_exercise` takes five levels. At the last one there are three mistakes, in a dump that looks
# as if it came from PyTorch and lacks many layers.
#
# </details>

# %% [markdown]
# ### Exercise 2
#
# Somebody has tested the port with symmetric padding on photos of 129 x 129 pixels, and all its
# layers agreed with the package's. That is no accident. When the side of a layer's input is odd,
# TensorFlow's padding is symmetric as well. The five layers with stride 2 get sides of 129, 65,
# 33, 17 and 9 pixels (each is half of the one before, rounded up). Which other sides from 100 to
# 200 would hide the mistake? Give all of them, with 129, as a set.

# %% tags=["exercise"]
answer = None  # {129, ...}

# %% jupyter={"source_hidden": true} tags=["check"]
from tinymixnet.engine.kernels import same_padding


def is_hidden(side):
    for _ in padding:
        before, after = same_padding(side, 3, 2)
        if before != after:
            return False
        side = (side + 1) // 2
    return True


hint = "odd five times: the side less one must be divisible by 2, and what is left again, ..."
check(answer, {side for side in range(100, 201) if is_hidden(side)}, hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# An odd side is 2 n + 1, and half of it, rounded up, is n + 1. For that to be odd, n must be even,
# and so on: five times means that the side less one is divisible by 2 to the power of 5.
#
# ```python
# answer = {side for side in range(100, 201) if (side - 1) % 32 == 0}
# ```
#
# So test a port at the size at which it will be used.
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# Now two layers have ReLU where swish should be, both drawn at random, and the second one hides
# behind the first. Write `isolated` yourself: a function that takes the port's layers, a dictionary
# from name to tensor, and returns the list of all names whose layers add an error larger than 1e-4
# of their own. You need `forward`, which takes a tensor by `send` (see `port` above), and
# `measure(name, ours, theirs, 0).error`.

# %%
from tinymixnet.engine.kernels import relu

swish_layers = [
    f"{block.name}/{part}_act"
    for block in model.architecture.blocks
    if block.swish
    for part in ("expand", "depthwise", "se")
]
drawn_two = sorted(np.random.default_rng().choice(len(swish_layers), 2, replace=False))
two = [swish_layers[i] for i in drawn_two]
theirs = dict(port({name: lambda x, _: relu(x) for name in two}))

# %% tags=["exercise"]
answer = None  # your function

# %% jupyter={"source_hidden": true} tags=["check"]
hint = "send the port's tensor, whatever ours was; then the next layer starts from it"
check(answer and (lambda layers: list(answer(layers)) == two), True, hint, given=(theirs,))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def own_errors(theirs):
#     names, steps = [], forward(pixels, model.architecture, model.tensors, model.metadata)
#     name, ours = next(steps)
#     while True:
#         if measure(name, ours, theirs[name], 0).error > 1e-4:
#             names.append(name)
#         try:
#             name, ours = steps.send(theirs[name])
#         except StopIteration:
#             return names
#
#
# answer = own_errors
# ```
#
# </details>

# %% [markdown]
# On the command line all of this is three commands: `tinymixnet trace IMAGE -o DIR`, `tinymixnet
# compare DIR OTHER` and `tinymixnet diagnose IMAGE OTHER`. And the game is a fourth: `tinymixnet
# break -o OTHER`, then `tinymixnet break --answer OTHER NAME`.
#
# Next: [09, where the time goes](09_where_the_time_goes.ipynb): the same numbers, faster.
