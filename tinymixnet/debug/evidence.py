"""Their tensors, which are the evidence. Mistakes of the dump itself are corrected first."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.causes import Cause
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.measure import cosine, error
from tinymixnet.debug.rounding import to_bfloat16, to_float16, to_int8
from tinymixnet.debug.stored_tensors import Kept
from tinymixnet.debug.suspects.input import (
    memory_as_nchw,
    memory_as_nhwc,
    rows_and_columns_exchanged,
)
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model

FINE = 1e-5  # largest error of one layer or block that rounding makes
MANY, MANY_OF = 3, 0.2  # layers, or a share of them, that are not of one format by accident
ROUNDING = {  # format -> (function that rounds to it, largest error that it makes in a block)
    "float16": (to_float16, 4e-3),
    "bfloat16": (to_bfloat16, 3e-2),
    "8-bit integers": (to_int8, 5e-2),
}
# How a dump's values may be in another order than their shapes say -> what corrects it.
MIXED_UP = {
    "tensors in NHWC order are dumped as NCHW": memory_as_nhwc,
    "tensors in NCHW order are dumped as NHWC": memory_as_nchw,
    "rows and columns are exchanged in what is dumped": rows_and_columns_exchanged,
}
# The name that `judgements` has for a format.
FORMAT = {"float16": "float16", "bfloat16": "bfloat16", "8-bit integers": "int8"}


class FewDigits(NamedTuple):
    """What `TheirTensors.rounding` returns."""

    how: str  # a key of ROUNDING
    places: list[str]  # layers all of whose values are of this format
    others: frozenset[str]  # layers that have other values, too


class TheirTensors(Mapping[str, Array]):
    """Their tensors by canonical name, as float32. The last few stay in memory.

    `correct_dump_errors` and `rounding` have to look at them before a search does.
    """

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.half = dump.half
        self.fine = ROUNDING["float16"][1] if self.half else FINE
        self.view = lambda x: x  # corrects the order of axes of a map
        self.extra: dict[str, Array] = {}  # corrected layers, used instead of those of the dump
        self.names = list(dump.names)  # with those in `extra`
        self._known = set(self.names)
        self._kept = Kept()

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Array:
        return self._kept.get(name, lambda: self._read(name))

    def _read(self, name: str) -> Array:
        x = self.extra[name] if name in self.extra else self.dump[name]
        if x.ndim == 4 and min(x.shape[1:]) > 1:
            x = self.view(x)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            return np.ascontiguousarray(x, np.float32)

    def without(self, doubtful: Iterable[str]) -> None:
        """Go on as if the dump did not have these layers."""
        self._known -= set(doubtful)
        self.names = [name for name in self.names if name in self._known]

    def correct_dump_errors(self, model: Model, pixels: Array) -> list[Cause]:
        """Correct mistakes of the dump itself, which would hide all others, and return them."""
        causes = self._labels(model, pixels), self._order(model, pixels)
        return [cause for cause in causes if cause]

    def _labels(self, model: Model, pixels: Array) -> Cause | None:
        """Remove a background class before or behind the other classes."""
        classes, cause = model.architecture.classes, None
        for name in ("logits", "probabilities"):
            shape, _ = self.dump.mismatched.get(name, ((), ()))
            if prod(shape) != len(pixels) * (classes + 1):
                continue
            with np.errstate(over="ignore"):
                values = self.dump.raw(name).reshape(-1, classes + 1).astype(np.float32)
            if cause is None:
                ours = _layer(model, pixels, name)
                first = cosine(values[:, 1:], ours) >= cosine(values[:, :-1], ours)
                where = "ahead of" if first else "behind"
                sentence = f"there is one class too many, {where} the others: drop it"
                cause = Cause("label-offset", name, (name,), np.inf, 0.0, sentence)
            values = values[:, 1:] if first else values[:, :-1]
            if name == "probabilities":
                with np.errstate(all="ignore"):
                    values = values / values.sum(axis=1, keepdims=True)
            self.extra[name] = values
            self.names.append(name)
            self._known.add(name)
        return cause

    def _order(self, model: Model, pixels: Array) -> Cause | None:
        """Correct tensors whose values are in another order than their shape says."""
        votes = dict.fromkeys(MIXED_UP, 0)
        seen: list[str] = []
        for name, ours in model.layers(pixels):
            spatial = ours.ndim == 4 and min(ours.shape[1:3]) > 1
            if name not in self or not spatial or name in ("image", "normalize"):
                continue
            theirs = self[name]
            if cosine(ours, theirs) > 0.9 or len(seen) == 3:
                break
            seen.append(name)
            for how, view in MIXED_UP.items():
                turned = view(theirs)
                votes[how] += turned is not None and cosine(ours, turned) > 0.98
        best = max(votes, key=lambda how: votes[how])
        if not seen or votes[best] < len(seen):
            return None
        ours = _layer(model, pixels, seen[0])
        before = error(ours, self[seen[0]]).max_error
        self.view = MIXED_UP[best]
        self._kept = Kept()
        after = error(ours, self[seen[0]]).max_error
        sentence = f"{best}: transpose where you reshape"
        shapes = model.architecture.layer_shapes(*pixels.shape[1:3])
        places = [name for name in self.names if len(shapes[name]) == 3 and shapes[name][0] > 1]
        return Cause("transposed-layout", places[0], tuple(places), before, after, sentence)

    def rounding(self) -> "FewDigits | None":
        """Return the format with few digits that many layers have; None if they have not.

        A layer has a format if all its values are of it. A few layers may be so by accident.
        """
        kinds: dict[str, list[str]] = {name: [] for name in ROUNDING}
        examined: list[str] = []
        for name in self.names:
            x = self[name].ravel()[:20_000]
            values = np.unique(x[x != 0])
            if name in ("image", "normalize") or values.size < 16 or not np.isfinite(x).all():
                continue
            if x.size > 2000 and values.size < 256:
                kinds["8-bit integers"].append(name)
            elif np.array_equal(to_bfloat16(values), values):
                kinds["bfloat16"].append(name)
            elif not self.half and np.array_equal(to_float16(values), values):
                kinds["float16"].append(name)
            elif x.size <= 2000:
                continue  # too few values to say that they are no 8-bit integers
            examined.append(name)
        how = max(kinds, key=lambda kind: len(kinds[kind]))
        if len(kinds[how]) < max(MANY, MANY_OF * len(examined)):
            return None
        return FewDigits(how, kinds[how], frozenset(examined).difference(kinds[how]))


def _layer(model: Model, pixels: Array, name: str) -> Array:
    return next(x for layer, x in model.layers(pixels) if layer == name)
