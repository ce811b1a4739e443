"""All about one layer for the page of `report.py`: feature maps, histogram, gates, numbers.

Letters: a layer of one image is (H, W, C), (1, 1, C) for a vector; "maps" are feature maps (h, w),
one a channel. Pictures are PNG made with Pillow, as data URIs; charts are inline SVG.
"""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array, split_channels
from tinymixnet.report.drawing import ReportData, by, figures, fine, milliseconds

TILE = 56  # pixels a side that a feature map takes at most
COLUMNS = 8  # feature maps in a row
CHANNELS = 24  # feature maps shown of a layer
BINS = 48

# Colours of pictures: 63 shades from dark to light, readable in grey and to the colour-blind, and
# 63 from blue over white to orange for what has a sign. In a PNG's palette they stand one after
# the other, behind the transparent gap between maps and the colour of NaN and infinity.
SHADES = 63
GAP, BROKEN, SEQUENTIAL, DIVERGING = 0, 1, 2, 2 + SHADES
DARK_TO_LIGHT = (36, 18, 84), (52, 68, 138), (32, 128, 140), (76, 184, 108), (250, 232, 70)
BLUE_TO_ORANGE = (10, 56, 120), (92, 160, 214), (246, 246, 244), (240, 150, 62), (134, 52, 4)


def card(data: ReportData, name: str, ours: Array, theirs: Array | None) -> str:
    """All about one layer: ours and theirs (H, W, C) or (C,)."""
    x = ours.reshape((1, 1, -1) if ours.ndim == 1 else ours.shape)
    y = None if theirs is None else theirs.reshape(x.shape)
    block = next((u.block for u in data.units if u.block and name in u.layers), None)
    parts = [feature_maps(data, name, x), histogram(x, y)]
    if block and name.endswith("/se_gate"):
        parts.append(gates(block, x.ravel(), None if y is None else y.ravel()))
    parts.append(statistics(x, y))
    if y is not None and not np.array_equal(x, y):
        parts.append(side_by_side(name, x, y))
    bad = name in data.rows and not fine(data, name)
    first = data.comparison and data.comparison.first == name
    flag = f'<span class="flag">{"first difference" if first else "differs"}</span>' if bad else ""
    return (
        f'<section class="card" id="{name}"><h3>{name.rpartition("/")[2]}{flag}</h3>'
        f'<p class="shape">{by(ours.shape)} · {milliseconds(data.slow[name])} (readable path)'
        f"{difference(data, name)}</p>{''.join(parts)}</section>"
    )


def difference(data: ReportData, name: str) -> str:
    """How far off the other implementation is, and where."""
    if data.comparison is None:
        return ""
    if name not in data.rows:
        return "<br>not in the other"
    row = data.rows[name]
    if row.status == "shape":
        return f"<br>theirs has shape {by(row.found)}"
    if row.error == 0:
        return "<br>theirs is equal"
    axes = ("image", "row", "column", "channel") if len(row.worst) == 4 else ("image", "channel")
    at = ", ".join(f"{axis} {i}" for axis, i in zip(axes, row.worst, strict=True))
    ours, theirs = map(figures, row.values)
    return (
        f"<br>error <b>{figures(row.error)}</b>, {figures(row.snr)} dB, worst at {at}: "
        f"ours {ours}, theirs {theirs}"
    )


def statistics(x: Array, y: Array | None) -> str:
    """Least, largest, mean, deviation and share of zeros; theirs in a second row."""
    rows = ""
    for who, values in [("ours", x)] + ([] if y is None else [("theirs", y)]):
        zeros = 1 - np.count_nonzero(values) / values.size
        found = [values.min(), values.max(), values.mean(dtype=np.float64), values.std()]
        cells = "".join(f"<td>{figures(float(value))}</td>" for value in found)
        label = f"<th scope=row>{who}</th>" if y is not None else ""
        rows += f"<tr>{label}{cells}<td>{zeros:.1%}</td></tr>"
    corner = "<td></td>" if y is not None else ""
    names = "".join(f"<th scope=col>{t}</th>" for t in ("min", "max", "mean", "std", "zeros"))
    return f'<div class="scroll"><table><tr>{corner}{names}</tr>{rows}</table></div>'


# -- pictures -------------------------------------------------------------------------------------


def palette() -> bytes:
    """The colours of all pictures as a PNG wants them: red, green, blue, red, ..."""
    found = [(0, 0, 0), (255, 0, 200)]
    for anchors in DARK_TO_LIGHT, BLUE_TO_ORANGE:
        at, of = np.linspace(0, len(anchors) - 1, SHADES), np.arange(len(anchors))
        channels = [np.interp(at, of, channel) for channel in zip(*anchors, strict=True)]
        found += np.rint(np.transpose(channels)).astype(int).tolist()
    return bytes(value for colour in found for value in colour)


def png(indices: Array) -> str:
    """A data URI of palette indices (H, W) uint8."""
    from PIL import Image

    image = Image.fromarray(indices)
    image.putpalette(palette())
    return data_uri(image, transparency=GAP)


def data_uri(image: Any, **options: Any) -> str:
    file = BytesIO()
    image.save(file, "PNG", compress_level=9, **options)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def fit(maps: Array) -> Array:
    """Bring maps (h, w, C) to (C, h', w'), as close to a tile as averaging or repeating can."""
    h, w, _ = maps.shape
    factor = -(-max(h, w) // TILE)
    if factor > 1:
        rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
        sums = np.add.reduceat(np.add.reduceat(maps, rows, 0), columns, 1)
        counts = np.outer(np.diff([*rows, h]), np.diff([*columns, w]))[..., np.newaxis]
        return (sums / counts).transpose(2, 0, 1)
    repeat = TILE // max(h, w)
    return maps.transpose(2, 0, 1).repeat(repeat, 1).repeat(repeat, 2)


def shade(maps: Array, low: float, high: float, first: int = SEQUENTIAL) -> Array:
    """Values as palette indices: low takes the first of the shades, high the last."""
    scaled = (maps - low) * ((SHADES - 1) / ((high - low) or 1))
    inside = np.clip(np.rint(np.nan_to_num(scaled)), 0, SHADES - 1).astype(np.uint8)
    return np.where(np.isfinite(maps), inside + np.uint8(first), np.uint8(BROKEN))


def shade_signed(maps: Array) -> Array:
    """Zero is white, the largest magnitude darkest."""
    largest = float(np.abs(maps[np.isfinite(maps)]).max(initial=0)) or 1.0
    return shade(maps, -largest, largest, DIVERGING)


def ends(maps: Array) -> tuple[float, float]:
    """The range to show of some maps: all but a few outliers, which would hide the rest."""
    finite = maps[np.isfinite(maps)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0, 1)
    return float(low), float(high)


def sprite(rows: Sequence[Array]) -> Array:
    """Rows of tiles, each row (n, h, w) uint8, as one picture with gaps in between."""
    high, wide = (max(row.shape[axis] for row in rows) for axis in (1, 2))
    most, gap = max(len(row) for row in rows), 2
    canvas = np.full((len(rows) * (high + gap) - gap, most * (wide + gap) - gap), GAP, np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            y, x, (h, w) = r * (high + gap), c * (wide + gap), tile.shape
            canvas[y : y + h, x : x + w] = tile
    return canvas


def figure(rows: Sequence[Array], labels: Sequence[str], alt: str, caption: str) -> str:
    """A sprite with a label before each row (none: labels are empty)."""
    flat = " flat" if rows[0].shape[0] == 1 and rows[0].shape[1] == 1 else ""
    canvas = sprite([row.repeat(8, 1) for row in rows] if flat else rows)
    tall = f' style="height:{22 * len(rows)}px"' if flat else ""
    names = "".join(f"<span>{escape(label)}</span>" for label in labels)
    h, w = canvas.shape
    return (
        f'<figure class="maps{flat}"><div>{f"<p aria-hidden=true>{names}</p>" if names else ""}'
        f'<img src="{png(canvas)}" width="{w}" height="{h}"{tall} alt="{escape(alt)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def feature_maps(data: ReportData, name: str, x: Array) -> str:
    """The feature maps of a layer (H, W, C) that vary most; all values where each is one pixel.

    For a depthwise convolution a row for each kernel size, so that they can be told apart.
    """
    h, w, c = x.shape
    if h * w == 1:
        values = x.reshape(1, 1, c)
        low, high = float(np.nanmin(x)), float(np.nanmax(x))
        caption = f"All {c} channels, dark {figures(low)}, light {figures(high)}"
        return figure([shade(values, low, high)], [], f"{c} values as a strip", caption)
    block = next((u.block for u in data.units if u.block and name in u.layers), None)
    variance = np.nan_to_num(x.reshape(-1, c).var(axis=0))
    if block and name.endswith("depthwise_conv") and len(block.kernel_sizes) > 1:
        cuts = split_channels(c, len(block.kernel_sizes))
        labels, wanted = [f"{k} × {k}" for k in block.kernel_sizes], COLUMNS
    else:
        cuts, labels, wanted = [c], [], CHANNELS
    start, chosen = 0, []
    for cut in cuts:
        chosen.append(start + np.argsort(-variance[start : start + cut], kind="stable")[:wanted])
        start += cut
    maps = fit(x[:, :, np.concatenate(chosen)])
    low, high = ends(maps)
    tiles = np.split(shade(maps, low, high), np.cumsum([len(some) for some in chosen])[:-1])
    rows = tiles if labels else [tiles[0][i : i + COLUMNS] for i in range(0, len(maps), COLUMNS)]
    listed = "; ".join(", ".join(map(str, some)) for some in chosen)
    which = f"{len(maps)} of {c}" if len(maps) < c else f"all {c}"
    alt = f"{which} feature maps of {name}, {h} by {w} pixels each"
    caption = (
        f"{which.capitalize()} channels, those that vary most first; dark {figures(low)}, light "
        f"{figures(high)}<details><summary>Which channels</summary>{listed}</details>"
    )
    return figure(rows, labels, alt, caption)


def side_by_side(name: str, ours: Array, theirs: Array) -> str:
    """The channels (H, W, C) in which another implementation is furthest off."""
    h, w, c = ours.shape
    difference = theirs.astype(np.float64) - ours
    labels = ["ours", "theirs", "difference"]
    if h * w == 1:
        a, b, d = (x.reshape(1, 1, c) for x in (ours, theirs, difference))
        listed = "every channel"
    else:
        off = np.square(difference).reshape(-1, c).mean(axis=0)
        worst = np.argsort(-np.where(np.isnan(off), np.inf, off), kind="stable")[:COLUMNS]
        a, b, d = (fit(x[:, :, worst]) for x in (ours, theirs, difference))
        listed = "the channels furthest off: " + ", ".join(map(str, worst))
    low, high = ends(a)
    largest = float(np.abs(d[np.isfinite(d)]).max(initial=0))
    rows = [shade(a, low, high), shade(b, low, high), shade_signed(d)]
    caption = f"{listed.capitalize()}; darkest difference ±{figures(largest)}"
    return figure(rows, labels, f"{name}: ours, theirs, difference; {listed}", caption)


def kernels(data: ReportData, block: Block) -> str:
    """Some of a block's depthwise kernels of each size."""
    found = group_kernels(f"{block.name}/depthwise_conv", data.model.tensors)
    tiles = [shade_signed(fit(kernel[..., :COLUMNS, 0])) for kernel in found]
    labels = [f"{k} × {k}" for k in block.kernel_sizes]
    alt = f"Depthwise kernels of sizes {', '.join(labels)}"
    caption = "The first depthwise kernels of each size; orange positive, blue negative, white 0"
    return f"<h3>Kernels</h3>{figure(tiles, labels, alt, caption)}"


# -- charts ---------------------------------------------------------------------------------------


def bars(heights: Array, width: float = 1) -> str:
    """An SVG path of bars that stand on y = 0 and grow upwards."""
    drawn = ((i, h) for i, h in enumerate(np.round(heights, 1).tolist()) if h > 0)
    return "".join(f"M{i * width:g} 0v{-h:g}h{width:g}v{h:g}z" for i, h in drawn)


def counts(x: Array, low: float, high: float) -> Array:
    """How many values other than 0 fall in each of the bins; those outside count in the last."""
    x = x.reshape(-1)
    x = x[(x != 0) & np.isfinite(x)]
    bins = np.clip((x - low) * (BINS / ((high - low) or 1)), 0, BINS - 1).astype(np.int32)
    return np.bincount(bins, minlength=BINS)


def histogram(x: Array, other: Array | None) -> str:
    """The values of a layer, those of the other implementation as an outline."""
    finite = x[np.isfinite(x)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    own = counts(x, low, high)
    tallest = max(own.max(), 1)
    paths = f'<path class="bar" d="{bars(own * (60 / tallest))}"/>'
    if other is not None:
        heights = np.minimum(counts(other, low, high) * (60 / tallest), 62).round(1).tolist()
        steps = "".join(f"V{-h:g}h1" for h in heights)
        paths += f'<path class="outline" d="M0 0{steps}V0"/>'
    if low < 0 < high:
        at = BINS * low / (low - high)
        paths += f'<path class="zero" d="M{at:.2f} 0V-64"/>'
    return (
        f'<figure class="histogram"><svg viewBox="0 -64 {BINS} 65" preserveAspectRatio="none" '
        f'role="img" aria-label="Histogram">{paths}</svg>'
        f"<figcaption><span>{figures(low)}</span><span>{figures(high)}</span></figcaption></figure>"
    )


def gates(block: Block, gate: Array, other: Array | None) -> str:
    """The squeeze-and-excite gates (C,), sorted and by kernel size: what the block listens to."""
    parts = np.split(gate, np.cumsum(split_channels(len(gate), len(block.kernel_sizes)))[:-1])
    means = ", ".join(
        f"{figures(float(part.mean()))} for {k} × {k}"
        for k, part in zip(block.kernel_sizes, parts, strict=True)
    )

    def line(values: Array) -> str:
        ordered = np.sort(np.nan_to_num(values))[:: -max(1, len(values) // 200)]
        points = zip(np.linspace(0, 200, len(ordered)), ordered, strict=True)
        return "L".join(f"{x:.1f} {-60 * y:.1f}" for x, y in points)

    outline = "" if other is None else f'<path class="outline" d="M{line(other)}"/>'
    return (
        '<figure class="histogram"><svg viewBox="0 -62 200 64" preserveAspectRatio="none" '
        f'role="img" aria-label="Gates sorted"><path class="bar" d="M0 0L{line(gate)}L200 0z"/>'
        f'{outline}<path class="zero" d="M0 -30H200"/></svg><figcaption><span>gates, largest first;'
        f" dashed: 0.5</span></figcaption></figure><p>Mean gate {means}.</p>"
    )
