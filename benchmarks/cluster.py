"""How throughput grows with the workers of a Dask cluster: python -m benchmarks.cluster

Classifies photos with 1, 2, ... worker processes on this machine, in turns, once by a Dask cluster
and once by the package's own worker processes. Every worker has one thread. The time begins when
all workers have the weights. Beyond the cores of this machine the figures are calculated, and the
table says so: as if each further worker were as fast as one of the last measured ones.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

from benchmarks.measure import Spread, machine, markdown, spread, written
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.evaluate.cluster import map_on_cluster
from tinymixnet.fast.workers import map_in_processes, usable_cores
from tinymixnet.model import Classifier, Model, load

IMAGENET = 50_000  # photos of the validation set
CALCULATED = (8, 16, 64)  # workers
WARM = 8  # photos for each worker before the time begins
Map = Callable[[Any, Iterable[Any], int], Any]


def by_dask(classifier: Classifier, photos: Iterable[str], workers: int) -> Any:
    return map_on_cluster(classifier, photos, "local", workers)


def by_processes(classifier: Classifier, photos: Iterable[str], workers: int) -> Any:
    return map_in_processes(classifier, photos, workers)


def images_per_second(
    answers_of: Map, classifier: Classifier, photos: Sequence[str], workers: int
) -> float:
    """Return how many photos a second are answered once all workers are warm."""
    warm = WARM * workers
    repeated = (photos[i % len(photos)] for i in range(warm + len(photos)))
    with closing(answers_of(classifier, repeated, workers)) as answers:
        for _ in islice(answers, warm):
            pass
        start = time.perf_counter()
        count = sum(1 for _ in answers)
        return count / (time.perf_counter() - start)


def table(measured: Sequence[tuple[int, Spread, Spread]]) -> str:
    """Return the throughput by number of workers, measured and calculated."""
    rows = [
        [f"{workers}", written(dask, 1), written(own, 1), _minutes(dask.middle)]
        for workers, dask, own in measured
    ]
    most, dask, _ = measured[-1]
    for workers in CALCULATED:
        rate = dask.middle * workers / most
        rows.append([f"{workers}, calculated", f"{rate:.0f}", "", _minutes(rate)])
    header = ["workers", "Dask, images/s", "own processes, images/s", "50,000 photos, minutes"]
    return markdown(header, rows)


def _minutes(rate: float) -> str:
    minutes = IMAGENET / rate / 60
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def sized(model: Model, size: int | None) -> Model:
    """Return the model for another input size: the work is that of official weights at 224."""
    if size is None:
        return model
    return Model(model.architecture, model.tensors, replace(model.metadata, input_size=size))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description="throughput by number of Dask workers"
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="(the two that came along)")
    parser.add_argument("--weights", metavar="F", help="a .h5 file (the bundled weights)")
    parser.add_argument("--size", type=int, default=224, metavar="S", help="pixels a side (224)")
    parser.add_argument("--count", type=int, default=120, metavar="N", help="photos a run (120)")
    parser.add_argument("--rounds", type=int, default=3, metavar="R", help="runs of each (3)")
    options = parser.parse_args(arguments)
    model = sized(load(options.weights), options.size)
    classifier = model._classifier(5, None, model.plan)
    photos = options.photos or sorted(map(str, BUNDLED.parent.glob("*.jpg")))
    several = [photos[i % len(photos)] for i in range(options.count)]
    numbers = range(1, usable_cores() + 1)
    rates: dict[tuple[Map, int], list[float]] = {}
    for _ in range(options.rounds):
        for workers in numbers:
            for answers_of in (by_dask, by_processes):
                rate = images_per_second(answers_of, classifier, several, workers)
                rates.setdefault((answers_of, workers), []).append(rate)
    facts = {
        "figures": f"{options.size} pixels, {options.count} photos a run; medians of "
        f"{options.rounds} runs in turns, and in brackets the quartiles",
    }
    print(machine(usable_cores(), ["numpy", "distributed"], facts))
    measured = [(n, spread(rates[by_dask, n]), spread(rates[by_processes, n])) for n in numbers]
    print(f"\n{table(measured)}")


if __name__ == "__main__":
    main()
