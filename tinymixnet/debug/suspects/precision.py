"""Too few digits: weights that were rounded to a smaller format."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import FILTERS, NORMS, POINTWISE, Suspect
from tinymixnet.engine.kernels import Array


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


def rounded(change: Callable[[Array], Array], which: str) -> Callable[[str, Array], Array]:
    return lambda name, tensor: change(tensor) if which in name else tensor


PRECISION = [
    Suspect("low-precision", kinds, f"{what} are rounded to {name}", weights=rounded(change, which))
    for name, change in {
        "float16": to_float16,
        "bfloat16": to_bfloat16,
        "8-bit integers, one scale a kernel": to_int8,
        "8-bit integers, one scale a channel": to_int8_by_channel,
    }.items()
    for what, kinds, which in (
        ("the kernels", f"{FILTERS} {POINTWISE}", "/kernel"),
        ("all weights", f"{FILTERS} {POINTWISE} {NORMS}", ""),
    )
]
