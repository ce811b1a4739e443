"""What a comparison says: the cause, the first difference, and a table of all layers."""

from math import inf, log10

from tinymixnet.debug.causes import Cause
from tinymixnet.debug.tables import LEGEND, PRECISION_LEGEND, cells, precision_summary
from tinymixnet.errors import LONGEST_TEXT
from tinymixnet.report.data import ReportData
from tinymixnet.report.elements import scrolling_table, table_cells
from tinymixnet.report.layers import difference
from tinymixnet.report.text import format_number, format_shape, to_html

NOTES = 100  # lines at most about what could not be compared
CAUSES = 10  # that are described in full
UNKNOWN = "unknown"  # the slug of a cause for which `diagnose` has no name


def dump_name(data: ReportData) -> str:
    assert data.dump is not None
    return to_html(data.dump.trace.path.name)


def headline(data: ReportData) -> str:
    """Return the answer in a line, for the title of the page and of the window."""
    name = dump_name(data)
    if data.first is None:
        return f"No difference: {name} computes what our network computes"
    known = [cause.slug for cause in causes(data) if cause.slug != UNKNOWN]
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    cause = f"{', '.join(known[:3])}{more}: " if known else ""
    return f"{cause}{name} first differs at {data.first}"


def causes(data: ReportData) -> tuple[Cause, ...]:
    return data.diagnosis.causes if data.diagnosis else ()


def verdict(data: ReportData, picture: str) -> str:
    """Say what is wrong with the other implementation, and what could not be compared.

    picture: of the layer that differs first, ours and theirs side by side.
    """
    comparison = data.comparison
    if not comparison or data.dump is None:
        return ""
    count, first = len(comparison.rows), comparison.first
    if first is None:
        parts = [f"<p>Alike: all {count} layers compared are within {comparison.tolerance:g}.</p>"]
    else:
        past = sum(row.status not in ("ok", "coarse") for row in comparison.rows)
        what = difference(data, first).removeprefix("<br>")
        limit = f"their tolerance, {comparison.tolerance:g} unless a note says otherwise"
        if comparison.precision:
            limit = f"what rounding to {comparison.precision} explains"
        parts = [
            *map(cause_text, causes(data)[:CAUSES]),
            f'<h3>First difference: <a href="#{first}">{first}</a></h3><p>'
            f"{what[:1].upper()}{what[1:]}. {past} of {count} layers are past {limit}.</p>"
            f"{picture}",
        ]
        if not causes(data):
            parts.insert(0, "<p>No layer is wrong by itself: what differs is rounding.</p>")
        if len(causes(data)) > CAUSES:
            parts.insert(CAUSES, f"<p>And {len(causes(data)) - CAUSES} more causes.</p>")
    if comparison.precision:
        parts.insert(0, f"<p>{precision_summary(comparison)}.</p>")
    kind = "good" if comparison.alike else "bad"
    heading = "The cause" if len(causes(data)) == 1 else "The causes" if causes(data) else "Result"
    return (
        f'<section class="verdict {kind}" aria-label="Comparison"><h2>{heading}</h2>'
        f"{''.join(parts)}{warnings(data)}{notes(data)}{table(data)}</section>"
    )


def cause_text(cause: Cause) -> str:
    """Return a cause as HTML: its name and place, the remedy, and the evidence."""
    places = len(cause.places) - 1
    more = f" and {places:,} more" if places else ""
    evidence = f"Fed with their input, our layer is off by {format_number(cause.before)}"
    if cause.slug != UNKNOWN:
        evidence += f"; if it makes the same mistake, by {format_number(cause.after)}"
    sentence = to_html(cause.sentence, LONGEST_TEXT)
    sentence = sentence[:1].upper() + sentence[1:] + "." * (sentence[-1:] not in ".?!")
    return (
        f'<p class="cause"><b>{to_html(cause.slug)}</b> at <a href="#{cause.place}">{cause.place}'
        f"</a>{more}</p><p>{sentence}<br>"
        f'<span class="soft">{evidence}.</span></p>'
    )


def warnings(data: ReportData) -> str:
    """List what `compare` and `diagnose` warn of."""
    if not data.warnings:
        return ""
    some = "s" * (len(data.warnings) > 1)
    listed = "".join(f"<li>{to_html(warning, LONGEST_TEXT)}</li>" for warning in data.warnings)
    return f'<div class="warnings"><h3>Warning{some}</h3><ul>{listed}</ul></div>'


def notes(data: ReportData) -> str:
    """List the layers and names that could not be compared."""
    dump = data.dump
    assert dump is not None
    lines = []
    if dump.missing:
        lines.append(f"{len(dump.missing)} layers are not in it: {', '.join(dump.missing)}")
    lines += [
        f"{name} has shape {format_shape(stored)}, expected {format_shape(expected)}"
        for name, (stored, expected) in dump.mismatched.items()
    ]
    unmatched = list(dump.unmatched.items())
    lines += [
        f"{to_html(name)} has no place" + (f": is it {guess}?" if guess else "")
        for name, guess in unmatched[:NOTES]
    ]
    total = len(lines) + len(unmatched[NOTES:])
    if not total:
        return ""
    more = [f"and {total - NOTES} more"] if total > NOTES else []
    listed = "".join(f"<li>{line}</li>" for line in lines[:NOTES] + more)
    some = "s" * (total > 1)
    return f"<details><summary>{total} note{some}</summary><ul>{listed}</ul></details>"


def table(data: ReportData) -> str:
    """Return the table of `compare`, one row a layer, coloured by error."""
    assert data.comparison
    head, *lines = cells(data.comparison)
    rows = []
    for row, line in zip(data.comparison.rows, lines, strict=True):
        name, *rest = map(to_html, line)
        # no colour at 1e-7, which is rounding; full colour at 1, as large as the values themselves
        heat = min(max(1 + log10(max(row.error, 1e-30)) / 7, 0), 1) if row.error < inf else 1
        rows.append(
            f'<tr style="--heat:{100 * heat / 2:.0f}%"><th scope="row"><a href="#{name}">{name}</a>'
            f"</th>{table_cells(rest)}</tr>"
        )
    legend = PRECISION_LEGEND if data.comparison.precision else LEGEND
    return (
        f"<details class=all><summary>All {len(rows)} layers as a table</summary><p>"
        f"{to_html(legend)}. The stronger the orange, the larger the error, on a logarithmic scale."
        f"</p>{scrolling_table(head, rows, 'Table of all layers')}</details>"
    )
