"""Mistakes with the image: its colours, its normalisation, its axes."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import LayerContext, Suspect
from tinymixnet.engine.kernels import Array, conv2d, normalize


def colours(change: Callable[[Array, Array, Array], Array]) -> Callable[[LayerContext], Array]:
    """Return another normalisation. change: (image of 0..255, mean, deviation) -> result."""

    def output(at: LayerContext) -> Array:
        mean, std = (np.asarray(v, at.x.dtype) for v in (at.metadata.mean, at.metadata.std))
        return change(at.x, mean, std)

    return output


def memory_as_nchw(x: Array) -> Array:
    """Read the memory of an NHWC array as if it were NCHW, and return that as NHWC."""
    n, h, w, c = x.shape
    return x.reshape(n, c, h, w).transpose(0, 2, 3, 1)


def memory_as_nhwc(x: Array) -> Array:
    """Store an NHWC array as NCHW, and read that memory as if it were NHWC."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape)


def rows_and_columns_exchanged(x: Array) -> Array | None:
    n, h, w, c = x.shape
    return x.transpose(0, 2, 1, 3) if h == w else None


def pad_before_normalization(at: LayerContext) -> Array:
    """Pad the image instead of the normalised image: with black, which becomes -mean / std."""
    black = normalize(np.zeros(3, at.x.dtype), at.metadata.mean, at.metadata.std)
    kernel = at.tensors["stem/conv/kernel"]
    return conv2d(at.x - black, kernel, stride=2) + black @ kernel.sum((0, 1))


UNNORMALIZED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "the pixels stay 0..255": lambda x, mean, std: x,
    "the pixels are only divided by 255": lambda x, mean, std: x / 255,
    "the pixels are only scaled to -1..1": lambda x, mean, std: x / 127.5 - 1,
    "the mean is not subtracted": lambda x, mean, std: x / std,
    "there is no division by the deviation": lambda x, mean, std: x - mean,
    "the mean is subtracted, but the division is by 255": lambda x, mean, std: (x - mean) / 255,
}
DOUBLED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "the image is normalised twice": lambda x, mean, std: ((x - mean) / std - mean) / std,
    "the mean is subtracted twice": lambda x, mean, std: (x - mean - mean) / std,
    "the division by the deviation is done twice": lambda x, mean, std: (x - mean) / std / std,
}
INPUT = [
    Suspect(
        "bgr",
        "image",
        "the colours come as BGR, and the network wants RGB: reverse the last axis",
        lambda at: at.value[..., ::-1],
    ),
    Suspect(
        "bgr",
        "normalize",
        "the colours are normalised as RGB and then reversed: leave them as they are",
        lambda at: at.value[..., ::-1],
    ),
    Suspect(
        "bgr",
        "normalize",
        "means and deviations are in the order BGR, and the image is RGB: reverse them",
        colours(lambda x, mean, std: (x - mean[::-1]) / std[::-1]),
    ),
    Suspect(
        "bgr",
        "stem/conv",
        "the first kernel takes BGR, and the image is RGB: leave the kernel as it is",
        weights=lambda name, tensor: tensor[:, :, ::-1],
    ),
    *(
        Suspect(
            "no-normalization",
            "normalize",
            f"{how}: subtract the mean and divide by the deviation, both in units of 0..255",
            colours(change),
        )
        for how, change in UNNORMALIZED.items()
    ),
    Suspect(
        "zero-one-input",
        "image",
        "pixels of 0..1 are normalised with constants for 0..255: multiply by 255 first",
        lambda at: at.value / 255,
    ),
    *(
        Suspect("double-normalization", "normalize", f"{how}: once is enough", colours(change))
        for how, change in DOUBLED.items()
    ),
    Suspect(
        "pad-before-normalization",
        "stem/conv",
        "the image is padded before it is normalised: pad with zeros afterwards",
        pad_before_normalization,
    ),
    Suspect(
        "transposed-layout",
        "image",
        "an image in NHWC order is read as NCHW: transpose it, do not reshape",
        lambda at: memory_as_nchw(at.value),
    ),
    Suspect(
        "transposed-layout",
        "image",
        "an image in NCHW order is read as NHWC: transpose it, do not reshape",
        lambda at: memory_as_nhwc(at.value),
    ),
    Suspect(
        "transposed-layout",
        "image",
        "rows and columns of the image are exchanged: it is (height, width), not (width, height)",
        lambda at: rows_and_columns_exchanged(at.value),
    ),
    Suspect(
        "flipped-image",
        "image",
        "the image is mirrored left to right",
        lambda at: at.value[:, :, ::-1],
    ),
    Suspect("flipped-image", "image", "the image is upside down", lambda at: at.value[:, ::-1]),
]
