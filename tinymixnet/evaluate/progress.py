"""A progress bar, where somebody can see it."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, done: int = 0) -> Iterator[Item]:
    """Return the items, with tqdm's progress bar where it is installed and stderr is a terminal.

    total: of all items; done: how many of these are not among the items, being done already.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return iter(items)
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(items)
    return iter(tqdm(items, total=total, initial=done, unit="photo"))
