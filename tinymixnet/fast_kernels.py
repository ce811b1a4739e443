"""The kernels again, for speed: what `plan.py` runs. Each equals a readable one of `kernels.py`.

What NumPy does fast is a large matrix product, or one operation on a long run of memory that is
still in the cache. What it does slowly is anything on short rows. So, unlike the readable kernels,
these keep the pixels of each channel together, x (C, P). A 1x1 convolution is kernel (O, C) @ x,
all else runs along the pixels, and `Layout` says in which order these lie. And they write
into arrays (`out`, scratch) that the plan allocated once and uses again for every image.

How many times as fast each is as the readable one, in the layers of MixNet-L that it is used for,
is what `python -m benchmarks.layers` printed for README.md.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymixnet.kernels import Array, same_padding


class Layout(NamedTuple):
    """In which order a row of memory holds the pixels of a plane.

    The plane is cut into cut x cut phases, which lie one after another: phase (r, q) has rows r,
    r + cut, ... of columns q, q + cut, ... What a filter's tap reads for all the pixels of one
    output phase is then one input phase, shifted by whole pixels: a run of memory.

    Where height or width is no multiple of cut, some phases lack a row or column; they have padding
    in its place, so that all are of one size. A plane with cut 1 is just its pixels, in order.
    """

    height: int
    width: int
    cut: int = 1

    @property
    def h(self) -> int:
        """Rows of a phase, padding and all."""
        return -(-self.height // self.cut)

    @property
    def w(self) -> int:
        return -(-self.width // self.cut)

    @property
    def run(self) -> int:
        """Numbers in a phase."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """Numbers in all phases."""
        return self.cut * self.cut * self.run

    def filtered(self, stride: int) -> "Layout":
        """The layout of the filtered plane; its padding holds nothing of use."""
        height, width = -(-self.height // stride), -(-self.width // stride)
        return Layout(height, width, max(self.cut // stride, 1))

    def phases(self, x: Array, cut: int) -> list[Array]:
        """Views of the pixels of x (C, size), phase by phase of this cut or of a multiple of it."""
        planes = x.reshape(len(x), self.cut, self.cut, self.h, self.w)
        finer, found = cut // self.cut, []
        for r, q in np.ndindex(cut, cut):
            h, w = len(range(r, self.height, cut)), len(range(q, self.width, cut))
            plane = planes[:, r % self.cut, q % self.cut]
            found.append(plane[:, r // self.cut :: finer, q // self.cut :: finer][:, :h, :w])
        return found

    def plane(self, x: Array) -> Array:
        """The pixels of x (C, size) as a new array (H, W, C)."""
        found = np.empty((self.height, self.width, len(x)), x.dtype)
        uncut = found.reshape(-1, len(x)).T
        for place, pixels in same_pixels(uncut, Layout(self.height, self.width), x, self):
            place[...] = pixels
        return found

    def ones(self) -> Array:
        """One at each pixel, zero in the padding: (size,)."""
        mask = np.zeros((1, self.size), np.float32)
        for pixels in self.phases(mask, self.cut):
            pixels[...] = 1
        return mask[0]


def same_pixels(x: Array, a: Layout, y: Array, b: Layout) -> list[tuple[Array, Array]]:
    """Views of x, laid out as in a, and of y, as in b, that show the same pixels of one plane."""
    if a == b and a.size == a.height * a.width:  # no padding to leave out: all in one go
        return [(x, y)]
    cut = max(a.cut, b.cut)
    return list(zip(a.phases(x, cut), b.phases(y, cut), strict=True))


# -- activations and squeeze-and-excite -----------------------------------------------------------


ONE = np.ones((), np.float32)  # of a plain number NumPy makes an array, at every call


def relu_to(x: Array, zeros: Array, out: Array) -> None:
    """Equals `relu`, 4.0 times as fast: NumPy compares with many zeros faster than with the one."""
    np.maximum(x, zeros, out=out)


def swish_of_half_to(half: Array, scratch: Array, out: Array) -> None:
    """Equals `swish` of x = 2 * half, 11.5 times as fast: x * sigmoid(x) = half * (1 + tanh(half)).

    The factor one half costs nothing, for the plan folds it into the kernel and bias before. tanh
    is vectorised in NumPy, never overflows, and replaces an exp, a sum and a division.
    """
    np.tanh(half, out=scratch)
    np.add(scratch, ONE, out=scratch)
    np.multiply(half, scratch, out=out)


def squeeze_excite_gate(
    x: Array,
    mean: Array,
    reduce: Array,
    reduce_bias: Array,
    expand: Array,
    expand_bias: Array,
    swish: bool,
    out: Array,
) -> None:
    """Equals the gate of `squeeze_excite`, (C,): with what it multiplies, 2.6 times as fast.

    x (C, P); mean (P,), 1 / pixels at each pixel and 0 in padding, so the mean is a product;
    reduce (C, R) and its bias halved where the activation is swish, expand (R, C) and its bias
    always: sigmoid(2 z) = (1 + tanh(z)) / 2. A channel of x times its gate, times a column of the
    kernel that projects it, is x times the gated column: (O, C) numbers to scale, not (C, P).
    """
    squeezed = (x @ mean) @ reduce + reduce_bias
    squeezed = squeezed * (1 + np.tanh(squeezed)) if swish else np.maximum(squeezed, 0)
    np.divide(1 + np.tanh(squeezed @ expand + expand_bias), 2, out=out)


# -- the stem -------------------------------------------------------------------------------------


def im2col_planes(x: Array, kernel_size: int, stride: int, layout: Layout, out: Array) -> None:
    """Equals `im2col`, transposed: x (C, H, W), padded already -> out (K * K * C, layout.size)."""
    channel, row, column = x.strides
    shape = kernel_size, kernel_size, len(x), layout.height, layout.width
    patches = as_strided(x, shape, (row, column, channel, row * stride, column * stride))
    places = layout.phases(out, layout.cut)
    for place, (r, q) in zip(places, np.ndindex(layout.cut, layout.cut), strict=True):
        phase = patches[..., r :: layout.cut, q :: layout.cut]
        np.copyto(place.reshape(phase.shape), phase)


# -- depthwise convolution on large planes: columns -----------------------------------------------


def taps(
    size: int, kernel_size: int, stride: int, cut: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """What a filter reads along an axis: (output phase, tap) -> (input phase, shifted by)."""
    before, _ = same_padding(size, kernel_size, stride)
    found = {}
    for phase, tap in np.ndindex(cut // stride, kernel_size):
        shift, read = divmod(stride * phase + tap - before, cut)
        found[phase, tap] = read, shift
    return found


class Filter(NamedTuple):
    """A depthwise kernel as `depthwise_columns` takes it: a matrix a channel."""

    matrix: Array  # (C, M, N): of N shifted copies of input phases and ones, M sums
    copies: dict[int, range]  # shift right: of which phases in each row of phases
    sums: dict[int, range]  # shift down: for which rows of output phases; first come all, unshifted


def filter_for(kernel: Array, bias: Array, layout: Layout, stride: int) -> Filter:
    """Lay out a kernel (K, K, C, 1) and a bias (C,) for planes in this layout."""
    k, _, c, _ = kernel.shape
    cut, outs = layout.cut, layout.cut // stride
    down, right = (taps(size, k, stride, cut) for size in (layout.height, layout.width))
    copies = _spans((shift, phase) for phase, shift in right.values())
    sums = _spans((shift, phase) for (phase, _), (_, shift) in down.items())
    column = [(shift, phase) for shift, phases in copies.items() for phase in phases]
    row = [(shift, phase) for shift, phases in sums.items() for phase in phases]
    matrix = np.zeros((len(row), outs, cut * len(column) + 1, c), np.float32)
    for (a, i), (r, below) in down.items():
        for (b, j), (q, beside) in right.items():
            n = r * len(column) + column.index((beside, q))
            matrix[row.index((below, a)), b, n] = kernel[i, j, :, 0]
    matrix[:outs, :, -1] = bias
    by_channel = matrix.reshape(len(row) * outs, -1, c).transpose(2, 0, 1)
    return Filter(np.ascontiguousarray(by_channel), copies, sums)


def _spans(found: Iterable[tuple[int, int]]) -> dict[int, range]:
    """(shift, phase) -> for each shift, 0 first, the phases from the first to the last."""
    spans: dict[int, range] = {}
    for shift, phase in sorted(set(found), key=lambda one: (abs(one[0]), one)):
        first = spans[shift].start if shift in spans else phase
        spans[shift] = range(first, phase + 1)
    return spans


class Columns(NamedTuple):
    """The arrays that `depthwise_columns` goes through, cut to size once for all images."""

    copies: list[tuple[Array, Array]]
    outside: list[Array]  # what the shift brought into a row from the next one
    ones: Array  # what the bias is multiplied with
    matrix: Array
    columns: Array
    sums: Array
    additions: list[tuple[Array, Array, Array]]
    total: Array  # (output phases, C, run): the result


def columns_for(
    at: Filter, x: Array, margin: int, layout: Layout, columns: Array, sums: Array
) -> Columns:
    """Prepare `depthwise_columns`, which says what it does, for the channels of a filter.

    x: margin numbers, C * layout.size numbers, margin numbers; the margins are read, but make no
    difference. Scratch: columns (C, N, layout.run), sums (M, C, layout.run).
    """
    c, _, run = columns.shape
    cut, outs = layout.cut, len(at.sums[0])
    by_row = columns[:, :-1].reshape(c, cut, -1, run)
    copies, outside, begin = [], [], 0
    for shift, phases in at.copies.items():
        place = by_row[:, :, begin : begin + len(phases)]
        begin += len(phases)
        shifted = x[margin + shift : margin + shift + c * layout.size].reshape(c, cut, cut, run)
        copies.append((place, shifted[:, :, phases.start : phases.stop]))
        pixels = place.reshape(c, cut, len(phases), layout.h, layout.w)
        for column in range(min(abs(shift), layout.w)):
            outside.append(pixels[..., column if shift < 0 else -1 - column])

    total = sums[: outs * outs]
    additions, begin = [], 0
    for shift, phases in at.sums.items():
        planes = sums[begin : begin + len(phases) * outs]
        begin += len(planes)
        jump = shift * layout.w
        if shift and abs(jump) < run:  # beyond, there is nothing but padding
            ahead, back = max(jump, 0), max(-jump, 0)
            unused = planes[..., :ahead] if ahead else planes[..., run - back :]
            reached = total[phases.start * outs : phases.stop * outs].reshape(-1)
            reached = reached[back : reached.size - ahead]
            additions.append((unused, reached, planes.reshape(-1)[ahead : planes.size - back]))
    by_channel = sums.transpose(1, 0, 2)
    ones = columns[:, -1]
    return Columns(copies, outside, ones, at.matrix, columns, by_channel, additions, total)


def depthwise_columns(at: Columns) -> None:
    """Equals `depthwise_conv2d` with a bias, 4.0 times as fast: copies, one product, sums.

    What a row of the kernel reads are the input phases, some also shifted to the right or left by a
    pixel or two: these are the copies, with zeros where they left their row. Their product with a
    matrix, in which the weights stand where they belong, gives the sums over all taps that need
    the same shift down; and these sums, added with that shift, are the convolution.

    At stride 1, with 2 x 2 phases, (K + 1) / 2 planes are copied and as many are added. It would be
    K of each without phases, and K * K multiplied and added by the definition. The product has a
    few weights too many, all zero, (K + 1)^2 for K * K; but it is what a processor does best.
    """
    at.ones.fill(1)
    for place, shifted in at.copies:
        place[...] = shifted
    for pixels in at.outside:
        pixels.fill(0)
    np.matmul(at.matrix, at.columns, out=at.sums)
    for unused, reached, planes in at.additions:
        unused.fill(0)  # or it would reach the next plane: all are added as one run
        np.add(reached, planes, out=reached)


# -- depthwise convolution on small planes: Fourier -----------------------------------------------


class Fourier(NamedTuple):
    """The matrices that take a small plane to its spectrum and back; see `depthwise_fourier`."""

    rows: int  # of the transform, enough that nothing wraps around into the output
    columns: int
    forward: Array  # (P, 2 F): real and imaginary parts in turn
    inverse: Array  # (2 F, OP): only at the pixels that the stride keeps


def fourier_for(height: int, width: int, kernel_size: int, stride: int) -> Fourier:
    """The matrices for planes of this size and kernels of up to this size."""
    sizes = []
    for size in (height, width):
        reach = min(max(same_padding(size, kernel_size, stride)), size - 1)
        sizes.append(size + reach)
    n, m = sizes
    f = m // 2 + 1  # the other half of a real plane's spectrum mirrors this one
    y, u = np.arange(height)[:, np.newaxis], np.arange(n)
    x, v = np.arange(width)[:, np.newaxis], np.arange(f)
    down, right = np.exp(-2j * np.pi * y * u / n), np.exp(-2j * np.pi * x * v / m)
    forward = np.einsum("yu,xv->yxuv", down, right).reshape(height * width, n * f)
    mirrored = np.where((v == 0) | (2 * v == m), 1, 2) / (n * m)
    kept = np.einsum("yu,xv->uvyx", down[::stride].conj(), right[::stride].conj() * mirrored)
    back = kept.reshape(n * f, -1)
    inverse = np.stack([back.real, -back.imag], axis=1).reshape(2 * n * f, -1)
    return Fourier(n, m, forward.astype(np.complex64).view(np.float32), inverse.astype(np.float32))


def spectra_for(kernel: Array, height: int, width: int, stride: int, at: Fourier) -> Array:
    """The spectra of depthwise kernels (K, K, C, 1) -> (C, F) complex64, SAME padding included."""
    k, _, c, _ = kernel.shape
    i = np.arange(k) - same_padding(height, k, stride)[0]
    j = np.arange(k) - same_padding(width, k, stride)[0]
    u, v = np.arange(at.rows)[:, np.newaxis], np.arange(at.columns // 2 + 1)[:, np.newaxis]
    # A tap further away than the plane is large meets nothing but padding, and would wrap around.
    down = np.exp(2j * np.pi * u * i / at.rows) * (np.abs(i) < height)
    right = np.exp(2j * np.pi * v * j / at.columns) * (np.abs(j) < width)
    product = np.einsum("ui,ijc,vj->cuv", down, kernel[..., 0], right, optimize=True)
    return product.reshape(c, -1).astype(np.complex64)


def depthwise_fourier(
    x: Array, spectra: Array, bias: Array, at: Fourier, scratch: Array, out: Array
) -> None:
    """Equals `depthwise_conv2d` with a bias, 2.6 times as fast: to the spectrum and back.

    On a small plane the transform is a matrix that stays in the cache, and applying it to all
    channels is one large product. In between, each number of the spectrum takes one multiplication,
    however large the kernel: that only makes the spectrum larger, by the padding that it reaches.

    x (C, P); spectra (C, F) complex64, from `spectra_for`; bias (C,), which is a wave of frequency
    zero; scratch (C, 2 F); out (C, OP).
    """
    np.matmul(x, at.forward, out=scratch)
    waves = scratch.view(np.complex64)
    np.multiply(waves, spectra, out=waves)
    waves[:, 0] += bias * (at.rows * at.columns)
    np.matmul(scratch, at.inverse, out=out)
