"""Swish on the fast path: two ways to the same numbers, and the choice between them.

swish(x) = x * sigmoid(x) can be computed from tanh or from exp. Which one is faster depends on the
processor. With AVX-512, NumPy's tanh is faster than its exp; with AVX2 alone, it is slower. So both
ways are here, and `fastest` measures them. A plan keeps the way that its weights
were folded for, and worker processes get it together with the weights.
"""

from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

ONE = np.ones((), np.float32)  # faster than a plain 1, which NumPy converts at every call
HALF = np.full((), 0.5, np.float32)
NUMBERS, ROUNDS = 4096, 5  # of the measurement, which takes about 0.2 ms


class Swish(NamedTuple):
    """A way to compute swish and sigmoid, and the factors that it needs in the weights around it.

    The layer before has its kernel and bias multiplied by `before`, so that it puts out x * before.
    The activation turns that into swish(x) * after. `after` is 1 or -1, so the layer that reads it
    multiplies its kernel by `after` once more, and is right again. So no factor costs any time.
    """

    before: float
    after: float
    activate: Callable[[Array, Array, Array], None]  # (x * before, scratch, out): swish(x) * after
    sigmoid: Callable[[Array, Array], None]  # (x * before, out): sigmoid(x)


def swish_of_half_to(half: Array, scratch: Array, out: Array) -> None:
    """Equals `swish` of x = 2 * half, because x * sigmoid(x) = half * (1 + tanh(half)).

    NumPy's tanh uses vector instructions, never overflows, and replaces an exp, a negation and a
    division.
    """
    np.tanh(half, out=scratch)
    np.add(scratch, ONE, out=scratch)
    np.multiply(half, scratch, out=out)


def sigmoid_of_half_to(half: Array, out: Array) -> None:
    """Equals `sigmoid` of x = 2 * half, which is (1 + tanh(half)) / 2."""
    np.tanh(half, out=out)
    np.add(out, ONE, out=out)
    np.multiply(out, HALF, out=out)


def negated_swish_to(negated: Array, scratch: Array, out: Array) -> None:
    """Equals -`swish` of x = -negated, because -x * sigmoid(x) = -x / (1 + exp(-x)).

    Where exp overflows, the quotient is 0, which is right. NumPy would warn: `Plan.run` tells it
    not to.
    """
    np.exp(negated, out=scratch)
    np.add(scratch, ONE, out=scratch)
    np.divide(negated, scratch, out=out)


def sigmoid_of_negated_to(negated: Array, out: Array) -> None:
    """Equals `sigmoid` of x = -negated, which is 1 / (1 + exp(-x))."""
    np.exp(negated, out=out)
    np.add(out, ONE, out=out)
    np.divide(ONE, out, out=out)


BY_TANH = Swish(0.5, 1, swish_of_half_to, sigmoid_of_half_to)
BY_EXP = Swish(-1, -1, negated_swish_to, sigmoid_of_negated_to)


@lru_cache(maxsize=1)
def fastest() -> Swish:
    """Return the faster way on this machine, by a short measurement at the first call.

    A measurement is right on every processor and with every NumPy. A list of processor features
    would have to say which NumPy has which function vectorised for which of them.
    """
    x = np.linspace(-8, 8, NUMBERS, dtype=np.float32)
    scratch, out = np.empty_like(x), np.empty_like(x)
    best: dict[Swish, float] = {}
    for _ in range(ROUNDS):  # in turns, and the least of each: another process may interrupt us
        for way in (BY_TANH, BY_EXP):
            start = perf_counter()
            way.activate(x, scratch, out)
            best[way] = min(best.get(way, np.inf), perf_counter() - start)
    return min(best, key=lambda way: best[way])
