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
# # What is a convolution, and how is it one matrix product?
#
# A convolution slides a small table of numbers, the *kernel*, over a picture. At each position it
# multiplies the pixels under the kernel by the kernel's numbers and adds up the products. Nine
# numbers are enough to blur a photo, to sharpen it or to find its edges.
#
# Read before: [00](00_classify_a_photo.ipynb), for what the network does as a whole.

# %%
from start import *

# %% [markdown]
# ## Three kernels made by hand, on a photo
#
# Here are three kernels of 3x3. What does each of them answer where all pixels are equal? The sum
# of its numbers says it.

# %%
kernels = {
    "blur": np.full((3, 3), 1 / 9),
    "edge": np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]]),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}
print("sums:", {name: round(float(kernel.sum()), 6) for name, kernel in kernels.items()})

# %% [markdown]
# And this is what they make of a part of the photo in grey:

# %%
from tinymixnet.engine.kernels import conv2d

pixels = model.pixels(CAT)
grey = pixels[:, 24:72, 24:72].mean(axis=3, keepdims=True)  # (1, 48, 48, 1)
answers = {name: conv2d(grey, k.reshape(3, 3, 1, 1))[0, :, :, 0] for name, k in kernels.items()}
pictures.show_kernels(grey[0, :, :, 0], kernels, answers)

# %% [markdown]
# - **blur** is the mean of nine pixels. Its numbers add up to 1, so the brightness stays.
# - **edge** is the right column minus the left one. Its numbers add up to 0, so it answers 0 where
#   all pixels are equal. It answers much where the picture gets brighter (orange) or darker (blue)
#   from left to right.
# - **sharpen** makes each pixel more different from its neighbours. Its numbers add up to 1 again.
#
# At the frame of each result you see that zeros, which are black, lie around the picture.
# [03](03_same_padding.ipynb) is about these zeros.
#
# ## By hand: four loops
#
# Here is the definition, over plain numbers. Two loops go over the positions, and two over the
# kernel. Where the kernel reaches outside the picture it meets zeros, so these products are left
# out.


# %%
def slide(picture, kernel):
    """Slide a 3x3 kernel over a picture (H, W), one product after another."""
    height, width = picture.shape
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    y, x = row + i - 1, column + j - 1
                    if 0 <= y < height and 0 <= x < width:
                        result[row, column] += picture[y, x] * kernel[i, j]
    return result


toy = np.array([[0, 0, 0, 9, 9, 9]] * 4)
print("picture\n", toy, "\nedge\n", slide(toy, kernels["edge"]).astype(int), sep="")
print("blur\n", slide(toy, kernels["blur"]).round(1), sep="")

# %% [markdown]
# Find the edge between the third column and the fourth in both results. Look at the frame, too: the
# zeros outside make a second edge at the right, and darken the blurred picture there. Now the same
# loops on the photo:

# %%
for name, kernel in kernels.items():
    difference = np.abs(slide(grey[0, :, :, 0], kernel) - answers[name]).max()
    print(f"{name:8} conv2d and the loops, within 0.001 of 255: {bool(difference < 1e-3)}")

# %% [markdown]
# (Mathematicians turn the kernel upside down and back to front before they slide it, and call this
# version a correlation. Everybody who builds networks leaves the kernel as it is and says
# convolution, and so do we.)
#
# ## Kernels made by training
#
# A network differs in three things. Its kernels read several *channels* at once: a kernel of the
# first layer has 3x3 numbers for each of red, green and blue, and all 27 products go into one sum.
# A layer has many kernels, also called *filters*, and each makes one channel of the output. And
# nobody chooses the numbers: training finds them.
#
# The first layer of MixNet, the stem, also has *stride* 2: it moves by two pixels at a time, so
# that its output has half the rows and half the columns. Here are six of its filters, as the small
# colour pictures that they are (mid-grey is zero), above what they answer. Again a sum tells what a
# filter is for. Its *balance* adds up the nine numbers of each colour, and divides by the sum of
# all absolute values. It is 0 if the numbers of each colour cancel out, as in "edge", and 1 if all
# numbers of a colour have the same sign, as in "blur".

# %%
from tinymixnet.engine.kernels import normalize

normalized = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]  # (3, 3, 3, filters): row, column, colour, filter
stem = conv2d(normalized, kernel, stride=2)  # (1, H/2, W/2, filters)
print("kernel", kernel.shape, " input", normalized.shape, " output", stem.shape)
balance = np.abs(kernel.sum(axis=(0, 1))).sum(axis=0) / np.abs(kernel).sum(axis=(0, 1, 2))
strong = np.argsort(-np.abs(kernel).sum(axis=(0, 1, 2)))[:24]  # not those of nearly zeros
strong = strong[np.argsort(balance[strong])]
pictures.show_learned_filters(kernel, stem[0], [*strong[:3], *strong[-3:]], balance)

# %% [markdown]
# Compare them with ours. The three at the left are nearest to "edge". Look for two sides of a
# filter that differ, and for lines of that direction in its answer. The three at the right are
# nearest to "blur": they answer to the brightness, or to a colour, of whole areas.
#
# ## The same as a matrix product
#
# Sliding is a job for loops, and loops in Python are slow: the interpreter does one small operation
# at a time. A matrix product does a great many in a single call, in compiled code. So we write the
# patches under the kernel as the rows of a matrix. Here with nine pixels and a kernel of two by
# two. Zeros stand below and at the right, so each of the nine positions has a patch of four pixels.

# %%
picture = np.arange(1, 10).reshape(3, 3)
padded = np.zeros((4, 4), int)
padded[:3, :3] = picture
print("picture, with zeros\n", padded, "\nkernel\n[[1 2]\n [3 4]]", sep="")
print("\npatches       times 1 2 3 4")
rows = []
for i in range(3):
    for j in range(3):
        row = padded[i : i + 2, j : j + 2].ravel()
        rows.append(row)
        products = " + ".join(f"{row[n]}*{n + 1}" for n in range(4))
        print(row, "    ", products, "=", row @ (1, 2, 3, 4))

# %% [markdown]
# Nine sums with the same four weights are one matrix product: nine rows times one column. A second
# filter is a second column. That is the whole trick, and its name is *im2col*, "image to columns".
# The package does it in three short functions:

# %%
from tinymixnet.engine.kernels import im2col, windows

show(windows)

# %%
show(im2col)

# %%
show(conv2d)

# %%
x = picture.reshape(1, 3, 3, 1).astype(np.float32)
two_by_two = np.array([1, 2, 3, 4], np.float32).reshape(2, 2, 1, 1)
print("the same patches:", np.array_equal(im2col(x, (2, 2)).reshape(9, 4), rows))
print(conv2d(x, two_by_two)[0, :, :, 0])

# %% [markdown]
# One line of `windows` deserves a second look: `sliding_window_view` copies nothing. It returns the
# same memory with other *strides*. These are the numbers of bytes to the next row and to the next
# column, of positions and also *within* a patch. So neighbouring patches share their pixels. They
# are copied only when `im2col` asks for rows whose numbers lie one after another.

# %%
patches = windows(x, (2, 2), 1)
print("shape  ", patches.shape, " images, rows, columns, channels, rows and columns in the patch")
print("strides", patches.strides, "bytes: to the next position is as far as to the next pixel")
print("bytes  ", patches.nbytes, "if they were copied;", 4 * padded.size, "in memory")

# %% [markdown]
# On the photo: one output of the stem is one row of the matrix times one column of weights. Here it
# is for one position, and for the filter that answers most strongly there.

# %%
matrix = im2col(normalized, (3, 3), 2)
columns = kernel.reshape(-1, kernel.shape[3])
row, column = 27, 20  # a position in the output; in the photo it is twice as far
chosen = int(np.abs(stem[0, row, column]).argmax())
products = matrix[0, row, column] * columns[:, chosen]
print("matrix", matrix.reshape(-1, len(columns)).shape, "times weights", columns.shape)
print(f"sum of the products {products.sum():.4f}, conv2d {stem[0, row, column, chosen]:.4f}")
pictures.show_patch(pixels[0], products.reshape(3, 3, 3), stem[0, ..., chosen], row, column)

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
titles = ["3x3, stride 1", "3x3, stride 2"]
pictures.show_maps(counts, titles, "patches a pixel is in", height=4, numbers=".0f")

# %% [markdown]
# That is the price: away from the edges, the matrix of a 3x3 convolution with stride 1 repeats each
# pixel 3 * 3 times, and that of a 9x9 convolution 9 * 9 times. For the stem, once and with few
# channels, this is nothing. For the many large kernels of MixNet's blocks it would be too much, and
# [02](02_depthwise_and_mixconv.ipynb) shows what they do instead.
#
# A 1x1 convolution has no such price. Its patch is the pixel itself, so the picture *is* the matrix
# already. Most of MixNet's work is of this kind.

# %%
from tinymixnet.engine.kernels import pointwise_conv2d

show(pointwise_conv2d)

# %%
one_by_one = np.random.default_rng(0).normal(size=(1, 1, 32, 8)).astype(np.float32)
both = pointwise_conv2d(stem, one_by_one), conv2d(stem, one_by_one)
print("equal to conv2d:", np.allclose(*both, atol=1e-5))

# %% [markdown]
# ## What one output sees: the receptive field
#
# One output of a 3x3 layer depends on 3x3 pixels. But the next layer looks at 3x3 of *those*
# outputs. All the pixels that can reach an output are its *receptive field*. To find them, light
# one pixel at a time and see whether the output in the middle changes. An identity matrix is a
# batch of such pictures: each of its rows has a single 1. With kernels of ones, the output even
# counts in how many ways the pixel reaches it.


# %%
def ways(strides, size=17):
    """In how many ways each pixel reaches the middle output of 3x3 layers: (size, size)."""
    x = np.eye(size * size, dtype=np.float32).reshape(-1, size, size, 1)
    for stride in strides:
        x = conv2d(x, np.ones((3, 3, 1, 1), np.float32), stride)
    middle = x.shape[1] // 2
    return x[:, middle, middle, 0].reshape(size, size)


fields = {f"stride {s}": [ways([s] * layers) for layers in (1, 2, 3)] for s in (1, 2)}
pictures.show_growing_fields(fields)

# %% [markdown]
# Each layer makes the field wider by two steps, one on each side. In the first layer a step is one
# pixel. After a layer with stride 2, a step to the neighbour is twice as long *in the photo*. So
# strides make the field grow fast: with stride 1 it is 3, 5, 7, with stride 2 it is 3, 7, 15. This
# is why depth matters: deep layers see large things although every kernel is small.
#
# The colours say a second thing: not all pixels of the field count the same. Many more ways start
# near the middle than at the rim:

# %%
three = fields["stride 1"][2]
print("ways from each row of the field:", *three.sum(axis=1)[5:12].astype(int))
print(f"the middle 3x3 pixels of 7x7 have {three[7:10, 7:10].sum() / three.sum():.0%} of all ways")

# %% [markdown]
# How wide is the field at the end of MixNet? Walk from the photo to the head and add two steps for
# each layer with a kernel of 3x3. (MixNet's kernels are up to 9x9;
# [02](02_depthwise_and_mixconv.ipynb) shows what they add. Here all of them count as 3x3.)

# %%
field, step = 1, 1
layers = [("stem", 2)] + [(block.name, block.stride) for block in model.architecture.blocks]
for position, (name, stride) in enumerate(layers):
    field += (3 - 1) * step
    step *= stride
    if position + 1 == len(layers) or layers[position + 1][1] > 1:
        print(f"after {name:9} one step is {step:2} pixels, the field {field:3} pixels wide")

# %% [markdown]
# The last cells are 32 pixels apart, but each could look at all of a photo of 128 pixels. That is
# the warning of [00](00_classify_a_photo.ipynb): the map says at which cell of the last layer
# something speaks for a label. What the cell has seen is most likely near its place, but it need
# not be.
#
# Now turn the question round, on the real photo and with the trained weights. Change one pixel: who
# notices? Here are the stem and the first three blocks, in which only the kernels look at other
# places. (Later blocks also have squeeze-and-excite, which lets every pixel reach every output a
# little: see [05](05_swish_and_squeeze_excite.ipynb).)

# %%
row, column = 63, 63
changed = pixels.copy()
changed[0, row, column] = 255 - changed[0, row, column]
names = ["stem/conv", "blocks_0/output", "blocks_1/output", "blocks_2/output"]
changes = {}
for (name, before), (_, after) in zip(model.layers(pixels), model.layers(changed), strict=True):
    if name in names:
        changes[name] = np.abs(after - before)[0].max(axis=-1)
pictures.show_who_notices(changes, row, column, pixels.shape[1])

# %% [markdown]
# The spot grows with every layer, as the fields did. Look where the change is largest: in the
# middle of the spot, or at its rim?
#
# ## Check: against six loops, and against TensorFlow
#
# The stem again as plain loops: over rows, columns and filters of the output, and over rows,
# columns and channels of the patch. The stem pads with zeros below and at the right only (03 says
# why), so the first row of a patch is at 2 * row.


# %%
def naive_stem(x, kernel):
    """A 3x3 convolution of stride 2 over an even picture, one multiply-add after another."""
    _, h, w, c = x.shape
    inputs, weights = x[0].tolist(), kernel.tolist()
    result = np.zeros((h // 2, w // 2, kernel.shape[3]))
    for row, column, output in np.ndindex(result.shape):
        total = 0.0
        for i in range(3):
            for j in range(3):
                if 2 * row + i < h and 2 * column + j < w:
                    for channel in range(c):
                        value = inputs[2 * row + i][2 * column + j][channel]
                        total += value * weights[i][j][channel][output]
        result[row, column, output] = total
    return result


# %%
from time import perf_counter

start = perf_counter()
by_loops = naive_stem(normalized, kernel)
seconds = perf_counter() - start
difference = np.abs(by_loops - stem[0]).max() / np.abs(stem).max()
print("multiply-adds in the loops:", f"{stem.size * 27:,}")
print("within 1e-6 of the loops:", bool(difference < 1e-6))

# %% tags=["timing"]
fastest = 1.0
for _ in range(20):
    start = perf_counter()
    conv2d(normalized, kernel, stride=2)
    fastest = min(fastest, perf_counter() - start)
print(f"loops  {stem.size * 27 / seconds / 1e6:7,.0f} million multiply-adds a second")
print(f"conv2d {stem.size * 27 / fastest / 1e6:7,.0f} million multiply-adds a second")

# %% [markdown]
# It is not the processor that is bad at loops: a matrix product is made of loops as well. Python's
# interpreter is what takes the time. For every single product it looks up what kind of numbers it
# has, calls the right function and makes a new object for the result. The compiled code inside
# NumPy knows that once for all numbers, and it lets the processor do several products with one
# instruction.
#
# And TensorFlow's recorded answers:

# %%
from recorded import RECORDED, kernel_cases

agree = []
with np.load(RECORDED) as recorded:
    for name, case in kernel_cases().items():
        if case.operation == "conv2d":
            bias = case.arrays[2] if len(case.arrays) > 2 else None
            ours = conv2d(*case.arrays[:2], case.stride, bias)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print(f"convolutions that agree with TensorFlow: {sum(agree)} of {len(agree)}")

# %% [markdown]
# "Agree" means up to 0.00001, not to the last bit. For exact numbers, the order of a sum does not
# matter. A machine rounds after every addition, and each matrix product adds up in an order of its
# own. After the pixels of 00, this is another reason why libraries disagree, although a small one:
# [04](04_batch_norm.ipynb) measures it.
#
# ## Exercises
#
# ### Exercise 1
#
# Which kernel of 3x3 moves a picture by one pixel to the right, and changes nothing else? Put it
# into `answer`: a list of three lists, or an array. (Think of one output pixel: where must its
# value come from?)

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
moved = np.zeros((3, 3), int)
moved[1, 0] = 1
check(answer, moved, hint="one number is 1, all others are 0; try slide(toy, np.array(answer))")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
# ```
#
# Each output pixel takes the value of its left neighbour. So the 1 is on the *left* of the middle,
# and the picture moves to the *right*. A port that turns its kernels by mistake moves it to the
# other side.
# </details>
#
# ### Exercise 2
#
# Four layers follow each other, all with 3x3 kernels; their strides are 2, 1, 2 and 1. How many
# pixels wide is the receptive field of one output?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
reached = ways([2, 1, 2, 1], size=33)
check(
    answer, int((reached.sum(axis=0) > 0).sum()), hint="each layer adds 2 steps: how long is one?"
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = 1 + 2 * 1 + 2 * 2 + 2 * 2 + 2 * 4
# ```
#
# A stride makes the steps of the *following* layers longer, so the last layer's two steps are four
# pixels each.
# </details>
#
# ### Exercise 3
#
# There is a way between nine loops and one large matrix: a 3x3 convolution is a sum of nine matrix
# products, one for each place in the kernel. Each takes the whole picture, moved by a pixel or
# none, times the `kernel[i, j]` of that place, which is (channels, filters). Write a function of
# `x` (1, H, W, C) and `kernel` (3, 3, C, filters), for stride 1, without `conv2d` and `im2col`, and
# put it into `answer`. It runs on the photo with the filters of the stem.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
expected = conv2d(normalized, kernel)
hint = "np.pad one zero on each side; padded[:, i : i + h, j : j + w] is the moved picture"
check(answer, expected, hint, given=(normalized, kernel))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def nine_products(x, kernel):
#     _, h, w, _ = x.shape
#     padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
#     total = 0
#     for i in range(3):
#         for j in range(3):
#             total = total + padded[:, i : i + h, j : j + w] @ kernel[i, j]
#     return total
#
#
# answer = nine_products
# ```
#
# No pixel is written nine times, so it takes less memory than im2col; in return the sum is read and
# written nine times. Which is faster depends on the number of channels.
# [09](09_where_the_time_goes.ipynb) is about such choices.
# </details>
#
# Next: kernels of up to 9x9, without the large matrix. [02: What does a 9x9 kernel see that a 3x3
# does not?](02_depthwise_and_mixconv.ipynb)
