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
# # Where does the time go, and how is it won back?
#
# The package has every kernel twice: once to be read (`engine/kernels.py`), once to be fast (the
# folder `fast`). Both use NumPy and nothing else. What makes one faster, if not another language?
# Here you start with the definition in a Python loop and speed it up step by step, with a clock
# beside each step. All times are measured while this page is made, on the machine that makes it.
# They differ from yours; the ranking should not.
#
# Before this: [02](02_convolution_as_im2col.ipynb) for im2col,
# [03](03_depthwise_and_mixconv.ipynb) for depthwise kernels, [04](04_folding_batch_norm.ipynb) for
# folding.

# %%
import inspect
from pathlib import Path
from textwrap import dedent
from time import perf_counter

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import COLOURS, draw_bars, draw_map, panels

import tinymixnet
from tinymixnet.engine.images import read_image
from tinymixnet.engine.kernels import (
    batch_norm,
    conv2d,
    depthwise_conv2d,
    im2col,
    pointwise_conv2d,
    relu,
    swish,
    windows,
)
from tinymixnet.fast import depthwise
from tinymixnet.fast import kernels as fast
from tinymixnet.fast.layout import Layout, same_pixels

rng = np.random.default_rng(9)


def random(*shape):
    return rng.normal(size=shape).astype(np.float32)


def milliseconds(function, *arguments, rounds=15):
    """The best of some runs: in all others something else took the processor."""
    seconds = []
    for _ in range(rounds + 1):
        start = perf_counter()
        function(*arguments)
        seconds.append(perf_counter() - start)
    return 1e3 * min(seconds)


def agree(a, b):
    """Equal but for rounding."""
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


# %% [markdown]
# ## Step 1: from loops to one matrix product
#
# The definition of a convolution is six loops around one multiplication and one addition. Python
# needs far longer to find out what to multiply than the processor needs to multiply. NumPy's
# `einsum` has the loops in C, but goes through the patches number by number. A matrix product does
# the same arithmetic in an order that keeps the processor's vector units busy, so the readable
# kernel first copies all patches into rows (im2col), although copying is extra work.


# %%
def by_loops(x, kernel, stride):
    """The definition, on nested lists; x is padded already."""
    n, h, w, c = x.shape
    kh, kw, _, o = kernel.shape
    pixels, weights = x.tolist(), kernel.tolist()
    y = np.zeros((n, (h - kh) // stride + 1, (w - kw) // stride + 1, o))
    for image, row, column, output in np.ndindex(y.shape):
        total = 0.0
        for i in range(kh):
            for j in range(kw):
                for channel in range(c):
                    value = pixels[image][row * stride + i][column * stride + j][channel]
                    total += value * weights[i][j][channel][output]
        y[image, row, column, output] = total
    return y


def by_einsum(x, kernel, stride):
    patches = windows(x, kernel.shape[:2], stride)  # a view: nothing is copied
    return np.einsum("nhwcij,ijco->nhwo", patches, kernel)


x, kernel = random(1, 32, 32, 3), random(3, 3, 3, 32)
padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
slow = by_loops(padded, kernel, 2)
assert agree(by_einsum(x, kernel, 2), slow)
assert agree(conv2d(x, kernel, 2), slow)
work = slow.size * 27
print(
    f"{work:,} multiply-adds, {im2col(x, (3, 3), 2).size / x.size:.2f} times the numbers by im2col"
)

# %% tags=["timing"]
steps = {
    "loops in Python": milliseconds(by_loops, padded, kernel, 2, rounds=2),
    "einsum over a view": milliseconds(by_einsum, x, kernel, 2),
    "im2col and a matrix product": milliseconds(conv2d, x, kernel, 2),
}
each = [1e6 * ms / work for ms in steps.values()]
figure, axes = panels(1, 1, 2.6)
draw_bars(
    axes[0, 0], list(steps), each, "nanoseconds for each multiply-add (logarithmic)", "", "%.3g"
)
axes[0, 0].set_xscale("log")

# %% [markdown]
# ## Step 2: the depthwise convolution, which is no matrix product
#
# Each channel has a kernel of its own, so there is nothing to share between channels and no large
# product to make of it. The readable kernel sums over a view of all patches, number by number. One
# can turn the loops inside out, and multiply the whole plane by one weight, shift it, and go on
# with the next: then each operation is long, but it takes K x K passes over memory.
#
# The fast one needs far fewer. By hand, for one plane of 3 x 4 pixels and a 3 x 3 kernel: put the
# rows one after another, with something before and behind, so that one can also read from one
# place earlier or later.

# %%
plane = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
weights = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 2]], np.float32)
memory = np.pad(plane.ravel(), 1, constant_values=99)
print("memory:", memory.astype(int))

# %% [markdown]
# Make three copies, each read one place further on. At every pixel they hold its left neighbour,
# the pixel itself and its right neighbour. But the first pixel of a row has no left neighbour:
# what was read there is the end of another row. Put a zero there, which is the padding, and do the
# same on the right. One small matrix product with the kernel turns the copies into three planes,
# one for each row of the kernel. Move the first down and the last up by a row, add all three, and
# the convolution is done.

# %%
copies = np.stack([memory[j : j + plane.size] for j in range(3)])
copies.reshape(3, *plane.shape)[0, :, 0] = 0
copies.reshape(3, *plane.shape)[2, :, -1] = 0
planes = (weights @ copies).reshape(3, *plane.shape)
total = planes[1].copy()
total[1:] += planes[0][:-1]  # the kernel's upper row reads the row above
total[:-1] += planes[2][1:]

_, axes = panels(1, 5, 2.9)
limits = (0, 40)
titles = "the plane", "upper row", "middle row", "lower row", "sum, shifted"
shown = plane, planes[0], planes[1], planes[2], total
for axis, values, title in zip(axes[0], shown, titles, strict=True):
    draw_map(axis, values, title, None, limits=limits, numbers=".0f")
    axis.set_ylabel("row" if axis is axes[0, 0] else "")

# %%
expected = depthwise_conv2d(plane[None, :, :, None], weights[:, :, None, None])[0, :, :, 0]
assert np.array_equal(total, expected)
print(expected)

# %% [markdown]
# So K planes are copied and K are added, where the definition takes K x K. The package's kernel
# does this for many channels at once, in arrays that it uses again and again. A row of ones among
# the copies brings the bias along for free. And it halves the work once more: it cuts the plane
# into four phases, each with every second pixel of every second row, and computes one pixel of
# each phase in the same product. These four pixels need mostly the same inputs, and what several
# of them need is copied and added only once: K + 1 phases for each row of phases, not 2 K.

# %%
Code(inspect.getsource(depthwise.depthwise_columns), language="python")

# %% [markdown]
# ## Step 3: small planes, another way
#
# On a plane of 7 x 7 pixels, rows are so short that every pass is mostly overhead. There the
# package takes a Fourier transform, in which a convolution is a multiplication. The transform
# itself is a matrix, the same for all channels: two large matrix products again.

# %%
Code(inspect.getsource(depthwise.depthwise_fourier), language="python")

# %% [markdown]
# Four ways to the same numbers, on a large plane and on a small one. `prepare` does what the plan
# does once for all images: it orders the pixels in memory, makes the arrays and transforms the
# kernels. This is not timed.


# %%
def by_shifts(x, kernel):
    """The definition turned inside out: K x K multiply-adds of the whole, shifted input."""
    k, h, w = len(kernel), *x.shape[1:3]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    y = np.zeros_like(x)
    for i, j in np.ndindex(k, k):
        y += padded[:, i : i + h, j : j + w] * kernel[i, j, :, 0]
    return y


def prepare(x, kernel):
    """The two fast ways, ready to run: (function to time, function that gives its result)."""
    (_, h, w, c), k = x.shape, len(kernel)
    no_bias = np.zeros(c, np.float32)
    flat = np.ascontiguousarray(x[0].transpose(2, 0, 1).reshape(c, -1))
    plain, layout = Layout(h, w), Layout(h, w, 2)
    cut = depthwise.filter_for(kernel, no_bias, layout, 1)
    _, m, n = cut.matrix.shape
    memory = np.zeros(c * layout.size + 2 * k, np.float32)
    for pixels, place in same_pixels(flat, plain, memory[k:-k].reshape(c, -1), layout):
        place[...] = pixels
    scratch = (
        np.empty(shape, np.float32)
        for shape in ((c, n, layout.phase_size), (m, c, layout.phase_size))
    )
    ready = depthwise.columns_for(cut, memory, k, layout, *scratch)

    at = depthwise.fourier_for(h, w, k, 1)
    spectra = depthwise.spectra_for(kernel, h, w, 1, at)
    waves, out = np.empty((c, at.forward.shape[1]), np.float32), np.empty_like(flat)
    return (
        (
            lambda: depthwise.depthwise_columns(ready),
            lambda: layout.plane(ready.total.transpose(1, 0, 2).reshape(c, -1)),
        ),
        (
            lambda: depthwise.depthwise_fourier(flat, spectra, no_bias, at, waves, out),
            lambda: plain.plane(out),
        ),
    )


def ways(side, size, channels=48):
    """Microseconds a channel of each way, all checked against the readable kernel."""
    x, kernel = random(1, side, side, channels), random(size, size, channels, 1)
    reference = depthwise_conv2d(x, kernel)
    assert agree(by_shifts(x, kernel), reference)
    times = {
        "einsum (readable)": milliseconds(depthwise_conv2d, x, kernel, rounds=5),
        "K x K shifts": milliseconds(by_shifts, x, kernel, rounds=5),
    }
    for name, (run, result) in zip(("columns", "Fourier"), prepare(x, kernel), strict=True):
        if side > 28 and name == "Fourier":
            continue  # the matrix would be as large as the plane squared
        run()
        assert agree(result(), reference[0])
        times[name] = milliseconds(run)
    return {name: 1e3 * ms / channels for name, ms in times.items()}


x, kernel = random(1, 12, 12, 2), random(5, 5, 2, 1)
for channel in range(2):
    one = np.pad(x[..., channel : channel + 1], ((0, 0), (2, 2), (2, 2), (0, 0)))
    slow = by_loops(one, kernel[:, :, channel : channel + 1], 1)
    assert agree(depthwise_conv2d(x, kernel)[..., channel : channel + 1], slow)
print("the readable kernel equals the loops")

# %% tags=["timing"]
figure, axes = panels(2, 2, 5.2)
for row, side in enumerate((56, 7)):
    for column, size in enumerate((3, 9)):
        times = ways(side, size)
        axis = axes[row, column]
        title = f"{size} x {size} kernel, plane of {side} x {side}"
        strong = [int(np.argmin(list(times.values())))]
        draw_bars(
            axis, list(times), list(times.values()), "microseconds a channel", title, "%.3g", strong
        )

# %% [markdown]
# The fastest way is drawn dark. On the large plane it is columns, and the more so for the large
# kernel, where K x K is far more than K. On the small plane the two are close for the small
# kernel, and Fourier is faster for the large one, because a larger kernel costs it little. So the
# plan asks how many pixels a plane has, and takes one or the other.
#
# ## Step 4: small change
#
# A 1x1 convolution is a matrix product in both paths. But four more things cost time in the
# readable one, and none of them is arithmetic that the network needs:
#
# - Batch norm goes over the whole tensor; folded into the kernel before it, it costs nothing.
# - Swish in the readable form takes an `exp`, a division, and several passes. NumPy's `tanh` is
#   vectorised, and x * sigmoid(x) = h * (1 + tanh(h)) with h = x / 2; the half is folded into the
#   kernel as well.
# - `np.maximum(x, 0)` is slower than comparing with an array of zeros, which sounds like more work.
# - Every new array is memory that the operating system has to find. The fast kernels write into
#   arrays that are there.

# %%
Code(inspect.getsource(fast.swish_of_half_to), language="python")

# %% tags=["timing"]
n, h, w, c = shape = (1, 56, 56, 64)
x, narrow = random(*shape), random(1, 1, c, c)
planes = np.ascontiguousarray(x[0].reshape(-1, c).T)
matrix, zeros = np.ascontiguousarray(narrow[0, 0].T), np.zeros(planes.size, np.float32)
flat, out, scratch = planes.reshape(-1), np.empty(planes.size, np.float32), np.empty_like(zeros)
half = flat / 2
vectors = [random(c) for _ in range(3)] + [np.ones(c, np.float32)]

fast.swish_of_half_to(half, scratch, out)
assert agree(out, swish(flat))
fast.relu_to(flat, zeros, out)
assert np.array_equal(out, relu(flat))

pairs = {
    "1x1 convolution": (
        milliseconds(pointwise_conv2d, x, narrow),
        milliseconds(np.matmul, matrix, planes, out.reshape(c, -1)),
    ),
    "batch norm": (milliseconds(batch_norm, x, *vectors, 1e-3), 0.0),
    "swish": (milliseconds(swish, x), milliseconds(fast.swish_of_half_to, half, scratch, out)),
    "relu": (milliseconds(relu, x), milliseconds(fast.relu_to, flat, zeros, out)),
}
figure, axes = panels(1, 2, 3.2, sharex=True, sharey=True)
for i, title in enumerate(("readable", "fast")):
    times = [pair[i] for pair in pairs.values()]
    draw_bars(axes[0, i], list(pairs), times, f"ms for {h} x {w} x {c}", title, "%.2f")
axes[0, 0].invert_yaxis()  # each draw_bars turned the shared axis once

# %% [markdown]
# ## The whole network, on the photo
#
# The plan puts it together: a list of steps, made once for an input size, each a kernel with its
# arrays. To run the network is to run down the list, which makes it easy to put a clock beside
# every step. The photo has 224 pixels a side here, as the official weights take it; what it is
# called at that size does not matter now.

# %%
model = tinymixnet.load()
photo = read_image(Path(tinymixnet.__file__).parent / "data" / "cat.jpg")
pixels = np.asarray(photo.resize((224, 224)), np.float32)[np.newaxis]
readable = dict(model.layers(pixels))
logits = model(pixels)
error = np.abs(logits - readable["logits"]).max() / np.abs(readable["logits"]).max()
assert error < 1e-4
program = model.plan.program(224, 224)
print(f"{len(program.steps)} steps; their logits equal the readable path's")
for step in program.steps[:8]:
    print(f"  {step.layer:20} {step.kernel}")

# %%
Code(dedent(inspect.getsource(type(model.plan).run)), language="python")


# %% tags=["timing"]
def part_of(layer):
    name = layer.split("/")[0]
    name = {"image": "stem", "normalize": "stem"}.get(name, name)
    return {"logits": "head", "probabilities": "head"}.get(name, name)


def readable_run():
    """Milliseconds of each part of the network on the readable path."""
    sums, before = {}, perf_counter()
    for name, _ in model.layers(pixels):
        now = perf_counter()
        sums[part_of(name)] = sums.get(part_of(name), 0) + 1e3 * (now - before)
        before = perf_counter()
    return sums


def fast_run():
    """Milliseconds of each (part, kernel) on the fast path."""
    sums = {}
    for step, seconds in model.plan.profile(pixels[0]):
        key = part_of(step.layer), step.kernel
        sums[key] = sums.get(key, 0) + 1e3 * seconds
    return sums


def best(run, rounds=7):
    runs = [run() for _ in range(rounds + 1)]
    return {key: min(r[key] for r in runs) for key in runs[0]}


by_layers, by_steps = best(readable_run, 4), best(fast_run)
parts = list(by_layers)
shown = ["matmul", "depthwise_columns", "depthwise_fourier"]
shown += ["swish_of_half_to", "relu_to", "squeeze_excite_gate"]

figure, axes = panels(1, 2, 7, sharey=True, width_ratios=[1, 2])
draw_bars(axes[0, 0], parts, list(by_layers.values()), "milliseconds", "Readable path", "%.1f")
ends = np.zeros(len(parts))
for name, colour in zip([*shown, "all others"], [*COLOURS[:6], "#999999"], strict=True):
    widths = np.zeros(len(parts))
    for (part, kernel), ms in by_steps.items():
        if (kernel if kernel in shown else "all others") == name:
            widths[parts.index(part)] += ms
    axes[0, 1].barh(
        range(len(parts)), widths, left=ends, color=colour, label=name, edgecolor="white"
    )
    ends += widths
axes[0, 1].set(xlabel="milliseconds (another scale)", title="Fast path, by kernel")
_ = axes[0, 1].legend(frameon=False, loc="lower right")
axes[0, 0].set_ylabel("part of the network")
print(f"readable {sum(by_layers.values()):.0f} ms, fast {sum(by_steps.values()):.0f} ms")

# %% [markdown]
# What is left is in matrix products, which BLAS does about as fast as the processor can, and in
# the depthwise kernels, most of it in the blocks where planes are large. Is a part's time its
# share of the work, which [06](06_reading_block_strings.ipynb) counted? Not quite: where planes
# are large, more of the time goes into passes over memory, and a multiply-add takes longer.

# %% tags=["timing"]
parts_of_work = {}
for row in model.architecture.layers(224, 224):
    part = part_of(row.name)
    parts_of_work[part] = parts_of_work.get(part, 0) + row.multiply_adds
figure, axes = panels(1, 1, 3.6)
work = np.array([parts_of_work[part] for part in parts])
axis = axes[0, 0]
axis.bar(np.arange(len(parts)) - 0.2, 100 * work / work.sum(), 0.4, label="multiply-adds")
axis.bar(np.arange(len(parts)) + 0.2, 100 * ends / ends.sum(), 0.4, label="time on the fast path")
axis.set_xticks(range(len(parts)), [part.replace("blocks_", "") for part in parts])
axis.set(xlabel="part of the network: stem, blocks 0 to 18, head", ylabel="% of all")
_ = axis.legend(frameon=False)

# %% [markdown]
# ## Exercise
#
# Does the Fourier way save multiplications? Take a plane of 7 x 7 and a kernel of 9 x 9. The
# definition takes 7 x 7 x 9 x 9 multiply-adds for each channel. How many do the two matrix
# products of `depthwise_fourier` take? You need to know how large the transform is: the plane plus
# the reach of the kernel on one side, so that nothing wraps around, in both directions; and that
# of the spectrum of real numbers a little more than half is enough, two numbers (real, imaginary)
# for each frequency.

# %% tags=["exercise"]
answer = None  # multiply-adds of both products, for one channel

# %% jupyter={"source_hidden": true} tags=["check"]
transform = depthwise.fourier_for(7, 7, 9, 1)
hint = "7 + 4 rows, (7 + 4) // 2 + 1 columns; a product of a plane with a matrix of what shape?"
check(answer, transform.forward.size + transform.inverse.size, hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The transform has 11 x 11 points, of which 11 x 6 are kept, so 132 numbers. The way there is a
# product of 49 pixels with a matrix 49 x 132, the way back one of 132 x 49:
#
# ```python
# answer = 2 * 49 * 132
# ```
#
# More than three times what the definition takes, and still faster: a multiplication inside a
# large matrix product costs a small part of one outside. Counting operations does not tell the
# time.
#
# </details>
#
# Next: [10, from TensorFlow checkpoint to
# weights](10_from_tensorflow_checkpoint_to_weights.ipynb): where all these numbers come from.
