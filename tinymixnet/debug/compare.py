"""Compare two runs of the network layer by layer and name the first layer that differs.

`compare` holds one layer of each side in memory. `isolated` also feeds each of our layers with
*their* inputs, to separate the error that a layer adds from the error that it inherits. `judged`
also rounds our layers as a port with fewer digits does, to tell broken layers from coarse ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf, isfinite, isnan, nan
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.checks import expect
from tinymixnet.debug.comparison_warnings import (
    Fingerprint,
    fingerprint,
    manifest_warnings,
    name_warnings,
    same_values,
    storage_warnings,
    stored_as_half,
    value_warnings,
)
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.manifest import Manifest
from tinymixnet.debug.measure import Row, format_shape, join_names, measure
from tinymixnet.debug.precision import FORMATS, judgements
from tinymixnet.debug.rounding import Scale
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.network import forward
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError, TraceError, short_repr
from tinymixnet.model import Model

HALF_TOLERANCE = 2e-3  # float16 rounds by up to 2^-11 of a value; batch norm can enlarge that
ANOTHER_ORDER = 0.01  # error above which we look whether the values are only in another order


class Comparison(NamedTuple):
    """The result of `compare`: a row for each layer that both sides have, in order."""

    rows: list[Row]
    warnings: list[str]
    tolerance: float
    missing: list[str]  # layers of the reference that the dump lacks
    unmatched: dict[str, str | None]  # names in the dump that are no layer -> the nearest layer
    precision: str = ""  # the format that theirs was judged by, or ""

    def __repr__(self) -> str:
        answer = "alike" if self.alike else f"first difference in {self.first}"
        return f"Comparison({len(self.rows)} layers, {answer})"

    @property
    def first(self) -> str | None:
        """The first layer beyond the tolerance, or beyond its precision, or of another shape."""
        alike = ("ok", "coarse")
        return next((row.layer for row in self.rows if row.status not in alike), None)

    @property
    def guilty(self) -> str | None:
        """The first layer that adds an error of its own."""
        return next((row.layer for row in self.rows if row.guilty), None)

    @property
    def alike(self) -> bool:
        """Whether every layer that could be compared is within the tolerance."""
        return self.first is None


# -- comparing ------------------------------------------------------------------------------------


def compare(
    reference: Iterable[tuple[str, Array]],
    dump: Dump,
    tolerance: float = 1e-4,
    reference_manifest: Manifest | None = None,
) -> Comparison:
    """Compare a run of ours, as pairs (name, tensor), with a dump of another implementation.

    An error is relative to the largest value of our layer (to 1 if ours is all zeros), so a tiny
    difference between tiny values does not count. Layers that the dump stores as float16 get a
    tolerance of 2e-3 or more. Raises TraceError if the two have no layer in common, and InputError
    for arguments of a wrong type.

    >>> dump = open_dump("theirs.npz", model.architecture, 1, 224, 224)
    >>> compare(model.layers(pixels), dump).first
    'stem/conv'
    """
    expect(dump, Dump, "dump")
    if reference_manifest is not None:
        expect(reference_manifest, Manifest, "reference_manifest")
    _check_tolerance(tolerance)
    rows: list[Row] = []
    missing: list[str] = []
    seen: dict[str, tuple[Fingerprint, Fingerprint]] = {}
    reordered, known = [], set(dump.names)
    with np.errstate(all="ignore"):  # NaN and infinity in a dump are results, not accidents
        for name, ours in _pairs(reference):
            dump.guess_scales([(name, ours)])
            if name in dump.mismatched:
                rows.append(_unlike(name, ours.shape, dump.mismatched[name][0], tolerance))
            elif name not in known or not ours.size:  # an empty batch compares to nothing
                missing.append(name)
            elif (theirs := dump[name]).shape != ours.shape:
                rows.append(_unlike(name, ours.shape, theirs.shape, tolerance))
            else:
                theirs = np.ascontiguousarray(theirs)
                within = max(tolerance, HALF_TOLERANCE) if stored_as_half(dump, name) else tolerance
                row = measure(name, ours, theirs, within)
                rows.append(row)
                seen[name] = fingerprint(ours), fingerprint(theirs)
                if ANOTHER_ORDER < row.error < inf and same_values(ours, theirs, within):
                    reordered.append(name)
            del ours
        if not seen:
            raise TraceError(_nothing(dump, rows))
        warnings = [
            *manifest_warnings(reference_manifest, dump.trace),
            *value_warnings(rows, seen, reordered),
            *name_warnings(rows, seen),
            *storage_warnings(rows, dump),
        ]
    return Comparison(rows, warnings, tolerance, missing, dict(dump.unmatched))


def isolated(
    model: Model,
    pixels: Array,
    dump: Dump,
    tolerance: float = 1e-4,
    reference_manifest: Manifest | None = None,
) -> Comparison:
    """Compare as `compare` does, with a run of the model, and say what error each layer adds.

    `added` is relative to the largest value that our layer computes from their inputs. If the dump
    lacks the layers before a layer, it is what all of them add together. It is NaN if their inputs
    make our layer infinite or NaN, too: then nobody can tell.
    """
    expect(model, Model, "model")
    images = check_pixels(pixels).astype(np.float32)
    expect(dump, Dump, "dump")
    settings = images, model.architecture, model.tensors, model.metadata
    dump.guess_scales(forward(*settings))
    own, fed = forward(*settings), forward(*settings)
    known, added = set(dump.names), dict[str, float]()

    def lockstep() -> Iterator[tuple[str, Array]]:
        theirs: Array | None = None
        for name, ours in own:
            computed = fed.send(theirs)[1]
            theirs = np.ascontiguousarray(dump[name], np.float32) if name in known else None
            if theirs is not None and theirs.shape != ours.shape:
                shapes = format_shape(theirs.shape), format_shape(ours.shape)
                raise TraceError(f"{name}: expected {shapes[1]}, found {shapes[0]}")
            if theirs is not None and ours.size:
                finite = isfinite(float(computed.min())) and isfinite(float(computed.max()))
                added[name] = measure(name, computed, theirs, 0).error if finite else nan
            yield name, ours

    comparison = compare(lockstep(), dump, tolerance, reference_manifest)
    rows = [row._replace(added=added.get(row.layer)) for row in comparison.rows]
    return comparison._replace(rows=rows)


def judged(
    model: Model,
    pixels: Array,
    dump: Dump,
    precision: str,
    tolerance: float = 1e-4,
    reference_manifest: Manifest | None = None,
) -> Comparison:
    """Compare as `isolated` does, and judge each layer by the precision that theirs has.

    precision: float16, bfloat16 or int8. Ours runs once more, fed with their inputs, with weights
    and outputs rounded as such a port rounds them. A layer that adds more than that is "BEYOND"; a
    layer that differs and adds no more is "coarse".
    """
    if precision not in FORMATS:
        expected = ", ".join(FORMATS)
        raise InputError(f"precision: expected one of {expected}, found {short_repr(precision)}")
    comparison = isolated(model, pixels, dump, tolerance, reference_manifest)
    images, theirs = check_pixels(pixels).astype(np.float32), TheirLayers(dump)
    verdicts = judgements(model, images, theirs, precision, _scales(dump))
    rows = []
    for row in comparison.rows:
        verdict = verdicts.get(row.layer)
        nobody_knows = row.added is None or isnan(row.added)
        if verdict is not None and row.status != "shape" and not nobody_knows:
            status = "BEYOND" if verdict.beyond else "coarse" if row.status != "ok" else "ok"
            row = row._replace(status=status, rounding=verdict.rounding, explained=verdict.explains)
        rows.append(row)
    return comparison._replace(rows=rows, precision=precision)


def _scales(dump: Dump) -> dict[str, Scale]:
    """Return layer -> scale, of the layers that are integers with one scale for all channels."""
    scales = {}
    for layer, stored in dump.theirs.items():
        quantization, dtype = dump.trace.quantization.get(stored), dump.headers[stored].dtype
        if quantization is not None and quantization.scale.size == 1 and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            scale, zero_point = quantization.scale.item(), quantization.zero_point.item()
            scales[layer] = Scale(scale, zero_point, limits.min, limits.max)
    return scales


class TheirLayers(Mapping[str, Array]):
    """The layers of a dump as float32, read anew each time: all may not fit into memory."""

    def __init__(self, dump: Dump) -> None:
        self.dump, self.known = dump, frozenset(dump.names)

    def __getitem__(self, layer: str) -> Array:
        return np.ascontiguousarray(self.dump[layer], np.float32)

    def __contains__(self, layer: object) -> bool:
        return layer in self.known

    def __iter__(self) -> Iterator[str]:
        return iter(self.dump.names)

    def __len__(self) -> int:
        return len(self.known)


def _pairs(reference: Iterable[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
    if isinstance(reference, np.ndarray):  # one without axes only looks as if it were iterable
        raise InputError("reference: expected pairs of name and array, found an array")
    for pair in expect(reference, Iterable, "reference"):  # type: ignore[type-abstract]
        try:
            name, tensor = pair
        except (TypeError, ValueError):
            name, tensor = None, None
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            kind = type(pair).__name__
            raise InputError(f"reference: expected pairs of name and array, found {kind}")
        yield name, tensor
        del tensor, pair  # or two layers would be in memory at once


def _check_tolerance(tolerance: float) -> None:
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise InputError(f"tolerance: expected a number from 0 to 1, found {short_repr(tolerance)}")


def _unlike(layer: str, shape: tuple[int, ...], theirs: tuple[int, ...], tolerance: float) -> Row:
    return Row(layer, shape, inf, -inf, nan, 0, 0, 0, (), 0, "shape", tolerance, found=theirs)


def _nothing(dump: Dump, rows: list[Row]) -> str:
    where = f"{dump.trace.path}: no layer could be compared"
    if rows:
        expected, stored = format_shape(rows[0].shape), format_shape(rows[0].found)
        return f"{where}; {rows[0].layer}: expected {expected}, found {stored}"
    names = join_names([repr(name) for name in dump.unmatched] or list(dump.names))
    return f"{where} with the reference, found {names}; --names says which is which"
