"""How often a model is right on labelled photos."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tinymixnet import Model
from tinymixnet.engine.weights import read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import WeightsError

Item = TypeVar("Item")


def evaluate(
    weights: str | os.PathLike[str], photos: str | os.PathLike[str], write: bool = False
) -> float:
    """The share of photos whose best answer is their label; with write, noted in the weights file.

    photos is an .npz with `images` (N, H, W, 3) uint8 and `labels` (N,), class numbers. Each photo
    goes the way `Model.classify` sends it. Raises WeightsError when either file is not usable.
    """
    loaded = read_weights(weights)
    model = Model(*loaded)
    images, labels = _read_photos(photos, len(model.labels))
    right = 0
    for image, label in zip(with_progress(images), labels, strict=True):
        right += int(model(model.pixels(image)).argmax()) == label
    accuracy = right / len(labels)
    if write:
        text = f"top-1 {accuracy:.4f} on {len(labels)} photos of {os.path.basename(photos)}"
        halved = _stored_as_float16(weights)
        noted = loaded._replace(metadata=replace(loaded.metadata, accuracy=text))
        write_weights(weights, noted, float16=halved)
    return accuracy


def _read_photos(path: str | os.PathLike[str], classes: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except Exception as error:  # NumPy and zipfile raise nearly any type on damaged files
        raise WeightsError(f"{path}: expected an .npz with images and labels ({error})") from None
    fits = images.ndim == 4 and images.dtype == np.uint8 and labels.shape == images.shape[:1]
    if not fits or not len(labels) or labels.max() >= classes:
        raise WeightsError(
            f"{path}: expected images (N, H, W, 3) uint8 and labels (N,) below {classes}, found "
            f"{images.dtype} {images.shape} and {labels.shape}"
        )
    return images, labels


def _stored_as_float16(weights: str | os.PathLike[str]) -> bool:
    import h5py

    with h5py.File(weights, "r") as file:
        return file["stem/conv/kernel"].dtype == np.float16


def with_progress(items: Iterable[Item]) -> Iterable[Item]:
    """The items, with tqdm's bar where it is installed and someone looks."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, disable=not sys.stderr.isatty())
