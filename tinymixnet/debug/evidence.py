"""Their tensors, as evidence: read once, with the mistakes of the dump itself corrected first."""

from collections.abc import Iterator, Mapping

import numpy as np

from tinymixnet.debug.causes import Cause
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.measure import cosine, error
from tinymixnet.debug.suspects.input import (
    memory_as_nchw,
    memory_as_nhwc,
    rows_and_columns_exchanged,
)
from tinymixnet.debug.suspects.precision import to_bfloat16, to_float16, to_int8
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model

FINE = 1e-5  # error of one layer or block: what is below is rounding
ROUNDING = {  # to a format: how, and what error a block may then have
    "float16": (to_float16, 4e-3),
    "bfloat16": (to_bfloat16, 3e-2),
    "8-bit integers": (to_int8, 5e-2),
}


class TheirTensors(Mapping[str, Array]):
    """Their tensors by canonical name, float32; the last few are kept: they are asked for often."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.half = dump.half
        self.fine = ROUNDING["float16"][1] if self.half else FINE
        self.view = lambda x: x  # how a tensor of pixels must be read
        self.extra: dict[str, Array] = {}  # set straight, in place of what the dump has
        self.names = list(dump.names)  # and of what is extra
        self._there = set(self.names)
        self._kept: dict[str, Array] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._there

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Array:
        if name not in self._kept:
            x = self.extra[name] if name in self.extra else self.dump[name]
            if x.ndim == 4 and min(x.shape[1:]) > 1:
                x = self.view(x)
            while len(self._kept) > 30:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = np.ascontiguousarray(x, np.float32)
        return self._kept[name]

    def correct_dump_errors(self, model: Model, pixels: Array) -> list[Cause]:
        """See to mistakes of the dump itself, which hide all others; say which there were."""
        causes = self._labels(model, pixels), self._order(model, pixels)
        return [cause for cause in causes if cause]

    def _labels(self, model: Model, pixels: Array) -> Cause | None:
        """One class too many: a background class stands before or behind the others."""
        classes, cause = model.architecture.classes, None
        for name in ("logits", "probabilities"):
            found, _ = self.dump.mismatched.get(name, ((), ()))
            if np.prod(found, dtype=int) != len(pixels) * (classes + 1):
                continue
            values = self.dump.raw(name).reshape(-1, classes + 1).astype(np.float32)
            if cause is None:
                ours = _layer(model, pixels, name)
                ahead = cosine(values[:, 1:], ours) >= cosine(values[:, :-1], ours)
                where = "ahead of" if ahead else "behind"
                sentence = f"there is one class too many, {where} the others: drop it"
                cause = Cause("label-offset", name, (name,), np.inf, 0.0, sentence)
            values = values[:, 1:] if ahead else values[:, :-1]
            if name == "probabilities":
                values = values / values.sum(axis=1, keepdims=True)
            self.extra[name] = values
            self.names.append(name)
            self._there.add(name)
        return cause

    def _order(self, model: Model, pixels: Array) -> Cause | None:
        """Tensors dumped in an order that is not what their shape says."""
        views = {
            "tensors in NHWC order are dumped as NCHW": memory_as_nhwc,
            "tensors in NCHW order are dumped as NHWC": memory_as_nchw,
            "rows and columns are exchanged in what is dumped": rows_and_columns_exchanged,
        }
        votes = dict.fromkeys(views, 0)
        seen: list[str] = []
        for name, ours in model.layers(pixels):
            spatial = ours.ndim == 4 and min(ours.shape[1:3]) > 1
            if name not in self or not spatial or name in ("image", "normalize"):
                continue
            theirs = self[name]
            if cosine(ours, theirs) > 0.9 or len(seen) == 3:
                break
            seen.append(name)
            for how, view in views.items():
                turned = view(theirs)
                votes[how] += turned is not None and cosine(ours, turned) > 0.98
        best = max(votes, key=lambda how: votes[how])
        if not seen or votes[best] < len(seen):
            return None
        ours = _layer(model, pixels, seen[0])
        before = error(ours, self[seen[0]]).max_error
        self.view = views[best]
        self._kept.clear()
        after = error(ours, self[seen[0]]).max_error
        sentence = f"{best}: transpose where you reshape"
        shapes = model.architecture.layer_shapes(*pixels.shape[1:3])
        places = [name for name in self.names if len(shapes[name]) == 3 and shapes[name][0] > 1]
        return Cause("transposed-layout", places[0], tuple(places), before, after, sentence)

    def rounding(self) -> tuple[str, list[str]] | None:
        """The format with fewer digits than float32 that most of their tensors are of, and which
        these are; errors of that size are then fine."""
        kinds: dict[str, list[str]] = {name: [] for name in ROUNDING}
        asked = 0
        for name in self.names:
            x = self[name].ravel()[:20_000]
            values = np.unique(x[x != 0])
            if name in ("image", "normalize") or values.size < 16 or not np.isfinite(x).all():
                continue
            asked += 1
            if x.size > 2000 and values.size < 256:
                kinds["8-bit integers"].append(name)
            elif np.array_equal(to_bfloat16(values), values):
                kinds["bfloat16"].append(name)
            elif not self.half and np.array_equal(to_float16(values), values):
                kinds["float16"].append(name)
        how = max(kinds, key=lambda kind: len(kinds[kind]))
        if 2 * len(kinds[how]) <= asked or not asked:
            return None
        self.fine = ROUNDING[how][1]
        return how, kinds[how]


def _layer(model: Model, pixels: Array, name: str) -> Array:
    return next(x for layer, x in model.layers(pixels) if layer == name)
