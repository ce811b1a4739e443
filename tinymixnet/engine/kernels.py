"""Every operation that MixNet is made of, one pure function each.

All arrays are NHWC, as in TensorFlow. The letters in the shapes below mean:

    N images   H x W pixels   C input channels   O output channels   OH x OW output pixels
    KH x KW the pixels that a kernel covers, K where it is square

A kernel computes in the type that it is given: float32 in, float32 out; float64 in, float64 out.
(The tests use float64 to measure rounding.) No kernel changes its input.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinymixnet.errors import InputError

Array = np.ndarray


# -- input ----------------------------------------------------------------------------------------


def normalize(image: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Bring pixels from 0..255 to about -2..2, as in training; image (..., 3), RGB.

    mean and std have one number for each colour. After this a zero means the mean colour, not
    black. So SAME padding, which adds zeros, has to come later.
    """
    return (image - np.asarray(mean, image.dtype)) / np.asarray(std, image.dtype)


# -- convolution ----------------------------------------------------------------------------------


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many zeros TensorFlow's SAME padding puts before and after one axis: (before, after).

    The output has ceil(size / stride) positions. Where the number of zeros is odd, the extra one
    goes *after* the data. So a 3x3 kernel with stride 2 pads an even axis by (0, 1). PyTorch's
    padding=1 would pad it by (1, 1) and shift every feature by a pixel.
    Source: TensorFlow's documentation of tf.nn, "SAME" padding.
    """
    positions = -(-size // stride)
    total = max((positions - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def windows(x: Array, kernel_size: tuple[int, int], stride: int) -> Array:
    """The patch that the kernel covers at every output position, as a view of the padded input.

    x (N, H, W, C) -> (N, OH, OW, C, KH, KW), SAME padding. A view copies nothing.
    """
    n, h, w, c = x.shape
    kh, kw = kernel_size
    rows, columns = same_padding(h, kh, stride), same_padding(w, kw, stride)
    padded = np.pad(x, ((0, 0), rows, columns, (0, 0)))
    return sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]


def im2col(x: Array, kernel_size: tuple[int, int], stride: int = 1) -> Array:
    """Write the patch at every position as one row: a convolution is then a matrix product.

    x (N, H, W, C) -> (N, OH, OW, KH * KW * C). The numbers of a row are in the order of the rows of
    a kernel (KH, KW, C, O) that is reshaped to (KH * KW * C, O).
    """
    patches = windows(x, kernel_size, stride).transpose(0, 1, 2, 4, 5, 3)
    n, oh, ow, kh, kw, c = patches.shape
    return patches.reshape(n, oh, ow, kh * kw * c)


def conv2d(x: Array, kernel: Array, stride: int = 1, bias: Array | None = None) -> Array:
    """Convolution, as one matrix product: the rows of `im2col` times the columns of the kernel.

    x (N, H, W, C), kernel (KH, KW, C, O), bias (O,) -> (N, OH, OW, O), SAME padding.
    Raises InputError when the channels of x and kernel differ.
    """
    kh, kw, c, o = kernel.shape
    _expect_channels("conv2d", x, c)
    y = im2col(x, (kh, kw), stride) @ kernel.reshape(-1, o)
    return y if bias is None else y + bias


def pointwise_conv2d(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A 1x1 convolution: the same dense layer at every pixel, so it needs no `im2col`.

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
    """A 1x1 convolution for each group of channels; the results stand side by side.

    x (N, H, W, C); kernels, one for each group, (1, 1, C_g, O_g) -> (N, H, W, O).
    Raises InputError when the C_g do not add up to C.
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
    """MixNet's idea: one depthwise layer in which each group of channels has its own kernel size.

    x (N, H, W, C); kernels, one for each group, (K_g, K_g, C_g, 1) -> (N, OH, OW, C).
    Raises InputError when the C_g do not add up to C.
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
    """Make one convolution out of a convolution and the batch norm after it: (kernel, bias).

    With s = gamma / sqrt(variance + epsilon), batch norm multiplies each output by s and adds
    beta - mean * s. Multiplying the kernel by s does the same as multiplying the output.
    kernel (KH, KW, C, O), or depthwise (KH, KW, C, 1), which has C outputs; the four vectors have
    one value for each output. Raises InputError when they do not fit.
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
    """1 / (1 + exp(-x)): 0 at -infinity, one half at 0, 1 at infinity.

    exp gets only -|x|. So it may underflow to 0, which is right, but it never overflows.
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        return np.where(x < 0, e, x.dtype.type(1)) / (1 + e)


def swish(x: Array) -> Array:
    """x * sigmoid(x), also called SiLU: like ReLU, but smooth, and slightly negative below 0.

    At -infinity it should be 0, but -infinity times 0 is NaN. So x is bounded from below first.
    """
    with np.errstate(under="ignore"):
        return np.maximum(x, np.finfo(x.dtype).min) * sigmoid(x)


def softmax(x: Array) -> Array:
    """Turn logits into probabilities that add up to 1 over the last axis; x (N, classes).

    Subtracting the largest logit keeps exp from overflowing and does not change the result.
    """
    with np.errstate(over="ignore", under="ignore"):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


# -- pooling, squeeze-and-excite, the classifier --------------------------------------------------


def global_average_pool(x: Array) -> Array:
    """The mean of each channel over all pixels. x (N, H, W, C) -> (N, C).

    Rows first, then columns: two short sums round less than one long sum.
    """
    return x.mean(axis=2).mean(axis=1)


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """A dense layer, the classifier: every output is a weighted sum of all inputs, plus a bias.

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
    """Multiply each channel by a number between 0 and 1, its gate, computed from all channels.

    x (N, H, W, C), reduce_kernel (1, 1, C, R), expand_kernel (1, 1, R, C), biases (R,) and (C,)
    -> (N, H, W, C). R is the small number of channels in between.
    """
    pooled = global_average_pool(x)[:, None, None, :]  # (N, 1, 1, C)
    squeezed = activation(pointwise_conv2d(pooled, reduce_kernel, reduce_bias))  # (N, 1, 1, R)
    gate = sigmoid(pointwise_conv2d(squeezed, expand_kernel, expand_bias))  # (N, 1, 1, C)
    return x * gate
