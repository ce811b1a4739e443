"""The result of `compare`: a table for a terminal, and JSON for programs."""

from typing import Any

from tinymixnet.debug.compare import Comparison
from tinymixnet.debug.measure import LISTED, format_shape, join_names
from tinymixnet.debug.strict_json import json_values
from tinymixnet.errors import printable

HEADINGS = "layer status shape error added rounding dB cosine NaN Inf zero worst ch"
LEGEND = (
    "error: of the largest value; dB: signal to noise; ch: worst channel; ADDS: by its own fault"
)

PRECISION_LEGEND = (
    "error: of the largest value; added: by this layer; rounding: its share in what is added;\n"
    "coarse: rounding explains it; BEYOND: it does not"
)


def cells(comparison: Comparison) -> list[list[str]]:
    """Return the table as text: a row of headings, then a row for each layer."""
    left_out = set()
    if not any(row.added is not None for row in comparison.rows):
        left_out.add("added")
    if not comparison.precision:
        left_out.add("rounding")
    lines = [HEADINGS.split()]
    for row in comparison.rows:
        added = "" if row.added is None else _short(row.added)
        size = format_shape(row.shape[1:])
        if row.status == "shape":
            lines.append(
                [row.layer, "SHAPE", size, "", added, *[""] * 6, format_shape(row.found), ""]
            )
            continue
        status = "DIFF" if row.status == "DIFFERENT" else row.status
        if row.guilty and not comparison.precision:
            status = "ADDS"
        cosine = f"{row.cosine:.{4 if row.cosine >= 0 else 3}f}"
        share = "" if row.explained is None else f"{row.explained:.0%}"
        measures = [_short(row.error), added, share, f"{row.snr:.0f}", cosine]
        counts = map(_count, (row.nans, row.infs, row.zeros))
        worst = ",".join(map(str, row.worst[1:] if row.shape[0] == 1 else row.worst))
        place = [worst, str(row.channel)] if row.error else ["", ""]
        lines.append([row.layer, status, size, *measures, *counts, *place])
    kept = [i for i, heading in enumerate(lines[0]) if heading not in left_out]
    return [[line[i] for i in kept] for line in lines]


def _summary(comparison: Comparison) -> list[str]:
    """Return the answer, then one line for each warning and each name without a layer.

    Names of theirs are somebody else's text, so it is made safe to show.
    """
    rows, first, guilty = comparison.rows, comparison.first, comparison.guilty
    row_of = {row.layer: row for row in rows}
    if comparison.precision:
        lines = [precision_summary(comparison)]
    elif first is None:
        lines = [f"alike: {len(rows)} layers within {comparison.tolerance:g}"]
    elif row_of[first].status == "shape":
        row = row_of[first]
        shapes = f"expected {format_shape(row.shape)}, found {format_shape(row.found)}"
        lines = [f"first difference: {first} ({shapes})"]
    else:
        row = row_of[first]
        worst = f"worst at {','.join(map(str, row.worst))}: ours {row.values[0]:.6g}, "
        worst += f"theirs {row.values[1]:.6g}; worst channel {row.channel}"
        lines = [f"first difference: {first} (error {_short(row.error)}, {worst})"]
    if guilty and not comparison.precision:
        added = _short(row_of[guilty].added or 0)
        lines.append(f"first layer that adds an error: {guilty} ({added})")
    lines += [f"warning: {warning}" for warning in comparison.warnings]
    if comparison.missing:
        absent = comparison.missing
        some = "s" * (len(absent) > 1)
        lines.append(f"{len(absent)} layer{some} not in OTHER: {join_names(absent)}")
    for name, guess in list(comparison.unmatched.items())[:LISTED]:
        lines.append(f"no layer of ours: {name!r}" + (f" (meant as {guess}?)" if guess else ""))
    if len(comparison.unmatched) > LISTED:
        lines.append(f"and {len(comparison.unmatched) - LISTED} more names of theirs (see --json)")
    return [printable(line) for line in lines]


def precision_summary(comparison: Comparison) -> str:
    """Return the answer for a port that is judged by its own precision."""
    how, rows = comparison.precision, comparison.rows
    first = next((row for row in rows if row.layer == comparison.first), None)
    coarse = sum(row.status == "coarse" for row in rows)
    if first is None:
        return f"none of {len(rows)} layers is beyond {how}: rounding explains {coarse}"
    if first.status == "shape":
        shapes = f"expected {format_shape(first.shape)}, found {format_shape(first.found)}"
        return f"first layer beyond {how}: {first.layer} ({shapes})"
    beyond = sum(row.status == "BEYOND" for row in rows)
    added = "" if first.added is None else f"adds {_short(first.added)}, "
    return (
        f"first layer beyond {how}: {first.layer} ({added}rounding makes "
        f"{_short(first.rounding or 0)}); beyond it in all: {beyond}, merely coarse: {coarse}"
    )


def table(comparison: Comparison) -> str:
    """Return text for a terminal: the answer, the warnings, and a line of 100 columns a layer."""
    lines = cells(comparison)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        " ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    )
    legend = PRECISION_LEGEND if comparison.precision else LEGEND
    return "\n".join([*_summary(comparison), "", *map(str.rstrip, aligned), "", legend])


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the same as `table` as values that JSON has, for programs.

    JSON has no infinity and no NaN: they become null.
    """
    result = comparison._asdict()
    result["rows"] = [json_values(row._asdict()) for row in comparison.rows]
    summary = {"alike": comparison.alike, "first": comparison.first, "guilty": comparison.guilty}
    return summary | result


def _short(x: float) -> str:
    text = f"{x:.2g}" if x >= 1e-3 or x == 0 else f"{x:.1e}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def _count(n: int) -> str:
    return str(n) if n < 1000 else f"{n / 1e3:.0f}k" if n < 999_500 else f"{n / 1e6:.1f}M"
