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
# # How does a photo become the name of what it shows, and why this name?
#
# A photo is a block of numbers. A classifier turns this block into one number for each name that it
# knows, and the names with the largest numbers are its answer. This notebook goes the whole way
# once, quickly: photo, pixels, logits, probabilities. Then it asks which parts of the photo made
# the answer. The other ten notebooks take the steps apart.

# %%
from start import *

# %% [markdown]
# Each notebook begins with this line. It gives us `np`, the package `tinymixnet`, a `model` with
# the weights that come with the package, two photos, `CAT` and `COFFEE`, `pictures`, which draws,
# and `show`, which shows the source of a function. The weights know 200 of the 1000 classes of
# ImageNet, a well-known collection of labelled photos.

# %%
for photo in (CAT, COFFEE):
    print(photo.name)
    for label, probability, index in model.classify(photo, top=3):
        print(f"    {100 * probability:5.1f} %  {label} (class {index})")

# %% [markdown]
# Do not stop at the first line. All probabilities together make 100 %, so labels for things that
# look alike have to share. Three of these classes, for example, are kinds of house cats: tabby,
# Persian cat and Egyptian cat.
#
# ## From the photo to the answer
#
# `model.classify` takes four steps:
#
# 1. `read_image` decodes the file: a photo, upright, in red, green and blue from 0 to 255.
# 2. A *preset* cuts out a part and resizes it to the size that the network was trained on.
# 3. The network turns these *pixels* into *logits*: one number for each class, of any size, with
#    either sign.
# 4. `softmax` turns the logits into probabilities.

# %%
from tinymixnet.engine.images import read_image
from tinymixnet.engine.kernels import softmax

photos = [np.asarray(read_image(photo)) for photo in (CAT, COFFEE)]
pixels = np.concatenate([model.pixels(photo) for photo in (CAT, COFFEE)])  # a batch of two
logits = model(pixels)
probabilities = softmax(logits)
print("photos       ", *(photo.shape for photo in photos), photos[0].dtype)
print("pixels       ", pixels.shape, pixels.dtype, f"{pixels.min():.0f} to {pixels.max():.0f}")
print("logits       ", logits.shape, logits.dtype)
print("probabilities", probabilities.shape, "sums:", probabilities.sum(axis=1).round(4))
pictures.show_four_steps(photos, pixels, logits, probabilities, model.labels)

# %% [markdown]
# Compare the third column with the fourth. The order of the labels is the same, but softmax
# stretches the distances: a logit that leads by 5 has about 150 times the probability.
#
# ## The whole network on one screen
#
# The third step is the network, and this is all of it: `tinymixnet/mixnet.py`. Read `mixnet` from
# top to bottom: `x` is the picture, each line replaces it by the next one, and the comments say
# what shape it then has. Nearly all of the work is done in `mixnet_block`, which is called once for
# each block, each time with other weights. You need not understand every line now: notebooks 01 to
# 05 explain the functions that the file imports, and [06](06_reading_block_strings.ipynb) comes
# back and reads it line by line.

# %%
from tinymixnet import mixnet

show(mixnet)

# %% [markdown]
# `model` takes a faster way, which [09](09_where_the_time_goes.ipynb) explains. Both give the same
# logits, apart from rounding:

# %%
on_one_screen = mixnet.mixnet(pixels, model.tensors, model.architecture.blocks)
difference = np.abs(on_one_screen - logits).max() / np.abs(logits).max()
print("mixnet.py and model(pixels) agree within 1e-5:", bool(difference < 1e-5))

# %% [markdown]
# Between pixels and logits stand a first convolution (the *stem*), a row of blocks, and a *head*.
# Each row below is one of these, or a step without weights. It says the shape of what comes out for
# one image, and the cost in multiply-adds: one multiply-add is one product and one addition.

# %%
height, width = pixels.shape[1:3]
parts: dict[str, list] = {}
for layer in model.architecture.layers(height, width):
    part = parts.setdefault(layer.name.split("/")[0], [(), 0, 0])
    part[0] = "x".join(map(str, layer.shape))
    part[1] += layer.parameters
    part[2] += layer.multiply_adds
print(f"{'part':14} {'output':>12} {'parameters':>11} {'multiply-adds':>14}")
for name, (shape, parameters, multiply_adds) in parts.items():
    print(f"{name:14} {shape:>12} {parameters:11,} {multiply_adds:14,}")
total = model.architecture.parameters(), model.architecture.multiply_adds(height, width)
print(f"{'all':14} {'':12} {total[0]:11,} {total[1]:14,}")

# %% [markdown]
# From top to bottom, the picture is halved five times, and the number of channels grows. A later
# output says less exactly *where* something is, and it has more numbers to say *what* it is.
# `model.features` returns the last output at each resolution. Here is one channel of each: the one
# that varies most over the photo of the cat.

# %%
pictures.show_features(model.features(pixels[:1]))

# %% [markdown]
# ## The last step by hand: softmax
#
# Take three logits small enough for paper. Softmax raises e to each of them and divides by the sum.
# So the results are positive and add up to 1. A difference of 1 between two logits makes their
# probabilities differ by a factor of e, wherever the two logits lie.

# %%
import math

toy = [2.0, 1.0, 0.0]
powers = [math.exp(value) for value in toy]
by_hand = [power / sum(powers) for power in powers]
print("e^x         ", [f"{power:.4f}" for power in powers], "sum", f"{sum(powers):.4f}")
print("by hand     ", [f"{share:.4f}" for share in by_hand])
print("first ratio ", f"{by_hand[0] / by_hand[1]:.4f}", "and e is", f"{math.e:.4f}")

# %% [markdown]
# The package's function does this for a whole batch. First it subtracts the largest logit. Why does
# that change no answer?

# %%
show(softmax)

# %% [markdown]
# Subtracting the same number from all logits divides all powers by the same factor, and the
# division by the sum takes this factor out again. Without it, one large logit breaks the
# calculation:

# %%
print("package     ", softmax(np.array([toy])).round(4)[0])
print("1000 higher ", softmax(np.array([toy]) + 1000).round(4)[0])
try:
    math.exp(1000)
except OverflowError as error:
    print("by hand at 1000: OverflowError,", error)

# %% [markdown]
# ## What the network sees: a preset is a part of the weights
#
# A network is trained on photos of one size that are cut in one way, and it answers best for photos
# that are cut in the same way. The package has four ways to do it. Which one fits is written in the
# weights file.
#
# | preset | whose | what it does |
# |---|---|---|
# | `square` | these weights | the largest centre square, resized with averaging |
# | `tf` | TensorFlow's evaluation | a smaller centre square, resized without averaging |
# | `timm` | PyTorch Image Models | resized with averaging, then a smaller centre square |
# | `omz` | Open Model Zoo | a centre crop of the photo's proportions, squeezed to a square |

# %%
from tinymixnet.engine.explain import seen_of_photo
from tinymixnet.engine.images import PRESETS

print("the preset of these weights:", model.metadata.preset)
seen = {name: model.pixels(CAT, preset=name)[0] for name in PRESETS}
high, wide, _ = photos[0].shape
size = model.metadata.input_size
boxes = {name: seen_of_photo(name, PRESETS[name][1], wide, high, size) for name in PRESETS}
pictures.show_presets(photos[0], seen, boxes)

# %% [markdown]
# Four ways to see one photo, and no layer has run yet. (`tf` and `timm` cut out nearly the same
# square, but `tf` does not average when it shrinks.) This is the first place where two libraries
# with equal weights disagree. How much does it matter for the answers?

# %%
own = model.metadata.preset
for photo in (CAT, COFFEE):
    expected = model.classify(photo, top=1)[0]
    print(f"{photo.name}: {expected.label} with preset {own}")
    for name in PRESETS:
        answers = model.classify(photo, top=len(model.labels), preset=name)
        (same,) = (answer for answer in answers if answer.index == expected.index)
        rank = answers.index(same) + 1
        print(f"    {name:7} {100 * same.probability:5.1f} %, rank {rank:3};", end="")
        print(f" first is {answers[0].label} with {100 * answers[0].probability:.1f} %")

# %% [markdown]
# Look at which photo keeps its answer with the other presets. Where one label is far ahead, a lost
# margin or another shape seldom changes it. Where several labels are close, the way of cutting can
# decide. So a port of a network with any other preset can give worse answers although every layer
# is right.
#
# ## Why this answer: the class activation map
#
# The network ends in two steps: the *mean* of each channel over all cells of the last layer, and
# then a *weighted sum* of these means for each label. The order of these two steps does not matter.
# See it on four cells with two channels:

# %%
cells = np.array([[[4, 1], [0, 2]], [[2, 0], [2, 5]]])  # 2 x 2 cells, each with two channels
weights = np.array([3, -1])  # of one label
means = cells.mean(axis=(0, 1))
print("mean of each channel", means, "-> weighed:", means @ weights)
each = cells @ weights  # weigh first: one number for each cell
print("each cell, weighed\n", each, "\n-> their mean:", each.mean(), sep="")

# %% [markdown]
# Both ways give the same logit, to which the bias of the label is then added. But the second way
# has a number for each cell: how much it speaks for the label, or against it when it is negative.
# This is the *class activation map*. It is exact for every network that ends in a mean and a dense
# layer, as this one does. For networks with another end it can only be approximated.

# %%
from tinymixnet.engine.explain import class_activation_maps

show(class_activation_maps)

# %% [markdown]
# On the real photos: the layer `head/act` has the cells. Here are the maps of all labels at once,
# and the mean of each plus the label's bias, next to the logits that the network gave.

# %%
cells = dict(model.layers(pixels))["head/act"]  # (2, h, w, channels)
maps = cells @ model.tensors["logits/kernel"]  # (2, h, w, labels)
from_maps = maps.mean(axis=(1, 2)) + model.tensors["logits/bias"]
for photo, ours, theirs in zip((CAT, COFFEE), from_maps, logits, strict=True):
    best = int(theirs.argmax())
    print(f"{photo.name:11} {model.labels[best]:13}", end=" ")
    print(f"mean of the map + bias {ours[best]:7.3f}, logit {theirs[best]:7.3f}")
difference = np.abs(from_maps - logits).max() / np.abs(logits).max()
print("all labels, both photos, within 1e-5:", bool(difference < 1e-5))

# %% [markdown]
# `model.explain` returns these maps for the best label and the second best, its rival. It also asks
# a second question: how does the probability change when a part of the photo is hidden? For that it
# moves a grey square over the photo and runs the network again at each place: the *occlusion map*.

# %%
from tinymixnet.report.explanation_pictures import picture

cat, coffee = model.explain(CAT), model.explain(COFFEE)
print(cat, coffee, sep="\n")
picture(cat)

# %%
picture(coffee)

# %% [markdown]
# Orange speaks for the label, blue against it. The two pictures in the middle are class activation
# maps, the right one is the occlusion map. Ask three questions. Is the orange on the object, or
# beside it? Do the maps of the label and of its rival differ, or do both labels use the same cells?
# Does hiding an orange part lower the probability?
#
# Do not be surprised if the best label has a map that is mostly blue. Its logit is then low or
# negative, but those of all other labels are lower still, and softmax looks only at differences.
#
# The two kinds of map answer different questions, so they need not look alike:
#
# | | class activation map | occlusion map |
# |---|---|---|
# | asks | what does each cell of the last layer add? | what happens if a part is hidden? |
# | looks at | the last layer only | the whole network |
# | is | exact: its mean plus the bias is the logit | an experiment: the square is seen, too |
# | costs | one matrix product | one run of the network for each place |
#
# One warning: a cell of the last layer is drawn over 32 x 32 pixels, but it looks at many more.
# [01](01_convolution.ipynb) measures how many.
#
# Here is one number of each occlusion map by hand: at the place where hiding lowers the probability
# most.

# %%
for name, why, image in (("cat", cat, pixels[:1]), ("coffee", coffee, pixels[1:])):
    place = np.unravel_index(why.occlusion.argmin(), why.occlusion.shape)
    left, top, right, bottom = why.occlusion_boxes[place]
    hidden = image.copy()
    hidden[:, top:bottom, left:right] = model.metadata.mean  # grey
    probability = softmax(model(hidden))[0, why.indices[0]]
    print(f"{name:6} hide rows {top} to {bottom}, columns {left} to {right}:", end=" ")
    print(f"{100 * why.probabilities[0]:.1f} % becomes {100 * probability:.1f} %,", end=" ")
    print(f"the map says {100 * why.occlusion[place]:.1f} %")

# %% [markdown]
# Why this label *rather than* its rival? The difference of the two maps says it, cell by cell. All
# cells together make the difference of the two logits, apart from the biases, and softmax turns
# this difference into the ratio of the two probabilities.

# %%
for name, why in (("cat", cat), ("coffee", coffee)):
    cells_lead, bias_lead = why.advantage.sum(), why.biases[0] - why.biases[1]
    lead = why.logits[0] - why.logits[1]
    ratio = why.probabilities[0] / why.probabilities[1]
    print(f"{name:6} {why.labels[0]} over {why.labels[1]}:", end=" ")
    print(f"cells {cells_lead:.3f} + bias {bias_lead:.3f} = {lead:.3f} logits;", end=" ")
    print(f"e^{lead:.3f} = {math.exp(lead):.3g}, ratio {ratio:.3g}")

# %% [markdown]
# ## Check: the last layer by a loop, and softmax against TensorFlow
#
# The last layer is a *dense* one: each logit is a weighted sum of the numbers that come out of the
# head. Here it is as a loop over plain Python numbers. Only its input comes from the package.

# %%
pooled = model.embed(pixels[:1])[0].tolist()
kernel = model.tensors["logits/kernel"].tolist()
naive_logits = []
for output, bias in enumerate(model.tensors["logits/bias"].tolist()):
    total = bias
    for channel, value in enumerate(pooled):
        total += value * kernel[channel][output]
    naive_logits.append(total)

difference = np.abs(logits[0] - naive_logits).max() / np.abs(naive_logits).max()
print("inputs of each logit:", len(pooled))
print("within 1e-5 of the loop:", bool(difference < 1e-5))

# %% [markdown]
# The repository also holds what TensorFlow answered to small questions. The questions are made
# again from seeds, so nobody needs TensorFlow to compare.

# %%
from recorded import RECORDED, kernel_cases

case = kernel_cases()["softmax/usual"]
with np.load(RECORDED) as recorded:
    theirs = recorded["softmax/usual"]
print("rows and classes:", theirs.shape)
print("within 1e-6 of TensorFlow:", bool(np.abs(softmax(case.arrays[0]) - theirs).max() < 1e-6))

# %% [markdown]
# ## Exercises
#
# Put your answer into `answer`, run that cell, and then the folded cell below it.
#
# ### Exercise 1
#
# Halve all logits of the cat. Does the best label change? What is its probability then, as a number
# between 0 and 1?

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
halved = [math.exp(float(value) / 2) for value in logits[0]]
check(answer, max(halved) / sum(halved), hint="softmax(...) takes any logits; .max() is the best")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = softmax(logits[:1] / 2).max()
# ```
#
# The order never changes, because e^x only grows. But the ratio of any two probabilities becomes
# its square root, so the best label loses and the weak ones gain. The network names the same thing
# and sounds less sure. A program that asks "is it at least 50 % sure?" can decide otherwise.
# </details>
#
# ### Exercise 2
#
# Suppose the last layer had only the cells of the lower half of the photo. What would be the logit
# of the best label for the coffee? Use `coffee.maps`, `coffee.biases` and no run of the network.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
rows = cells.shape[1]
lower = cells[1, rows // 2 :].mean(axis=(0, 1)) @ model.tensors["logits/kernel"]
expected = float(lower[coffee.indices[0]] + coffee.biases[0])
check(answer, expected, hint="maps[0] is (rows, columns): take a slice of its rows, then the mean")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# rows = coffee.maps.shape[1]
# answer = coffee.maps[0, rows // 2 :].mean() + coffee.biases[0]
# ```
#
# It is the mean over fewer cells, so the answer can be higher or lower than the logit of the whole
# photo. It is not what the network would say to the lower half of the photo alone: these cells have
# already looked at parts of the upper half.
# </details>
#
# ### Exercise 3
#
# Write a function that takes `pixels` (1, S, S, 3) and the index of a label, and returns which half
# of the photo matters most for that label: the half that lowers the label's probability most when
# it is hidden in grey (`model.metadata.mean`). It returns "top", "bottom", "left" or "right". Put
# the function itself into `answer`.

# %% tags=["exercise"]
answer = None  # yours here

# %% jupyter={"source_hidden": true} tags=["check"]
middle = pixels.shape[1] // 2
halves = {"top": np.s_[:middle], "bottom": np.s_[middle:]}
halves |= {"left": np.s_[:, :middle], "right": np.s_[:, middle:]}
questions = [(pixels[:1], cat.indices[0]), (pixels[:1], cat.indices[1])]
questions += [(pixels[1:], coffee.indices[0]), (pixels[1:], coffee.indices[1])]
expected = []
for image, label in questions:
    hidden = np.repeat(image, len(halves), axis=0)
    for one, half in zip(hidden, halves.values(), strict=True):
        one[half] = model.metadata.mean
    expected.append(list(halves)[int(softmax(model(hidden))[:, label].argmin())])
answers = [answer(*question) for question in questions] if callable(answer) else answer
check(
    answers, expected, hint="copy the pixels, paint one half, and ask softmax(model(...))[0, label]"
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def most_important_half(pixels, label):
#     middle = pixels.shape[1] // 2
#     halves = {
#         "top": np.s_[:, :middle],
#         "bottom": np.s_[:, middle:],
#         "left": np.s_[:, :, :middle],
#         "right": np.s_[:, :, middle:],
#     }
#     left_over = {}
#     for name, half in halves.items():
#         hidden = pixels.copy()
#         hidden[half] = model.metadata.mean
#         left_over[name] = softmax(model(hidden))[0, label]
#     return min(left_over, key=left_over.get)
#
#
# answer = most_important_half
# ```
#
# This is the occlusion map with the largest square that still leaves something to see. With smaller
# squares it says more exactly where, but each of them takes less away.
# </details>

# %% [markdown]
# Next: the first thing that the network does to the pixels. [01: What is a
# convolution?](01_convolution.ipynb)
