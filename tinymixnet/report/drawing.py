"""The network as a drawing, from left to right, and the data that all modules of the page share.

The drawing is inline SVG. Each part of the network is a link to its panel. Elements have classes;
their colours are in `page.css`.
"""

from collections.abc import Mapping
from itertools import groupby
from math import isfinite, log2, log10
from typing import TYPE_CHECKING, NamedTuple

from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.model import Model
from tinymixnet.report.text import format_number, format_seconds, format_shape

if TYPE_CHECKING:
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.measure import Row

# Positions in the drawing, in pixels.
COLUMN = 54  # the width of a part of the network
LEFT = 66  # where the first part begins, to the right of the names of the rows
FLOOR = 176  # on which the boxes stand
TIMES = 336  # on which the bars of the times stand
ERRORS = 378  # the top of the chart of errors
ERROR_FLOOR = ERRORS + 80  # on which the bars of the errors stand
ERROR_HEIGHT = 76  # of the longest bar of an error

LOWEST_POWER, HIGHEST_POWER = -8, 1  # powers of ten that the chart of errors spans


class Unit(NamedTuple):
    """One part of the drawing: the stem, a block or the head."""

    name: str  # also the id of its panel, so #blocks_3 leads there
    title: str
    layers: dict[str, tuple[int, ...]]
    block: Block | None


class ReportData(NamedTuple):
    """What was measured, of which every part of the page shows something."""

    model: Model
    units: list[Unit]
    slow: Mapping[str, float]  # seconds of each layer on the readable path
    fast: Mapping[str, float]  # seconds of each layer on the fast path, which joins some layers
    comparison: "Comparison | None"
    rows: Mapping[str, "Row"]  # of the comparison, by layer


def units(architecture: Architecture, height: int, width: int) -> list[Unit]:
    """Return the parts of the network in order, for images of height x width pixels."""
    return [
        Unit(name, f"Block {name[7:]}" if block else name.capitalize(), layers, block)
        for name, layers, block in architecture.parts(height, width)
    ]


def unit_times(unit: Unit, times: Mapping[str, float]) -> dict[str, float]:
    """Return those times that belong to a part of the network."""
    own = {unit.name} | {name for name in unit.layers if "/" not in name}  # such as `logits`
    return {name: seconds for name, seconds in times.items() if name.split("/")[0] in own}


def within_tolerance(data: ReportData, name: str) -> bool:
    return data.rows[name].status == "ok"


def differs(data: ReportData, unit: Unit) -> bool:
    """Whether any layer of a part of the network is past its tolerance."""
    return any(name in data.rows and not within_tolerance(data, name) for name in unit.layers)


# -- the drawing ----------------------------------------------------------------------------------


def drawing(data: ReportData) -> str:
    """Return the drawing: the network from left to right, each part a link to its panel."""
    width = LEFT + COLUMN * len(data.units) + 4
    height = ERRORS + (104 if data.comparison else -8)
    row_names = {FLOOR - 9: "kernels", 197: "part", 215: "channels", 231: "expanded"}
    row_names |= {247: "squeeze", 263: "activation", TIMES - 30: "time", TIMES + 14: "fast path"}
    if data.comparison:
        row_names[ERRORS - 4] = "error"
    texts = "".join(f'<text x="0" y="{y}" class="lane">{t}</text>' for y, t in row_names.items())
    columns = "".join(column(data, place) for place in range(len(data.units)))
    return (
        '<nav class="scroll network" tabindex="-1" aria-label="Parts of the network">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{brackets(data)}{texts}{error_scale(data, width)}{columns}</svg></nav>"
    )


def resolution(unit: Unit) -> tuple[int, int]:
    """Return height and width of the last feature map in a part of the network."""
    shapes = [shape for shape in unit.layers.values() if len(shape) == 3]
    return shapes[-1][0], shapes[-1][1]


def brackets(data: ReportData) -> str:
    """Draw a bracket above all parts of one resolution, with the resolution above it."""
    drawn, x = "", LEFT
    for size, group in groupby(map(resolution, data.units)):
        width = COLUMN * len(list(group))
        drawn += (
            f'<path class="bracket" d="M{x + 3} 24v-5h{width - 6}v5"/>'
            f'<text x="{x + width / 2}" y="13">{format_shape(size)}</text>'
        )
        x += width
    return drawn


def column(data: ReportData, place: int) -> str:
    """Draw one part: a box, as tall as its resolution is high, and below it what to know of it.

    The box is divided into the kernel sizes of the part's depthwise convolution.
    """
    unit, block = data.units[place], data.units[place].block
    left, middle = LEFT + place * COLUMN, LEFT + place * COLUMN + COLUMN / 2
    largest, smallest = (log2(max(resolution(data.units[i]))) for i in (0, -1))
    doublings = log2(max(resolution(unit))) - smallest  # of the smallest resolution
    height = 34 + 92 * doublings / ((largest - smallest) or 1)
    top = FLOOR - height
    sizes = block.kernel_sizes if block else (3,) if unit.name == "stem" else (1,)
    width = (COLUMN - 8) / len(sizes)
    tight = " tight" if width < 11 else ""
    drawn = ""
    for i, size in enumerate(sizes):
        x, kind = left + 4 + i * width, f"k k{min(size, 11)}"
        drawn += (
            f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/><text class="{kind}{tight}" x="{x + width / 2:.1f}" '
            f'y="{FLOOR - 9}">{size}</text>'
        )
    if block and block.residual:
        arrow = "c0 -16 42 -16 42 0l-5 -4m5 4l3 -5"
        drawn += f'<path class="residual" d="M{left + 6} {top - 3:.1f}{arrow}"/>'
    texts = zip((197, 215, 231, 247, 263), facts(data, unit), strict=True)
    drawn += "".join(f'<text x="{middle}" y="{y}"{kind}>{t}</text>' for y, (t, kind) in texts)
    if data.comparison and data.comparison.first in unit.layers:
        drawn += f'<text class="first" x="{middle}" y="{ERRORS + 95}">▲ first</text>'
    bottom = ERRORS + 100 if data.comparison else TIMES + 22
    return (
        f'<a href="#{unit.name}" data-part="{unit.name}" aria-label="{aria_label(data, unit)}">'
        f'<rect class="hit" x="{left + 1}" y="28" width="{COLUMN - 2}" rx="5" '
        f'height="{bottom - 28}"/>{drawn}'
        f"{time_bars(data, unit, left)}{error_bars(data, unit, left)}</a>"
    )


def facts(data: ReportData, unit: Unit) -> list[tuple[str, str]]:
    """Return (text, attributes) of each line below a part's box, in the order of the row names."""
    block, architecture = unit.block, data.model.architecture
    name, expanded, squeeze, activation = unit.name, "·", "·", "relu"
    if block:
        name, channels = block.name[7:], f"{block.inputs}→{block.outputs}"
        expanded = str(block.expanded) if block.expand_groups else "·"
        squeeze = str(block.se_width or "·")
        activation = "swish" if block.swish else "relu"
    elif unit.name == "head":
        channels = f"{architecture.blocks[-1].outputs}→{architecture.classes}"
        expanded = str(architecture.head_filters)
    else:
        channels = f"3→{architecture.stem}"
    named = [(name, ' class="name"'), (channels, ' class="channels"')]
    return [*named, (expanded, ""), (squeeze, ""), (activation, "")]


def aria_label(data: ReportData, unit: Unit) -> str:
    """Describe a part of the network in a sentence, for readers who hear the page."""
    block, (h, w) = unit.block, resolution(unit)
    text = f"{unit.title}, {h} by {w}"
    if block:
        sizes = ", ".join(map(str, block.kernel_sizes))
        text += f", {block.inputs} to {block.outputs} channels, kernels {sizes}"
        text += f", {'squeeze and excite, ' if block.se_width else ''}"
        text += "swish" if block.swish else "relu"
    text += f", {format_seconds(sum(unit_times(unit, data.fast).values()))}"
    if data.comparison:
        past = sum(n in data.rows and not within_tolerance(data, n) for n in unit.layers)
        text += f", {past} layers past the tolerance" if past else ", within the tolerance"
        if data.comparison.first in unit.layers:
            text += ", the first difference is here"
    return text


def time_bars(data: ReportData, unit: Unit, left: float) -> str:
    """Draw the times of the readable and the fast path; the longest of all parts fills the row."""
    pairs = [[sum(unit_times(u, t).values()) for t in (data.slow, data.fast)] for u in data.units]
    longest = max(max(pair) for pair in pairs)
    drawn, own = "", pairs[data.units.index(unit)]
    for i, seconds in enumerate(own):
        height = 46 * seconds / longest
        drawn += (
            f'<rect class="time{i}" x="{left + 10 + i * 18}" y="{TIMES - height:.1f}" '
            f'width="16" height="{height:.1f}"><title>{format_seconds(seconds)}</title></rect>'
        )
    fast = f"{own[1] * 1e3:.2g} ms"
    return f'{drawn}<text class="small" x="{left + COLUMN / 2}" y="{TIMES + 14}">{fast}</text>'


def bar_height(error: float) -> float:
    """Return the height of an error's bar: by its power of ten, full for infinity and NaN."""
    power = float(HIGHEST_POWER)
    if error == 0:
        power = LOWEST_POWER
    elif isfinite(error) and error > 0:
        power = min(max(log10(error), LOWEST_POWER), HIGHEST_POWER)
    return ERROR_HEIGHT * (power - LOWEST_POWER) / (HIGHEST_POWER - LOWEST_POWER)


def error_bars(data: ReportData, unit: Unit, left: float) -> str:
    """Draw the error of each layer of a part that the other implementation has, too."""
    width, drawn = (COLUMN - 8) / len(unit.layers), ""
    for i, name in enumerate(unit.layers):
        if name in data.rows:
            error = data.rows[name].error
            height = max(bar_height(error), 1)
            kind = "good" if within_tolerance(data, name) else "bad"
            if data.comparison and name == data.comparison.first:
                kind += " guilty"
            drawn += (
                f'<rect class="{kind}" x="{left + 4 + i * width:.1f}" width="{width * 0.8:.1f}" '
                f'y="{ERROR_FLOOR - height:.1f}" height="{height:.1f}">'
                f"<title>{name} {format_number(error)}</title></rect>"
            )
    return drawn


def error_scale(data: ReportData, width: int) -> str:
    """Draw the lines behind the errors: powers of ten, and the tolerance."""
    if not data.comparison:
        return ""
    drawn = ""
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    for power in range(LOWEST_POWER, HIGHEST_POWER + 1, 3):
        y = ERROR_FLOOR - bar_height(10.0**power)
        label = "10" + str(power).translate(superscript)
        drawn += f'<path class="grid" d="M{LEFT} {y:.1f}H{width}"/>'
        drawn += f'<text class="tick" x="{LEFT - 4}" y="{y + 4:.1f}">{label}</text>'
    y = ERROR_FLOOR - bar_height(data.comparison.tolerance)
    return drawn + f'<path class="limit" d="M{LEFT} {y:.1f}H{width}"/>'
