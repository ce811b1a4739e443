"""Foreign dumps: whoever wrote them, as layers of our network, NHWC, under canonical names.

Two questions are answered from names, shapes and order alone, before any values are read: which
stored tensor is which layer (`names/choose.py`), and how its axes are laid out.
"""

import os
from collections import Counter
from math import prod

import numpy as np

from tinymixnet.debug.names.candidates import Candidates, Names, Shape, layouts_of
from tinymixnet.debug.names.canonical import nearest
from tinymixnet.debug.names.choose import choose_names
from tinymixnet.debug.traces import Trace, open_trace
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.hdf5 import Header
from tinymixnet.errors import TraceError

MOST_GUESSES = 200  # of what unmatched names may be: nobody reads more


class Dump:
    """The layers of a dump that fit our network; `open_dump` makes one.

    dump[name] is the layer `name` as (N, H, W, C) or (N, C), float32, or float64 where it is stored
    so. dump.raw(name) is the layer as stored, also for mismatched ones. Both raise TraceError for a
    layer that the dump lacks.
    """

    def __init__(
        self,
        trace: Trace,
        candidates: Candidates,
        map_name: str,
        places: Names,
        layout: str | None = None,
    ) -> None:
        """places says which stored tensor is which layer; the first that fits a layer is taken."""
        self.trace = trace
        self.expected = dict(candidates.expected)  # canonical name -> (N, ...)
        self.map = map_name  # which map of names was taken
        self.headers: dict[str, Header] = {name: trace.header(name) for name in trace.names}
        self.theirs: dict[str, str] = {}  # canonical -> stored name, of the layers that fit
        self._misfits: dict[str, str] = {}  # the same of those that do not fit
        for stored, name in places.items():
            if not name:
                continue
            if name not in self.theirs and candidates.fits(stored, name):
                self.theirs[name] = stored
                self._misfits.pop(name, None)
            elif name not in self.theirs and name not in self._misfits:
                self._misfits[name] = stored
        self.mismatched: dict[str, tuple[Shape, Shape]] = {  # canonical -> stored shape, expected
            name: (self.headers[self._misfits[name]].shape, self.expected[name])
            for name in self.expected
            if name in self._misfits
        }
        placed = {*self.theirs.values(), *self._misfits.values()}
        left = [name for name in self.headers if name not in placed and places.get(name) != ""]
        guesses = {name: nearest(name, self.missing) for name in left[:MOST_GUESSES]}
        # stored name -> the nearest canonical one
        self.unmatched: dict[str, str | None] = {name: guesses.get(name) for name in left}
        self.layouts: dict[str, str] = {}  # canonical -> NHWC or NCHW
        self.ambiguous: list[str] = []  # layers whose layout nothing decides
        self._decide_layouts(layout)

    @property
    def names(self) -> list[str]:
        """The layers that the dump has, in the network's order."""
        return [name for name in self.expected if name in self.theirs]

    @property
    def missing(self) -> list[str]:
        """The layers that the dump does not have, not even in another shape."""
        there = {*self.theirs, *self.mismatched}
        return [name for name in self.expected if name not in there]

    @property
    def half(self) -> bool:
        """Whether any layer is stored as float16, so that finer differences are lost."""
        return any(
            self.headers[name].dtype.itemsize == 2 and self.headers[name].dtype.kind == "f"
            for name in self.theirs.values()
        )

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.theirs:
            raise TraceError(f"{self.trace.path}: no layer that fits {name}")
        x = self.raw(name)
        x = x.astype(
            np.float64 if x.dtype.itemsize == 8 and x.dtype.kind == "f" else np.float32, copy=False
        )
        shape = self.expected[name]
        if self.layouts[name] == "NCHW" and len(shape) == 4:
            n, h, w, c = shape
            x = x.reshape(n, c, h, w).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(x.reshape(shape))

    def raw(self, name: str) -> np.ndarray:
        """A layer as it is stored."""
        stored = {**self._misfits, **self.theirs}
        if name not in stored:
            raise TraceError(f"{self.trace.path}: no layer {name}")
        return self.trace[stored[name]]

    def _decide_layouts(self, wanted: str | None) -> None:
        """Layers that fit both ways follow the majority of those that fit one way only."""
        fits = {
            n: layouts_of(self.headers[s].shape, self.expected[n]) for n, s in self.theirs.items()
        }
        votes = Counter(layouts[0] for layouts in fits.values() if len(layouts) == 1)
        majority = None if votes["NHWC"] == votes["NCHW"] else votes.most_common(1)[0][0]
        decided = majority or wanted
        for name in self.names:
            either = len(fits[name]) == 2
            self.layouts[name] = (decided or "NHWC") if either else fits[name][0]
            if either and decided is None and prod(self.expected[name][1:-1]) > 1:
                self.ambiguous.append(name)


def open_dump(
    path: str | os.PathLike[str],
    architecture: Architecture,
    batch: int,
    height: int,
    width: int,
    names: str | os.PathLike[str] | None = None,
    layout: str | None = None,
) -> Dump:
    """Open a dump of `batch` images of height x width pixels as layers of a network.

    names: a shipped map (canonical, tensorflow, timm, onnx), a JSON file {their name: canonical
    name}, or None for the shipped map that places most. layout, "NHWC" or "NCHW", is for shapes
    that fit both ways. Raises TraceError.
    """
    if layout not in (None, "NHWC", "NCHW"):
        raise TraceError(f"layout={layout!r}: expected 'NHWC' or 'NCHW'")
    trace = open_trace(path)
    shapes = architecture.layer_shapes(height, width)
    candidates = Candidates(
        shapes={name: trace.header(name).shape for name in trace.names},
        expected={name: (batch, *shape) for name, shape in shapes.items()},
    )
    map_name, places = choose_names(candidates, architecture, names)
    return Dump(trace, candidates, map_name, places, layout)
