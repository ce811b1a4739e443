"""The page of an evaluation: how often a network is right, where it errs, and how sure it is.

`tinymixnet evaluate DATA --report page.html` writes it from the results of `tinymixnet.evaluate`:

    write_evaluation([results], "page.html", photos.read, inputs=[...], force=False)

The numbers come from `evaluation_numbers.py`, the photos from `evaluation_photos.py`, the sections
from `evaluation_sections.py` and `evaluation_calibration.py`. The page runs no script.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinymixnet.engine.images import Source
from tinymixnet.errors import InputError
from tinymixnet.evaluate.results import Results
from tinymixnet.report.document import check_page, document, write_page
from tinymixnet.report.elements import scrolling_table, section
from tinymixnet.report.evaluation_calibration import calibration_section
from tinymixnet.report.evaluation_photos import Album
from tinymixnet.report.evaluation_sections import (
    classes_section,
    confusions_section,
    mistakes_section,
    uncertain_section,
)
from tinymixnet.report.text import format_probability, to_html

GENERATOR = "tinymixnet evaluate"  # written into every page, so that the command knows its own
SKIPPED = 100  # photos at most that are listed with the reason why they were skipped
ON_PAGE = {
    "presets": "By preset",
    "classes": "Classes",
    "confusions": "Confusions",
    "calibration": "Calibration",
    "mistakes": "Surest mistakes",
    "uncertain": "Least certain",
}


def write_evaluation(
    results: Sequence[Results],
    output: str | os.PathLike[str],
    read: Callable[[str], Source],
    inputs: Iterable[Any] = (),
    force: bool = False,
) -> None:
    """Write the page of the results of one network on the same photos, one for each preset.

    The first is shown in detail, the others in a table beside it. read: gives a photo by the name
    that it has in the results, as anything that `read_image` takes; where it raises TinyMixNetError
    or OSError, the page says that the photo cannot be read any more. inputs: what must not be
    overwritten. Only an earlier page of an evaluation is replaced, unless `force`.
    Raises InputError if `output` must not or cannot be written; then nothing has changed there.
    """
    if not results:
        raise InputError("results: expected at least one evaluation, found none")
    check_evaluation_page(output, inputs, force)
    write_page(page(results, read), output, GENERATOR, inputs, force)


def check_evaluation_page(
    output: str | os.PathLike[str], inputs: Iterable[Any] = (), force: bool = False
) -> None:
    """Raise InputError unless the page may be written there. Call it before the evaluation."""
    check_page(output, GENERATOR, inputs, force)


# -- the page -------------------------------------------------------------------------------------


def page(results: Sequence[Results], read: Callable[[str], Source]) -> str:
    """Return the page as HTML; see `write_evaluation`."""
    first = results[0]
    network, data = to_html(first.header.weights), to_html(first.header.data)
    title = f"{network} on {data}"
    answer = "No photo was answered"
    sections = [result_section(first)]
    if len(first.predictions):
        answer = f"{format_probability(first.top1)} of {len(first.predictions):,} photos right"
        album = Album(first.predictions, first.header.labels, read)
        sections += [
            presets_section(results) if len(results) > 1 else "",
            classes_section(album),
            confusions_section(album),
            calibration_section(album.predictions),
            mistakes_section(album),
            uncertain_section(album),
        ]
    main = "".join(sections)
    links = "".join(
        f'<a href="#{name}">{text}</a>' for name, text in ON_PAGE.items() if f'id="{name}"' in main
    )
    nav = f'<nav class="on-page" aria-label="On this page">{links}</nav>' if links else ""
    body = f"""<header><h1>{title}: {answer}</h1><p>{_conditions(first)}</p></header>
{nav}<main>{main}</main>"""
    return document(GENERATOR, title, ("page.css", "evaluation.css"), body)


def _conditions(result: Results) -> str:
    """Say under which conditions the numbers were found."""
    header = result.header
    return (
        f"Weights {to_html(header.weights)} ({len(header.labels):,} classes), preset "
        f"{to_html(header.preset)}, {len(result.predictions):,} photos of {to_html(header.data)}."
    )


# -- the result -----------------------------------------------------------------------------------


def result_section(result: Results) -> str:
    """Return top-1 and top-5 with their intervals, and the photos that were left out."""
    reading = (
        "Top-1: the best answer is right. Top-5: the truth is among the five best. With other photos "
        "of the same kind the result would lie within the interval in 95 of 100 cases."
    )
    rows = []
    for name, share, (low, high), published in ():
        rows.append("")
    facts = scrolling_table(["", "Measured", "95% interval"], rows, "Table of the result")
    return section(
        "result", "The result", reading, f'<div class="facts">{facts}</div>{skipped(result)}'
    )
