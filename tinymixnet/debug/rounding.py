"""Round tensors to formats with fewer digits than float32: float16, bfloat16, 8-bit integers."""

from math import inf
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

LEVELS = 255  # steps from the lowest to the highest value of an 8-bit tensor


class Scale(NamedTuple):
    """How a tensor of 8-bit integers is read: (integer - zero_point) * scale."""

    scale: float
    zero_point: float = 0
    lowest: float = -inf  # integer of the type
    highest: float = inf


def to_bfloat16(x: Array) -> Array:
    """Round to the nearest number with 8 significant bits, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def to_float16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_int8(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Round to whole multiples of a step, -127 to 127 of them; the largest value is 127 steps."""
    step = np.abs(x).max(axes, keepdims=True) / np.float32(127)
    return np.round(x / np.where(step > 0, step, 1)) * step


def to_int8_by_channel(x: Array) -> Array:
    """Round as `to_int8`, with a step of its own for each output channel."""
    if x.ndim == 1:
        return to_int8(x)
    axes = (0, 1) if x.ndim == 4 and x.shape[-1] == 1 else tuple(range(x.ndim - 1))
    return to_int8(x, axes)


def to_steps(x: Array, scale: Scale) -> Array:
    """Round to what 8-bit integers with this scale stand for."""
    q = np.round(x / np.float32(scale.scale)) + np.float32(scale.zero_point)
    q = q.clip(scale.lowest, scale.highest) - np.float32(scale.zero_point)
    return (q * np.float32(scale.scale)).astype(np.float32)


def step_of(x: Array) -> float | None:
    """Return the step between the values of a tensor, if they are multiples of one; else None."""
    values = np.unique(x.ravel()[:100_000])
    if not 2 < values.size <= LEVELS + 1 or x.size < 2 * values.size:
        return None
    step = float(np.diff(values).min())
    places = values / step
    return step if step > 0 and np.abs(places - np.round(places)).max() < 0.02 else None
