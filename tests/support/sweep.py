"""How much the slow tests try: a part of it by default, everything with `pytest --whole`.

A test that has many cases says with a mark which of them a default run may leave out:

    @pytest.mark.whole                  the test, or one pytest.param of it, needs --whole
    @pytest.mark.sweep                  each value of each parameter at least once, not all pairs
    @pytest.mark.sweep(name=("a", "b"))    the same, with these values of `name` only

and a test that repeats something many times asks `number(short, whole)` how often. The marks are
applied in tests/conftest.py.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

whole = False  # tests/conftest.py sets it before any test module is imported


def number(short: int, whole_number: int) -> int:
    """Return how often to repeat something: `short` times, or `whole_number` with --whole."""
    return whole_number if whole else short


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests and cases that a run without --whole leaves out."""
    marked = [item for item in items if item.get_closest_marker("whole")]
    sweeps: dict[tuple[Any, str], list[Any]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep") and hasattr(item, "callspec"):
            sweeps[item.path, item.originalname].append(item)
    for cases in sweeps.values():
        marked += beside_the_diagonal(cases)
    return marked


def beside_the_diagonal(cases: Sequence[Any]) -> list[Any]:
    """Return the cases of one parametrised test that its sweep leaves out.

    The values of the longest parameter are all kept, and each is combined with one value of every
    other parameter, in turn: (a, 0), (b, 1), (c, 0), ...
    """
    wanted: dict[str, Sequence[Any]] = cases[0].get_closest_marker("sweep").kwargs
    chosen = [
        case
        for case in cases
        if all(case.callspec.params[name] in values for name, values in wanted.items())
    ]
    axes = {  # of each parameter the values, which are the same objects in every case
        name: list(dict.fromkeys(id(case.callspec.params[name]) for case in chosen))
        for name in cases[0].callspec.params
    }
    longest = max(axes, key=lambda name: len(axes[name]))

    def is_on_the_diagonal(case: Any) -> bool:
        places = {name: axes[name].index(id(case.callspec.params[name])) for name in axes}
        return all(places[name] == places[longest] % len(axis) for name, axis in axes.items())

    kept = {case.nodeid for case in chosen if is_on_the_diagonal(case)}
    return [case for case in cases if case.nodeid not in kept]
