"""What `extract` and `convert` share: find the variant, and see that the output may be written."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tinymixnet.engine.architecture import VARIANTS, Architecture, mixnet
from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.metadata import check_format
from tinymixnet.errors import CheckpointError, printable

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
    misfits = [(problems(architecture), architecture) for architecture in candidates]
    wrong, nearest = min(misfits, key=lambda pair: len(pair[0]))
    if wrong:
        asked = "it is not" if variant else "no known network; nearest is"
        count = f"{len(wrong)} thing{'s' * (len(wrong) > 1)} wrong"
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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_weights_output(output: StrPath, inputs: Iterable[StrPath | None] = ()) -> None:
    """Raise CheckpointError unless a weights file may be written at this path.

    There may be nothing yet, an empty file, or a weights file that a tool of ours wrote earlier.
    All else could be somebody's work.
    """
    path = Path(output)
    try:
        if not path.parent.is_dir():
            raise CheckpointError(f"{output}: there is no folder {path.parent}")
        if path.is_symlink():
            raise CheckpointError(f"{output}: a symbolic link; name the file itself")
        if not path.exists():
            return
        if not path.is_file():
            raise CheckpointError(f"{output}: not a plain file; name another output")
        for given in inputs:
            if given is not None and os.path.exists(given) and os.path.samefile(given, output):
                raise CheckpointError(f"{output}: is also the input; name another output")
        if not _may_be_replaced(path):
            raise CheckpointError(
                f"{output}: is there already and is no weights file; name another output, or "
                "remove it first"
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CheckpointError(f"{output}: cannot be written ({error})") from None


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is empty or a weights file."""
    if path.stat().st_size == 0:
        return True
    try:
        check_format(Hdf5File(path, isolated=False).structure.attributes)
    except Exception:  # the HDF5 library raises nearly any type on other files
        return False
    return True
