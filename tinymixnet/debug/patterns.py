"""Describe in words what the difference between two tensors looks like."""

from itertools import product

import numpy as np

from tinymixnet.engine.architecture import Block
from tinymixnet.engine.kernels import Array, split_channels

SPREAD = "the error is spread over all pixels and channels, like noise"


def pattern(ours: Array, theirs: Array, block: Block | None) -> str:
    """Return words for an error that no suspect explains: where it is and what it looks like.

    ours and theirs: (N, H, W, C) or (N, C).
    """
    bad = int((~np.isfinite(theirs)).sum())
    if bad:
        return (
            f"{bad} of their {theirs.size} values are NaN or infinite: something before them "
            "overflows, or divides by zero"
        )
    if not np.isfinite(ours).all():
        return "with their input, ours has NaN or infinity and theirs has not"
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    wrong = float(np.square(b - a).sum())

    def remains(explained: Array) -> float:
        """Return which part of the error stays if `explained` is what theirs should be."""
        return float(np.square(b - explained).sum()) / wrong

    factor = float((a * b).sum() / (np.square(a).sum() or 1))
    if remains(a * factor) < 0.01:
        return f"a constant factor: theirs is ours times {factor:.4g}"
    offset = float((b - a).mean())
    if remains(a + offset) < 0.01:
        return f"a constant offset: theirs is ours plus {offset:.4g}"
    if where := _channels(np.square(b - a), block):
        return where
    axes = tuple(range(a.ndim - 1))
    pixels = a.size // a.shape[-1]
    if pixels >= 8:
        if remains(a * ((a * b).sum(axes) / np.maximum(np.square(a).sum(axes), 1e-30))) < 0.01:
            return "each channel of theirs is ours times a factor of its own"
        if remains(a + (b - a).mean(axes)) < 0.01:
            return "each channel of theirs is ours plus an offset of its own"
    if a.ndim == 4 and min(a.shape[1:3]) > 4 and (where := _pixels(a, b)):
        return where
    if pixels >= 16 and remains(a + (b - a).mean(axes)) < 0.5:
        return (
            "the error is spread over all pixels, and an offset in each channel for the most part"
        )
    return SPREAD


def _pixels(a: Array, b: Array) -> str:
    """Name a shift by one pixel, or the borders, if that is nearly all of the error; else ""."""
    inside = np.s_[:, 2:-2, 2:-2]
    wrong, inner = np.square(b - a).sum(), np.square(b - a)[inside].sum()
    for dy, dx in product((-1, 0, 1), repeat=2):
        if np.square(b - np.roll(a, (dy, dx), (1, 2)))[inside].sum() < 0.05 * inner:
            return f"shifted by one pixel: theirs is ours, {dy} further down, {dx} to the right"
    if inner < 0.05 * wrong:
        return "the error is at the borders alone: look at the padding"
    return ""


def _channels(squares: Array, block: Block | None) -> str:
    """Name the channels that hold all of the error, if they are few; else ""."""
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
