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
# # What does batch norm do, where does it go, and where does rounding come in?
#
# After each convolution of MixNet stands a batch norm, which gives every channel a scale that
# training has chosen. In the readable network it is a layer. In the fast one it has vanished,
# *folded* into the convolution before it, and the answers are equal, though not to the last bit. We
# fold it, and then follow the last bits through the network.
#
# Read before: [01](01_convolution.ipynb), [02](02_depthwise_and_mixconv.ipynb).

# %%
from start import *

# %%
from tinymixnet.engine.kernels import conv2d, normalize
from tinymixnet.engine.network import statistics

pixels = model.pixels(CAT)
x = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]
norm = statistics("stem/bn", model.tensors)
deviation = np.sqrt(norm.variance + model.metadata.epsilon)
values = conv2d(x, kernel, stride=2)
centred = (values - norm.mean) / deviation

# %%
steps = {
    "1. after the convolution": values,
    "2. − mean, / deviation": centred,
    "3. * gamma, + beta": centred * norm.gamma + norm.beta,
}
channels = [int(i) for i in (deviation.argmin(), deviation.argmax(), np.argmax(norm.mean))]
pictures.show_normalization(steps, channels, ["least spread", "most spread", "largest mean"])

# %% [markdown]
# Three filters of the stem, on the photo of the cat. After the convolution each has its own place
# and width. In step 2 they are brought to about one place, zero, and about one width. In step 3
# each gets a place and a width again, but those that training has chosen for it.
#
# ## Why it has statistics
#
# In training, a network sees photos in batches, and after each batch all its weights change a
# little, so that its answers become better. Batch norm then subtracts the mean of the *batch*, and
# divides by its deviation, so that no layer has to follow when the layers before it change their
# scale. Later there is one photo and no batch, and its answer must not depend on other photos:
# so training keeps a moving average of each channel's mean and variance, and these are the
# statistics in the weights file.
#
# That is why in the middle panel places and widths are only *about* the same: a single photo is not
# the average of the training set.
#
# ## By hand: one channel
#
# Subtract the mean, divide by the deviation, multiply by gamma, add beta. The deviation is the
# square root of the variance, to which first a small number is added, epsilon, so that a channel
# that never varied is not divided by zero.

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
from tinymixnet.engine.kernels import batch_norm, fold_batch_norm

show(batch_norm)

# %%
show(fold_batch_norm)

# %% [markdown]
# On the photo, with the stem's own numbers:

# %%
epsilon = model.metadata.epsilon
apart = batch_norm(conv2d(x, kernel, stride=2), *norm, epsilon)
folded, bias = fold_batch_norm(kernel, *norm, epsilon)
together = conv2d(x, folded, stride=2, bias=bias)
difference = np.abs(apart - together).max()
print("values:", apart.size, " equal to 1e-4:", bool(difference < 1e-4))
print("the same bits everywhere:", np.array_equal(apart, together))
pictures.show_scales(norm.gamma / np.sqrt(norm.variance + epsilon), bias)

# %% [markdown]
# Equal, but not the same bits. The bars are what the folding did: each filter was multiplied by a
# scale of its own (left), and got a bias (right), which is all that batch norm adds.
#
# ## Epsilon: a number that libraries disagree on
#
# MixNet is trained with an epsilon of 0.001. PyTorch's batch norm uses 0.00001 unless told
# otherwise, which is easily forgotten in a port. How much this matters depends on the variance: a
# channel is stretched too much, and most where the variance is not large compared with 0.001.

# %%
variances = np.concatenate([v for n, v in model.tensors.items() if n.endswith("moving_variance")])
pictures.show_epsilons(variances, ours=1e-3, theirs=1e-5)
too_large = np.sqrt((variances + 1e-3) / (variances + 1e-5)) - 1
print(f"{np.mean(too_large > 0.01):.1%} of {too_large.size:,} channels more than 1 % too large,")
print(f"{np.mean(too_large > 0.1):.1%} more than 10 %; the largest {too_large.max():.1%}")

# %%
from dataclasses import replace

from tinymixnet.engine.network import forward

for photo in (CAT, COFFEE):
    for value in (1e-3, 1e-5):
        settings = replace(model.metadata, epsilon=value)
        layers = dict(forward(model.pixels(photo), model.architecture, model.tensors, settings))
        percent = 100 * layers["probabilities"][0]
        best = [f"{model.labels[i]} {percent[i]:.2f} %" for i in np.argsort(-percent)[:3]]
        print(f"{photo.name:10} epsilon {value:g}: {', '.join(best)}")

# %% [markdown]
# The answers change in some digit, and the first of them may well stay the same. That makes a
# forgotten epsilon hard to notice. It is far more than rounding, though, as we are about to see.
#
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
# Now the sum behind the cat's largest logit, in five orders. A loop takes the products as they
# come. A matrix product keeps several sums at once and adds those up in the end; how many depends
# on the processor. `np.sum` cuts a long row into halves, and those again. The truth is the sum in
# float64.

# %% tags=["rounding"]
layers = dict(model.layers(pixels))
best = int(layers["logits"][0].argmax())
products = layers["head/pool"][0] * model.tensors["logits/kernel"][:, best]
true = float(products.sum(dtype=np.float64))
eight = products[: len(products) // 8 * 8].reshape(-1, 8)
sums = {
    "first to last": np.add.accumulate(products)[-1],  # one after the other, as a loop would
    "last to first": np.add.accumulate(products[::-1])[-1],
    "smallest first": np.add.accumulate(products[np.argsort(np.abs(products))])[-1],
    "eight sums at once": np.add.accumulate(eight)[-1].sum(),
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
pixels64 = pixels.astype(np.float64)
truth = dict(forward(pixels64, model.architecture, tensors64, model.metadata))
assert all(tensor.dtype == np.float64 for tensor in truth.values())


def distance(tensor, true):
    """How far a tensor is from the true one, root mean square, in roundings of float32."""
    difference = np.sqrt(np.mean((tensor.astype(np.float64) - true) ** 2))
    return difference / np.sqrt(np.mean(true**2)) / 2.0**-24


usual = {name: distance(tensor, truth[name]) for name, tensor in layers.items() if name != "image"}

# %%
added = {}
steps = forward(pixels, model.architecture, model.tensors, model.metadata)
name, tensor = next(steps)
while name != "probabilities":
    name, tensor = steps.send(truth[name].astype(np.float32))
    added[name] = distance(tensor, truth[name])

names = [name for name in usual if "/se_" not in name and name != "probabilities"]
curves = {
    "inherited and added": [usual[name] for name in names],
    "added by the layer alone": [added[name] for name in names],
}
pictures.show_roundings(names, curves, "float32 against float64, from the photo to the logits")

# %% tags=["rounding"]
for name in ("normalize", "stem/conv", "blocks_3/output", "blocks_18/output", "logits"):
    print(f"{name:18} {usual[name]:6.2f} roundings in all, {added[name]:6.2f} added here")

additions = np.array([added[name] for name in names])
print(f"\nlargest anywhere {max(usual[name] for name in names):.0f};", end=" ")
print(f"if all that was added stayed, one on top of the other {additions.sum():.0f},", end=" ")
print(f"as a random walk {np.sqrt((additions**2).sum()):.0f}")

# %% [markdown]
# The lower curve is what each layer adds, the upper one what has come together. Compare the three
# numbers of the last line. The errors do not pile up one on top of the other: their signs are as
# good as random, so they cancel in part, as the steps of a random walk do. And some do not stay:
# where a residual adds the block's input, which has gone through fewer layers, the upper curve
# falls.
#
# (The probabilities are left out. Softmax turns an *absolute* error of a logit into a relative one
# of a probability, so they are measured with another rule.)
#
# And the peaks of the lower curve? They are convolutions, which add up many products. First a
# clean experiment: sums of random products, in three orders. Then what the network's convolutions
# add, over the number of products in each of their sums.

# %%
rng = np.random.RandomState(4)
counts, ways = [8, 16, 32, 64, 128, 256, 512, 1024, 2048], {}
for count in counts:
    a, b = rng.normal(size=(2, 4000, count)).astype(np.float32)
    true = (a.astype(np.float64) * b).sum(axis=1)
    results = {
        "one after the other": np.add.accumulate(a * b, axis=1)[:, -1],
        "matrix product": (a[:, None] @ b[..., None])[:, 0, 0],
        "np.sum": (a * b).sum(axis=1),
    }
    for way, result in results.items():
        ways.setdefault(way, []).append(distance(result, true))

# %%
products: dict[str, list[int]] = {}
for name, tensor in model.tensors.items():
    layer, _, which = name.rpartition("/")
    if which.startswith("kernel_"):
        kh, kw, c, _ = tensor.shape
        products.setdefault(layer, []).append(kh * kw * (1 if "depthwise" in layer else c))
points: dict[str, list[tuple[float, float]]] = {}
for layer, each_group in products.items():
    points.setdefault(layer.split("/")[1], []).append((np.mean(each_group), added[layer]))
pictures.show_sums(counts, ways, points)

# %% tags=["rounding"]
for way, errors in ways.items():
    power = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(f"random products, {way:20}: error grows as products ** {power:.2f}")
for kind, pairs in points.items():
    numbers, errors = np.log(np.array(pairs)).T
    power = np.polyfit(numbers, errors, 1)[0]
    print(f"network, {kind:28}: error grows as products ** {power:.2f}")

# %% [markdown]
# Added one after the other, the products' error grows as the square root of their number, the mark
# of a random walk: the power is close to 0.5. The other two ways make many short sums instead of a
# long one, and their error grows more slowly. The network's own points are not on one line. Some
# products of a depthwise convolution are with the zeros of the padding and add no error, and the
# matrix products (expand, project) depend on the order in which this machine's library adds. But in
# all three kinds longer sums tend to add more error.
#
# ## Who is right, TensorFlow or NumPy?
#
# The repository holds every layer of one small network as TensorFlow computed it, on another
# machine. Against the float64 run, both can be judged.

# %%
from recorded import RECORDED, SMALL, kernel_cases, small_image, small_tensors

from tinymixnet.engine.metadata import Metadata

image, weights = small_image(), small_tensors()
ours = dict(forward(image.astype(np.float32), SMALL, weights, Metadata()))
weights64 = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
exact = dict(forward(image.astype(np.float64), SMALL, weights64, Metadata()))
with np.load(RECORDED) as recorded:
    theirs = {name: recorded[f"network/{name}"] for name in ours if name != "image"}

# %%
names = [name for name in theirs if "/se_" not in name]
curves = {
    "NumPy from the truth": [distance(ours[name], exact[name]) for name in names],
    "TensorFlow from the truth": [distance(theirs[name], exact[name]) for name in names],
    "NumPy from TensorFlow": [distance(ours[name], theirs[name]) for name in names],
}
pictures.show_roundings(names, curves, "a small network, computed twice")

# %% [markdown]
# Neither. Each is several roundings from the truth, and about as many from the other. A
# disagreement of this size between two libraries is no bug in either.
#
# That completes the list. Libraries disagree because of the pixels they start from
# ([00](00_classify_a_photo.ipynb)), because of the padding ([03](03_same_padding.ipynb)), because
# of epsilon, and because they add up in another order. The first three are mistakes of a port and
# can be found; the last is arithmetic, and can be measured.
#
# ## Check: against a loop, and against TensorFlow
#
# First the batch norm of a few values, with plain Python numbers. Then our results against all of
# TensorFlow's answers.

# %%
convolved = conv2d(x[:, :8, :8], kernel, stride=2)
normalized = batch_norm(convolved, *norm, epsilon)
largest = 0.0
for index in np.ndindex(convolved.shape):
    c = index[-1]
    deviation = (float(norm.variance[c]) + epsilon) ** 0.5
    value = (float(convolved[index]) - float(norm.mean[c])) / deviation
    value = value * float(norm.gamma[c]) + float(norm.beta[c])
    largest = max(largest, abs(value - float(normalized[index])))
print("within 1e-5 of the loop:", bool(largest < 1e-5))

# %%
cases = kernel_cases()
with np.load(RECORDED) as recorded:
    for name in ("batch_norm/usual", "batch_norm/tiny"):
        answers = batch_norm(*cases[name].arrays, 1e-3)
        relative = np.abs(answers - recorded[name]).max() / np.abs(answers).max()
        print(f"{name}: within 1e-6 of TensorFlow: {bool(relative < 1e-6)}")
worst = max(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in theirs)
print("all layers of the small network: within 1e-5 of TensorFlow:", bool(worst < 1e-5))

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
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
# ### Exercise 2
#
# A channel has a variance of 0.002. A port uses an epsilon of 0.00001 instead of 0.001. By which
# factor is the scale of that channel too large?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
vectors = [np.array([number]) for number in (1.0, 0.0, 0.0, 0.002)]
theirs_folded, ours_folded = (
    fold_batch_norm(np.ones((1, 1, 1, 1)), *vectors, value)[0].item() for value in (1e-5, 1e-3)
)
check(answer, theirs_folded / ours_folded, hint="the scale is gamma / sqrt(variance + epsilon)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = ((0.002 + 0.001) / (0.002 + 0.00001)) ** 0.5
# ```
#
# Gamma cancels out. With a variance of 2 instead, the factor would be nearly 1.
# </details>
#
# ### Exercise 3
#
# A convolution that a batch norm follows needs no bias: in training, batch norm would subtract it
# again. In MixNet these convolutions have none, but in some networks they do. Write a function
# `f(kernel, bias, gamma, beta, mean, variance, epsilon)` that folds a batch norm into a convolution
# *with* a bias, and returns the new kernel and the new bias. The kernel is (KH, KW, C, O), the
# vectors are (O,). Then `answer = f`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
rng = np.random.default_rng(4)
x, kernel = rng.normal(size=(1, 5, 6, 2)), rng.normal(size=(3, 3, 2, 4))
bias, gamma, beta, mean, variance = rng.uniform(0.5, 2, size=(5, 4))
expected = batch_norm(conv2d(x, kernel, bias=bias), gamma, beta, mean, variance, 1e-3)


def convolve_with(fold):
    """The convolution with the kernel and the bias that the answer gives."""
    pair = fold(kernel, bias, gamma, beta, mean, variance, 1e-3)
    fits = isinstance(pair, tuple) and [*map(np.shape, pair)] == [kernel.shape, bias.shape]
    return conv2d(x, pair[0], bias=pair[1]) if fits else pair


hint = "batch norm sees convolution + bias; what does it do to the bias?"
check(convolve_with if callable(answer) else answer, expected, hint, given=(answer,))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def fold_with_bias(kernel, bias, gamma, beta, mean, variance, epsilon):
#     scale = gamma / np.sqrt(variance + epsilon)
#     return kernel * scale, beta + (bias - mean) * scale
#
#
# answer = fold_with_bias
# ```
#
# The old bias is scaled like everything else that comes out of the convolution.
# </details>
#
# Next: what comes after batch norm, and which channels get through. [05: Which channels does the
# network listen to?](05_swish_and_squeeze_excite.ipynb)
