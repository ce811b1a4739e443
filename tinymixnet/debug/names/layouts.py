"""The orders in which a port may store a layer, and how to bring each of them into ours.

A layout is an order of the values in memory. Its name is the order of the axes: batch N, rows H,
columns W, channels C. `NC4HW4`, `nChw8c`, ... cut the channels into blocks of 4, 8, ...: first all
channels of the first block, pixel by pixel, then those of the next one. This is how MNN, oneDNN and
ONNX Runtime feed the wide registers of a processor.

The shape says little about it. Axes may be merged (a flat list of values, or N, C, H*W), an axis of
one may be missing, and channels may be padded with zeros to a multiple of a power of two.
"""

from functools import lru_cache
from math import prod

import numpy as np

from tinymixnet.engine.kernels import Array

Shape = tuple[int, ...]

# layout -> channels in a block
BLOCKED = {"NC4HW4": 4, "nChw8c": 8, "nChw16c": 16, "nChw32c": 32}
BATCH_LAST = ("HWCN", "CHWN", "HWNC")
LAYOUTS = ("NHWC", "NCHW", *BATCH_LAST, *BLOCKED)
_MERGED = ("NHWC", "NCHW", *BLOCKED)  # those that are looked for in merged or padded axes
# Channels are padded to a multiple of one of these: what processors read at once.
MULTIPLES = (4, 8, 16, 32, 64, 128)


@lru_cache(1 << 16)
def layouts_of(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """Return the layouts in which a tensor of this shape can be the layer, the likeliest first.

    expected is (N, H, W, C) or (N, C). The shape has the layer's own axes, or else merged ones, or
    else padded channels: only the first of these that fits counts. If N is 1 the batch axis may be
    missing. () if nothing fits.

    A shape (N, C, H, W) may hide a blocked layout, because ONNX Runtime names blocked tensors so.
    That stands last: only the values tell.

    >>> layouts_of((1, 32, 9, 9), (1, 9, 9, 32))
    ('NCHW', 'NC4HW4', 'nChw8c', 'nChw16c')
    >>> layouts_of((4, 81), (1, 9, 9, 4))
    ('NCHW',)
    """
    n, h, w, c = _four(expected)
    if exact := _exact(shape, expected):
        return exact + (_hidden(n, h, w, c, c) if "NCHW" in exact and len(shape) == 4 else ())
    size = prod(shape)
    if not size or size > n * h * w * (c + max(MULTIPLES)):
        return ()
    wide = next((wide for wide in (c, *_padded(c)) if size == n * h * w * wide), 0)
    fits = [name for name in _MERGED if _merges(shape, _axes(name, n, h, w, wide))]
    if "NHWC" in fits:  # blocks of a single pixel, or a single block, are the same in memory
        same = [name for name, block in BLOCKED.items() if h * w == 1 or wide <= block]
        fits = [name for name in fits if name not in same]
    if fits[:1] == ["NCHW"] and len(shape) == 4:
        return ("NCHW", *_hidden(n, h, w, c, wide))
    return tuple(fits)


def as_nhwc(x: Array, layout: str, expected: Shape) -> Array:
    """Return a tensor that is stored in a layout, one of `layouts_of`, in our order and shape.

    expected is (N, H, W, C) or (N, C), and so is the result: contiguous, without padded channels.
    """
    every = _with_padding(x, layout, expected)
    return np.ascontiguousarray(every[..., : expected[-1]].reshape(expected))


def zero_padded(x: Array, layout: str, expected: Shape) -> bool:
    """Return whether all channels beyond the layer's own are zeros; True if there are none.

    Other values show that it is another tensor, and not a padded one.
    """
    return (
        x.size == prod(expected)
        or not _with_padding(x, layout, expected)[..., expected[-1] :].any()
    )


def _with_padding(x: Array, layout: str, expected: Shape) -> Array:
    """Return (N, H, W, padded C)."""
    n, h, w, c = _four(expected)
    wide = x.size // (n * h * w) if n * h * w else c
    stored = x.reshape(_axes(layout, n, h, w, wide))
    if layout in BLOCKED:
        stored = stored.transpose(0, 2, 3, 1, 4)
        return stored.reshape(n, h, w, -1)
    return stored.transpose([layout.index(axis) for axis in "NHWC"])


def _four(expected: Shape) -> tuple[int, int, int, int]:
    n, *spatial, c = expected
    h, w = spatial or (1, 1)
    return n, h, w, c


def _axes(layout: str, n: int, h: int, w: int, c: int) -> Shape:
    """Return the axes of a layout, those of a blocked one with the block as the last."""
    if layout in BLOCKED:
        block = BLOCKED[layout]
        return (n, -(-c // block), h, w, block)
    sizes = {"N": n, "H": h, "W": w, "C": c}
    return tuple(sizes[axis] for axis in layout)


def _exact(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """Return the layouts whose own axes these are; the batch axis may be missing if it is one."""
    n, h, w, c = _four(expected)
    found = []
    for layout in ("NHWC", "NCHW", *BATCH_LAST):
        shapes = [_axes(layout, n, h, w, c)]
        if h * w == 1:  # a map of one pixel may be stored as a vector
            shapes.append((c, n) if layout in ("HWCN", "CHWN") else (n, c))
        if n == 1 and layout not in BATCH_LAST:
            shapes.extend([s[1:] for s in shapes])
        if shape in shapes and (n > 1 or layout not in BATCH_LAST):  # the same in memory for one
            found.append(layout)
    return tuple(found)


def _hidden(n: int, h: int, w: int, c: int, wide: int) -> tuple[str, ...]:
    """Return the blocked layouts that a shape (N, padded C, H, W) may hide.

    Not those of a single whole block: that is NHWC under a wrong shape, a mistake of its own.
    """
    return tuple(
        name
        for name, block in BLOCKED.items()
        if h * w > 1 and wide == -(-c // block) * block and (wide > block or wide > c)
    )


def _padded(c: int) -> list[int]:
    return sorted({-(-c // multiple) * multiple for multiple in MULTIPLES} - {c})


def _merges(shape: Shape, axes: Shape) -> bool:
    """Whether a shape is these axes, some of them merged with the next; axes of 1 do not count."""
    rest = [size for size in axes if size != 1]
    for size in shape:
        merged = 1
        while merged < size and rest:
            merged *= rest.pop(0)
        if merged != size:
            return False
    return not rest
