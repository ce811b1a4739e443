"""Pictures of arrays for the page: tiles that can be pointed at, strips, and small charts.

All tiles of a group lie side by side in one PNG, in a data URI. On the page each tile is a button
that shows its own piece of it. So a map of 7 x 7 values is stored as 7 x 7 pixels, however large
the page shows it.
"""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array
from tinymixnet.report.colours import BROKEN as PINK
from tinymixnet.report.colours import GREYS, SIGNS, SIZES, rgb
from tinymixnet.report.text import format_number

LARGEST = 112  # pixels a side that are stored of a map
SHOWN = 90  # pixels a side of a tile on the page, as in page.css
BINS = 48  # of a histogram
PIECE = 1 << 20  # values of a large layer that are looked at together

# A picture's palette: pink, a ramp for values from small to large, one for values with a sign.
SHADES = 63  # of each ramp, odd so that zero has a shade of its own
BROKEN = 0  # of NaN and infinity
SEQUENTIAL = 1  # the first shade for values
DIVERGING = SEQUENTIAL + SHADES  # the first shade for values with a sign


class Tile(NamedTuple):
    """A map as a button: its shades, and what to say when it is pointed at."""

    shades: Array  # (H, W) uint8
    title: str


def ramp(anchors: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return SHADES colours from the first anchor to the last."""
    positions, known = np.linspace(0, len(anchors) - 1, SHADES), np.arange(len(anchors))
    parts = zip(*map(rgb, anchors), strict=True)
    channels = [np.interp(positions, known, part) for part in parts]
    return [(r, g, b) for r, g, b in np.rint(np.transpose(channels)).astype(int).tolist()]


def palette(grey: bool = False) -> bytes:
    """Return the colours of all pictures as a PNG wants them: red, green, blue, red, ..."""
    colours = [rgb(PINK), *ramp(GREYS if grey else SIZES), *ramp(SIGNS)]
    return bytes(value for colour in colours for value in colour)


def png(indices: Array, grey: bool = False) -> str:
    """Return a picture of palette indices (H, W) uint8 as a data URI."""
    from PIL import Image

    image = Image.fromarray(indices)
    used = int(indices.max()) + 1
    image.putpalette(palette(grey)[: 3 * used])
    return data_uri(image)


def data_uri(image: Any, kind: str = "PNG", **options: Any) -> str:
    """Return a picture as a URI that holds it. kind: "PNG" or "JPEG"; options: Pillow's for it."""
    file = BytesIO()
    image.save(file, kind, **({"compress_level": 9, **options} if kind == "PNG" else options))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def shrink_maps(maps: Array, largest: int = LARGEST) -> Array:
    """Return feature maps (H, W, C) as (C, H', W'); large ones are averaged over boxes."""
    h, w, _ = maps.shape
    factor = -(-max(h, w) // largest)
    if factor == 1:
        return maps.transpose(2, 0, 1)
    rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
    sums = np.add.reduceat(np.add.reduceat(maps, rows, 0), columns, 1)
    counts = np.outer(np.diff([*rows, h]), np.diff([*columns, w]))[..., np.newaxis]
    return (sums / counts).transpose(2, 0, 1)


def to_shades(maps: Array, low: float, high: float, first: int = SEQUENTIAL) -> Array:
    """Return values as palette indices, uint8: low gets the first of the shades, high the last."""
    scaled = (maps - low) * ((SHADES - 1) / ((high - low) or 1))
    inside = np.clip(np.rint(np.nan_to_num(scaled)), 0, SHADES - 1).astype(np.uint8)
    return np.where(np.isfinite(maps), inside + np.uint8(first), np.uint8(BROKEN))


def to_signed_shades(maps: Array) -> Array:
    """Return values as indices of the ramp with a sign: 0 is white, the largest is darkest."""
    largest = float(np.abs(maps[np.isfinite(maps)]).max(initial=0)) or 1.0
    return to_shades(maps, -largest, largest, DIVERGING)


def display_range(maps: Array) -> tuple[float, float]:
    """Return the range to show of some values: all but a few outliers, which hide the rest."""
    finite = maps[np.isfinite(maps)].astype(np.float64)  # differences of float32 could overflow
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0, 1)
    return float(low), float(high)


def finite_range(values: Array) -> tuple[float, float]:
    """Return the lowest and the highest finite value; 0 and 0 if there is none."""
    ends = [
        end
        for piece in pieces(values)
        if (finite := piece[np.isfinite(piece)]).size
        for end in (float(finite.min()), float(finite.max()))
    ]
    return (min(ends), max(ends)) if ends else (0.0, 0.0)


def pieces(values: Array) -> Iterator[Array]:
    """Yield all values, PIECE at a time, so that what is computed from them takes little memory."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def format_range(values: Array) -> str:
    """Return the lowest and the highest value as text: "−0.31 to 2.4"; "nan to nan" if broken."""
    return f"{format_number(float(values.min()))} to {format_number(float(values.max()))}"


# -- HTML -----------------------------------------------------------------------------------------


def tiles(groups: Sequence[Sequence[Tile]], kind: str, alt: str, grey: bool = False) -> str:
    """Return groups of tiles of one size; all groups share one picture.

    kind: "plain", each tile by itself, or "trios", whose groups of three keep together. The script
    names a tile that is pointed at and enlarges it at a click. alt describes all of them.
    """
    sprite = np.concatenate([tile.shades for group in groups for tile in group], axis=1)
    count = sum(map(len, groups))
    h, w = groups[0][0].shades.shape
    sharp = "" if max(h, w) > SHOWN else " sharp"
    number, inner = 0, ""
    for group in groups:
        buttons = ""
        for tile in group:
            focus = "" if number == 0 else ' tabindex="-1"'
            buttons += f'<button style="--i:{number}" title="{escape(tile.title)}"{focus}></button>'
            number += 1
        inner += f'<span class="trio">{buttons}</span>' if kind == "trios" else buttons
    style = (
        f"--n:{count};--m:{max(count - 1, 1)};--r:{w}/{h};background-image:url({png(sprite, grey)})"
    )
    return (
        f'<div class="tiles {kind}{sharp}" role="group" aria-label="{escape(alt)}" '
        f'style="{style}">{inner}</div>'
    )


def strips(rows: Sequence[Array], labels: Sequence[str], alt: str) -> str:
    """Return rows of shades (C,) as strips of colour, each with a label if there are any."""
    drawn = ""
    for row, label in zip(rows, labels or [""] * len(rows), strict=True):
        uri = png(row.reshape(1, -1))
        name = f"{label}, {alt}" if label else alt
        drawn += f"<span>{label}</span>" if label else ""
        drawn += f'<img src="{uri}" width="{row.size}" height="1" alt="{escape(name)}">'
    return f'<div class="strips{"" if labels else " one"}">{drawn}</div>'


# -- charts ---------------------------------------------------------------------------------------


def bar_path(heights: Array, width: float = 1) -> str:
    """Return an SVG path of bars that stand on y = 0 and grow upwards."""
    drawn = ((i, h) for i, h in enumerate(np.round(heights, 1).tolist()) if h > 0)
    return "".join(f"M{i * width:g} 0v{-h:g}h{width:g}v{h:g}z" for i, h in drawn)


def count_values(x: Array, low: float, high: float) -> Array:
    """Count the finite values in each bin of low..high, without zeros, which would hide the rest.

    Values outside count in the first or the last bin.
    """
    counts = np.zeros(BINS, np.int64)
    for piece in pieces(x):
        some = piece[(piece != 0) & np.isfinite(piece)]
        bins = np.clip((some - low) * (BINS / ((high - low) or 1)), 0, BINS - 1).astype(np.int32)
        counts += np.bincount(bins, minlength=BINS)
    return counts


def histogram(x: Array, other: Array | None) -> str:
    """Return a chart of the values of a layer, with those of another implementation as outline."""
    low, high = finite_range(x)
    own = count_values(x, low, high)
    tallest = max(own.max(), 1)
    paths = f'<path class="bar" d="{bar_path(own * (60 / tallest))}"/>'
    if other is not None:
        heights = np.minimum(count_values(other, low, high) * (60 / tallest), 62).round(1).tolist()
        line = "".join(f"V{-h:g}h1" for h in heights)
        paths += f'<path class="outline" d="M0 0{line}V0"/>'
    if low < 0 < high:
        x_zero = BINS * low / (low - high)
        paths += f'<path class="zero" d="M{x_zero:.2f} 0V-64"/>'
    return (
        f'<figure class="histogram"><svg viewBox="0 -64 {BINS} 65" preserveAspectRatio="none" '
        f'role="img" aria-label="Histogram of the values">{paths}</svg><figcaption>'
        f"<span>{format_number(low)}</span><span>{format_number(high)}</span></figcaption></figure>"
    )
