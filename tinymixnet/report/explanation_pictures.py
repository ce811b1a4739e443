"""The pictures of an explanation, drawn with Pillow: maps over the photo, and all in one picture.

Orange speaks for a label, blue against it, and the photo in plain grey is in between. People who
do not tell red from green can tell these two apart, also on a dark page.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.engine.explain import Explanation, spread, strongest
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import printable
from tinymixnet.report.explanation_words import (
    lowest_place,
    percent,
    sentence,
    strongest_part,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 448  # pixels of the longer side of a drawn photo, about
PATCHES = 2  # cells that are outlined for, and as many against
FOR, AGAINST = (240, 150, 62), (92, 160, 214)  # orange and blue of `layers.BLUE_TO_ORANGE`
INK, SOFT, PAPER = (26, 31, 38), (85, 95, 107), (255, 255, 255)  # as text, notes, cards of page.css
LONGEST_LABEL = 34  # characters above a picture


class Panel(NamedTuple):
    """One picture with its words."""

    title: str
    image: "Image"
    low: str  # what the blue end of the scale means; empty: the picture has no scale
    high: str  # and the orange end
    note: str
    alt: str


def panels(explanation: Explanation) -> list[Panel]:
    """The photo, the maps of both labels, the map of their difference, and the occlusion map."""
    label, rival = (printable(name, LONGEST_LABEL) for name in explanation.labels)
    both, lead, hidden = explanation.contributions, explanation.advantage, explanation.occlusion
    height, width, _ = explanation.pixels.shape
    h, w = lead.shape
    largest = float(np.abs(both).max())
    points = 100 * float(np.abs(explanation.probabilities[0] - hidden).max())
    before, least, most = (
        percent(value) for value in (explanation.probabilities[0], hidden.min(), hidden.max())
    )
    panels = [
        Panel(
            "What the network sees",
            photo(explanation),
            "",
            "",
            f"{width} × {height} pixels",
            "The photo as the network sees it",
        )
    ]
    panels += [
        Panel(
            f"Where it sees {name}",
            map_picture(explanation, cells, largest),
            f"against, −{largest:.2g}",
            f"for, +{largest:.2g}",
            f"What each of the {h} × {w} cells adds to the logit, the strongest outlined",
            f"Map of {name} over the photo, strongest {strongest_part(explanation, cells)[0]}",
        )
        for name, cells in zip((label, rival), both, strict=True)
    ]
    return [
        *panels,
        Panel(
            f"{label} rather than {rival}",
            map_picture(explanation, lead, float(np.abs(lead).max())),
            rival,
            label,
            f"The difference of both maps, up to {np.abs(lead).max():.2g} a cell",
            f"Map of {label} minus map of {rival}; the difference is largest "
            f"{strongest_part(explanation, lead)[0]}",
        ),
        Panel(
            "What hiding a part does",
            occlusion_picture(explanation),
            f"rises by {points:.2g}",
            f"falls by {points:.2g} points",
            f"A grey square at {hidden.size} places: {before} {label} becomes {least} to {most}",
            f"Occlusion map of {label}; it falls most with a square {lowest_place(explanation)}",
        ),
    ]


# -- one picture ----------------------------------------------------------------------------------


def scale_of(explanation: Explanation) -> float:
    """How many drawn pixels one pixel of the photo takes: a whole number if it is enlarged."""
    longest = max(explanation.pixels.shape[:2])
    return max(round(SIDE / longest), 1) if longest <= SIDE else SIDE / longest


def photo(explanation: Explanation) -> "Image":
    """The pixels that the network saw, enlarged without smoothing."""
    return _drawn(explanation, explanation.pixels)


def _drawn(explanation: Explanation, pixels: Array) -> "Image":
    from PIL import Image

    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    scale = scale_of(explanation)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.resize(size, how)


def overlay(pixels: Array, values: Array) -> Array:
    """Colour a grey photo (H, W, 3) by values (H, W) from -1 to 1: (H, W, 3) uint8."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return blend(np.clip(grey, 0, 255), values)


def blend(grey: Array, values: Array) -> Array:
    """The colours of values (H, W) from -1 to 1 over grey (H, W): the larger, the less grey."""
    strength = np.clip(np.nan_to_num(np.abs(values)), 0, 1)[..., np.newaxis]
    colour = np.where(values[..., np.newaxis] > 0, FOR, AGAINST)
    light = (grey / 255)[..., np.newaxis]  # it shows through the colour, so that shapes do, too
    plain, coloured = 255 * (0.22 + 0.66 * light), colour * (0.55 + 0.6 * light)
    return np.clip(np.rint(plain + (coloured - plain) * strength**0.75), 0, 255).astype(np.uint8)


def map_picture(explanation: Explanation, cells: Array, largest: float) -> "Image":
    """A map (h, w) over the photo, +-largest in full colours, the strongest cells outlined.

    Solid orange lines are around the cells that add most, dashed blue ones around those that take
    most away; none around a cell that does less than half of the strongest.
    """
    values = explanation.spread(cells) / (largest or 1)
    image = _drawn(explanation, overlay(explanation.pixels, values))
    for sign, colour, dash in ((1, FOR, 0), (-1, AGAINST, 6)):
        for row, column in strongest(sign * cells, PATCHES):
            if sign * cells[row, column] > np.abs(cells).max() / 2:
                box = explanation.map_boxes[row, column] * scale_of(explanation)
                _outline(image, box.tolist(), colour, dash)
    return image


def occlusion_picture(explanation: Explanation) -> "Image":
    """Over the photo: orange where the probability falls when that part is hidden, blue: rises.

    An orange line is around the square that lowers it most.
    """
    image = _drawn(explanation, overlay(explanation.pixels, falls(explanation)))
    row, column = strongest(-explanation.occlusion, 1)[0]
    if explanation.occlusion[row, column] < explanation.probabilities[0]:
        box = explanation.occlusion_boxes[row, column] * scale_of(explanation)
        _outline(image, box.tolist(), FOR, 0)
    return image


def falls(explanation: Explanation) -> Array:
    """How much the probability falls when each pixel is in the middle of what is hidden: (H, W).

    The largest change, a fall or a rise, is 1 or -1.
    """
    height, width, _ = explanation.pixels.shape
    rows, columns = explanation.occlusion.shape
    y = (np.arange(rows) + 0.5) * height / rows
    x = (np.arange(columns) + 0.5) * width / columns
    change = explanation.probabilities[0] - explanation.occlusion
    return spread(change, y, x, height, width) / (np.abs(change).max() or 1)


def _outline(image: "Image", box: list[float], colour: tuple[int, int, int], dash: int) -> None:
    """Draw a rectangle just inside a box, on a dark line, so that it shows on any ground."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (round(side) for side in box)
    for inset, ink, wide in ((1, INK, 5), (2, colour, 3)):
        a, b, c, d = left + inset, top + inset, right - 1 - inset, bottom - 1 - inset
        if c <= a or d <= b:
            continue
        for start, end in (((a, b), (c, b)), ((c, b), (c, d)), ((c, d), (a, d)), ((a, d), (a, b))):
            _line(draw, start, end, ink, wide, dash)


def _line(draw: Any, start: Any, end: Any, ink: Any, wide: int, dash: int) -> None:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    step = 2 * dash if dash else length or 1
    for at in range(0, length or 1, step):
        stop = min(at + (dash or length), length)
        points = [
            tuple(s + (e - s) * part / (length or 1) for s, e in zip(start, end, strict=True))
            for part in (at, stop)
        ]
        draw.line(points, ink, wide)


def patch(explanation: Explanation, row: int, column: int) -> "Image":
    """The part of the photo that stands for a cell."""
    left, top, right, bottom = explanation.map_boxes[row, column]
    return _drawn(explanation, explanation.pixels[top:bottom, left:right])


# -- all in one -----------------------------------------------------------------------------------


def picture(explanation: Explanation) -> "Image":
    """Draw the explanation as one picture, on white: the sentence, then panels with scales."""
    from PIL import Image, ImageDraw

    photo_, own, rival, _, hidden = panels(explanation)
    chosen = [photo_, own, rival, hidden]
    wide, high = photo_.image.size
    wide = max(wide, 300)
    gap, top = 28, 112
    size = len(chosen) * (wide + gap) + gap, top + 46 + high + 140
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(_wrap(draw, sentence(explanation), 34, size[0] - 2 * gap)[:2]):
        draw.text((gap, 22 + 42 * i), line, INK, _font(34))
    for i, panel in enumerate(chosen):
        left = gap + i * (wide + gap)
        draw.text((left, top + 6), *_fitting(draw, panel.title, 26, wide))
        canvas.paste(panel.image, (left, top + 46))
        below = top + 46 + high + 12
        if panel.low:
            canvas.paste(colour_bar(wide, 16), (left, below))
            draw.text((left, below + 22), _drawable(panel.low), SOFT, _font(22))
            high_end = _drawable(panel.high)
            draw.text((left + wide, below + 22), high_end, SOFT, _font(22), anchor="ra")
            below += 22 + 32
        for line in _wrap(draw, panel.note, 22, wide)[:2]:
            draw.text((left, below), line, SOFT, _font(22))
            below += 28
    return canvas


def colour_bar(width: int, height: int) -> "Image":
    """The scale from blue, against, over grey to orange, for."""
    from PIL import Image

    values = np.broadcast_to(np.linspace(-1, 1, width, dtype=np.float32), (height, width))
    return Image.fromarray(blend(np.full((height, width), 170, np.float32), values))


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Return a text in ASCII, all that Pillow's own font can draw: é becomes e, × becomes x."""
    from unicodedata import combining, normalize

    text = normalize("NFKD", text.translate({ord("×"): "x", ord("−"): "-"}))
    return "".join(c if c.isascii() else "?" for c in text if not combining(c))


def _fitting(draw: Any, text: str, size: float, width: int) -> tuple[str, Any, Any]:
    """The text, its colour and the font in which it fits the width: smaller if need be."""
    text = _drawable(text)
    length = draw.textlength(text, _font(size))
    return text, INK, _font(size if length <= width else max(size * width / length, 8))


def _wrap(draw: Any, text: str, size: float, width: int) -> list[str]:
    """Cut a text into lines that fit the width."""
    lines = [""]
    for word in _drawable(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, _font(size)) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
