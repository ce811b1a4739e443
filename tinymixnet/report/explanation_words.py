"""An explanation in words, for the terminal and for the headings of its pictures."""

import numpy as np

from tinymixnet.engine.explain import Explanation, strongest
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import printable
from tinymixnet.report.text import LONGEST_NAME

SHARE = 0.75  # of the largest value: from here on, a cell gets the strongest character
LARGEST_TEXT = 10  # rows and columns of a map on the terminal; two maps then fit beside each other


def sentence(explanation: Explanation) -> str:
    """The answer and its reasons in plain words."""
    label, rival = (printable(name, LONGEST_NAME) for name in explanation.labels)
    first, second = (percent(value) for value in explanation.probabilities)
    answer = f"{first} {label}"
    if explanation.probabilities[0] >= explanation.probabilities[1]:
        answer += f", then {rival} with {second}."
    else:
        answer += f", after {rival} with {second}."
    return f"{answer} {_reason(explanation)}"


def _reason(explanation: Explanation) -> str:
    """What adds most, and what happens when a part is hidden."""
    part, strength = strongest_part(explanation, explanation.maps[0])
    if strength > 0:
        reason = f"The part {part} speaks for it most"
    else:
        reason = f"Every part speaks against it, the one {part} least"
    before, lowest = explanation.probabilities[0], explanation.occlusion.min()
    if percent(lowest) == percent(before) or lowest > before:
        return f"{reason}. Wherever a grey square hides a part, it does not fall."
    place = lowest_place(explanation)
    if place == part:
        return f"{reason}: hidden by a grey square there, it falls to {percent(lowest)}."
    return f"{reason}. A grey square {place} lowers it most, to {percent(lowest)}."


def where_seen(explanation: Explanation) -> str:
    """Which part of the photo the maps cover."""
    height, width, _ = explanation.pixels.shape
    size = f"{width} × {height} pixels"
    if explanation.photo_box is None:
        return f"The maps lie over what the network saw, {size}."
    left, top, right, bottom = (round(side) for side in explanation.photo_box)
    return (
        f"The network saw columns {left} to {right} and rows {top} to {bottom} of the photo, "
        f"as {size}."
    )


def text(explanation: Explanation) -> str:
    """The sentence, and both maps in characters."""
    names = [printable(name, 30) for name in explanation.labels]
    both = explanation.contributions
    largest = float(np.abs(both).max())
    rows, columns = (min(size, LARGEST_TEXT) for size in both.shape[1:])
    blocks = [_characters(_averages(cells, rows, columns), largest) for cells in both]
    wide = max(len(blocks[0][0]), len(names[0])) + 4
    lines = [sentence(explanation), "", f"  {names[0]:<{wide}}{names[1]}"]
    lines += [f"  {a:<{wide}}{b}".rstrip() for a, b in zip(*blocks, strict=True)]
    return "\n".join([*lines, "", "  ++ + speaks for it   . neither   - -- speaks against it"])


def _characters(cells: Array, largest: float) -> list[str]:
    """A map in characters, a line for each row of cells."""
    signs = {2: "++", 1: " +", 0: " .", -1: " -", -2: "--"}
    rows = []
    for row in cells / (largest or 1):
        levels = np.sign(row) * np.searchsorted([SHARE / 4, SHARE], np.abs(row), side="right")
        rows.append(" ".join(signs[int(level)] for level in levels))
    return rows


# -- numbers and places ----------------------------------------------------------------------------


def percent(probability: float) -> str:
    """0.976 -> 97.6 %, 0.41 -> 41 %, 0.0002 -> 0.02 %, 1 -> over 99.9 %"""
    value = round(100 * float(probability), 3)
    if value > 99.9 or value < 0.01:
        return "over 99.9 %" if value > 1 else "under 0.01 %"
    digits = 0 if 10 <= value < 90 else 1 if value >= 1 else 2
    return f"{value:.{digits}f} %"


def strongest_part(explanation: Explanation, cells: Array) -> tuple[str, float]:
    """The ninth of the photo in which a map is largest on average: (where it is, that average)."""
    rows, columns = (3 if size > 1 else 1 for size in cells.shape)  # a single cell is the middle
    averages = _averages(explanation.spread(cells), rows, columns)
    row, column = strongest(averages, 1)[0]
    name = part_name(row if rows > 1 else 1, column if columns > 1 else 1)
    return name, float(averages[row, column])


def _averages(values: Array, rows: int, columns: int) -> Array:
    """Divide values (h, w) into rows x columns parts and return the mean of each."""
    for axis, parts in enumerate((rows, columns)):
        edges = np.linspace(0, values.shape[axis], parts + 1).astype(int)
        sums = np.add.reduceat(values, edges[:-1], axis)
        values = sums / np.expand_dims(np.diff(edges), 1 - axis)
    return values


def lowest_place(explanation: Explanation) -> str:
    """Say in which ninth of the photo a grey square lowers the probability most."""
    row, column = strongest(-explanation.occlusion, 1)[0]
    rows, columns = explanation.occlusion.shape
    return part_name(3 * (2 * row + 1) // (2 * rows), 3 * (2 * column + 1) // (2 * columns))


def part_name(row: int, column: int) -> str:
    """A part of the photo, of 3 x 3, in words.

    >>> [part_name(0, 0), part_name(1, 1), part_name(1, 2), part_name(2, 1)]
    ['at the top left', 'in the middle', 'on the right', 'at the bottom']
    """
    side = ("left", "", "right")[column]
    if row == 1:
        return f"on the {side}" if side else "in the middle"
    return f"at the {('top', '', 'bottom')[row]} {side}".rstrip()
