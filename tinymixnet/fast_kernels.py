"""The kernels again, for speed: what `plan.py` runs. Each equals a readable one of `kernels.py`.

What NumPy does fast is a large matrix product, or one operation on a long run of memory that is
still in the cache. What it does slowly is anything on short rows. So, unlike the readable kernels,
these keep the pixels of each channel together, x (C, P). A 1x1 convolution is kernel (O, C) @ x,
all else runs along the pixels, and `Layout` says in which order these lie. And they write
into arrays (`out`, scratch) that the plan allocated once and uses again for every image.

How many times as fast each is as the readable one, in the layers of MixNet-L that it is used for,
is what `python -m benchmarks.layers` printed for README.md.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymixnet.kernels import Array, same_padding


class Layout(NamedTuple):
    """In which order a row of memory holds the pixels of a plane that is to be filtered.

    With stride 1: row after row, each followed by `gap` zeros, which are the SAME padding, behind
    one row and before the next at once. So a filter's tap, which reads the plane shifted by so many
    pixels, reads one run of memory, shifted.

    With stride S, the plane is first cut into S x S phases: phase (r, q) has rows r, r + S, ... and
    columns q, q + S, ... Every tap then reads one of the phases, shifted by whole pixels.

    A plane that needs no padding has gap 0 and stride 1: the pixels as they are.
    """

    height: int
    width: int
    stride: int = 1
    gap: int = 0

    @property
    def h(self) -> int:
        """Rows of a phase, and of the filtered plane."""
        return -(-self.height // self.stride)

    @property
    def w(self) -> int:
        return -(-self.width // self.stride)

    @property
    def run(self) -> int:
        """Numbers in a phase."""
        return self.h * (self.w + self.gap)

    @property
    def size(self) -> int:
        """Numbers in all phases."""
        return self.stride * self.stride * self.run

    @property
    def filtered(self) -> "Layout":
        """The layout of the filtered plane; its gaps hold nothing of use."""
        return Layout(self.h, self.w, 1, self.gap)

    def phases(self, x: Array) -> list[tuple[Array, slice, slice]]:
        """The pixels of each phase in x (C, size), and which rows and columns of the plane."""
        found = []
        for number, (r, q) in enumerate(np.ndindex(self.stride, self.stride)):
            rows, columns = slice(r, None, self.stride), slice(q, None, self.stride)
            phase = x[:, number * self.run : (number + 1) * self.run]
            plane = phase.reshape(-1, self.h, self.w + self.gap)
            h, w = len(range(self.height)[rows]), len(range(self.width)[columns])
            found.append((plane[:, :h, :w], rows, columns))
        return found

    def plane(self, x: Array) -> Array:
        """The pixels in x as (C, H, W), without copying; of one phase."""
        return self.phases(x)[0][0]

    def ones(self) -> Array:
        """One at each pixel, zero in the gaps: (size,)."""
        mask = np.zeros((1, self.size), np.float32)
        for pixels, _, _ in self.phases(mask):
            pixels[:] = 1
        return mask[0]


def taps(size: int, kernel_size: int, stride: int) -> list[tuple[int, int]]:
    """For each tap along an axis: the phase it reads, and by how many of its pixels shifted."""
    before, _ = same_padding(size, kernel_size, stride)
    return [((i - before) % stride, (i - before) // stride) for i in range(kernel_size)]


def gap_for(size: int, kernel_size: int, stride: int) -> int:
    """How many zeros a row needs behind it for such a filter."""
    return max(abs(shift) for _, shift in taps(size, kernel_size, stride))


# -- activations and squeeze-and-excite -----------------------------------------------------------


def relu_to(x: Array, zeros: Array, out: Array) -> None:
    """Equals `relu`, 1.6 times as fast: NumPy compares with many zeros faster than with the one."""
    np.maximum(x, zeros, out=out)


def swish_of_half_to(half: Array, scratch: Array, out: Array) -> None:
    """Equals `swish` of x = 2 * half, 7.6 times as fast: x * sigmoid(x) = half * (1 + tanh(half)).

    The factor one half costs nothing, for the plan folds it into the kernel and bias before. tanh
    is vectorised in NumPy, never overflows, and replaces an exp, a sum and a division.
    """
    np.tanh(half, out=scratch)
    np.add(scratch, np.float32(1), out=scratch)
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
    """Equals the gate of `squeeze_excite`, (C,): with what it multiplies, 2.4 times as fast.

    x (C, P); mean (P,), 1 / pixels at each pixel and 0 in gaps, so that the mean is a product;
    reduce (C, R) and its bias halved where the activation is swish, expand (R, C) and its bias
    always: sigmoid(2 z) = (1 + tanh(z)) / 2. A channel of x times its gate, times a column of the
    kernel that projects it, is x times the gated column: (O, C) numbers to scale, not (C, P).
    """
    squeezed = (x @ mean) @ reduce + reduce_bias
    squeezed = squeezed * (1 + np.tanh(squeezed)) if swish else np.maximum(squeezed, 0)
    np.divide(1 + np.tanh(squeezed @ expand + expand_bias), 2, out=out)


# -- the stem -------------------------------------------------------------------------------------


def im2col_planes(image: Array, kernel_size: int, stride: int, out: Array) -> None:
    """Equals `im2col`, transposed: image (H, W, C) -> out (K * K * C, OH * OW)."""
    h, w, c = image.shape
    rows, columns = same_padding(h, kernel_size, stride), same_padding(w, kernel_size, stride)
    padded = np.pad(image, (rows, columns, (0, 0)))
    y, x, z = padded.strides
    shape = (kernel_size, kernel_size, c, -(-h // stride), -(-w // stride))
    patches = as_strided(padded, shape, (y, x, z, y * stride, x * stride))
    np.copyto(out.reshape(shape), patches)


# -- depthwise convolution on large planes: columns -----------------------------------------------


class Columns(NamedTuple):
    """The arrays that `depthwise_columns` goes through, cut to size once for all images."""

    phases: list[tuple[list[tuple[Array, Array]], Array, Array, Array]]
    additions: list[tuple[Array, Array, Array]]
    ones: Array  # what the bias is multiplied with
    total: Array  # (C, run), the result, in layout.filtered


def columns_for(
    kernel: Array, bias: Array, x: Array, margin: int, layout: Layout, scratch: Array
) -> Columns:
    """Prepare `depthwise_columns`, which says what it does, for some channels.

    kernel (K, K, C, 1), bias (C,); x: margin numbers, C * layout.size numbers, margin numbers, the
    first margin zero; scratch (2, K + 1, C, run).
    """
    k, _, c, _ = kernel.shape
    columns, sums = scratch
    by_channel = np.concatenate([kernel[..., 0].transpose(2, 0, 1), np.zeros((c, k, 1))], axis=2)
    down, right = (taps(size, k, layout.stride) for size in (layout.height, layout.width))
    by_channel[:, down.index((0, 0)), k] = bias

    phases = []
    order: list[int] = []
    for r in range(layout.stride):
        copies = []
        for j, (q, shift) in enumerate(right):
            start = margin + shift
            shifted = x[start : start + c * layout.size].reshape(c, layout.size)
            begin = (r * layout.stride + q) * layout.run
            copies.append((columns[j], shifted[:, begin : begin + layout.run]))
        of_phase = [i for i, (phase, _) in enumerate(down) if phase == r]
        taps_down = np.ascontiguousarray(by_channel[:, of_phase], np.float32)
        planes = sums[len(order) : len(order) + len(of_phase)]
        phases.append((copies, taps_down, columns.transpose(1, 0, 2), planes.transpose(1, 0, 2)))
        order += of_phase

    total = sums[order.index(down.index((0, 0)))]
    additions = []
    for plane, i in zip(sums, order, strict=False):
        shift = down[i][1] * (layout.w + layout.gap)
        if down[i] != (0, 0) and abs(shift) < layout.run:  # beyond, there is nothing but padding
            ahead, back = max(shift, 0), max(-shift, 0)
            unused = plane[:, :ahead] if ahead else plane[:, layout.run - back :]
            reached = total.reshape(-1)[back : total.size - ahead]
            additions.append((unused, reached, plane.reshape(-1)[ahead : total.size - back]))
    return Columns(phases, additions, columns[k], total)


def depthwise_columns(at: Columns) -> None:
    """Equals `depthwise_conv2d` with a bias, 3.1 times as fast: K copies, one product, K sums.

    The K copies of a plane, each shifted to the right by one pixel more, are the columns of an
    im2col along the rows alone. Their product with the (taps down x taps right) kernel gives every
    tap down a plane of its own, and adding those planes shifted down is the convolution: some 2 K
    passes over the plane, where the K * K shifted multiply-adds of the definition take 2 K * K.
    """
    at.ones.fill(1)
    for copies, taps_down, columns, planes in at.phases:
        for column, shifted in copies:
            np.copyto(column, shifted)
        np.matmul(taps_down, columns, out=planes)
    for unused, reached, plane in at.additions:
        unused.fill(0)  # or it would reach the next channel's plane: all are added as one run
        np.add(reached, plane, out=reached)


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
    """Equals `mix_conv` with a bias, 2.5 times as fast: transform, multiply, transform back.

    On a small plane the transform is a matrix that stays in the cache, and applying it to all
    channels is one large product; the multiplication costs the same for 9 x 9 taps as for 3 x 3.

    x (C, P); spectra (C, F) complex64, from `spectra_for`; bias (C,), which is a wave of frequency
    zero; scratch (C, 2 F); out (C, OP).
    """
    np.matmul(x, at.forward, out=scratch)
    waves = scratch.view(np.complex64)
    np.multiply(waves, spectra, out=waves)
    waves[:, 0] += bias * (at.rows * at.columns)
    np.matmul(scratch, at.inverse, out=out)
