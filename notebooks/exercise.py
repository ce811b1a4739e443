"""The three exercises of each notebook, the same way in all of them.

Each exercise has four cells; the last three follow one another:

    Markdown      ### Exercise 1, and the question      (2 and 3 for the others)
    code          answer = None  # yours here           (tag "exercise")
    code, folded  check(answer, EXPECTED, hint="...")   (tag "check", jupyter.source_hidden)
    Markdown      <details><summary>Answer</summary>, one ```python block that assigns `answer`,
                  </details>

Where the answer is a function, the check calls it: check(answer, EXPECTED, hint, given=(x, y))
compares answer(x, y) with EXPECTED.

The tests (tests/notebooks) run the block inside <details> and then the folded cell, and expect
"Right.", so the hidden answers stay right. EXPECTED is computed, by the package where it can be.
"""

from typing import Any

import numpy as np

LONGEST = 300  # characters of an answer that the reader is shown again


def check(answer: Any, expected: Any, hint: str, given: tuple[Any, ...] | None = None) -> None:
    """Print whether an answer is right; None is not an answer yet.

    Takes numbers, strings, bytes, sets, and lists, tuples or arrays of numbers. A float may be off
    by 1 in 1000, or by a millionth of the largest expected value.

    With given, the answer must be a function; what it returns for these arguments is compared.
    """
    if answer is None:
        print(f"No answer yet. Hint: {hint}")
        return
    if given is not None:
        if not callable(answer):
            print(f"Not yet: the answer must be a function, not {_short(answer)}. Hint: {hint}")
            return
        answer = answer(*given)
        if answer is None:
            print(f"Not yet: the function returns None; does it end in `return`? Hint: {hint}")
            return
    if _same(answer, expected):
        print("Right.")
    else:
        verb = "is not it" if given is None else "is what the function returns, but not it"
        print(f"Not yet: {_short(answer)} {verb}. Hint: {hint}")


def _same(answer: Any, expected: Any) -> bool:
    for kind in (str, bytes, set):
        if isinstance(answer, kind) or isinstance(expected, kind):
            both = isinstance(answer, kind) and isinstance(expected, kind)
            return both and bool(answer == expected)
    try:
        a, b = np.asarray(answer), np.asarray(expected)
    except ValueError:  # lists of unequal lengths are no array
        return False
    if a.shape != b.shape or not {a.dtype.kind, b.dtype.kind} <= set("biuf"):
        return bool(np.array_equal(a, b))
    if "f" not in (a.dtype.kind, b.dtype.kind):
        return bool(np.array_equal(a, b))
    largest = np.abs(b).max(initial=0)
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-6 * largest))


def _short(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
