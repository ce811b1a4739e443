"""Large matrix products, cut into tiles where that is faster."""

from functools import lru_cache
from time import perf_counter

import numpy as np

from tinymixnet.engine.kernels import Array
from tinymixnet.fast.memory import LINE, aligned

SMALL_PRODUCT = 1_000_000  # multiplications, see `tiles`
SMALLEST_TILE = 224  # pixels
FEWEST_ROWS, MOST_CHANNELS = 6, 300  # of a tile of rows: beyond them, it does not pay
CLEARLY = 0.9  # tiles have to take less than this share of the time
ROUNDS = 5


def tiles(kernel: Array, x: Array, out: Array) -> tuple[Array, Array, Array]:
    """Return kernel (O, C), x (C, P) and out (O, P) for `np.matmul(kernel, x, out=out)`, in tiles.

    They are views. Where tiles pay, they are tiles of pixels, x (T, C, P / T) and out
    (T, O, P / T), or else of rows, kernel (T, O / T, C) and out (T, O / T, P).

    OpenBLAS copies both factors of a product into an order of its own, and adds to a result that it
    has cleared before. For AVX-512 it has kernels without all that, for up to SMALL_PRODUCT
    multiplications. Products of few channels and many pixels gain most. Its other kernels lose a
    little by tiles.
    """
    (rows, channels), pixels = kernel.shape, x.shape[1]
    if kernel.size * pixels <= SMALL_PRODUCT or not tiles_pay():
        return kernel, x, out
    most = SMALL_PRODUCT // kernel.size // LINE * LINE
    for size in range(most, SMALLEST_TILE - 1, -LINE):
        if pixels % size == 0:
            return kernel, *cut(x, out, size)
    most = min(SMALL_PRODUCT // (channels * pixels), rows // 2)
    if channels <= MOST_CHANNELS:
        for size in range(most, FEWEST_ROWS - 1, -1):
            if rows % size == 0:
                return kernel.reshape(-1, size, channels), x, out.reshape(-1, size, pixels)
    return kernel, x, out


def cut(x: Array, out: Array, size: int) -> tuple[Array, Array]:
    """Return views of x (C, P) and out (O, P): (P / size, C, size) and (P / size, O, size)."""
    parts = x.shape[1] // size
    x, out = x.reshape(len(x), parts, size), out.reshape(len(out), parts, size)
    return x.transpose(1, 0, 2), out.transpose(1, 0, 2)


@lru_cache(maxsize=1)
def tiles_pay() -> bool:
    """Tell whether tiles are faster here, by a measurement of under a millisecond."""
    kernel, x, out = (aligned(n * m).reshape(n, m) for n, m in ((32, 16), (16, 4480), (32, 4480)))
    ways = {size: cut(x, out, size) for size in (448, 4480)}
    best = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):  # in turns, and the least of each: another process may interrupt us
        for size, (pixels, place) in ways.items():
            start = perf_counter()
            np.matmul(kernel, pixels, out=place)
            best[size] = min(best[size], perf_counter() - start)
    return best[448] < CLEARLY * best[4480]
