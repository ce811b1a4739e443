"""Measure how far two tensors are apart, and put shapes and names into words.

`compare` and `diagnose` report the same error: the largest difference, divided by the largest value
of *our* tensor.
"""

from collections.abc import Sequence
from math import inf, isfinite, log10, nan, sqrt
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

BLOCK = 1 << 14  # values measured at once, so that their float64 copies fit in the CPU's cache
LISTED = 5  # names that a sentence lists before it says "and N more"


class Row(NamedTuple):
    """One layer of theirs, measured against ours. Positions are indices (N, H, W, C)."""

    layer: str
    shape: tuple[int, ...]
    error: float  # max |theirs - ours| / max |ours|; infinite if either tensor is not finite
    snr: float  # signal-to-noise ratio in dB; infinite if the tensors are equal
    cosine: float  # of the angle between the tensors; NaN if either is not finite
    nans: int  # how many NaN theirs has
    infs: int  # how many infinite values theirs has
    zeros: int  # how many zeros theirs has
    worst: tuple[int, ...]  # where the difference is largest
    channel: int  # the one with the largest RMS difference
    status: str  # "ok", "DIFFERENT", "shape" if theirs does not have our shape, or see below
    tolerance: float  # the largest error that is "ok"
    values: tuple[float, float] = (nan, nan)  # ours and theirs at `worst`
    added: float | None = None  # the error if our layer is computed from their inputs
    found: tuple[int, ...] = ()  # the shape of theirs if the status is "shape"
    # Only `judged` knows these. Then a layer that is not "ok" is "coarse" if rounding explains the
    # error that it adds, and "BEYOND" if not.
    rounding: float | None = None  # the error that rounding makes in this layer, from their input
    explained: float | None = None  # its share in the error that theirs adds, 0 to 1

    @property
    def guilty(self) -> bool:
        """Whether the layer adds an error of its own. Only `isolated` knows."""
        return self.added is not None and self.added > self.tolerance


def measure(layer: str, ours: Array, theirs: Array, tolerance: float) -> Row:
    """Return the row of a layer: two tensors of one shape (..., C), compared in float64.

    Works on one block of values at a time, so a large layer needs no large copies.
    """
    channels = ours.shape[-1]
    a, b = ours.reshape(-1, channels), theirs.reshape(-1, channels)
    largest, worst, worst_index = 0.0, -1.0, 0
    signal = power = product = 0.0
    noise = np.zeros(channels)
    nans = infs = zeros = 0
    step = max(1, BLOCK // channels)
    for start in range(0, len(a), step):
        x, y = (side[start : start + step].astype(np.float64) for side in (a, b))
        zeros += x.size - int(np.count_nonzero(y))
        difference = np.abs(y - x)
        here = int(difference.argmax())  # the first NaN, if there is one
        if not isfinite(difference.flat[here]):
            nans += int(np.isnan(y).sum())
            infs += int(np.isinf(y).sum())
            difference[~np.isfinite(difference)] = inf
            here = int(difference.argmax())
        if difference.flat[here] > worst:
            worst, worst_index = float(difference.flat[here]), start * channels + here
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
    place = tuple(map(int, np.unravel_index(worst_index, ours.shape)))
    values = float(a.flat[worst_index]), float(b.flat[worst_index])
    measures = error, snr, cosine, nans, infs, zeros, place, int(noise.argmax())
    return Row(layer, ours.shape, *measures, status, tolerance, values)


def _cosine(product: float, signal: float, power: float) -> float:
    if not signal or not power:
        return float(signal == power)
    if not (isfinite(signal) and isfinite(power)):  # a sum of squares beyond float64
        return nan
    return min(1.0, max(-1.0, product / (sqrt(signal) * sqrt(power))))


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return inf
    return 10 * (log10(signal) - log10(noise)) if 0 < signal < inf and noise < inf else -inf


# -- quick measures, for the many trials of a diagnosis -------------------------------------------


class Error(NamedTuple):
    """How far a tensor is from a reference, relative to the reference."""

    max_error: float  # largest difference / largest value, the same as `Row.error`
    rms_error: float  # root mean square of the differences / root mean square of the values


def error(reference: Array, other: Array) -> Error:
    """Return both errors, computed in float32; infinite if either tensor is not finite."""
    with np.errstate(all="ignore"):
        difference = np.abs(reference - other).ravel()
        largest = float(np.abs(reference).max(initial=0)) or 1.0
        max_error = float(difference.max(initial=0)) / largest
        power = float(np.dot(reference.ravel(), reference.ravel())) or largest**2
        rms_error = (float(np.dot(difference, difference)) / power) ** 0.5
    if not (isfinite(max_error) and isfinite(rms_error)):
        return Error(inf, inf)
    return Error(max_error, rms_error)


def mean_error(ours: Array, theirs: Array) -> float:
    """Return |mean of the differences| / our largest value: almost 0 for rounding errors."""
    with np.errstate(all="ignore"):
        bias = float(np.mean(theirs - ours, dtype=np.float64)) / float(np.abs(ours).max() or 1)
    return abs(bias) if isfinite(bias) else inf


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of the angle between two tensors: 1 if one is a multiple of the other."""
    with np.errstate(all="ignore"):
        a, b = a.ravel(), b.ravel()
        return float(np.dot(a, b)) / (float(np.dot(a, a) * np.dot(b, b)) ** 0.5 or 1.0)


# -- words -----------------------------------------------------------------------------------------


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape as text: (1, 28, 28, 56) -> 1x28x28x56."""
    return "x".join(map(str, shape))


def join_names(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def largest_size(x: Array) -> float:
    """Return the largest absolute value, without a copy of all of them."""
    return max(float(x.max(initial=0)), -float(x.min(initial=0)))
