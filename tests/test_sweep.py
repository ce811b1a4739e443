"""What the short run leaves out: combinations, but never a value; and every mark has its test."""

import re
from itertools import product
from types import SimpleNamespace

import pytest

from tests.conftest import MARKS, TESTS
from tests.support import sweep

LETTERS, NUMBERS = "abcde", (10, 20)


def case(mark, **params):
    """As much of a parametrised test as sweeps look at."""
    return SimpleNamespace(
        nodeid=f"test[{params}]",
        path="file",
        originalname="test",
        callspec=SimpleNamespace(params=params),
        get_closest_marker=lambda name: mark.mark if name == mark.name else None,
    )


def kept(mark):
    cases = [case(mark, letter=a, number=n) for a, n in product(LETTERS, NUMBERS)]
    left_out = {case.nodeid for case in sweep.left_out(cases)}
    return [tuple(c.callspec.params.values()) for c in cases if c.nodeid not in left_out]


def test_a_sweep_keeps_each_value_of_each_parameter():
    assert kept(pytest.mark.sweep) == [("a", 10), ("b", 20), ("c", 10), ("d", 20), ("e", 10)]


def test_a_sweep_of_some_values():
    assert kept(pytest.mark.sweep(letter=["b", "d", "e"])) == [("b", 10), ("d", 20), ("e", 10)]
    assert kept(pytest.mark.sweep(letter=["c"])) == [("c", 10), ("c", 20)]


def test_what_is_marked_whole_is_left_out():
    assert kept(pytest.mark.whole) == []
    assert len(kept(pytest.mark.parametrize)) == len(LETTERS) * len(NUMBERS)


@pytest.mark.parametrize(("path", "name"), MARKS)
def test_every_marked_test_exists(path, name):
    assert re.search(rf"^def {name}\(", (TESTS / path).read_text("utf-8"), re.MULTILINE)
