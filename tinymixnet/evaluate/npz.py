"""Labelled photos in an .npz: `labels` (N,), and `images`, or `jpeg` and `offsets`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from tinymixnet.debug.arrays import Hdf5Arrays, NpyFiles, open_arrays
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import Header
from tinymixnet.errors import InputError, TinyMixNetError, printable

EXPECTED = (
    "expected an .npz with labels (N,) from 0 on and images (N, H, W, 3) uint8, or with jpeg, the "
    "bytes of files, and offsets (N + 1,)"
)


def read_npz(path: Path) -> tuple[Sequence[np.ndarray | bytes], np.ndarray]:
    """Return the photos and the class numbers (N,) of an .npz.

    The photos are arrays (H, W, 3) uint8 or the bytes of image files. Shapes and types are checked
    before anything is read. Raises InputError.
    """
    try:
        arrays = open_arrays(path)
        packed = "jpeg.npy" in arrays.files
        names = ("jpeg", "offsets", "labels") if packed else ("images", "labels")
        for name in names:
            if f"{name}.npy" not in arrays.files:
                raise InputError(f"{EXPECTED}, found no {name}")
        headers = {name: _header(arrays, name) for name in names}
        if not (_files_fit if packed else _images_fit)(headers):
            shapes = (f"{name} {dtype} {shape}" for name, (shape, dtype) in headers.items())
            raise InputError(f"{EXPECTED}, found {', '.join(shapes)}")
        for name, (shape, dtype) in headers.items():
            budget.check("layer_bytes", prod(shape) * dtype.itemsize, name)
        labels = arrays.read("labels.npy")
        if int(labels.min()) < 0:
            highest = int(labels.max())
            raise InputError(f"{EXPECTED}, found labels from {int(labels.min())} to {highest}")
        if packed:
            return _cut(arrays.read("jpeg.npy"), arrays.read("offsets.npy")), labels
        return [*arrays.read("images.npy")], labels
    except (TinyMixNetError, OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = str(error).removeprefix(f"{printable(path)}: ")
        raise InputError(f"{path}: {reason}") from None
    except Exception as error:  # zipfile and zlib raise nearly any type on damaged files
        raise InputError(f"{path}: {EXPECTED} ({error})") from None


def _images_fit(headers: Mapping[str, Header]) -> bool:
    (shape, dtype), labels = headers["images"], headers["labels"]
    fits = len(shape) == 4 and dtype == np.uint8 and 0 not in shape and shape[3] == 3
    return fits and labels.shape == shape[:1] and labels.dtype.kind in "iu"


def _files_fit(headers: Mapping[str, Header]) -> bool:
    jpeg, offsets, labels = headers["jpeg"], headers["offsets"], headers["labels"]
    fits = len(jpeg.shape) == 1 and jpeg.dtype == np.uint8
    fits = fits and len(labels.shape) == 1 and labels.shape[0] > 0
    fits = fits and offsets.shape == (labels.shape[0] + 1,)
    return fits and {labels.dtype.kind, offsets.dtype.kind} <= {"i", "u"}


def _cut(files: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """Cut the bytes of many files, which lie one after another, into one for each file."""
    ends = [int(offset) for offset in offsets]
    if ends[0] != 0 or ends[-1] != len(files) or any(b <= a for a, b in pairwise(ends)):
        raise InputError(f"expected offsets that rise from 0 to {len(files)}, the bytes of jpeg")
    content = files.tobytes()
    return [content[start:end] for start, end in pairwise(ends)]


def _header(arrays: NpyFiles | Hdf5Arrays, name: str) -> Header:
    try:
        return arrays.header(f"{name}.npy")
    except TinyMixNetError as error:
        raise InputError(f"{name}: {error}") from None
