"""The kernels of the fast path, all but the depthwise ones. Each equals a readable kernel.

NumPy is fast at a large matrix product, and at one operation on a long run of memory that is still
in the processor's cache. It is slow at anything on short rows. So, unlike the readable kernels,
these keep the pixels of a channel together: x (C, P), C channels of P pixels. A 1x1 convolution is
then kernel (O, C) @ x, everything else runs along the pixels, and `Layout` says in which order
these lie. Results are written into arrays that the plan allocates once and uses for every image.

`python -m benchmarks.layers` prints how many times as fast as the readable one each of them is.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymixnet.engine.kernels import Array
from tinymixnet.fast.layout import Layout

# -- activations and squeeze-and-excite -----------------------------------------------------------


ONE = np.ones((), np.float32)  # NumPy turns a plain 1 into such an array at every call


def relu_to(x: Array, zeros: Array, out: Array) -> None:
    """Equals `relu`. NumPy compares with an array of zeros faster than with a single zero."""
    np.maximum(x, zeros, out=out)


def swish_of_half_to(half: Array, scratch: Array, out: Array) -> None:
    """Equals `swish` of x = 2 * half, because x * sigmoid(x) = half * (1 + tanh(half)).

    The factor one half costs nothing: it is folded into the kernel and bias of the layer before.
    NumPy's tanh uses vector instructions, never overflows, and replaces an exp, a sum and a
    division.
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
    """Equals the gate of `squeeze_excite`: one factor between 0 and 1 for each channel, out (C,).

    x (C, P). mean (P,) is 1 / pixels at each pixel and 0 in padding, so the mean over the pixels is
    the product x @ mean. reduce (C, R) and its bias are halved where the activation is swish;
    expand (R, C) and its bias always, because sigmoid(2 z) = (1 + tanh(z)) / 2.
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
    places = layout.phases(out, layout.phases_per_axis)
    for place, (r, q) in zip(
        places, np.ndindex(layout.phases_per_axis, layout.phases_per_axis), strict=True
    ):
        phase = patches[..., r :: layout.phases_per_axis, q :: layout.phases_per_axis]
        np.copyto(place.reshape(phase.shape), phase)
