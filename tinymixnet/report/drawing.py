"""The network as a drawing, from left to right: inline SVG whose parts are links to their panels.

When the page is scrolled, the lower rows of the drawing stay in sight at the top of the window: the
boxes, the names and, with another implementation, the errors. `cut` says how many pixels above them
may go. Elements have classes; their colours are in `page.css`.
"""

from itertools import groupby
from math import isfinite, log2, log10

from tinymixnet.report.data import ReportData, Unit, differing, unit_times, within_tolerance
from tinymixnet.report.text import format_number, format_seconds, format_shape

# Sizes in pixels.
COLUMN = 54  # the width of a part of the network
LEFT = 62  # where the first part begins, to the right of the names of the rows
ROW = 18  # from one line of text to the next
BARS = 46  # the longest bar of a time
LOWEST_BOX, HIGHEST_BOX = 26, 66
ERROR_HEIGHT = 44  # of the longest bar of an error

LOWEST_POWER, HIGHEST_POWER = -8, 1  # powers of ten that the chart of errors spans
FACTS = ("expanded", "squeeze", "channels", "activation")


class Rows:
    """Where the rows of the drawing lie, from the top down; y in pixels."""

    def __init__(self, data: ReportData) -> None:
        self.facts = [14 + ROW * i for i in range(len(FACTS))]
        self.cut = self.facts[-1] + 10  # what lies above may scroll away
        if data.timing:
            self.times = self.facts[-1] + 14 + BARS  # on which the bars of the times stand
            self.cut = self.times + 26
        self.brackets = self.cut + 14
        self.floor = self.brackets + 32 + HIGHEST_BOX  # on which the boxes stand
        self.names = self.floor + 16
        self.bottom = self.names + 8
        if data.comparison:
            self.error_floor = self.bottom + 6 + ERROR_HEIGHT
            self.first = self.error_floor + 15
            self.bottom = self.first + 6


def drawing(data: ReportData) -> str:
    """Return the drawing: the network from left to right, each part a link to its panel."""
    rows = Rows(data)
    width = LEFT + COLUMN * len(data.units) + 4
    names = dict(zip(rows.facts, FACTS, strict=True))
    names |= {rows.floor - 8: "kernels", rows.names: "part"}
    if data.timing:
        names |= {rows.times - 18: "time", rows.times + 15: "fast path"}
    if data.comparison:
        names[rows.error_floor - ERROR_HEIGHT // 2 + 4] = "error"
    texts = "".join(f'<text x="0" y="{y}" class="lane">{t}</text>' for y, t in names.items())
    columns = "".join(column(data, rows, place) for place in range(len(data.units)))
    return (
        '<nav class="scroll network" tabindex="-1" aria-label="Parts of the network">'
        f'<svg width="{width}" height="{rows.bottom}" viewBox="0 0 {width} {rows.bottom}">'
        f"{texts}{error_scale(data, rows, width)}{columns}{brackets(data, rows)}</svg></nav>"
    )


def style(data: ReportData) -> str:
    """Return the sizes of the drawing that the style sheet must know: see the top of the module."""
    rows = Rows(data)
    boxes = rows.floor - 26 - rows.cut  # a phone lets most of the boxes go as well
    return f":root{{--cut:{rows.cut}px;--boxes:{boxes}px;--kept:{rows.bottom - rows.cut}px}}"


def resolution(unit: Unit) -> tuple[int, int]:
    """Return height and width of the last feature map in a part of the network."""
    shapes = [shape for shape in unit.layers.values() if len(shape) == 3]
    return shapes[-1][0], shapes[-1][1]


def brackets(data: ReportData, rows: Rows) -> str:
    """Draw a bracket above all parts of one resolution, with the resolution above it."""
    drawn, x = "", LEFT
    for size, group in groupby(map(resolution, data.units)):
        width = COLUMN * len(list(group))
        text = format_shape(size) if width > COLUMN or max(size) < 100 else str(size[0])
        drawn += (
            f'<path class="bracket" d="M{x + 3} {rows.brackets + 9}v-5h{width - 6}v5"/>'
            f'<text x="{x + width / 2}" y="{rows.brackets}">{text}</text>'
        )
        x += width
    return drawn


def column(data: ReportData, rows: Rows, place: int) -> str:
    """Draw one part of the network: its facts, and a box that is taller the finer its resolution.

    The box is divided into the kernel sizes of the part's depthwise convolution.
    """
    unit, block = data.units[place], data.units[place].block
    left, middle = LEFT + place * COLUMN, LEFT + place * COLUMN + COLUMN / 2
    largest, smallest = (log2(max(resolution(data.units[i]))) for i in (0, -1))
    doublings = log2(max(resolution(unit))) - smallest  # of the smallest resolution
    height = LOWEST_BOX + (HIGHEST_BOX - LOWEST_BOX) * doublings / ((largest - smallest) or 1)
    top = rows.floor - height
    sizes = block.kernel_sizes if block else (3,) if unit.name == "stem" else (1,)
    width = (COLUMN - 4) / len(sizes)
    tight = " tight" if width < 12 else ""
    drawn = ""
    for i, size in enumerate(sizes):
        x, kind = left + 2 + i * width, f"k k{min(size, 11)}"
        drawn += (
            f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/><text class="{kind}{tight}" x="{x + width / 2:.1f}" '
            f'y="{rows.floor - 8}">{size}</text>'
        )
    if block and block.residual:
        arrow = "c0 -14 42 -14 42 0l-5 -4m5 4l3 -5"
        drawn += f'<path class="residual" d="M{left + 6} {top - 3:.1f}{arrow}"/>'
    texts = zip((*rows.facts, rows.names), facts(data, unit), strict=True)
    drawn += "".join(f'<text x="{middle}" y="{y}"{kind}>{t}</text>' for y, (t, kind) in texts)
    if data.first in unit.layers:
        drawn += f'<text class="first" x="{middle}" y="{rows.first}">▲ first</text>'
    return (
        f'<a href="#{unit.name}" data-part="{unit.name}" aria-label="{aria_label(data, unit)}">'
        f'<rect class="hit" x="{left + 1}" y="1" width="{COLUMN - 2}" rx="5" '
        f'height="{rows.bottom - 2}"/>{drawn}'
        f"{time_bars(data, rows, unit, left)}{error_bars(data, rows, unit, left)}</a>"
    )


def facts(data: ReportData, unit: Unit) -> list[tuple[str, str]]:
    """Return (text, attributes) of each line of a part, in the order of FACTS; then its name."""
    block, architecture = unit.block, data.model.architecture
    name, expanded, squeeze, activation = unit.name, "·", "·", "relu"
    if block:
        name, channels = block.name[7:], block.outputs
        expanded = str(block.expanded) if block.expand_groups else "·"
        squeeze = str(block.se_width or "·")
        activation = "swish" if block.swish else "relu"
    elif unit.name == "head":
        channels = architecture.classes
        expanded = str(architecture.head_filters)
    else:
        channels = architecture.stem
    lines = [expanded, squeeze, str(channels), activation]
    return [*((line, "") for line in lines), (name, ' class="name"')]


def aria_label(data: ReportData, unit: Unit) -> str:
    """Describe a part of the network in a sentence, for readers who hear the page."""
    block, (h, w) = unit.block, resolution(unit)
    text = f"{unit.title}, {h} by {w}"
    if block:
        sizes = ", ".join(map(str, block.kernel_sizes))
        text += f", {block.inputs} to {block.outputs} channels, kernels {sizes}"
        text += f", {'squeeze and excite, ' if block.se_width else ''}"
        text += "swish" if block.swish else "relu"
    if data.timing:
        text += f", {format_seconds(sum(unit_times(unit, data.timing.fast).values()))}"
    if data.comparison:
        past = differing(data, unit)
        text += f", {past} layers past the tolerance" if past else ", within the tolerance"
        if data.first in unit.layers:
            text += ", the first difference is here"
    return text


def time_bars(data: ReportData, rows: Rows, unit: Unit, left: float) -> str:
    """Draw the times of the readable and the fast path; the longest of all parts fills the row."""
    if not data.timing:
        return ""
    both = data.timing.readable, data.timing.fast
    pairs = [[sum(unit_times(u, times).values()) for times in both] for u in data.units]
    longest = max(max(pair) for pair in pairs)
    drawn, own = "", pairs[data.units.index(unit)]
    for i, seconds in enumerate(own):
        height = BARS * seconds / longest
        drawn += (
            f'<rect class="time{i}" x="{left + 10 + i * 18}" y="{rows.times - height:.1f}" '
            f'width="16" height="{height:.1f}"><title>{format_seconds(seconds)}</title></rect>'
        )
    fast = f"{own[1] * 1e3:.2g} ms"
    return f'{drawn}<text class="small" x="{left + COLUMN / 2}" y="{rows.times + 15}">{fast}</text>'


def bar_height(error: float) -> float:
    """Return the height of an error's bar: by its power of ten, full for infinity and NaN."""
    power = float(HIGHEST_POWER)
    if error == 0:
        power = LOWEST_POWER
    elif isfinite(error) and error > 0:
        power = min(max(log10(error), LOWEST_POWER), HIGHEST_POWER)
    return ERROR_HEIGHT * (power - LOWEST_POWER) / (HIGHEST_POWER - LOWEST_POWER)


def error_bars(data: ReportData, rows: Rows, unit: Unit, left: float) -> str:
    """Draw the error of each layer of a part that the other implementation has, too."""
    width, drawn = (COLUMN - 8) / len(unit.layers), ""
    for i, name in enumerate(unit.layers):
        if name in data.rows:
            error = data.rows[name].error
            height = max(bar_height(error), 1)
            kind = "good" if within_tolerance(data, name) else "bad"
            if name == data.first:
                kind += " guilty"
            drawn += (
                f'<rect class="{kind}" x="{left + 4 + i * width:.1f}" width="{width * 0.8:.1f}" '
                f'y="{rows.error_floor - height:.1f}" height="{height:.1f}">'
                f"<title>{name} {format_number(error)}</title></rect>"
            )
    return drawn


def error_scale(data: ReportData, rows: Rows, width: int) -> str:
    """Draw the lines behind the errors: powers of ten, and the tolerance."""
    if not data.comparison:
        return ""
    drawn = ""
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    for power in (-8, -4, 0):
        y = rows.error_floor - bar_height(10.0**power)
        label = "10" + str(power).translate(superscript)
        drawn += f'<path class="grid" d="M{LEFT} {y:.1f}H{width}"/>'
        drawn += f'<text class="tick" x="{LEFT - 4}" y="{y + 4:.1f}">{label}</text>'
    y = rows.error_floor - bar_height(data.comparison.tolerance)
    return drawn + f'<path class="limit" d="M{LEFT} {y:.1f}H{width}"/>'
