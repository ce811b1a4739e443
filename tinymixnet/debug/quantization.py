"""What integers in a dump stand for: real value = (integer - zero point) * scale.

Scales stand in a JSON file beside the dump: `quantization.json` in a folder, or NAME.json next to
NAME.npz or NAME.h5. It holds an object for each tensor, under the name that the tensor has there:

    {"quantization": {
        "Conv_3": {"scale": 0.0235, "zero_point": 128},
        "Conv_4": {"scale": [0.011, 0.024, ...], "zero_point": 0, "axis": 1}}}

`zero_point` is 0 if it is missing. Lists are one number for each channel, and `axis` is the axis of
the channels in the stored shape; without it, it is the only axis of that length.
"""

from collections.abc import Callable, Collection
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.debug.arrays import reading
from tinymixnet.debug.strict_json import LARGEST_JSON, read_json
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import TraceError, short_repr

BESIDE = "quantization.json"
LARGEST = 1e30  # of a scale: nothing that anybody measures
LIKENESS = 0.5  # lowest correlation with our values at which a scale is guessed from them


class Quantization(NamedTuple):
    """How the integers of one tensor are read."""

    scale: Array  # float32: one number, or one for each channel
    zero_point: Array  # the same
    axis: int | None = None  # of the channels

    def real(self, q: Array) -> Array:
        """Return what integers stand for, float32."""
        shape = [1] * q.ndim
        if self.axis is not None:
            shape[self.axis] = self.scale.size
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        return ((q.astype(np.float32) - zero_point) * scale).astype(np.float32, copy=False)


def read_quantization(
    dump: Path, names: Collection[str], shape_of: Callable[[str], tuple[int, ...]]
) -> dict[str, Quantization]:
    """Return how the tensors of a dump are quantised, by name; {} without a file that says so.

    names and shape_of: the dump's tensors. A NAME.json that speaks of no scales is something else,
    such as a map of names, and is passed over. Raises TraceError.
    """
    path = dump / BESIDE if dump.is_dir() else dump.with_suffix(".json")
    if path == dump or not path.is_file():
        return {}
    with reading(path):
        with open(path, "rb") as stream:
            data = stream.read(LARGEST_JSON + 1)
        if path.name != BESIDE and b'"scale"' not in data:
            return {}
        fields = read_json(data)
        entries = fields.get("quantization", fields) if isinstance(fields, dict) else fields
        if not isinstance(entries, dict):
            raise TraceError('expected {"quantization": {"a tensor": {"scale": 0.1}}}')
        known = {name: entry for name, entry in entries.items() if name in names}
        if entries and not known:
            first = short_repr(next(iter(entries)))
            raise TraceError(f"none of its tensors is in {dump.name}; the first is {first}")
        return {name: _checked(name, entry, shape_of(name)) for name, entry in known.items()}


def guess_quantization(q: Array, ours: Array) -> Quantization | None:
    """Guess scale and zero point of integers from what ours computes for the same layer.

    q and ours have one shape. The straight line through both is taken, without values at the ends
    of the type, which may be cut off. None if the two are too little alike.
    """
    limits = np.iinfo(q.dtype)
    theirs, real = q.ravel().astype(np.float64), ours.ravel().astype(np.float64)
    used = (q.ravel() > limits.min) & (q.ravel() < limits.max) & np.isfinite(real)
    if used.sum() < 3:
        return None
    theirs, real = theirs[used] - theirs[used].mean(), real[used]
    centred = real - real.mean()
    spread, together = float(centred @ centred), float(centred @ theirs)
    if spread <= 0 or together <= LIKENESS * (spread * float(theirs @ theirs)) ** 0.5:
        return None
    scale = spread / together
    zero_point = round(float(q.ravel()[used].mean(dtype=np.float64) - real.mean() / scale))
    return Quantization(np.array([scale], np.float32), np.array([zero_point], np.float32))


def _checked(name: str, entry: Any, shape: tuple[int, ...]) -> Quantization:
    where = f"{name[:80]!r}"
    if not isinstance(entry, dict) or not {"scale"} <= {*entry} <= {"scale", "zero_point", "axis"}:
        raise TraceError(f"{where}: expected scale, zero_point and axis, found {short_repr(entry)}")
    scale = _numbers(where, "scale", entry["scale"])
    zero_point = _numbers(where, "zero_point", entry.get("zero_point", 0))
    if scale.min() <= 0:
        raise TraceError(f"{where}: scale: expected a number above 0, found {scale.min():g}")
    count = max(scale.size, zero_point.size)
    if {scale.size, zero_point.size} - {1, count}:
        raise TraceError(f"{where}: {scale.size} scales, but {zero_point.size} zero points")
    axis: int | None = None
    if count > 1:
        fits = [i for i, size in enumerate(shape) if size == count]
        given = entry.get("axis", fits[0] if len(fits) == 1 else None)
        axis = next((i for i in fits if given in (i, i - len(shape))), None)
        if axis is None or type(given) is not int:
            raise TraceError(
                f"{where}: {count} scales do not fit the shape {shape}: expected as many as there "
                "are channels, and `axis`, the axis of these"
            )
    scale, zero_point = np.broadcast_to(scale, count), np.broadcast_to(zero_point, count)
    return Quantization(scale, zero_point, axis)


def _numbers(where: str, what: str, value: Any) -> Array:
    values = value if isinstance(value, list) else [value]
    for number in values:
        if type(number) not in (int, float) or not isfinite(number) or abs(number) > LARGEST:
            raise TraceError(f"{where}: {what}: expected a number, found {short_repr(number)}")
    if not values:
        raise TraceError(f"{where}: {what}: expected a number, found an empty list")
    return np.array(values, np.float32)
