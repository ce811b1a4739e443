"""One image on several cores: each member of a team computes a share of the channels.

The idea is known as tensor parallelism. Between the 1x1 convolution that expands a block's channels
and the one that projects them back, every channel is worked on by itself: depthwise convolution,
activation, gate. So these channels can be dealt out to N processes, the members of a team. With I
channels at a block's input, C inside, O at its output, and P or P' pixels, member m computes

    expand      x (I, P)  ->  (C_m, P)     with its rows of the kernel (C, I)
    depthwise   (C_m, P)  ->  (C_m, P')    with its channels of the kernels (K, K, C, 1)
    project     (C_m, P') ->  (O, P')      with its columns of the kernel (O, C)

where C_0 + ... + C_(N-1) = C. The last product has all O channels, but it is a partial sum: what
the channels of the other members contribute is missing. When all members have added up their
partial sums, each of them has the block's whole output and goes on with the next block. That is
one exchange a block. A second one is hidden in squeeze-and-excite: its first dense layer looks at
all channels, so a member's product with it is a partial sum, too.

A member takes a share of the channels of *each* depthwise kernel, because large kernels take more
time than small ones. The stem, the head and the last dense layer are cut in the same way. What is
small stays whole, and every member does it: shortcuts, copying the image and the outputs.

No other code of the network knows of this. `part_of` cuts the weights. `Compiler` makes steps of a
part as of any weights, and adds a step `Seat.add_up` where it meets a partial sum. The processes
are started and watched in `members.py`, and wait for each other in `barrier.py`.
"""

from collections.abc import Mapping
from math import prod
from typing import Protocol

import numpy as np

from tinymixnet.engine.architecture import Architecture, group_kernels
from tinymixnet.engine.kernels import Array, split_channels
from tinymixnet.fast.shared_memory import SharedNumbers

# -- the cutting ----------------------------------------------------------------------------------


def share_of(size: int, member: int, members: int, start: int = 0) -> slice:
    """Return a member's share of `size` channels that begin at `start`; shares differ by 1."""
    return slice(start + member * size // members, start + (member + 1) * size // members)


def kernel_groups(architecture: Architecture) -> dict[str, list[int]]:
    """Return for each block how many channels each of its depthwise kernels has."""
    return {b.name: split_channels(b.expanded, len(b.kernel_sizes)) for b in architecture.blocks}


def most_members(architecture: Architecture) -> int:
    """Return how many members a team can have. Each needs a channel of every kernel."""
    smallest = min(min(groups) for groups in kernel_groups(architecture).values())
    return min(smallest, architecture.head_filters)


def own_channels(architecture: Architecture, member: int, members: int) -> dict[str, list[slice]]:
    """Return which channels are a member's: inside every block, in the "stem" and in the "head".

    Inside a block there is a slice for each depthwise kernel, in ascending order. The first block
    of a MixNet does not expand, so its channels are those of the stem, and the stem is cut like
    them. A first block that expands reads the whole stem, and every member computes that.
    """
    own: dict[str, list[slice]] = {}
    for block, groups in kernel_groups(architecture).items():
        own[block], start = [], 0
        for size in groups:
            own[block].append(share_of(size, member, members, start))
            start += size
    first = architecture.blocks[0]
    own["stem"] = [slice(0, architecture.stem)] if first.expand_groups else own[first.name]
    own["head"] = [share_of(architecture.head_filters, member, members)]
    return own


def part_of(
    constants: Mapping[str, Array], architecture: Architecture, own: Mapping[str, list[slice]]
) -> dict[str, Array]:
    """Return a member's part of the weights of `constants.constants`, under the same names.

    Of a kernel that leads to a member's channels it has the rows, of one that leads away from them
    the columns. A bias that is added to a sum over all members stays whole: it is added afterwards.
    """
    part = dict(constants)

    def cut(name: str, channels: Array, axis: int = 0) -> None:
        part[name] = np.take(constants[name], channels, axis)

    def cut_groups(layer: str, channels: Array, axis: int) -> None:
        """Cut the kernels of all groups. Each keeps those of the channels that are in its group."""
        start = 0
        for group, kernel in enumerate(group_kernels(layer, constants)):
            end = start + kernel.shape[axis]
            inside = channels[(start <= channels) & (channels < end)]
            cut(f"{layer}/kernel_{group}", inside - start, axis)
            start = end

    mine = {name: np.r_[tuple(slices)] for name, slices in own.items()}
    cut("stem/kernel_0", mine["stem"])
    for block in architecture.blocks:
        name, channels = block.name, mine[block.name]
        cut_groups(f"{name}/expand", channels, axis=0)
        cut_groups(f"{name}/depthwise", channels, axis=2)
        cut(f"{name}/depthwise/bias", channels)
        if block.se_width:
            cut(f"{name}/se_reduce/kernel", channels)
            cut(f"{name}/se_expand/kernel", channels, axis=1)
            cut(f"{name}/se_expand/bias", channels)
        cut_groups(f"{name}/project", channels, axis=1)
    cut("head/kernel_0", mine["head"])
    cut("logits/kernel", mine["head"])
    return part


# -- the exchanges --------------------------------------------------------------------------------


class Barrier(Protocol):
    """Something that lets all members go on when all have arrived."""

    def wait(self) -> None: ...


class Seat:
    """A member's place in the team: its channels, and how it adds up partial sums with the others.

    The shared memory has two pages, used in turn, and each page has a slot for each member. In an
    exchange a member writes its partial sums into its slot, waits until all members have done so,
    and adds up the slots.

    With a single page it would have to wait once more, until all have read the slots, before
    anybody may write again. With two pages that is not needed. Whoever comes back to a page has
    passed the barrier of the other page, where all others arrived after they had read this one.

    A third page has the image. The first member writes it there when all have arrived at the last
    exchange of the image before, so nobody reads that one any more.
    """

    def __init__(
        self,
        member: int,
        members: int,
        own: Mapping[str, list[slice]],
        memory: SharedNumbers,
        barrier: Barrier,
    ) -> None:
        self.member = member
        self.members = members
        self.own = own
        self.memory = memory
        self.barrier = barrier
        self.page = 0  # that of the next exchange
        self.slot_size = 0  # numbers

    def reserve(self, size: int) -> None:
        """Have slots of at least `size` numbers from the next image on."""
        self.slot_size = max(self.slot_size, size)

    @property
    def pages_shape(self) -> tuple[int, int, int]:
        """The shape of all pages, as numbers: (pages, members, numbers in a slot)."""
        return 3, self.members, self.slot_size

    def add_up(self, x: Array) -> None:
        """Turn a member's partial sums x, which are contiguous, into the sums over all members.

        All members add in the same order, so that they get the same numbers to the last bit.
        """
        flat = x.reshape(-1)
        slots = self.memory.array(*self.pages_shape)[self.page, :, : flat.size]
        self.page = 1 - self.page
        np.copyto(slots[self.member], flat)
        self.barrier.wait()
        np.add(slots[0], slots[1], out=flat)
        for others in slots[2:]:
            np.add(flat, others, out=flat)

    def image(self, *shape: int) -> Array:
        """Return the place of the image, which all members share."""
        return self.memory.array(*self.pages_shape)[2, 0, : prod(shape)].reshape(shape)
