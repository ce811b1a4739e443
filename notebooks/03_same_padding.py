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
# # Where do the zeros go?
#
# A kernel that looks at three pixels needs, at the edge of a picture, pixels that are not there.
# Zeros take their place, and somebody has to decide how many go on which side. TensorFlow and
# PyTorch decide differently. No program crashes because of it: every feature just lies one pixel
# off, and then more and more.
#
# Read before: [01](01_convolution.ipynb), [02](02_depthwise_and_mixconv.ipynb).

# %%
from start import *

# %%
pictures.show_paddings(6, 3, 2, {"TensorFlow: SAME": (0, 1), "PyTorch: padding=1": (1, 1)})

# %% [markdown]
# Six pixels, a kernel of three, a stride of two. Both give three outputs. But the centres of the
# windows (full colour) are the pixels 1, 3, 5 for TensorFlow and 0, 2, 4 for PyTorch.
#
# ## By hand: the rule
#
# TensorFlow's rule is called SAME. With a stride s it promises n / s outputs, rounded up, from n
# pixels, whatever the kernel. From that all else follows:
#
# - the last window begins (outputs - 1) * s pixels after the first,
# - so the row must be (outputs - 1) * s + k pixels long, where k is the kernel's size,
# - what is missing is added as zeros: half of them, rounded *down*, before, the rest after.

# %%
import math

row = [10, 20, 30, 40, 50, 60]
n, k, s = len(row), 3, 2
outputs = math.ceil(n / s)
needed = (outputs - 1) * s + k  # from the first pixel of the first window to the last of the last
missing = needed - n
before = missing // 2
after = missing - before
print(f"outputs {outputs}, zeros {missing}: {before} before, {after} after")
for name, padded in {"SAME": [0] * before + row + [0] * after, "symmetric": [0, *row, 0]}.items():
    for output in range(outputs):
        window = padded[output * s : output * s + k]
        print(f"{name:9} output {output} sees {window}, its centre is {window[k // 2]}")

# %% [markdown]
# With SAME there is a single zero, and it stands after the row. PyTorch's usual `padding=1` adds
# one on each side. The number of outputs is the same, so all code that follows runs as before. The
# pixels are not the same.
#
# ## The package's function

# %%
from tinymixnet.engine.kernels import same_padding

show(same_padding)

# %% [markdown]
# These are all kernel sizes of the MixNets, on an even and an odd size, with both strides. There
# are more zeros after than before only where the stride is 2 and the size is even.

# %%
print("kernel  stride   even size (64)   odd size (63)")
for stride in (1, 2):
    for kernel in (3, 5, 7, 9, 11):
        even, odd = same_padding(64, kernel, stride), same_padding(63, kernel, stride)
        print(f"{kernel:4}{stride:8}   {even!s:>14} {odd!s:>15}")

# %% [markdown]
# ## One pixel, seen
#
# A picture with two bright pixels, and a kernel that is zero except in its centre: with stride 1 it
# copies the picture. With stride 2 it keeps every second pixel, and the padding decides *which*.
#
# The package has no symmetric padding, but it needs no other convolution for it. With stride 1, a
# kernel of odd size has as many zeros before as after: its padding is symmetric. For stride 2 with
# symmetric padding, take every second row and column of that result: `[:, ::2, ::2]`.

# %%
from tinymixnet.engine.kernels import depthwise_conv2d

dots = np.zeros((1, 8, 8, 1))
dots[0, 3, 3], dots[0, 4, 4] = 1, 2
centre = np.zeros((3, 3, 1, 1))
centre[1, 1] = 1
halved = depthwise_conv2d(dots, centre, stride=2)
moved = depthwise_conv2d(dots, centre, stride=1)[:, ::2, ::2]
shown = [dots[0, ..., 0], halved[0, ..., 0], moved[0, ..., 0]]
titles = ["the picture", "SAME, stride 2", "symmetric, stride 2"]
pictures.show_maps(shown, titles, "value", numbers=".0f", height=3.6)

# %% [markdown]
# SAME kept the odd rows and columns, and with them the first of the two bright pixels. Symmetric
# padding kept the even ones and the second bright pixel. A smoother kernel would see both, but half
# an output pixel away from where they were in training.
#
# ## On the photo: the stem
#
# The stem is a 3x3 convolution with stride 2. Its windows begin one pixel earlier with symmetric
# padding. So it should give the same as SAME padding on a photo that lies one pixel further right
# and down. `np.roll` moves the photo; what leaves it on one side comes in on the other.

# %%
from tinymixnet.engine.kernels import conv2d, normalize

pixels = model.pixels(CAT)
x = normalize(pixels, model.metadata.mean, model.metadata.std)
kernel = model.tensors["stem/conv/kernel"]
same = conv2d(x, kernel, stride=2)
symmetric = conv2d(x, kernel, stride=1)[:, ::2, ::2]
on_moved = conv2d(np.roll(x, (1, 1), axis=(1, 2)), kernel, stride=2)

channel = int((same - symmetric)[0].std(axis=(0, 1)).argmax())
maps = [tensor[0, ..., channel] for tensor in (same, symmetric, on_moved)]
pictures.show_two_paddings(pixels[0], *maps)
for name, tensor in {"the photo": same, "the moved photo": on_moved}.items():
    largest = np.abs(symmetric - tensor)[:, 1:-1, 1:-1].max()
    print(f"largest difference inside from SAME on {name:16}: {largest:.4f}")

# %% [markdown]
# The first difference is strongest at the edges of things, as if the picture were a little blurred
# or noisy. It is neither: it is a move. On the moved photo nothing of the difference is left,
# except at the edge of the picture, where other pixels take the place of the zeros.
#
# ## Five times one pixel
#
# MixNet halves the picture five times. Each time symmetric padding moves the features by one pixel
# of *that layer's input*, and the deeper the layer, the more pixels of the photo this is:

# %%
size, step, moves = pixels.shape[1], 1, {}
strides = {"stem/conv": 2}
strides |= {f"{b.name}/depthwise_conv": b.stride for b in model.architecture.blocks}
halving = [layer for layer, stride in strides.items() if stride == 2]
for layer in halving:
    before, after = same_padding(size, 3, 2)
    moves[layer] = sum([*moves.values()][-1:]) + step * (after - before)
    print(f"{layer:24} gets {size:3} pixels; one is {step:2} of the photo's;", end=" ")
    print(f"moved by {moves[layer]:2} in all")
    size, step = math.ceil(size / 2), 2 * step

# %% [markdown]
# Is that so? `forward` runs the network layer by layer, and takes a replacement for each result:

# %%
from tinymixnet.engine.network import forward

show(forward)

# %% [markdown]
# So we can give the layers of stride 2 symmetric padding. They keep the package's own kernels,
# weights and inputs. Only their zeros are in other places.

# %%
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import mix_conv


def layers_with(symmetric_layers, images):
    """All layers of the network, when those that are named pad symmetrically."""
    steps = forward(images, model.architecture, model.tensors, model.metadata)
    name, tensor = next(steps)
    layers = {name: tensor}
    while name != "probabilities":
        inputs = tensor
        name, tensor = steps.send(tensor)
        if name in symmetric_layers:
            kernels = group_kernels(name, model.tensors)
            every_pixel = mix_conv(inputs, kernels) if kernels else conv2d(inputs, kernel)
            tensor = every_pixel[:, ::2, ::2]
        layers[name] = tensor
    return layers


# %% [markdown]
# Now we move the photo by 0, 1, 2, ... pixels and compare the right network on the moved photo with
# the network of symmetric padding on the photo as it is. Where a curve is lowest, that move of the
# photo is what the padding has done.

# %%
wrong = layers_with(halving, pixels)
differences = {layer: [] for layer in halving}
for move in range(41):
    moved = np.roll(pixels, (move, move), axis=(1, 2))
    layers = layers_with([], moved)
    for layer in halving:
        inside = np.abs(layers[layer] - wrong[layer])[:, 1:-1, 1:-1]
        differences[layer].append(inside.mean() / np.abs(wrong[layer]).mean())
curves = {}
for layer, values in differences.items():
    near = range(max(0, moves[layer] - 9), min(41, moves[layer] + 10))
    curves[layer] = near, [values[move] for move in near]
pictures.show_moves(curves)

# %% [markdown]
# The curves have their lowest points at the moves of the table, or beside them: the deeper the
# layer, the more of its few pixels are near the edge, where moved photo and moved features differ,
# so the curve becomes flatter and does not reach zero. In the last layer every feature is about a
# quarter of the photo away from where it was in training.
#
# ## What is left at the logits
#
# Both photos, with symmetric padding in no layer, in one of the five, and in all:

# %%
answers = {}
for photo in (CAT, COFFEE):
    right = model.classify(photo, top=1)[0]
    print(f"{photo.name}\n{'  symmetric in':28}{'first answer':20}{right.label}: logit")
    for some in [[], *([layer] for layer in halving), halving]:
        layers = layers_with(some, model.pixels(photo))
        answers[photo, len(some)] = layers["logits"][0]
        best = model.labels[layers["logits"][0].argmax()]
        name = {0: "none", 1: "".join(some)}.get(len(some), "all five")
        probability = 100 * layers["probabilities"][0, right.index]
        print(f"  {name:26}{best:20}{layers['logits'][0, right.index]:6.2f}{probability:8.1f} %")

# %%
move = moves[halving[-1]]
moved = np.roll(pixels, (move, move), axis=(1, 2))
logits = {
    "SAME": answers[CAT, 0],
    "symmetric": answers[CAT, 5],
    "SAME, moved photo": layers_with([], moved)["logits"][0],
}
best = np.argsort(-logits["SAME"])[:5]
shown = {name: values[best] for name, values in logits.items()}
titles = ["the photo", f"moved by {move}"]
pictures.show_logits([pixels[0], moved[0]], titles, [model.labels[i] for i in best], shown)
for name in ("SAME", "SAME, moved photo"):
    r = np.corrcoef(logits["symmetric"], logits[name])[0, 1]
    print(f"all logits, symmetric against {name:18} correlation {r:.2f}")

# %% [markdown]
# Nothing fails: every run gives an answer. Whether it is still the right one depends on the photo.
# One that the network is sure of may survive even five wrong layers, and nobody looks for a bug in
# an answer that seems right. So compare logits and layers, not answers:
# [08](08_debugging_layer_by_layer.ipynb) finds this bug by comparing layer with layer.
#
# So padding is the second reason why libraries disagree; the first one is the pixels that they
# start from ([00](00_classify_a_photo.ipynb)). A PyTorch layer with stride 2 and `padding=1`
# computes this other network. To use TensorFlow's weights, PyTorch has to pad as TensorFlow does
# before each of these layers.
#
# ## Check: against a loop, and against TensorFlow
#
# The rule says "as few zeros as will do, the odd one after". A loop can look for that without a
# formula: try every number of zeros in turn until there are enough positions for the kernel.

# %%
wrong = 0
for size in range(1, 60):
    for k in range(1, 12):
        for s in (1, 2, 3):
            zeros = 0
            while len(range(0, size + zeros - k + 1, s)) < math.ceil(size / s):
                zeros += 1
            placed = [0, 0]
            for number in range(zeros):  # in turn: after, before, after, ...
                placed[(number + 1) % 2] += 1
            wrong += tuple(placed) != same_padding(size, k, s)
print("cases in which loop and package differ:", wrong)

# %%
from recorded import RECORDED, kernel_cases

agree = []
with np.load(RECORDED) as recorded:
    for name, case in kernel_cases().items():
        if case.operation == "depthwise_conv2d" and case.stride == 2:
            ours = depthwise_conv2d(*case.arrays, case.stride)
            agree.append(np.abs(ours - recorded[name]).max() < 1e-5)
print("depthwise convolutions of stride 2:", sum(agree), "of", len(agree), "agree with TensorFlow")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# A picture is 57 pixels wide. How many zeros does SAME put before and after it for a kernel of 9
# and a stride of 2? Work it out on paper, then write `answer = (before, after)`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
check(answer, same_padding(57, 9, 2), hint="57 is odd; how many outputs are there?")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# outputs = (57 + 1) // 2
# zeros = (outputs - 1) * 2 + 9 - 57
# answer = (zeros // 2, zeros - zeros // 2)
# ```
#
# As many before as after: on odd sizes the two paddings are the same. A port that is tested with
# odd pictures alone passes, and fails on all the usual sizes.
# </details>
#
# ### Exercise 2
#
# MixNet gets a photo of 255x255 pixels. All five layers of stride 2 pad symmetrically. By how many
# pixels of the photo are the features moved at the end?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
width, total = 255, 0
for halvings in range(5):
    zeros_before, zeros_after = same_padding(width, 3, 2)
    total += (zeros_after - zeros_before) * 2**halvings
    width = math.ceil(width / 2)
check(answer, total, hint="which of the five layers get an odd size? For those nothing moves")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# # the sizes are 255, 128, 64, 32, 16: the paddings agree in the first layer alone
# answer = 2 + 4 + 8 + 16
# ```
#
# An odd photo protects the first layer only. Halved and rounded up, it becomes even.
# </details>
#
# ### Exercise 3
#
# What a port to PyTorch needs: write a function `f(x, k, s)` that takes a picture x (H, W), a
# kernel size and a stride, and returns the picture with the zeros of TensorFlow's SAME padding
# around it. Height and width may differ. Do not call `same_padding`. Then `answer = f`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
x, k, s = np.arange(1.0, 37.0).reshape(4, 9), 2, 3
expected = np.pad(x, [same_padding(n, k, s) for n in x.shape])
hint = "compute each axis by itself, and never add a negative number of zeros"
check(answer, expected, hint, given=(x, k, s))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def zeros_around(n, k, s):
#     outputs = -(-n // s)  # rounded up
#     missing = max((outputs - 1) * s + k - n, 0)
#     return missing // 2, missing - missing // 2
#
#
# def pad_as_tensorflow(x, k, s):
#     return np.pad(x, [zeros_around(n, k, s) for n in x.shape])
#
#
# answer = pad_as_tensorflow
# ```
#
# In PyTorch this is `torch.nn.functional.pad`, followed by a convolution with `padding=0`.
# </details>
#
# Next: after each of these convolutions stands a batch norm.
# [04: Batch norm](04_batch_norm.ipynb)
