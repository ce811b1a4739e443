"""Depthwise convolution on the fast path: by columns on large planes, by Fourier on small ones.

Both equal the readable `depthwise_conv2d` followed by a bias. Shapes as in `fast/kernels.py`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array, same_padding
from tinymixnet.fast.layout import Layout

# -- depthwise convolution on large planes: columns -----------------------------------------------


def tap_sources(
    size: int, kernel_size: int, stride: int, cut: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """What a kernel reads along an axis: (output phase, tap) -> (input phase, offset in it).

    A tap is one row (or column) of the kernel.
    """
    before, _ = same_padding(size, kernel_size, stride)
    sources = {}
    for phase, tap in np.ndindex(cut // stride, kernel_size):
        shift, read = divmod(stride * phase + tap - before, cut)
        sources[phase, tap] = read, shift
    return sources


class Filter(NamedTuple):
    """A depthwise kernel as `depthwise_columns` takes it: one matrix for each channel.

    The matrix of a channel maps N rows (shifted copies of input phases, and a row of ones for the
    bias) to M partial sums.
    """

    matrix: Array  # (C, M, N)
    copies: dict[int, range]  # shift right -> which phases of each row of phases need it
    sums: dict[int, range]  # shift down -> for which rows of output phases; shift 0 comes first


def filter_for(kernel: Array, bias: Array, layout: Layout, stride: int) -> Filter:
    """The matrices of a kernel (K, K, C, 1) and a bias (C,) for planes in this layout."""
    k, _, c, _ = kernel.shape
    cut, outs = layout.phases_per_axis, layout.phases_per_axis // stride
    down, right = (tap_sources(size, k, stride, cut) for size in (layout.height, layout.width))
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


def _spans(pairs: Iterable[tuple[int, int]]) -> dict[int, range]:
    """Group pairs (shift, phase): for each shift, 0 first, the range of its phases."""
    spans: dict[int, range] = {}
    for shift, phase in sorted(set(pairs), key=lambda pair: (abs(pair[0]), pair)):
        first = spans[shift].start if shift in spans else phase
        spans[shift] = range(first, phase + 1)
    return spans


class Columns(NamedTuple):
    """The views that `depthwise_columns` works on, made once for all images."""

    copies: list[tuple[Array, Array]]  # (where to, from where)
    outside: list[Array]  # pixels that wrapped around from the neighbouring row; they are cleared
    ones: Array  # the row that the bias is multiplied with
    matrix: Array
    columns: Array
    sums: Array
    additions: list[tuple[Array, Array, Array]]
    total: Array  # (output phases, C, run): the result


def columns_for(
    at: Filter, x: Array, margin: int, layout: Layout, columns: Array, sums: Array
) -> Columns:
    """Prepare `depthwise_columns` for the channels of a filter.

    x has `margin` numbers, then C * layout.size numbers, then `margin` numbers. The margins are
    read, but do not change the result. Scratch arrays: columns (C, N, layout.phase_size) and sums
    (M, C, layout.phase_size).
    """
    c, _, run = columns.shape
    cut, outs = layout.phases_per_axis, len(at.sums[0])
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
        if shift and abs(jump) < run:  # a larger shift reads nothing but padding
            ahead, back = max(jump, 0), max(-jump, 0)
            unused = planes[..., :ahead] if ahead else planes[..., run - back :]
            reached = total[phases.start * outs : phases.stop * outs].reshape(-1)
            reached = reached[back : reached.size - ahead]
            additions.append((unused, reached, planes.reshape(-1)[ahead : planes.size - back]))
    by_channel = sums.transpose(1, 0, 2)
    ones = columns[:, -1]
    return Columns(copies, outside, ones, at.matrix, columns, by_channel, additions, total)


def depthwise_columns(at: Columns) -> None:
    """Equals `depthwise_conv2d` with a bias, in three moves: copy, multiply, add.

    1. Copy the input phases, each with every shift to the left or right that a row of the kernel
       needs. Where a shift brings in pixels of the neighbouring row, write zeros.
    2. Multiply the copies with a matrix of the kernel's weights. Each row of the product is the sum
       over all weights that need the same shift up or down.
    3. Add these sums, each with its shift.

    With 2 x 2 phases and stride 1, (K + 1) / 2 planes are copied and as many are added. Without
    phases it would be K of each, and by the definition K * K are multiplied and added. The matrix
    contains some zeros, (K + 1)^2 numbers for K * K weights, but a matrix product is what a
    processor does best.
    """
    at.ones.fill(1)
    for place, shifted in at.copies:
        place[...] = shifted
    for pixels in at.outside:
        pixels.fill(0)
    np.matmul(at.matrix, at.columns, out=at.sums)
    for unused, reached, planes in at.additions:
        unused.fill(0)  # all planes are added in one go: clear what would reach the next plane
        np.add(reached, planes, out=reached)


# -- depthwise convolution on small planes: Fourier -----------------------------------------------


class Fourier(NamedTuple):
    """The matrices that take a small plane to its spectrum and back; see `depthwise_fourier`."""

    rows: int  # of the transform: large enough that nothing wraps around into the output
    columns: int
    forward: Array  # (P, 2 F): real and imaginary parts alternate
    inverse: Array  # (2 F, OP): only the pixels that the stride keeps


def fourier_for(height: int, width: int, kernel_size: int, stride: int) -> Fourier:
    """The matrices for planes of this size and kernels of up to this size."""
    sizes = []
    for size in (height, width):
        reach = min(max(same_padding(size, kernel_size, stride)), size - 1)
        sizes.append(size + reach)
    n, m = sizes
    f = m // 2 + 1  # the other half of the spectrum of real numbers mirrors this one
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
    # A tap that lies further away than the plane is large reads only padding. It would wrap around.
    down = np.exp(2j * np.pi * u * i / at.rows) * (np.abs(i) < height)
    right = np.exp(2j * np.pi * v * j / at.columns) * (np.abs(j) < width)
    product = np.einsum("ui,ijc,vj->cuv", down, kernel[..., 0], right, optimize=True)
    return product.reshape(c, -1).astype(np.complex64)


def depthwise_fourier(
    x: Array, spectra: Array, bias: Array, at: Fourier, scratch: Array, out: Array
) -> None:
    """Equals `depthwise_conv2d` with a bias: a convolution is a product of Fourier spectra.

    For a small plane the transform is a matrix that stays in the cache, and transforming all
    channels is one large product. Between transform and inverse, each number of the spectrum is
    multiplied once, however large the kernel is.

    x (C, P); spectra (C, F) complex64, from `spectra_for`; bias (C,), which is added at frequency
    zero; scratch (C, 2 F); out (C, OP).
    """
    np.matmul(x, at.forward, out=scratch)
    waves = scratch.view(np.complex64)
    np.multiply(waves, spectra, out=waves)
    waves[:, 0] += bias * (at.rows * at.columns)
    np.matmul(scratch, at.inverse, out=out)
