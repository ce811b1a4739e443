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
# # How do the weights get out of a TensorFlow checkpoint without TensorFlow?
#
# The official MixNet weights are a TensorFlow checkpoint: a folder with a `.index` and a `.data`
# file in a format called TensorBundle. `weights_tools` reads it in plain Python. Here you read one
# byte by byte: find the footer, follow it to a block, undo its compression, decode its messages,
# check its checksums. Then the package does the same, gives every tensor its place in the network,
# and the cat is classified with weights that have been through the whole journey.
#
# Read before: [06](06_reading_block_strings.ipynb), for the names and shapes of the tensors. No
# network and no TensorFlow is needed: a small writer, the one that tests the reader, makes the
# files. Where the numbers themselves come from is told in [docs/weights.md](../docs/weights.md).

# %%
from start import *

# %% [markdown]
# The way in one drawing. A reader begins at the end of the index file, because only the footer has
# a fixed place. From there each part says where the next one is.

# %%
pictures.show_checkpoint_layout()

# %% [markdown]
# ## A checkpoint small enough to print
#
# Three variables: two with values to recognise, and a counter. The data file is nothing but their
# numbers, end to end. All the rest is in the index.

# %%
import tempfile
from pathlib import Path

from weights_tools.formats.checkpoint_writer import write_checkpoint

temporary = tempfile.TemporaryDirectory(prefix="notebook-")
here = Path(temporary.name)
toy = {
    "stem/batch_normalization/beta": np.array([0.0, 1.0], np.float32),
    "stem/batch_normalization/gamma": np.array([[1.5, -2.0]], np.float32),
    "global_step": np.array(300, np.int64),
}
write_checkpoint(here / "toy", toy)
index = (here / "toy.index").read_bytes()
data = (here / "toy.data-00000-of-00001").read_bytes()


# %%
def show_bytes(raw, start=0, width=16):
    """Bytes as hexadecimal and, where they are letters, as text."""
    for i in range(0, len(raw), width):
        row = raw[i : i + width]
        letters = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        print(f"{start + i:4}  {row.hex(' '):{3 * width}} {letters}")


print("the data file:")
show_bytes(data)
print("\nthe index:")
show_bytes(index)

# %% [markdown]
# You can read the names, but with gaps: `gamma` stands alone, and further down you will see why.
# The last 48 bytes are the footer, and a reader begins there.
#
# ## The footer and the varint
#
# The footer ends in eight bytes that every such table ends in, so that a reader knows what it has.
# It begins with two *block handles*, each an offset and a size. All four numbers are **varints**:
# seven bits in each byte, the lowest first; the top bit says that another byte follows.

# %%
footer = index[-48:]
show_bytes(footer, len(index) - 48)
magic = int.from_bytes(footer[40:], "little")
print(f"\nmagic number: {magic:#x}")
assert magic == 0xDB4775248B80FB57

# %% [markdown]
# By hand, for a number that does not fit into seven bits:

# %%
number = 300
low, high = number & 0b1111111, number >> 7
print(f"{number} = {high:b} {low:07b} in binary, cut into sevens")
print(f"bytes: {low | 0x80:#04x} (low part, top bit set: more follows), {high:#04x} (the rest)")


# %%
def varint(raw, position):
    """The number that begins at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if byte < 0x80:
            return value, position


# %%
assert varint(bytes([0xAC, 0x02]), 0) == (300, 2)

numbers, position = [], 0
for _ in range(4):
    value, position = varint(footer, position)
    numbers.append(value)
print(f"metaindex block: {numbers[1]} bytes at {numbers[0]}, of no use here")
position_in_footer = position
print(f"index block:     {numbers[3]} bytes at {numbers[2]}; zeros from here, byte {position}, on")

# %% [markdown]
# The package's own is stricter: no number may run past its end or have more than 64 bits. A file
# is input like any other, so the reader trusts nothing in it.

# %%
from weights_tools.formats import protobuf

show(protobuf.read_varint)

# %% [markdown]
# ## A block: keys without what they share
#
# Keys are sorted, so neighbours begin alike. Each entry says how many bytes of its key are those
# of the one before (`shared`), how many are new, how long the value is; then the new part of the
# key and the value. That is why `gamma` stands alone above.
#
# The index block has one entry, which points to the only data block. Its value is again a handle.


# %%
def entries(block):
    """Key and value of every entry, and what was stored of the key."""
    restarts = int.from_bytes(block[-4:], "little")  # where a reader may start anew
    end = len(block) - 4 - 4 * restarts
    key, position, parsed = b"", 0, []
    while position < end:
        shared, position = varint(block, position)
        added, position = varint(block, position)
        length, position = varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added + length
        parsed.append((key, shared, block[position - length : position]))
    return parsed


# %%
offset, size = numbers[2:]
[(last_key, _, handle)] = entries(index[offset : offset + size])
at, position = varint(handle, 0)
size, _ = varint(handle, position)
print(f"the index block: keys up to {last_key.decode()!r} are in the {size} bytes at {at}\n")
block = index[at : at + size]
for key, shared, value in entries(block):
    name = key.decode()
    print(f"{name!r:33} shares {shared:2}, stored {name[shared:]!r:20} value {len(value)} bytes")

# %%
kinds = np.zeros(len(index), int)
kinds[at + size : at + size + 5] = 3
start, previous = at, b""
for key, shared, value in entries(block):
    added = len(key) - shared
    kinds[start + 3 : start + 3 + added] = 1
    kinds[start + 3 + added : start + 3 + added + len(value)] = 2
    start += 3 + added + len(value)
kinds[at + size + 5 : -48] = 4
kinds[-48:] = 5
legend = ["lengths, restarts", "key", "value", "type and checksum", "other blocks", "footer"]
pictures.show_bytes_by_kind(index, kinds, legend)

# %% [markdown]
# ## A value: a protobuf message
#
# A message is a row of fields. A field begins with a varint: its number times 8, plus how it is
# stored (0: a varint, 2: so many bytes, 5: four bytes). Fields that are zero are left out. The
# fields that matter here:
#
# | field | of `BundleEntryProto` |
# |---|---|
# | 1 | type: 1 is float32, 9 is int64 |
# | 2 | shape, a message with a message for each axis |
# | 3, 4 | number of the data file, offset in it |
# | 5 | size in bytes |
# | 6 | checksum of these bytes |


# %%
def fields(message):
    """(number, bytes as stored, value) of every field of a message."""
    position, parsed = 0, []
    while position < len(message):
        start = position
        tag, position = varint(message, position)
        if tag & 7 == 0:
            value, position = varint(message, position)
        elif tag & 7 == 2:
            length, position = varint(message, position)
            value, position = message[position : position + length], position + length
        else:
            position += 4
            value = int.from_bytes(message[position - 4 : position], "little")
        parsed.append((tag >> 3, message[start:position], value))
    return parsed


# %%
meaning = {1: "type", 2: "shape", 3: "data file", 4: "offset", 5: "size", 6: "checksum"}
messages = {key.decode(): value for key, _, value in entries(block)}
for name in list(toy):
    print(name)
    for number, stored, value in fields(messages[name]):
        if number == 2:
            value = tuple(fields(size)[0][2] for _, _, size in fields(value))
        print(f"  {stored.hex(' '):30} field {number}, {meaning[number]}: {value}")

# %% [markdown]
# So `gamma` is eight bytes of float32. Cut them out of the data file:

# %%
entry = {number: value for number, _, value in fields(messages["stem/batch_normalization/gamma"])}
cut = data[entry[4] : entry[4] + entry[5]]
gamma = np.frombuffer(cut, "<f4")
print(f"bytes {entry[4]} to {entry[4] + entry[5]}: {cut.hex(' ')} = {gamma}")
assert np.array_equal(gamma[np.newaxis], toy["stem/batch_normalization/gamma"])

# %% [markdown]
# ## The checksum
#
# How does a reader know that these eight bytes are the right ones? By their CRC-32C: divide the
# bits of the data, taken as a polynomial, by a fixed polynomial, and keep the remainder. In a loop
# over the bits, each step is a shift and sometimes an exclusive or. What is stored is this number,
# rotated by 15 bits and with a constant added. Otherwise the checksum of data that contains its
# own checksum would say nothing.

# %%
from weights_tools.formats import crc32c

register = 0xFFFFFFFF
for byte in cut:
    register ^= byte
    for _bit in range(8):
        register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
remainder = register ^ 0xFFFFFFFF
turned = ((remainder >> 15) | (remainder << 17)) & 0xFFFFFFFF
stored = (turned + 0xA282EAD8) & 0xFFFFFFFF
print(f"by hand {stored:#010x}, in the index {entry[6]:#010x}")
assert stored == entry[6] == crc32c.masked_crc32c(cut)

# %% [markdown]
# The loop waits for every bit. The package's version goes byte by byte for short data, and for
# megabytes cuts the data into lanes that advance side by side as one array.

# %%
show(crc32c._lanes)

# %% [markdown]
# ## The package reads the same

# %%
from weights_tools.formats import checkpoint_table

show(checkpoint_table.table_entries)

# %%
from weights_tools.formats import checkpoint

with checkpoint.open_checkpoint(here / "toy") as opened:
    for name, variable in opened.variables.items():
        values = opened.read(name)
        print(f"{name:32} {variable.dtype} {variable.shape!s:7} {values.tolist()}")
        assert np.array_equal(values, toy[name])

# %% [markdown]
# ### One bit flipped
#
# Every single bit of both files is flipped in turn here, and the reader asked to read everything.
# It must refuse, or (where the bit is in no block and in no value) still give the right numbers.
# What it must never do is give wrong numbers.


# %%
def attempt(raw_index, raw_data):
    """caught, harmless or WRONG."""
    (here / "bad.index").write_bytes(raw_index)
    (here / "bad.data-00000-of-00001").write_bytes(raw_data)
    try:
        with checkpoint.open_checkpoint(here / "bad") as opened:
            same = all(np.array_equal(opened.read(n), v) for n, v in toy.items())
    except tinymixnet.TinyMixNetError:
        return "caught"
    return "harmless" if same else "WRONG"


def flipped(raw, bit):
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# %%
in_index = [attempt(flipped(index, bit), data) for bit in range(8 * len(index))]
in_data = [attempt(index, flipped(data, bit)) for bit in range(8 * len(data))]
for where, outcomes in (("index", in_index), ("data", in_data)):
    counted = {word: outcomes.count(word) for word in ("caught", "harmless", "WRONG")}
    print(f"{where}: of {len(outcomes)} bits {counted}")
    assert "WRONG" not in outcomes

harmless = {bit // 8 for bit, outcome in enumerate(in_index) if outcome == "harmless"}
unread = set(range(numbers[0], numbers[0] + numbers[1] + 5))  # the metaindex block
zeros = set(range(len(index) - 48 + position_in_footer, len(index) - 8))
handle = harmless - unread - zeros
print(f"harmless bytes: {len(harmless & unread)} in the metaindex block, which nobody reads,")
print(f"{len(harmless & zeros)} in the zeros of the footer, and the bytes {sorted(handle)}")

# %% [markdown]
# The first two of these bytes say where the unread block is. The last is the size of the index
# block. Can a wrong size be harmless? Only one of its bits is, the top one: then the varint goes
# on into the zeros that follow, and still has the same value.

# %%
last = max(handle)
bits = [bit for bit in range(8 * last, 8 * last + 8) if in_index[bit] == "harmless"]
before, after = varint(index, last), varint(flipped(index, bits[0]), last)
print(f"bits {[bit % 8 for bit in bits]}: {before[0]} in one byte, or {after[0]} in two")
assert len(bits) == 1
assert before[0] == after[0]

# %%
try:
    (here / "bad.index").write_bytes(index)
    (here / "bad.data-00000-of-00001").write_bytes(flipped(data, 8 * entry[4] + 3))
    with checkpoint.open_checkpoint(here / "bad") as opened:
        opened.read("stem/batch_normalization/gamma")
except tinymixnet.TinyMixNetError as error:
    print(str(error).replace(str(here), "FOLDER"))

# %% [markdown]
# ## From their names to ours
#
# The original graph numbers its layers as they were made, over the whole graph, and the numbers
# depend on TensorFlow's version: `mixnet-l/mixnet_model/blocks_3/se/conv2d_10/kernel`. So the
# mapping trusts no number, only the scope (`blocks_3/se`), the kind (`conv2d`) and the *order*
# within these.

# %%
from weights_tools import extract

show(extract.map_names)

# %% [markdown]
# To see it work on a whole network, the bundled weights go the other way first: every tensor gets
# the name that the original graph would give it, which makes the blocks before the stem. And as in
# the official checkpoint each stands there twice, as trained and as moving average
# (`.../ExponentialMovingAverage`), the one to use. The other copy is made wrong on purpose here,
# so that a mix-up would show.


# %%
def their_name(name, counts):
    """The original graph's name of a tensor; counts remembers the layers numbered before it."""
    layer, tensor = name.rsplit("/", 1)
    place = extract.canonical_place(name)
    top = "mixnet-l" if place.kind == "batch_normalization" else "mixnet-l/mixnet_model"
    scope = place.scope if place.kind == "batch_normalization" else "the graph"
    key = layer if not tensor.startswith("kernel_") else name  # one layer a group there
    known = counts.setdefault((scope, place.kind), [])
    if key not in known:
        known.append(key)
    number = known.index(key)
    suffix = f"_{number}" if number else ""
    return f"{top}/{place.scope}/{place.kind}{suffix}/{place.tensor}"


# %%
counts = {}
in_their_order = sorted(model.tensors, key=lambda name: not name.startswith("blocks_"))
theirs = {name: their_name(name, counts) for name in in_their_order}
for name in ("stem/conv/kernel", *[n for n in theirs if n.startswith("blocks_3/")][:14]):
    print(f"{name:36} {theirs[name]}")
assert theirs["stem/conv/kernel"] == "mixnet-l/mixnet_model/stem/conv2d_94/kernel"  # the original's

# %%
variables = {"global_step": np.array(1000, np.int64)}
for name, tensor in model.tensors.items():
    variables[theirs[name]] = tensor + np.float32(1)
    variables[theirs[name] + extract.AVERAGE] = tensor
write_checkpoint(here / "model.ckpt", variables)
size = (here / "model.ckpt.data-00000-of-00001").stat().st_size
print(f"a checkpoint of {len(variables)} variables, {size / 1e6:.1f} MB")

weights = extract.extract(here / "model.ckpt", here / "out.h5")
print(f"{weights.architecture.variant}, averages: {weights.metadata.averages}")
for name, tensor in model.tensors.items():
    assert np.array_equal(weights.tensors[name], tensor), name
print(f"{len(weights.tensors)} tensors, every number as before")

# %% [markdown]
# ## On the photo
#
# The answers, and the kernels of the stem with the largest weights as they came out of the file. A
# checkpoint does not know how a photo is to be cut, nor what the classes are called: both come
# from the bundled model here.

# %%
pixels = model.pixels(CAT)
returned = tinymixnet.load(here / "out.h5")
assert np.array_equal(returned(pixels), model(pixels))
names = (model.labels[i] for i in np.argsort(-returned(pixels)[0])[:3])
print("the three best answers after the journey:", ", ".join(names))
pictures.show_filters(returned.tensors["stem/conv/kernel"])
temporary.cleanup()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1
#
# The footer of a larger index begins with the bytes below. How large is the index block, and where
# does it lie? Give (offset, size).

# %%
begin = bytes.fromhex("a9 c1 01 08 b6 c1 01 4e")
show_bytes(begin)

# %% tags=["exercise"]
answer = None  # (offset, size)

# %% jupyter={"source_hidden": true} tags=["check"]
_, _, position = checkpoint_table.block_handle(begin, 0)
hint = "the first handle is the metaindex block's: skip two numbers, then put sevens together"
check(answer, checkpoint_table.block_handle(begin, position)[:2], hint)

# %% [markdown]
# <details><summary>Answer</summary>
#
# `a9 c1 01` and `08` are the metaindex block's. Then `b6 c1 01`: 0x36, 0x41 and 1, seven bits
# each; and `4e`, below 0x80, is one byte.
#
# ```python
# answer = (0x36 + (0x41 << 7) + (1 << 14), 0x4E)
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2
#
# Now the other direction: write a function that takes a number (0 or more) and returns its varint
# as `bytes`. It is tried on a number of 41 bits.

# %% tags=["exercise"]
answer = None  # your function

# %% jupyter={"source_hidden": true} tags=["check"]
from weights_tools.formats import checkpoint_writer

tried = (1 << 40) + 300
hint = "while more than seven bits are left, put out the lowest seven with the top bit set"
check(answer, checkpoint_writer.varint(tried), hint, given=(tried,))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def to_varint(number):
#     encoded = []
#     while number > 0x7F:
#         encoded.append(number & 0x7F | 0x80)
#         number >>= 7
#     return bytes([*encoded, number])
#
#
# answer = to_varint
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3
#
# How much does it save not to store what keys share? Write a function that takes a list of names
# in rising order and returns how many bytes of names one block stores for them: the first in full,
# of each other one only what it does not share with the beginning of the one before. It is tried
# on the names of all variables of the checkpoint above.

# %% tags=["exercise"]
answer = None  # your function

# %% jupyter={"source_hidden": true} tags=["check"]
names = sorted(variables)
whole = checkpoint_writer.block([(name.encode(), b"") for name in names], len(names))
stored_bytes = sum(len(key) - shared for key, shared, _ in entries(whole))
hint = "os.path.commonprefix([a, b]) is what two names share at their beginning"
check(answer, stored_bytes, hint, given=(names,))

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# import os
# from itertools import pairwise
#
#
# def stored(names):
#     shared = sum(len(os.path.commonprefix([a, b])) for a, b in pairwise(names))
#     return sum(len(name) for name in names) - shared
#
#
# answer = stored
# ```
#
# Compare it with `sum(map(len, names))`. A real block stores every sixteenth name in full, so that
# a reader need not begin at the first.
#
# </details>

# %% [markdown]
# Next: [11, one image on many cores](11_one_image_on_many_cores.ipynb): how an answer comes
# sooner.
