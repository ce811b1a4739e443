"""bfloat16, which NumPy lacks: the upper half of a float32, read as bits and widened."""

import numpy as np

BITS = np.dtype("<u2")  # reads the values of a file


def widen(bits: np.ndarray) -> np.ndarray:
    """Return the numbers of an array of `BITS` as float32, which is exact."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
