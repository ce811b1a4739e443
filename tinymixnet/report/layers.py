"""The card of one layer: its feature maps beside the photo, histogram, gates and numbers.

A layer of one image has the shape (H, W, C), a vector (1, 1, C). A feature map is one channel of
it, (H, W). Theirs, the values of another implementation, can be anything: NaN, infinite, or as
large as a number can be.
"""

from collections.abc import Sequence
from math import isnan

import numpy as np

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array, split_channels
from tinymixnet.report.data import LayerFacts, ReportData, block_of, within_tolerance
from tinymixnet.report.pictures import (
    Tile,
    display_range,
    finite_range,
    format_range,
    histogram,
    shrink_maps,
    strips,
    tiles,
    to_shades,
    to_signed_shades,
)
from tinymixnet.report.text import format_number, format_seconds, format_shape, to_html

CHANNELS = 24  # feature maps shown of a layer
GROUP_CHANNELS = 8  # feature maps shown of each kernel size
WORST_CHANNELS = 6  # in which ours and theirs are shown side by side
LONGEST_LABEL = 40  # characters of a label in a caption
POINTS = 200  # of a curve, at least: enough for its width on the page
POINTED_AT = "<output aria-live=off></output>"  # the script writes the name of a map here
COLOUR_NAMES = ("red", "green", "blue")  # the channels of the photo


def layer_card(data: ReportData, name: str, ours: Array, theirs: Array | None) -> str:
    """Return the card of a layer; ours and theirs are (H, W, C) or (C,)."""
    x = ours.reshape((1, 1, -1) if ours.ndim == 1 else ours.shape)
    y = None if theirs is None else theirs.reshape(x.shape)
    block, vector = block_of(data, name), None if y is None else y.ravel()
    pictures, numbers = [feature_maps(data, name, x)], [histogram(x, y)]
    if block and name.endswith("/se_gate"):
        pictures.append(gate_chart(block, x.ravel(), vector))
    numbers.append(statistics_table(data.layers[name]))
    if y is not None and not np.array_equal(x, y):
        pictures.append(side_by_side(name, x, y))
    bad = name in data.rows and not within_tolerance(data, name)
    words = "first difference" if data.first == name else "differs"
    flag = f'<span class="flag">{words}</span>' if bad else ""
    facts = format_shape(ours.shape)
    if data.timing:
        facts += f" · {format_seconds(data.timing.readable[name])} on the readable path"
    return (
        f'<section class="card" id="{name}"><h4>{name.rpartition("/")[2]}{flag}</h4>'
        f'<p class="shape">{facts}{difference(data, name)}</p><div class="layer">'
        f"<div>{''.join(pictures)}</div><div>{''.join(numbers)}</div></div></section>"
    )


def difference(data: ReportData, name: str) -> str:
    """Say how far off the other implementation is, and where; with a line break before it."""
    if data.comparison is None:
        return ""
    if name not in data.rows:
        return "<br>not in the other"
    row = data.rows[name]
    if row.status == "shape":
        return f"<br>theirs has shape {format_shape(row.found)}"
    if row.error == 0:
        return "<br>theirs is equal"
    axes = ("image", "row", "column", "channel") if len(row.worst) == 4 else ("image", "channel")
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, row.worst, strict=True))
    error, decibels, ours, theirs = map(format_number, (row.error, row.snr, *row.values))
    added = ""
    if row.added is not None:  # NaN if nobody can tell
        part = "an unknown part" if isnan(row.added) else format_number(row.added)
        added = f", of which {part} by its own fault"
    if row.explained is not None and data.comparison.precision:
        added += f" (rounding explains {row.explained:.0%} of that)"
    return (
        f"<br>error <b>{error}</b>{added}, {decibels} dB, worst at {place}: ours {ours}, "
        f"theirs {theirs}"
    )


def statistics_table(facts: LayerFacts) -> str:
    """Return a table of minimum, maximum, mean, standard deviation and share of zeros."""
    sides = [("ours", facts.ours)] + ([("theirs", facts.theirs)] if facts.theirs else [])
    head = "".join(f"<th scope=col>{who}</th>" for who, _ in sides) if len(sides) > 1 else ""
    rows = f"<tr><td></td>{head}</tr>" if head else ""
    for place, name in enumerate(("min", "max", "mean", "std", "zeros")):
        values = [side[place] for _, side in sides]
        form = "{:.1%}".format if name == "zeros" else format_number
        cells = "".join(f"<td>{form(value)}</td>" for value in values)
        rows += f"<tr><th scope=row>{name}</th>{cells}</tr>"
    return f'<div class="scroll"><table>{rows}</table></div>'


# -- pictures -------------------------------------------------------------------------------------


def feature_maps(data: ReportData, name: str, x: Array) -> str:
    """Return the feature maps of a layer (H, W, C) that vary most, beside the photo.

    They are as large as the photo, so what lies at the same place belongs together. A depthwise
    convolution has a group for each kernel size. A vector is shown whole, as a strip.
    """
    h, w, c = x.shape
    if h * w == 1:
        classes = name in ("logits", "probabilities")
        return vector_strip(x.ravel(), data.model.labels if classes else None)
    if name in ("image", "normalize"):
        return colour_planes(name, x)
    block = block_of(data, name)
    variance = np.nan_to_num(x.reshape(-1, c).var(axis=0))
    sizes, labels, wanted = [c], [""], CHANNELS
    if block and name.endswith("depthwise_conv") and len(block.kernel_sizes) > 1:
        sizes = split_channels(c, len(block.kernel_sizes))
        labels, wanted = [f"{k} × {k}" for k in block.kernel_sizes], GROUP_CHANNELS
    start, chosen = 0, []
    for size in sizes:
        chosen.append(start + np.argsort(-variance[start : start + size], kind="stable")[:wanted])
        start += size
    maps = shrink_maps(x[:, :, np.concatenate(chosen)])
    low, high = display_range(maps)
    shades, number, drawn = to_shades(maps, low, high), 0, ""
    count = f"{len(maps)} of {c}" if len(maps) < c else f"all {c}"
    for channels, label in zip(chosen, labels, strict=True):
        group = []
        for channel in channels:
            title = f"channel {channel}: {format_range(x[:, :, channel])}"
            group.append(Tile(shades[number], title))
            number += 1
        if label:
            drawn += f'<p class="group">{label}</p>'
        alt = f"{label or count} feature maps of {name}, {h} by {w} pixels each"
        drawn += tiles([group], "plain", alt)
    caption = (
        f"{count.capitalize()} channels, those that vary most first; dark "
        f"{format_number(low)}, light {format_number(high)}"
    )
    return beside_the_photo(drawn, caption)


def beside_the_photo(drawn: str, caption: str) -> str:
    """Return tiles with the photo on their left, and a line that names the tile pointed at."""
    return (
        '<figure class="maps"><span class="photo" role="img" aria-label="The photo"></span>'
        f"<div>{drawn}</div><figcaption>{caption} {POINTED_AT}</figcaption></figure>"
    )


def colour_planes(name: str, x: Array) -> str:
    """Return red, green and blue of the photo (H, W, 3), in grey."""
    maps = shrink_maps(x)
    low, high = (0.0, 255.0) if name == "image" else finite_range(x)
    group = [
        Tile(to_shades(plane, low, high), f"{colour}: {format_range(values)}")
        for plane, colour, values in zip(maps, COLOUR_NAMES, x.transpose(2, 0, 1), strict=True)
    ]
    drawn = tiles([group], "plain", f"Red, green and blue of {name}, in grey", grey=True)
    caption = f"Red, green, blue; black {format_number(low)}, white {format_number(high)}"
    return beside_the_photo(drawn, caption)


def vector_strip(values: Array, labels: Sequence[str] | None) -> str:
    """Return all values (C,) as a strip, and name the largest and the smallest.

    labels: of the classes, if the values are not of channels.
    """

    def name(i: int) -> str:
        return to_html(labels[i], LONGEST_LABEL) if labels else f"channel {i}"

    low, high = finite_range(values)
    order = np.argsort(np.nan_to_num(values), kind="stable")
    most, least = (
        ", ".join(f"{format_number(float(values[i]))} ({name(i)})" for i in places)
        for places in (order[::-1][:3], order[:2])
    )
    strip = strips([to_shades(values, low, high)], [], f"{len(values)} values as a strip")
    caption = (
        f"All {len(values)} {'classes' if labels else 'channels'}, dark {format_number(low)}, "
        f"light {format_number(high)}. Largest: {most}; smallest: {least}"
    )
    return f'<figure class="maps flat">{strip}<figcaption>{caption}</figcaption></figure>'


def side_by_side(name: str, ours: Array, theirs: Array) -> str:
    """Return ours, theirs and the difference, where theirs is furthest off; both (H, W, C)."""
    h, w, c = ours.shape
    difference = theirs.astype(np.float64) - ours
    largest = float(np.abs(difference[np.isfinite(difference)]).max(initial=0))
    darkest = f"darkest difference ±{format_number(largest)}"
    labels = ["ours", "theirs", "difference"]
    if h * w == 1:
        low, high = display_range(ours)
        rows = [to_shades(x.ravel(), low, high) for x in (ours, theirs)]
        rows.append(to_signed_shades(difference.ravel()))
        drawn = strips(rows, labels, f"every channel of {name}")
        return (
            f'<figure class="maps flat">{drawn}<figcaption>Every channel; {darkest}</figcaption>'
            "</figure>"
        )
    off = np.square(difference).reshape(-1, c).mean(axis=0)
    worst = np.argsort(-np.where(np.isnan(off), np.inf, off), kind="stable")[:WORST_CHANNELS]
    a, b, d = (shrink_maps(x[:, :, worst]) for x in (ours, theirs, difference))
    low, high = display_range(a)
    shades = [to_shades(a, low, high), to_shades(b, low, high), to_signed_shades(d)]
    trios = []
    for number, channel in enumerate(worst):
        trio = []
        for label, maps, x in zip(labels, shades, (ours, theirs, difference), strict=True):
            title = f"{label}, channel {channel}: {format_range(x[:, :, channel])}"
            trio.append(Tile(maps[number], title))
        trios.append(trio)
    which = ", ".join(map(str, worst))
    drawn = tiles(trios, "trios", f"{name}: ours, theirs and difference, channels {which}")
    return (
        '<figure class="maps pairs"><p class="group">ours · theirs · difference</p>'
        f"<div>{drawn}</div><figcaption>The channels furthest off: {which}; {darkest} "
        f"{POINTED_AT}</figcaption></figure>"
    )


def kernels(data: ReportData, block: Block) -> str:
    """Return the first few depthwise kernels of a block, a group for each size."""
    groups = group_kernels(f"{block.name}/depthwise_conv", data.model.tensors)
    starts = np.cumsum([0, *split_channels(block.expanded, len(groups))])
    drawn = ""
    for size, start, kernel in zip(block.kernel_sizes, starts, groups, strict=False):
        maps = kernel[..., :GROUP_CHANNELS, 0]
        shades = to_signed_shades(shrink_maps(maps))
        group = [
            Tile(shade, f"kernel of channel {start + i}: {format_range(maps[..., i])}")
            for i, shade in enumerate(shades)
        ]
        label = f"{size} × {size}"
        alt = f"The first {len(group)} depthwise kernels of size {label}"
        drawn += f'<p class="group">{label}</p>{tiles([group], "plain", alt)}'
    return (
        f'<figure class="maps kernels"><div>{drawn}</div><figcaption>The first depthwise kernels '
        f"of each size: orange positive, blue negative, white 0 {POINTED_AT}</figcaption>"
        "</figure>"
    )


def gate_chart(block: Block, gate: Array, other: Array | None) -> str:
    """Return a chart of the squeeze-and-excite gates (C,), sorted, and their mean by kernel size.

    A gate says how much of a channel the block lets through, from 0 to 1.
    """
    parts = np.split(gate, np.cumsum(split_channels(len(gate), len(block.kernel_sizes)))[:-1])
    means = ", ".join(
        f"{format_number(float(part.mean()))} for {k} × {k}"
        for k, part in zip(block.kernel_sizes, parts, strict=True)
    )

    def line(values: Array) -> str:
        possible = np.clip(np.nan_to_num(values), -1, 2)  # what lies further off is not drawn
        ordered = np.sort(possible)[:: -max(1, len(values) // POINTS)]
        points = zip(np.linspace(0, 200, len(ordered)), ordered, strict=True)
        return "L".join(f"{x:.1f} {-60 * y:.1f}" for x, y in points)

    outline = "" if other is None else f'<path class="outline" d="M{line(other)}"/>'
    return (
        '<figure class="histogram"><svg viewBox="0 -62 200 64" preserveAspectRatio="none" '
        f'role="img" aria-label="Gates sorted"><path class="bar" d="M0 0L{line(gate)}L200 0z"/>'
        f'{outline}<path class="zero" d="M0 -30H200"/></svg><figcaption><span>gates, largest first;'
        f" dashed: 0.5</span></figcaption></figure><p>Mean gate {means}.</p>"
    )
