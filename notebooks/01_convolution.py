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
# # How is a convolution one matrix product?
#
# A convolution slides a small kernel over a picture. Written as loops that is a loop over rows,
# columns, kernel rows, kernel columns, input channels and output channels. Processors are bad at
# such loops and very good at one thing: multiplying matrices. So the patches under the kernel are
# written out as the rows of a matrix, and the sliding is done.
#
# You need: [01](01_same_padding.ipynb), for what happens at the edges.

# %%
import inspect
from pathlib import Path

import numpy as np
from exercise import check
from IPython.display import Code
from pictures import draw_bars, draw_box, draw_image, draw_map, panels, show_maps
from recorded import RECORDED, kernel_cases

import tinymixnet
from tinymixnet.engine.kernels import conv2d, im2col, normalize, pointwise_conv2d, windows

model = tinymixnet.load()
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"

# %% [markdown]
# ## By hand: nine pixels, a kernel of two by two
#
# SAME padding puts one row of zeros below and one column at the right. Each of the nine positions
# sees four pixels. Written out row by row, each position becomes one line of four numbers.

# %%
picture = np.arange(1, 10).reshape(3, 3)
toy_kernel = np.array([[1, 2], [3, 4]])
print("picture\n", picture, "\nkernel\n", toy_kernel, sep="")

padded = np.zeros((4, 4), int)
padded[:3, :3] = picture
rows = []
for i in range(3):
    for j in range(3):
        rows.append(padded[i : i + 2, j : j + 2].ravel())
print("\npatches       times 1 2 3 4")
for row in rows:
    products = " + ".join(
        f"{value}*{weight}" for value, weight in zip(row, (1, 2, 3, 4), strict=True)
    )
    print(row, "    ", products, "=", row @ (1, 2, 3, 4))

# %% [markdown]
# Nine dot products with the same four weights are one matrix product: nine rows times one column.
# A second output channel is a second column. That is all there is to it.
#
# ## The package's functions

# %%
Code(inspect.getsource(windows), language="python")

# %%
Code(inspect.getsource(im2col), language="python")

# %%
Code(inspect.getsource(conv2d), language="python")

# %%
x = picture.reshape(1, 3, 3, 1).astype(np.float32)
columns = im2col(x, (2, 2))
print("the same patches:", np.array_equal(columns[0].reshape(9, 4), rows))
print(conv2d(x, toy_kernel.reshape(2, 2, 1, 1).astype(np.float32))[0, :, :, 0])

# %% [markdown]
# One line of `windows` deserves a second look: `sliding_window_view` copies nothing. It returns
# the same memory with other *strides*: how many bytes to go for the next row, the next column, and
# again for the next row and column *within* the patch. Neighbouring patches share their pixels.
# The copy comes later, when `im2col` asks for rows that lie one after the other.

# %%
patches = windows(x, (2, 2), 1)
print("shape  ", patches.shape, " N, OH, OW, C, KH, KW")
print("strides", patches.strides, "bytes: a step of the window is a step in the patch")
print("as if  ", patches.nbytes, "bytes; in truth", 4 * padded.size)

# %% [markdown]
# ## On the photo: one patch, one number
#
# The stem of the network is a 3x3 convolution over three colours: each row of its matrix has 3 * 3
# * 3 numbers. Let us follow the patch at the edge of the cat's nose through one of the filters.

# %%
pixels = model.pixels(PHOTO)
normalized = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]  # (3, 3, 3, filters): row, column, colour, filter
stem = conv2d(normalized, kernel, stride=2)
matrix = im2col(normalized, (3, 3), 2)
rows_of_weights = kernel.reshape(-1, kernel.shape[3])
row, column = 27, 20  # of the output, half of those in the photo
patch = matrix[0, row, column]
chosen = int(np.abs(stem[0, row, column]).argmax())
weights = rows_of_weights[:, chosen]
print(
    "the matrix", matrix.reshape(-1, len(patch)).shape, "times the weights", rows_of_weights.shape
)
print(f"the sum of the products is {patch @ weights:.4f},", end=" ")
print(f"conv2d says {stem[0, row, column, chosen]:.4f}")

figure, axes = panels(1, 3, 4.6, width_ratios=[2, 3, 2])
draw_image(axes[0, 0], pixels[0], "the patch in the photo")
draw_box(axes[0, 0], 2 * row, 2 * column, 3, 3)
names = [f"{colour} {i},{j}" for i in range(3) for j in range(3) for colour in "RGB"]
draw_bars(axes[0, 1], names, patch * weights, "pixel * weight", "one row times one column", None)
axes[0, 1].tick_params(axis="y", labelsize=8)
axes[0, 1].set_ylabel("colour, row and column in the patch")
draw_map(axes[0, 2], stem[0, :, :, chosen], f"filter {chosen}, all positions", "value", True)
draw_box(axes[0, 2], row, column, 1, 1)

# %% [markdown]
# The same for all positions and all filters at once is one call of the `@` above. Below, six of
# the filters as the little colour pictures they are (each brightened to its own range, mid-grey is
# zero), and what they answer. They compare light with dark, or one colour with another, between
# one side and the other.

# %%
strongest = np.argsort(-stem[0].std(axis=(0, 1)))[:6]
_, axes = panels(2, 6, 4.2)
for axis, filter_ in zip(axes[0], strongest, strict=True):
    tiny = kernel[..., filter_]
    draw_image(axis, 127.5 + 127.5 * tiny / np.abs(tiny).max(), f"filter {filter_}")
    axis.label_outer()
largest = float(np.abs(stem[..., strongest]).max())
for axis, filter_ in zip(axes[1], strongest, strict=True):
    bar = draw_map(axis, stem[0, ..., filter_], "", None, True, (-largest, largest))
    axis.label_outer()
_ = axes[1, 0].figure.colorbar(bar, ax=axes[1], label="value")

# %% [markdown]
# ## What it costs: every pixel many times over
#
# A pixel stands in every patch that covers it. To see how often, apply im2col to a picture whose
# pixels are numbered, and count the numbers.

# %%
numbered = np.arange(1, 101).reshape(1, 10, 10, 1)
counts = []
for stride in (1, 2):
    counted = np.bincount(im2col(numbered, (3, 3), stride).ravel(), minlength=101)
    counts.append(counted[1:].reshape(10, 10))
    print(f"stride {stride}: a pixel stands in {counted[1:].mean():.2f} patches on average")
show_maps(
    counts, ["3x3, stride 1", "3x3, stride 2"], "patches a pixel is in", height=4, numbers=".0f"
)

# %% [markdown]
# That is the price: away from the edges the matrix of a 3x3 convolution with stride 1 repeats each
# pixel 3 * 3 times, that of a 9x9 convolution 9 * 9 times. For the stem, once and with few
# channels, this is nothing. For the many large kernels of MixNet's blocks it would be too much,
# and [03](03_depthwise_and_mixconv.ipynb) shows why they do without.
#
# A 1x1 convolution, on the other hand, has nothing to lay out: its patch is the pixel itself. The
# picture *is* the matrix already, and most of MixNet's work is of this kind.

# %%
Code(inspect.getsource(pointwise_conv2d), language="python")

# %%
rng = np.random.default_rng(0)
x = rng.normal(size=(1, 8, 8, 6)).astype(np.float32)
weights = rng.normal(size=(1, 1, 6, 4)).astype(np.float32)
both = pointwise_conv2d(x, weights), conv2d(x, weights)
print("equal to conv2d:", np.allclose(*both, atol=1e-6))

# %% [markdown]
# ## Check: against the six loops, and against TensorFlow
#
# Here are the loops of the first paragraph, over plain Python numbers. Where the kernel reaches
# outside the picture it meets a zero, so that product is left out. The stem pads (0, 1), as 01 has
# shown: the first tap is at 2 * row.


# %%
def naive_stem(x, kernel):
    """A 3x3 convolution of stride 2 over an even picture, one multiply-add after another."""
    _, h, w, c = x.shape
    inputs, weights = x[0].tolist(), kernel.tolist()
    result = np.zeros((h // 2, w // 2, kernel.shape[3]))
    for row in range(h // 2):
        for column in range(w // 2):
            for output in range(kernel.shape[3]):
                total = 0.0
                for i in range(3):
                    for j in range(3):
                        if 2 * row + i < h and 2 * column + j < w:
                            for channel in range(c):
                                value = inputs[2 * row + i][2 * column + j][channel]
                                total += value * weights[i][j][channel][output]
                result[row, column, output] = total
    return result


difference = np.abs(naive_stem(normalized, kernel) - stem[0]).max() / np.abs(stem).max()
print("multiply-adds in the loops:", f"{stem.size * 27:,}")
print("within 1e-6 of the loops:", bool(difference < 1e-6))

# %%
agree = []
with np.load(RECORDED) as recorded:
    for name, case in kernel_cases().items():
        if case.operation == "conv2d":
            bias = case.arrays[2] if len(case.arrays) > 2 else None
            ours = conv2d(*case.arrays[:2], case.stride, bias)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print(f"convolutions that agree with TensorFlow: {sum(agree)} of {len(agree)}")

# %% [markdown]
# "Agree" means to a few units in the sixth decimal, not to the last bit. The mathematics says that
# the order of a sum does not matter; a machine that rounds after every addition says otherwise,
# and each matrix product adds up in an order of its own. This is the third reason why libraries
# disagree; [04](04_folding_batch_norm.ipynb) measures it.
#
# ## Exercise
#
# How many bytes does the stem's matrix take for one picture of 224 x 224 pixels, in float32 (4
# bytes each)? The stem has stride 2.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
large = np.zeros((1, 224, 224, 3), np.float32)
check(answer, im2col(large, (3, 3), 2).nbytes, hint="positions times numbers in a row times 4")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = 112 * 112 * (3 * 3 * 3) * 4
# ```
#
# Half the rows, half the columns, nine pixels of three colours at each position, four bytes each.
# The picture itself takes `224 * 224 * 3 * 4`, less than half of that.
# </details>
#
# Next: kernels up to 9x9, without the matrix. [03: What does a 9x9 kernel see that a 3x3 does
# not?](03_depthwise_and_mixconv.ipynb)
