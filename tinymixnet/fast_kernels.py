"""The kernels again, for speed: what `plan.py` runs. Each equals a readable one of `kernels.py`.

What NumPy does fast is one large matrix product, or one operation on a long run of memory that is
still in the cache. So, unlike the readable kernels, these

- keep each channel's pixels together (N is always 1): x (C, P), P = H * W pixels, rows of the image
  one after another. A 1x1 convolution is kernel (O, C) @ x, and a depthwise one works on planes;
- write into arrays that the plan allocated once and uses again for every image (`out=`).

Letters: C channels, P pixels, H x W a plane, K taps of a depthwise kernel along one axis, S stride.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymixnet.kernels import Array, same_padding

# -- 1x1 convolutions and activations -------------------------------------------------------------


def pointwise_planes(x: Array, kernel: Array, bias: Array, out: Array) -> None:
    """Equals `pointwise_conv2d` with a bias: one matrix product, the bias added in place.

    x (C, P), kernel (O, C), bias (O, 1), out (O, P).
    """
    np.matmul(kernel, x, out=out)
    np.add(out, bias, out=out)


def relu_to(zeros: Array, pieces: list[tuple[Array, Array]]) -> None:
    """Equals `relu`. pieces are parts of the input and where each goes, be it back or elsewhere.

    zeros are as many as the longest row: NumPy compares with an array faster than with a number.
    """
    for part, place in pieces:
        np.maximum(part, zeros[: part.shape[-1]], out=place)


def swish_of_half_to(half: Array, scratch: Array, pieces: list[tuple[Array, Array, Array]]) -> None:
    """Equals `swish` of x = 2 * half: x * sigmoid(x) = half * (1 + tanh(half)).

    The factor one half costs nothing, for the plan folds it into the kernel and bias before. tanh
    is vectorised in NumPy, never overflows, and replaces an exp, a sum and a division. pieces are
    parts of half and of scratch, and where their product goes.
    """
    np.tanh(half, out=scratch)
    np.add(scratch, np.float32(1), out=scratch)
    for part, one_plus_tanh, place in pieces:
        np.multiply(part, one_plus_tanh, out=place)


def squeeze_excite_into(
    x: Array,
    reduce: Array,
    reduce_bias: Array,
    expand: Array,
    expand_bias: Array,
    swish: bool,
    kernels: list[Array],
    out: list[Array],
) -> None:
    """Equals `squeeze_excite` before a 1x1 convolution: scales its kernels instead of x.

    kernel @ (gate * x) = (kernel * gate) @ x, and the kernel is small where x is large.
    x (C, P); reduce (R, C), expand (C, R), halved before each tanh; kernels of the groups, (O, C)
    each, and out, arrays of the same shapes.
    """
    squeezed = reduce @ x.mean(axis=1) + reduce_bias
    squeezed = squeezed * (1 + np.tanh(squeezed)) if swish else np.maximum(squeezed, 0)
    gate = (1 + np.tanh(expand @ squeezed + expand_bias)) / 2  # sigmoid(2 z) = (1 + tanh(z)) / 2
    start = 0
    for kernel, gated in zip(kernels, out, strict=True):
        end = start + kernel.shape[1]
        np.multiply(kernel, gate[start:end], out=gated)
        start = end


# -- the stem -------------------------------------------------------------------------------------


def im2col_planes(image: Array, kernel_size: int, stride: int, out: Array) -> None:
    """Equals `im2col`, transposed: image (H, W, C) -> out (K * K * C, OH * OW)."""
    h, w, c = image.shape
    rows, columns = same_padding(h, kernel_size, stride), same_padding(w, kernel_size, stride)
    padded = np.pad(image, (rows, columns, (0, 0)))
    y, x, z = padded.strides
    oh, ow = -(-h // stride), -(-w // stride)
    shape = (kernel_size, kernel_size, c, oh, ow)
    np.copyto(out.reshape(shape), as_strided(padded, shape, (y, x, z, y * stride, x * stride)))


# -- depthwise convolution on large maps: columns -------------------------------------------------


class Columns(NamedTuple):
    """Where the taps of a depthwise convolution find their pixels, for stride 1 and larger.

    The plane is cut into S x S phases: phase (r, q) holds rows r, r + S, ... and columns q, q + S,
    ... of it, so that every tap reads one phase shifted by whole pixels. (Stride 1: one phase, the
    plane.) Behind each row of a phase stand `gap` zeros, which serve as the padding of both sides:
    what a shift reads past a row's end is the gap. So a shifted phase is one run of memory.
    """

    h: int  # rows of a phase, and of the output
    w: int
    gap: int
    down: list[list[tuple[int, int]]]  # for each phase of rows: (tap i, rows further down)
    right: list[tuple[int, int]]  # for each tap j: (phase of columns, pixels further right)

    @property
    def run(self) -> int:
        """Numbers in a phase, gaps included."""
        return self.h * (self.w + self.gap)

    def planes(self, padded: Array, height: int, width: int, stride: int) -> list[Array]:
        """Where the pixels of each phase go: views (C, rows, columns) of padded planes."""
        found = []
        for r, q in np.ndindex(stride, stride):
            inside = padded[:, r, q, self.gap : self.gap + self.run]
            plane = inside.reshape(-1, self.h, self.w + self.gap)
            found.append(plane[:, : len(range(r, height, stride)), : len(range(q, width, stride))])
        return found


def columns_for(height: int, width: int, kernel_size: int, stride: int) -> Columns:
    """The `Columns` of a plane of this size."""
    top, _ = same_padding(height, kernel_size, stride)
    left, _ = same_padding(width, kernel_size, stride)
    rows = [divmod(i - top, stride) for i in range(kernel_size)]
    right = [divmod(j - left, stride) for j in range(kernel_size)]
    return Columns(
        h=-(-height // stride),
        w=-(-width // stride),
        gap=max(abs(shift) for shift, _ in right),
        down=[[(i, n) for i, (n, r) in enumerate(rows) if r == phase] for phase in range(stride)],
        right=[(phase, shift) for shift, phase in right],
    )


class ColumnsWork(NamedTuple):
    """The arrays that `depthwise_columns` goes through, cut to size once instead of every time."""

    phases: list[tuple[list[tuple[Array, Array]], Array, Array, Array]]
    additions: list[tuple[Array, Array]]
    total: Array


def columns_work(
    kernel: Array, padded: Array, at: Columns, columns: Array, sums: Array
) -> ColumnsWork:
    """Prepare `depthwise_columns` for a kernel (K, K, C, 1), which it describes.

    padded (C, S, S, gap + run + gap), zero but for the pixels; columns and sums, (K, C, run), are
    scratch.
    """
    by_channel = kernel[..., 0].transpose(2, 0, 1)
    phases, planes = [], list(sums)
    rows: list[int] = []
    for phase, taps in enumerate(at.down):
        starts = [(q, at.gap + shift) for q, shift in at.right]
        sources = [padded[:, phase, q, start : start + at.run] for q, start in starts]
        down = np.ascontiguousarray(by_channel[:, [i for i, _ in taps]])
        into = sums[len(rows) : len(rows) + len(taps)]
        copies = list(zip(columns, sources, strict=True))
        phases.append((copies, down, columns.transpose(1, 0, 2), into.transpose(1, 0, 2)))
        rows += [rows_down for _, rows_down in taps]

    total = planes.pop(rows.index(0))
    rows.remove(0)
    additions = []
    for plane, rows_down in zip(planes, rows, strict=True):
        shift = rows_down * (at.w + at.gap)
        if abs(shift) < at.run:  # else the tap meets nothing but padding
            upper = total[:, max(-shift, 0) : at.run - max(shift, 0)]
            additions.append((upper, plane[:, max(shift, 0) : at.run + min(shift, 0)]))
    pixels = total.reshape(-1, at.h, at.w + at.gap)[:, :, : at.w]
    return ColumnsWork(phases, additions, pixels)


def depthwise_columns(work: ColumnsWork, bias: Array, out: Array) -> None:
    """Equals `depthwise_conv2d`: K shifted copies, one small matrix product a channel, K sums.

    One above the other, the K copies of a plane shifted to the right are the columns of an im2col
    along its rows alone. A product with the (taps down x taps right) kernel then gives every tap
    down a plane of its own, and adding those planes shifted down is the convolution: some 2 K
    passes over the plane, where the K * K shifted multiply-adds of the definition take 2 K * K.

    bias (C, 1, 1), out (C, h, w).
    """
    for copies, kernel, columns, planes in work.phases:
        for column, source in copies:
            np.copyto(column, source)
        np.matmul(kernel, columns, out=planes)
    for upper, plane in work.additions:
        np.add(upper, plane, out=upper)
    np.add(work.total, bias, out=out)


# -- depthwise convolution on small maps: discrete Fourier transform ------------------------------


class Fourier(NamedTuple):
    """The matrices that take a small plane to its spectrum and back; see `depthwise_fourier`."""

    rows: int  # the transform's size, large enough that nothing wraps around into the output
    columns: int
    forward: Array  # (P, 2 F): real and imaginary parts in turn
    inverse: Array  # (2 F, OP): only at the pixels that the stride keeps


def fourier_for(height: int, width: int, kernel_size: int, stride: int) -> Fourier:
    """The `Fourier` of a plane of this size; kernel_size is the layer's largest."""
    sizes = []
    for size in (height, width):
        reach = min(max(same_padding(size, kernel_size, stride)), size - 1)
        sizes.append(size + reach)
    n, m = sizes
    f = m // 2 + 1  # the other half of a real plane's spectrum mirrors this one
    y, u = np.arange(height)[:, None], np.arange(n)
    x, v = np.arange(width)[:, None], np.arange(f)
    to_rows, to_columns = np.exp(-2j * np.pi * y * u / n), np.exp(-2j * np.pi * x * v / m)
    forward = np.einsum("yu,xv->yxuv", to_rows, to_columns).reshape(height * width, n * f)
    mirrored = np.where((v == 0) | (2 * v == m), 1, 2) / (n * m)
    back = np.einsum(
        "yu,xv->uvyx", to_rows[::stride].conj(), (to_columns[::stride].conj() * mirrored)
    )
    back = back.reshape(n * f, -1)
    inverse = np.stack([back.real, -back.imag], axis=1).reshape(2 * n * f, -1)
    return Fourier(n, m, forward.astype(np.complex64).view(np.float32), inverse.astype(np.float32))


def spectra(kernel: Array, height: int, width: int, stride: int, at: Fourier) -> Array:
    """The spectra of depthwise kernels (K, K, C, 1) -> (C, F) complex64, SAME padding included."""
    k = len(kernel)
    top, left = same_padding(height, k, stride)[0], same_padding(width, k, stride)[0]
    i, j = np.arange(k) - top, np.arange(k) - left
    u, v = np.arange(at.rows)[:, None], np.arange(at.columns // 2 + 1)[:, None]
    # A tap further away than the plane is large only ever meets padding, and would wrap around.
    down = np.exp(2j * np.pi * u * i / at.rows) * (np.abs(i) < height)
    right = np.exp(2j * np.pi * v * j / at.columns) * (np.abs(j) < width)
    product = np.einsum("ui,ijc,vj->cuv", down, kernel[..., 0], right, optimize=True)
    return product.reshape(kernel.shape[2], -1).astype(np.complex64)


def depthwise_fourier(
    x: Array, kernels: Array, bias: Array, at: Fourier, spectrum: Array, out: Array
) -> None:
    """Equals `mix_conv`: transform, multiply, transform back, for all kernel sizes at once.

    On a small map the transform is a matrix that stays in the cache, and applying it to all
    channels one large product; the multiplication costs the same for 9 x 9 taps as for 3 x 3.

    x (C, P); kernels (C, F) complex64, from `spectra`; bias (C, 1); spectrum (C, 2 F) is scratch;
    out (C, OP).
    """
    np.matmul(x, at.forward, out=spectrum)
    waves = spectrum.view(np.complex64)
    np.multiply(waves, kernels, out=waves)
    np.matmul(spectrum, at.inverse, out=out)
    np.add(out, bias, out=out)
