"""One self-contained HTML page that shows what a network computes for an image, layer by layer.

`write_report` measures the times, runs the network once more for the pictures and numbers, and puts
the page together from three kinds of parts: pictures (PNG made with Pillow, as data URIs), charts
(inline SVG) and text. The style sheet and the script are `data/report.css` and `data/report.js`;
the page's content security policy lets nothing else run and nothing be fetched.

Letters: an image's layer is (H, W, C) or (C,); "maps" are feature maps (h, w), one a channel.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import groupby
from math import isfinite, log2, log10
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.architecture import Architecture, Block, group_kernels
from tinymixnet.errors import InputError
from tinymixnet.kernels import Array, normalize, softmax, split_channels
from tinymixnet.model import Model, check_pixels
from tinymixnet.weights import written_whole

if TYPE_CHECKING:
    from tinymixnet.compare import Comparison, Row
    from tinymixnet.dumps import Dump

DATA = Path(__file__).parent / "data"
TILE = 56  # pixels a side that a feature map takes at most
COLUMNS = 8  # feature maps in a row
CHANNELS = 24  # feature maps shown of a layer
BINS = 48
NOTES = 100  # on what could not be compared, at most
RUNS = 3  # of which the quickest counts

# Colours of pictures: 63 shades from dark to light, readable in grey and to the colour-blind, and
# 63 from blue over white to orange for what has a sign. In a PNG's palette they stand one after
# the other, behind the transparent gap between maps and the colour of NaN and infinity.
SHADES = 63
GAP, BROKEN, SEQUENTIAL, DIVERGING = 0, 1, 2, 2 + SHADES
DARK_TO_LIGHT = (36, 18, 84), (52, 68, 138), (32, 128, 140), (76, 184, 108), (250, 232, 70)
BLUE_TO_ORANGE = (10, 56, 120), (92, 160, 214), (246, 246, 244), (240, 150, 62), (134, 52, 4)


class Unit(NamedTuple):
    """One part of the drawing: the stem, a block or the head."""

    name: str  # also its address in the page
    title: str
    layers: dict[str, tuple[int, ...]]
    block: Block | None


class Look(NamedTuple):
    """All that the parts of the page are made of."""

    model: Model
    units: list[Unit]
    slow: Mapping[str, float]  # seconds of each layer, readable path
    fast: Mapping[str, float]  # seconds of each layer of the plan
    comparison: "Comparison | None"
    rows: Mapping[str, "Row"]


def write_report(
    model: Model,
    image: str,
    pixels: Array,
    path: str | os.PathLike[str],
    dump: "Dump | None" = None,
) -> None:
    """Write the page about `pixels` (N, H, W, 3), 0..255, of which it shows the first image.

    image is what to call them. With a dump of another implementation the page also shows where the
    two differ; then each layer is shown for the image in which it differs most.
    Raises InputError when the file cannot be written, TraceError when the dump cannot be read.
    """
    pixels = check_pixels(pixels).astype(np.float32)
    if not len(pixels):
        raise InputError("pixels: expected at least one image, found none")
    with np.errstate(all="ignore"):  # another implementation's values may be anything
        page = _page(model, os.path.basename(image) or image, pixels, dump)
    try:
        with written_whole(path) as beside:
            beside.write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _page(model: Model, image: str, pixels: Array, dump: "Dump | None") -> str:
    n, h, w, _ = pixels.shape
    comparison = None
    if dump is not None:
        from tinymixnet.compare import compare

        comparison = compare(model.layers(pixels), dump)
    slow, fast = slow_times(model, pixels[:1]), fast_times(model, pixels[0])
    rows = {row.layer: row for row in comparison.rows} if comparison else {}
    look = Look(model, units(model.architecture, h, w), slow, fast, comparison, rows)

    cards, ours, theirs = {}, pixels[0], None
    for name, layer in model.layers(pixels):
        row = rows.get(name)
        which = row.worst[0] if row and row.worst else 0
        other = dump[name] if dump is not None and name in dump.names else None
        cards[name] = card(look, name, layer[which], None if other is None else other[which])
        if name == "probabilities":
            ours = layer[0]
        if other is not None and name in ("logits", "probabilities"):
            theirs = softmax(other[:1])[0] if name == "logits" else other[0]

    shown = f"{image}, {h} × {w}" + (f", the first of {n} images" if n > 1 else "")
    network = model.metadata.name or model.architecture.variant
    title = f"{network} looks at {image}"
    script = (DATA / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = [
        answers(model, shown, pixels[0], ours, theirs),
        verdict(look, dump),
        f'<h2 id="network">The network</h2>{drawing(look)}{strip(look)}',
        *(panel(look, place, cards) for place in range(len(look.units))),
    ]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title><link rel="icon" href="data:,">
<style>{(DATA / "report.css").read_text("utf-8")}</style></head><body>
<header><h1>{escape(title)}</h1><p>{summary(look, h, w)}</p></header>
<main>{"".join(parts)}</main><footer>{legend()}</footer>
<script>{script}</script></body></html>
"""


def units(architecture: Architecture, height: int, width: int) -> list[Unit]:
    """The parts of the network in order, each with its layers and their shapes for one image.

    What comes before the stem is counted to the stem, what comes after the head to the head.
    """
    found = [Unit("stem", "Stem", {}, None)]
    found += [Unit(b.name, f"Block {b.name[7:]}", {}, b) for b in architecture.blocks]
    found.append(Unit("head", "Head", {}, None))
    place = {unit.name: unit for unit in found}
    before = "stem"
    for layer, shape in architecture.layer_shapes(height, width).items():
        before = layer.split("/")[0] if "/" in layer else before
        place[before].layers[layer] = shape
    return found


# -- measuring ------------------------------------------------------------------------------------


def slow_times(model: Model, pixels: Array) -> dict[str, float]:
    """Seconds that each layer takes on the readable path: the quickest of a few runs."""
    best: dict[str, float] = {}
    for _ in range(RUNS):
        start = perf_counter()
        for name, _ in model.layers(pixels):
            seconds = perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
            start = perf_counter()
    return best


def fast_times(model: Model, image: Array) -> dict[str, float]:
    """Seconds of each layer of the plan, all its steps together, for one image (H, W, 3)."""
    program = model.plan.program(*image.shape[:2])
    program.image[:] = normalize(image, model.metadata.mean, model.metadata.std)
    best = [float("inf")] * len(program.steps)
    for _ in range(RUNS):
        for i, step in enumerate(program.steps):
            start = perf_counter()
            step.run()
            best[i] = min(best[i], perf_counter() - start)
    found: dict[str, float] = {}
    for step, seconds in zip(program.steps, best, strict=True):
        found[step.layer] = found.get(step.layer, 0) + seconds
    return found


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


def feature_maps(look: Look, name: str, x: Array) -> str:
    """The feature maps of a layer (H, W, C) that vary most; all values where each is one pixel.

    For a depthwise convolution a row for each kernel size, so that they can be told apart.
    """
    h, w, c = x.shape
    if h * w == 1:
        values = x.reshape(1, 1, c)
        low, high = float(np.nanmin(x)), float(np.nanmax(x))
        caption = f"All {c} channels, dark {figures(low)}, light {figures(high)}"
        return figure([shade(values, low, high)], [], f"{c} values as a strip", caption)
    block = next((u.block for u in look.units if u.block and name in u.layers), None)
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


def kernels(look: Look, block: Block) -> str:
    """Some of a block's depthwise kernels of each size."""
    found = group_kernels(f"{block.name}/depthwise_conv", look.model.tensors)
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
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
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


# -- the drawing ----------------------------------------------------------------------------------

COLUMN, LEFT, FLOOR, TIMES, ERRORS = 54, 66, 176, 336, 378  # pixels; the last three are heights


def drawing(look: Look) -> str:
    """The network from left to right; each part a link to its panel."""
    width = LEFT + COLUMN * len(look.units) + 4
    height = ERRORS + (104 if look.comparison else -8)
    lanes = {FLOOR - 9: "kernels", 197: "part", 215: "channels", 231: "expanded"}
    lanes |= {247: "squeeze", 263: "activation", TIMES - 30: "time", TIMES + 14: "fast path"}
    if look.comparison:
        lanes[ERRORS - 4] = "error of each layer"
    texts = "".join(f'<text x="0" y="{y}" class="lane">{t}</text>' for y, t in lanes.items())
    columns = "".join(column(look, i) for i in range(len(look.units)))
    scale = error_scale(look, width) if look.comparison else ""
    return (
        '<nav class="scroll network" tabindex="-1" aria-label="Parts of the network">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{brackets(look)}{texts}{scale}{columns}</svg></nav>"
    )


def resolution(unit: Unit) -> tuple[int, int]:
    """Height and width at the end of a part of the network."""
    shapes = [shape for shape in unit.layers.values() if len(shape) == 3]
    return shapes[-1][0], shapes[-1][1]


def brackets(look: Look) -> str:
    """Above the parts that have the same resolution, what that is."""
    found, at = "", LEFT
    for size, group in groupby(map(resolution, look.units)):
        wide = COLUMN * len(list(group))
        found += (
            f'<path class="bracket" d="M{at + 3} 24v-5h{wide - 6}v5"/>'
            f'<text x="{at + wide / 2}" y="13">{by(size)}</text>'
        )
        at += wide
    return found


def column(look: Look, place: int) -> str:
    """One part: a box as high as its resolution, cut up by kernel sizes, and what to know of it."""
    unit, block = look.units[place], look.units[place].block
    left, middle = LEFT + place * COLUMN, LEFT + place * COLUMN + COLUMN / 2
    largest, smallest = (log2(max(resolution(look.units[i]))) for i in (0, -1))
    size = log2(max(resolution(unit))) - smallest
    tall = 34 + 92 * size / ((largest - smallest) or 1)
    top = FLOOR - tall
    sizes = block.kernel_sizes if block else (3,) if unit.name == "stem" else (1,)
    wide, box = (COLUMN - 8) / len(sizes), ""
    for i, k in enumerate(sizes):
        x = left + 4 + i * wide
        box += f'<rect class="k k{min(k, 11)}" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}"'
        box += f' height="{tall:.1f}"/><text class="k k{min(k, 11)}" x="{x + wide / 2:.1f}"'
        box += f' y="{FLOOR - 9}">{k}</text>'
    if block and block.residual:
        box += f'<path class="residual" d="M{left + 6} {top - 3:.1f}c0 -16 42 -16 42 0l-5 -4m5 4l3'
        box += ' -5"/>'
    texts = zip((197, 215, 231, 247, 263), facts(look, unit), strict=True)
    box += "".join(f'<text x="{middle}" y="{y}"{kind}>{t}</text>' for y, (t, kind) in texts)
    first = look.comparison and look.comparison.first in unit.layers
    return (
        f'<a href="#{unit.name}" data-part="{unit.name}" aria-label="{spoken(look, unit)}">'
        f'<rect class="hit" x="{left + 1}" y="28" width="{COLUMN - 2}" rx="5" '
        f'height="{(ERRORS + 100 if look.comparison else TIMES + 22) - 28}"/>{box}'
        f"{time_bars(look, unit, left)}{error_bars(look, unit, left)}"
        + (f'<text class="first" x="{middle}" y="{ERRORS + 95}">▲ first</text>' if first else "")
        + "</a>"
    )


def facts(look: Look, unit: Unit) -> list[tuple[str, str]]:
    """What stands under a part: (text, attributes) of its name, channels, ..., activation."""
    strong, wide, b = ' class="name"', ' class="channels"', unit.block
    if b:
        expanded = str(b.expanded) if b.expand_groups else "·"
        inner = (expanded, str(b.se_width or "·"), "swish" if b.swish else "relu")
        return [(b.name[7:], strong), (f"{b.inputs}→{b.outputs}", wide), *((t, "") for t in inner)]
    architecture = look.model.architecture
    channels = f"3→{architecture.stem}"
    if unit.name == "head":
        channels = f"{architecture.blocks[-1].outputs}→{architecture.classes}"
    expanded = str(architecture.head_filters) if unit.name == "head" else "·"
    return [(unit.name, strong), (channels, wide), (expanded, ""), ("·", ""), ("relu", "")]


def spoken(look: Look, unit: Unit) -> str:
    """A part of the network in a sentence, for those who hear the page."""
    b, (h, w) = unit.block, resolution(unit)
    text = f"{unit.title}, {h} by {w}"
    if b:
        text += (
            f", {b.inputs} to {b.outputs} channels, kernels {', '.join(map(str, b.kernel_sizes))}"
        )
        text += f", {'squeeze and excite, ' if b.se_width else ''}{'swish' if b.swish else 'relu'}"
    text += f", {milliseconds(sum(of_unit(unit, look.fast).values()))}"
    if look.comparison:
        past = sum(name in look.rows and not fine(look, name) for name in unit.layers)
        text += f", {past} layers past the tolerance" if past else ", within the tolerance"
        if look.comparison.first in unit.layers:
            text += ", the first difference is here"
    return text


def time_bars(look: Look, unit: Unit, left: float) -> str:
    """Readable and fast path side by side, on the scale of the longest."""
    pairs = [[sum(of_unit(u, t).values()) for t in (look.slow, look.fast)] for u in look.units]
    longest = max(max(pair) for pair in pairs)
    drawn = ""
    for i, seconds in enumerate(pairs[look.units.index(unit)]):
        tall = 46 * seconds / longest
        drawn += f'<rect class="time{i}" x="{left + 10 + i * 18}" y="{TIMES - tall:.1f}" '
        drawn += f'width="16" height="{tall:.1f}"><title>{milliseconds(seconds)}</title></rect>'
    fast = pairs[look.units.index(unit)][1] * 1e3
    return (
        drawn + f'<text class="small" x="{left + COLUMN / 2}" y="{TIMES + 14}">{fast:.2g} ms</text>'
    )


LEAST, MOST = -8, 1  # powers of ten that the chart of errors spans


def high(error: float) -> float:
    """How high a bar is for an error, logarithmically; infinity and NaN reach the top."""
    power = log10(error) if isfinite(error) and error > 0 else LEAST if error == 0 else MOST
    return 76 * (min(max(power, LEAST), MOST) - LEAST) / (MOST - LEAST)


def fine(look: Look, name: str) -> bool:
    return look.rows[name].status == "ok"


def error_bars(look: Look, unit: Unit, left: float) -> str:
    """The error of each layer of a part that the other implementation has."""
    wide, drawn = (COLUMN - 8) / len(unit.layers), ""
    for i, name in enumerate(unit.layers):
        if name in look.rows:
            tall = max(high(look.rows[name].error), 1)
            kind = "good" if fine(look, name) else "bad"
            if look.comparison and name == look.comparison.first:
                kind += " guilty"
            drawn += (
                f'<rect class="{kind}" x="{left + 4 + i * wide:.1f}" width="{wide * 0.8:.1f}" '
                f'y="{ERRORS + 80 - tall:.1f}" height="{tall:.1f}"><title>{escape(name)} '
                f"{figures(look.rows[name].error)}</title></rect>"
            )
    return drawn


def error_scale(look: Look, width: int) -> str:
    """The lines behind the errors: powers of ten and the tolerance."""
    drawn = ""
    small = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    for power in range(LEAST, MOST + 1, 3):
        y = ERRORS + 80 - high(10.0**power)
        drawn += f'<path class="grid" d="M{LEFT} {y:.1f}H{width}"/>'
        drawn += f'<text class="tick" x="{LEFT - 4}" y="{y + 4:.1f}">10{str(power).translate(small)}</text>'
    assert look.comparison
    y = ERRORS + 80 - high(look.comparison.tolerance)
    return drawn + f'<path class="limit" d="M{LEFT} {y:.1f}H{width}"/>'


# -- the text -------------------------------------------------------------------------------------


def summary(look: Look, height: int, width: int) -> str:
    architecture = look.model.architecture
    slow, fast = (sum(times.values()) for times in (look.slow, look.fast))
    return (
        f"{escape(architecture.variant)}, {len(architecture.blocks)} blocks, "
        f"{architecture.parameters():,} parameters, "
        f"{architecture.multiply_adds(height, width) / 1e6:,.1f} M multiply-adds. One image took "
        f"{milliseconds(fast)} on the fast path, {milliseconds(slow)} on the readable one."
    )


def answers(model: Model, shown: str, image: Array, ours: Array, theirs: Array | None) -> str:
    """The picture and the five best answers, with the other implementation's beside."""
    from PIL import Image

    picture = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    rows = ""
    for i in np.argsort(-ours, kind="stable")[:5]:
        values = [("ours", ours[i])] + ([] if theirs is None else [("theirs", theirs[i])])
        meters = "".join(
            f'<span class="meter {who}"><i style="width:{100 * np.nan_to_num(p):.2f}%"></i>'
            f"<b>{p:.2%}{'' if theirs is None else f' {who}'}</b></span>"
            for who, p in values
        )
        rows += f"<dt>{escape(model.labels[i])}</dt><dd>{meters}</dd>"
    return (
        f'<section class="answers" aria-label="Answers"><figure><img src="{data_uri(picture)}" '
        f'alt="The image as the network sees it"><figcaption>{escape(shown)} pixels, as the network'
        f" sees it</figcaption></figure><div><h2>What it sees</h2><dl>{rows}</dl></div></section>"
    )


def verdict(look: Look, dump: "Dump | None") -> str:
    """Whether the other implementation agrees, and what could not be compared."""
    found = look.comparison
    if not found or dump is None:
        return ""
    count = len(found.rows)
    if found.first is None:
        text = f"Alike: all {count} layers compared are within {found.tolerance:g}."
    else:
        past = sum(row.status != "ok" for row in found.rows)
        text = (
            f'First difference: <a href="#{found.first}">{found.first}</a>'
            f"{difference(look, found.first).replace('<br>', ', ')}. {past} of {count} layers are "
            f"past their tolerance, {found.tolerance:g} unless a note says otherwise."
        )
    notes = [escape(warning) for warning in found.warnings]
    notes += [
        f"{escape(name)} has shape {by(was)}, expected {by(wanted)}"
        for name, (was, wanted) in dump.mismatched.items()
    ]
    notes += [
        f"{escape(name)} has no place" + (f": is it {escape(guess)}?" if guess else "")
        for name, guess in dump.unmatched.items()
    ]
    if dump.missing:
        notes.append(f"{len(dump.missing)} layers are not in it: {', '.join(dump.missing)}")
    more = [f"and {len(notes) - NOTES} more"] if len(notes) > NOTES else []
    listed = "".join(f"<li>{note}</li>" for note in notes[:NOTES] + more)
    rest = f"<details><summary>{len(notes)} notes</summary><ul>{listed}</ul></details>"
    kind = "good" if found.alike else "bad"
    return (
        f'<section class="verdict {kind}"><h2>Against {escape(dump.trace.path.name)}</h2>'
        f"<p>{text}</p>{rest if notes else ''}</section>"
    )


def strip(look: Look) -> str:
    """All parts by name in a line that stays in sight."""
    links = ""
    for unit in look.units:
        off = any(name in look.rows and not fine(look, name) for name in unit.layers)
        links += (
            f'<a href="#{unit.name}" data-part="{unit.name}"{" class=off" if off else ""} '
            f'aria-label="{unit.title}{", differs" if off else ""}">'
            f"{unit.block.name[7:] if unit.block else unit.name}</a>"
        )
    return f'<nav class="scroll strip" aria-label="Go to a part">{links}</nav>'


def panel(look: Look, place: int, cards: Mapping[str, str]) -> str:
    """All about one part of the network."""
    unit = look.units[place]
    around = ""
    if place:
        before = look.units[place - 1]
        around += f'<a href="#{before.name}" rel="prev">← {before.title}</a>'
    if place + 1 < len(look.units):
        after = look.units[place + 1]
        around += f'<a href="#{after.name}" rel="next">{after.title} →</a>'
    slow, fast = of_unit(unit, look.slow), of_unit(unit, look.fast)
    steps = "".join(
        f'<dt>{name.removeprefix(unit.name + "/")}</dt><dd><span class="meter"><i style="width:'
        f'{100 * seconds / sum(fast.values()):.1f}%"></i><b>{milliseconds(seconds)}</b></span></dd>'
        for name, seconds in fast.items()
    )
    return (
        f'<section class="panel" id="{unit.name}" aria-labelledby="{unit.name}-title">'
        f'<h2 id="{unit.name}-title">{unit.title}</h2><p class="flow">{flow(look, unit)}</p>'
        f'<div class="about"><div><h3>Time</h3><p>Fast path {milliseconds(sum(fast.values()))}, '
        f"readable path {milliseconds(sum(slow.values()))}. The fast path's steps:</p>"
        f"<dl>{steps}</dl></div><div>{kernels(look, unit.block) if unit.block else ''}</div></div>"
        f'<div class="cards">{"".join(cards[name] for name in unit.layers)}</div>'
        f'<p class="around">{around}</p></section>'
    )


def flow(look: Look, unit: Unit) -> str:
    """What happens to the tensor in a part, step by step."""
    b, architecture = unit.block, look.model.architecture
    shapes = list(unit.layers.values())
    if b is None:
        steps = [by(shapes[0]), "normalise", f"3 × 3 convolution, stride 2, {architecture.stem}"]
        if unit.name == "head":
            steps = [f"{by(shapes[0][:2])} × {architecture.blocks[-1].outputs}"]
            steps += [f"1 × 1 convolution, {architecture.head_filters}"]
        steps += ["batch norm, relu"]
        if unit.name == "head":
            steps += ["average pool", f"dense, {architecture.classes}", "softmax"]
        return " <b>→</b> ".join(f"<span>{step}</span>" for step in steps)

    def grouped(count: int) -> str:
        return f" in {count} groups" if count > 1 else ""

    steps = [f"{b.inputs} channels"]
    if b.expand_groups:
        steps.append(f"expand 1 × 1{grouped(b.expand_groups)}, {b.expanded}")
    cuts = zip(b.kernel_sizes, split_channels(b.expanded, len(b.kernel_sizes)), strict=True)
    depthwise = ", ".join(f"{k} × {k} on {c}" for k, c in cuts)
    steps.append(f"depthwise {depthwise}" + (f", stride {b.stride}" if b.stride > 1 else ""))
    if b.se_width:
        steps.append(f"squeeze-and-excite through {b.se_width}")
    steps.append(f"project 1 × 1{grouped(b.project_groups)}, {by(shapes[-1])}")
    if b.residual:
        steps.append("add the input")
    return " <b>→</b> ".join(f"<span>{step}</span>" for step in steps)


def card(look: Look, name: str, ours: Array, theirs: Array | None) -> str:
    """All about one layer: ours and theirs (H, W, C) or (C,)."""
    x = ours.reshape((1, 1, -1) if ours.ndim == 1 else ours.shape)
    y = None if theirs is None else theirs.reshape(x.shape)
    block = next((u.block for u in look.units if u.block and name in u.layers), None)
    parts = [feature_maps(look, name, x), histogram(x, y)]
    if block and name.endswith("/se_gate"):
        parts.append(gates(block, x.ravel(), None if y is None else y.ravel()))
    parts.append(statistics(x, y))
    if y is not None and not np.array_equal(x, y):
        parts.append(side_by_side(name, x, y))
    bad = name in look.rows and not fine(look, name)
    first = look.comparison and look.comparison.first == name
    flag = f'<span class="flag">{"first difference" if first else "differs"}</span>' if bad else ""
    return (
        f'<section class="card" id="{name}"><h3>{name.rpartition("/")[2]}{flag}</h3>'
        f'<p class="shape">{by(ours.shape)} · {milliseconds(look.slow[name])} (readable path)'
        f"{difference(look, name)}</p>{''.join(parts)}</section>"
    )


def difference(look: Look, name: str) -> str:
    """How far off the other implementation is, and where."""
    if look.comparison is None:
        return ""
    if name not in look.rows:
        return "<br>not in the other"
    row = look.rows[name]
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


def legend() -> str:
    """What the colours mean and how the times were taken."""
    ramp = np.arange(SHADES, dtype=np.uint8).reshape(1, 1, -1)
    colours = figure(
        [ramp + np.uint8(SEQUENTIAL), ramp + np.uint8(DIVERGING)],
        ["values, low to high", "difference, − 0 +"],
        "The two colour scales",
        "Bright pink is NaN or infinity.",
    )
    return (
        f"<h2>How to read this page</h2>{colours}<p>Left and right arrow keys go from part to part."
        f" Histograms leave out zeros. Times are the quickest of {RUNS} runs: the readable path is "
        "<code>Model.layers</code>, the fast path <code>Model.plan</code>, whose steps join several"
        " layers. Errors are the largest difference over the largest value of ours; the dashed "
        "line is the tolerance. In histograms, theirs is the outline.</p>"
    )
