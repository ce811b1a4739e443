"""Made-up answers of a network, with photos that can be told apart by their colour."""

import re
from collections.abc import Sequence

import numpy as np

from tinymixnet.errors import ImageError
from tinymixnet.evaluate.results import Results, Skipped, prediction_type


def answers(photos: int, classes: int, accuracy: float = 0.6, seed: int = 0) -> np.ndarray:
    """Rows of predictions of random photos; about `accuracy` of them are right.

    Some classes stay without photos, and the probabilities go up to 1 and down to 0.
    """
    rng = np.random.default_rng(seed)
    rows = np.zeros(photos, prediction_type(20))
    places = min(5, classes)
    for i, row in enumerate(rows):
        row["file"] = f"class/{i}.png"
        row["truth"] = rng.integers(classes)
        best = rng.permutation(classes)[:places]
        if rng.random() < accuracy:
            best = np.r_[row["truth"], best[best != row["truth"]]][:places]
        row["best"] = -1
        row["best"][:places] = best
        row["probability"][:places] = np.sort(rng.dirichlet(np.full(5, rng.uniform(0.05, 2))))[
            ::-1
        ][:places]
    return rows


def results(
    predictions: np.ndarray,
    labels: Sequence[str] = (),
    preset: str = "square",
    skipped: Sequence[Skipped] = (),
    name: str = "network",
    data: str = "photos",
) -> Results:
    """Results as `read_results` gives them; without labels there are 20 classes."""
    labels = list(labels) or [f"label {i}" for i in range(20)]
    header = {
        "format": "tinymixnet evaluation",
        "version": 1,
        "made_by": "tests",
        "weights": {"name": name},
        "preset": preset,
        "preset_parameters": {},
        "input_size": 128,
        "data": {"name": data, "kind": "folder", "sha256": "", "photos": len(predictions)},
        "labels": labels,
        "classes": list(range(len(labels))),
    }
    return Results(header, predictions, tuple(skipped))


def read_photo(file: str) -> np.ndarray:
    """A photo of one colour, which its number decides; those that end in 7 are lost."""
    number = int(re.findall(r"\d+", file)[-1])
    if number % 10 == 7:
        raise ImageError(f"{file}: no such file")
    return np.full((120, 160, 3), colour(number), np.uint8)


def colour(number: int) -> tuple[int, int, int]:
    return 40 * (number % 6), 40 * (number // 6 % 6), 40 * (number // 36 % 6)
