"""The fast way to the logits: MixNet as a list of steps, compiled once for each input size.

`constants` folds batch norm into the convolutions and lays the weights out for `fast_kernels`.
`Compiler` goes through the blocks as `model.mixnet_block` does, but where that computes, it notes a
step: which kernel, on which arrays. All arrays are allocated then, and the layers share them, so
running is nothing but the steps one after another. A test holds the result equal to the readable
path.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinymixnet import fast_kernels as fast
from tinymixnet.architecture import BATCH_NORM, Architecture, Block, group_kernels
from tinymixnet.kernels import Array, fold_batch_norm, normalize
from tinymixnet.weights import Metadata

FOURIER_PIXELS = 64  # planes up to this size go by Fourier transform, larger ones by columns


class Step(NamedTuple):
    """One kernel call, ready to run."""

    layer: str
    kernel: str
    run: Callable[[], object]


class Program(NamedTuple):
    """The steps for one input size, and where they read and leave what is wanted of them."""

    image: Array  # (H, W, 3) float32: write the image here, normalised
    steps: list[Step]
    outputs: dict[str, tuple[int, Array]]  # name: after how many steps it is there, and where


class Plan:
    """MixNet made fast. `constants` are those of `constants()`, possibly in shared memory."""

    def __init__(
        self, architecture: Architecture, constants: Mapping[str, Array], about: Metadata
    ) -> None:
        self.architecture = architecture
        self.constants = constants
        self.about = about
        self._programs: dict[tuple[int, int], Program] = {}
        self._lock = threading.Lock()  # two threads must not write into the same scratch arrays

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """The wanted outputs of one image (H, W, 3), 0..255, uint8 or float32, as new arrays.

        To be had: stem/act, every block's output (H, W, C), head/pool and logits (C,).
        """
        with self._lock:
            program = self.program(*image.shape[:2])
            pixels = image.astype(np.float32)
            program.image[:] = normalize(pixels, self.about.mean, self.about.std)
            found, done = {}, 0
            for name in sorted(wanted, key=lambda name: program.outputs[name][0]):
                after, array = program.outputs[name]
                for step in program.steps[done:after]:
                    step.run()
                done = after
                found[name] = array.copy()
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

    Kernels of 1x1 convolutions are (O, C), depthwise ones stay (K, K, C, 1), biases are (O, 1).
    """
    found: dict[str, Array] = {}

    def convolution(name: str, conv: str, norm: str, half: bool = False) -> None:
        """Fold a convolution, group by group, with the part of the batch norm that follows it."""
        start, biases, scale = 0, [], np.float32(0.5 if half else 1)
        names = [t for t in tensors if t.startswith(f"{conv}/kernel")]
        for group, kernel in enumerate(tensors[t] for t in names):
            depthwise = conv.endswith("depthwise_conv")
            end = start + kernel.shape[2 if depthwise else 3]
            gamma, beta, mean, variance = (tensors[f"{norm}/{s}"][start:end] for s in BATCH_NORM)
            kernel, bias = fold_batch_norm(kernel, gamma, beta, mean, variance, about.epsilon)
            layout = kernel if depthwise else kernel.reshape(-1, end - start).T
            found[f"{name}/kernel_{group}"] = np.ascontiguousarray(layout * scale)
            biases.append(bias * scale)
            start = end
        found[f"{name}/bias"] = np.concatenate(biases)[:, np.newaxis]

    def transposed(name: str, layer: str, scale: float) -> None:
        kernel, bias = tensors[f"{layer}/kernel"], tensors[f"{layer}/bias"]
        flat = kernel.reshape(-1, kernel.shape[-1])
        found[f"{name}/kernel"] = np.ascontiguousarray(flat.T * np.float32(scale))
        found[f"{name}/bias"] = bias * np.float32(scale)

    convolution("stem", "stem/conv", "stem/bn")
    for b in architecture.blocks:
        for part in ("expand", "depthwise", "project")[not b.expand_groups :]:
            half = b.swish and part != "project"
            convolution(f"{b.name}/{part}", f"{b.name}/{part}_conv", f"{b.name}/{part}_bn", half)
        if b.se_width:
            transposed(f"{b.name}/se_reduce", f"{b.name}/se_reduce", 0.5 if b.swish else 1)
            transposed(f"{b.name}/se_expand", f"{b.name}/se_expand", 0.5)
    convolution("head", "head/conv", "head/bn")
    transposed("logits", "logits", 1)
    return found


# -- compiling ------------------------------------------------------------------------------------


class Compiler:
    """Turns the architecture into a `Program` for one input size."""

    def __init__(self, architecture: Architecture, constants: Mapping[str, Array]) -> None:
        self.architecture = architecture
        self.constants = constants
        self.steps: list[Step] = []
        self.pools: dict[object, Array] = {}
        self.matrices: dict[tuple[int, int, int, int], fast.Fourier] = {}

    def program(self, height: int, width: int) -> Program:
        """Go through the network once and note what there is to do."""
        outputs = {}
        image = np.empty((height, width, 3), np.float32)
        h, w = -(-height // 2), -(-width // 2)
        columns = self.scratch("expanded", 27, h * w)
        x = self.scratch("stem", self.architecture.stem, h * w)
        self.step("stem", fast.im2col_planes, image, 3, 2, columns)
        self.pointwise("stem", columns, x)
        self.activate("stem", x, swish=False)
        outputs["stem/act"] = len(self.steps), as_image(x, h, w)

        for number, block in enumerate(self.architecture.blocks):
            x, h, w = self.block(block, x, h, w, number)
            outputs[f"{block.name}/output"] = len(self.steps), as_image(x, h, w)

        head = self.scratch("expanded", self.architecture.head_filters, h * w)
        pooled = np.empty(len(head), np.float32)
        logits = np.empty(self.architecture.classes, np.float32)
        self.pointwise("head", x, head)
        self.activate("head", head, swish=False)
        self.step("head", np.mean, head, axis=1, out=pooled)
        outputs["head/pool"] = len(self.steps), pooled
        self.step("logits", np.matmul, self.constants["logits/kernel"], pooled, out=logits)
        self.step("logits", np.add, logits, self.constants["logits/bias"], out=logits)
        outputs["logits"] = len(self.steps), logits
        return Program(image, self.steps, outputs)

    def block(self, b: Block, x: Array, h: int, w: int, number: int) -> tuple[Array, int, int]:
        """One block, in the order of `model.mixnet_block`; returns its output and the new size."""
        shortcut = x
        oh, ow = -(-h // b.stride), -(-w // b.stride)
        filtered = self.scratch("filtered", b.expanded, oh * ow)
        if h * w <= FOURIER_PIXELS:
            if b.expand_groups:
                x = self.expand(b, x, h * w)
                self.activate(f"{b.name}/expand", x, b.swish)
            self.fourier(b, x, h, w, filtered)
        else:
            x = self.separate_phases(b, x, h, w)
            if b.expand_groups:
                x = self.expand(b, x, h * w)
            self.columns(b, x, h, w, filtered)
        self.activate(f"{b.name}/depthwise", filtered, b.swish)

        project = f"{b.name}/project"
        kernels = self.kernels(project)
        if b.se_width:
            kernels = self.gated(b, filtered, kernels)
        out = self.scratch(f"block {number % 2}", b.outputs, oh * ow)
        self.pointwise(project, filtered, out, kernels)
        if b.residual:
            self.step(project, np.add, out, shortcut, out=out)
        return out, oh, ow

    def expand(self, b: Block, x: Array, pixels: int) -> Array:
        expanded = self.scratch("expanded", b.expanded, pixels)
        self.pointwise(f"{b.name}/expand", x, expanded)
        return expanded

    def pointwise(
        self, layer: str, x: Array, out: Array, kernels: list[Array] | None = None
    ) -> None:
        """A 1x1 convolution of all groups."""
        bias, i, o = self.constants[f"{layer}/bias"], 0, 0
        for kernel in kernels or self.kernels(layer):
            outputs, inputs = kernel.shape
            group = slice(o, o + outputs)
            self.step(
                layer, fast.pointwise_planes, x[i : i + inputs], kernel, bias[group], out[group]
            )
            i, o = i + inputs, o + outputs

    def activate(
        self,
        layer: str,
        x: Array,
        swish: bool,
        parts: Callable[[Array], list[Array]] = lambda x: [x],
        places: list[Array] | None = None,
    ) -> None:
        """ReLU or swish, in place, or of parts of x into other places."""
        places = places or parts(x)
        if swish:
            scratch = self.scratch("one plus tanh", *x.shape)
            pieces = list(zip(parts(x), parts(scratch), places, strict=True))
            self.step(layer, fast.swish_of_half_to, x, scratch, pieces)
        else:
            zeros = np.zeros(x.shape[1], np.float32)
            self.step(layer, fast.relu_to, zeros, list(zip(parts(x), places, strict=True)))

    def gated(self, b: Block, x: Array, kernels: list[Array]) -> list[Array]:
        """Squeeze-and-excite: the gate scales the small project kernels, not the large x."""
        names = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
        weights = [self.constants[f"{b.name}/{name}"] for name in names]
        gated = [np.empty_like(kernel) for kernel in kernels]
        self.step(f"{b.name}/se", fast.squeeze_excite_into, x, *weights, b.swish, kernels, gated)
        return gated

    # -- depthwise ----

    def separate_phases(self, b: Block, x: Array, h: int, w: int) -> Array:
        """Put the pixels of each phase together, before expanding: so there are few to move.

        A 1x1 convolution does not mind the order of its pixels.
        """
        if b.stride == 1:
            return x
        separate = self.scratch("separate", *x.shape)
        plane = x.reshape(-1, h, w)
        for number, part in enumerate(phases(separate, h, w, b.stride)):
            r, q = divmod(number, b.stride)
            self.step(f"{b.name}/expand", np.copyto, part, plane[:, r :: b.stride, q :: b.stride])
        return separate

    def columns(self, b: Block, x: Array, h: int, w: int, out: Array) -> None:
        """Activate x into padded planes, then filter each channel group by `depthwise_columns`."""
        layer = f"{b.name}/depthwise"
        groups: list[slice] = []
        places: list[Array] = []
        filters = []
        for kernel in self.kernels(layer):
            start = groups[-1].stop if groups else 0
            group = slice(start, start + kernel.shape[2])
            at = fast.columns_for(h, w, len(kernel), b.stride)
            padded = self.padded(at, b.stride, group)
            bias = self.constants[f"{layer}/bias"][group, :, np.newaxis]
            shape = len(kernel), kernel.shape[2], at.run
            scratch = self.scratch("columns", *shape), self.scratch("sums", *shape)
            work = fast.columns_work(kernel, padded, at, *scratch)
            filters.append((work, bias, out[group].reshape(-1, at.h, at.w)))
            places += at.planes(padded, h, w, b.stride)
            groups.append(group)

        def parts(x: Array) -> list[Array]:
            return [part for group in groups for part in phases(x[group], h, w, b.stride)]

        if b.expand_groups:
            self.activate(f"{b.name}/expand", x, b.swish, parts, places)
        else:
            for part, place in zip(parts(x), places, strict=True):
                self.step(layer, np.copyto, place, part)
        for arguments in filters:
            self.step(layer, fast.depthwise_columns, *arguments)

    def padded(self, at: fast.Columns, stride: int, group: slice) -> Array:
        """Zeroed planes; layers of one geometry share them, and nobody writes into the padding."""
        channels = group.stop - group.start
        key = ("padded", group.start, at.h, at.w, at.gap, stride)
        if key not in self.pools or len(self.pools[key]) < channels:
            shape = channels, stride, stride, at.run + 2 * at.gap
            self.pools[key] = np.zeros(shape, np.float32)
        return self.pools[key][:channels]

    def fourier(self, b: Block, x: Array, h: int, w: int, out: Array) -> None:
        """Filter all channels of small planes by `depthwise_fourier`."""
        layer = f"{b.name}/depthwise"
        key = (h, w, max(b.kernel_sizes), b.stride)
        at = self.matrices.get(key) or fast.fourier_for(*key)
        self.matrices[key] = at
        spectra = [fast.spectra(kernel, h, w, b.stride, at) for kernel in self.kernels(layer)]
        spectrum = self.scratch("spectrum", len(x), at.forward.shape[1])
        bias = self.constants[f"{layer}/bias"]
        kernels = np.concatenate(spectra)
        self.step(layer, fast.depthwise_fourier, x, kernels, bias, at, spectrum, out)

    # -- what the rest is made of ----

    def step(
        self, layer: str, kernel: Callable[..., object], *arguments: Any, **named: Any
    ) -> None:
        self.steps.append(Step(layer, kernel.__name__, partial(kernel, *arguments, **named)))

    def kernels(self, layer: str) -> list[Array]:
        return group_kernels(layer, self.constants)

    def scratch(self, name: str, *shape: int) -> Array:
        """An array to write into, of a pool that all layers share: its content does not last."""
        size = prod(shape)
        if name not in self.pools or self.pools[name].size < size:
            self.pools[name] = np.empty(size, np.float32)
        return self.pools[name][:size].reshape(shape)


def phases(x: Array, h: int, w: int, stride: int) -> list[Array]:
    """The parts of x (C, P) that hold the phases one after another, each (C, rows, columns)."""
    shapes = [
        (len(range(r, h, stride)), len(range(q, w, stride))) for r, q in np.ndindex(stride, stride)
    ]
    ends = accumulate(map(prod, shapes), initial=0)
    return [
        x[:, start:end].reshape(len(x), *shape)
        for (start, end), shape in zip(pairwise(ends), shapes, strict=True)
    ]


def as_image(x: Array, h: int, w: int) -> Array:
    """Planes (C, P) as (H, W, C), without copying."""
    return x.reshape(-1, h, w).transpose(1, 2, 0)
