"""The page of an evaluation: how often a network is right, where it errs, and how sure it is.

`tinymixnet evaluate DATA --report page.html` writes it from the results of `tinymixnet.evaluate`:

    write_evaluation([results], "page.html", photos.read, {"tf": (0.78846, 0.94212)}, notes)

The numbers come from `evaluation_numbers.py`, the photos from `evaluation_photos.py`, the sections
from `evaluation_sections.py` and `evaluation_calibration.py`. The page runs no script.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tinymixnet.engine.images import Source
from tinymixnet.errors import LONGEST_TEXT, InputError
from tinymixnet.evaluate.imagenet import is_validation
from tinymixnet.evaluate.results import Results
from tinymixnet.evaluate.words import count
from tinymixnet.report.document import check_page, document, write_page
from tinymixnet.report.elements import meter, scrolling_table, section, table_row
from tinymixnet.report.evaluation_calibration import calibration_section
from tinymixnet.report.evaluation_numbers import calibration, calibration_error, won_and_lost
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
FACTS = 50  # parts of a file's header at most that are shown: anybody may have written it
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
    published: Mapping[str, tuple[float, float]] = {},
    notes: Sequence[str] = (),
    inputs: Iterable[Any] = (),
) -> None:
    """Write the page of the results of one network on the same photos, one for each preset.

    The first is shown in detail, the others in a table beside it.
    read: gives a photo by the name that it has in the results, as anything that `read_image` takes.
        Where it raises TinyMixNetError or OSError, the page says that it cannot be read any more.
    published: preset -> top-1 and top-5 of these weights as published, 0 to 1, where they are.
    notes: sentences on how the data were understood, and what was left out.
    inputs: what must not be overwritten. Only an earlier page of an evaluation is replaced.
    Raises InputError if `output` must not or cannot be written; then nothing has changed there.
    """
    if not results:
        raise InputError("results: expected at least one evaluation, found none")
    check_evaluation_page(output, inputs)
    write_page(page(results, read, published, notes), output, GENERATOR, inputs)


def check_evaluation_page(output: str | os.PathLike[str], inputs: Iterable[Any] = ()) -> None:
    """Raise InputError unless the page may be written there. Call it before the evaluation."""
    check_page(output, GENERATOR, inputs)


# -- the page -------------------------------------------------------------------------------------


def page(
    results: Sequence[Results],
    read: Callable[[str], Source],
    published: Mapping[str, tuple[float, float]],
    notes: Sequence[str],
) -> str:
    """Return the page as HTML; see `write_evaluation`."""
    first = results[0]
    answer = "no photo was answered"
    sections = [result_section(first, published, notes), presets_section(results, published)]
    if first.photos:
        answer = f"{format_probability(first.top1)} right"
        album = Album(first.predictions, first.labels, read)
        sections += [
            classes_section(album),
            confusions_section(album),
            calibration_section(first.predictions),
            mistakes_section(album),
            uncertain_section(album),
        ]
    main = "".join(sections)
    links = "".join(
        f'<a href="#{name}">{text}</a>' for name, text in ON_PAGE.items() if f'id="{name}"' in main
    )
    nav = f'<nav class="on-page" aria-label="On this page">{links}</nav>' if links else ""
    title = f"{_network(first)} on {_data(first)}: {answer}"
    body = f"""<header><h1>{title}</h1><p>{_conditions(first)}</p></header>
{nav}<main>{main}</main>"""
    return document(GENERATOR, title, ("page.css", "evaluation.css"), body)


def _network(result: Results) -> str:
    return to_html(result.header["weights"]["name"])


def _data(result: Results) -> str:
    name = result.header["data"]["name"]
    return to_html(os.path.basename(name.rstrip("/")) or name)


def _conditions(result: Results) -> str:
    """Say what was evaluated, and how, in a sentence or two."""
    header, size = result.header, result.header["input_size"]
    labels, classes = len(header["labels"]), len(header["classes"])
    photos, total = count(result.photos, "photo"), header["data"]["photos"]
    if result.photos + len(result.skipped) < total:
        photos += f", a sample of the {total:,}"
    text = (
        f"{photos} of {_data(result)}, cropped and resized to {size} × {size} pixels by the preset "
        f"{to_html(header['preset'])}. The weights know {count(labels, 'class')}"
    )
    are = "is" if classes == 1 else "are"
    return f"{text}, of which {classes:,} {are} compared." if classes < labels else f"{text}."


# -- the result -----------------------------------------------------------------------------------


def result_section(
    result: Results, published: Mapping[str, tuple[float, float]], notes: Sequence[str]
) -> str:
    """Return top-1 and top-5 with their intervals, and the photos that were left out."""
    reading = (
        "Top-1: the best answer is right. Top-5: the truth is among the five best answers. The "
        "interval says how far the accuracy on all photos of this kind may be from that on these."
    )
    rows = other = ""
    if result.photos:
        known = published.get(result.header["preset"], (None, None))
        rows = _share("Top-1", result.top1, result.interval1, known[0])
        rows += _share("Top-5", result.top5, result.interval5, known[1])
        rows = f'<dl class="shares">{rows}</dl>'
        if None not in known and not is_validation(result.header):
            other = "<p>The published figures are of ImageNet's validation photos.</p>"
    lines = "".join(f"<p>{to_html(note, LONGEST_TEXT)}</p>" for note in notes)
    content = f"{rows}{other}{lines}{skipped_photos(result)}{_header(result)}"
    return section("result", "How often it is right", reading, content)


def _share(name: str, share: float, limits: tuple[float, float], published: float | None) -> str:
    """Return a measured share as a bar, with its interval and the published figure below."""
    text = f"95% interval: {_interval(limits)}."
    if published is not None:
        inside = "inside" if limits[0] <= published <= limits[1] else "outside"
        text += f" Published: {format_probability(published)}, {inside} the interval."
    return f'<dt>{name}</dt><dd>{meter(share)}<span class="soft">{text}</span></dd>'


def _interval(limits: tuple[float, float]) -> str:
    return " to ".join(map(format_probability, limits))


def skipped_photos(result: Results) -> str:
    """Return a fold-out with the photos that could not be read, and why."""
    if not result.skipped:
        return ""
    lines = [
        f"<li>{to_html(photo.file)}: {to_html(photo.reason)}</li>"
        for photo in result.skipped[:SKIPPED]
    ]
    more = len(result.skipped) - len(lines)
    lines += [f"<li>and {more:,} more</li>"] if more else []
    are = "are" if len(result.skipped) > 1 else "is"
    summary = f"{count(len(result.skipped), 'photo')} could not be read and {are} not counted"
    shown = "" if result.photos else " open"  # where there is nothing else to see
    return f"<details{shown}><summary>{summary}</summary><ul>{''.join(lines)}</ul></details>"


def _header(result: Results) -> str:
    """Return a fold-out with all that the results say of the weights, the data and the preset."""
    facts: dict[str, Any] = {}
    for name, value in result.header.items():
        if isinstance(value, dict):
            facts |= {f"{name}: {part}": inner for part, inner in value.items()}
        elif name not in ("format", "version", "labels", "classes"):
            facts[name] = value
    rows = "".join(
        f"<dt>{to_html(name.replace('_', ' '))}</dt><dd>{to_html(value)}</dd>"
        for name, value in list(facts.items())[:FACTS]
    )
    return f"<details><summary>Exactly what was evaluated</summary><dl>{rows}</dl></details>"


# -- presets --------------------------------------------------------------------------------------


def presets_section(
    results: Sequence[Results], published: Mapping[str, tuple[float, float]]
) -> str:
    """Return a table of the results by preset; nothing if there is only one, or no photo."""
    if len(results) < 2 or not any(result.photos for result in results):
        return ""
    reading = (
        "A preset crops and resizes each photo in its own way. Won and lost are the photos that "
        f"only this preset has right, and only {to_html(results[0].header['preset'])}: they tell "
        "presets apart even where the intervals overlap, because the photos are the same."
    )
    headings = ["Top-1", "95% interval", "Top-5"]
    headings += [*(["Published top-1"] if published else []), "ECE", "Won", "Lost"]
    rows = [
        table_row(
            to_html(result.header["preset"]),
            _preset_cells(result, results[0], published) if result.photos else [""] * len(headings),
        )
        for result in results
    ]
    table = scrolling_table(["Preset", *headings], rows, "Table of the presets")
    return section("presets", "Accuracy by preset", reading, f'<div class="facts">{table}</div>')


def _preset_cells(
    result: Results, first: Results, published: Mapping[str, tuple[float, float]]
) -> list[str]:
    cells = [meter(result.top1), _interval(result.interval1), format_probability(result.top5)]
    if published:
        known = published.get(result.header["preset"])
        cells.append(format_probability(known[0]) if known else "")
    cells.append(format_probability(calibration_error(calibration(result.predictions))))
    won, lost = won_and_lost(result.predictions, first.predictions)
    return [*cells, *(["", ""] if result is first else [f"{won:,}", f"{lost:,}"])]
