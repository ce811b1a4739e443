"""A bar that shows on a terminal how far a long piece of work is."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

BAR = 30  # characters
LONGEST = 78  # characters of the line, so that it fits a terminal


def with_progress(
    items: Iterable[Item], total: int, words: Callable[[Item], str], shown: bool = True
) -> Iterator[Item]:
    """Yield the items one by one and draw a bar on standard error; remove it in the end.

    total: how many items come. words(item): what stands beside the bar while an item is worked on.
    Nothing is drawn unless standard error is a terminal and `shown` is true.
    """
    drawn = shown and sys.stderr is not None and sys.stderr.isatty()
    try:
        for done, item in enumerate(items):
            if drawn:
                bar = "#" * min(BAR * done // max(total, 1), BAR)
                text = f"[{bar:<{BAR}}] {done}/{total} {words(item)}"
                print(f"\r{text[:LONGEST]:<{LONGEST}}", end="", file=sys.stderr, flush=True)
            yield item
    finally:
        if drawn:
            print(f"\r{'':<{LONGEST}}\r", end="", file=sys.stderr, flush=True)
