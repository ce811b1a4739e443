"""The two sides that must be paired: the tensors of a dump and the layers of the network."""

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
Names = dict[str, str]  # stored name -> canonical name; "" for a tensor that is no layer


class Candidates(NamedTuple):
    """The tensors of a dump and the layers that they may be, each side in its own order."""

    shapes: Mapping[str, Shape]  # by stored name
    expected: Mapping[str, Shape]  # by canonical name: (N, H, W, C) or (N, C)

    def fits(self, stored: str, name: str) -> bool:
        """Whether the shape of a stored tensor is one that the layer can have."""
        return bool(layouts_of(self.shapes[stored], self.expected[name]))


@lru_cache(1 << 16)
def layouts_of(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """Return the layouts in which a tensor of this shape can be the layer, or ().

    expected is (N, H, W, C) or (N, C). If N is 1 the batch axis may be missing, and a map of one
    pixel may be stored as a vector. Both layouts fit such a vector, and a map with H = W = C.
    """
    n, *spatial, c = expected
    vector = prod(spatial) == 1
    layouts = {
        "NHWC": [(n, *(spatial or (1, 1)), c)],
        "NCHW": [(n, c, *(spatial or (1, 1)))],
    }
    for shapes in layouts.values():
        if vector:
            shapes.append((n, c))
        if n == 1:
            shapes.extend([s[1:] for s in shapes])
    return tuple(layout for layout, shapes in layouts.items() if shape in shapes)


def as_nhwc(x: np.ndarray, layout: str, expected: Shape) -> np.ndarray:
    """Return a stored tensor as the layer that it is: (N, H, W, C) or (N, C)."""
    if layout == "NCHW" and len(expected) == 4:
        n, h, w, c = expected
        x = x.reshape(n, c, h, w).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x.reshape(expected))
