"""What a side of the comparison is: a function (weights, pixels, threads) -> Ready.

It prepares everything untimed, and converts the pixels to the framework's own layout there too.
"""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np


class Ready(NamedTuple):
    """A side that is prepared for one batch of pixels (N, H, W, 3) float32."""

    logits: Callable[[], np.ndarray]  # (N, classes); another side's may differ by a constant
    seconds: Callable[[], float]  # how long one run over the batch takes


def ready(run: Callable[[], np.ndarray]) -> Ready:
    """Return a side whose timed run is the one that gives its logits."""

    def seconds() -> float:
        start = perf_counter()
        run()
        return perf_counter() - start

    return Ready(run, seconds)
