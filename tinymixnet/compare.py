"""Compare two runs of the network layer by layer and name the first layer that differs.

`compare` reads both sides as they come, one layer of each in memory; `isolated` also feeds every
layer of ours their inputs, so that what a layer adds stands beside what it inherits.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from math import inf, isfinite, log10, nan, sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinymixnet.errors import TraceError
from tinymixnet.kernels import Array
from tinymixnet.model import Model, check_pixels, forward

if TYPE_CHECKING:
    from tinymixnet.dumps import Dump
    from tinymixnet.traces import Manifest

HALF_TOLERANCE = 2e-3  # float16 rounds by up to 2^-11 of a value; batch norm can widen that
BLOCK = 1 << 14  # values at once: their float64 copies stay in the processor's cache
SAMPLE = 1024  # values of a layer that are kept, to recognise it under another name
ANOTHER_ORDER = 0.01  # from this error on sorted values tell another order from mere noise
LOOKS_LIKE = 0.03  # RMS distance of two samples relative to the layer's RMS: cosine 0.9995
CLASSES = ("logits", "probabilities")
LISTED = 5  # names a sentence lists before "and N more"


class Row(NamedTuple):
    """One layer of both sides, ours the reference. Positions are indices (N, H, W, C)."""

    layer: str
    shape: tuple[int, ...]
    error: float  # max |theirs - ours| / max |ours|; infinite where either is not finite
    snr: float  # dB: what ours is above the difference; infinite when equal
    cosine: float  # NaN where either is not finite
    nans: int  # this and the next two: counts in theirs
    infs: int
    zeros: int
    worst: tuple[int, ...]  # where the difference is largest
    channel: int  # with the largest RMS difference
    status: str  # "ok", "DIFFERENT", or "shape": theirs cannot be given our shape
    tolerance: float
    values: tuple[float, float] = (nan, nan)  # ours and theirs at `worst`
    added: float | None = None  # the error when ours is computed from their inputs
    found: tuple[int, ...] = ()  # the shape of theirs, where the status is "shape"

    @property
    def guilty(self) -> bool:
        """Whether the layer adds an error of its own (only `isolated` knows)."""
        return self.added is not None and self.added > self.tolerance


class Comparison(NamedTuple):
    """What `compare` found: a row for each layer that both sides have, in the network's order."""

    rows: list[Row]
    warnings: list[str]
    tolerance: float
    missing: list[str]  # layers of the reference that the dump has not
    unmatched: dict[str, str | None]  # names in the dump without a place, with the nearest layer

    @property
    def first(self) -> str | None:
        """The first layer past the tolerance or of another shape."""
        return next((row.layer for row in self.rows if row.status != "ok"), None)

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
    dump: "Dump",
    tolerance: float = 1e-4,
    reference_manifest: "Manifest | None" = None,
) -> Comparison:
    """Compare a run of ours, as (name, tensor) in order, with a dump of another implementation.

    An error is relative to the largest value of our layer (to 1 where ours is all zeros), never to
    single values near zero. Layers the dump stores as float16 get a tolerance of 2e-3 or more.
    Raises TraceError when the two have no layer to compare in common.
    """
    rows: list[Row] = []
    missing: list[str] = []
    seen: dict[str, tuple[Print, Print]] = {}
    reordered, known = [], set(dump.names)
    with np.errstate(all="ignore"):  # NaN and infinity in a dump are results, not accidents
        for name, ours in reference:
            if name in dump.mismatched:
                rows.append(_unlike(name, ours.shape, dump.mismatched[name][0], tolerance))
            elif name not in known or not ours.size:  # an empty batch compares to nothing
                missing.append(name)
            elif (theirs := dump[name]).shape != ours.shape:
                rows.append(_unlike(name, ours.shape, theirs.shape, tolerance))
            else:
                theirs = np.ascontiguousarray(theirs)
                within = max(tolerance, HALF_TOLERANCE) if _half(dump, name) else tolerance
                row = measure(name, ours, theirs, within)
                rows.append(row)
                seen[name] = fingerprint(ours), fingerprint(theirs)
                if ANOTHER_ORDER < row.error < inf and _same_values(ours, theirs, within):
                    reordered.append(name)
            del ours
        if not seen:
            raise TraceError(_nothing(dump, rows))
        warnings = [
            *_of_manifests(reference_manifest, dump.trace.manifest),
            *_of_values(rows, seen, reordered),
            *_of_names(rows, seen),
            *_of_storage(rows, dump),
        ]
    return Comparison(rows, warnings, tolerance, missing, dict(dump.unmatched))


def isolated(
    model: Model,
    pixels: Array,
    dump: "Dump",
    tolerance: float = 1e-4,
    reference_manifest: "Manifest | None" = None,
) -> Comparison:
    """As `compare` with the model's own run, and what each layer adds when fed their tensors.

    `added` is relative to the largest value that our layer computes from their inputs. Where the
    dump lacks the layers between, it is what all of them add together. It is NaN where their inputs
    make ours not finite, too: nobody can tell then.
    """
    images = check_pixels(pixels).astype(np.float32)
    settings = images, model.architecture, model.tensors, model.metadata
    own, fed = forward(*settings), forward(*settings)
    known, added = set(dump.names), dict[str, float]()

    def lockstep() -> Iterator[tuple[str, Array]]:
        theirs: Array | None = None
        for name, ours in own:
            computed = fed.send(theirs)[1]
            theirs = np.ascontiguousarray(dump[name], np.float32) if name in known else None
            if theirs is not None and theirs.shape != ours.shape:
                raise TraceError(f"{name}: of {by(theirs.shape)}, not {by(ours.shape)} as here")
            if theirs is not None and ours.size:
                finite = isfinite(float(computed.min())) and isfinite(float(computed.max()))
                added[name] = measure(name, computed, theirs, 0).error if finite else nan
            yield name, ours

    found = compare(lockstep(), dump, tolerance, reference_manifest)
    return found._replace(rows=[r._replace(added=added.get(r.layer)) for r in found.rows])


def measure(layer: str, ours: Array, theirs: Array, tolerance: float) -> Row:
    """The row of two tensors of one shape, summed in float64 a block of values at a time."""
    channels = ours.shape[-1]
    a, b = ours.reshape(-1, channels), theirs.reshape(-1, channels)
    largest, worst, at = 0.0, -1.0, 0
    signal = power = product = 0.0
    noise = np.zeros(channels)
    nans = infs = zeros = 0
    step = max(1, BLOCK // channels)
    for start in range(0, len(a), step):
        x, y = (side[start : start + step].astype(np.float64) for side in (a, b))
        zeros += x.size - int(np.count_nonzero(y))
        difference = np.abs(y - x)
        here = int(difference.argmax())  # the first NaN, if there is any
        if not isfinite(difference.flat[here]):
            nans += int(np.isnan(y).sum())
            infs += int(np.isinf(y).sum())
            difference[~np.isfinite(difference)] = inf
            here = int(difference.argmax())
        if difference.flat[here] > worst:
            worst, at = float(difference.flat[here]), start * channels + here
        largest = max(largest, float(x.max()), -float(x.min()))
        signal += float(np.vdot(x, x))
        power += float(np.vdot(y, y))
        product += float(np.vdot(x, y))
        noise += np.einsum("ij,ij->j", difference, difference)
    finite = isfinite(worst)
    error = max(worst, 0) / (largest or 1) if finite else inf
    status = "ok" if error <= tolerance else "DIFFERENT"
    snr = _decibels(signal, float(noise.sum()))
    cosine = _cosine(product, signal, power) if finite else nan
    place = tuple(map(int, np.unravel_index(at, ours.shape)))
    values = float(a.flat[at]), float(b.flat[at])
    measures = error, snr, cosine, nans, infs, zeros, place, int(noise.argmax())
    return Row(layer, ours.shape, *measures, status, tolerance, values)


def _cosine(product: float, signal: float, power: float) -> float:
    if not signal or not power:
        return float(signal == power)
    return min(1.0, max(-1.0, product / (sqrt(signal) * sqrt(power))))


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return inf
    return 10 * (log10(signal) - log10(noise)) if 0 < signal < inf and noise < inf else -inf


def _unlike(layer: str, shape: tuple[int, ...], found: tuple[int, ...], tolerance: float) -> Row:
    return Row(layer, shape, inf, -inf, nan, 0, 0, 0, (), 0, "shape", tolerance, found=found)


def _half(dump: "Dump", layer: str) -> bool:
    return dump.half and dump.trace.header(dump.theirs[layer])[1].name == "float16"


def _nothing(dump: "Dump", rows: list[Row]) -> str:
    where = f"{dump.trace.path}: no layer could be compared"
    if rows:
        return f"{where}; {rows[0].layer}: expected {by(rows[0].shape)}, found {by(rows[0].found)}"
    names = listing([repr(name) for name in dump.unmatched] or list(dump.names))
    return f"{where} with the reference, found {names}; --names says which is which"


# -- warnings -------------------------------------------------------------------------------------


class Print(NamedTuple):
    """What is kept of a tensor, to recognise it again."""

    digest: bytes
    sample: Array
    low: float
    high: float


def fingerprint(x: Array) -> Print:
    """Hash, range and a sample of a tensor; the sample is at the same places in one shape."""
    flat = x.reshape(-1)
    places = np.random.default_rng(0).integers(x.size, size=SAMPLE) if x.size > SAMPLE else ...
    digest = hashlib.sha1(np.ascontiguousarray(flat).data, usedforsecurity=False).digest()
    return Print(digest, flat[places].astype(np.float64), float(flat.min()), float(flat.max()))


def _same_values(ours: Array, theirs: Array, tolerance: float) -> bool:
    """Whether two tensors hold the same values, though in another order."""
    a, b = ours.reshape(-1), theirs.reshape(-1).astype(np.float32, copy=False)
    within = max(tolerance, 1e-5) * float(np.abs(a).max())
    if abs(float(a.min() - b.min())) > within or abs(float(a.max() - b.max())) > within:
        return False  # most that differ do already here, which saves the sorting
    return float(np.abs(np.sort(a) - np.sort(b)).max()) <= within


def _of_manifests(ours: "Manifest | None", theirs: "Manifest | None") -> Iterator[str]:
    """Two of our own traces say what they are of."""
    if ours is None or theirs is None:
        return
    if ours.image_sha256 != theirs.image_sha256:
        images = (
            f"{m.image_name or 'unnamed'} with {m.preprocessing or 'no'} preset"
            for m in (ours, theirs)
        )
        yield f"the two are not of the same pixels ({', '.join(images)})"
    if ours.weights_sha256 != theirs.weights_sha256:
        weights = dict.fromkeys(m.weights_name or "unnamed" for m in (ours, theirs))
        yield f"the two do not have the same weights ({', '.join(weights)})"


def _of_values(
    rows: list[Row], seen: dict[str, tuple[Print, Print]], reordered: list[str]
) -> Iterator[str]:
    """Layers whose values alone say that something is wrong."""
    strange = [row.layer for row in rows if row.nans or row.infs]
    if strange:
        yield f"NaN or infinity in OTHER, first in {strange[0]} ({len(strange)} layers in all)"
    if odd := [n for n, (o, _) in seen.items() if not (isfinite(o.low) and isfinite(o.high))]:
        yield f"NaN or infinity in REFERENCE itself: {listing(odd)}"
    flat = {n: t.low for n, (o, t) in seen.items() if t.low == t.high and o.low != o.high}
    if zeros := [name for name, value in flat.items() if value == 0]:
        yield f"all zeros in OTHER: {listing(zeros)}"
    if constant := [f"{name} ({value:g})" for name, value in flat.items() if value != 0]:
        yield f"constant in OTHER: {listing(constant)}"
    if reordered:
        yield (
            f"the same values in another order in OTHER: {listing(reordered)} "
            "(reshaped instead of transposed? channels or axes swapped?)"
        )


def _of_names(rows: list[Row], seen: dict[str, tuple[Print, Print]]) -> Iterator[str]:
    """One tensor under several names, and tensors under each other's names."""
    copies: dict[tuple[bytes, tuple[int, ...]], list[str]] = {}
    shapes = {row.layer: row.shape for row in rows if row.layer in seen}
    for name, (_, theirs) in seen.items():
        if theirs.low < theirs.high:  # those of one value or with NaN are warned of already
            copies.setdefault((theirs.digest, shapes[name]), []).append(name)
    for names in copies.values():
        if len({seen[name][0].digest for name in names}) > 1:
            yield f"one and the same tensor in OTHER under several names: {listing(names)}"

    different = [row.layer for row in rows if row.status == "DIFFERENT"]
    like = {n: _lookalikes(n, [m for m in seen if shapes[m] == shapes[n]], seen) for n in different}
    swapped = {n: next((m for m in like[n] if n in like.get(m, [])), None) for n in different}
    for name, other in swapped.items():
        if other and different.index(name) < different.index(other):
            yield f"{name} and {other} of OTHER look swapped"
    moved = [f"{n} (our {like[n][0]})" for n in different if like[n] and not swapped[n]]
    if moved:
        yield f"in OTHER these hold what is another layer of ours: {listing(moved)}"


def _lookalikes(
    name: str, candidates: list[str], seen: dict[str, tuple[Print, Print]]
) -> list[str]:
    """The layers of ours that theirs of this name is much nearer to than ours of this name is."""
    theirs = seen[name][1].sample

    def distance(layer: str) -> float:
        ours = seen[layer][0].sample
        size = float(np.linalg.norm(ours))
        return float(np.linalg.norm(theirs - ours)) / size if size else inf

    limit = min(LOOKS_LIKE, 0.1 * distance(name))
    found = {layer: far for layer in candidates if (far := distance(layer)) < limit}
    return sorted(found, key=lambda layer: found[layer])


def _of_storage(rows: list[Row], dump: "Dump") -> Iterator[str]:
    """What the dump's types, layouts and shapes leave open."""
    compared = {row.layer: row for row in rows}
    if half := [n for n, row in compared.items() if row.status != "shape" and _half(dump, n)]:
        within = compared[half[0]].tolerance
        yield f"stored as float16, so compared within {within:g}: {listing(half)}"
    status = {name: row.status for name, row in compared.items()}
    if unclear := [name for name in dump.ambiguous if status.get(name) == "DIFFERENT"]:
        yield f"as NHWC and as NCHW these fit: {listing(unclear)}; --layout says which it is"
    if extra := [name for name in dump.names if name not in compared]:
        yield f"not compared, as REFERENCE does not have them: {listing(extra)}"
    for row in rows:
        if row.layer in CLASSES and row.found[-1:] == (row.shape[-1] + 1,):
            yield (
                f"{row.layer}: {row.found[-1]} in OTHER for our {row.shape[-1]}, "
                "so class 0 is probably a background class that we have not"
            )


def by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
