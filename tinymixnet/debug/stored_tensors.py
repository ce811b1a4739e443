"""The tensors of a dump in every form in which they can be a layer, and a sample of each.

A sample is all channels of a few pixels. Samples stay in memory, whole tensors do not: a layer is
compared with every tensor that fits it, and a dump may be much larger than the memory.
"""

from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.names.layouts import Shape, as_nhwc, layouts_of, zero_padded
from tinymixnet.debug.traces import Trace
from tinymixnet.engine.kernels import Array

MARKS = 2048  # values of a sample that are compared
UNRELATED = 1.4  # distance of tensors that have nothing to do with each other
PIXELS = 12  # of a map that are in its sample
CACHE = 24 << 20  # bytes of whole tensors that stay in memory


class View(NamedTuple):
    """A stored tensor, read in one of the layouts in which it fits a layer."""

    number: int  # its place in the dump
    name: str
    layout: str
    shape: Shape  # (N, H, W, C) or (N, C)
    layouts: tuple[str, ...]  # all layouts in which it fits, the likeliest first


class Kept:
    """Whole tensors that stay in memory: the last ones that were asked for."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Array] = {}

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the tensor of this key; make it if it is not there."""
        x = self._tensors.pop(key, None)
        if x is None:
            x = make()
        self._tensors[key] = x
        size = sum(kept.nbytes for kept in self._tensors.values())
        while size > CACHE and len(self._tensors) > 1:
            size -= self._tensors.pop(next(iter(self._tensors))).nbytes
        return x


class StoredTensors:
    """Reads the tensors of a dump as layers: NHWC, float32."""

    def __init__(
        self,
        trace: Trace,
        shapes: Iterable[Shape],
        turned: Callable[[Array], Array | None] | None = None,
    ) -> None:
        """shapes: those that layers of ours have. Reads every tensor once, for its samples.

        turned: corrects maps whose values are in another order than their shapes say.
        """
        self.trace = trace
        self._turned = turned
        self.kept = Kept()
        self.views: dict[Shape, list[View]] = {shape: [] for shape in shapes}
        found: dict[Shape, list[Array]] = {shape: [] for shape in self.views}
        for number, name in enumerate(trace.names):
            stored = None
            for shape in self.views:
                layouts = layouts_of(trace.header(name).shape, shape)
                for layout in layouts[: len(layouts) if is_map(shape) else 1]:
                    stored = trace[name] if stored is None else stored
                    if not zero_padded(stored, layout, shape):
                        continue
                    view = View(number, name, layout, shape, layouts)
                    self.views[shape].append(view)
                    found[shape].append(sample(self._layer(stored, view)).ravel())
        self._samples = {shape: np.array(rows) for shape, rows in found.items() if rows}
        self._marks = {shape: Marks(rows) for shape, rows in self._samples.items()}
        self._rows = {view: i for views in self.views.values() for i, view in enumerate(views)}

    def distances(self, shape: Shape, sample: Array) -> Array:
        """Return how far each view of this shape is from a sample of ours, see `Marks`."""
        if shape not in self._marks:
            return np.zeros(0)
        return self._marks[shape].distances(sample)

    def sample(self, view: View) -> Array:
        """Return the sample of a view, shaped as pixels: (N, 1, P, C), or (N, C)."""
        row = self._samples[view.shape][self._rows[view]]
        return row.reshape(sample_shape(view.shape))

    def _layer(self, stored: Array, view: View) -> Array:
        x = as_layer(stored, view.layout, view.shape)
        turned = self._turned(x) if self._turned and is_map(view.shape) else None
        return x if turned is None else np.ascontiguousarray(turned)

    def __getitem__(self, view: View) -> Array:
        return self.kept.get(view, lambda: self._layer(self.trace[view.name], view))


def is_map(shape: Shape) -> bool:
    """Whether a layer has several pixels."""
    return len(shape) == 4 and shape[1] * shape[2] > 1


def as_layer(stored: Array, layout: str, shape: Shape) -> Array:
    """Return a stored tensor as NHWC, float32."""
    with np.errstate(all="ignore"):  # float64 beyond float32 becomes infinite
        x = stored.astype(np.float32, copy=False)
    return as_nhwc(x, layout, shape)


def sample(x: Array) -> Array:
    """Return some pixels of a map: (N, H, W, C) -> (N, 1, P, C). A vector stays as it is."""
    if not is_map(x.shape):
        return x
    n, h, w, c = x.shape
    return x.reshape(n, 1, h * w, c)[:, :, _pixels(n, h * w)]


def sample_shape(shape: Shape) -> Shape:
    """Return the shape of the sample of a layer of this shape."""
    if not is_map(shape):
        return shape
    n, h, w, c = shape
    return n, 1, len(_pixels(n, h * w)), c


@lru_cache(256)
def _pixels(n: int, count: int) -> Array:
    """Return the pixels of a sample; the same ones for all maps of one size."""
    wanted = min(count, max(2, PIXELS // max(n, 1)))
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


class Marks:
    """A few values of each view of one shape, to tell at once which of them is like a layer."""

    def __init__(self, samples: Array) -> None:
        """samples (views, values)"""
        count = samples.shape[1]
        self._places = np.sort(np.random.default_rng(1).permutation(count)[:MARKS])
        rows = samples[:, self._places].astype(np.float32)
        self._fine = np.isfinite(rows)
        self._all_fine = bool(self._fine.all())
        self._rows = np.where(self._fine, rows, 0)

    def distances(self, ours: Array) -> Array:
        """Return how far each view is from ours: 0 for equal, about 1.4 for unrelated tensors.

        The root mean square of the differences, over that of the larger of the two. Where both are
        not finite they agree; where one is, they differ as much as can be.
        """
        row = ours.ravel()[self._places].astype(np.float32)
        good = np.isfinite(row)
        if self._all_fine and good.all():
            return _apart(self._rows, row)
        both = self._fine & good
        apart = _apart(np.where(both, self._rows, 0), np.where(both, row, 0))
        alone = (self._fine != good).mean(axis=1)
        enough = both.mean(axis=1) > 0.1  # or it says nothing
        return np.where(enough, np.hypot(apart, alone), UNRELATED)


def _apart(rows: Array, row: Array) -> Array:
    with np.errstate(all="ignore"):
        largest = np.sqrt(np.maximum(_power(rows), _power(row)))
        return np.where(largest > 0, np.sqrt(_power(rows - row)) / np.maximum(largest, 1e-30), 0)


def _power(rows: Array) -> Array:
    return np.einsum("...i,...i->...", rows, rows)
