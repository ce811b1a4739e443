"""Too few digits: weights that were rounded to a smaller format."""

from collections.abc import Callable

from tinymixnet.debug.rounding import (
    to_bfloat16,
    to_float16,
    to_int8,
    to_int8_by_channel,
)
from tinymixnet.debug.suspects.context import FILTERS, NORMS, POINTWISE, Suspect
from tinymixnet.engine.kernels import Array


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
