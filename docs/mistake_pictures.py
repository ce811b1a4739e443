"""Draw what a porting mistake does to a feature map: the right map, the wrong one, the difference.

`docs.make_porting_mistakes` draws one picture for each name in PICTURES, with the layers of both
runs. Everything is drawn on white, so that a picture can be read on a dark page too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinymixnet.engine.kernels import Array
from tinymixnet.report.pictures import (
    finite_range,
    format_range,
    palette,
    to_shades,
    to_signed_shades,
)

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = Path(__file__).parent / "mistakes"

# The mistakes of tests/support/planted.py that one map shows well, in the order of the page.
PICTURES = (
    "bgr",
    "rows as columns",
    "planes as pixels",
    "squashed",
    "normalization folded",
    "symmetric padding",
    "epsilon 1e-5",
    "no beta",
    "swish for relu",
    "relu for swish",
    "depthwise flipped",
    "depthwise outputs reversed",
    "no activation in se",
    "no residual",
    "relu after residual",
)

WIDTH, SIDE, GAP = 900, 256, 33  # pixels: of a picture, of a map in it (about), between two maps
TOP, BAR = 92, 14  # pixels: above the maps, the height of a colour bar
VISIBLE = 1e-4  # a layer differs if it is further off than this, as `compare` has it
ALIKE = 3  # of 255, on average; pictures of two channels of one layer are 6 or more apart
INK, SOFT, PAPER = "#1a1f26", "#555f6b", "#ffffff"  # of headings, of notes, and the ground


def path_of(mistake: str) -> Path:
    """Return where the picture of a mistake is stored: "epsilon 1e-5" is in epsilon-1e-5.png."""
    return FOLDER / f"{mistake.replace(' ', '-')}.png"


def first_map(right: Mapping[str, Array], wrong: Mapping[str, Array]) -> tuple[str, int]:
    """Return the first layer whose maps differ, and its channel that is furthest off.

    Layers of a single pixel, such as the gates of squeeze-excite, are passed over: they have no
    map to look at. The channel is the one with the largest mean square of the difference.
    """
    for layer, ours in right.items():
        theirs = wrong.get(layer)  # None: this port has no such layer
        if theirs is None or theirs.shape != ours.shape:
            continue
        if ours.ndim < 4 or ours.shape[1:3] == (1, 1):
            continue
        difference = (theirs - ours).astype(np.float64)
        if np.abs(difference).max() > VISIBLE * np.abs(ours).max():
            return layer, int(np.square(difference).mean((0, 1, 2)).argmax())
    raise ValueError("no layer with a map differs")


def draw(mistake: str, right: Mapping[str, Array], wrong: Mapping[str, Array]) -> "Image":
    """Return the picture of a mistake, from all layers of a right and a wrong run, NHWC."""
    from PIL import Image, ImageDraw, ImageFont

    layer, channel = first_map(right, wrong)
    ours, theirs = right[layer][0, ..., channel], wrong[layer][0, ..., channel]
    difference = theirs - ours
    both = np.stack([ours, theirs])
    low, high = finite_range(both)
    largest = float(np.abs(difference).max())
    maps = [
        ("right", to_shades(ours, low, high)),
        ("wrong", to_shades(theirs, low, high)),
        ("wrong - right", to_signed_shades(difference)),
    ]

    h, w = ours.shape
    scale = max(SIDE // max(h, w), 1)
    canvas = Image.new("RGB", (WIDTH, TOP + h * scale + 60), PAPER)
    pen, fonts = ImageDraw.Draw(canvas), {size: ImageFont.load_default(size) for size in (24, 17)}
    channels = right[layer].shape[-1]
    where = f"{layer}, channel {channel} of 0..{channels - 1}, {h} x {w} values"
    pen.text((GAP, 14), mistake, INK, fonts[24])
    pen.text((WIDTH - GAP, 20), where, SOFT, fonts[17], anchor="ra")
    for column, (title, shades) in enumerate(maps):
        left = GAP + column * (SIDE + GAP)
        pen.text((left, TOP - 28), title, INK, fonts[17])
        canvas.paste(_coloured(shades, w * scale, h * scale), (left, TOP))

    below, wide = TOP + h * scale + 10, SIDE + GAP + w * scale
    ramp = np.linspace(0, 1, 256)[np.newaxis]
    last = GAP + 2 * (SIDE + GAP)
    canvas.paste(_coloured(to_shades(ramp, 0, 1), wide, BAR), (GAP, below))
    canvas.paste(_coloured(to_signed_shades(2 * ramp - 1), w * scale, BAR), (last, below))
    ends = (
        (format_range(both), GAP, wide),
        (
            format_range(np.array([-largest, largest])),
            last,
            w * scale,
        ),
    )
    for text, left, length in ends:
        start, end = text.replace("−", "-").split(" to ")  # Pillow's own font has only ASCII
        pen.text((left, below + BAR + 5), start, SOFT, fonts[17])
        pen.text((left + length, below + BAR + 5), end, SOFT, fonts[17], anchor="ra")
    return canvas.quantize(256)


def _coloured(shades: Array, width: int, height: int) -> "Image":
    """Shades of the report's palette as colours, enlarged so that each value is a square."""
    from PIL import Image

    image = Image.fromarray(shades)
    image.putpalette(palette())
    return image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)


def is_like(path: Path, picture: "Image") -> bool:
    """Whether a file has this picture, but for letters that another Pillow draws differently."""
    from PIL import Image

    if not path.is_file():
        return False
    with Image.open(path) as stored:
        one, other = (np.asarray(image.convert("RGB"), np.float32) for image in (stored, picture))
    return one.shape == other.shape and float(np.abs(one - other).mean()) < ALIKE
