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
# # How can several cores share one image?
#
# Many photos are easy to share: each core takes a photo of its own (`model.map`). But somebody who
# waits for *one* answer gains nothing by that. To have it sooner, the cores have to work on the
# same photo at the same time. Here you see why the obvious way does not help, cut the network in
# two, add the halves up again, and measure what is won and when it is lost.
#
# All times are measured while this page is made, on the machine that makes it. Yours will be
# others, so the text says what to look for, not what to find.
#
# Read before: [07](07_one_block_by_hand.ipynb) for the parts of a block,
# [09](09_where_the_time_goes.ipynb) for where the time goes.

# %%
from start import *

# %% [markdown]
# The idea in one drawing. Inside a block every channel is worked on by itself, so the channels can
# be dealt out to the members of a team. Only in two places does a block look at all channels at
# once. There the members have to add up what each of them has: that is an exchange.

# %%
pictures.show_team()

# %% [markdown]
# ## Step 1: the obvious way, and Amdahl's law
#
# NumPy hands matrix products to a BLAS library, and BLAS can use several threads by itself. So one
# could just let it. The package does not: while the network runs, it sets BLAS to one thread, and
# back afterwards. Here we call the steps of the plan directly, so that nobody interferes.

# %%
from time import perf_counter

from tinymixnet.engine.images import read_image
from tinymixnet.fast.blas_threads import openblas
from tinymixnet.fast.processes import usable_cores

pixels = np.asarray(read_image(CAT).resize((224, 224)), np.float32)
model.plan.run(pixels, ["logits"])
steps = model.plan.program(224, 224).steps


# %%
def timed():
    """As `model.plan.profile(pixels)`, but with all threads that BLAS has."""
    times = []
    with np.errstate(all="ignore"):
        for step in steps:
            start = perf_counter()
            step.run()
            times.append((step, perf_counter() - start))
    return times


# %%
def best(profile, rounds=8):
    """Milliseconds of each kernel, in the run of several that was disturbed least."""
    run = min((profile() for _ in range(rounds)), key=lambda run: sum(s for _, s in run))
    sums = {}
    for step, seconds in run:
        sums[step.kernel] = sums.get(step.kernel, 0) + 1e3 * seconds
    return sums


# %%
def at_threads(count):
    """The best with this many BLAS threads; afterwards there are as many as before."""
    blas = openblas()
    if blas is None:  # another BLAS, whose threads we cannot set
        return best(timed)
    before = blas.threads()
    blas.set_threads(count)
    try:
        return best(timed)
    finally:
        blas.set_threads(before)


# %% tags=["timing"]
one, two = at_threads(1), at_threads(2)
large = [kernel for kernel, ms in one.items() if ms > 0.3]
shown = {}
for name, times in (("BLAS threads: 1", one), ("BLAS threads: 2", two)):
    shown[name] = {kernel: times[kernel] for kernel in large}
    shown[name]["others"] = sum(times.values()) - sum(shown[name].values())
pictures.show_threads(shown, "milliseconds")
print(f"this process may use {usable_cores()} cores")

# %% [markdown]
# Compare the two bars, part by part. A second thread can only make `matmul` shorter; and in
# `depthwise_columns` and `depthwise_fourier` the products inside them. Everything else runs on one
# core as before, while the other threads wait. The products are many and short, too, and the
# threads have to meet before and after each of them.
#
# What is the best one could hope for? Let s be the share of the time that is *not* divided. On n
# cores the rest takes 1/n, so the whole is 1 / (s + (1 - s) / n) times as fast. That is Amdahl's
# law. Even endless cores give no more than 1 / s.

# %% tags=["timing"]
serial = 1 - one["matmul"] / sum(one.values())
print(f"only matmul divided: {serial:.0%} stay, so at most {1 / serial:.1f} times as fast")
for n in (2, 4, 8):
    print(f"  on {n} cores {1 / (serial + (1 - serial) / n):.2f} times")

# %% [markdown]
# So it is not enough to divide the products. Nearly *everything* has to be divided. The cut must
# go once through the whole network, instead of through each operation.
#
# ## Step 2: where to cut
#
# There are two directions. Each member could take some of the *pixels*: the upper half of each
# plane, and the lower half. Or it could take some of the *channels*, of all pixels. What has to be
# sent from one member to the other?
#
# By pixels: a depthwise kernel of K rows reads K // 2 rows beyond the cut, on both sides, in every
# channel. By channels: each member has a partial sum of the whole output, which the other needs.


# %%
def sent(block, h, w):
    """How many numbers a team of two sends in one block: (cut by pixels, cut by channels)."""
    channels = split_channels(block.expanded, len(block.kernel_sizes))
    rows = [min(k // 2, h // 2) for k in block.kernel_sizes]
    by_pixels = 2 * w * sum(r * c for r, c in zip(rows, channels, strict=True)) + 2 * block.se_width
    after = -(-h // block.stride) * -(-w // block.stride)
    return by_pixels, 2 * (block.outputs * after + block.se_width)


# %%
from tinymixnet.engine.kernels import split_channels

numbers, h, w = {}, 112, 112
for block in model.architecture.blocks:
    numbers[block.name.replace("blocks_", "")] = np.array(sent(block, h, w)) / 1e3
    h, w = -(-h // block.stride), -(-w // block.stride)
series = {name: [n[i] for n in numbers.values()] for i, name in enumerate(("pixels", "channels"))}
pictures.show_lines(
    range(len(numbers)), series, "block", "thousand numbers sent", "Cut by", log=True, marker="o"
)
print({name: f"{sum(values):.0f} thousand in all" for name, values in series.items()})
assert sum(series["pixels"]) < sum(series["channels"])

# %% [markdown]
# Cut by pixels, the large planes at the beginning send little, because only their edges are sent.
# Cut by channels, the small planes at the end do. In all, the cut by pixels sends less. But sending
# is not much work where all cores share one memory: as `add_up`, step 5 will have it beside all the
# rest. Other reasons decide for channels:
#
# - The planes at the end have 7 x 7 pixels. They cannot be halved, let alone be cut in eight. And a
#   kernel of 9 x 9 reads nearly all of such a plane from any place in it.
# - All weights are needed for every pixel. Cut by pixels, each member reads all of them from
#   memory. Cut by channels, it reads its part.
# - The kernels stay as they are. They do not even know that there are other channels.
#
# ## Step 3: two halves, by hand
#
# One block without its squeeze-and-excite: expand, depthwise, project. Member m takes some of the
# channels in the middle. That is its *rows* of the first matrix and its *columns* of the last one.

# %%
from tinymixnet.engine.kernels import depthwise_conv2d, pointwise_conv2d, relu

rng = np.random.default_rng(11)
x = rng.normal(size=(1, 8, 8, 4)).astype(np.float32)
expand = rng.normal(size=(1, 1, 4, 12)).astype(np.float32)
filters = rng.normal(size=(3, 3, 12, 1)).astype(np.float32)
project = rng.normal(size=(1, 1, 12, 4)).astype(np.float32)


def block_of(own):
    """The block, with these of its 12 channels alone. In TensorFlow's layout rows are columns."""
    inside = relu(pointwise_conv2d(x, expand[..., own]))
    inside = relu(depthwise_conv2d(inside, filters[:, :, own]))
    return pointwise_conv2d(inside, project[:, :, own])


# %% tags=["rounding"]
whole = block_of(slice(0, 12))
parts = [block_of(slice(0, 6)), block_of(slice(6, 12))]
print("each part has the shape of the whole:", parts[0].shape == parts[1].shape == whole.shape)
print("largest value of the whole:", np.abs(whole).max())
print("largest difference of the parts' sum to it:", np.abs(sum(parts) - whole).max())
maps = [*(part[0, :, :, 0] for part in parts), sum(parts)[0, :, :, 0], whole[0, :, :, 0]]
titles = "part 0", "part 1", "their sum", "the whole"
pictures.show_maps(maps, titles, "value", 4, signs=True)

# %% [markdown]
# Neither part looks like the whole, but their sum does. Whether it is equal to the last bit, step 4
# will tell.
#
# Why is one exchange enough? The activations are no sums: relu(a + b) is not relu(a) + relu(b). So
# a partial sum must not go through an activation before it is complete. Here no activation sees
# one. The first product is cut by its *outputs*, which are complete numbers of some channels. Only
# the last product is cut by its *inputs*, and MixNet has no activation behind it. With
# squeeze-and-excite there is one more product that is cut by its inputs, and it does have an
# activation behind it. So its sums have to be complete before: that is the other exchange.
#
# The package does this for the whole network. A share of the channels of *each* depthwise kernel
# goes to each member, since larger kernels take more time:

# %%
from tinymixnet.fast import team

show(team.own_channels)

# %%
for member in range(2):
    own = team.own_channels(model.architecture, member, members=2)["blocks_3"]
    sizes = model.architecture.blocks[3].kernel_sizes
    print(
        f"member {member}:",
        {f"{k} x {k}": (s.start, s.stop) for k, s in zip(sizes, own, strict=True)},
    )

# %% [markdown]
# With its part of the weights a member runs the plan that you know from
# [09](09_where_the_time_goes.ipynb). The only new step is `add_up`, which adds up what all members
# have. They are processes, not threads, because only one thread of a Python process can run Python
# at a time. They share a piece of memory, and a barrier lets nobody go on before all have arrived.

# %%
show(team.Seat.add_up)

# %% [markdown]
# How do they wait? Who looks again and again, sees the others at once, but uses up the core. Who
# sleeps until he is woken, leaves the core to others, but waking takes a while. So a member does
# the first for a moment, and then the second.

# %%
from tinymixnet.fast.barrier import Barrier

show(Barrier.wait)

# %% [markdown]
# ## Step 4: the same numbers?
#
# Here is a team of two. It is started by hand, so that there is one on any machine, also with a
# single core. Usually you would write `tinymixnet.load(cores=2)`.

# %%
from tinymixnet.fast.members import Team

pair = Team(model.plan, members=2)
(together,) = pair.run(pixels, ["logits"])
(alone,) = model.plan.run(pixels, ["logits"])
exchanges = sum(step.kernel == "add_up" for step in pair.plan.program(224, 224).steps)
print(f"{exchanges} exchanges an image")
assert np.abs(together - alone).max() <= 2e-5 * np.abs(alone).max()
assert together.argmax() == alone.argmax()

# %% [markdown]
# The answers are as good as equal, but not to the last bit. Numbers have 24 binary digits, and
# every addition rounds. A different order of the same additions rounds differently:

# %%
a, b, c = np.float32(1), np.float32(2**-24), np.float32(2**-24)
print((a + b) + c == 1, a + (b + c) == 1)

# %% [markdown]
# A team adds up in another order than one process. So does a BLAS with another number of threads,
# and so does every other library. How large does that become, from block to block?

# %% tags=["rounding"]
names = [f"{block.name}/output" for block in model.architecture.blocks] + ["logits"]
one_process = model.plan.run(pixels, names)
readable = dict(model.layers(pixels[None]))
curves = {
    "team and one process": pair.run(pixels, names),
    "readable path and one process": [readable[name][0] for name in names],
}
errors = {
    name: [np.abs(y - x).max() / np.abs(x).max() for y, x in zip(ys, one_process, strict=True)]
    for name, ys in curves.items()
}
assert max(map(max, errors.values())) < 1e-4
pictures.show_lines(
    range(len(names)), errors, "block, and at the end the logits", "error / largest value", "", True
)

# %% [markdown]
# Both curves are of the same kind: rounding, and no mistake. A mistake, such as a bias that is
# added twice, would stand out by orders of magnitude.
#
# ## Step 5: what is won
#
# The same profile as above: one process beside the first of two members. A kernel that is divided
# takes half the time, if all goes well. `add_up` is new, and has three parts: copying, waiting
# for the other member, and adding.


# %% tags=["timing"]
alone = best(lambda: model.plan.profile(pixels))
first = best(lambda: pair.profile(pixels))
kernels = sorted(first, key=lambda kernel: -max(alone.get(kernel, 0), first[kernel]))[:8]
print(f"{'ms':24} alone   in a team")
for kernel in kernels:
    print(f"{kernel:24}{alone.get(kernel, 0):6.2f}{first[kernel]:10.2f}")
print(f"{'all':24}{sum(alone.values()):6.2f}{sum(first.values()):10.2f}")

# %% [markdown]
# Now put the team into Amdahl's law. What is not divided are copies of the image and of the
# outputs, biases and shortcuts, and the exchanges. Their share follows from the times of the two:
# if everything but s is halved, the team takes s + (1 - s) / 2 of the time of one process.

# %% tags=["timing"]
ratio = sum(first.values()) / sum(alone.values())
undivided = min(max(2 * ratio - 1, 0), 1)
shares = {"only matmul is divided": serial, "as in the team": undivided}
pictures.show_amdahl(shares, (2, 1 / ratio))
print(f"the team takes {ratio:.2f} of the time of one process: {undivided:.0%} are not divided")

# %% [markdown]
# If this page was made on a machine with one core, or while other programs kept the cores busy,
# the star lies low. That is the next point.
#
# ## Step 6: when a team loses
#
# A team is as fast as its slowest member *in every exchange*. Let another program take a core for
# a moment, and all members wait for the one that had to stop. Here the neighbours are up to three
# programs that only keep a core busy. Each time, one process and the team take turns.

# %%
import subprocess
import sys
from statistics import median


def in_turns(rounds=8):
    """Median milliseconds of one process and of the team."""
    times = {"one process": [], "team": []}
    for _ in range(rounds):
        for name, plan in (("one process", model.plan), ("team", pair)):
            start = perf_counter()
            plan.run(pixels, ["logits"])
            times[name].append(1e3 * (perf_counter() - start))
    return {name: median(ms) for name, ms in times.items()}


# %% tags=["timing"]
busy, cases = [], {}
try:
    for neighbours in range(4):
        cases[f"{neighbours} busy neighbours"] = in_turns()
        busy.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
finally:
    for process in busy:
        process.kill()
        process.wait()
    pair.end()
pictures.show_times_of_ways(cases, "milliseconds")

# %% [markdown]
# Compare the panels. One process needs one core; as long as there is a free one, neighbours hardly
# matter to it. The team needs all of its cores at once.
#
# How busy a machine is changes by the second, and no program can know it in advance. So a model
# with `cores=2` measures every image, and takes the way that was faster lately. Now and then it
# tries the other one:

# %%
from tinymixnet.fast.choice import Pace

show(Pace.next)

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# Is a larger team always faster? Suppose that one process takes 20 ms, and that all of it can be
# divided. But there are 37 exchanges, and each takes 0.01 ms for every *other* member that has to
# be told. Which number of members, from 1 to 64, is the fastest?

# %% tags=["exercise"]
answer = None  # a number of members

# %% jupyter={"source_hidden": true} tags=["check"]
hint = "20 / n, and 37 * 0.01 * (n - 1): which n makes their sum the smallest?"
check(answer, min(range(1, 65), key=lambda n: 20 / n + 37 * 0.01 * (n - 1)), hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# answer = min(range(1, 65), key=lambda n: 20 / n + 37 * 0.01 * (n - 1))
# ```
#
# What is divided shrinks by less with each member that joins, and the exchanges cost more. So there
# is always a best number, and it lies lower than one hopes.
#
# </details>

# %% [markdown]
# ### Exercise 2
#
# What does the member of a team send? Take `blocks_18`, the last one, at 224 pixels: its planes
# have 7 x 7 pixels. How many numbers does each member put into the shared memory in its two
# exchanges?

# %% tags=["exercise"]
answer = None  # numbers, of both exchanges together

# %% jupyter={"source_hidden": true} tags=["check"]
block = model.architecture.blocks[18]
hint = "the squeezed channels (se_width), and the planes that the block puts out (outputs)"
check(answer, block.se_width + block.outputs * 7 * 7, hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# last = model.architecture.blocks[18]
# answer = last.se_width + last.outputs * 7 * 7
# ```
#
# How many channels the block has inside does not matter: they are never sent.
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# Write the exchange. A function of x (C, P), a kernel (O, C) and a number of members: each member
# multiplies its share of the kernel's columns with the same share of the rows of x. Add up the
# partial sums and return the whole product (O, P). C may be any number, also one that does not
# divide evenly. No member may see channels of another.

# %% tags=["exercise"]
answer = None  # your function

# %% jupyter={"source_hidden": true} tags=["check"]
generator = np.random.default_rng(3)
tried = generator.normal(size=(11, 6)), generator.normal(size=(5, 11)), 3
hint = "np.array_split cuts an array along an axis into shares that differ by one at most"
check(answer, tried[1] @ tried[0], hint, given=tried)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def product_of_team(x, kernel, members):
#     rows, columns = np.array_split(x, members), np.array_split(kernel, members, axis=1)
#     return sum(ours @ part for ours, part in zip(columns, rows))
#
#
# answer = product_of_team
# ```
#
# </details>
#
# This was the last of the series. You have seen every number from the bytes of a file to the name
# of an animal; now write MixNet from memory, and when your numbers differ, go back to
# [08](08_debugging_layer_by_layer.ipynb). The [index](README.md) lists all notebooks.
