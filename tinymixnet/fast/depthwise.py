"""Depthwise convolution on the fast path: by columns on large planes, by Fourier on small ones.

Both equal the readable `depthwise_conv2d` followed by a bias. Arrays are (C, P) as in `kernels.py`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array, same_padding
from tinymixnet.fast.layout import Layout

# -- depthwise convolution on large planes: columns -----------------------------------------------


def tap_sources(
    size: int, kernel_size: int, stride: int, phases: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """Return what a kernel reads along an axis: (output phase, tap) -> (input phase, shift).

    A tap is one row (or column) of the kernel. The shift is in pixels of the input phase. The
    stride divides the number of phases.
    """
    before, _ = same_padding(size, kernel_size, stride)
    sources = {}
    for output_phase, tap in np.ndindex(phases // stride, kernel_size):
        shift, input_phase = divmod(stride * output_phase + tap - before, phases)
        sources[output_phase, tap] = input_phase, shift
    return sources


class Filter(NamedTuple):
    """A depthwise kernel as `depthwise_columns` takes it: one matrix for each channel.

    The matrix of a channel maps N rows (shifted copies of input phases, and a row of ones for the
    bias) to M partial sums.
    """

    matrix: Array  # (C, M, N)
    copies: dict[int, range]  # shift to the side -> which phases of each row of phases need it
    sums: dict[int, range]  # shift up or down -> which rows of output phases; 0 comes first


def filter_for(kernel: Array, bias: Array, layout: Layout, stride: int) -> Filter:
    """Return the matrices of a kernel (K, K, C, 1) and a bias (C,) for planes in this layout."""
    k, _, c, _ = kernel.shape
    p, outs = layout.phases_per_axis, layout.phases_per_axis // stride
    down, right = (tap_sources(size, k, stride, p) for size in (layout.height, layout.width))
    copies = _spans((shift, phase) for phase, shift in right.values())
    sums = _spans((shift, phase) for (phase, _), (_, shift) in down.items())
    column = [(shift, phase) for shift, phases in copies.items() for phase in phases]
    row = [(shift, phase) for shift, phases in sums.items() for phase in phases]
    matrix = np.zeros((len(row), outs, p * len(column) + 1, c), np.float32)
    for (a, i), (r, below) in down.items():
        for (b, j), (q, beside) in right.items():
            n = r * len(column) + column.index((beside, q))
            matrix[row.index((below, a)), b, n] = kernel[i, j, :, 0]
    matrix[:outs, :, -1] = bias
    by_channel = matrix.reshape(len(row) * outs, -1, c).transpose(2, 0, 1)
    return Filter(np.ascontiguousarray(by_channel), copies, sums)


def _spans(pairs: Iterable[tuple[int, int]]) -> dict[int, range]:
    """Group pairs (shift, phase): return the range of phases of each shift, nearest shift first."""
    spans: dict[int, range] = {}
    for shift, phase in sorted(set(pairs), key=lambda pair: (abs(pair[0]), pair)):
        first = spans[shift].start if shift in spans else phase
        spans[shift] = range(first, phase + 1)
    return spans


class Columns(NamedTuple):
    """The arrays that `depthwise_columns` works on. Most are views, made once for all images."""

    copies: list[tuple[Array, Array]]  # (to, from)
    outside: list[Array]  # pixels that wrapped around from the neighbouring row; they are cleared
    ones: Array  # the row that is multiplied with the bias
    matrix: Array  # (C, M, N)
    columns: Array  # (C, N, phase_size)
    sums: Array  # (C, M, phase_size)
    additions: list[tuple[Array, Array, Array]]  # (to be cleared first, sum, what is added to it)
    total: Array  # (output phases, C, phase_size): the result


def columns_for(
    kernel: Filter, x: Array, margin: int, layout: Layout, columns: Array, sums: Array
) -> Columns:
    """Prepare `depthwise_columns` for the channels of a filter.

    x has `margin` numbers, then C * layout.size numbers, then `margin` numbers. The margins are
    read, but do not change the result. Scratch arrays: columns (C, N, layout.phase_size) and sums
    (M, C, layout.phase_size).
    """
    c, _, size = columns.shape
    p, outs = layout.phases_per_axis, len(kernel.sums[0])
    by_row = columns[:, :-1].reshape(c, p, -1, size)
    copies, outside, begin = [], [], 0
    for shift, phases in kernel.copies.items():
        place = by_row[:, :, begin : begin + len(phases)]
        begin += len(phases)
        shifted = x[margin + shift : margin + shift + c * layout.size].reshape(c, p, p, size)
        copies.append((place, shifted[:, :, phases.start : phases.stop]))
        pixels = place.reshape(c, p, len(phases), layout.h, layout.w)
        for column in range(min(abs(shift), layout.w)):
            outside.append(pixels[..., column if shift < 0 else -1 - column])

    total = sums[: outs * outs]
    additions, begin = [], 0
    for shift, phases in kernel.sums.items():
        planes = sums[begin : begin + len(phases) * outs]
        begin += len(planes)
        jump = shift * layout.w
        if shift and abs(jump) < size:  # a larger shift reads nothing but padding
            ahead, back = max(jump, 0), max(-jump, 0)
            unused = planes[..., :ahead] if ahead else planes[..., size - back :]
            place = total[phases.start * outs : phases.stop * outs].reshape(-1)
            place = place[back : place.size - ahead]
            additions.append((unused, place, planes.reshape(-1)[ahead : planes.size - back]))
    by_channel = sums.transpose(1, 0, 2)
    ones = columns[:, -1]
    return Columns(copies, outside, ones, kernel.matrix, columns, by_channel, additions, total)


def depthwise_columns(work: Columns) -> None:
    """Equals `depthwise_conv2d` with a bias, in three moves: copy, multiply, add.

    1. Copy the input phases, each with every shift to the left or right that a row of the kernel
       needs. Where a shift brings in pixels of the neighbouring row, write zeros.
    2. Multiply the copies with a matrix of the kernel's weights. Each row of the product is the sum
       over all weights that need the same shift up or down.
    3. Add these sums, each with its shift.

    With 2 x 2 phases and stride 1, (K + 1) / 2 planes are copied and as many are added. Without
    phases it would be K of each, and the definition multiplies and adds K * K planes. The matrix
    contains some zeros, (K + 1)^2 numbers for K * K weights, but a matrix product is what a
    processor does best.
    """
    work.ones.fill(1)
    for place, shifted in work.copies:
        place[...] = shifted
    for pixels in work.outside:
        pixels.fill(0)
    np.matmul(work.matrix, work.columns, out=work.sums)
    for unused, place, planes in work.additions:
        unused.fill(0)  # all planes are added at once: clear what would reach the next plane
        np.add(place, planes, out=place)


# -- depthwise convolution on small planes: Fourier -----------------------------------------------


class Fourier(NamedTuple):
    """The matrices that take a small plane to its spectrum and back; see `depthwise_fourier`."""

    rows: int  # of the transform: so many that nothing wraps around into the output
    columns: int
    forward: Array  # (P, 2 F): F frequencies, each a real and an imaginary part
    inverse: Array  # (2 F, OP): for the OP pixels that the stride keeps


def fourier_for(height: int, width: int, kernel_size: int, stride: int) -> Fourier:
    """Return the matrices for planes of this size and kernels of up to this size."""
    sizes = []
    for size in (height, width):
        reach = min(max(same_padding(size, kernel_size, stride)), size - 1)
        sizes.append(size + reach)
    n, m = sizes
    f = m // 2 + 1  # the spectrum of real numbers is symmetric: half of it is enough
    y, u = np.arange(height)[:, np.newaxis], np.arange(n)
    x, v = np.arange(width)[:, np.newaxis], np.arange(f)
    down, right = np.exp(-2j * np.pi * y * u / n), np.exp(-2j * np.pi * x * v / m)
    forward = np.einsum("yu,xv->yxuv", down, right).reshape(height * width, n * f)
    mirrored = np.where((v == 0) | (2 * v == m), 1, 2) / (n * m)
    kept = np.einsum("yu,xv->uvyx", down[::stride].conj(), right[::stride].conj() * mirrored)
    back = kept.reshape(n * f, -1)
    inverse = np.stack([back.real, -back.imag], axis=1).reshape(2 * n * f, -1)
    return Fourier(n, m, forward.astype(np.complex64).view(np.float32), inverse.astype(np.float32))


def spectra_for(kernel: Array, height: int, width: int, stride: int, transform: Fourier) -> Array:
    """Return the spectra of a depthwise kernel (K, K, C, 1): (C, F) complex64.

    The offset of SAME padding is part of them.
    """
    k, _, c, _ = kernel.shape
    i = np.arange(k) - same_padding(height, k, stride)[0]
    j = np.arange(k) - same_padding(width, k, stride)[0]
    rows, columns = transform.rows, transform.columns
    u, v = np.arange(rows)[:, np.newaxis], np.arange(columns // 2 + 1)[:, np.newaxis]
    # A tap further away than the plane is large reads only padding. Here it would wrap around and
    # read pixels, so it is left out.
    down = np.exp(2j * np.pi * u * i / rows) * (np.abs(i) < height)
    right = np.exp(2j * np.pi * v * j / columns) * (np.abs(j) < width)
    product = np.einsum("ui,ijc,vj->cuv", down, kernel[..., 0], right, optimize=True)
    return product.reshape(c, -1).astype(np.complex64)


def depthwise_fourier(
    x: Array, spectra: Array, bias: Array, transform: Fourier, scratch: Array, out: Array
) -> None:
    """Equals `depthwise_conv2d` with a bias: a convolution is a product of Fourier spectra.

    For a small plane, the transform is a matrix that stays in the cache, and transforming all
    channels is one large product. Between the transform and its inverse, each number of the
    spectrum is multiplied once, however large the kernel is.

    x (C, P); spectra (C, F) complex64, from `spectra_for`; bias (C,), added at frequency zero;
    scratch (C, 2 F); out (C, OP). The channels may be cut into tiles: C is then two axes.
    """
    np.matmul(x, transform.forward, out=scratch)
    waves = scratch.view(np.complex64)
    np.multiply(waves, spectra, out=waves)
    waves[..., 0] += bias * (transform.rows * transform.columns)
    np.matmul(scratch, transform.inverse, out=out)
