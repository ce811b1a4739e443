"""How far two tensors are apart, and what the difference looks like, in words."""

from itertools import product
from typing import NamedTuple

import numpy as np

from tinymixnet.architecture import Block
from tinymixnet.kernels import Array, split_channels

SPREAD = "the error is spread over all pixels and channels, like noise"


class Error(NamedTuple):
    """How far two tensors are apart, as shares of theirs."""

    most: float  # largest difference, of the largest value
    mean: float  # root mean square of the difference, of that of the values


def error(ours: Array, theirs: Array) -> Error:
    """NaN and infinity are as far away as can be."""
    with np.errstate(all="ignore"):
        difference = np.abs(ours - theirs).ravel()
        largest = float(np.abs(theirs).max(initial=0)) or float(np.abs(ours).max(initial=0)) or 1.0
        most = float(difference.max(initial=0)) / largest
        power = float(np.dot(theirs.ravel(), theirs.ravel())) or largest**2
        mean = (float(np.dot(difference, difference)) / power) ** 0.5
    if not (np.isfinite(most) and np.isfinite(mean)):
        return Error(np.inf, np.inf)
    return Error(most, mean)


def averaged(ours: Array, theirs: Array) -> float:
    """The mean difference, as a share of their largest value: what is left of mere rounding."""
    with np.errstate(all="ignore"):
        bias = float(np.mean(theirs - ours, dtype=np.float64)) / float(np.abs(theirs).max() or 1)
    return abs(bias) if np.isfinite(bias) else np.inf


def cosine(a: Array, b: Array) -> float:
    with np.errstate(all="ignore"):
        a, b = a.ravel(), b.ravel()
        return float(np.dot(a, b)) / (float(np.dot(a, a) * np.dot(b, b)) ** 0.5 or 1.0)


def pattern(ours: Array, theirs: Array, block: Block | None) -> str:
    """Put in words where an unexplained error is, and what of: (N, H, W, C) or (N, C)."""
    bad = int((~np.isfinite(theirs)).sum())
    if bad:
        return f"{bad} of their {theirs.size} values are NaN or infinite"
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    wrong = float(np.square(b - a).sum())

    def left(explained: Array) -> float:
        return float(np.square(b - explained).sum()) / wrong

    factor = float((a * b).sum() / (np.square(a).sum() or 1))
    if left(a * factor) < 0.01:
        return f"a constant factor: theirs is ours times {factor:.4g}"
    offset = float((b - a).mean())
    if left(a + offset) < 0.01:
        return f"a constant offset: theirs is ours plus {offset:.4g}"
    if where := _channels(np.square(b - a), block):
        return where
    axes = tuple(range(a.ndim - 1))
    pixels = a.size // a.shape[-1]
    if pixels >= 8:
        if left(a * ((a * b).sum(axes) / np.maximum(np.square(a).sum(axes), 1e-30))) < 0.01:
            return "each channel of theirs is ours times a factor of its own"
        if left(a + (b - a).mean(axes)) < 0.01:
            return "each channel of theirs is ours plus an offset of its own"
    if a.ndim == 4 and min(a.shape[1:3]) > 4 and (where := _pixels(a, b)):
        return where
    if pixels >= 16 and left(a + (b - a).mean(axes)) < 0.5:
        return (
            "the error is spread over all pixels, and an offset in each channel for the most part"
        )
    return SPREAD


def _pixels(a: Array, b: Array) -> str:
    """Name a shift by one pixel, or the borders, if they hold nearly all of the error."""
    inside = np.s_[:, 2:-2, 2:-2]
    wrong, inner = np.square(b - a).sum(), np.square(b - a)[inside].sum()
    for dy, dx in product((-1, 0, 1), repeat=2):
        if np.square(b - np.roll(a, (dy, dx), (1, 2)))[inside].sum() < 0.05 * inner:
            return f"shifted by one pixel: theirs is ours, {dy} further down, {dx} to the right"
    if inner < 0.05 * wrong:
        return "the error is at the borders alone: look at the padding"
    return ""


def _channels(squares: Array, block: Block | None) -> str:
    """Name the channels that hold all of the error, if these are few; else nothing."""
    c = squares.shape[-1]
    energy = squares.reshape(-1, c).sum(axis=0)
    bad = np.flatnonzero(energy > 1e-4 * energy.max())
    if len(bad) > 0.8 * c:
        return ""
    text = f"the error is in {len(bad)} of {c} channels, {bad[0]} to {bad[-1]}"
    if block and c == block.expanded:
        sizes = split_channels(c, len(block.kernel_sizes))
        ends = np.cumsum(sizes)
        groups = {int(np.searchsorted(ends, channel, side="right")) for channel in bad}
        names = ", ".join(
            f"{block.kernel_sizes[g]}x{block.kernel_sizes[g]}" for g in sorted(groups)
        )
        text += f": the group of the {names} kernels"
    return text
