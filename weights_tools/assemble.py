"""What `extract` and `convert` share: find the variant, and see that the output may be written."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinymixnet.engine.architecture import VARIANTS, Architecture, mixnet
from tinymixnet.engine.files import check_output
from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.metadata import check_format
from tinymixnet.engine.weights import count_problems
from tinymixnet.errors import CheckpointError, printable
from weights_tools.formats.labels import read_classes

MAX_PROBLEMS = 8  # that a message lists; the rest is only counted

StrPath = str | os.PathLike[str]


def find_variant(
    source: str, classes: int, problems: Callable[[Architecture], list[str]], variant: str | None
) -> Architecture:
    """Return the variant, of all or only the one asked for, with which nothing is wrong.

    problems lists what is wrong with an architecture. Raises CheckpointError with the problems of
    the nearest variant when each has some.
    """
    candidates = [mixnet(name, classes) for name in ([variant] if variant else VARIANTS)]
    attempts = [(problems(architecture), architecture) for architecture in candidates]
    wrong, nearest = min(attempts, key=lambda pair: len(pair[0]))
    if wrong:
        asked = "it is not" if variant else "no known network; nearest is"
        count = count_problems(wrong)
        raise CheckpointError(f"{source}: {asked} {nearest.variant}, {count}: {list_some(wrong)}")
    return nearest


def list_some(items: list[str]) -> str:
    """Join the first few items for a message, each cut to a readable length and printable."""
    shown = [item if len(item) <= 200 else f"{item[:200]}..." for item in items[:MAX_PROBLEMS]]
    more = len(items) - len(shown)
    return printable("; ".join(shown)) + (f"; and {more} more" if more else "")


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return the values as float32; what is too large becomes infinite, which a writer refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32)


def file_sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return content_hash(file, "sha256")


def content_hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def content_hash(file: IO[bytes], algorithm: str) -> str:
    """Return the hash of what is left to read of an open file, as hexadecimal digits."""
    digest = hashlib.new(algorithm)
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def find_labels(path: StrPath | None, classes: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the classes: from a file of labels, else from the model's notes."""
    if path is None and known.get("labels"):
        return {"labels": known["labels"]}
    return read_classes(path, classes)


def check_weights_output(output: StrPath, inputs: Iterable[StrPath | None] = ()) -> None:
    """Raise InputError unless a weights file may be written at this path.

    There may be nothing yet, an empty file, or a weights file that a tool of ours wrote earlier.
    """
    check_output(output, inputs=inputs, own=_may_be_replaced)


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is empty or a weights file."""
    if path.stat().st_size == 0:
        return True
    try:
        check_format(Hdf5File(path, isolated=False).structure.attributes)
    except Exception:  # the HDF5 library raises nearly any type on other files
        return False
    return True
