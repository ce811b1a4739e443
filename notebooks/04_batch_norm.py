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
# # Where does batch norm go, and where does rounding come in?
#
# Two questions with one answer: the same mathematics can be computed in different ways, and then
# the last digits differ. Batch norm is the best example. In the readable network it is a layer of
# its own. In the fast one it has vanished, *folded* into the convolution before it, and the
# answers are equal, though not to the last bit. We fold it, and then follow the last bits through
# the network.
#
# You need: [02](02_convolution_as_im2col.ipynb).

# %%
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import draw_lines, panels, show_lines
from recorded import RECORDED, SMALL, kernel_cases, small_image, small_tensors

import tinymixnet
from tinymixnet.engine.kernels import batch_norm, conv2d, fold_batch_norm, normalize
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward, statistics

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
pixels = model.pixels(PHOTO)

# %% [markdown]
# ## By hand: one channel
#
# In training, batch norm watches the values of a channel and remembers their mean and variance.
# Later it uses what it remembers: subtract the mean, divide by the deviation, then apply a scale
# gamma and a shift beta, which were learned. A small number, epsilon, keeps the division from
# failing when a channel never varied.

# %%
weight, value = 2.0, 5.0  # a convolution of one weight, and one value
mean, variance, gamma, beta, epsilon = 4.0, 8.999, 6.0, 1.0, 0.001

y = weight * value
deviation = (variance + epsilon) ** 0.5
print(f"convolution: {weight} * {value} = {y}")
print(f"batch norm:  ({y} - {mean}) / {deviation} * {gamma} + {beta} =", end=" ")
print((y - mean) / deviation * gamma + beta)

# %% [markdown]
# Everything but the value is known before the photo comes. Multiply out: the value is multiplied
# by weight * gamma / deviation, and the rest does not depend on it. That is a convolution again,
# with another weight, and with a bias:

# %%
scale = gamma / deviation
folded_weight, bias = weight * scale, beta - mean * scale
print(f"folded: weight {folded_weight}, bias {bias}")
print(f"        {folded_weight} * {value} + {bias} = {folded_weight * value + bias}")

# %% [markdown]
# ## The package's functions

# %%
Code(inspect.getsource(batch_norm), language="python")

# %%
Code(inspect.getsource(fold_batch_norm), language="python")

# %% [markdown]
# On the photo, with the stem's own numbers:

# %%
x = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]
norm = statistics("stem/bn", model.tensors)
epsilon = model.metadata.epsilon

apart = batch_norm(conv2d(x, kernel, stride=2), *norm, epsilon)
folded, bias = fold_batch_norm(kernel, *norm, epsilon)
together = conv2d(x, folded, stride=2, bias=bias)
difference = np.abs(apart - together).max()
print("values:", apart.size, " equal to 1e-4:", bool(difference < 1e-4))
print("the same bits everywhere:", np.array_equal(apart, together))

# %% [markdown]
# Equal, but not the same bits. What the folding did to the kernels: each filter was stretched by a
# scale of its own.

# %%
scales = norm.gamma / np.sqrt(norm.variance + epsilon)
order = np.argsort(-scales)
show_lines(
    np.arange(len(scales)),
    {"gamma / deviation": scales[order], "bias": bias[order]},
    "filters of the stem, by scale",
    "value",
    "what batch norm adds to each filter",
    marker="o",
)

# %% [markdown]
# ## Epsilon: a number that libraries disagree on
#
# MixNet was trained with an epsilon of 0.001. PyTorch's batch norm uses 0.00001 unless told
# otherwise, which is easy to forget when you bring the weights to PyTorch. The difference matters
# where a variance is small itself. Here is the same network with either, and how many variances
# are smaller than MixNet's epsilon:

# %%
variances = [v for name, v in model.tensors.items() if name.endswith("moving_variance")]
small = sum(int((v < 1e-3).sum()) for v in variances)
print(f"{small:,} of {sum(v.size for v in variances):,} variances are below 0.001")
for value in (1e-3, 1e-5):
    settings = replace(model.metadata, epsilon=value)
    answers = dict(forward(pixels, model.architecture, model.tensors, settings))["probabilities"][0]
    best = np.argsort(-answers)[:3]
    print(f"epsilon {value:g}:", *(f"{model.labels[i]} {100 * answers[i]:.2f} %," for i in best))

# %% [markdown]
# ## Where rounding comes in
#
# A float32 keeps 24 binary digits. After every multiplication and every addition the result is
# rounded to the nearest such number, which is off by at most one part in 2 to the 24. So the
# *order* of a sum matters, although on paper it does not. A sum of three:

# %%
big, one = np.float32(2**24), np.float32(1)
print("(big + 1) + 1 =", int((big + one) + one))
print("big + (1 + 1) =", int(big + (one + one)))
print("one rounding is at most", f"{2.0**-24:.2e}", "of the value")

# %% [markdown]
# Now the sum behind one of the network's logits, in five orders. A loop takes the products as they
# come. A matrix product keeps several sums at once and adds those up in the end; how many depends
# on the processor. `np.sum` cuts the row into halves again and again. The truth is the sum in
# float64.

# %% tags=["rounding"]
layers = dict(model.layers(pixels))
dog = model.labels.index("dog")
products = layers["head/pool"][0] * model.tensors["logits/kernel"][:, dog]
true = float(products.sum(dtype=np.float64))
loop, back, ascending = np.float32(0), np.float32(0), np.float32(0)
for product in products:
    loop += product
for product in products[::-1]:
    back += product
for product in sorted(products, key=abs):
    ascending += product
lanes = products[: len(products) // 8 * 8].reshape(-1, 8).sum(axis=0).sum()
sums = {
    "first to last": loop,
    "last to first": back,
    "smallest first": ascending,
    "eight sums at once": lanes,
    "np.sum": products.sum(),
}
print(f"{len(products)} products, {'summed in float64':21} {true:.9f}")
for name, result in sums.items():
    print(f"{name:36} {result:.9f}   off by {abs(float(result) - true) / abs(true):.1e} of it")

# %% [markdown]
# None is *wrong*: each is one of several roundings of the same number. TensorFlow, PyTorch and
# NumPy each have their own order, sometimes a different one for each processor and each number of
# threads. This is why a comparison of two networks needs a tolerance, and why the tolerance should
# be small: a bug is seldom as small as rounding.
#
# ## How it grows, layer by layer
#
# The package's kernels compute in the type they are given. So the whole network can be run in
# float64, whose roundings are half a billion times smaller, and taken as the truth. Twice we
# measure how far float32 is from it:
#
# - *inherited and added*: the usual run, in which every layer gets the rounded result of the last;
# - *added*: every layer gets the truth, rounded once. `forward` lets us send it in.
#
# Error here is the root mean square of the difference over that of the layer, in units of one
# rounding.

# %%
tensors64 = {name: tensor.astype(np.float64) for name, tensor in model.tensors.items()}
truth = dict(forward(pixels.astype(np.float64), model.architecture, tensors64, model.metadata))
assert all(tensor.dtype == np.float64 for tensor in truth.values())


def distance(tensor, true):
    """How far a tensor is from the true one, root mean square, in roundings of float32."""
    difference = np.sqrt(np.mean((tensor.astype(np.float64) - true) ** 2))
    return difference / np.sqrt(np.mean(true**2)) / 2.0**-24


usual = {name: distance(tensor, truth[name]) for name, tensor in layers.items() if name != "image"}

added = {}
steps = forward(pixels, model.architecture, model.tensors, model.metadata)
name, tensor = next(steps)
while name != "probabilities":
    name, tensor = steps.send(truth[name].astype(np.float32))
    added[name] = distance(tensor, truth[name])

names = [name for name in usual if "/se_" not in name]
numbers = np.arange(len(names))
_, axes = panels(height=4.6)
draw_lines(
    axes[0, 0],
    numbers,
    {
        "inherited and added": [usual[name] for name in names],
        "added by the layer alone": [added[name] for name in names],
    },
    "layer",
    "error in roundings (2 to the -24)",
    "float32 against float64, from the photo to the probabilities",
)
marks = [i for i, name in enumerate(names) if name.endswith("/output")][::3]
axes[0, 0].set_xticks(marks, [names[i].removesuffix("/output") for i in marks], rotation=20)
_ = axes[0, 0].set_ylim(0)

# %% tags=["rounding"]
for name in ("normalize", "stem/conv", "blocks_3/output", "blocks_18/output", "logits"):
    print(f"{name:18} {usual[name]:6.2f} roundings in all, {added[name]:6.2f} added here")

together = np.array(list(added.values()))
print(f"\nlargest anywhere {max(usual.values()):.0f}; if all that was added stayed,", end=" ")
print(f"one on top of the other {together.sum():.0f},", end=" ")
print(f"as a random walk {np.sqrt((together**2).sum()):.0f}")

# %% [markdown]
# The lower curve shows what each layer adds: mostly about one rounding, with peaks. The upper one
# rises quickly at first and then ever more slowly. The errors do not pile up one on top of the
# other: their signs are random, so they cancel in part, as the steps of a random walk do. And time
# and again the curve falls back, where a residual adds a block's input, which is older and less
# rounded.
#
# And the peaks? Here is what a convolution adds over the number of products in each of its sums:

# %%
summed: dict[str, list[int]] = {}
for name, tensor in model.tensors.items():
    layer, _, which = name.rpartition("/")
    if which.startswith("kernel_"):
        kh, kw, c, _ = tensor.shape
        summed.setdefault(layer, []).append(kh * kw * (1 if "depthwise" in layer else c))
_, axes = panels(height=4.2)
for marker, kind in zip("osD", ("expand_conv", "depthwise_conv", "project_conv"), strict=True):
    convolutions = [
        (np.mean(summed[f"{b.name}/{kind}"]), f"{b.name}/{kind}")
        for b in model.architecture.blocks
        if f"{b.name}/{kind}" in added
    ]
    products, errors = zip(*((count, added[layer]) for count, layer in convolutions), strict=True)
    axes[0, 0].plot(products, errors, marker, label=kind)
axes[0, 0].plot([10, 2000], np.sqrt([10, 2000]) / 5, "--", color="gray", label="square root")
axes[0, 0].set(xscale="log", yscale="log", ylabel="error added, in roundings")
axes[0, 0].set(xlabel="products in each sum (mean over the groups)")
_ = axes[0, 0].legend(frameon=False)

# %% [markdown]
# The more products, the more roundings, and again it is a random walk: the dashed line grows as
# the square root. Rounding enters everywhere, but most of all where long sums are made.
#
# ## Who is right, TensorFlow or NumPy?
#
# The repository holds every layer of one small network as TensorFlow computed it, on another
# machine. Against the float64 run, both can be judged.

# %%
image, weights = small_image(), small_tensors()
ours = dict(forward(image.astype(np.float32), SMALL, weights, Metadata()))
weights64 = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
exact = dict(forward(image.astype(np.float64), SMALL, weights64, Metadata()))
with np.load(RECORDED) as recorded:
    theirs = {name: recorded[f"network/{name}"] for name in ours if name != "image"}

names = [name for name in theirs if "/se_" not in name]
_, axes = panels(height=4.2)
curves = {
    "NumPy from the truth": [distance(ours[name], exact[name]) for name in names],
    "TensorFlow from the truth": [distance(theirs[name], exact[name]) for name in names],
    "NumPy from TensorFlow": [distance(ours[name], theirs[name]) for name in names],
}
draw_lines(
    axes[0, 0],
    np.arange(len(names)),
    curves,
    "layer",
    "error in roundings (2 to the -24)",
    "a small network, computed twice",
)
marks = [i for i, name in enumerate(names) if name.endswith("/output")]
axes[0, 0].set_xticks(marks, [names[i].removesuffix("/output") for i in marks])
_ = axes[0, 0].set_ylim(0)

# %% [markdown]
# Neither. Each is a few roundings from the truth, and from the other as well. A disagreement of
# this size between two libraries is no bug in either.
#
# That completes the list. Libraries disagree because of the pixels they start from (00), because
# of the padding (01), because of epsilon, and because they add up in another order. The first
# three are mistakes of a port and can be found; the last is arithmetic, and can be measured.
#
# ## Check: against a loop, and against TensorFlow
#
# First the batch norm of a few values, with plain Python numbers. Then our results against all of
# TensorFlow's answers.

# %%
convolved = conv2d(x[:, :8, :8], kernel, stride=2)
ours_small = batch_norm(convolved, *norm, epsilon)
largest = 0.0
for index in np.ndindex(convolved.shape):
    c = index[-1]
    deviation = (float(norm.variance[c]) + epsilon) ** 0.5
    value = (float(convolved[index]) - float(norm.mean[c])) / deviation
    value = value * float(norm.gamma[c]) + float(norm.beta[c])
    largest = max(largest, abs(value - float(ours_small[index])))
print("within 1e-5 of the loop:", bool(largest < 1e-5))

cases = kernel_cases()
with np.load(RECORDED) as recorded:
    for name in ("batch_norm/usual", "batch_norm/tiny"):
        answers = batch_norm(*cases[name].arrays, 1e-3)
        relative = np.abs(answers - recorded[name]).max() / np.abs(answers).max()
        print(f"{name}: within 1e-6 of TensorFlow: {bool(relative < 1e-6)}")
worst = max(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in theirs)
print("all layers of the small network: within 1e-5 of TensorFlow:", bool(worst < 1e-5))

# %% [markdown]
# ## Exercise
#
# A convolution has the single weight 3. Its batch norm has mean -1, variance 0.249, gamma 2, beta
# 1, and epsilon is 0.001. Fold it on paper: `answer = (weight, bias)`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
vectors = (np.array([number]) for number in (2.0, 1.0, -1.0, 0.249))
new_kernel, new_bias = fold_batch_norm(np.full((1, 1, 1, 1), 3.0), *vectors, 0.001)
check(answer, (new_kernel.item(), new_bias.item()), hint="first the deviation, then the scale")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# scale = 2 / (0.249 + 0.001) ** 0.5
# answer = (3 * scale, 1 - (-1) * scale)
# ```
#
# The deviation is one half, so the scale is 4. The mean is negative, and subtracting it adds.
# </details>
#
# Next: what comes after batch norm, and which channels get through. [05: Which channels does the
# network listen to?](05_swish_and_squeeze_excite.ipynb)
