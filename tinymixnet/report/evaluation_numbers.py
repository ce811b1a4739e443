"""What the page of an evaluation counts: classes, confusions, calibration, and remarkable photos.

Every function takes `predictions`, a structured array (N,) with a row a photo: `truth`, the number
of its class; `best` (5,), the most probable classes, the best first; `probability` (5,) of these.
"""

from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

BINS = 15  # of the calibration, equally wide: as in Guo et al., "On calibration", 2017


class ClassCount(NamedTuple):
    """How the photos of one class were answered."""

    number: int  # of the class
    photos: int
    first: int  # photos whose best answer is right
    five: int  # photos that have the truth among their five best answers
    mistake: int | None  # the most frequent wrong answer; None if there is none
    mistakes: int  # how often it is given

    @property
    def accuracy(self) -> float:
        return self.first / self.photos


class Pair(NamedTuple):
    """Two classes of which one is taken for the other; rows of photos, the surest first."""

    one: int
    other: int
    forth: Array  # rows of photos of `one` that are taken for `other`
    back: Array  # rows of photos of `other` that are taken for `one`


class Bin(NamedTuple):
    """The photos whose best answer has a probability above `low`, up to `high`."""

    low: float
    high: float
    photos: int
    right: int
    confidence: float  # the mean probability of the best answers; 0 if there are no photos

    @property
    def accuracy(self) -> float:
        return self.right / self.photos if self.photos else 0.0


def right(predictions: Array) -> Array:
    """Return whether the best answer is right, (N,) bool."""
    return predictions["best"][:, 0] == predictions["truth"]


def among_five(predictions: Array) -> Array:
    """Return whether the truth is among the five best answers, (N,) bool."""
    return (predictions["best"] == predictions["truth"][:, np.newaxis]).any(axis=1)


def confidence(predictions: Array) -> Array:
    """Return the probability of the best answer, (N,) float64."""
    return predictions["probability"][:, 0].astype(np.float64)


def count_classes(predictions: Array) -> list[ClassCount]:
    """Return the counts of all classes that have photos, the least accurate first."""
    first, five, answers = right(predictions), among_five(predictions), predictions["best"][:, 0]
    counts = []
    for number in np.unique(predictions["truth"]).tolist():
        own = predictions["truth"] == number
        wrong, times = np.unique(answers[own & ~first], return_counts=True)
        most = int(times.argmax()) if len(times) else None
        counts.append(
            ClassCount(
                number,
                int(own.sum()),
                int(first[own].sum()),
                int(five[own].sum()),
                None if most is None else int(wrong[most]),
                0 if most is None else int(times[most]),
            )
        )
    return sorted(counts, key=lambda count: (count.accuracy, -count.photos, count.number))


def confused_pairs(predictions: Array, most: int) -> list[Pair]:
    """Return the pairs of classes that are confused most often, in both directions together."""
    rows = confident_mistakes(predictions)
    truths, answers = predictions["truth"][rows], predictions["best"][rows, 0]
    pairs, counts = np.unique(
        np.stack([np.minimum(truths, answers), np.maximum(truths, answers)], 1),
        axis=0,
        return_counts=True,
    )
    result = []
    for one, other in pairs[np.argsort(-counts, kind="stable")[:most]].tolist():
        forth = rows[(truths == one) & (answers == other)]
        back = rows[(truths == other) & (answers == one)]
        if len(back) > len(forth):
            one, other, forth, back = other, one, back, forth
        result.append(Pair(one, other, forth, back))
    return result


def confident_mistakes(predictions: Array) -> Array:
    """Return the rows of the photos that are answered wrongly, the surest first."""
    rows = np.flatnonzero(~right(predictions))
    return rows[np.argsort(-confidence(predictions)[rows], kind="stable")]


def uncertain_answers(predictions: Array) -> Array:
    """Return the rows of the photos that are answered rightly, the least sure first."""
    rows = np.flatnonzero(right(predictions))
    return rows[np.argsort(confidence(predictions)[rows], kind="stable")]


def calibration(predictions: Array) -> list[Bin]:
    """Return the photos in BINS bins of equal width, by the probability of their best answer."""
    sure, correct = confidence(predictions), right(predictions)
    places = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        photos = int(inside.sum())
        mean = float(sure[inside].mean()) if photos else 0.0
        bins.append(Bin(place / BINS, (place + 1) / BINS, photos, int(correct[inside].sum()), mean))
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error (ECE): the mean distance of accuracy and confidence.

    Each bin counts as much as it has photos. 0 if there are none at all.
    """
    photos = sum(bin.photos for bin in bins)
    return sum(bin.photos * abs(bin.accuracy - bin.confidence) for bin in bins) / max(photos, 1)


def won_and_lost(predictions: Array, others: Array) -> tuple[int, int]:
    """Return how many photos only these answers have right, and how many only the others.

    Photos that are not in both count in neither.
    """
    _, here, there = np.intersect1d(predictions["file"], others["file"], return_indices=True)
    ours, theirs = right(predictions)[here], right(others)[there]
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
