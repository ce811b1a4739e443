"""tinymixnet's own sides: one process or a team, with BLAS threads, by `map`, the readable path."""

from contextlib import nullcontext
from time import perf_counter

import numpy as np

from benchmarks.side import Ready, ready
from tinymixnet.engine.weights import Weights
from tinymixnet.fast import plan
from tinymixnet.model import Model

LEAST = 1e-35  # a probability that float32 still has exactly
SETTLE = 12  # images until a team knows which of its ways is the faster one


def tinymixnet(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    """One process on one thread; on more of them a team of as many processes."""
    model = Model(*weights, cores=threads)
    if threads > 1:
        for _ in range(SETTLE):
            model(pixels[:1])
    return ready(lambda: model(pixels))


def tinymixnet_blas_threads(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    """One process, whose matrix products NumPy's BLAS shares among threads.

    `Plan.run` gives BLAS one thread, so this takes that away, in this process.
    """
    plan.one_blas_thread = nullcontext  # type: ignore[assignment]
    model = Model(*weights)
    return ready(lambda: model(pixels))


def tinymixnet_readable(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    model = Model(*weights)

    def run() -> np.ndarray:
        for name, tensor in model.layers(pixels):
            if name == "logits":
                logits = tensor
        return logits

    return ready(run)


def tinymixnet_map(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    """Photos through `Model.map` with one process for each thread; it also crops and names them.

    The clock starts when all processes are running: the other sides' start is not timed either.
    """
    model = Model(*weights)
    photos = list(pixels.astype(np.uint8))
    n, classes = len(photos), model.architecture.classes
    first = 4 * threads  # after so many answers every process is at work

    def logits() -> np.ndarray:
        probabilities = np.empty((n, classes))
        answers = model.map(photos, workers=threads, top=classes)
        for row, answer in zip(probabilities, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            for prediction in answer:
                row[prediction.index] = prediction.probability
        probabilities[probabilities < LEAST] = 0
        with np.errstate(divide="ignore"):
            return np.log(probabilities)

    def seconds() -> float:
        answers = model.map((photos[i % n] for i in range(first + n)), workers=threads)
        for _ in range(first):
            next(answers)
        start = perf_counter()
        count = sum(1 for _ in answers)
        seconds = perf_counter() - start
        assert count == n
        return seconds

    return Ready(logits, seconds)
