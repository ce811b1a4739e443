"""Measure how often a model is right on labelled photos."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from tinymixnet.debug.arrays import Hdf5Arrays, NpyFiles, open_arrays
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import Hdf5File, Header
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import TinyMixNetError, WeightsError
from tinymixnet.model import Model

Item = TypeVar("Item")


def evaluate(
    weights: str | os.PathLike[str], photos: str | os.PathLike[str], write: bool = False
) -> float:
    """Return the share of photos whose best answer is their label.

    photos is an .npz with `images` (N, H, W, 3) uint8 and `labels` (N,), class numbers. Each photo
    is prepared as `Model.classify` does it. With write, the result is noted in the weights file.
    Raises WeightsError when either file is not usable.
    """
    loaded = read_weights(weights)
    if write and Path(weights).is_symlink():  # it would be replaced by a file
        raise WeightsError(f"{weights}: a symbolic link; to write, name the file itself")
    model = Model(*loaded)
    images, labels = _read_photos(Path(photos), len(model.labels))
    right = 0
    for image, label in zip(with_progress(images), labels, strict=True):
        right += int(model(model.pixels(image)).argmax()) == label
    accuracy = right / len(labels)
    if write:
        photos_name = os.path.basename(photos)
        _note(weights, loaded, f"top-1 {accuracy:.4f} on {len(labels)} photos of {photos_name}")
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


def _read_photos(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of an .npz, once their shapes and types are known to be right."""
    expected = f"expected an .npz with images (N, H, W, 3) uint8 and labels (N,) below {classes}"
    try:
        if path.is_dir():
            raise WeightsError(f"a folder, {expected}")
        arrays = open_arrays(path)
        for name in ("images", "labels"):
            if f"{name}.npy" not in arrays.files:
                raise WeightsError(f"{expected}, found no {name}")
        image_shape, image_type = _header(arrays, "images")
        label_shape, label_type = _header(arrays, "labels")
        fits = len(image_shape) == 4 and image_type == np.uint8
        fits = fits and 0 not in image_shape and image_shape[3] == 3
        fits = fits and label_shape == image_shape[:1] and label_type.kind in "iu"
        if not fits:
            raise WeightsError(
                f"{expected}, found {image_type} {image_shape} and {label_type} {label_shape}"
            )
        budget.check("layer_bytes", prod(image_shape), "images")
        images, labels = arrays.read("images.npy"), arrays.read("labels.npy")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= classes:
            raise WeightsError(f"{expected}, found labels from {lowest} to {highest}")
    except (TinyMixNetError, OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = str(error).removeprefix(f"{path}: ")
        raise WeightsError(f"{path}: {reason}") from None
    except Exception as error:  # zipfile and zlib raise nearly any type on damaged files
        raise WeightsError(f"{path}: {expected} ({error})") from None
    return images, labels


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
