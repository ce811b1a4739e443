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
from tinymixnet.fast.swish import Swish

# -- activations and squeeze-and-excite -----------------------------------------------------------


def relu_to(x: Array, zeros: Array, out: Array) -> None:
    """Equals `relu`. NumPy is faster with an array of zeros than with a single zero."""
    np.maximum(x, zeros, out=out)


def squeeze(x: Array, mean: Array, reduce: Array, out: Array) -> None:
    """Equals the mean over the pixels and the product with the first dense kernel: out (R,).

    x (C, P). mean (P,) is 1 / pixels at each pixel and 0 in the padding, so x @ mean is the mean
    over the pixels. reduce (C, R) holds the factors of `Swish`.
    """
    np.matmul(x @ mean, reduce, out=out)


def gate_of_squeezed(
    squeezed: Array,
    reduce_bias: Array,
    expand: Array,
    expand_bias: Array,
    is_swish: bool,
    swish: Swish,
    out: Array,
) -> None:
    """Equals the rest of the gate of `squeeze_excite`: a factor of 0 to 1 a channel, out (C,).

    squeezed (R,) is from `squeeze`. reduce_bias (R,), expand (R, C) and expand_bias hold the
    factors of `Swish`; the activation between them is swish or ReLU.
    """
    squeezed = squeezed + reduce_bias
    if is_swish:
        swish.activate(squeezed, np.empty_like(squeezed), squeezed)
    else:
        np.maximum(squeezed, 0, out=squeezed)
    np.matmul(squeezed, expand, out=out)
    np.add(out, expand_bias, out=out)
    swish.sigmoid(out, out)


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
