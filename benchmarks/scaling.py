"""How time grows with the input: python -m benchmarks.scaling

Times inputs of 128 to 512 pixels and batches of 1 to 32 images on one thread, and fits a fixed cost
plus a cost for each multiply-add. Then it says between which sizes time is proportional to work,
and which layers cost more than that at the other sizes.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.layers import Step, by_kind
from benchmarks.measure import (
    BenchmarkError,
    Job,
    Server,
    cache_sizes,
    chosen_kernels,
    in_turns,
    machine,
    markdown,
    spread,
    written,
)
from benchmarks.weights import write_made_up_weights
from tinymixnet.engine.architecture import Architecture, mixnet

NEAR = 0.10  # share by which a multiply-add may cost more than the cheapest: still proportional


class Plan(NamedTuple):
    """How much to measure."""

    variant: str = "mixnet-l"
    sizes: tuple[int, ...] = (128, 160, 192, 224, 256, 320, 384, 448, 512)
    size: int = 224  # of the images in the batches
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    rounds: int = 9
    calls: int = 5


QUICK = Plan("mixnet-s", (32, 64, 96), 64, (1, 2, 3), rounds=2, calls=1)


# -- proportion -----------------------------------------------------------------------------------


def fit(work: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the fixed seconds and those for each unit of work, with the least relative error."""
    rows = np.stack([np.ones(len(work)), np.array(work)], axis=1) / np.array(seconds)[:, None]
    fixed, each = np.linalg.lstsq(rows, np.ones(len(work)), rcond=None)[0]
    return float(fixed), float(each)


def proportional(work: Sequence[float], seconds: Sequence[float]) -> tuple[int, int, int]:
    """Return where a unit of work is cheapest, and the first and last place of the range around it
    in which a unit costs nearly as little.
    """
    unit = np.divide(seconds, work)
    near = unit <= unit.min() * (1 + NEAR)
    best = int(unit.argmin())
    first = last = best
    while first > 0 and near[first - 1]:
        first -= 1
    while last + 1 < len(unit) and near[last + 1]:
        last += 1
    return best, first, last


def excess(kinds: Mapping[str, float], best: Mapping[str, float], times: float) -> dict[str, float]:
    """Return how many seconds each kind of layer takes beyond `times` those at the best size."""
    over = {kind: seconds - times * best[kind] for kind, seconds in kinds.items()}
    return dict(sorted(over.items(), key=lambda item: -item[1]))


def largest_activation(architecture: Architecture, size: int) -> float:
    """Return the MiB of the network's largest tensor, for one image."""
    shapes = architecture.layer_shapes(size, size).values()
    return max(int(np.prod(shape)) for shape in shapes) * 4 / 2**20


# -- tables and sentences -------------------------------------------------------------------------


def size_table(
    architecture: Architecture, sizes: Sequence[int], times: Sequence[Sequence[float]]
) -> str:
    """Return a table of input sizes: measured and fitted time, work, and cost of a unit of it."""
    middles = [spread(seconds).middle for seconds in times]
    work = [architecture.multiply_adds(size, size) for size in sizes]
    fixed, each = fit(work, middles)
    rows = [
        [
            str(size),
            written(spread([1e3 * s for s in seconds]), 1),
            f"{1e3 * (fixed + each * w):.1f}",
            f"{w / 1e6:.0f}",
            f"{1e12 * middle / w:.1f}",
            f"{largest_activation(architecture, size):.1f}",
        ]
        for size, seconds, middle, w in zip(sizes, times, middles, work, strict=True)
    ]
    header = ["px", "ms", "fitted", "M multiply-adds", "ps for each", "largest activation, MiB"]
    return markdown(header, rows)


def batch_table(batches: Sequence[int], times: Sequence[Sequence[float]]) -> str:
    """Return a table of batch sizes: measured and fitted time, and the time of one image."""
    fixed, each = fit(batches, [spread(seconds).middle for seconds in times])
    rows = [
        [
            str(batch),
            written(spread([1e3 * s for s in seconds]), 1),
            f"{1e3 * (fixed + each * batch):.1f}",
            f"{1e3 * spread(seconds).middle / batch:.1f}",
        ]
        for batch, seconds in zip(batches, times, strict=True)
    ]
    return markdown(["batch", "ms", "fitted", "ms an image"], rows)


def verdict(what: str, values: Sequence[int], work: Sequence[float], times: Sequence[float]) -> str:
    """Say where time is proportional to work, what the fixed cost is, and how far off the ends are.

    what: how to write a value, e.g. "{} px".
    """
    fixed, each = fit(work, times)
    best, first, last = proportional(work, times)
    unit = np.divide(times, work)
    names = [what.format(value) for value in values]
    near = names[first] if first == last else f"{names[first]} to {names[last]}"
    sentences = [
        f"The fit: {1e3 * fixed:.1f} ms, and in proportion to work "
        f"{1e3 * each * work[best]:.1f} ms at {names[best]}, where work is cheapest.",
        f"Time is proportional to work (within {100 * NEAR:.0f} % of the cheapest): {near}.",
    ]
    for end, outside in ((0, first > 0), (-1, last < len(values) - 1)):
        if outside:
            more = 100 * (unit[end] / unit[best] - 1)
            sentences.append(f"At {names[end]} the same work costs {more:.0f} % more.")
    return " ".join(sentences)


def reasons(
    architecture: Architecture,
    sizes: Sequence[int],
    times: Sequence[float],
    kinds: Mapping[int, Mapping[str, float]],
) -> str:
    """Say which layers cost more than in proportion, at the smallest size and at the largest."""
    work = [architecture.multiply_adds(size, size) for size in sizes]
    best = sizes[proportional(work, times)[0]]
    weights = sum(np.prod(shape) for shape in architecture.tensor_shapes().values()) * 4 / 2**20
    lines = []
    for size in sorted({sizes[0], sizes[-1]} - {best}):
        scale = architecture.multiply_adds(size, size) / architecture.multiply_adds(best, best)
        over = excess(kinds[size], kinds[best], scale)
        parts = ", ".join(f"{kind} {1e3 * seconds:+.2f}" for kind, seconds in over.items())
        lines.append(
            f"- {size} px against {best} px, ms beyond proportion by kind of layer: {parts}; "
            f"all {1e3 * sum(over.values()):+.2f}. Largest activation "
            f"{largest_activation(architecture, size):.1f} MiB against "
            f"{largest_activation(architecture, best):.1f}."
        )
    lines.append(f"- Weights read for an image of any size: {weights:.1f} MiB; {cache_sizes()}.")
    return "\n".join(lines)


# -- the command ----------------------------------------------------------------------------------


def measured(server: Server, jobs: Sequence[Job], plan: Plan) -> list[list[float]]:
    """Return the seconds of each round for each job."""
    for job in jobs:
        server.ask("prepare", size=job.size, batch=job.batch)
    return [timing.seconds for timing in in_turns(jobs, plan.rounds, plan.calls)]


def report(server: Server, plan: Plan) -> None:
    architecture = mixnet(plan.variant)
    times = measured(server, [Job(server, size, 1) for size in plan.sizes], plan)
    middles = [spread(seconds).middle for seconds in times]
    work = [architecture.multiply_adds(size, size) for size in plan.sizes]
    kinds = {}
    for size in plan.sizes:
        answer = server.ask("layers", size=size, rounds=plan.rounds, readable=False)
        kinds[size] = by_kind(Step(*step) for step in answer["steps"])
    print(f"\n{size_table(architecture, plan.sizes, times)}\n")
    print(verdict("{} px", plan.sizes, work, middles))
    print(reasons(architecture, plan.sizes, middles, kinds), flush=True)

    times = measured(server, [Job(server, plan.size, batch) for batch in plan.batches], plan)
    middles = [spread(seconds).middle for seconds in times]
    print(f"\n{batch_table(plan.batches, times)}\n")
    print(verdict("batch {}", plan.batches, plan.batches, middles))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="how time grows with the input"
    )
    parser.add_argument("--quick", action="store_true", help="a small network, to try the command")
    plan = QUICK if parser.parse_args(arguments).quick else Plan()
    facts = {
        "NumPy's BLAS kernels": chosen_kernels(as_set=False),
        "figures": f"{plan.variant} on one thread, medians of {plan.rounds} rounds in turns, "
        "and in brackets the quartiles",
    }
    print(machine(1, ["numpy"], facts))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.h5"
        write_made_up_weights(weights, mixnet(plan.variant), plan.size)
        try:
            with Server("benchmarks.peers:tinymixnet", 1, weights) as server:
                report(server, plan)
        except BenchmarkError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
