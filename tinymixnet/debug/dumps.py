"""Foreign dumps as layers of our network: NHWC, under canonical names.

Two questions are answered from names, shapes and order alone, before any value is read: which
stored tensor is which layer (`names/choose.py`), and in which layout it is stored. With the network
and the pixels at hand, `pairing.py` answers them again, from the values.
"""

import copy
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np

from tinymixnet.debug.checks import expect
from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import nearest
from tinymixnet.debug.names.choose import choose_names
from tinymixnet.debug.names.layouts import (
    BLOCKED,
    LAYOUTS,
    Shape,
    as_nhwc,
    layouts_of,
    zero_padded,
)
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.quantization import Quantization, guess_quantization
from tinymixnet.debug.traces import Trace, open_trace
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.hdf5 import Header
from tinymixnet.errors import InputError, TraceError, printable, short_repr

MOST_PIXELS = 1 << 20  # a side; no image is larger
MOST_GUESSES = 50  # unmatched names for which the nearest layer is looked up: that is slow


class Dump:
    """The layers of a dump that fit our network. `open_dump` makes one.

    dump[name] returns a layer as (N, H, W, C) or (N, C), float64 if it is stored so, else float32.
    dump.raw(name) returns it as it is stored, also if its shape does not fit. Both raise TraceError
    for a layer that the dump lacks.
    """

    def __init__(
        self,
        trace: Trace,
        candidates: Candidates,
        map_name: str,
        places: Names,
        layout: str | None = None,
        also: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """places: stored name -> layer. Of several for one layer the first that fits is taken.

        also: stored name -> more layers that it is, where theirs leaves out what is between them.
        """
        self.trace = trace
        self.suggested = dict(places)  # stored name -> the layer that names and order suggest
        self.pairs: tuple[Pair, ...] = ()  # what `pairing.py` has found; empty without it
        self.explained: tuple[Pair, ...] | None = None  # what no layer is, where names are certain
        self.certain = False  # whether nothing but the suggested layers will do
        self.expected = dict(candidates.expected)  # canonical name -> shape (N, ...)
        self.map = map_name  # the map of names that was used
        self.headers: dict[str, Header] = {name: trace.header(name) for name in trace.names}
        self.theirs: dict[str, str] = {}  # canonical -> stored name, of layers that fit
        self._misshaped: dict[str, str] = {}  # the same, of layers that do not fit
        self.also = {stored: tuple(layers) for stored, layers in (also or {}).items()}
        more = [(stored, layer) for stored, layers in self.also.items() for layer in layers]
        for stored, name in [*places.items(), *more]:
            if not name:
                continue
            if name not in self.theirs and self.layouts_of(stored, self.expected[name]):
                self.theirs[name] = stored
                self._misshaped.pop(name, None)
            elif name not in self.theirs and name not in self._misshaped:
                self._misshaped[name] = stored
        self.mismatched: dict[str, tuple[Shape, Shape]] = {  # canonical -> stored shape, expected
            name: (self.headers[self._misshaped[name]].shape, self.expected[name])
            for name in self.expected
            if name in self._misshaped
        }
        placed = {*self.theirs.values(), *self._misshaped.values()}
        others = [name for name in self.headers if name not in placed and places.get(name) != ""]
        missing = self.missing
        guesses = {name: nearest(name, missing) for name in others[:MOST_GUESSES]}
        # stored name -> the nearest canonical name
        self.unmatched: dict[str, str | None] = {name: guesses.get(name) for name in others}
        self.layouts: dict[str, str] = {}  # canonical -> one of LAYOUTS
        self.ambiguous: list[str] = []  # layers whose layout nothing decides
        self.guessed: dict[str, Quantization] = {}  # layers whose scale only ours told
        self._decide_layouts(layout)

    def __repr__(self) -> str:
        placed = f"{len(self.theirs)} of {len(self.expected)} layers, names of {self.map}"
        return f"Dump({printable(self.trace.path)}, {placed})"

    def with_pairs(self, pairs: Sequence[Pair]) -> "Dump":
        """Return this dump with other pairs; those of a layer's shape alone are taken."""
        dump = copy.copy(self)
        dump.pairs = tuple(pairs)
        dump.theirs = {pair.layer: pair.name for pair in pairs if pair.layer and not pair.part}
        dump.layouts = {pair.layer: pair.layout for pair in pairs if pair.layer and not pair.part}
        dump.ambiguous = []
        taken = {pair.name for pair in pairs if pair.layer}
        dump._misshaped = {
            layer: name
            for layer, name in self._misshaped.items()
            if layer not in dump.theirs and name not in taken
        }
        dump.mismatched = {layer: self.mismatched[layer] for layer in dump._misshaped}
        others = [pair.name for pair in pairs if pair.unknown]
        dump.unmatched = {name: self.unmatched.get(name) for name in others if name not in taken}
        return dump

    def with_misshaped(self, odd: Mapping[str, str]) -> "Dump":
        """Return this dump with layers (layer -> stored name) that are there in another shape."""
        dump = copy.copy(self)
        dump._misshaped = {**self._misshaped, **odd}
        dump.mismatched = {
            layer: (self.headers[name].shape, self.expected[layer])
            for layer, name in dump._misshaped.items()
        }
        layers = {name: layer for layer, name in odd.items()}
        dump.pairs = tuple(
            pair._replace(layer=layers[pair.name], found="order") if pair.name in layers else pair
            for pair in self.pairs
        )
        dump.unmatched = {n: near for n, near in self.unmatched.items() if n not in layers}
        return dump

    def with_explained(self, pairs: Sequence[Pair]) -> "Dump":
        """Return this dump with what its unmatched tensors are, of those that somebody knows."""
        dump = copy.copy(self)
        dump.explained = tuple(pairs)
        known = {pair.name for pair in pairs}
        dump.unmatched = {n: near for n, near in self.unmatched.items() if n not in known}
        return dump

    @property
    def names(self) -> list[str]:
        """The layers that the dump has, in the network's order."""
        return [name for name in self.expected if name in self.theirs]

    @property
    def missing(self) -> list[str]:
        """The layers that the dump does not have, not even in another shape."""
        known = {*self.theirs, *self.mismatched}
        return [name for name in self.expected if name not in known]

    def homeless(self) -> dict[str, list[str]]:
        """Return the tensors that are no layer, and which of the missing layers each may be.

        stored name -> layers, in the network's order. Only for tensors paired by value.
        """
        free = [pair.name for pair in self.pairs if pair.unknown]
        missing = self.missing
        fits = {
            name: [layer for layer in missing if self.layouts_of(name, self.expected[layer])]
            for name in free
        }
        return {name: layers for name, layers in fits.items() if layers}

    @property
    def half(self) -> bool:
        """Whether any layer is stored as float16, so that small differences are lost."""
        return any(
            self.headers[name].dtype.itemsize == 2 and self.headers[name].dtype.kind == "f"
            for name in self.theirs.values()
        )

    @property
    def unscaled(self) -> list[str]:
        """The layers that are 8-bit integers whose scale nothing says. An image needs none."""
        return [
            name
            for name, stored in self.theirs.items()
            if self.headers[stored].dtype.kind in "iu"
            and self.headers[stored].dtype.itemsize == 1
            and stored not in self.trace.quantization
            and name != "image"
        ]

    def guess_scales(self, layers: Iterable[tuple[str, np.ndarray]]) -> None:
        """Guess scale and zero point of `unscaled` layers from ours, given as (name, layer)."""
        unscaled = set(self.unscaled)
        for name, ours in layers if unscaled else ():
            if name in unscaled and ours.shape == self.expected[name]:
                stored = as_nhwc(self.raw(name), self.layouts[name], self.expected[name])
                if scales := guess_quantization(stored, ours):
                    self.trace.quantization[self.theirs[name]] = scales
                    self.guessed[name] = scales

    def __getitem__(self, name: str) -> np.ndarray:
        if not isinstance(name, str) or name not in self.theirs:
            raise TraceError(f"{self.trace.path}: no layer that fits {name!s:.80}")
        x = self.raw(name)
        x = x.astype(
            np.float64 if x.dtype.itemsize == 8 and x.dtype.kind == "f" else np.float32, copy=False
        )
        return as_nhwc(x, self.layouts[name], self.expected[name])

    def raw(self, name: str) -> np.ndarray:
        """Return a layer as it is stored."""
        stored = {**self._misshaped, **self.theirs}
        if not isinstance(name, str) or name not in stored:
            raise TraceError(f"{self.trace.path}: no layer {name!s:.80}")
        return self.trace[stored[name]]

    def layouts_of(self, stored: str, expected: Shape) -> tuple[str, ...]:
        """Return the layouts in which a stored tensor can be a layer of this shape.

        If its shape has more channels, its values are read: the others must be zeros.
        """
        shape = self.headers[stored].shape
        layouts = layouts_of(shape, expected)
        if not layouts or prod(shape) == prod(expected):
            return layouts
        return tuple(name for name in layouts if zero_padded(self.trace[stored], name, expected))

    def _decide_layouts(self, wanted: str | None) -> None:
        """Decide the layouts: layers that fit in several follow the majority of all others."""
        fits = {name: self.layouts_of(s, self.expected[name]) for name, s in self.theirs.items()}
        unclear = {name for name, layouts in fits.items() if len({*layouts} - {*BLOCKED}) > 1}
        votes = Counter(layouts[0] for name, layouts in fits.items() if name not in unclear)
        first, second = [*votes.most_common(2), ("", 0), ("", 0)][:2]
        majority = first[0] if first[1] > second[1] else None
        for name in self.names:
            layouts = fits[name]
            # Whoever says that channels come in blocks knows what no shape tells.
            decided = wanted if wanted in BLOCKED and wanted in layouts else None
            if name in unclear and decided is None:
                decided = next((asked for asked in (majority, wanted) if asked in layouts), None)
            self.layouts[name] = decided or layouts[0]
            if name in unclear and not decided and prod(self.expected[name][1:-1]) > 1:
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
    name}, or None for the shipped map that places most tensors. layout, one of LAYOUTS, is for
    shapes that fit in several ways. Raises TraceError for what cannot be read, and InputError for
    arguments of a wrong type.

    >>> open_dump("theirs.npz", model.architecture, 1, 224, 224)["stem/conv"].shape
    (1, 112, 112, 32)
    """
    expect(architecture, Architecture, "architecture")
    for what, number in (("batch", batch), ("height", height), ("width", width)):
        if not isinstance(number, (int, np.integer)) or not 0 <= number <= MOST_PIXELS:
            raise InputError(f"{what}={short_repr(number)}: expected 0 to {MOST_PIXELS:,}")
    if layout is not None and (not isinstance(layout, str) or layout not in LAYOUTS):
        raise TraceError(f"layout={short_repr(layout)}: expected one of {', '.join(LAYOUTS)}")
    trace = open_trace(path)
    shapes = architecture.layer_shapes(height, width)
    candidates = Candidates(
        shapes={name: trace.header(name).shape for name in trace.names},
        expected={name: (batch, *shape) for name, shape in shapes.items()},
    )
    map_name, places, also = choose_names(candidates, architecture, names)
    dump = Dump(trace, candidates, map_name, places, layout, also)
    # Whoever says which names these are, or uses ours, has decided. Other names only suggest.
    ours = map_name == "canonical" and 2 * len(places) >= len(candidates.shapes)
    dump.certain = names is not None or ours
    return dump
