"""How long each layer takes, on the readable and on the fast path.

Other programs slow a run down and never speed it up. So of many runs the quickest of each layer
counts. Whether these are enough runs is tested: the even runs alone must say the same as the odd
runs alone. If they do not, even after a while, the machine is too busy, and there are no times.
"""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model

FEWEST_RUNS = 6  # of each path
PATIENCE = 4.0  # seconds after which no further run begins
AGREEMENT = 0.1  # share by which the times of even and odd runs may differ

Times = Mapping[str, float]  # layer -> seconds


class Timing(NamedTuple):
    """The quickest time of each layer, in seconds."""

    readable: Times
    fast: Times  # of the plan, whose steps join several layers
    runs: int  # of each path


def measure_times(model: Model, image: Array, patience: float = PATIENCE) -> Timing | None:
    """Return the times for one image (H, W, 3), or None if they cannot be measured now."""
    return enough(lambda: run_readable(model, image), lambda: run_fast(model, image), patience)


def enough(
    readable: Callable[[], Times], fast: Callable[[], Times], patience: float
) -> Timing | None:
    """Run both paths in turn until their times can be trusted; None if that takes too long."""
    start = perf_counter()
    slow_runs, fast_runs = [], []
    while True:
        slow_runs.append(readable())
        fast_runs.append(fast())
        if len(slow_runs) >= FEWEST_RUNS and agrees(slow_runs) and agrees(fast_runs):
            return Timing(quickest(slow_runs), quickest(fast_runs), len(slow_runs))
        if perf_counter() - start > patience and len(slow_runs) >= FEWEST_RUNS // 2:
            return None


def agrees(runs: Sequence[Times]) -> bool:
    """Whether the even and the odd runs give nearly the same time for the whole network."""
    even, odd = (sum(quickest(runs[i::2]).values()) for i in (0, 1))
    return abs(even - odd) <= AGREEMENT * min(even, odd)


def quickest(runs: Sequence[Times]) -> dict[str, float]:
    return {layer: min(run[layer] for run in runs) for layer in runs[0]}


def run_readable(model: Model, image: Array) -> Times:
    """Return the seconds of each layer in one run of `Model.layers`."""
    times: dict[str, float] = {}
    start = perf_counter()
    for layer, _ in model.layers(image[None]):
        times[layer] = perf_counter() - start
        start = perf_counter()
    return times


def run_fast(model: Model, image: Array) -> Times:
    """Return the seconds of each layer in one run of the plan; some layers take several steps."""
    times: dict[str, float] = {}
    for step, seconds in model.plan.profile(image):
        times[step.layer] = times.get(step.layer, 0) + seconds
    return times
