"""The kernels a second time, slow and plainly right: one loop for each index, in Python's floats.

Nothing here is shared with tinymixnet, and no NumPy function computes anything: arrays only hold
the numbers. Shapes and their letters are those of tinymixnet/engine/kernels.py.
"""

import math

import numpy as np


def positions(size: int, stride: int) -> int:
    """Return how many output positions SAME padding gives along one axis."""
    return math.ceil(size / stride)


def first_tap(position: int, size: int, kernel: int, stride: int) -> int:
    """Return where a kernel begins on the input; a negative index lies in the padding."""
    total = max((positions(size, stride) - 1) * stride + kernel - size, 0)
    return position * stride - total // 2


def taps(position: int, size: int, kernel: int, stride: int) -> list[tuple[int, int]]:
    """Return the pairs (index in the kernel, index in the input) at an output position.

    Pairs in the padding are left out, for a zero adds nothing to the sum.
    """
    start = first_tap(position, size, kernel, stride)
    return [(k, start + k) for k in range(kernel) if 0 <= start + k < size]


def normalize(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    y = np.zeros(image.shape)
    for index in np.ndindex(image.shape):
        colour = index[-1]
        y[index] = (float(image[index]) - mean[colour]) / std[colour]
    return y


def conv2d(
    x: np.ndarray, kernel: np.ndarray, stride: int = 1, bias: np.ndarray | None = None
) -> np.ndarray:
    n, h, w, c = x.shape
    kh, kw, _, o = kernel.shape
    inputs, weights = x.tolist(), kernel.tolist()
    y = np.zeros((n, positions(h, stride), positions(w, stride), o))
    for image, row, column, output in np.ndindex(y.shape):
        total = 0.0 if bias is None else float(bias[output])
        for i, at_row in taps(row, h, kh, stride):
            for j, at_column in taps(column, w, kw, stride):
                for channel in range(c):
                    value = inputs[image][at_row][at_column][channel]
                    total += value * weights[i][j][channel][output]
        y[image, row, column, output] = total
    return y


def depthwise_conv2d(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    n, h, w, c = x.shape
    kh, kw, _, _ = kernel.shape
    inputs, weights = x.tolist(), kernel.tolist()
    y = np.zeros((n, positions(h, stride), positions(w, stride), c))
    for image, row, column, channel in np.ndindex(y.shape):
        total = 0.0
        for i, at_row in taps(row, h, kh, stride):
            for j, at_column in taps(column, w, kw, stride):
                total += inputs[image][at_row][at_column][channel] * weights[i][j][channel][0]
        y[image, row, column, channel] = total
    return y


def grouped_conv2d(x: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """Compute each output channel by itself, from the input channels of its group."""
    n, h, w, _ = x.shape
    y = np.zeros((n, h, w, sum(kernel.shape[3] for kernel in kernels)))
    before_in = before_out = 0
    for kernel in kernels:
        _, _, c, o = kernel.shape
        for image, row, column, output in np.ndindex(n, h, w, o):
            total = 0.0
            for channel in range(c):
                value = float(x[image, row, column, before_in + channel])
                total += value * float(kernel[0, 0, channel, output])
            y[image, row, column, before_out + output] = total
        before_in, before_out = before_in + c, before_out + o
    return y


def mix_conv(x: np.ndarray, kernels: list[np.ndarray], stride: int = 1) -> np.ndarray:
    """Compute each channel by itself, with the kernel of its group."""
    n, h, w, c = x.shape
    owners = [(kernel, i) for kernel in kernels for i in range(kernel.shape[2])]
    y = np.zeros((n, positions(h, stride), positions(w, stride), c))
    for channel, (kernel, i) in enumerate(owners):
        one = depthwise_conv2d(x[..., channel : channel + 1], kernel[:, :, i : i + 1], stride)
        y[..., channel] = one[..., 0]
    return y


def batch_norm(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    y = np.zeros(x.shape)
    for image, row, column, c in np.ndindex(x.shape):
        deviation = math.sqrt(float(variance[c]) + epsilon)
        standardised = (float(x[image, row, column, c]) - float(mean[c])) / deviation
        y[image, row, column, c] = standardised * float(gamma[c]) + float(beta[c])
    return y


def sigmoid(value: float) -> float:
    """Return 1 / (1 + e^-x), in the form that cannot overflow for a number of that sign."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def swish(value: float) -> float:
    return value * sigmoid(value)


def each(function, x: np.ndarray) -> np.ndarray:
    """Apply a function of one number to every element."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = function(float(x[index]))
    return y


def softmax(x: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape)
    for row, logits in enumerate(x.tolist()):
        powers = [math.exp(logit - max(logits)) for logit in logits]
        y[row] = [power / math.fsum(powers) for power in powers]
    return y


def global_average_pool(x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    y = np.zeros((n, c))
    for image, channel in np.ndindex(n, c):
        pixels = [float(x[image, row, column, channel]) for row, column in np.ndindex(h, w)]
        y[image, channel] = math.fsum(pixels) / (h * w)
    return y


def dense(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    n, c = x.shape
    _, o = kernel.shape
    y = np.zeros((n, o))
    for image, output in np.ndindex(n, o):
        total = float(bias[output])
        for channel in range(c):
            total += float(x[image, channel]) * float(kernel[channel, output])
        y[image, output] = total
    return y


def squeeze_excite(
    x: np.ndarray,
    reduce_kernel: np.ndarray,
    reduce_bias: np.ndarray,
    expand_kernel: np.ndarray,
    expand_bias: np.ndarray,
    activation=swish,
) -> np.ndarray:
    pooled = global_average_pool(x)
    squeezed = each(activation, dense(pooled, reduce_kernel[0, 0], reduce_bias))
    gate = each(sigmoid, dense(squeezed, expand_kernel[0, 0], expand_bias))
    y = np.zeros(x.shape)
    for image, row, column, c in np.ndindex(x.shape):
        y[image, row, column, c] = float(x[image, row, column, c]) * gate[image, c]
    return y
