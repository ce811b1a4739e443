"""The warnings of `compare`: signs that a dump is not what it seems to be."""

import hashlib
from collections.abc import Iterator
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.manifest import Manifest
from tinymixnet.debug.measure import Row, join_names
from tinymixnet.debug.traces import Trace
from tinymixnet.engine.kernels import Array

SAMPLE = 1024  # values of a layer that are kept, to recognise it under another name
LOOKS_LIKE = 0.03  # RMS distance of two samples / RMS of the layer; about a cosine of 0.9995
CLASSES = ("logits", "probabilities")


class Fingerprint(NamedTuple):
    """What we keep of a tensor to recognise it later."""

    digest: bytes
    sample: Array
    low: float
    high: float


def fingerprint(x: Array) -> Fingerprint:
    """Return hash, range and a sample of a tensor. Tensors of one shape are sampled alike."""
    flat = x.reshape(-1)
    places = np.random.default_rng(0).integers(x.size, size=SAMPLE) if x.size > SAMPLE else ...
    digest = hashlib.sha1(np.ascontiguousarray(flat).data, usedforsecurity=False).digest()
    return Fingerprint(
        digest, flat[places].astype(np.float64), float(flat.min()), float(flat.max())
    )


def same_values(ours: Array, theirs: Array, tolerance: float) -> bool:
    """Whether two tensors hold the same values in another order."""
    a, b = ours.reshape(-1), theirs.reshape(-1).astype(np.float32, copy=False)
    within = max(tolerance, 1e-5) * float(np.abs(a).max())
    if abs(float(a.min() - b.min())) > within or abs(float(a.max() - b.max())) > within:
        return False  # most tensors that differ end here, without the slow sorting
    return float(np.abs(np.sort(a) - np.sort(b)).max()) <= within


def manifest_warnings(ours: Manifest | None, trace: Trace) -> Iterator[str]:
    """Warn if two traces of ours, or an exercise, are of different pixels or weights."""
    if ours is None:
        return
    if trace.exercise and trace.exercise.get("image_sha256") != ours.image_sha256:
        yield f"this exercise was made from other pixels, of {trace.exercise.get('image')}"
    theirs = trace.manifest
    if theirs is None:
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


def value_warnings(
    rows: list[Row], seen: dict[str, tuple[Fingerprint, Fingerprint]], reordered: list[str]
) -> Iterator[str]:
    """Warn of layers whose values alone show that something is wrong."""
    strange = [row.layer for row in rows if row.nans or row.infs]
    if strange:
        yield f"NaN or infinity in OTHER, first in {strange[0]} ({len(strange)} layers in all)"
    if odd := [n for n, (o, _) in seen.items() if not (isfinite(o.low) and isfinite(o.high))]:
        yield f"NaN or infinity in REFERENCE itself: {join_names(odd)}"
    flat = {n: t.low for n, (o, t) in seen.items() if t.low == t.high and o.low != o.high}
    if zeros := [name for name, value in flat.items() if value == 0]:
        yield f"all zeros in OTHER: {join_names(zeros)}"
    if constant := [f"{name} ({value:g})" for name, value in flat.items() if value != 0]:
        yield f"constant in OTHER: {join_names(constant)}"
    if reordered:
        yield (
            f"the same values in another order in OTHER: {join_names(reordered)} "
            "(reshaped instead of transposed? channels or axes swapped?)"
        )


def name_warnings(
    rows: list[Row], seen: dict[str, tuple[Fingerprint, Fingerprint]]
) -> Iterator[str]:
    """Warn of one tensor under several names, and of tensors under each other's names."""
    copies: dict[tuple[bytes, tuple[int, ...]], list[str]] = {}
    shapes = {row.layer: row.shape for row in rows if row.layer in seen}
    for name, (_, theirs) in seen.items():
        if theirs.low < theirs.high:  # constants and NaN have a warning already
            copies.setdefault((theirs.digest, shapes[name]), []).append(name)
    for names in copies.values():
        if len({seen[name][0].digest for name in names}) > 1:
            yield f"one and the same tensor in OTHER under several names: {join_names(names)}"

    different = [row.layer for row in rows if row.status == "DIFFERENT"]
    like = {n: _lookalikes(n, [m for m in seen if shapes[m] == shapes[n]], seen) for n in different}
    swapped = {n: next((m for m in like[n] if n in like.get(m, [])), None) for n in different}
    for name, other in swapped.items():
        if other and different.index(name) < different.index(other):
            yield f"{name} and {other} of OTHER look swapped"
    moved = [f"{n} (our {like[n][0]})" for n in different if like[n] and not swapped[n]]
    if moved:
        yield f"in OTHER these hold what is another layer of ours: {join_names(moved)}"


def _lookalikes(
    name: str, candidates: list[str], seen: dict[str, tuple[Fingerprint, Fingerprint]]
) -> list[str]:
    """Return our layers that their layer of this name looks like, the nearest first.

    It must be ten times nearer to them than to our layer of this name.
    """
    theirs = seen[name][1].sample

    def distance(layer: str) -> float:
        ours = seen[layer][0].sample
        size = float(np.linalg.norm(ours))
        return float(np.linalg.norm(theirs - ours)) / size if size else inf

    limit = min(LOOKS_LIKE, 0.1 * distance(name))
    distances = {layer: distance(layer) for layer in candidates}
    near = [layer for layer in candidates if distances[layer] < limit]
    return sorted(near, key=lambda layer: distances[layer])


def storage_warnings(rows: list[Row], dump: Dump) -> Iterator[str]:
    """Warn where the dump's types, layouts or shapes leave room for doubt."""
    compared = {row.layer: row for row in rows}
    if half := [
        n for n, row in compared.items() if row.status != "shape" and stored_as_half(dump, n)
    ]:
        within = compared[half[0]].tolerance
        yield f"stored as float16, so compared within {within:g}: {join_names(half)}"
    if guessed := [name for name in compared if name in dump.guessed]:
        yield (
            "8-bit integers without scale, so scale and zero point are guessed from ours: "
            f"{join_names(guessed)}; a JSON file beside OTHER can say them (docs/traces.md)"
        )
    if unscaled := [name for name in compared if name in dump.unscaled]:
        yield (
            "8-bit integers without scale, and too unlike ours to guess one: "
            f"{join_names(unscaled)}; a JSON file beside OTHER can say it (docs/traces.md)"
        )
    status = {name: row.status for name, row in compared.items()}
    if unclear := [name for name in dump.ambiguous if status.get(name) == "DIFFERENT"]:
        yield f"as NHWC and as NCHW these fit: {join_names(unclear)}; --layout says which it is"
    if extra := [name for name in dump.names if name not in compared]:
        yield f"not compared, as REFERENCE does not have them: {join_names(extra)}"
    for row in rows:
        if row.layer in CLASSES and row.found[-1:] == (row.shape[-1] + 1,):
            yield (
                f"{row.layer}: {row.found[-1]} in OTHER for our {row.shape[-1]}, "
                "so class 0 is probably a background class that we have not"
            )


def stored_as_half(dump: Dump, layer: str) -> bool:
    """Whether the dump holds a layer as float16."""
    return dump.half and dump.headers[dump.theirs[layer]].dtype.name == "float16"
