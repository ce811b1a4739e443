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
# A block of MixNet works on hundreds of channels. Two small devices decide what gets through: an
# *activation* looks at one value at a time, and *squeeze-and-excite* looks at one channel at a
# time, after it has seen the whole picture. You compute both by hand, then show the network two
# photos and compare which channels it lets through for each.
#
# Read before: [02](02_depthwise_and_mixconv.ipynb) and [04](04_batch_norm.ipynb).

# %%
from start import *

# %% [markdown]
# Here is all of squeeze-and-excite, for two channels of four pixels. Only the mean of each channel
# goes into the small network in the middle. Out of it comes one number between 0 and 1 for each
# channel, its *gate*, and all pixels of the channel are multiplied by it.

# %%
a, b = [[1, 3], [5, 7]], [[0, 0], [2, 2]]
pictures.show_squeeze_and_excite([a, b], reduce=(1, -2), expand=(0.5, -1.5))

# %% [markdown]
# We first look at the two functions in it, ReLU and sigmoid, and at swish, which is made of a
# sigmoid. Then you compute the numbers in the drawing.
#
# ## By hand: swish
#
# ReLU keeps what is positive and turns the rest into zero. Swish multiplies each value by its own
# sigmoid, a number between 0 and 1. So a value far above zero passes almost unchanged, and a value
# far below zero becomes almost zero.

# %%
import math

print("     x   sigmoid(x)   x * sigmoid(x)   max(x, 0)")
for x in (-6.0, -2.0, -1.0, 0.0, 1.0, 2.0, 6.0):
    s = 1 / (1 + math.exp(-x))
    print(f"{x:6.1f}{s:13.4f}{x * s:17.4f}{max(x, 0):12.1f}")

# %%
from tinymixnet.engine.kernels import relu, sigmoid, swish

x = np.linspace(-6, 6, 241)
lowest = x[swish(x).argmin()]
print(f"swish is lowest near x = {lowest:.2f}, where it is {swish(x).min():.3f}")
pictures.show_lines(x, {"swish": swish(x), "ReLU": relu(x), "sigmoid": sigmoid(x)}, "x", "value")

# %% [markdown]
# Swish has no corner at zero. And while ReLU is zero for every negative x, swish is a little below
# zero there. MixNet uses ReLU in its first three blocks and swish in all others, as each block
# string says (see [06](06_reading_block_strings.ipynb)).
#
# ## The package's functions
#
# The formula above fails far from zero: `exp(1000)` is more than a float can hold. The package's
# sigmoid only computes the exponential of -|x|. That may become too small for a float and is then
# zero, which is the right result.

# %%
show(sigmoid)

# %%
show(swish)

# %%
extreme = np.array([-np.inf, -1000, -50, 0, 50, 1000, np.inf], np.float32)
print("x      ", extreme)
print("sigmoid", sigmoid(extreme))
print("swish  ", swish(extreme).round(3))

# %% [markdown]
# ## By hand: squeeze-and-excite
#
# *Squeeze*: keep only the mean of each channel. *Excite*: two small dense layers turn these means
# into one gate for each channel. The first layer makes few numbers out of many (here one out of
# two), the second makes many out of few. Here are the numbers of the drawing:

# %%
mean_a, mean_b = (1 + 3 + 5 + 7) / 4, (0 + 0 + 2 + 2) / 4
print("means:", mean_a, mean_b)
between = max(1 * mean_a - 2 * mean_b, 0)  # weights 1 and -2, then ReLU
print("in between:", between)
gates = [1 / (1 + math.exp(-w * between)) for w in (0.5, -1.5)]  # weights 0.5 and -1.5
print("gates:", [round(gate, 4) for gate in gates])
print("first channel: ", [[round(v * gates[0], 3) for v in row] for row in a])
print("second channel:", [[round(v * gates[1], 3) for v in row] for row in b])

# %% [markdown]
# With these weights a strong first channel opens its own gate and closes that of the second one.
# The package does the same for any number of channels and images:

# %%
from tinymixnet.engine.kernels import global_average_pool, squeeze_excite

show(squeeze_excite)

# %%
show(global_average_pool)

# %%
x = np.stack([a, b], axis=-1)[None].astype(np.float32)
reduce_kernel = np.array([1.0, -2.0], np.float32).reshape(1, 1, 2, 1)
expand_kernel = np.array([0.5, -1.5], np.float32).reshape(1, 1, 1, 2)
zero1, zero2 = np.zeros(1, np.float32), np.zeros(2, np.float32)
y = squeeze_excite(x, reduce_kernel, zero1, expand_kernel, zero2, relu)
print("first channel\n", y[0, ..., 0].round(3), "\nsecond channel\n", y[0, ..., 1].round(3), sep="")

# %% [markdown]
# ## Two photos
#
# The package comes with a cat and a cup of coffee. Both photos go through the same network: all
# weights are the same for both, but the gates are computed from the photo.

# %%
photos = {"cat": model.pixels(CAT), "coffee": model.pixels(COFFEE)}
layers = {name: dict(model.layers(pixels)) for name, pixels in photos.items()}
[cat_answer], [coffee_answer] = model.classify(CAT, top=1), model.classify(COFFEE, top=1)
titles = [f"{p.label}, {100 * p.probability:.1f} %" for p in (cat_answer, coffee_answer)]
pictures.show_images([pixels[0] for pixels in photos.values()], titles)

# %% [markdown]
# ## Which gates are open?
#
# `blocks_3` is the first block with squeeze-and-excite. Below are the gates of four blocks, from
# early to late. Each dot is a channel: its gate for the cat across, its gate for the coffee up. A
# dot on the diagonal has the same gate for both photos. A dot in the lower right is a channel that
# the block lets through for the cat and holds back for the coffee.

# %%
gated = [block.name for block in model.architecture.blocks if block.se_width]
gates = {
    name: {block: outputs[f"{block}/se_gate"].ravel() for block in gated}
    for name, outputs in layers.items()
}
pictures.show_gates_of_two(gates, gated[::5])

# %% [markdown]
# The same in numbers, for all blocks. *Below 0.1* is the share of gates that are nearly closed.
# *Mean difference* is the mean of |gate for the cat - gate for the coffee|: zero if the block does
# not react to the photo. *Correlation* is 1 if all dots lie on a rising line: the block then puts
# the channels in the same order for both photos, even if the gates themselves are not the same.
# Near 0, the gate for one photo says nothing about the gate for the other.

# %%
print("block      gates   below 0.1: cat  coffee   mean difference   correlation")
differences, correlations = [], []
for block in gated:
    cat, coffee = gates["cat"][block], gates["coffee"][block]
    closed = 100 * (cat < 0.1).mean(), 100 * (coffee < 0.1).mean()
    differences.append(np.abs(cat - coffee).mean())
    correlations.append(np.corrcoef(cat, coffee)[0, 1])
    print(f"{block:10} {len(cat):5} {closed[0]:13.0f} % {closed[1]:5.0f} %", end=" ")
    print(f"{differences[-1]:17.3f} {correlations[-1]:13.2f}")

# %%
numbers = [int(block.removeprefix("blocks_")) for block in gated]
series = {"correlation": correlations, "mean difference": differences}
pictures.show_lines(numbers, series, "block", "gates, cat and coffee", marker="o")
print("most alike by correlation: ", gated[int(np.argmax(correlations))])
print("least alike by correlation:", gated[int(np.argmin(correlations))])

# %% [markdown]
# Look at both lines from left to right. Do the early blocks or the late ones treat the two photos
# differently? Where the correlation is high, squeeze-and-excite is mostly a fixed list of channels
# that matter for any picture, and the photo changes it only a little. Where it is low, the list
# depends on the photo. And compare with the table: do the blocks with many closed gates close the
# same ones for both photos?
#
# ## What did those channels see?
#
# Among the first four of these blocks, whose maps are large enough to look at, we take the one
# whose gates differ most. Below are three channels that it opens more for the cat (left) and three
# that it opens more for the coffee (right), before the gates are applied. What
# do the bright places of each map have in common?

# %%
block = gated[int(np.argmax(differences[:4]))]
ranked = np.argsort(gates["coffee"][block] - gates["cat"][block])
picked = [*ranked[:3], *ranked[-3:]]
print(block)
pictures.show_channels_of_two(
    {name: pixels[0] for name, pixels in photos.items()},
    {name: layers[name][f"{block}/depthwise_act"][0] for name in photos},
    {name: gates[name][block] for name in photos},
    picked,
)

# %% [markdown]
# ## How much do the gates matter?
#
# Give a photo the gates of the other one and leave everything else as it is. The generator
# `forward` allows it: it hands out each layer, and goes on with the array that it is sent.

# %%
from tinymixnet.engine.network import forward


def answer_with(pixels, replaced):
    """The probabilities when some layers are replaced by other arrays, by name."""
    steps = forward(pixels, model.architecture, model.tensors, model.metadata)
    name, tensor = next(steps)
    while name != "probabilities":
        name, tensor = steps.send(replaced.get(name, tensor))
    return tensor[0]


# %%
other = {"cat": "coffee", "coffee": "cat"}
exchanged = {"none": [], "blocks 3 to 8": gated[:6], "9 to 18": gated[6:], "all": gated}
print(f"{'gates of the other photo in:':36}", *(f"{name:>14}" for name in exchanged))
for name, best in (("cat", cat_answer), ("coffee", coffee_answer)):
    foreign = layers[other[name]]
    shares = [
        answer_with(photos[name], {f"{b}/se_gate": foreign[f"{b}/se_gate"] for b in blocks})
        for blocks in exchanged.values()
    ]
    title = f"{name}: probability of {best.label}"
    print(f"{title:36}", *(f"{100 * p[best.index]:12.1f} %" for p in shares))

# %% [markdown]
# The first column is the network's own answer. Which other column is farthest from it? Compare
# with the mean differences above: a block whose gates are nearly the same for both photos changes
# little when they are exchanged. In the last column all gates were made for the other photo. If an
# answer stays clear even there, the gates only refine what the convolutions have found.
#
# ## Check: against loops, and against TensorFlow
#
# Here are the gates of block 5 for the cat, computed with plain Python numbers.

# %%
x = layers["cat"]["blocks_5/depthwise_act"]
means = [sum(channel) / len(channel) for channel in x.reshape(-1, x.shape[-1]).T.tolist()]
names = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
weights = [model.tensors[f"blocks_5/{name}"] for name in names]


def sums(values, kernel, bias):
    """One weighted sum for each column of the kernel."""
    columns = [kernel[0, 0, :, o].tolist() for o in range(len(bias))]
    pairs = [zip(values, column, strict=True) for column in columns]
    return [sum(v * w for v, w in pair) + b for pair, b in zip(pairs, bias.tolist(), strict=True)]


few = [value / (1 + math.exp(-value)) for value in sums(means, *weights[:2])]
slow = np.array([1 / (1 + math.exp(-value)) for value in sums(few, *weights[2:])])
print("gates within 1e-5:   ", bool(np.abs(slow - gates["cat"]["blocks_5"]).max() < 1e-5))
print("products within 1e-5:", bool(np.abs(squeeze_excite(x, *weights) - x * slow).max() < 1e-5))

# %% [markdown]
# And the answers that TensorFlow once gave to the same questions:

# %%
from recorded import RECORDED, kernel_cases

operations = {
    "swish": swish,
    "sigmoid": sigmoid,
    "squeeze_excite_swish": squeeze_excite,
    "squeeze_excite_relu": lambda *arrays: squeeze_excite(*arrays, relu),
}
cases = {name: case for name, case in kernel_cases().items() if case.operation in operations}
with np.load(RECORDED) as recorded:
    theirs = {name: recorded[name] for name in cases}
agree = 0
for name, case in cases.items():
    ours = operations[case.operation](*case.arrays)
    agree += bool(np.abs(ours - theirs[name]).max() <= 1e-6 * np.abs(theirs[name]).max())
print(f"activations and gates that agree with TensorFlow: {agree} of {len(cases)}")

# %% [markdown]
# ### Exercise 1
#
# Suppose all weights and biases of a squeeze-and-excite are zero. By which number does it multiply
# every channel?

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
# Not 1, and not 0: such a gate is half open.
# </details>

# %% [markdown]
# ### Exercise 2
#
# How many gates of the whole network differ by more than one half between the two photos? Write an
# expression: `gates["cat"][block]` and `gates["coffee"][block]` are arrays with one number for each
# channel, and `gated` is the list of the blocks.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
cat, coffee = (np.concatenate(list(gates[name].values())) for name in ("cat", "coffee"))
hint = "np.abs(...) > 0.5 is an array of True and False, and its sum counts the True"
check(answer, int((np.abs(cat - coffee) > 0.5).sum()), hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# apart = [np.abs(gates["cat"][b] - gates["coffee"][b]) > 0.5 for b in gated]
# answer = sum(int(a.sum()) for a in apart)
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# Write the function that computes the gates, `my_gates(x, w1, b1, w2, b2)`, with swish in between.
# x is (N, H, W, C), w1 (C, R), b1 (R,), w2 (R, C), b2 (C,), and the result is (N, C): each of the N
# images has its own gates. You may use `swish` and `sigmoid`. Then `answer = my_gates`; the check
# calls it with three images at once.

# %% tags=["exercise"]
answer = None  # the function itself: answer = my_gates

# %% jupyter={"source_hidden": true} tags=["check"]
rng = np.random.RandomState(5)
shapes = (3, 4, 5, 6), (6, 2), (2,), (2, 6), (6,)
x, w1, b1, w2, b2 = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes)
expected = (squeeze_excite(x, w1[None, None], b1, w2[None, None], b2) / x)[:, 0, 0]
hint = "x.mean(axis=(1, 2)) is (N, C); then two matrix products with @, each with its bias"
check(answer, expected, hint, given=(x, w1, b1, w2, b2))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def my_gates(x, w1, b1, w2, b2):
#     means = x.mean(axis=(1, 2))
#     return sigmoid(swish(means @ w1 + b1) @ w2 + b2)
#
#
# answer = my_gates
# ```
#
# </details>

# %% [markdown]
# Next: you know all the parts. How is a network put together from them? [06: block
# strings](06_reading_block_strings.ipynb)
