"""Read the names of the classes from a text file, one on each line."""

import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.weights import LARGEST_LABEL
from tinymixnet.errors import CheckpointError, InputError, short_repr
from tinymixnet.evaluate.imagenet import imagenet_classes
from weights_tools.formats.refusals import open_plain_file

# What changes the text around it: the byte-order mark, and the marks for the writing direction.
_INVISIBLE = set("\ufeff\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def read_labels(path: str | os.PathLike[str] | None, classes: int) -> tuple[str, ...]:
    """Return the labels in a text file; without one, ImageNet's for 1000 classes, else none.

    The file has one label for each class, one on each line. It is UTF-8, with or without a
    byte-order mark, or UTF-16 with one; lines end as on Unix or on Windows. Empty lines at the end
    do not count. Raises CheckpointError when the file cannot be read, has another number of lines,
    or a label is empty, longer than 1024 bytes or has control characters.
    """
    _check_classes(classes)
    if path is None:
        if classes != 1000:
            return ()
        return tuple(c.label for c in imagenet_classes())
    labels = tuple(line.strip() for line in _lines(as_path(path), classes))
    try:
        check_labels(labels, classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return labels


def _lines(path: Path, classes: int) -> list[str]:
    """Return the lines of a text file with a line for each class, without empty ones at its end."""
    try:
        lines = re.split("\r\n|\n|\r", _decode(_read(path, classes)))
        while lines and not lines[-1].strip():
            lines.pop()
        return lines or [""]
    except (OSError, ValueError, MemoryError) as error:  # ValueError: not text in this encoding
        raise CheckpointError(f"{path}: labels cannot be read ({error})") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_classes(path: str | os.PathLike[str] | None, classes: int) -> dict[str, Any]:
    """Return what a file says of the classes, as fields of `Metadata`.

    A .tsv is a table with a first row of names. Its column `label` has the labels, and where there
    are columns `wordnet_id` and `imagenet_index`, these are read as well; a column `class` has to
    count from 0. Any other file has labels alone, as `read_labels` takes them. Raises
    CheckpointError.
    """
    _check_classes(classes)
    if path is None or as_path(path).suffix != ".tsv":
        return {"labels": read_labels(path, classes)}
    header, *rows = (line.split("\t") for line in _lines(Path(path), classes + 1))
    if "label" not in header or any(len(row) != len(header) for row in rows):
        raise CheckpointError(
            f"{path}: expected a table with a column `label`, and in each row {len(header)} fields "
            "with a tab between them"
        )
    columns = {name: tuple(row[i] for row in rows) for i, name in enumerate(header)}
    numbers = tuple(map(str, range(classes)))
    try:
        check_labels(columns["label"], classes)
        if columns.get("class", numbers) != numbers:
            raise CheckpointError(f"the column `class` does not count from 0 to {classes - 1}")
        return {
            "labels": columns["label"],
            "wordnet_ids": columns.get("wordnet_id", ()),
            "imagenet_indices": tuple(map(int, columns.get("imagenet_index", ()))),
        }
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_classes(classes: object) -> None:
    if not isinstance(classes, (int, np.integer)) or isinstance(classes, bool) or classes < 1:
        found = short_repr(classes)
        raise InputError(f"classes: expected a whole number from 1 on, found {found}")


def check_labels(labels: Iterable[str], classes: int) -> None:
    """Raise CheckpointError unless there is a label for each class and each is fit to be shown."""
    labels = tuple(labels)
    if len(labels) != classes or not all(labels):
        raise CheckpointError(
            f"expected {classes} labels, one a line, found {len(labels)} lines, "
            f"{labels.count('')} of them empty"
        )
    for number, label in enumerate(labels, start=1):
        size = len(label.encode())
        if size > LARGEST_LABEL:
            raise CheckpointError(
                f"label {number} has {size:,} bytes, at most {LARGEST_LABEL:,} are allowed"
            )
        if not all(map(_is_visible, label)):
            raise CheckpointError(
                f"label {number}, {label[:80]!a}, has control characters: remove them"
            )


def _read(path: Path, classes: int) -> bytes:
    limit = (classes + 1) * 2 * LARGEST_LABEL  # UTF-16 may take twice the bytes of UTF-8
    with open_plain_file(path, "expected a text file with one label a line") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        size = path.stat().st_size
        raise CheckpointError(f"expected {classes} labels, one a line, found {size:,} bytes")
    return content


def _decode(content: bytes) -> str:
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _is_visible(character: str) -> bool:
    """Whether a character may stand in a label. Control characters could change a terminal."""
    category = unicodedata.category(character)
    return category not in ("Cc", "Cs", "Zl", "Zp") and character not in _INVISIBLE
