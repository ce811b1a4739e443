"""Mistakes in how a filter moves over its input: padding, stride, dilation."""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinymixnet.debug.suspects.context import FILTERS, LayerContext, Suspect, kernels_of
from tinymixnet.engine.kernels import Array, conv2d, mix_conv, same_padding


def mix_or_conv(at: LayerContext, x: Array, stride: int) -> Array:
    """Return the layer for another input or stride."""
    kernels = kernels_of(at)
    return mix_conv(x, kernels, stride) if at.block else conv2d(x, kernels[0], stride)


def stride_of(at: LayerContext) -> int:
    return at.block.stride if at.block else 2


def symmetric_padding(at: LayerContext) -> Array | None:
    """Pad stride 2 with as many zeros before as after.

    SAME padding is symmetric for stride 1, so this is every other pixel of the result for stride 1.
    """
    stride = stride_of(at)
    return None if stride == 1 else mix_or_conv(at, at.x, 1)[:, ::stride, ::stride]


def filtered(
    x: Array, kernel: Array, stride: int, mode: str = "constant", dilation: int = 1
) -> Array:
    """Filter x (N, H, W, C) with another padding (a mode of np.pad) or with a dilated kernel.

    kernel: (K, K, C, 1) for each channel by itself, else (K, K, C, O).
    """
    k, _, c, o = kernel.shape
    side = (k - 1) * dilation + 1  # pixels that the dilated kernel covers
    before_after = [same_padding(n, side, stride) for n in x.shape[1:3]]
    widest = max(max(pads) for pads in before_after)
    if mode == "reflect" and widest >= min(x.shape[1:3]):
        mode = "constant"  # no picture is left to mirror: frameworks refuse
    padded = np.pad(x, ((0, 0), *before_after, (0, 0)), mode=mode)  # type: ignore[call-overload]
    patches = sliding_window_view(padded, (side, side), axis=(1, 2))
    patches = patches[:, ::stride, ::stride, :, ::dilation, ::dilation]
    if o == 1 and c > 1:
        return np.einsum("nhwcij,ijc->nhwc", patches, kernel[..., 0])
    return np.einsum("nhwcij,ijco->nhwo", patches, kernel, optimize=True)


def filtered_with(mode: str = "constant", dilation: int = 1) -> Callable[[LayerContext], Array]:
    """Return the output of a layer whose kernels are padded or dilated in another way."""

    def output(at: LayerContext) -> Array:
        kernels = kernels_of(at)
        ends = np.cumsum([kernel.shape[2] for kernel in kernels])[:-1]
        parts = np.split(at.x, ends, axis=-1)
        done = [
            filtered(part, kernel, stride_of(at), mode, dilation)
            for part, kernel in zip(parts, kernels, strict=True)
        ]
        return np.concatenate(done, axis=-1)

    return output


def pooled(x: Array, function: Callable[..., Array], stride: int) -> Array | None:
    """Return the mean or the largest of each square of pixels; None if they do not fit."""
    n, h, w, c = x.shape
    if h % stride or w % stride:
        return None
    return function(x.reshape(n, h // stride, stride, w // stride, stride, c), axis=(2, 4))


def pooled_after(function: Callable[..., Array]) -> Callable[[LayerContext], Array | None]:
    """Return the result for stride 1, and pool it."""

    def output(at: LayerContext) -> Array | None:
        stride = stride_of(at)
        return None if stride == 1 else pooled(mix_or_conv(at, at.x, 1), function, stride)

    return output


def pooled_before(function: Callable[..., Array]) -> Callable[[LayerContext], Array | None]:
    """Pool the input, and filter what is left with stride 1."""

    def output(at: LayerContext) -> Array | None:
        stride = stride_of(at)
        x = None if stride == 1 else pooled(at.x, function, stride)
        return None if x is None else mix_or_conv(at, x, 1)

    return output


def sliced(at: LayerContext) -> Array | None:
    """Take every other pixel of the input, and filter these with stride 1."""
    stride = stride_of(at)
    return None if stride == 1 else mix_or_conv(at, at.x[:, ::stride, ::stride], 1)


PADDING = [
    Suspect(
        "symmetric-padding",
        FILTERS,
        "stride 2 is padded symmetrically, as by padding=(k-1)//2: where SAME needs an odd number "
        "of zeros, it puts one more after than before, (0, 1) for 3x3 on an even side",
        symmetric_padding,
    ),
    Suspect(
        "stride-by-slicing",
        FILTERS,
        "every other pixel is taken before the filter: the filter itself has the stride",
        sliced,
    ),
    *(
        Suspect(
            "stride-by-pooling",
            FILTERS,
            f"{what} stands for the stride: the filter itself has the stride",
            output,
        )
        for what, output in {
            "the mean of 2x2 pixels of the filter's output": pooled_after(np.mean),
            "the largest of 2x2 pixels of the filter's output": pooled_after(np.max),
            "the mean of 2x2 pixels of the filter's input": pooled_before(np.mean),
            "the largest of 2x2 pixels of the filter's input": pooled_before(np.max),
        }.items()
    ),
    *(
        Suspect(slug, FILTERS, f"the borders are padded with {what}: pad with zeros", output)
        for slug, what, output in (
            ("replicate-padding", "the outermost pixels", filtered_with("edge")),
            ("reflect-padding", "the mirrored picture", filtered_with("reflect")),
            ("circular-padding", "the pixels of the opposite border", filtered_with("wrap")),
        )
    ),
    Suspect(
        "dilation",
        FILTERS,
        "the kernels are dilated by 2, so that they skip every other pixel: dilation is 1",
        filtered_with(dilation=2),
    ),
]
