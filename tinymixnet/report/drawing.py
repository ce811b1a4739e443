"""The network as a drawing, from left to right, each part a link; and what its parts are.

Inline SVG, with classes in place of colours: those are in `page.css`.
"""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from math import isfinite, log2, log10
from typing import TYPE_CHECKING, NamedTuple

from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.model import Model

if TYPE_CHECKING:
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.measure import Row

COLUMN, LEFT = 54, 66  # pixels of the drawing: the width of a part, where the first one begins
FLOOR, TIMES, ERRORS = 176, 336, 378  # and downwards: where boxes and bars stand, errors begin
LEAST, MOST = -8, 1  # powers of ten that the chart of errors spans


class Unit(NamedTuple):
    """One part of the drawing: the stem, a block or the head."""

    name: str  # also its address in the page
    title: str
    layers: dict[str, tuple[int, ...]]
    block: Block | None


class ReportData(NamedTuple):
    """All that the parts of the page are made of."""

    model: Model
    units: list[Unit]
    slow: Mapping[str, float]  # seconds of each layer, readable path
    fast: Mapping[str, float]  # seconds of each layer of the plan
    comparison: "Comparison | None"
    rows: Mapping[str, "Row"]


def units(architecture: Architecture, height: int, width: int) -> list[Unit]:
    """The parts of the network in order, with titles."""
    return [
        Unit(name, f"Block {name[7:]}" if block else name.capitalize(), layers, block)
        for name, layers, block in architecture.parts(height, width)
    ]


def of_unit(unit: Unit, times: Mapping[str, float]) -> dict[str, float]:
    """Those of the times that belong to a part of the network."""
    names = {name: name.split("/")[0] for name in times}
    own = {unit.name} | {name for name in unit.layers if "/" not in name}
    return {name: times[name] for name, part in names.items() if part in own}


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:,.0f} ms"


def figures(value: float) -> str:
    """Four digits, and a minus that is as wide as a plus."""
    return f"{value:.4g}".replace("-", "−").replace("inf", "∞")


def by(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


# -- the drawing ----------------------------------------------------------------------------------


def drawing(data: ReportData) -> str:
    """The network from left to right; each part a link to its panel."""
    width = LEFT + COLUMN * len(data.units) + 4
    height = ERRORS + (104 if data.comparison else -8)
    lanes = {FLOOR - 9: "kernels", 197: "part", 215: "channels", 231: "expanded"}
    lanes |= {247: "squeeze", 263: "activation", TIMES - 30: "time", TIMES + 14: "fast path"}
    if data.comparison:
        lanes[ERRORS - 4] = "error"
    texts = "".join(f'<text x="0" y="{y}" class="lane">{t}</text>' for y, t in lanes.items())
    columns = "".join(column(data, i) for i in range(len(data.units)))
    scale = error_scale(data, width) if data.comparison else ""
    return (
        '<nav class="scroll network" tabindex="-1" aria-label="Parts of the network">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{brackets(data)}{texts}{scale}{columns}</svg></nav>"
    )


def resolution(unit: Unit) -> tuple[int, int]:
    """Height and width at the end of a part of the network."""
    shapes = [shape for shape in unit.layers.values() if len(shape) == 3]
    return shapes[-1][0], shapes[-1][1]


def brackets(data: ReportData) -> str:
    """Above the parts that have the same resolution, what that is."""
    found, at = "", LEFT
    for size, group in groupby(map(resolution, data.units)):
        wide = COLUMN * len(list(group))
        found += (
            f'<path class="bracket" d="M{at + 3} 24v-5h{wide - 6}v5"/>'
            f'<text x="{at + wide / 2}" y="13">{by(size)}</text>'
        )
        at += wide
    return found


def column(data: ReportData, place: int) -> str:
    """One part: a box as high as its resolution, cut up by kernel sizes, and what to know of it."""
    unit, block = data.units[place], data.units[place].block
    left, middle = LEFT + place * COLUMN, LEFT + place * COLUMN + COLUMN / 2
    largest, smallest = (log2(max(resolution(data.units[i]))) for i in (0, -1))
    size = log2(max(resolution(unit))) - smallest
    tall = 34 + 92 * size / ((largest - smallest) or 1)
    top = FLOOR - tall
    sizes = block.kernel_sizes if block else (3,) if unit.name == "stem" else (1,)
    wide, box = (COLUMN - 8) / len(sizes), ""
    tight = " tight" if wide < 11 else ""
    for i, k in enumerate(sizes):
        x = left + 4 + i * wide
        box += f'<rect class="k k{min(k, 11)}" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}"'
        box += f' height="{tall:.1f}"/><text class="k k{min(k, 11)}{tight}" x="{x + wide / 2:.1f}"'
        box += f' y="{FLOOR - 9}">{k}</text>'
    if block and block.residual:
        box += f'<path class="residual" d="M{left + 6} {top - 3:.1f}c0 -16 42 -16 42 0l-5 -4m5 4l3'
        box += ' -5"/>'
    texts = zip((197, 215, 231, 247, 263), facts(data, unit), strict=True)
    box += "".join(f'<text x="{middle}" y="{y}"{kind}>{t}</text>' for y, (t, kind) in texts)
    first = data.comparison and data.comparison.first in unit.layers
    return (
        f'<a href="#{unit.name}" data-part="{unit.name}" aria-label="{spoken(data, unit)}">'
        f'<rect class="hit" x="{left + 1}" y="28" width="{COLUMN - 2}" rx="5" '
        f'height="{(ERRORS + 100 if data.comparison else TIMES + 22) - 28}"/>{box}'
        f"{time_bars(data, unit, left)}{error_bars(data, unit, left)}"
        + (f'<text class="first" x="{middle}" y="{ERRORS + 95}">▲ first</text>' if first else "")
        + "</a>"
    )


def facts(data: ReportData, unit: Unit) -> list[tuple[str, str]]:
    """What stands under a part: (text, attributes) of its name, channels, ..., activation."""
    strong, wide, b = ' class="name"', ' class="channels"', unit.block
    if b:
        expanded = str(b.expanded) if b.expand_groups else "·"
        inner = (expanded, str(b.se_width or "·"), "swish" if b.swish else "relu")
        return [(b.name[7:], strong), (f"{b.inputs}→{b.outputs}", wide), *((t, "") for t in inner)]
    architecture = data.model.architecture
    channels = f"3→{architecture.stem}"
    if unit.name == "head":
        channels = f"{architecture.blocks[-1].outputs}→{architecture.classes}"
    expanded = str(architecture.head_filters) if unit.name == "head" else "·"
    return [(unit.name, strong), (channels, wide), (expanded, ""), ("·", ""), ("relu", "")]


def spoken(data: ReportData, unit: Unit) -> str:
    """A part of the network in a sentence, for those who hear the page."""
    b, (h, w) = unit.block, resolution(unit)
    text = f"{unit.title}, {h} by {w}"
    if b:
        text += (
            f", {b.inputs} to {b.outputs} channels, kernels {', '.join(map(str, b.kernel_sizes))}"
        )
        text += f", {'squeeze and excite, ' if b.se_width else ''}{'swish' if b.swish else 'relu'}"
    text += f", {milliseconds(sum(of_unit(unit, data.fast).values()))}"
    if data.comparison:
        past = sum(name in data.rows and not fine(data, name) for name in unit.layers)
        text += f", {past} layers past the tolerance" if past else ", within the tolerance"
        if data.comparison.first in unit.layers:
            text += ", the first difference is here"
    return text


def time_bars(data: ReportData, unit: Unit, left: float) -> str:
    """Readable and fast path side by side, on the scale of the longest."""
    pairs = [[sum(of_unit(u, t).values()) for t in (data.slow, data.fast)] for u in data.units]
    longest = max(max(pair) for pair in pairs)
    drawn = ""
    for i, seconds in enumerate(pairs[data.units.index(unit)]):
        tall = 46 * seconds / longest
        drawn += f'<rect class="time{i}" x="{left + 10 + i * 18}" y="{TIMES - tall:.1f}" '
        drawn += f'width="16" height="{tall:.1f}"><title>{milliseconds(seconds)}</title></rect>'
    fast = pairs[data.units.index(unit)][1] * 1e3
    return (
        drawn + f'<text class="small" x="{left + COLUMN / 2}" y="{TIMES + 14}">{fast:.2g} ms</text>'
    )


def high(error: float) -> float:
    """How high a bar is for an error, logarithmically; infinity and NaN reach the top."""
    power = log10(error) if isfinite(error) and error > 0 else LEAST if error == 0 else MOST
    return 76 * (min(max(power, LEAST), MOST) - LEAST) / (MOST - LEAST)


def fine(data: ReportData, name: str) -> bool:
    return data.rows[name].status == "ok"


def error_bars(data: ReportData, unit: Unit, left: float) -> str:
    """The error of each layer of a part that the other implementation has."""
    wide, drawn = (COLUMN - 8) / len(unit.layers), ""
    for i, name in enumerate(unit.layers):
        if name in data.rows:
            tall = max(high(data.rows[name].error), 1)
            kind = "good" if fine(data, name) else "bad"
            if data.comparison and name == data.comparison.first:
                kind += " guilty"
            drawn += (
                f'<rect class="{kind}" x="{left + 4 + i * wide:.1f}" width="{wide * 0.8:.1f}" '
                f'y="{ERRORS + 80 - tall:.1f}" height="{tall:.1f}"><title>{escape(name)} '
                f"{figures(data.rows[name].error)}</title></rect>"
            )
    return drawn


def error_scale(data: ReportData, width: int) -> str:
    """The lines behind the errors: powers of ten and the tolerance."""
    drawn = ""
    small = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    for power in range(LEAST, MOST + 1, 3):
        y = ERRORS + 80 - high(10.0**power)
        drawn += f'<path class="grid" d="M{LEFT} {y:.1f}H{width}"/>'
        label = "10" + str(power).translate(small)
        drawn += f'<text class="tick" x="{LEFT - 4}" y="{y + 4:.1f}">{label}</text>'
    assert data.comparison
    y = ERRORS + 80 - high(data.comparison.tolerance)
    return drawn + f'<path class="limit" d="M{LEFT} {y:.1f}H{width}"/>'
