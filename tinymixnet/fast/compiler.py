"""Compile the network for one input size: from the architecture to a list of steps.

`Compiler` goes through the blocks as `engine/network.py` does. Where that computes a layer, it adds
a step: which kernel to call, on which arrays. All arrays are allocated here, and the layers share
them. Running the network then means calling the steps one after another.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.architecture import Architecture, Block, group_kernels
from tinymixnet.engine.kernels import Array, same_padding
from tinymixnet.fast import depthwise
from tinymixnet.fast.kernels import (
    im2col_planes,
    relu_to,
    squeeze_excite_gate,
    swish_of_half_to,
)
from tinymixnet.fast.layout import Layout, same_pixels

FOURIER_PIXELS = 64  # planes up to this size go by Fourier transform, larger ones by columns
PHASES_PER_AXIS = 2  # planes that go by columns are cut into 2 x 2 phases
CACHE_BYTES = 3 << 18  # well within a core's second-level cache
LINE = 16  # float32 numbers in a line of the cache


class Step(NamedTuple):
    """One kernel call, ready to run."""

    layer: str
    kernel: str
    run: Callable[[], object]


class Program(NamedTuple):
    """The steps for one input size, and where they read and leave what is wanted of them."""

    image: Array  # (H, W, 3) float32, a view: write the image here, 0..255
    steps: list[Step]
    outputs: dict[str, tuple[int, Callable[[], Array]]]  # name: (steps to run first, read it)


def aligned(size: int) -> Array:
    """Return `size` zeros aligned to a 64-byte cache line, which NumPy does not guarantee.

    Unaligned vectors straddle two cache lines, which nearly halves the speed of kernels that read
    two arrays.
    """
    spare = np.zeros(size + LINE, np.float32)
    start = -spare.ctypes.data // spare.itemsize % LINE
    return spare[start : start + size]


def split(x: Array, sizes: Iterable[int]) -> list[Array]:
    """Views of x, cut along its first axis into parts of these sizes."""
    return np.split(x, np.cumsum(list(sizes))[:-1])


class Compiler:
    """Turns the architecture into a `Program` for one input size."""

    def __init__(self, architecture: Architecture, constants: Mapping[str, Array]) -> None:
        self.architecture = architecture
        self.constants = constants
        self.steps: list[Step] = []
        self.pools: dict[object, Array] = {}
        self.matrices: dict[tuple[int, int, int, int], depthwise.Fourier] = {}
        reach = max(max(b.kernel_sizes) for b in architecture.blocks) // 2
        self.margin = -(-reach // LINE) * LINE

    def program(self, height: int, width: int) -> Program:
        """Go through the network once and note all steps."""
        outputs: dict[str, tuple[int, Callable[[], Array]]] = {}
        (top, bottom), (left, right) = same_padding(height, 3, 2), same_padding(width, 3, 2)
        padded = np.empty((3, top + height + bottom, left + width + right), np.float32)
        padded[:] = self.constants["normalize/mean"][:, np.newaxis, np.newaxis]
        image = padded[:, top : top + height, left : left + width].transpose(1, 2, 0)
        layout = self.layout_for(-(-height // 2), -(-width // 2))
        columns = aligned(28 * layout.size).reshape(28, -1)
        columns[27] = layout.ones()
        filters = self.architecture.stem
        x = self.inside(self.unexpanded(filters, layout), filters)
        self.step("stem", im2col_planes, padded, 3, 2, layout, columns[:27])
        self.step("stem", np.matmul, self.constants["stem/kernel_0"], columns, out=x)
        self.activate("stem", x, swish=False)
        outputs["stem/act"] = len(self.steps), partial(layout.plane, x)

        for block in self.architecture.blocks:
            x, layout = self.block(block, x, layout)
            outputs[f"{block.name}/output"] = len(self.steps), partial(layout.plane, x)

        compact = Layout(layout.height, layout.width)
        last = self.append_bias_rows("head", x, layout, compact, [len(x)])
        head = self.scratch("head", self.architecture.head_filters, compact.size)
        pooled = np.empty(len(head), np.float32)
        logits = np.empty(self.architecture.classes, np.float32)
        self.step("head", np.matmul, self.constants["head/kernel_0"], last, out=head)
        self.activate("head", head, swish=False)
        self.step("head", np.mean, head, axis=1, out=pooled)
        outputs["head/pool"] = len(self.steps), pooled.copy
        self.step("logits", np.matmul, pooled, self.constants["logits/kernel"], out=logits)
        self.step("logits", np.add, logits, self.constants["logits/bias"], out=logits)
        outputs["logits"] = len(self.steps), logits.copy
        return Program(image, self.steps, outputs)

    def layout_for(self, h: int, w: int) -> Layout:
        """The layout in which a depthwise kernel takes planes of this size."""
        return Layout(h, w, 1 if h * w <= FOURIER_PIXELS else PHASES_PER_AXIS)

    def block(self, b: Block, x: Array, before: Layout) -> tuple[Array, Layout]:
        """One block, in the order of `network.mixnet_block`: (its output, the layout of that)."""
        layout = self.layout_for(before.height, before.width)
        if b.expand_groups:
            layer = f"{b.name}/expand"
            kernels = self.weights(layer)
            groups = [kernel.shape[1] - 1 for kernel in kernels]
            with_ones = self.append_bias_rows(layer, x, before, layout, groups)
            expanded = self.with_margins("expanded", b.expanded, layout)
            self.pointwise(layer, kernels, with_ones, self.inside(expanded, b.expanded))
            shortcut = self.without_bias_rows(with_ones, groups)
        else:
            expanded = self.unexpanded(b.expanded, layout)
            shortcut = [self.inside(expanded, b.expanded)]
            if not np.may_share_memory(x, expanded):  # the stem's output is there already
                for pixels, place in same_pixels(x, before, shortcut[0], layout):
                    self.step(f"{b.name}/depthwise", np.copyto, place, pixels)

        after = layout.filtered(b.stride)
        filtered = self.scratch("filtered", b.expanded, after.size)
        if layout.phases_per_axis == 1:
            self.fourier(b, self.inside(expanded, b.expanded), layout, filtered)
        else:
            self.columns(b, expanded, layout, filtered)

        layer = f"{b.name}/project"
        kernels = self.weights(layer)
        if b.se_width:
            kernels = self.squeeze_excite(b, filtered, after, kernels)
        projected = self.scratch("block", b.outputs, after.size)
        self.pointwise(layer, kernels, filtered, projected)
        bias = self.constants[f"{layer}/bias"][:, np.newaxis]
        self.step(layer, np.add, projected, bias, out=projected)
        if b.residual:  # in the same layout, for the stride is 1
            for part, reached in zip(shortcut, split(projected, map(len, shortcut)), strict=True):
                self.step(layer, np.add, reached, part, out=reached)
        return projected, after

    def squeeze_excite(
        self, b: Block, x: Array, layout: Layout, kernels: list[Array]
    ) -> list[Array]:
        """Compute the gates, and scale with them whatever is smaller: x, or the project kernels.

        Either gives the same product. Returns the kernels to project with.
        """
        layer, gate = f"{b.name}/se", self.scratch("gate", b.expanded)
        mean = layout.ones() / np.float32(layout.height * layout.width)
        names = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
        weights = [self.constants[f"{b.name}/{name}"] for name in names]
        self.step(layer, squeeze_excite_gate, x, mean, *weights, b.swish, gate)
        if layout.size < len(kernels[0]):
            self.step(layer, np.multiply, x, gate[:, np.newaxis], out=x)
            return kernels
        scaled = [self.scratch(f"gated {i}", *kernel.shape) for i, kernel in enumerate(kernels)]
        gates = split(gate, (kernel.shape[1] for kernel in kernels))
        for kernel, part, out in zip(kernels, gates, scaled, strict=True):
            self.step(layer, np.multiply, kernel, part, out=out)
        return scaled

    def append_bias_rows(
        self, layer: str, x: Array, before: Layout, layout: Layout, groups: list[int]
    ) -> Array:
        """Copy x into an array with a row of ones after each group: (C + groups, layout.size).

        A 1x1 convolution takes its bias from the row of ones. In the padding of the layout even
        these are zero, and so everything computed from it is zero too, also after ReLU or swish. So
        the depthwise kernel can read it as the zeros of SAME padding.
        """
        key = ("laid out", layout, *groups)
        if key not in self.pools:
            shape = len(x) + len(groups), layout.size
            self.pools[key] = aligned(prod(shape)).reshape(shape)
            for group in split(self.pools[key], (size + 1 for size in groups)):
                group[-1] = layout.ones()
        laid_out = self.pools[key]
        places = self.without_bias_rows(laid_out, groups)
        for part, group in zip(split(x, groups), places, strict=True):
            for pixels, place in same_pixels(part, before, group, layout):
                self.step(layer, np.copyto, place, pixels)
        return laid_out

    def without_bias_rows(self, laid_out: Array, groups: list[int]) -> list[Array]:
        """The channels of each group, as views that leave out the rows of ones."""
        return [group[:-1] for group in split(laid_out, (size + 1 for size in groups))]

    def pointwise(self, layer: str, kernels: list[Array], x: Array, out: Array) -> None:
        """A 1x1 convolution: one matrix product for each group."""
        inputs = split(x, (kernel.shape[1] for kernel in kernels))
        outputs = split(out, (kernel.shape[0] for kernel in kernels))
        for kernel, part, place in zip(kernels, inputs, outputs, strict=True):
            self.step(layer, np.matmul, kernel, part, out=place)

    def activate(self, layer: str, x: Array, swish: bool, out: Array | None = None) -> None:
        """ReLU, or swish of halved values, in place or into `out`; both contiguous."""
        flat = x.reshape(-1)
        out = flat if out is None else out.reshape(-1)
        if swish:
            self.step(layer, swish_of_half_to, flat, self.scratch("temporary", flat.size), out)
        else:
            self.step(layer, relu_to, flat, self.scratch("zeros", flat.size), out)

    def columns(self, b: Block, expanded: Array, layout: Layout, out: Array) -> None:
        """Activate, filter by `depthwise_columns` and activate again.

        A few channels at a time, so that everything they need stays in the cache.
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
            # A multiple of 4 channels mostly begins at a cache line.
            cuts = {part * channels // parts // 4 * 4 for part in range(parts)}
            for first, end in pairwise([*sorted(cuts), channels]):
                some, c = slice(group + first, group + end), end - first
                x = expanded[some.start * layout.size : some.stop * layout.size + 2 * self.margin]
                columns = self.scratch("temporary", c, n, layout.phase_size)
                sums = self.scratch("sums", m, c, layout.phase_size)
                part = whole._replace(matrix=whole.matrix[first:end])
                work = depthwise.columns_for(part, x, self.margin, layout, columns, sums)
                if b.expand_groups:
                    self.activate(f"{b.name}/expand", self.inside(x, c), b.swish)
                self.step(layer, depthwise.depthwise_columns, work)
                if len(work.total) == 1:
                    self.activate(layer, work.total, b.swish, out[some])
                else:  # only a plain copy is fast when it also swaps phases and channels
                    self.activate(layer, work.total, b.swish)
                    place = out[some].reshape(c, -1, layout.phase_size).transpose(1, 0, 2)
                    self.step(layer, np.copyto, place, work.total)
            group += channels

    def fourier(self, b: Block, x: Array, layout: Layout, out: Array) -> None:
        """Activate, filter by `depthwise_fourier` and activate again, all channels at once."""
        layer, h, w = f"{b.name}/depthwise", layout.height, layout.width
        if b.expand_groups:
            self.activate(f"{b.name}/expand", x, b.swish)
        kernels = self.weights(layer)
        wholes = x, self.constants[f"{layer}/bias"], out
        parts = (split(whole, (kernel.shape[2] for kernel in kernels)) for whole in wholes)
        for kernel, part, bias, place in zip(kernels, *parts, strict=True):
            k, _, channels, _ = kernel.shape
            key = h, w, k, b.stride
            if key not in self.matrices:
                self.matrices[key] = depthwise.fourier_for(*key)
            at = self.matrices[key]
            spectra = depthwise.spectra_for(kernel, h, w, b.stride, at)
            scratch = self.scratch("temporary", channels, at.forward.shape[1])
            self.step(layer, depthwise.depthwise_fourier, part, spectra, bias, at, scratch, place)
        self.activate(layer, out, b.swish)

    # -- weights and memory ----

    def weights(self, layer: str) -> list[Array]:
        return group_kernels(layer, self.constants)

    def scratch(self, name: object, *shape: int) -> Array:
        """An array shared by all layers that ask for this name. At first it is zero."""
        size = prod(shape)
        if name not in self.pools or self.pools[name].size < size:
            self.pools[name] = aligned(size)
        return self.pools[name][:size].reshape(shape)

    def with_margins(self, name: object, channels: int, layout: Layout) -> Array:
        """Planes with a margin before and after them, because shifted reads reach beyond them."""
        return self.scratch(name, channels * layout.size + 2 * self.margin)

    def unexpanded(self, channels: int, layout: Layout) -> Array:
        """Where a block without expansion finds its input, with margins. The padding stays zero."""
        return self.with_margins(("unexpanded", layout, channels), channels, layout)

    def inside(self, x: Array, channels: int) -> Array:
        """What lies between the margins: (C, P)."""
        return x[self.margin : len(x) - self.margin].reshape(channels, -1)

    def step(self, layer: str, kernel: Callable[..., object], *a: Any, **named: Any) -> None:
        self.steps.append(Step(layer, kernel.__name__, partial(kernel, *a, **named)))
