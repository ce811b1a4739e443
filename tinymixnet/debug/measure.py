"""How far two tensors are apart. An error is always relative to the values of *our* tensor."""

from collections.abc import Sequence
from math import inf, isfinite, log10, nan, sqrt
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

BLOCK = 1 << 14  # values at once: their float64 copies stay in the processor's cache
LISTED = 5  # names that a sentence lists before "and N more"


class Row(NamedTuple):
    """One layer of both sides, ours the reference. Positions are indices (N, H, W, C)."""

    layer: str
    shape: tuple[int, ...]
    error: float  # max |theirs - ours| / max |ours|; infinite where either is not finite
    snr: float  # signal-to-noise ratio in dB; infinite when equal
    cosine: float  # NaN where either is not finite
    nans: int  # this and the next two: counts in theirs
    infs: int
    zeros: int
    worst: tuple[int, ...]  # where the difference is largest
    channel: int  # with the largest RMS difference
    status: str  # "ok", "DIFFERENT", or "shape": theirs cannot be given our shape
    tolerance: float
    values: tuple[float, float] = (nan, nan)  # ours and theirs at `worst`
    added: float | None = None  # the error when ours is computed from their inputs
    found: tuple[int, ...] = ()  # the shape of theirs, where the status is "shape"

    @property
    def guilty(self) -> bool:
        """Whether the layer adds an error of its own (only `isolated` knows)."""
        return self.added is not None and self.added > self.tolerance


def measure(layer: str, ours: Array, theirs: Array, tolerance: float) -> Row:
    """Compare two tensors of one shape; sums are in float64, one block of values at a time."""
    channels = ours.shape[-1]
    a, b = ours.reshape(-1, channels), theirs.reshape(-1, channels)
    largest, worst, at = 0.0, -1.0, 0
    signal = power = product = 0.0
    noise = np.zeros(channels)
    nans = infs = zeros = 0
    step = max(1, BLOCK // channels)
    for start in range(0, len(a), step):
        x, y = (side[start : start + step].astype(np.float64) for side in (a, b))
        zeros += x.size - int(np.count_nonzero(y))
        difference = np.abs(y - x)
        here = int(difference.argmax())  # the first NaN, if there is any
        if not isfinite(difference.flat[here]):
            nans += int(np.isnan(y).sum())
            infs += int(np.isinf(y).sum())
            difference[~np.isfinite(difference)] = inf
            here = int(difference.argmax())
        if difference.flat[here] > worst:
            worst, at = float(difference.flat[here]), start * channels + here
        largest = max(largest, float(x.max()), -float(x.min()))
        signal += float(np.vdot(x, x))
        power += float(np.vdot(y, y))
        product += float(np.vdot(x, y))
        noise += np.einsum("ij,ij->j", difference, difference)
    finite = isfinite(worst)
    error = max(worst, 0) / (largest or 1) if finite else inf
    status = "ok" if error <= tolerance else "DIFFERENT"
    snr = _decibels(signal, float(noise.sum()))
    cosine = _cosine(product, signal, power) if finite else nan
    place = tuple(map(int, np.unravel_index(at, ours.shape)))
    values = float(a.flat[at]), float(b.flat[at])
    measures = error, snr, cosine, nans, infs, zeros, place, int(noise.argmax())
    return Row(layer, ours.shape, *measures, status, tolerance, values)


def _cosine(product: float, signal: float, power: float) -> float:
    if not signal or not power:
        return float(signal == power)
    return min(1.0, max(-1.0, product / (sqrt(signal) * sqrt(power))))


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return inf
    return 10 * (log10(signal) - log10(noise)) if 0 < signal < inf and noise < inf else -inf


# -- quick measures, for the many trials of a diagnosis -------------------------------------------


class Error(NamedTuple):
    """How far theirs is from ours, relative to ours."""

    max_error: float  # largest difference over largest value, as `Row.error`
    rms_error: float  # root mean square of the difference over that of the values


def error(ours: Array, theirs: Array) -> Error:
    """Both errors, in float32. Infinite if either tensor is not finite."""
    with np.errstate(all="ignore"):
        difference = np.abs(ours - theirs).ravel()
        largest = float(np.abs(ours).max(initial=0)) or 1.0
        max_error = float(difference.max(initial=0)) / largest
        power = float(np.dot(ours.ravel(), ours.ravel())) or largest**2
        rms_error = (float(np.dot(difference, difference)) / power) ** 0.5
    if not (np.isfinite(max_error) and np.isfinite(rms_error)):
        return Error(np.inf, np.inf)
    return Error(max_error, rms_error)


def averaged(ours: Array, theirs: Array) -> float:
    """The mean difference over our largest value. Rounding alone leaves almost nothing of it."""
    with np.errstate(all="ignore"):
        bias = float(np.mean(theirs - ours, dtype=np.float64)) / float(np.abs(ours).max() or 1)
    return abs(bias) if np.isfinite(bias) else np.inf


def cosine(a: Array, b: Array) -> float:
    """The cosine of the angle between two tensors: 1 where one is a multiple of the other."""
    with np.errstate(all="ignore"):
        a, b = a.ravel(), b.ravel()
        return float(np.dot(a, b)) / (float(np.dot(a, a) * np.dot(b, b)) ** 0.5 or 1.0)


# -- words -----------------------------------------------------------------------------------------


def format_shape(shape: Sequence[int]) -> str:
    """(1, 28, 28, 56) -> 1x28x28x56"""
    return "x".join(map(str, shape))


def join_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
