"""Measure how often weights are right on labelled photos, and note it in their file."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import WeightsError
from tinymixnet.evaluate.progress import with_progress
from tinymixnet.model import Model


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

    photos is what `Model.evaluate` takes. With write, the result is noted in the weights file.
    Raises WeightsError when the weights are not usable or a photo cannot be read, InputError when
    the photos are not usable.
    """
    loaded = read_weights(weights)
    if write and Path(weights).is_symlink():  # it would be replaced by a file
        raise WeightsError(f"{weights}: a symbolic link; to write, name the file itself")
    results = Model(*loaded).evaluate(photos, progress=with_progress)
    for file, _, reason in results.skipped:  # the accuracy of a file is one on all photos
        raise WeightsError(f"{photos}: {file}: {reason}")
    accuracy = Accuracy(results.top1, results.top5, results.photos)
    if write:
        text = f"{accuracy} on {accuracy.photos:,} photos of {os.path.basename(photos)}"
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
