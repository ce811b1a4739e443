"""The exercise of each notebook, the same way in all of them.

Four cells, the second to the fourth in this order:

    Markdown      ## Exercise, and the question
    code          answer = None  # yours here          (tag "exercise")
    code, folded  check(answer, EXPECTED, hint="...")   (tag "check", jupyter.source_hidden)
    Markdown      <details><summary>Answer</summary>, a ```python block `answer = ...`, </details>

The tests (tests/notebooks) run the block inside <details> and then the folded cell, and expect
"Right": so the hidden answer stays right. EXPECTED is computed, by the package where it can be.
"""

from typing import Any

import numpy as np


def check(answer: Any, expected: Any, hint: str) -> None:
    """Say whether an answer is right: None is not an answer yet, floats may be off by 1 in 1000.

    Takes numbers, strings, and lists, tuples or arrays of numbers, and sets.
    """
    if answer is None:
        print(f"No answer yet. Hint: {hint}")
    elif _same(answer, expected):
        print("Right.")
    else:
        print(f"Not yet: {answer!r} is not it. Hint: {hint}")


def _same(answer: Any, expected: Any) -> bool:
    if isinstance(expected, (set, str)) or isinstance(answer, str):
        return bool(answer == expected)
    a, b = np.asarray(answer), np.asarray(expected)
    if a.shape != b.shape or not {a.dtype.kind, b.dtype.kind} <= set("biuf"):
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a, b, rtol=1e-3 if "f" in (a.dtype.kind, b.dtype.kind) else 0))
