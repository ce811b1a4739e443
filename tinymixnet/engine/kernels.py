"""Every operation MixNet is made of, one pure function each, written to be read.

Letters used in the shapes below, all arrays NHWC as in TensorFlow:

    N images   H x W pixels   C input channels   O output channels   OH x OW output pixels
    KH x KW the pixels a kernel covers, K where it is square

The kernels compute in the type they are given: float32 in, float32 out; float64 in, float64 out
(the tests use that to measure rounding). No kernel changes its input.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinymixnet.errors import InputError

Array = np.ndarray


# -- input ----------------------------------------------------------------------------------------


def normalize(image: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Bring pixels of 0..255 to about -2..2, as in training; image (..., 3), one mean a colour.

    A zero of SAME padding stands for the mean after this, not for black: pad later.
    """
    return (image - np.asarray(mean, image.dtype)) / np.asarray(std, image.dtype)


# -- convolution ----------------------------------------------------------------------------------


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many zeros TensorFlow's SAME puts before and after one axis: (before, after).

    The output has ceil(size / stride) positions. When the zeros do not divide evenly, the odd one
    goes *after* the data, so a stride-2 3x3 over an even axis pads (0, 1), where PyTorch's
    symmetric padding=1 would pad (1, 1) and shift every feature by a pixel.
    Source: TensorFlow's documentation of tf.nn, "SAME" padding.
    """
    positions = -(-size // stride)
    total = max((positions - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def windows(x: Array, kernel_size: tuple[int, int], stride: int) -> Array:
    """The patch under the kernel at every output position, as a view of the padded input.

    x (N, H, W, C) -> (N, OH, OW, C, KH, KW)
    """
    n, h, w, c = x.shape
    kh, kw = kernel_size
    rows, columns = same_padding(h, kh, stride), same_padding(w, kw, stride)
    padded = np.pad(x, ((0, 0), rows, columns, (0, 0)))
    return sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]


def im2col(x: Array, kernel_size: tuple[int, int], stride: int = 1) -> Array:
    """Lay out the patch under the kernel at every position as one row: convolution becomes matmul.

    x (N, H, W, C) -> (N, OH, OW, KH * KW * C), the order of a row being that of an HWIO kernel
    reshaped to (KH * KW * C, O).
    """
    patches = windows(x, kernel_size, stride).transpose(0, 1, 2, 4, 5, 3)
    n, oh, ow, kh, kw, c = patches.shape
    return patches.reshape(n, oh, ow, kh * kw * c)


def conv2d(x: Array, kernel: Array, stride: int = 1, bias: Array | None = None) -> Array:
    """A convolution is one matrix product of im2col's rows with the kernel's columns.

    x (N, H, W, C), kernel (KH, KW, C, O), bias (O,) -> (N, OH, OW, O), SAME padding.
    Raises InputError when the channels of x and kernel differ.
    """
    kh, kw, c, o = kernel.shape
    _expect_channels("conv2d", x, c)
    y = im2col(x, (kh, kw), stride) @ kernel.reshape(-1, o)
    return y if bias is None else y + bias


def pointwise_conv2d(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A 1x1 convolution needs no im2col: it is a dense layer at every pixel.

    x (N, H, W, C), kernel (1, 1, C, O), bias (O,) -> (N, H, W, O).
    Raises InputError for another kernel size or other channels.
    """
    kh, kw, c, o = kernel.shape
    if (kh, kw) != (1, 1):
        raise InputError(f"pointwise_conv2d takes a 1x1 kernel, found {kh}x{kw}: use conv2d")
    _expect_channels("pointwise_conv2d", x, c)
    y = x @ kernel[0, 0]
    return y if bias is None else y + bias


def split_channels(channels: int, groups: int) -> list[int]:
    """Cut channels into groups as MixNet does: equal shares, the remainder to the *first* group.

    split_channels(10, 3) -> [4, 3, 3]. Raises InputError for fewer channels than groups.
    Source: the original's _split_channels; none of S, M, L has a remainder.
    """
    if not 1 <= groups <= channels:
        raise InputError(f"cannot split {channels} channels into {groups} groups")
    share = channels // groups
    return [channels - share * (groups - 1)] + [share] * (groups - 1)


def _slices(x: Array, sizes: Sequence[int]) -> list[Array]:
    """x cut along its channels into slices of the given sizes."""
    return np.split(x, np.cumsum(sizes)[:-1], axis=-1)


def grouped_conv2d(x: Array, kernels: Sequence[Array]) -> Array:
    """Each group of channels has a 1x1 convolution of its own; the results stand side by side.

    x (N, H, W, C), kernels one (1, 1, C_g, O_g) a group, the C_g adding up to C -> (N, H, W, O).
    Raises InputError when they do not.
    """
    sizes = [kernel.shape[2] for kernel in kernels]
    _expect_channels("grouped_conv2d", x, sum(sizes))
    parts = [pointwise_conv2d(part, k) for part, k in zip(_slices(x, sizes), kernels, strict=True)]
    return np.concatenate(parts, axis=-1)


def depthwise_conv2d(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Each channel is filtered by a kernel of its own; no channel sees another.

    x (N, H, W, C), kernel (KH, KW, C, 1) -> (N, OH, OW, C), SAME padding.
    Raises InputError when the channels of x and kernel differ.
    """
    kh, kw, c, multiplier = kernel.shape
    if multiplier != 1:
        raise InputError(f"depthwise_conv2d takes a kernel (KH, KW, C, 1), found {kernel.shape}")
    _expect_channels("depthwise_conv2d", x, c)
    patches = windows(x, (kh, kw), stride)  # (N, OH, OW, C, KH, KW)
    return np.einsum("nhwcij,ijc->nhwc", patches, kernel[..., 0])


def mix_conv(x: Array, kernels: Sequence[Array], stride: int = 1) -> Array:
    """MixNet's idea: one depthwise layer whose channel groups have kernels of several sizes.

    x (N, H, W, C), kernels one (K_g, K_g, C_g, 1) a group, the C_g adding up to C
    -> (N, OH, OW, C). Raises InputError when they do not.
    """
    sizes = [kernel.shape[2] for kernel in kernels]
    _expect_channels("mix_conv", x, sum(sizes))
    parts = zip(_slices(x, sizes), kernels, strict=True)
    return np.concatenate([depthwise_conv2d(part, k, stride) for part, k in parts], axis=-1)


def _expect_channels(name: str, x: Array, channels: int) -> None:
    if x.ndim != 4 or x.shape[-1] != channels:
        raise InputError(f"{name}: its kernel takes (N, H, W, {channels}), found {x.shape}")


# -- batch normalisation --------------------------------------------------------------------------


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    moving_mean: Array,
    moving_variance: Array,
    epsilon: float = 1e-3,
) -> Array:
    """Rescale each channel by the mean and variance it had in training.

    x (N, H, W, C), the four vectors (C,) -> (N, H, W, C). "Moving" because training averages the
    statistics over many batches. Source of epsilon: the original network; PyTorch's is 1e-5.
    """
    return (x - moving_mean) * (gamma / np.sqrt(moving_variance + epsilon)) + beta


def fold_batch_norm(
    kernel: Array,
    gamma: Array,
    beta: Array,
    moving_mean: Array,
    moving_variance: Array,
    epsilon: float = 1e-3,
) -> tuple[Array, Array]:
    """Batch norm after a convolution is the same convolution with other numbers: (kernel, bias).

    conv(x, kernel) * s + (beta - mean * s) = conv(x, kernel * s) + bias, s = gamma / sqrt(variance
    + epsilon). kernel (KH, KW, C, O), or depthwise (KH, KW, C, 1), whose outputs are its C
    channels; the vectors have one value an output. Raises InputError when they do not fit.
    """
    kh, kw, c, o = kernel.shape
    scale = gamma / np.sqrt(moving_variance + epsilon)
    if len(scale) == o:
        folded = kernel * scale
    elif o == 1 and len(scale) == c:
        folded = kernel * scale[:, None]
    else:
        raise InputError(f"fold_batch_norm: kernel {kernel.shape}, but {len(scale)} statistics")
    return folded, beta - moving_mean * scale


# -- activations ----------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """Keep what is positive: max(x, 0)."""
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), from -inf (0) through 0 (one half) to inf (1), without overflow.

    exp sees only -|x|, so it can underflow to 0 (which is right) but never overflow.
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        return np.where(x < 0, e, x.dtype.type(1)) / (1 + e)


def swish(x: Array) -> Array:
    """x * sigmoid(x): like ReLU, but smooth, and slightly negative below 0 (also called SiLU).

    Its limit at -inf is 0, but -inf * 0 would be NaN: hence the finite lower bound.
    """
    with np.errstate(under="ignore"):
        return np.maximum(x, np.finfo(x.dtype).min) * sigmoid(x)


def softmax(x: Array) -> Array:
    """Turn logits into probabilities that add up to 1 over the last axis; x (N, classes).

    Subtracting the largest logit changes no ratio and keeps exp from overflowing.
    """
    with np.errstate(over="ignore", under="ignore"):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


# -- pooling, squeeze-and-excite, the classifier --------------------------------------------------


def global_average_pool(x: Array) -> Array:
    """One number a channel: its mean over all pixels. x (N, H, W, C) -> (N, C).

    Rows first, then columns: adding up in two short runs instead of one long one rounds less.
    """
    return x.mean(axis=2).mean(axis=1)


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """The classifier: every output is a weighted sum of all inputs.

    x (N, C), kernel (C, O), bias (O,) -> (N, O).
    """
    return x @ kernel + bias


def squeeze_excite(
    x: Array,
    reduce_kernel: Array,
    reduce_bias: Array,
    expand_kernel: Array,
    expand_bias: Array,
    activation: Callable[[Array], Array] = swish,
) -> Array:
    """Turn each channel up or down by a gate between 0 and 1 that is computed from all channels.

    x (N, H, W, C), reduce_kernel (1, 1, C, R), expand_kernel (1, 1, R, C), biases (R,) and (C,)
    -> (N, H, W, C).
    """
    pooled = global_average_pool(x)[:, None, None, :]  # (N, 1, 1, C)
    squeezed = activation(pointwise_conv2d(pooled, reduce_kernel, reduce_bias))  # (N, 1, 1, R)
    gate = sigmoid(pointwise_conv2d(squeezed, expand_kernel, expand_bias))  # (N, 1, 1, C)
    return x * gate
