"""Measure how often a model is right on labelled photos."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tinymixnet.debug.arrays import Hdf5Arrays, NpyFiles, open_arrays
from tinymixnet.debug.checks import as_path
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import Hdf5File, Header
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import TinyMixNetError, WeightsError, printable
from tinymixnet.model import Model

Item = TypeVar("Item")


class Accuracy(NamedTuple):
    """The shares of photos whose label is the best answer, and among the five best."""

    top1: float
    top5: float
    photos: int

    def __str__(self) -> str:
        return f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f}"


def evaluate(
    weights: str | os.PathLike[str], photos: str | os.PathLike[str], write: bool = False
) -> Accuracy:
    """Measure how often the label of a photo is the best answer, and among the five best.

    photos is an .npz with `labels` (N,), class numbers, and either `images` (N, H, W, 3) uint8, or
    `jpeg`, the bytes of N image files one after another, and `offsets` (N + 1,), where each begins
    and the last ends. Each photo is prepared as `Model.classify` does it. With write, the result is
    noted in the weights file. Raises WeightsError when either file is not usable.
    """
    loaded = read_weights(weights)
    if write and Path(weights).is_symlink():  # it would be replaced by a file
        raise WeightsError(f"{weights}: a symbolic link; to write, name the file itself")
    model = Model(*loaded)
    images, labels = _read_photos(as_path(photos), len(model.labels))
    first = fifth = 0
    for image, label in zip(with_progress(images), labels, strict=True):
        [logits] = model(model.pixels(image))
        better = int((logits > logits[label]).sum())
        first += better < 1
        fifth += better < 5
    accuracy = Accuracy(first / len(labels), fifth / len(labels), len(labels))
    if write:
        text = f"{accuracy} on {len(labels):,} photos of {os.path.basename(photos)}"
        _note(weights, loaded, text)
    return accuracy


def _note(path: str | os.PathLike[str], evaluated: Weights, accuracy: str) -> None:
    """Write the weights again with their accuracy, unless the file changed in the meantime."""
    now = read_weights(path)
    same = now[::2] == evaluated[::2] and all(
        np.array_equal(tensor, now.tensors[name]) for name, tensor in evaluated.tensors.items()
    )
    if not same:
        raise WeightsError(f"{path}: changed while it was evaluated; the accuracy is not noted")
    stem = Hdf5File(path, isolated=False).header("stem/conv/kernel")
    metadata = replace(evaluated.metadata, accuracy=accuracy)
    write_weights(path, evaluated._replace(metadata=metadata), float16=stem.dtype == np.float16)


def _read_photos(path: Path, classes: int) -> tuple[Sequence[np.ndarray | bytes], np.ndarray]:
    """Return images and labels of an .npz, once their shapes and types are known to be right."""
    expected = (
        f"expected an .npz with labels (N,) below {classes} and images (N, H, W, 3) uint8, or with "
        "jpeg, the bytes of files, and offsets (N + 1,)"
    )
    try:
        if path.is_dir():
            raise WeightsError(f"a folder, {expected}")
        arrays = open_arrays(path)
        packed = "jpeg.npy" in arrays.files
        names = ("jpeg", "offsets", "labels") if packed else ("images", "labels")
        for name in names:
            if f"{name}.npy" not in arrays.files:
                raise WeightsError(f"{expected}, found no {name}")
        headers = {name: _header(arrays, name) for name in names}
        if not (_files_fit if packed else _images_fit)(headers):
            shapes = (f"{name} {dtype} {shape}" for name, (shape, dtype) in headers.items())
            raise WeightsError(f"{expected}, found {', '.join(shapes)}")
        for name, (shape, dtype) in headers.items():
            budget.check("layer_bytes", prod(shape) * dtype.itemsize, name)
        labels = arrays.read("labels.npy")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= classes:
            raise WeightsError(f"{expected}, found labels from {lowest} to {highest}")
        if packed:
            return _cut(arrays.read("jpeg.npy"), arrays.read("offsets.npy")), labels
        return [*arrays.read("images.npy")], labels
    except (TinyMixNetError, OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = str(error).removeprefix(f"{printable(path)}: ")
        raise WeightsError(f"{path}: {reason}") from None
    except Exception as error:  # zipfile and zlib raise nearly any type on damaged files
        raise WeightsError(f"{path}: {expected} ({error})") from None


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
        raise WeightsError(f"expected offsets that rise from 0 to {len(files)}, the bytes of jpeg")
    content = files.tobytes()
    return [content[start:end] for start, end in pairwise(ends)]


def _header(arrays: NpyFiles | Hdf5Arrays, name: str) -> Header:
    try:
        return arrays.header(f"{name}.npy")
    except TinyMixNetError as error:
        raise WeightsError(f"{name}: {error}") from None


def with_progress(items: Iterable[Item]) -> Iterable[Item]:
    """Return the items, with tqdm's progress bar where it is installed and stderr is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, disable=not sys.stderr.isatty())
