"""The calibration on an evaluation's page: whether the network knows how sure it may be."""

from collections.abc import Sequence

from tinymixnet.engine.kernels import Array
from tinymixnet.evaluate.statistics import wilson
from tinymixnet.report.elements import scrolling_table, section, table_row
from tinymixnet.report.evaluation_numbers import BINS, Bin, calibration, calibration_error
from tinymixnet.report.text import format_probability

# Sizes of the calibration's drawing, in pixels. It fits on a phone: text must not be scaled down.
WIDTH, LEFT, TOP = 318, 44, 10
STEP = 17  # the width of a bin
SIDE = BINS * STEP  # of the square: equal scales, so that equal values lie on its diagonal
COUNTS = 40  # the height of the bars below, which count the photos
GAP = 26  # between the square and these


def calibration_section(predictions: Array) -> str:
    """Return whether the network knows how sure it may be: a diagram, a table, and the ECE."""
    bins = calibration(predictions)
    photos = sum(bin.photos for bin in bins)
    sure = sum(bin.photos * bin.confidence for bin in bins) / photos
    right = sum(bin.right for bin in bins) / photos
    points = f"{100 * abs(sure - right):.1f} points"
    verdict = f"too sure by {points}" if sure > right else f"not sure enough by {points}"
    if points == "0.0 points":
        verdict = "as sure as it should be"
    summary = (
        f"<p>On average the best answer has a probability of <b>{format_probability(sure)}</b> and "
        f"is right for <b>{format_probability(right)}</b> of the photos: {verdict}. "
        f"The expected calibration error (ECE) is "
        f"<b>{format_probability(calibration_error(bins))}</b>: the mean distance between bar and "
        f"line, each bin weighted by its photos, in {BINS} bins of equal width.</p>"
    )
    reading = (
        "Photos are sorted into bins by the probability of their best answer. A bar shows how "
        "many of a bin are right (thin line: its 95% interval), the orange line how sure the "
        "network was. Where both are equally high, its probabilities can be believed."
    )
    caption = "Above: share of right answers by probability. Below: the number of photos."
    figure = f"<figure>{reliability(bins)}<figcaption>{caption}</figcaption></figure>"
    content = f'{summary}<div class="halves calibration">{figure}{_bin_table(bins)}</div>'
    return section("calibration", "Can its probabilities be believed?", reading, content)


def reliability(bins: Sequence[Bin]) -> str:
    """Draw the reliability diagram of the bins, and below it their numbers of photos."""
    floor, counts_floor = TOP + SIDE, TOP + SIDE + GAP + COUNTS
    most = max(bin.photos for bin in bins)
    drawn = ""
    for tick in (0, 25, 50, 75, 100):
        y, x = floor - SIDE * tick / 100, LEFT + SIDE * tick / 100
        drawn += (
            f'<path class="grid" d="M{LEFT} {y:g}h{SIDE}"/>'
            f'<text class="tick" x="{LEFT - 5}" y="{y + 4:g}">{tick}%</text>'
            f'<text x="{x:g}" y="{counts_floor + 17}">{tick}%</text>'
        )
    drawn += f'<path class="limit" d="M{LEFT} {floor}l{SIDE} {-SIDE}"/>'
    for place, bin in enumerate(bins):
        if not bin.photos:
            continue
        x = LEFT + STEP * place
        height, count = SIDE * bin.accuracy, COUNTS * bin.photos / most
        title = f"{_range(bin)}: {bin.right:,} of {bin.photos:,} right"
        drawn += (
            f'<g><title>{title}</title><rect class="bar" x="{x + 1}" y="{floor - height:.1f}" '
            f'width="{STEP - 2}" height="{height:.1f}"/>{_chance(bin, x + STEP / 2, floor)}'
            f'<path class="sure" d="M{x} {floor - SIDE * bin.confidence:.1f}h{STEP}"/>'
            f'<rect class="count" x="{x + 1}" y="{counts_floor - max(count, 1):.1f}" '
            f'width="{STEP - 2}" height="{max(count, 1):.1f}"/></g>'
        )
    drawn += (
        f'<path class="axis" d="M{LEFT} {floor}h{SIDE}M{LEFT} {counts_floor}h{SIDE}"/>'
        f'<text class="tick" x="{LEFT - 5}" y="{counts_floor - COUNTS + 8}">{most:,}</text>'
        f'<text x="{LEFT + SIDE / 2:g}" y="{counts_floor + 36}">probability of the best answer'
        "</text>"
    )
    height = counts_floor + 42
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return (
        f'<svg class="reliability" {size} role="img" aria-label="Share of right answers by '
        f'probability of the best answer; the table has the same numbers">{drawn}</svg>'
    )


def _chance(bin: Bin, x: float, floor: int) -> str:
    """Draw the 95 % interval of a bin's accuracy, on the bar and above it."""
    low, high = (floor - SIDE * limit for limit in wilson(bin.right, bin.photos))
    line = f'd="M{x:g} {low:.1f}V{high:.1f}"'
    return f'<path class="halo" {line}/><path class="chance" {line}/>'


def _range(bin: Bin) -> str:
    return f"{100 * bin.low:.1f} to {100 * bin.high:.1f}%"


def _bin_table(bins: Sequence[Bin]) -> str:
    rows = []
    for bin in bins:
        values = ["", ""]
        if bin.photos:
            values = [format_probability(bin.confidence), format_probability(bin.accuracy)]
        rows.append(table_row(_range(bin), [f"{bin.photos:,}", *values]))
    headings = ["Probability", "Photos", "Mean", "Right"]
    return scrolling_table(headings, rows, "Table of the calibration")
