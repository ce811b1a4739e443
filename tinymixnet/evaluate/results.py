"""The results of an evaluation, and the file in which they grow: docs/evaluate.md describes it.

The file has one JSON object a line. The first is the header, which says what was evaluated. Each
further one is a photo's row, in the order in which `data.py` puts the photos. Lines are only ever
appended, each with a single write, so whatever ends a run tears at most the last line.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.debug.strict_json import read_json
from tinymixnet.errors import InputError, TinyMixNetError, printable, short_repr
from tinymixnet.evaluate.listing import LONGEST_NAME
from tinymixnet.evaluate.statistics import wilson

FORMAT, VERSION = "tinymixnet evaluation", 1
START = f'{{"format": "{FORMAT}"'.encode()  # the first bytes of every such file
BEST = 5  # answers that are kept of each photo
LONGEST_LINE = 1 << 22  # bytes; a header with 1000 labels has 30,000
HEADER = {  # the parts of a header, and their types
    "format": str,
    "version": int,
    "made_by": str,
    "weights": dict,
    "preset": str,
    "preset_parameters": dict,
    "input_size": int,
    "data": dict,
    "labels": list,
    "classes": list,
}


class Row(NamedTuple):
    """One photo: its name, the number of its class, and the best answers or why there are none."""

    file: str
    truth: int
    best: tuple[tuple[int, float], ...] = ()  # (class, probability), the best first
    skipped: str = ""  # why the photo could not be read

    def as_json(self) -> dict[str, Any]:
        if self.skipped:
            return {"file": self.file, "truth": self.truth, "skipped": self.skipped}
        # Of float32, the fewest digits that give the same number again.
        best = [[index, float(str(np.float32(p)))] for index, p in self.best]
        return {"file": self.file, "truth": self.truth, "best": best}


class Skipped(NamedTuple):
    """A photo that could not be read."""

    file: str
    truth: int
    reason: str


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation has found so far.

    header: what was evaluated: a dict, see docs/evaluate.md. predictions (N,): a structured array
    with a row for each photo that was answered: `file`; `truth`, the number of its class; `best`
    (5,), the most probable classes, the best first; `probability` (5,) of these. Where the weights
    have fewer than five classes, `best` ends in -1. skipped: the photos that could not be read.
    """

    header: Mapping[str, Any]
    predictions: np.ndarray
    skipped: tuple[Skipped, ...] = ()
    seconds: float = field(default=0.0, compare=False)  # of this run; 0 for results of a file
    answered_now: int = field(default=0, compare=False)  # photos in these seconds

    def __repr__(self) -> str:
        shares = f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f}"
        name = self.header["weights"]["name"]
        return f"Results({name}, {self.header['preset']}, {shares}, {self.photos:,} photos)"

    def timed(self, seconds: float, answered: int) -> "Results":
        """Return the results with what the run took that answered so many of the photos."""
        return replace(self, seconds=seconds, answered_now=answered)

    @property
    def photos(self) -> int:
        """How many photos were answered."""
        return len(self.predictions)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the classes of the weights are called."""
        return tuple(self.header["labels"])

    @property
    def right1(self) -> int:
        """The photos whose best answer is right."""
        return int((self.predictions["best"][:, 0] == self.predictions["truth"]).sum())

    @property
    def right5(self) -> int:
        """The photos that have the truth among their five best answers."""
        hits = self.predictions["best"] == self.predictions["truth"][:, np.newaxis]
        return int(hits.any(axis=1).sum())

    @property
    def top1(self) -> float:
        """The share of photos whose best answer is right; NaN without photos."""
        return self.right1 / self.photos if self.photos else float("nan")

    @property
    def top5(self) -> float:
        """The share of photos with the truth among their five best answers; NaN without photos."""
        return self.right5 / self.photos if self.photos else float("nan")

    @property
    def interval1(self) -> tuple[float, float]:
        """The 95 % interval of top1, see `statistics.wilson`."""
        return wilson(self.right1, self.photos)

    @property
    def interval5(self) -> tuple[float, float]:
        """The 95 % interval of top5, see `statistics.wilson`."""
        return wilson(self.right5, self.photos)


def prediction_type(longest_name: int) -> np.dtype:
    """Return the type of a row of `Results.predictions`, for names of up to so many characters."""
    return np.dtype(
        [
            ("file", f"U{max(longest_name, 1)}"),
            ("truth", "i4"),
            ("best", "i4", (BEST,)),
            ("probability", "f4", (BEST,)),
        ]
    )


def collect(header: Mapping[str, Any], rows: Iterable[Row]) -> Results:
    """Return the results that rows make."""
    every = list(rows)
    answered = [row for row in every if not row.skipped]
    longest = max((len(row.file) for row in answered), default=1)
    predictions = np.zeros(len(answered), prediction_type(longest))
    predictions["best"] = -1
    for i, row in enumerate(answered):
        predictions["file"][i], predictions["truth"][i] = row.file, row.truth
        for place, (index, probability) in enumerate(row.best):
            predictions["best"][i, place] = index
            predictions["probability"][i, place] = probability
    skipped = tuple(Skipped(row.file, row.truth, row.skipped) for row in every if row.skipped)
    return Results(header, predictions, skipped)


def write_line(value: Mapping[str, Any]) -> bytes:
    """Return a header or a row as a line of the file."""
    return json.dumps(value, allow_nan=False).encode("ascii") + b"\n"


# -- reading --------------------------------------------------------------------------------------


def read_results(path: str | os.PathLike[str]) -> Results:
    """Return the results in a file; a last line without an end is not counted.

    Raises InputError when the path is not a file of results or is damaged.
    """
    header, rows, _ = read_rows(path)
    if header is None:
        raise InputError(f"{path}: no results in it: it ends within its first line")
    return collect(header, rows)


def read_rows(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any] | None, list[Row], int]:
    """Return the header, the rows, and how many bytes of a file are whole lines.

    The header is None if not even the first line is whole. Raises InputError.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"results: expected a path, found {short_repr(path)}")
    header: dict[str, Any] | None = None
    rows: list[Row] = []
    whole = number = 0
    try:
        if not Path(path).is_file():
            kind = "not a file" if os.path.lexists(path) else "no such file"
            raise InputError(f"{kind}; expected results that `tinymixnet evaluate -o` has written")
        with open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if header is None:
                    _check_start(line)
                if not line.endswith(b"\n"):
                    if len(line) == LONGEST_LINE:
                        raise InputError(f"longer than {LONGEST_LINE:,} bytes")
                    break
                if header is None:
                    header = _header(read_json(line))
                else:
                    rows.append(_row(read_json(line), len(header["labels"])))
                whole += len(line)
    except (TinyMixNetError, OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        line_name = f"line {number}: " if number else ""
        raise InputError(f"{path}: {line_name}{reason}") from None
    return header, rows, whole


def _check_start(line: bytes) -> None:
    if line[: len(START)] != START[: len(line)]:
        raise InputError("not the results of an evaluation: it was not written by `evaluate -o`")


def _header(value: Any) -> dict[str, Any]:
    """Return a header whose parts are of the right types."""
    if value.get("version") != VERSION:
        found = short_repr(value.get("version"))
        raise InputError(f"expected version {VERSION} of the format, found {found}")
    for name, kind in HEADER.items():
        if type(value.get(name)) is not kind:
            found = short_repr(value.get(name))
            raise InputError(f"header: {name}: expected {kind.__name__}, found {found}")
    labels = value["labels"]
    if not labels or not all(type(label) is str for label in labels):
        raise InputError("header: labels: expected a text for each class")
    if type(value["weights"].get("name")) is not str:
        raise InputError("header: weights: expected a name")
    for name, kind in {"name": str, "kind": str, "sha256": str, "photos": int}.items():
        if type(value["data"].get(name)) is not kind:
            raise InputError(f"header: data: expected {name}, {kind.__name__}")
    if not all(type(index) is int and 0 <= index < len(labels) for index in value["classes"]):
        raise InputError(f"header: classes: expected numbers below {len(labels)}")
    return value


def _row(value: Any, classes: int) -> Row:
    """Return a row whose values are of the right types and in their ranges."""
    if not isinstance(value, dict) or value.keys() - {"best", "skipped"} != {"file", "truth"}:
        raise InputError("expected a photo: file, truth, and best or skipped")
    file, truth = value["file"], value["truth"]
    if type(file) is not str or len(file) > LONGEST_NAME or not _is_class(truth, classes):
        raise InputError(f"expected a file and the number of a class, found {short_repr(value)}")
    if type(value.get("skipped")) is str and value["skipped"] and "best" not in value:
        return Row(file, truth, skipped=value["skipped"])
    best: Any = value.get("best")
    if not isinstance(best, list) or "skipped" in value:
        raise InputError(f"{printable(file, 80)}: expected either best or skipped")
    pairs = [pair for pair in best if _is_answer(pair, classes)]
    if len(pairs) != min(BEST, classes) or len({index for index, _ in pairs}) < len(best):
        raise InputError(
            f"{printable(file, 80)}: expected the {min(BEST, classes)} best classes, each with its "
            f"probability, found {short_repr(best)}"
        )
    return Row(file, truth, tuple((index, probability) for index, probability in pairs))


def _is_answer(pair: Any, classes: int) -> bool:
    """Whether a value from a file is a class and its probability."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and _is_class(pair[0], classes)
        and type(pair[1]) in (int, float)
        and 0 <= pair[1] <= 1 + 1e-6
    )


def _is_class(index: Any, classes: int) -> bool:
    return type(index) is int and 0 <= index < classes
