"""What ports compute on the way to a layer of ours: tensors that are no layer, but part of one.

A graph splits a batch norm into a multiplication and an addition, swish into a sigmoid and a
product, a grouped convolution into slices, convolutions and a concatenation. Such tensors are
recognised by their values, so that they are neither taken for layers nor listed as unknown.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tinymixnet.debug.single_layer import Step
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import Array, same_padding, sigmoid
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import statistics

BIAS_MISSING = "bias missing"
COPY = "copy"
SAME_SHIFT = 1e-5  # by how much shifts may differ, relative to the range of a channel
ALIKE = 2e-3  # largest error, relative to the largest value, of a part of a layer


def parts(
    step: Step,
    inputs: Sequence[Array],
    value: Array,
    tensors: Mapping[str, Array],
    metadata: Metadata,
) -> Iterator[tuple[str, Array]]:
    """Yield (what it is, tensor) for tensors on the way from a layer's inputs to its value."""
    x = inputs[0] if inputs else value
    yield COPY, value
    if step.kind.endswith("conv"):
        yield from _of_convolution(step, x, value, tensors)
    elif step.kind.endswith("bn"):
        gamma, beta, mean, variance = statistics(step.layer, tensors)
        scale = gamma / np.sqrt(variance + metadata.epsilon)
        yield "scaled", x * scale
        yield "shift missing", value - (beta - mean * scale)
        yield "mean subtracted", x - mean
        yield "beta missing", value - beta
    elif step.kind.endswith("act") and step.block and step.block.swish:
        yield "sigmoid", sigmoid(x)
    elif step.kind in ("se_reduce", "se_expand", "logits"):
        yield BIAS_MISSING, value - tensors[f"{step.layer}/bias"]
    elif step.kind in ("se_pool", "head/pool"):
        yield "mean over columns", x.mean(axis=2, keepdims=True)
        yield "mean over rows", x.mean(axis=1, keepdims=True)
        yield "sum", x.sum(axis=(1, 2), keepdims=True)
    elif step.kind == "se_scale":
        yield "gate at every pixel", np.broadcast_to(inputs[1], x.shape)
    elif step.kind == "normalize":
        yield "mean subtracted", x - np.asarray(metadata.mean, x.dtype)
        yield "0..1", x / np.float32(255)
    elif step.kind == "probabilities":
        exponents = np.exp(x - x.max(axis=-1, keepdims=True))
        yield "exponents", exponents
        yield "largest subtracted", x - x.max(axis=-1, keepdims=True)


def _of_convolution(
    step: Step, x: Array, value: Array, tensors: Mapping[str, Array]
) -> Iterator[tuple[str, Array]]:
    kernels = group_kernels(step.layer, tensors) or [tensors[f"{step.layer}/kernel"]]
    depthwise = step.kind == "depthwise_conv"
    stride = step.block.stride if step.block and depthwise else 2 if step.kind == "stem/conv" else 1
    sizes = [kernel.shape[2] for kernel in kernels]
    slices = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    results = sizes if depthwise else [kernel.shape[3] for kernel in kernels]
    outputs = np.split(value, np.cumsum(results)[:-1], axis=-1)
    for group, (kernel, part, output) in enumerate(zip(kernels, slices, outputs, strict=True)):
        if len(kernels) > 1:
            yield f"input of group {group}", part
            yield f"result of group {group}", output
        if kernel.shape[0] > 1:
            sides = [same_padding(size, kernel.shape[0], stride) for size in x.shape[1:3]]
            yield f"padded input of group {group}", np.pad(part, ((0, 0), *sides, (0, 0)))


def shifted_by_channel(x: Array, other: Array) -> bool:
    """Whether two maps (N, H, W, C) differ by one number in each channel, and by no more."""
    if x.ndim != 4 or x[..., 0].size < 4:
        return False
    shift = x - other
    apart = np.ptp(shift, axis=(0, 1, 2)).max()
    varied = min(np.ptp(side, axis=(0, 1, 2)).max() for side in (x, other))
    return bool(apart <= SAME_SHIFT * varied)
