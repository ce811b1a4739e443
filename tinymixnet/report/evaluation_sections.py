"""Sections of an evaluation's page: accuracy per class, confusions, and remarkable photos.

Each function returns a section as HTML that begins with a sentence on how to read it, or nothing
where there is nothing to show.
"""

from collections.abc import Sequence
from statistics import median

from tinymixnet.evaluate.statistics import wilson
from tinymixnet.evaluate.words import count
from tinymixnet.report.elements import bar, meter, scrolling_table, section, table_row
from tinymixnet.report.evaluation_numbers import (
    ClassCount,
    Pair,
    confident_mistakes,
    confused_pairs,
    count_classes,
    uncertain_answers,
)
from tinymixnet.report.evaluation_photos import Album
from tinymixnet.report.text import format_probability

ENDS = 10  # classes that are listed as the least and as the most accurate
PAIRS = 10  # pairs of classes that are shown
PAIR_PHOTOS = 4  # of each direction of a pair
PHOTOS = 12  # mistakes, and right answers
# Of the rows of the table of all classes. The style sheet sorts them: there is no script.
ORDERS = """<fieldset class="orders"><legend>Order of the rows</legend>
<label><input type="radio" name="order" checked> least accurate first</label>
<label><input type="radio" name="order" class="by-name"> by name</label></fieldset>
"""


# -- classes --------------------------------------------------------------------------------------


def classes_section(album: Album) -> str:
    """Return the accuracy per class: the ends of the list, and all classes in a fold-out."""
    counts = count_classes(album.predictions)
    reading = (
        f"A bar is the share of a class's photos whose best answer is right. {_chance(counts)}"
    )
    if len(counts) <= 2 * ENDS:
        return section("classes", "Accuracy per class", reading, _bars(album, counts))
    best = sorted(counts, key=lambda one: (-one.accuracy, -one.photos, one.number))[:ENDS]
    content = (
        f'<div class="halves"><div><h3>Least accurate</h3>{_bars(album, counts[:ENDS])}</div>'
        f"<div><h3>Most accurate</h3>{_bars(album, best)}</div></div>"
        f'<details class="all"><summary>All {len(counts):,} classes as a table</summary>'
        f"<p>Top-5: the truth is among the five best answers.</p>"
        f"{ORDERS}{_class_table(album, counts)}</details>"
    )
    return section("classes", "Accuracy per class", reading, content)


def _chance(counts: Sequence[ClassCount]) -> str:
    """Say how much the bar of a typical class depends on which photos there are."""
    photos = int(median(one.photos for one in counts))
    share = sum(one.first for one in counts) / sum(one.photos for one in counts)
    low, high = wilson(round(share * photos), photos)
    points = f"{50 * (high - low):.0f} points"
    return f"With {count(photos, 'photo')} in a class, chance alone may move it by {points}."


def _bars(album: Album, counts: Sequence[ClassCount]) -> str:
    rows = ""
    for one in counts:
        text = f"{one.first:,} of {one.photos:,}"
        rows += f"<dt>{album.label(one.number)}</dt><dd>{bar(100 * one.accuracy, text)}</dd>"
    return f"<dl>{rows}</dl>"


def _class_table(album: Album, counts: Sequence[ClassCount]) -> str:
    rows = []
    by_name = sorted(counts, key=lambda one: (album.label(one.number).casefold(), one.number))
    place = {one.number: i for i, one in enumerate(by_name)}
    for one in counts:
        mistake = ""
        if one.mistake is not None:
            mistake = f"{album.label(one.mistake)}, {count(one.mistakes, 'time')}"
        five = format_probability(one.five / one.photos)
        cells = [meter(one.accuracy), five, f"{one.photos:,}", mistake]
        rows.append(table_row(album.label(one.number), cells, f"--name:{place[one.number]}"))
    headings = ["Class", "Top-1", "Top-5", "Photos", "Most often taken for"]
    return scrolling_table(headings, rows, "Table of all classes")


# -- confusions -----------------------------------------------------------------------------------


def confusions_section(album: Album) -> str:
    """Return the pairs of classes that are confused most often, with their photos."""
    pairs = confused_pairs(album.predictions, PAIRS)
    if not pairs:
        return ""
    reading = (
        "Two classes, and how often each is taken for the other. Below a photo stands how sure the "
        "wrong answer was; the surest come first."
    )
    content = "".join(_pair(album, pair) for pair in pairs)
    return section(
        "confusions", "What is confused most", reading, f'<div class="pairs">{content}</div>'
    )


def _pair(album: Album, pair: Pair) -> str:
    one, other = album.label(pair.one), album.label(pair.other)
    drawn = ""
    for truth, answer, rows in ((pair.one, other, pair.forth), (pair.other, one, pair.back)):
        photos = int((album.predictions["truth"] == truth).sum())
        if not photos:
            continue
        shots = "".join(album.small(row) for row in rows[:PAIR_PHOTOS].tolist())
        drawn += (
            f"<p><b>{album.label(truth)}</b> taken for {answer}: {len(rows):,} of {photos:,}</p>"
            f'<div class="shots">{shots}</div>'
        )
    return f'<section class="card"><h3>{one} ↔ {other}</h3>{drawn}</section>'


# -- photos ---------------------------------------------------------------------------------------


def mistakes_section(album: Album) -> str:
    """Return the photos that were answered wrongly although the network was very sure."""
    rows = confident_mistakes(album.predictions)[:PHOTOS].tolist()
    if not rows:
        return ""
    reading = (
        "The true class and its probability, then the wrong answer and its own. Look twice: a "
        "label may be wrong, or name only one of the things in the photo."
    )
    shots = "".join(album.mistake(row) for row in rows)
    return section(
        "mistakes", "The surest mistakes", reading, f'<div class="shots wide">{shots}</div>'
    )


def uncertain_section(album: Album) -> str:
    """Return the photos that were answered rightly although the network was hardly sure."""
    rows = uncertain_answers(album.predictions)[:PHOTOS].tolist()
    if not rows:
        return ""
    reading = "The answer and its probability, then the second answer, which is wrong, and its own."
    shots = "".join(album.right(row) for row in rows)
    content = f'<div class="shots wide">{shots}</div>'
    return section("uncertain", "The least certain right answers", reading, content)
