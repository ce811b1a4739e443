"""The check of an exercise: what it says to right answers, wrong ones and none."""

import importlib.util

import numpy as np
import pytest

from tests.notebooks.series import FOLDER


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("exercise", FOLDER / "exercise.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3, 3),
        (3.001, 3),
        ((1, 2), [1, 2]),
        ("stem/conv", "stem/conv"),
        ({"a", "b"}, {"b", "a"}),
        (np.str_("stem/conv"), "stem/conv"),
        (b"\xac\x02", b"\xac\x02"),
        (np.array([1e-9, 1000], np.float32), [0.0, 1000.0]),
    ],
)
def test_right(check, capsys, answer, expected):
    check(answer, expected, "think")
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3.01, 3.0),
        (4, 3),
        (10**6 + 1, 10**6),
        ("3", 3),
        ("certainly wrong", np.zeros(3)),
        (b"1", b"1\0"),
        ([1, 2, 3], [1, 2]),
        ([[1], [2, 3]], [1, 2]),
        ({"a"}, {"b", "a"}),
        ({1}, [1]),
        (float("nan"), 1.0),
        (double, 3),
    ],
)
def test_wrong(check, capsys, answer, expected):
    check(answer, expected, "think")
    assert capsys.readouterr().out.startswith("Not yet: ")


def test_none_gets_the_hint(check, capsys):
    check(None, 3, "think")
    check(None, 3, "think", given=(1,))
    assert capsys.readouterr().out == "No answer yet. Hint: think\n" * 2


def test_a_function_is_called(check, capsys):
    check(double, 6, "think", given=(3,))
    check(double, 7, "think", given=(3,))
    check(6, 6, "think", given=(3,))
    check(lambda x: None, 6, "think", given=(3,))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "Right.",
        "Not yet: 6 is what the function returns, but not it. Hint: think",
        "Not yet: the answer must be a function, not 6. Hint: think",
        "Not yet: the function returns None; does it end in `return`? Hint: think",
    ]


def test_a_long_answer_is_cut(check, capsys):
    check(list(range(10_000)), 3, "think")
    assert len(capsys.readouterr().out) < 400
