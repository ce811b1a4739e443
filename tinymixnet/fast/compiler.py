"""Compile the network for one input size: from the architecture to a list of steps.

`Compiler` goes through the blocks as `engine/network.py` does. Where `mixnet_block` computes a
layer, `Compiler` adds a step: which kernel to call, on which arrays. All arrays are allocated here,
once, and the layers use them in turn. To run the network is then to call the steps one after
another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.engine.architecture import Architecture, Block, group_kernels
from tinymixnet.engine.budget import budget
from tinymixnet.engine.kernels import Array, same_padding
from tinymixnet.fast import depthwise
from tinymixnet.fast.kernels import gate_of_squeezed, im2col_planes, relu_to, squeeze
from tinymixnet.fast.layout import Layout, same_pixels
from tinymixnet.fast.memory import LINE, aligned
from tinymixnet.fast.products import tiles
from tinymixnet.fast.swish import Swish

if TYPE_CHECKING:  # only needed by those who ask for a team
    from tinymixnet.fast.team import Seat

FOURIER_PIXELS = 64  # up to here a plane is filtered by Fourier transform, above it by columns
TINY_PIXELS = 16  # up to here all kernels of a block share a transform
PHASES_PER_AXIS = 2  # of planes filtered by columns; 2 x 2 was the fastest
CACHE_BYTES = 3 << 18  # the memory of a few channels: fits into a core's second-level cache


class Step(NamedTuple):
    """One kernel call, ready to run."""

    layer: str
    kernel: str
    run: Callable[[], object]


class Output(NamedTuple):
    """How to get a layer's output out of a program."""

    after: int  # how many steps have to be run first
    read: Callable[[], Array]  # returns the output as a new array


class Program(NamedTuple):
    """The network, compiled for one input size."""

    image: Array  # (H, W, 3) float32, a view: write the image here, 0..255
    steps: list[Step]
    outputs: dict[str, Output]  # by the name of the layer


def split(x: Array, sizes: Iterable[int]) -> list[Array]:
    """Return views of x, cut along its first axis into parts of these sizes."""
    return np.split(x, np.cumsum(list(sizes))[:-1])


def whole_plane(x: Array, layout: Layout, missing: Array) -> Array:
    """Return a block's output (H, W, C). In x (C, layout.size), `missing` (C,) is missing."""
    output = layout.plane(x)
    output += missing
    return output


class Memory:
    """Allocates the arrays of one program, and asks the budget about their sum.

    processes: how many allocate as much.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.bytes = 0  # allocated so far, by all

    def zeros(self, *shape: int) -> Array:
        """Return aligned zeros. Raise TinyMixNetError where the budget does not allow for them."""
        size = prod(shape)
        self.bytes += 4 * size * self.processes
        budget.check("plan_bytes", self.bytes, "the fast path at this input size")
        return aligned(size).reshape(shape)


class Scratch:
    """Memory that the layers use in turn: each asks for a shape and gets a view of it.

    It grows to the largest request. A view that was given out before keeps the memory it has.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.largest = memory.zeros(0)

    def array(self, *shape: int) -> Array:
        """Return an array of this shape; it holds whatever the last user left, at first zeros."""
        size = prod(shape)
        if self.largest.size < size:
            self.largest = self.memory.zeros(size)
        return self.largest[:size].reshape(shape)


class Compiler:
    """Turns the architecture into a `Program` for one input size.

    With a seat in a team, constants are those of one member, and so are the channels in a block.
    """

    def __init__(
        self,
        architecture: Architecture,
        constants: Mapping[str, Array],
        swish: Swish,
        seat: "Seat | None" = None,
    ) -> None:
        self.architecture = architecture
        self.constants = constants
        self.swish = swish  # the way that the constants are folded for
        self.seat = seat
        self.steps: list[Step] = []
        self.memory = Memory(seat.members if seat else 1)
        self.transforms: dict[tuple[int, int, int, int], depthwise.Fourier] = {}
        reach = max(max(b.kernel_sizes) for b in architecture.blocks) // 2
        self.margin = -(-reach // LINE) * LINE

        # Below, C are the channels inside a block, O those it puts out, P the numbers in a plane.
        scratch = partial(Scratch, self.memory)
        self.expanded = scratch()  # (margin + C * P + margin,): what the block filters
        self.filtered = scratch()  # (C, P): after the depthwise convolution
        self.projected = scratch()  # (O, P): the block's output; the next block copies it
        self.squeezed = scratch()  # (R,): squeeze-and-excite
        self.gate = scratch()  # (C,)
        self.gated_kernels: dict[int, Scratch] = defaultdict(scratch)  # (O, C), by group
        self.column_sums = scratch()  # (M, C, phase): see `depthwise_columns`
        self.within_step = scratch()  # any shape: what a kernel needs only while it runs
        self.zeros = scratch()  # (C * P,): never written to, ReLU compares with it

        # These have padding or rows of ones that are set once, so they are used only for one shape.
        self.with_bias_rows: dict[tuple[object, ...], Array] = {}  # (C + groups, P)
        self.unexpanded: dict[tuple[Layout, int], Scratch] = defaultdict(scratch)  # as `expanded`

    def program(self, height: int, width: int) -> Program:
        """Go through the network once and note all steps."""
        outputs: dict[str, Output] = {}
        (top, bottom), (left, right) = same_padding(height, 3, 2), same_padding(width, 3, 2)
        padded = self.memory.zeros(3, top + height + bottom, left + width + right)
        padded[:] = self.constants["normalize/mean"][:, np.newaxis, np.newaxis]
        image = padded[:, top : top + height, left : left + width].transpose(1, 2, 0)
        blocks, filters = self.architecture.blocks, len(self.constants["stem/kernel_0"])
        layout = self.layout_for(-(-height // 2), -(-width // 2), blocks[0].stride)
        columns = self.memory.zeros(28, layout.size)  # 3 x 3 pixels of 3 colours, and ones
        columns[27] = layout.ones()
        x = self.inside(self.input_of_unexpanded(filters, layout), filters)
        self.step("stem", im2col_planes, padded, 3, 2, layout, columns[:27])
        self.product("stem", self.constants["stem/kernel_0"], columns, x)
        self.activate("stem", x, swish=False)
        outputs["stem/act"] = Output(len(self.steps), partial(layout.plane, x))

        name = "stem"
        for block in blocks:
            x, layout = self.block(block, x, layout, self.constants[f"{name}/missing"])
            name = block.name
            read = partial(whole_plane, x, layout, self.constants[f"{name}/missing"])
            outputs[f"{name}/output"] = Output(len(self.steps), read)

        compact = Layout(layout.height, layout.width)
        last = self.append_bias_rows("head", x, layout, compact, [len(x)])
        head = self.memory.zeros(len(self.constants["head/kernel_0"]), compact.size)
        pooled = np.zeros(self.architecture.head_filters, np.float32)
        [ours] = self.own("head", pooled)
        logits = np.empty(self.architecture.classes, np.float32)
        self.step("head", np.matmul, self.constants["head/kernel_0"], last, out=head)
        self.activate("head", head, swish=False)
        mean = np.full(compact.size, 1 / compact.size, np.float32)
        self.step("head", pooled.fill, 0)  # where the channels of other members are
        self.step("head", np.matmul, head, mean, out=ours)  # np.mean is slow on short rows
        self.add_up("head", pooled)
        outputs["head/pool"] = Output(len(self.steps), pooled.copy)
        self.step("logits", np.matmul, ours, self.constants["logits/kernel"], out=logits)
        self.add_up("logits", logits)
        self.step("logits", np.add, logits, self.constants["logits/bias"], out=logits)
        outputs["logits"] = Output(len(self.steps), logits.copy)
        return Program(image, self.steps, outputs)

    def layout_for(self, h: int, w: int, stride: int) -> Layout:
        """Return the layout in which a depthwise kernel of this stride takes planes of this size.

        By columns, the stride has to divide the number of phases. Then all pixels that an element
        of the kernel reads lie in one phase.
        """
        if h * w <= FOURIER_PIXELS:
            return Layout(h, w)
        return Layout(h, w, max(PHASES_PER_AXIS, stride))

    def block(self, b: Block, x: Array, before: Layout, missing: Array) -> tuple[Array, Layout]:
        """Add a block's steps, in the order of `network.mixnet_block`; return (output, layout).

        missing: a number for each channel of x that still has to be added, see `constants.py`.
        """
        layout = self.layout_for(before.height, before.width, b.stride)
        channels = len(self.constants[f"{b.name}/depthwise/bias"])
        if b.expand_groups:
            layer = f"{b.name}/expand"
            kernels = self.weights(layer)
            groups = [kernel.shape[1] - 1 for kernel in kernels]
            with_ones = self.append_bias_rows(layer, x, before, layout, groups)
            expanded = self.expanded.array(channels * layout.size + 2 * self.margin)
            self.pointwise(layer, kernels, with_ones, self.inside(expanded, channels))
            shortcut = self.without_bias_rows(with_ones, groups)
        else:
            expanded = self.input_of_unexpanded(channels, layout)
            shortcut = [self.inside(expanded, channels)]
            if not np.may_share_memory(x, expanded):  # the stem's output is there already
                parts, more = self.own(b.name, x), self.own(b.name, missing)
                places = split(shortcut[0], map(len, parts))
                for part, add, place in zip(parts, more, places, strict=True):
                    for pixels, empty in same_pixels(part, before, place, layout):
                        add = add.reshape(-1, *[1] * (pixels.ndim - 1))
                        self.step(f"{b.name}/depthwise", np.add, pixels, add, out=empty)

        after = layout.filtered(b.stride)
        filtered = self.filtered.array(channels, after.size)
        if layout.phases_per_axis == 1:
            self.fourier(b, self.inside(expanded, channels), layout, filtered)
        else:
            self.columns(b, expanded, layout, filtered)

        layer = f"{b.name}/project"
        kernels = self.weights(layer)
        if b.se_width:
            kernels = self.squeeze_excite(b, filtered, after, kernels)
        projected = self.projected.array(b.outputs, after.size)
        self.pointwise(layer, kernels, filtered, projected)
        if b.residual and not b.expand_groups:  # the shortcut has our channels of the input alone
            places = self.own(b.name, projected)
            self.add(layer, split(shortcut[0], map(len, places)), places)
        self.add_up(layer, projected)
        if b.residual and b.expand_groups:
            self.add(layer, shortcut, split(projected, map(len, shortcut)))
        return projected, after

    def squeeze_excite(
        self, b: Block, x: Array, layout: Layout, kernels: list[Array]
    ) -> list[Array]:
        """Compute the gates and multiply the smaller of two with them: x, or the project kernels.

        Their product is the same either way. Return the kernels to project with.
        """
        layer, gate = f"{b.name}/se", self.gate.array(len(x))
        squeezed = self.squeezed.array(b.se_width)
        mean = layout.ones() / np.float32(layout.height * layout.width)
        names = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
        reduce, *weights = (self.constants[f"{b.name}/{name}"] for name in names)
        self.step(layer, squeeze, x, mean, reduce, squeezed)
        self.add_up(layer, squeezed)
        self.step(layer, gate_of_squeezed, squeezed, *weights, b.swish, self.swish, gate)
        if layout.size < len(kernels[0]):
            self.step(layer, np.multiply, x, gate[:, np.newaxis], out=x)
            return kernels
        scaled = [self.gated_kernels[i].array(*kernel.shape) for i, kernel in enumerate(kernels)]
        gates = split(gate, (kernel.shape[1] for kernel in kernels))
        for kernel, part, out in zip(kernels, gates, scaled, strict=True):
            self.step(layer, np.multiply, kernel, part, out=out)
        return scaled

    def append_bias_rows(
        self, layer: str, x: Array, before: Layout, layout: Layout, groups: list[int]
    ) -> Array:
        """Copy x into an array with a row of ones after each group: (C + groups, layout.size).

        A 1x1 convolution takes its bias from the row of ones. In the padding of the layout this row
        is zero, too. So the output there is zero, also after ReLU or swish, and the depthwise
        kernel can read it as the zeros of SAME padding.
        """
        key = (layout, *groups)
        if key not in self.with_bias_rows:
            array = self.memory.zeros(len(x) + len(groups), layout.size)
            for group in split(array, (size + 1 for size in groups)):
                group[-1] = layout.ones()
            self.with_bias_rows[key] = array
        with_ones = self.with_bias_rows[key]
        places = self.without_bias_rows(with_ones, groups)
        for part, group in zip(split(x, groups), places, strict=True):
            for pixels, place in same_pixels(part, before, group, layout):
                self.step(layer, np.copyto, place, pixels)
        return with_ones

    def without_bias_rows(self, with_ones: Array, groups: list[int]) -> list[Array]:
        """Return views of the channels of each group, without the rows of ones."""
        return [group[:-1] for group in split(with_ones, (size + 1 for size in groups))]

    def pointwise(self, layer: str, kernels: list[Array], x: Array, out: Array) -> None:
        """Add a 1x1 convolution: one matrix product for each group."""
        inputs = split(x, (kernel.shape[1] for kernel in kernels))
        outputs = split(out, (kernel.shape[0] for kernel in kernels))
        for kernel, part, place in zip(kernels, inputs, outputs, strict=True):
            self.product(layer, kernel, part, place)

    def product(self, layer: str, kernel: Array, x: Array, out: Array) -> None:
        """Add kernel (O, C) @ x (C, P)."""
        kernel, x, out = tiles(kernel, x, out)
        self.step(layer, np.matmul, kernel, x, out=out)

    def activate(self, layer: str, x: Array, swish: bool, out: Array | None = None) -> None:
        """Add ReLU, or swish as `Swish` says, in place or into `out`; both contiguous."""
        flat = x.reshape(-1)
        out = flat if out is None else out.reshape(-1)
        if swish:
            self.step(layer, self.swish.activate, flat, self.within_step.array(flat.size), out)
        else:
            self.step(layer, relu_to, flat, self.zeros.array(flat.size), out)

    def columns(self, b: Block, expanded: Array, layout: Layout, out: Array) -> None:
        """Add the activation, `depthwise_columns`, and the second activation.

        All three are done for a few channels before the next few, so that their numbers are still
        in the cache.
        """
        layer, group = f"{b.name}/depthwise", 0
        bias = self.constants[f"{layer}/bias"]
        for kernel in self.weights(layer):
            channels = kernel.shape[2]
            biases = bias[group : group + channels]
            whole = depthwise.filter_for(kernel, biases, layout, b.stride)
            _, m, n = whole.matrix.shape
            bytes_each = 4 * ((m + n) * layout.phase_size + layout.size)
            parts = min(-(-channels * bytes_each // CACHE_BYTES), channels)
            # Cut at multiples of 4 channels, because these mostly begin at a cache line. Where even
            # one channel is too large for the cache, 4 would only take more memory.
            unit = 4 if bytes_each <= CACHE_BYTES else 1
            cuts = {part * channels // parts // unit * unit for part in range(parts)}
            for first, end in pairwise([*sorted(cuts), channels]):
                some, c = slice(group + first, group + end), end - first
                x = expanded[some.start * layout.size : some.stop * layout.size + 2 * self.margin]
                columns = self.within_step.array(c, n, layout.phase_size)
                sums = self.column_sums.array(m, c, layout.phase_size)
                part = whole._replace(matrix=whole.matrix[first:end])
                work = depthwise.columns_for(part, x, self.margin, layout, columns, sums)
                if b.expand_groups:
                    self.activate(f"{b.name}/expand", self.inside(x, c), b.swish)
                self.step(layer, depthwise.depthwise_columns, work)
                if len(work.total) == 1:
                    self.activate(layer, work.total, b.swish, out[some])
                else:  # phases and channels have to change places, which only a copy does fast
                    self.activate(layer, work.total, b.swish)
                    place = out[some].reshape(c, -1, layout.phase_size).transpose(1, 0, 2)
                    self.step(layer, np.copyto, place, work.total)
            group += channels

    def fourier(self, b: Block, x: Array, layout: Layout, out: Array) -> None:
        """Add the activation, `depthwise_fourier`, and the second activation, for all channels."""
        layer, h, w = f"{b.name}/depthwise", layout.height, layout.width
        if b.expand_groups:
            self.activate(f"{b.name}/expand", x, b.swish)
        kernels = self.weights(layer)
        # On a tiny plane a larger transform takes less time than a step for each kernel.
        groups = [kernels] if h * w <= TINY_PIXELS else [[kernel] for kernel in kernels]
        wholes = x, self.constants[f"{layer}/bias"], out
        sizes = [sum(kernel.shape[2] for kernel in group) for group in groups]
        parts = (split(whole, sizes) for whole in wholes)
        for group, channels, part, bias, place in zip(groups, sizes, *parts, strict=True):
            key = h, w, max(len(kernel) for kernel in group), b.stride
            if key not in self.transforms:
                self.transforms[key] = depthwise.fourier_for(*key)
            transform = self.transforms[key]
            spectra = np.concatenate(
                [depthwise.spectra_for(kernel, h, w, b.stride, transform) for kernel in group]
            )
            scratch = self.within_step.array(channels, transform.forward.shape[1])
            part, _, scratch = tiles(part, transform.forward, scratch)
            rows = part.shape[:-1]  # the channels, in tiles or not
            spectra, place = spectra.reshape(*rows, -1), place.reshape(*rows, -1)
            arguments = part, spectra, bias.reshape(rows), transform, scratch, place
            self.step(layer, depthwise.depthwise_fourier, *arguments)
        self.activate(layer, out, b.swish)

    def add(self, layer: str, shortcut: Iterable[Array], output: Iterable[Array]) -> None:
        """Add the steps of a residual: the stride is 1, and both sides have the same layout."""
        for part, place in zip(shortcut, output, strict=True):
            self.step(layer, np.add, place, part, out=place)

    # -- a team ----

    def own(self, name: str, x: Array) -> list[Array]:
        """Return views of those channels of x that are ours; without a team, that is x."""
        return [x[rows] for rows in self.seat.own[name]] if self.seat else [x]

    def add_up(self, layer: str, x: Array) -> None:
        """In a team x has partial sums: add the step that adds up those of all members."""
        if self.seat:
            self.seat.reserve(x.size)
            self.step(layer, self.seat.add_up, x)

    # -- weights, memory and steps ----

    def weights(self, layer: str) -> list[Array]:
        return group_kernels(layer, self.constants)

    def input_of_unexpanded(self, channels: int, layout: Layout) -> Array:
        """Return where a block without expansion reads its input, with margins.

        Nobody writes into the padding, so it stays zero.
        """
        return self.unexpanded[layout, channels].array(channels * layout.size + 2 * self.margin)

    def inside(self, x: Array, channels: int) -> Array:
        """Return what lies between the margins: (C, P). Shifted reads reach into the margins."""
        return x[self.margin : len(x) - self.margin].reshape(channels, -1)

    def step(self, layer: str, kernel: Callable[..., object], *a: Any, **named: Any) -> None:
        self.steps.append(Step(layer, kernel.__name__, partial(kernel, *a, **named)))
