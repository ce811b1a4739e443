"""A progress bar, where somebody can see it."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

# The items, how many there are in all, how many of these are done already and not among the items,
# and what is done with them, in a word.
Progress = Callable[[Iterable[Any], int, int, str], Iterable[Any]]


def without_progress(items: Iterable[Any], total: int, done: int, doing: str) -> Iterable[Any]:
    """Return the items, and show nothing."""
    return items


def with_progress(items: Iterable[Any], total: int, done: int, doing: str) -> Iterable[Any]:
    """Return the items, with tqdm's progress bar where it is installed and stderr is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=doing, total=total, initial=done, unit="photo")
