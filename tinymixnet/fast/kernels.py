"""The kernels of the fast path, except the depthwise ones. Each equals a readable kernel.

NumPy is fast at a large matrix product, and at one operation on a long run of memory that is still
in the processor's cache. It is slow at anything on short rows. So these kernels keep the pixels of
a channel together, which the readable ones do not: x (C, P) is C channels of P pixels. `Layout`
gives the order of the pixels. A 1x1 convolution is then kernel (O, C) @ x, and everything else runs
along the pixels. Results go into arrays that are allocated once and used for every image.

`python -m benchmarks.layers` prints how many times faster than the readable one each of them is.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymixnet.engine.kernels import Array
from tinymixnet.fast.layout import Layout

# -- activations and squeeze-and-excite -----------------------------------------------------------


ONE = np.ones((), np.float32)  # faster than a plain 1, which NumPy converts at every call


def relu_to(x: Array, zeros: Array, out: Array) -> None:
    """Equals `relu`. NumPy is faster with an array of zeros than with a single zero."""
    np.maximum(x, zeros, out=out)


def swish_of_half_to(half: Array, scratch: Array, out: Array) -> None:
    """Equals `swish` of x = 2 * half, because x * sigmoid(x) = half * (1 + tanh(half)).

    The half costs nothing: it is folded into the kernel and bias of the layer before. NumPy's tanh
    uses vector instructions, never overflows, and replaces an exp, a sum and a division.
    """
    np.tanh(half, out=scratch)
    np.add(scratch, ONE, out=scratch)
    np.multiply(half, scratch, out=out)


def squeeze(x: Array, mean: Array, reduce: Array, out: Array) -> None:
    """Equals the mean over the pixels and the product with the first dense kernel: out (R,).

    x (C, P). mean (P,) is 1 / pixels at each pixel and 0 in the padding, so x @ mean is the mean
    over the pixels. reduce (C, R) is halved if the activation is swish.
    """
    np.matmul(x @ mean, reduce, out=out)


def gate_of_squeezed(
    squeezed: Array, reduce_bias: Array, expand: Array, expand_bias: Array, swish: bool, out: Array
) -> None:
    """Equals the rest of the gate of `squeeze_excite`: a factor of 0 to 1 a channel, out (C,).

    squeezed (R,) is from `squeeze`. reduce_bias (R,) is halved if the activation is swish. expand
    (R, C) and its bias are always halved, because sigmoid(2 z) = (1 + tanh(z)) / 2.
    """
    squeezed = squeezed + reduce_bias
    squeezed = squeezed * (1 + np.tanh(squeezed)) if swish else np.maximum(squeezed, 0)
    np.divide(1 + np.tanh(squeezed @ expand + expand_bias), 2, out=out)


# -- the stem -------------------------------------------------------------------------------------


def im2col_planes(x: Array, kernel_size: int, stride: int, layout: Layout, out: Array) -> None:
    """Equals `im2col`, transposed: x (C, H, W), padded already -> out (K * K * C, layout.size)."""
    channel, row, column = x.strides
    shape = kernel_size, kernel_size, len(x), layout.height, layout.width
    patches = as_strided(x, shape, (row, column, channel, row * stride, column * stride))
    p = layout.phases_per_axis
    for place, (r, q) in zip(layout.phases(out, p), np.ndindex(p, p), strict=True):
        phase = patches[..., r::p, q::p]
        np.copyto(place.reshape(phase.shape), phase)
