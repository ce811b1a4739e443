"""The page of an evaluation: its numbers against naive ones, and the page in a real browser."""

from collections import Counter
from math import ceil

import numpy as np
import pytest

from tests.report.evaluations import answers
from tinymixnet.report.evaluation_numbers import (
    BINS,
    calibration,
    calibration_error,
    confident_mistakes,
    confused_pairs,
    count_classes,
    uncertain_answers,
)

# -- numbers --------------------------------------------------------------------------------------

SETS = {
    "some right": answers(500, 12),
    "all right": answers(40, 7, accuracy=1),
    "all wrong": answers(40, 1000, accuracy=0),
    "one photo": answers(1, 3),
    "one class": answers(9, 1),
}


@pytest.fixture(params=SETS)
def predictions(request: pytest.FixtureRequest) -> np.ndarray:
    return SETS[request.param]


def test_classes_are_counted(predictions: np.ndarray) -> None:
    counts = count_classes(predictions)
    assert sorted(count.number for count in counts) == sorted(set(predictions["truth"].tolist()))
    for count in counts:
        own = [row for row in predictions if row["truth"] == count.number]
        wrong = Counter(int(row["best"][0]) for row in own if row["best"][0] != row["truth"])
        assert count.photos == len(own)
        assert count.first == len(own) - sum(wrong.values())
        assert count.five == sum(row["truth"] in row["best"] for row in own)
        assert count.mistakes == max(wrong.values(), default=0)
        assert (count.mistake is None) == (not wrong)
        assert count.mistake is None or wrong[count.mistake] == count.mistakes
    accuracies = [count.accuracy for count in counts]
    assert accuracies == sorted(accuracies)


def test_calibration_is_that_of_a_naive_loop(predictions: np.ndarray) -> None:
    """15 bins of equal width; a probability on an edge belongs to the bin below it."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row in predictions:
        sure = float(row["probability"][0])
        bins[max(ceil(sure * 15) - 1, 0)].append((sure, bool(row["best"][0] == row["truth"])))
    error = 0.0
    for found, naive in zip(calibration(predictions), bins, strict=True):
        assert found.photos == len(naive)
        assert found.right == sum(right for _, right in naive)
        if naive:
            mean = sum(sure for sure, _ in naive) / len(naive)
            assert found.confidence == pytest.approx(mean)
            assert found.low - 1e-9 <= mean <= found.high + 1e-9
            error += abs(found.right / len(naive) - mean) * len(naive) / len(predictions)
    assert calibration_error(calibration(predictions)) == pytest.approx(error)


@pytest.mark.parametrize(("sure", "accuracy", "error"), [(1, 1, 0), (1, 0, 1), (0.5, 0, 0.5)])
def test_error_of_calibration_is_known(sure: float, accuracy: float, error: float) -> None:
    rows = answers(20, 9, accuracy)
    rows["best"][:, 0] = rows["truth"] + (1 - accuracy)
    rows["probability"][:, 0] = sure
    bins = calibration(rows)
    assert calibration_error(bins) == pytest.approx(error)
    assert [bin.photos for bin in bins].index(20) == ceil(sure * BINS) - 1


def test_pairs_are_confused_most(predictions: np.ndarray) -> None:
    wrong = [row for row in predictions if row["best"][0] != row["truth"]]
    naive = Counter(frozenset((int(row["truth"]), int(row["best"][0]))) for row in wrong)
    pairs = confused_pairs(predictions, 8)
    assert len(pairs) == min(len(naive), 8)
    assert [len(pair.forth) + len(pair.back) for pair in pairs] == [
        count for _, count in naive.most_common(8)
    ]
    for pair in pairs:
        assert len(pair.forth) >= len(pair.back)
        for truth, answer, rows in (
            (pair.one, pair.other, pair.forth),
            (pair.other, pair.one, pair.back),
        ):
            assert set(rows) == {
                i
                for i, row in enumerate(predictions)
                if row["truth"] == truth and row["best"][0] == answer
            }
            assert (np.diff(predictions["probability"][rows, 0]) <= 0).all()


def test_remarkable_photos_are_in_order(predictions: np.ndarray) -> None:
    right = predictions["best"][:, 0] == predictions["truth"]
    sure = predictions["probability"][:, 0]
    mistakes, uncertain = confident_mistakes(predictions), uncertain_answers(predictions)
    assert sorted(mistakes) == np.flatnonzero(~right).tolist()
    assert sorted(uncertain) == np.flatnonzero(right).tolist()
    assert (np.diff(sure[mistakes]) <= 0).all()
    assert (np.diff(sure[uncertain]) >= 0).all()
