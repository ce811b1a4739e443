"""The fast way to the logits: MixNet as a list of steps, compiled once for each input size.

`constants` folds batch norm into the convolutions and lays the weights out for `fast_kernels`.
`Compiler` goes through the blocks as `model.mixnet_block` does, but where that computes, it notes a
step: which kernel, on which arrays. All arrays are allocated then, and the layers share them, so
running is nothing but the steps one after another. A test holds the result equal to the readable
path.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinymixnet import fast_kernels as fast
from tinymixnet.architecture import BATCH_NORM, Architecture, Block, group_kernels
from tinymixnet.fast_kernels import Layout
from tinymixnet.kernels import Array, fold_batch_norm, same_padding
from tinymixnet.weights import Metadata

FOURIER_PIXELS = 64  # planes up to this size go by Fourier transform, larger ones by columns
CUT = 2  # planes that go by columns are cut into CUT x CUT phases
CACHE_BYTES = 3 << 18  # well within a core's second-level cache
LINE = 16  # numbers in a line of the cache


class Step(NamedTuple):
    """One kernel call, ready to run."""

    layer: str
    kernel: str
    run: Callable[[], object]


class Program(NamedTuple):
    """The steps for one input size, and where they read and leave what is wanted of them."""

    image: Array  # (H, W, 3) float32, a view: write the image here, 0..255
    steps: list[Step]
    outputs: dict[str, tuple[int, Callable[[], Array]]]  # name: after how many steps, read so


class Plan:
    """MixNet made fast. `constants` are those of `constants()`, possibly in shared memory."""

    def __init__(self, architecture: Architecture, constants: Mapping[str, Array]) -> None:
        self.architecture = architecture
        self.constants = constants
        self._programs: dict[tuple[int, int], Program] = {}
        self._lock = threading.Lock()  # two threads must not write into the same scratch arrays

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """The wanted outputs of one image (H, W, 3), 0..255, uint8 or float32, as new arrays.

        To be had: stem/act, every block's output (H, W, C), head/pool and logits (C,).
        """
        with self._lock:
            program = self.program(*image.shape[:2])
            program.image[:] = image
            found, done = {}, 0
            for name in sorted(wanted, key=lambda name: program.outputs[name][0]):
                after, read = program.outputs[name]
                for step in program.steps[done:after]:
                    step.run()
                done = after
                found[name] = read()
            return [found[name] for name in wanted]

    def program(self, height: int, width: int) -> Program:
        """The program of an input size, compiled when first asked for; the last two are kept."""
        size = height, width
        if size not in self._programs:
            while len(self._programs) > 1:
                del self._programs[next(iter(self._programs))]
            self._programs[size] = Compiler(self.architecture, self.constants).program(*size)
        return self._programs[size]


# -- weights --------------------------------------------------------------------------------------


def constants(
    architecture: Architecture, tensors: Mapping[str, Array], about: Metadata
) -> dict[str, Array]:
    """Everything of the weights that the plan needs: folded, halved before swish, laid out.

    Depthwise kernels stay (K, K, C, 1) and get a bias of their own, (C,); so do project kernels,
    (O, C). The input of all others ends in a row of ones: they are (O, C + 1), bias and all.
    """
    found: dict[str, Array] = {}

    def convolution(name: str, conv: str, norm: str, half: bool = False) -> None:
        """Fold a convolution, group by group, with the part of the batch norm that follows it."""
        start, biases, scale = 0, [], np.float32(0.5 if half else 1)
        depthwise, project = conv.endswith("depthwise_conv"), conv.endswith("project_conv")
        kernels = group_kernels(conv, tensors) or [tensors[f"{conv}/kernel"]]
        for group, kernel in enumerate(kernels):
            end = start + kernel.shape[2 if depthwise else 3]
            gamma, beta, mean, variance = (tensors[f"{norm}/{s}"][start:end] for s in BATCH_NORM)
            kernel, bias = fold_batch_norm(kernel, gamma, beta, mean, variance, about.epsilon)
            if conv == "stem/conv":  # it normalises, too: the image is padded with its mean
                kernel = kernel / np.array(about.std, np.float32)[:, np.newaxis]
                bias = bias - np.einsum("ijco,c->o", kernel, found["normalize/mean"])
            if not depthwise:
                kernel = kernel.reshape(-1, end - start).T
            if not depthwise and not project:
                kernel = np.column_stack([kernel, bias])
            found[f"{name}/kernel_{group}"] = np.ascontiguousarray(kernel * scale)
            biases.append(bias * scale)
            start = end
        if depthwise or project:
            found[f"{name}/bias"] = np.concatenate(biases)

    def dense(name: str, layer: str, scale: float) -> None:
        kernel, bias = tensors[f"{layer}/kernel"], tensors[f"{layer}/bias"]
        found[f"{name}/kernel"] = kernel.reshape(-1, kernel.shape[-1]) * np.float32(scale)
        found[f"{name}/bias"] = bias * np.float32(scale)

    found["normalize/mean"] = np.array(about.mean, np.float32)
    convolution("stem", "stem/conv", "stem/bn")
    for b in architecture.blocks:
        for part in ("expand", "depthwise", "project")[not b.expand_groups :]:
            half = b.swish and part != "project"
            convolution(f"{b.name}/{part}", f"{b.name}/{part}_conv", f"{b.name}/{part}_bn", half)
        if b.se_width:
            dense(f"{b.name}/se_reduce", f"{b.name}/se_reduce", 0.5 if b.swish else 1)
            dense(f"{b.name}/se_expand", f"{b.name}/se_expand", 0.5)
    convolution("head", "head/conv", "head/bn")
    dense("logits", "logits", 1)
    return found


# -- compiling ------------------------------------------------------------------------------------


def aligned(size: int) -> Array:
    """So many zeros, in an array that begins with a line of the cache, as NumPy's do not.

    Else every vector lies in two lines, and whatever reads two arrays takes nearly twice as long.
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
        self.matrices: dict[tuple[int, int, int, int], fast.Fourier] = {}
        reach = max(max(b.kernel_sizes) for b in architecture.blocks) // 2
        self.margin = -(-reach // LINE) * LINE

    def program(self, height: int, width: int) -> Program:
        """Go through the network once and note what there is to do."""
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
        self.step("stem", fast.im2col_planes, padded, 3, 2, layout, columns[:27])
        self.step("stem", np.matmul, self.constants["stem/kernel_0"], columns, out=x)
        self.activate("stem", x, swish=False)
        outputs["stem/act"] = len(self.steps), partial(layout.plane, x)

        for block in self.architecture.blocks:
            x, layout = self.block(block, x, layout)
            outputs[f"{block.name}/output"] = len(self.steps), partial(layout.plane, x)

        compact = Layout(layout.height, layout.width)
        last = self.lay_out("head", x, layout, compact, [len(x)])
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
        """How planes of this size are laid out for a filter: cut for columns, whole for Fourier."""
        return Layout(h, w, 1 if h * w <= FOURIER_PIXELS else CUT)

    def block(self, b: Block, x: Array, before: Layout) -> tuple[Array, Layout]:
        """One block, in the order of `model.mixnet_block`; from planes in a layout to the same."""
        layout = self.layout_for(before.height, before.width)
        if b.expand_groups:
            layer = f"{b.name}/expand"
            kernels = self.kernels(layer)
            groups = [kernel.shape[1] - 1 for kernel in kernels]
            x_and_ones = self.lay_out(layer, x, before, layout, groups)
            expanded = self.with_margins("expanded", b.expanded, layout)
            self.pointwise(layer, kernels, x_and_ones, self.inside(expanded, b.expanded))
            shortcut = self.between_ones(x_and_ones, groups)
        else:
            expanded = self.unexpanded(b.expanded, layout)
            shortcut = [self.inside(expanded, b.expanded)]
            if not np.may_share_memory(x, expanded):  # the stem's output is there already
                for pixels, place in fast.same_pixels(x, before, shortcut[0], layout):
                    self.step(f"{b.name}/depthwise", np.copyto, place, pixels)

        after = layout.filtered(b.stride)
        filtered = self.scratch("filtered", b.expanded, after.size)
        if layout.cut == 1:
            self.fourier(b, self.inside(expanded, b.expanded), layout, filtered)
        else:
            self.columns(b, expanded, layout, filtered)

        layer = f"{b.name}/project"
        kernels = self.kernels(layer)
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
        """Compute the gates and scale by them what is smaller: x, or the kernels it meets next."""
        layer, gate = f"{b.name}/se", self.scratch("gate", b.expanded)
        mean = layout.ones() / np.float32(layout.height * layout.width)
        names = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
        weights = [self.constants[f"{b.name}/{name}"] for name in names]
        self.step(layer, fast.squeeze_excite_gate, x, mean, *weights, b.swish, gate)
        if layout.size < len(kernels[0]):
            self.step(layer, np.multiply, x, gate[:, np.newaxis], out=x)
            return kernels
        scaled = [self.scratch(f"gated {i}", *kernel.shape) for i, kernel in enumerate(kernels)]
        gates = split(gate, (kernel.shape[1] for kernel in kernels))
        for kernel, part, out in zip(kernels, gates, scaled, strict=True):
            self.step(layer, np.multiply, kernel, part, out=out)
        return scaled

    def lay_out(
        self, layer: str, x: Array, before: Layout, layout: Layout, groups: list[int]
    ) -> Array:
        """Put x where a 1x1 convolution with bias can take it: (C + groups, layout.size).

        Behind the channels of each group stands a row of ones, for the bias. Its padding is zero,
        like that of all channels, and so is that of all outputs, and what ReLU or swish make of it:
        the filter may take it for the image's own padding.
        """
        key = ("laid out", layout, *groups)
        if key not in self.pools:
            shape = len(x) + len(groups), layout.size
            self.pools[key] = aligned(prod(shape)).reshape(shape)
            for group in split(self.pools[key], (size + 1 for size in groups)):
                group[-1] = layout.ones()
        laid_out = self.pools[key]
        places = self.between_ones(laid_out, groups)
        for part, group in zip(split(x, groups), places, strict=True):
            for pixels, place in fast.same_pixels(part, before, group, layout):
                self.step(layer, np.copyto, place, pixels)
        return laid_out

    def between_ones(self, laid_out: Array, groups: list[int]) -> list[Array]:
        """The channels of each group."""
        return [group[:-1] for group in split(laid_out, (size + 1 for size in groups))]

    def pointwise(self, layer: str, kernels: list[Array], x: Array, out: Array) -> None:
        """A 1x1 convolution of all groups."""
        inputs = split(x, (kernel.shape[1] for kernel in kernels))
        outputs = split(out, (kernel.shape[0] for kernel in kernels))
        for kernel, part, place in zip(kernels, inputs, outputs, strict=True):
            self.step(layer, np.matmul, kernel, part, out=place)

    def activate(self, layer: str, x: Array, swish: bool, out: Array | None = None) -> None:
        """ReLU, or swish of halved values, in place or elsewhere; memory without interruption."""
        flat = x.reshape(-1)
        out = flat if out is None else out.reshape(-1)
        if swish:
            self.step(
                layer, fast.swish_of_half_to, flat, self.scratch("within a step", flat.size), out
            )
        else:
            self.step(layer, fast.relu_to, flat, self.scratch("zeros", flat.size), out)

    def columns(self, b: Block, expanded: Array, layout: Layout, out: Array) -> None:
        """Activate, filter by `depthwise_columns` and activate again.

        A few channels at a time, so that all their arrays are in the cache from first to last.
        """
        layer, group = f"{b.name}/depthwise", 0
        bias = self.constants[f"{layer}/bias"]
        for kernel in self.kernels(layer):
            channels = kernel.shape[2]
            biases = bias[group : group + channels]
            whole = fast.filter_for(kernel, biases, layout, b.stride)
            _, m, n = whole.matrix.shape
            bytes_each = 4 * ((m + n) * layout.run + layout.size)
            parts = min(-(-channels * bytes_each // CACHE_BYTES), channels)
            # Multiples of 4 channels mostly begin with a line of the cache.
            cuts = {part * channels // parts // 4 * 4 for part in range(parts)}
            for first, end in pairwise([*sorted(cuts), channels]):
                some, c = slice(group + first, group + end), end - first
                x = expanded[some.start * layout.size : some.stop * layout.size + 2 * self.margin]
                columns = self.scratch("within a step", c, n, layout.run)
                sums = self.scratch("sums", m, c, layout.run)
                part = whole._replace(matrix=whole.matrix[first:end])
                work = fast.columns_for(part, x, self.margin, layout, columns, sums)
                if b.expand_groups:
                    self.activate(f"{b.name}/expand", self.inside(x, c), b.swish)
                self.step(layer, fast.depthwise_columns, work)
                if len(work.total) == 1:
                    self.activate(layer, work.total, b.swish, out[some])
                else:  # to swap phases and channels is only fast in copying
                    self.activate(layer, work.total, b.swish)
                    place = out[some].reshape(c, -1, layout.run).transpose(1, 0, 2)
                    self.step(layer, np.copyto, place, work.total)
            group += channels

    def fourier(self, b: Block, x: Array, layout: Layout, out: Array) -> None:
        """Activate, filter by `depthwise_fourier` and activate again, all channels at once."""
        layer, h, w = f"{b.name}/depthwise", layout.height, layout.width
        if b.expand_groups:
            self.activate(f"{b.name}/expand", x, b.swish)
        kernels = self.kernels(layer)
        wholes = x, self.constants[f"{layer}/bias"], out
        parts = (split(whole, (kernel.shape[2] for kernel in kernels)) for whole in wholes)
        for kernel, part, bias, place in zip(kernels, *parts, strict=True):
            k, _, channels, _ = kernel.shape
            key = h, w, k, b.stride
            if key not in self.matrices:
                self.matrices[key] = fast.fourier_for(*key)
            at = self.matrices[key]
            spectra = fast.spectra_for(kernel, h, w, b.stride, at)
            scratch = self.scratch("within a step", channels, at.forward.shape[1])
            self.step(layer, fast.depthwise_fourier, part, spectra, bias, at, scratch, place)
        self.activate(layer, out, b.swish)

    # -- weights and memory ----

    def kernels(self, layer: str) -> list[Array]:
        return group_kernels(layer, self.constants)

    def scratch(self, name: object, *shape: int) -> Array:
        """An array that all layers share which ask for that name; at first it is zero."""
        size = prod(shape)
        if name not in self.pools or self.pools[name].size < size:
            self.pools[name] = aligned(size)
        return self.pools[name][:size].reshape(shape)

    def with_margins(self, name: object, channels: int, layout: Layout) -> Array:
        """Planes with a margin before and behind, where shifted planes reach to."""
        return self.scratch(name, channels * layout.size + 2 * self.margin)

    def unexpanded(self, channels: int, layout: Layout) -> Array:
        """Where a block without expansion has its input, with margins; the padding stays zero."""
        return self.with_margins(("unexpanded", layout, channels), channels, layout)

    def inside(self, x: Array, channels: int) -> Array:
        """What is between the margins, (C, P)."""
        return x[self.margin : len(x) - self.margin].reshape(channels, -1)

    def step(self, layer: str, kernel: Callable[..., object], *a: Any, **named: Any) -> None:
        self.steps.append(Step(layer, kernel.__name__, partial(kernel, *a, **named)))
