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
# Yours will be others, so the text says what to look for, not what to find.
#
# Read before: [01](01_convolution.ipynb) for im2col,
# [02](02_depthwise_and_mixconv.ipynb) for depthwise kernels, [04](04_batch_norm.ipynb) for
# folding.

# %%
from start import *

# %% [markdown]
# The idea in one drawing. Both sides filter one plane with a 3 x 3 kernel, and both are right. On
# the left the plane is read and added once for each weight. On the right it is copied once for
# each *column* of the kernel, and one matrix product does the rest. Memory is slow and arithmetic
# is fast: to save time, save passes over memory, even if that costs more multiplications.

# %%
pictures.show_passes()

# %% [markdown]
# Two helpers. The best of several runs is the fairest time: in all others, something else took the
# processor.

# %%
from time import perf_counter

rng = np.random.default_rng(9)


def random(*shape):
    return rng.normal(size=shape).astype(np.float32)


# %%
def milliseconds(function, *arguments, rounds=15):
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
    """The definition for one image (H, W, C) that is padded already, on nested lists."""
    (h, w, c), (kh, kw, _, outputs) = x.shape, kernel.shape
    pixels, weights = x.tolist(), kernel.tolist()
    y = np.zeros(((h - kh) // stride + 1, (w - kw) // stride + 1, outputs))
    for row, column, output in np.ndindex(y.shape):
        total = 0.0
        for i, j, channel in np.ndindex(kh, kw, c):
            value = pixels[row * stride + i][column * stride + j][channel]
            total += value * weights[i][j][channel][output]
        y[row, column, output] = total
    return y


# %%
from tinymixnet.engine.kernels import conv2d, im2col, windows


def by_einsum(x, kernel, stride):
    patches = windows(x, kernel.shape[:2], stride)  # a view: nothing is copied
    return np.einsum("nhwcij,ijco->nhwo", patches, kernel)


# %%
x, kernel = random(1, 32, 32, 3), random(3, 3, 3, 32)
padded = np.pad(x[0], ((0, 1), (0, 1), (0, 0)))
slow = by_loops(padded, kernel, 2)
assert agree(by_einsum(x, kernel, 2), slow)
assert agree(conv2d(x, kernel, 2), slow)
work = slow.size * 27
larger = im2col(x, (3, 3), 2).size / x.size
print(f"{work:,} multiply-adds; im2col makes the input {larger:.2f} times as large")

# %% tags=["timing"]
steps = {
    "loops in Python": milliseconds(by_loops, padded, kernel, 2, rounds=1),
    "einsum over a view": milliseconds(by_einsum, x, kernel, 2),
    "im2col and a matrix product": milliseconds(conv2d, x, kernel, 2),
}
each = {name: 1e6 * ms / work for name, ms in steps.items()}
pictures.show_times(each, "nanoseconds for each multiply-add (logarithmic)", log=True)

# %% [markdown]
# ## Step 2: the depthwise convolution, which is no matrix product
#
# Each channel has a kernel of its own, so there is nothing to share between channels and no large
# product to make of it. The readable kernel sums over a view of all patches, number by number. One
# can turn the loops inside out, and multiply the whole plane by one weight, shift it, and go on
# with the next: then each operation is long, but it takes K x K passes over memory. That is the
# left side of the drawing.
#
# The right side by hand, for one plane of 3 x 4 pixels and a 3 x 3 kernel: put the rows one after
# another, with something before and behind, so that one can also read from one place earlier or
# later.

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

titles = "the plane", "upper row", "middle row", "lower row", "sum, shifted"
pictures.show_maps([plane, *planes, total], titles, "value", 5, numbers=".0f")

# %%
from tinymixnet.engine.kernels import depthwise_conv2d

expected = depthwise_conv2d(plane[None, :, :, None], weights[:, :, None, None])[0, :, :, 0]
assert np.array_equal(total, expected)
print(expected)

# %% [markdown]
# So K planes are copied and K are added, where the definition takes K x K. The package's kernel
# does this for many channels at once, in arrays that it uses again and again. A row of ones among
# the copies brings the bias along for free. And it saves once more: it cuts the plane into four
# phases, each with every second pixel of every second row, and computes one pixel of each phase in
# the same product. These four pixels need mostly the same inputs, and what several of them need is
# copied and added only once: K + 1 phases for each row of phases, not 2 K.

# %%
from tinymixnet.fast import depthwise

show(depthwise.depthwise_columns)

# %% [markdown]
# ## Step 3: small planes, another way
#
# On a plane of 7 x 7 pixels, rows are so short that every pass is mostly overhead. There the
# package takes a Fourier transform, in which a convolution is a multiplication. The transform
# itself is a matrix, the same for all channels: two large matrix products again.

# %%
show(depthwise.depthwise_fourier)

# %% [markdown]
# Four ways to the same numbers, on a large plane and on a small one. The plan prepares the two
# fast ways once for all images: it orders the pixels in memory, makes the arrays and transforms
# the kernels. So do the next two cells, and this is not timed. Each returns the function to time,
# and one that gives its result. (Skip their details at a first reading.)

# %%
from tinymixnet.fast.layout import Layout, same_pixels


def by_columns(flat, kernel, no_bias, h, w):
    c, k = len(flat), len(kernel)
    plain, layout = Layout(h, w), Layout(h, w, 2)  # row by row, and cut into four phases
    prepared = depthwise.filter_for(kernel, no_bias, layout, 1)
    _, m, n = prepared.matrix.shape
    memory = np.zeros(c * layout.size + 2 * k, np.float32)
    inside = memory[k:-k].reshape(c, -1)
    for pixels, place in same_pixels(flat, plain, inside, layout):
        place[...] = pixels
    shapes = (c, n, layout.phase_size), (m, c, layout.phase_size)
    scratch = [np.empty(shape, np.float32) for shape in shapes]
    ready = depthwise.columns_for(prepared, memory, k, layout, *scratch)
    return (
        lambda: depthwise.depthwise_columns(ready),
        lambda: layout.plane(ready.total.transpose(1, 0, 2).reshape(c, -1)),
    )


# %%
def by_fourier(flat, kernel, no_bias, h, w):
    transform = depthwise.fourier_for(h, w, len(kernel), 1)
    spectra = depthwise.spectra_for(kernel, h, w, 1, transform)
    waves = np.empty((len(flat), transform.forward.shape[1]), np.float32)
    out = np.empty_like(flat)
    return (
        lambda: depthwise.depthwise_fourier(flat, spectra, no_bias, transform, waves, out),
        lambda: Layout(h, w).plane(out),
    )


# %%
def by_shifts(x, kernel):
    """The definition turned inside out: K x K multiply-adds of the whole, shifted input."""
    k, h, w = len(kernel), *x.shape[1:3]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    y = np.zeros_like(x)
    for i, j in np.ndindex(k, k):
        y += padded[:, i : i + h, j : j + w] * kernel[i, j, :, 0]
    return y


# %% [markdown]
# All of them are checked against the readable kernel, and that one against the loops.


# %%
def readable_ways(x, kernel):
    """Milliseconds of the two ways that take the image as it is."""
    assert agree(by_shifts(x, kernel), depthwise_conv2d(x, kernel))
    ways = {"einsum (readable)": depthwise_conv2d, "K x K shifts": by_shifts}
    return {name: milliseconds(way, x, kernel, rounds=5) for name, way in ways.items()}


def fast_ways(x, kernel):
    """Milliseconds of the two ways that are prepared first."""
    (_, h, w, c), times = x.shape, {}
    flat, no_bias = np.ascontiguousarray(x[0].reshape(-1, c).T), np.zeros(c, np.float32)
    for name, prepare in {"columns": by_columns, "Fourier": by_fourier}.items():
        if name == "columns" or h <= 28:  # Fourier's matrix is as large as the plane squared
            run, result = prepare(flat, kernel, no_bias, h, w)
            run()
            assert agree(result(), depthwise_conv2d(x, kernel)[0])
            times[name] = milliseconds(run)
    return times


# %%
def ways(side, size, channels=48):
    """Microseconds a channel of each way."""
    x, kernel = random(1, side, side, channels), random(size, size, channels, 1)
    times = readable_ways(x, kernel) | fast_ways(x, kernel)
    return {name: 1e3 * ms / channels for name, ms in times.items()}


x, kernel = random(1, 12, 12, 1), random(5, 5, 1, 1)
slow = by_loops(np.pad(x[0], ((2, 2), (2, 2), (0, 0))), kernel, 1)
assert agree(depthwise_conv2d(x, kernel), slow)
print("the readable kernel equals the loops")

# %% tags=["timing"]
cases = {
    f"{size} x {size} kernel, plane of {side} x {side}": ways(side, size)
    for side in (56, 7)
    for size in (3, 9)
}
pictures.show_times_of_ways(cases, "microseconds a channel")

# %% [markdown]
# The fastest way is drawn dark. Look at how each way pays for a larger kernel: the work of the
# readable one and of the shifts grows with K x K, the passes of the columns grow with K, and for
# Fourier only the border grows. And look at how each pays for a larger plane: the Fourier matrices
# grow with the square of its pixels. So the plan asks how many pixels a plane has, and takes one
# or the other.
#
# ## Step 4: small change
#
# A 1x1 convolution is a matrix product in both paths. But four more things cost time in the
# readable one, and none of them is arithmetic that the network needs:
#
# - Batch norm goes over the whole tensor; folded into the kernel before it, it costs nothing.
# - Swish in the readable form takes several passes over new arrays. The fast one takes three in
#   place, in one of two ways. With h = x / 2, x * sigmoid(x) = h * (1 + tanh(h)). With y = -x,
#   -x * sigmoid(x) = y / (1 + exp(y)). The half or the sign is folded into the kernels as well.
#   Which way is faster depends on the processor, so a plan measures both, once.
# - ReLU: the fast kernel compares with an array of zeros instead of the number 0, which sounds
#   like more work. See below which is faster on the machine that made this page.
# - Every new array is memory that the operating system has to find. The fast kernels write into
#   arrays that are there.

# %%
from tinymixnet.fast import kernels as fast
from tinymixnet.fast.swish import fastest, negated_swish_to, swish_of_half_to

show(swish_of_half_to)
show(negated_swish_to)

# %%
from tinymixnet.engine.kernels import batch_norm, pointwise_conv2d, relu, swish

n, h, w, c = shape = (1, 56, 56, 64)
x, narrow = random(*shape), random(1, 1, c, c)
planes = np.ascontiguousarray(x[0].reshape(-1, c).T)
matrix, zeros = np.ascontiguousarray(narrow[0, 0].T), np.zeros(planes.size, np.float32)
flat, out, scratch = planes.reshape(-1), np.empty(planes.size, np.float32), np.empty_like(zeros)
half, negated = flat / 2, -flat
vectors = [random(c) for _ in range(3)] + [np.ones(c, np.float32)]

swish_of_half_to(half, scratch, out)
assert agree(out, swish(flat))
negated_swish_to(negated, scratch, out)
assert agree(-out, swish(flat))
fast.relu_to(flat, zeros, out)
assert np.array_equal(out, relu(flat))

# %% tags=["timing"]
pairs = {
    "1x1 convolution": (
        milliseconds(pointwise_conv2d, x, narrow),
        milliseconds(np.matmul, matrix, planes, out.reshape(c, -1)),
    ),
    "batch norm": (milliseconds(batch_norm, x, *vectors, 1e-3), 0.0),
    "swish, by tanh": (milliseconds(swish, x), milliseconds(swish_of_half_to, half, scratch, out)),
    "swish, by exp": (
        milliseconds(swish, x),
        milliseconds(negated_swish_to, negated, scratch, out),
    ),
    "relu": (milliseconds(relu, x), milliseconds(fast.relu_to, flat, zeros, out)),
}
pictures.show_readable_and_fast(pairs, f"ms for {h} x {w} x {c}")

# %% [markdown]
# ## The whole network, on the photo
#
# The plan puts it together: a list of steps, made once for an input size, each a kernel with its
# arrays. The photo has 224 pixels a side here, as the official weights take it; what it is called
# at that size does not matter now.

# %%
from tinymixnet.engine.images import read_image

pixels = np.asarray(read_image(CAT).resize((224, 224)), np.float32)[np.newaxis]
readable = dict(model.layers(pixels))
assert agree(model(pixels), readable["logits"])
program = model.plan.program(224, 224)
print(f"{len(program.steps)} steps; their logits equal the readable path's")
for step in program.steps[:8]:
    print(f"  {step.layer:20} {step.kernel}")

# %% [markdown]
# To run the network is to run down the list. So it is easy to put a clock beside every step, and
# the plan has a method for it:

# %%
show(type(model.plan).profile)


# %%
def part_of(layer):
    name = layer.split("/")[0]
    name = {"image": "stem", "normalize": "stem"}.get(name, name)
    return {"logits": "head", "probabilities": "head"}.get(name, name)


# %%
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


# %%
def best(run, rounds):
    runs = [run() for _ in range(rounds)]
    return {key: min(r[key] for r in runs) for key in runs[0]}


# %% tags=["timing"]
by_layers, by_steps = best(readable_run, 4), best(fast_run, 8)
kernels = ["matmul", "depthwise_columns", "depthwise_fourier"]
kernels += [fastest().activate.__name__, "relu_to", "squeeze"]
pictures.show_profile(by_layers, by_steps, kernels)
print(f"readable {sum(by_layers.values()):.0f} ms, fast {sum(by_steps.values()):.0f} ms")

# %% [markdown]
# What is left is mostly in matrix products, which a good BLAS does about as fast as the processor
# can, and in the depthwise kernels. Is a part's time its share of the work, which
# [06](06_reading_block_strings.ipynb) counted? Compare the first parts, where planes are large and
# more of the time goes into passes over memory, with the last.

# %% tags=["timing"]
work, times = {}, {}
for row in model.architecture.layers(224, 224):
    part = part_of(row.name)
    work[part] = work.get(part, 0) + row.multiply_adds
for (part, _), ms in by_steps.items():
    times[part] = times.get(part, 0) + ms
pictures.show_work_and_time(work, times)

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# Where would more work pay? Suppose that somebody made the matrix products (`matmul`) infinitely
# fast. How many times as fast would the whole network be, on your machine? Compute it from
# `by_steps`, which has the milliseconds of each (part, kernel).

# %% tags=["exercise"]
answer = None  # time now / time then

# %% jupyter={"source_hidden": true} tags=["check"]
others = sum(ms for (_, kernel), ms in by_steps.items() if kernel != "matmul")
check(answer, sum(by_steps.values()) / others, hint="the sum of all, by the sum of all others")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# everything = sum(by_steps.values())
# products = sum(ms for (part, kernel), ms in by_steps.items() if kernel == "matmul")
# answer = everything / (everything - products)
# ```
#
# That is Amdahl's law: the part that you do not speed up limits what you can win.
#
# </details>

# %% [markdown]
# ### Exercise 2
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
# More than three times what the definition takes; see above whether it is faster all the same. A
# multiplication inside a large matrix product costs a small part of one outside, so counting
# operations does not tell the time.
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# Step 2 did the columns by hand for one 3 x 3 kernel. Write it for a square kernel of any odd
# size: a function of a plane (H, W) and a kernel (K, K) that returns the convolution with stride 1
# and SAME padding, with one matrix product and no loop over pixels. It is tried on a 5 x 5 kernel.

# %% tags=["exercise"]
answer = None  # your function

# %% jupyter={"source_hidden": true} tags=["check"]
tried = random(9, 12), random(5, 5)
wanted = depthwise_conv2d(tried[0][None, :, :, None], tried[1][:, :, None, None])[0, :, :, 0]
hint = "np.pad each side by K // 2; copy j of the padded plane begins at column j"
check(answer, wanted, hint, given=tried)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Padding on all sides first makes it simpler: then no row runs into the next one.
#
# ```python
# def columns(plane, kernel):
#     (h, w), k = plane.shape, len(kernel)
#     padded = np.pad(plane, k // 2)
#     copies = np.stack([padded[:, j : j + w].ravel() for j in range(k)])
#     planes = (kernel @ copies).reshape(k, h + k - 1, w)
#     return sum(planes[i, i : i + h] for i in range(k))
#
#
# answer = columns
# ```
#
# The loops run over the K rows and K columns of the kernel, never over pixels.
#
# </details>
#
# Next: [10, from TensorFlow checkpoint to
# weights](10_from_tensorflow_checkpoint_to_weights.ipynb): where all these numbers come from.
