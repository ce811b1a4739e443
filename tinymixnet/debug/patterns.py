"""Describe in words what the difference between two tensors looks like."""

from itertools import product

import numpy as np

from tinymixnet.debug.measure import largest_size
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
    a, b, size = _of_usual_size(ours, theirs)
    wrong = _power(b - a)

    def remains(explained: Array) -> float:
        """Return which part of the error stays if `explained` is what theirs should be."""
        return _power(np.subtract(b, explained, out=explained)) / wrong

    factor = float(np.vdot(a, b) / (_power(a) or 1))
    if remains(a * np.float32(factor)) < 0.01:
        return f"a constant factor: theirs is ours times {factor:.4g}"
    offset = float((b - a).mean())
    if remains(a + np.float32(offset)) < 0.01:
        return f"a constant offset: theirs is ours plus {offset * size:.4g}"
    if where := _channels(b - a, block):
        return where
    axes = tuple(range(a.ndim - 1))
    pixels = a.size // a.shape[-1]
    if pixels >= 8:
        products, powers = _by_channel(a, b), _by_channel(a, a)
        if remains(a * (products / np.maximum(powers, 1e-30))) < 0.01:
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


def _of_usual_size(ours: Array, theirs: Array) -> tuple[Array, Array, float]:
    """Return both divided by the third value, so that no square leaves the range of float32.

    A large layer in float64 would take too much memory. Mostly, nothing has to be divided.
    """
    top = max(largest_size(ours), largest_size(theirs))
    size = 1.0 if 1e-9 < top < 1e9 or not top else top
    a, b = (x.astype(np.float32, copy=False) for x in (ours, theirs))
    return (a, b, 1.0) if size == 1.0 else (a / np.float32(size), b / np.float32(size), size)


def _power(x: Array) -> float:
    return float(np.vdot(x, x))


def _by_channel(a: Array, b: Array) -> Array:
    """Return the sum of a * b over all pixels: (..., C) -> (C,)."""
    c = a.shape[-1]
    return np.einsum("pc,pc->c", a.reshape(-1, c), b.reshape(-1, c))


def _pixels(a: Array, b: Array) -> str:
    """Name a shift by one pixel, or the borders, if that is nearly all of the error; else ""."""
    inside = np.s_[:, 2:-2, 2:-2]
    wrong, inner = _power(b - a), _power((b - a)[inside])
    for dy, dx in product((-1, 0, 1), repeat=2):
        moved = np.roll(a, (dy, dx), (1, 2))
        if _power(np.subtract(b, moved, out=moved)[inside]) < 0.05 * inner:
            return f"shifted by one pixel: theirs is ours, {dy} further down, {dx} to the right"
    if inner < 0.05 * wrong:
        return "the error is at the borders alone: look at the padding"
    return ""


def _channels(difference: Array, block: Block | None) -> str:
    """Name the channels that hold all of the error, if they are few; else ""."""
    c = difference.shape[-1]
    energy = _by_channel(difference, difference)
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
