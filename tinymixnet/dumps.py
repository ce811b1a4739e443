"""Foreign dumps: whoever wrote them, as layers of our network, NHWC, under canonical names.

Two questions are answered from names, shapes and order alone, before any values are read: which
stored tensor is which layer (`name_maps.py`), and how its axes are laid out.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from tinymixnet.architecture import Architecture
from tinymixnet.array_files import Header
from tinymixnet.errors import TraceError
from tinymixnet.name_maps import MAPS, Names, by_canonical, by_order, nearest, plain
from tinymixnet.traces import Trace, open_trace

Shape = tuple[int, ...]

LARGEST_MAP = 1 << 22  # bytes of a user's JSON map
MOST_GUESSES = 200  # of what unmatched names may be: nobody reads more


class Dump:
    """The layers of a dump that fit our network; `open_dump` makes one.

    dump[name] is the layer `name` as (N, H, W, C) or (N, C), float32, or float64 where it is stored
    so; dump.raw(name) is as stored, also for mismatched ones. Both raise TraceError for a layer
    that the dump lacks.
    """

    def __init__(self, trace: Trace, expected: Mapping[str, Shape], layout: str | None) -> None:
        self.trace = trace
        self.expected = dict(expected)  # canonical name -> (N, ...)
        self.headers: dict[str, Header] = {name: trace.header(name) for name in trace.names}
        self.theirs: dict[str, str] = {}  # canonical -> stored name, of the layers that fit
        self.map = ""  # which map of names was taken
        self.layouts: dict[str, str] = {}  # canonical -> NHWC or NCHW
        self.ambiguous: list[str] = []  # layers whose layout nothing decides
        self.mismatched: dict[str, tuple[Shape, Shape]] = {}  # canonical -> found, expected
        self.unmatched: dict[str, str | None] = {}  # stored name -> nearest canonical one
        self._misfits: dict[str, str] = {}  # canonical -> stored name, of the mismatched
        self._layout = layout

    @property
    def names(self) -> list[str]:
        """The layers that the dump has, in the network's order."""
        return [name for name in self.expected if name in self.theirs]

    @property
    def missing(self) -> list[str]:
        """The layers that the dump has not, not even in another shape."""
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

    def fits(self, stored: str, name: str) -> bool:
        """Whether a stored tensor can be a layer, by its shape."""
        return bool(layouts_of(self.headers[stored].shape, self.expected[name]))

    def _place(self, places: Names) -> None:
        """Give each stored tensor its layer, the first that fits; decide layouts."""
        for stored, name in places.items():
            if not name:
                continue
            if name not in self.theirs and self.fits(stored, name):
                self.theirs[name] = stored
                self._misfits.pop(name, None)
            elif name not in self.theirs and name not in self._misfits:
                self._misfits[name] = stored
        found = {n: self.headers[s].shape for n, s in self._misfits.items()}
        self.mismatched = {n: (found[n], self.expected[n]) for n in self.expected if n in found}
        placed = {*self.theirs.values(), *self._misfits.values()}
        left = [name for name in self.headers if name not in placed and places.get(name) != ""]
        missing = self.missing
        guesses = {name: nearest(name, missing) for name in left[:MOST_GUESSES]}
        self.unmatched = {name: guesses.get(name) for name in left}
        self._decide_layouts()

    def _decide_layouts(self) -> None:
        fits = {
            n: layouts_of(self.headers[s].shape, self.expected[n]) for n, s in self.theirs.items()
        }
        votes = Counter(layouts[0] for layouts in fits.values() if len(layouts) == 1)
        majority = None if votes["NHWC"] == votes["NCHW"] else votes.most_common(1)[0][0]
        decided = majority or self._layout
        for name in self.names:
            open_ = len(fits[name]) == 2
            self.layouts[name] = (decided or "NHWC") if open_ else fits[name][0]
            if open_ and decided is None and prod(self.expected[name][1:-1]) > 1:
                self.ambiguous.append(name)


@lru_cache(1 << 16)
def layouts_of(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """The layouts in which a tensor of this shape can be the layer; none: it cannot be.

    expected is (N, H, W, C) or (N, C). Where N is 1 the batch axis may be missing, and a map of
    one pixel may be a vector: then and in a square of equal sides either layout fits.
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
    shapes = architecture.layer_shapes(height, width)
    dump = Dump(open_trace(path), {n: (batch, *s) for n, s in shapes.items()}, layout)
    dump.map, places = _choose(dump, architecture, names)
    dump._place(places)
    return dump


def _choose(
    dump: Dump, architecture: Architecture, names: str | os.PathLike[str] | None
) -> tuple[str, Names]:
    canonical = by_canonical(dump, architecture)
    if names is None:
        found = {n: {**canonical, **MAPS[n](dump, architecture)} for n in MAPS if n != "onnx"}
        best = max(found, key=lambda name: _fitting(dump, found[name]))
        if 4 * _fitting(dump, found[best]) >= len(dump.headers):
            return best, found[best]  # names say more than order and shapes
        ordered = by_order(dump, architecture)
        if _fitting(dump, ordered) > _fitting(dump, found[best]):
            return "onnx", ordered
        return best, found[best]
    if os.fspath(names) in MAPS:
        chosen = str(names)
        places = MAPS[chosen](dump, architecture)
        return chosen, places if chosen == "onnx" else {**canonical, **places}
    given = _read_map(Path(names), dump)  # comes before our own names, should both name a layer
    return os.fspath(names), {**given, **canonical, **given}


def _fitting(dump: Dump, places: Names) -> int:
    """How many layers a map gives a tensor that fits."""
    return len({name for stored, name in places.items() if name and dump.fits(stored, name)})


def _read_map(path: Path, dump: Dump) -> Names:
    if not path.is_file():
        raise TraceError(f"{path}: neither a file nor one of {', '.join(MAPS)}")
    try:
        if path.stat().st_size > LARGEST_MAP:
            raise TraceError(f"{path}: refused, too large for a map of names")
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise TraceError(f"{path}: expected an object of names, {{theirs: canonical}}")
    for name in entries.values():
        if name not in dump.expected:
            guess = nearest(name, list(dump.expected))
            raise TraceError(f"{path}: no layer {name!r}" + (f", is it {guess}?" if guess else ""))
    exact = {stored: entries[stored] for stored in dump.headers if stored in entries}
    plain_entries = {plain(theirs): name for theirs, name in entries.items()}
    lossy = {s: plain_entries[plain(s)] for s in dump.headers if plain(s) in plain_entries}
    return {**lossy, **exact}
