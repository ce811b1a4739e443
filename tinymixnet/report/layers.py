"""The card of one layer: its feature maps, histogram, gates and numbers.

A layer of one image has the shape (H, W, C), a vector (1, 1, C). A feature map is one channel of
it, (H, W). Pictures are PNG files in data URIs; charts are inline SVG. Theirs, the values of
another implementation, can be anything: NaN, infinite, or as large as a number can be.
"""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array, split_channels
from tinymixnet.report.drawing import ReportData, within_tolerance
from tinymixnet.report.text import format_number, format_seconds, format_shape

TILE = 56  # pixels a side that a feature map takes at most
COLUMNS = 8  # feature maps in a row
CHANNELS = 24  # feature maps shown of a layer
BINS = 48  # of a histogram
POINTS = 200  # of a curve, at least; so many are enough for its width on the page

# The palette of all pictures. Values get one of 63 shades from dark to light, which also differ in
# grey and to colour-blind eyes. Values with a sign get one of 63 from blue over white to orange.
SHADES = 63
GAP = 0  # index of the transparent gap between feature maps
BROKEN = 1  # of NaN and infinity: bright pink
SEQUENTIAL = 2  # of the first shade for values
DIVERGING = SEQUENTIAL + SHADES  # of the first shade for values with a sign
DARK_TO_LIGHT = (36, 18, 84), (52, 68, 138), (32, 128, 140), (76, 184, 108), (250, 232, 70)
BLUE_TO_ORANGE = (10, 56, 120), (92, 160, 214), (246, 246, 244), (240, 150, 62), (134, 52, 4)


def layer_card(data: ReportData, name: str, ours: Array, theirs: Array | None) -> str:
    """Return the card of a layer; ours and theirs are (H, W, C) or (C,)."""
    x = ours.reshape((1, 1, -1) if ours.ndim == 1 else ours.shape)
    y = None if theirs is None else theirs.reshape(x.shape)
    block = next((u.block for u in data.units if u.block and name in u.layers), None)
    parts = [feature_maps(data, name, x), histogram(x, y)]
    if block and name.endswith("/se_gate"):
        parts.append(gate_chart(block, x.ravel(), None if y is None else y.ravel()))
    parts.append(statistics(x, y))
    if y is not None and not np.array_equal(x, y):
        parts.append(side_by_side(name, x, y))
    bad = name in data.rows and not within_tolerance(data, name)
    first = data.comparison and data.comparison.first == name
    flag = f'<span class="flag">{"first difference" if first else "differs"}</span>' if bad else ""
    shape, seconds = format_shape(ours.shape), format_seconds(data.slow[name])
    return (
        f'<section class="card" id="{name}"><h3>{name.rpartition("/")[2]}{flag}</h3>'
        f'<p class="shape">{shape} · {seconds} (readable path)'
        f"{difference(data, name)}</p>{''.join(parts)}</section>"
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
    return (
        f"<br>error <b>{error}</b>, {decibels} dB, worst at {place}: ours {ours}, theirs {theirs}"
    )


def statistics(x: Array, y: Array | None) -> str:
    """Return a table of minimum, maximum, mean, standard deviation and share of zeros."""
    rows = ""
    for who, values in [("ours", x)] + ([] if y is None else [("theirs", y)]):
        zeros = 1 - np.count_nonzero(values) / values.size
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        numbers = [values.min(), values.max(), mean, deviation]
        cells = "".join(f"<td>{format_number(float(number))}</td>" for number in numbers)
        label = f"<th scope=row>{who}</th>" if y is not None else ""
        rows += f"<tr>{label}{cells}<td>{zeros:.1%}</td></tr>"
    corner = "<td></td>" if y is not None else ""
    names = "".join(f"<th scope=col>{t}</th>" for t in ("min", "max", "mean", "std", "zeros"))
    return f'<div class="scroll"><table><tr>{corner}{names}</tr>{rows}</table></div>'


# -- pictures -------------------------------------------------------------------------------------


def palette() -> bytes:
    """Return the colours of all pictures as a PNG wants them: red, green, blue, red, ..."""
    colours = [(0, 0, 0), (255, 0, 200)]  # of GAP, where the alpha channel makes it clear; BROKEN
    for anchors in DARK_TO_LIGHT, BLUE_TO_ORANGE:
        positions, known = np.linspace(0, len(anchors) - 1, SHADES), np.arange(len(anchors))
        channels = [np.interp(positions, known, channel) for channel in zip(*anchors, strict=True)]
        colours += np.rint(np.transpose(channels)).astype(int).tolist()
    return bytes(value for colour in colours for value in colour)


def png(indices: Array) -> str:
    """Return a picture of palette indices (H, W) uint8 as a data URI."""
    from PIL import Image

    image = Image.fromarray(indices)
    image.putpalette(palette())
    return data_uri(image, transparency=GAP)


def data_uri(image: Any, **options: Any) -> str:
    file = BytesIO()
    image.save(file, "PNG", compress_level=9, **options)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def resize_maps(maps: Array) -> Array:
    """Return feature maps (H, W, C) as (C, H', W'), no larger than a tile.

    Large ones are averaged over boxes of pixels; pixels of small ones are repeated.
    """
    h, w, _ = maps.shape
    factor = -(-max(h, w) // TILE)
    if factor > 1:
        rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
        sums = np.add.reduceat(np.add.reduceat(maps, rows, 0), columns, 1)
        counts = np.outer(np.diff([*rows, h]), np.diff([*columns, w]))[..., np.newaxis]
        return (sums / counts).transpose(2, 0, 1)
    repeat = TILE // max(h, w)
    return maps.transpose(2, 0, 1).repeat(repeat, 1).repeat(repeat, 2)


def to_shades(maps: Array, low: float, high: float, first: int = SEQUENTIAL) -> Array:
    """Return values as palette indices, uint8: low gets the first of the shades, high the last."""
    scaled = (maps - low) * ((SHADES - 1) / ((high - low) or 1))
    inside = np.clip(np.rint(np.nan_to_num(scaled)), 0, SHADES - 1).astype(np.uint8)
    return np.where(np.isfinite(maps), inside + np.uint8(first), np.uint8(BROKEN))


def to_signed_shades(maps: Array) -> Array:
    """Return values as indices of the scale with a sign: 0 is white, the largest is darkest."""
    largest = float(np.abs(maps[np.isfinite(maps)]).max(initial=0)) or 1.0
    return to_shades(maps, -largest, largest, DIVERGING)


def display_range(maps: Array) -> tuple[float, float]:
    """Return the range to show of some values: all but a few outliers, which hide the rest."""
    finite = maps[np.isfinite(maps)].astype(np.float64)  # differences of float32 could overflow
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0, 1)
    return float(low), float(high)


def sprite(rows: Sequence[Array]) -> Array:
    """Return rows of tiles, each row (N, H, W) uint8, as one picture with gaps in between."""
    height, width = (max(row.shape[axis] for row in rows) for axis in (1, 2))
    columns, gap = max(len(row) for row in rows), 2
    size = len(rows) * (height + gap) - gap, columns * (width + gap) - gap
    canvas = np.full(size, GAP, np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            y, x, (h, w) = r * (height + gap), c * (width + gap), tile.shape
            canvas[y : y + h, x : x + w] = tile
    return canvas


def figure(rows: Sequence[Array], labels: Sequence[str], alt: str, caption: str) -> str:
    """Return a picture of rows of tiles with a label before each row, or with no labels at all."""
    flat = " flat" if rows[0].shape[0] == 1 and rows[0].shape[1] == 1 else ""
    canvas = sprite([row.repeat(8, 1) for row in rows] if flat else rows)
    style = f' style="height:{22 * len(rows)}px"' if flat else ""
    names = "".join(f"<span>{escape(label)}</span>" for label in labels)
    h, w = canvas.shape
    return (
        f'<figure class="maps{flat}"><div>{f"<p aria-hidden=true>{names}</p>" if names else ""}'
        f'<img src="{png(canvas)}" width="{w}" height="{h}"{style} alt="{escape(alt)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def feature_maps(data: ReportData, name: str, x: Array) -> str:
    """Return a picture of the feature maps of a layer (H, W, C) that vary most.

    A depthwise convolution has a row for each kernel size. A vector is shown whole, as a strip.
    """
    h, w, c = x.shape
    if h * w == 1:
        values = x.reshape(1, 1, c)
        finite = x[np.isfinite(x)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        caption = f"All {c} channels, dark {format_number(low)}, light {format_number(high)}"
        return figure([to_shades(values, low, high)], [], f"{c} values as a strip", caption)
    block = next((u.block for u in data.units if u.block and name in u.layers), None)
    variance = np.nan_to_num(x.reshape(-1, c).var(axis=0))
    if block and name.endswith("depthwise_conv") and len(block.kernel_sizes) > 1:
        group_sizes = split_channels(c, len(block.kernel_sizes))
        labels, wanted = [f"{k} × {k}" for k in block.kernel_sizes], COLUMNS
    else:
        group_sizes, labels, wanted = [c], [], CHANNELS
    start, chosen = 0, []
    for size in group_sizes:
        chosen.append(start + np.argsort(-variance[start : start + size], kind="stable")[:wanted])
        start += size
    maps = resize_maps(x[:, :, np.concatenate(chosen)])
    low, high = display_range(maps)
    tiles = np.split(to_shades(maps, low, high), np.cumsum([len(group) for group in chosen])[:-1])
    rows = tiles if labels else [tiles[0][i : i + COLUMNS] for i in range(0, len(maps), COLUMNS)]
    numbers = "; ".join(", ".join(map(str, group)) for group in chosen)
    which = f"{len(maps)} of {c}" if len(maps) < c else f"all {c}"
    alt = f"{which} feature maps of {name}, {h} by {w} pixels each"
    caption = (
        f"{which.capitalize()} channels, those that vary most first; "
        f"dark {format_number(low)}, light {format_number(high)}"
        f"<details><summary>Which channels</summary>{numbers}</details>"
    )
    return figure(rows, labels, alt, caption)


def side_by_side(name: str, ours: Array, theirs: Array) -> str:
    """Return a picture of the channels in which theirs is furthest off; both (H, W, C)."""
    h, w, c = ours.shape
    difference = theirs.astype(np.float64) - ours
    labels = ["ours", "theirs", "difference"]
    if h * w == 1:
        a, b, d = (x.reshape(1, 1, c) for x in (ours, theirs, difference))
        which = "every channel"
    else:
        off = np.square(difference).reshape(-1, c).mean(axis=0)
        worst = np.argsort(-np.where(np.isnan(off), np.inf, off), kind="stable")[:COLUMNS]
        a, b, d = (resize_maps(x[:, :, worst]) for x in (ours, theirs, difference))
        which = "the channels furthest off: " + ", ".join(map(str, worst))
    low, high = display_range(a)
    largest = float(np.abs(d[np.isfinite(d)]).max(initial=0))
    rows = [to_shades(a, low, high), to_shades(b, low, high), to_signed_shades(d)]
    caption = f"{which.capitalize()}; darkest difference ±{format_number(largest)}"
    return figure(rows, labels, f"{name}: ours, theirs, difference; {which}", caption)


def kernels(data: ReportData, block: Block) -> str:
    """Return a picture of the first few depthwise kernels of a block, a row for each size."""
    groups = group_kernels(f"{block.name}/depthwise_conv", data.model.tensors)
    tiles = [to_signed_shades(resize_maps(kernel[..., :COLUMNS, 0])) for kernel in groups]
    labels = [f"{k} × {k}" for k in block.kernel_sizes]
    alt = f"Depthwise kernels of sizes {', '.join(labels)}"
    caption = "The first depthwise kernels of each size; orange positive, blue negative, white 0"
    return f"<h3>Kernels</h3>{figure(tiles, labels, alt, caption)}"


# -- charts ---------------------------------------------------------------------------------------


def bar_path(heights: Array, width: float = 1) -> str:
    """Return an SVG path of bars that stand on y = 0 and grow upwards."""
    drawn = ((i, h) for i, h in enumerate(np.round(heights, 1).tolist()) if h > 0)
    return "".join(f"M{i * width:g} 0v{-h:g}h{width:g}v{h:g}z" for i, h in drawn)


def count_values(x: Array, low: float, high: float) -> Array:
    """Count the finite values in each bin of low..high, without zeros, which would hide the rest.

    Values outside count in the first or the last bin.
    """
    x = x.reshape(-1)
    x = x[(x != 0) & np.isfinite(x)]
    bins = np.clip((x - low) * (BINS / ((high - low) or 1)), 0, BINS - 1).astype(np.int32)
    return np.bincount(bins, minlength=BINS)


def histogram(x: Array, other: Array | None) -> str:
    """Return a chart of the values of a layer, with those of another implementation as outline."""
    finite = x[np.isfinite(x)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    own = count_values(x, low, high)
    tallest = max(own.max(), 1)
    paths = f'<path class="bar" d="{bar_path(own * (60 / tallest))}"/>'
    if other is not None:
        heights = np.minimum(count_values(other, low, high) * (60 / tallest), 62).round(1).tolist()
        steps = "".join(f"V{-h:g}h1" for h in heights)
        paths += f'<path class="outline" d="M0 0{steps}V0"/>'
    if low < 0 < high:
        x_zero = BINS * low / (low - high)
        paths += f'<path class="zero" d="M{x_zero:.2f} 0V-64"/>'
    return (
        f'<figure class="histogram"><svg viewBox="0 -64 {BINS} 65" preserveAspectRatio="none" '
        f'role="img" aria-label="Histogram">{paths}</svg>'
        f"<figcaption><span>{format_number(low)}</span><span>{format_number(high)}</span></figcaption></figure>"
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
