"""Make docs/mixnet_block.svg and .png: one block of MixNet with its parts, and the row of blocks.

    python -m docs.make_diagram             write both
    python -m docs.make_diagram --check     only say whether the .svg is as it would be written

Names, shapes and channels are those of the bundled network. The .svg follows the reader's dark
mode; the .png, which Pillow draws from the same shapes, is on white.
"""

import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

from tinymixnet import load
from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.report.colours import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, rgb

FOLDER = Path(__file__).parent
SVG, PNG = FOLDER / "mixnet_block.svg", FOLDER / "mixnet_block.png"
SHOWN = "blocks_8"  # has every part: two expand groups, four kernel sizes, gates, a residual
WIDTH, HEIGHT = 860, 560  # pixels of the drawing
SCALE = 2  # pixels of the .png for one of the .svg

EXPAND, PROJECT, GATES = BLUE, GREEN, PINK
KERNELS = {3: SKY, 5: ORANGE, 7: VERMILION, 9: "#8c3d00"}  # darker: a larger kernel
WHITE_ON = {EXPAND, "#8c3d00"}  # boxes dark enough for white letters
INK, SOFT, LINE, PAPER = "ink", "soft", "line", "paper"  # these four follow the reader's mode
LIGHT = {INK: "#1a1a1a", SOFT: "#555555", LINE: "#555f69", PAPER: "#e2e7ec"}
DARK = {INK: "#e6e6e6", SOFT: "#a8b0b8", LINE: "#9aa4af", PAPER: "#2b3036"}


class Box(NamedTuple):
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


class Text(NamedTuple):
    """A line of text; (x, y) is the middle of its left end, middle or right end."""

    x: float
    y: float
    text: str
    size: int = 13
    colour: str = INK
    anchor: str = "middle"


class Line(NamedTuple):
    """A line through some points; an arrow has a head at its end."""

    points: tuple[tuple[float, float], ...]
    arrow: bool = True


Shape = Box | Text | Line


# -- one block ------------------------------------------------------------------------------------


def labelled(
    x: float, y: float, width: float, height: float, colour: str, *lines: str
) -> list[Shape]:
    """A box with lines of text in its middle, the first of them larger."""
    ink = "#ffffff" if colour in WHITE_ON else INK if colour == PAPER else "#1a1a1a"
    shapes: list[Shape] = [Box(x, y, width, height, colour)]
    first = y + height / 2 - 8.5 * (len(lines) - 1)
    for i, line in enumerate(lines):
        shapes.append(Text(x + width / 2, first + 17 * i, line, 12 if i else 13, ink))
    return shapes


def one_block(block: Block, side: int) -> list[Shape]:
    """The parts of a block from left to right, the residual above them."""
    number = block.name.removeprefix("blocks_")
    act = "swish" if block.swish else "ReLU"
    middle = 172.0
    shapes: list[Shape] = [
        Text(12, 20, f"One block: number {number}", 16, anchor="start"),
        Text(12, 42, "expand, look around, weigh the channels, project, add", 13, SOFT, "start"),
        *labelled(12, middle - 34, 82, 68, PAPER, "input", f"{side} x {side}", f"x {block.inputs}"),
        Line(((94, middle), (112, middle))),
    ]
    tall = 152.0
    half = tall / block.expand_groups
    for i in range(block.expand_groups):
        words = f"{block.inputs // block.expand_groups} to {block.expanded // block.expand_groups}"
        y = middle - tall / 2 + i * half
        shapes += labelled(112, y, 104, half - 2, EXPAND, "1 x 1", words)
    kernels = block.kernel_sizes
    each = tall / len(kernels)
    for i, size in enumerate(kernels):
        y = middle - tall / 2 + i * each
        words = f"{size} x {size}: {block.expanded // len(kernels)}"
        shapes += labelled(246, y, 116, each - 2, KERNELS[size], words)
    shapes += [
        Line(((216, middle), (246, middle))),
        Line(((362, middle), (392, middle))),
        *labelled(392, middle - 76, 132, 44, GATES, "mean of each", "channel"),
        Line(((458, middle - 32), (458, middle - 22))),
        *labelled(392, middle - 22, 132, 44, GATES, f"{block.expanded} to {block.se_width}", act),
        Line(((458, middle + 22), (458, middle + 32))),
        *labelled(
            392, middle + 32, 132, 44, GATES, f"{block.se_width} to {block.expanded}", "sigmoid"
        ),
        Line(((524, middle + 54), (566, middle + 54), (566, middle + 11))),
        Line(((377, middle), (377, middle - 90), (566, middle - 90), (566, middle - 11))),
        Line(((561, middle - 5), (571, middle + 5)), arrow=False),
        Line(((561, middle + 5), (571, middle - 5)), arrow=False),
        Line(((578, middle), (606, middle))),
    ]
    half = tall / block.project_groups
    for i in range(block.project_groups):
        words = (
            f"{block.expanded // block.project_groups} to {block.outputs // block.project_groups}"
        )
        y = middle - tall / 2 + i * half
        shapes += labelled(606, y, 104, half - 2, PROJECT, "1 x 1", words)
    shapes += [
        Line(((710, middle), (730, middle))),
        Text(741, middle, "+", 20),
        Line(((752, middle), (766, middle))),
        *labelled(
            766, middle - 34, 82, 68, PAPER, "output", f"{side} x {side}", f"x {block.outputs}"
        ),
        Line(((103, middle), (103, 66), (741, 66), (741, middle - 11))),
        Text(600, 56, "residual: the input is added", 12, SOFT),
    ]
    names = (
        (164, "expand", f"batch norm, {act}"),
        (304, "depthwise", f"batch norm, {act}"),
        (458, "squeeze and excite", "one gate a channel"),
        (658, "project", "batch norm"),
    )
    for x, name, more in names:
        shapes += [Text(x, middle + 92, name, 14), Text(x, middle + 110, more, 12, SOFT)]
    return shapes


# -- the row of blocks ----------------------------------------------------------------------------


def row_of_blocks(architecture: Architecture, size: int) -> list[Shape]:
    """Stem, blocks and head in a row, with channels, kernel sizes and resolution."""
    top, step, wide = 402.0, 40.0, 36.0
    sides = {layer.name: layer.shape[0] for layer in architecture.layers(size, size)}
    blocks = architecture.blocks
    columns = [("stem", sides["stem/conv"], blocks[0].inputs, (3,))]
    columns += [
        (b.name.removeprefix("blocks_"), sides[f"{b.name}/output"], b.outputs, b.kernel_sizes)
        for b in blocks
    ]
    head = next(
        layer.shape[-1] for layer in architecture.layers(size, size) if layer.name == "head/conv"
    )
    columns.append(("head", sides["head/conv"], head, (1,)))
    what = f"The whole network: {len(blocks)} blocks, for a photo of {size} x {size} pixels"
    shapes: list[Shape] = [Text(12, 318, what, 16, anchor="start")]
    more = "channels above, kernel sizes in colour, pixels below; an arc is a residual"
    shapes.append(Text(12, 340, more, 13, SOFT, "start"))
    first = 0
    for i, (name, side, channels, kernels) in enumerate(columns):
        x = 12 + i * step
        shapes.append(Text(x + wide / 2, top - 24, str(channels), 12))
        for j, kernel in enumerate(kernels):
            shapes.append(Box(x, top + 14 * j, wide, 13, KERNELS.get(kernel, PAPER)))
        shapes.append(Text(x + wide / 2, top + 68, name, 12, SOFT))
        if name.isdigit() and blocks[int(name)].residual:
            left, right, arc = x + 4, x + wide - 4, top - 11
            shapes.append(Line(((left, top - 2), (left, arc), (right, arc), (right, top - 2))))
        if i + 1 == len(columns) or columns[i + 1][1] != side:
            a, z = 12 + first * step, x + wide
            y = top + 84
            shapes.append(Line(((a, y), (a, y + 6), (z, y + 6), (z, y)), arrow=False))
            shapes.append(Text((a + z) / 2, y + 20, f"{side} x {side}", 13))
            first = i + 1
    x = 12.0
    for kernel, colour in {**KERNELS, 1: PAPER}.items():
        shapes.append(Box(x, 532, 13, 13, colour))
        shapes.append(Text(x + 20, 539, f"{kernel} x {kernel}", 12, anchor="start"))
        x += 74
    return shapes


# -- writing --------------------------------------------------------------------------------------


def style(colours: dict[str, str]) -> str:
    """The style sheet for light or dark; a line has no fill, an arrow head no line."""
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in colours.items())
    return (
        f"{fills}path{{fill:none;stroke:{colours[LINE]}}}.head{{stroke:none;fill:{colours[LINE]}}}"
    )


def head_of(path: Line) -> tuple[tuple[float, float], ...]:
    """The three corners of an arrow's head; its last part is horizontal or vertical."""
    (x0, y0), (x, y) = path.points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    back, side = 7, 4
    return (
        (x, y),
        (x - back * dx - side * dy, y - back * dy - side * dx),
        (x - back * dx + side * dy, y - back * dy + side * dx),
    )


def points_of(points: tuple[tuple[float, float], ...]) -> str:
    return "L".join(f"{x:g} {y:g}" for x, y in points)


def svg(shapes: list[Shape], label: str) -> str:
    """The drawing as SVG; colours with a name follow the reader's mode."""
    parts = []
    for shape in shapes:
        if isinstance(shape, Line):
            parts.append(f'<path d="M{points_of(shape.points)}"/>')
            if shape.arrow:
                parts.append(f'<path class="head" d="M{points_of(head_of(shape))}z"/>')
            continue
        named = shape.colour in LIGHT
        colour = f'class="{shape.colour}"' if named else f'fill="{shape.colour}"'
        if isinstance(shape, Box):
            size = f'width="{shape.width:g}" height="{shape.height:g}"'
            parts.append(f'<rect x="{shape.x:g}" y="{shape.y:g}" {size} rx="3" {colour}/>')
        else:
            place = f'x="{shape.x:g}" y="{shape.y + 0.36 * shape.size:g}"'
            look = f'font-size="{shape.size}" text-anchor="{shape.anchor}" {colour}'
            parts.append(f"<text {place} {look}>{escape(shape.text)}</text>")
    sheet = (
        f"text{{font-family:system-ui,sans-serif}}path{{stroke-width:1.5}}{style(LIGHT)}"
        f"@media(prefers-color-scheme:dark){{{style(DARK)}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(label)}"><style>{sheet}</style>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def write_png(shapes: list[Shape], path: Path) -> None:
    """Draw on white, at twice the size for sharp screens."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw = ImageDraw.Draw(image)
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}

    def scaled(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
        return [(SCALE * x, SCALE * y) for x, y in points]

    def paint(colour: str) -> tuple[int, int, int]:
        return rgb(LIGHT.get(colour, colour))

    for shape in shapes:
        if isinstance(shape, Line):
            draw.line(scaled(shape.points), paint(LINE), 3, joint="curve")
            if shape.arrow:
                draw.polygon(scaled(head_of(shape)), paint(LINE))
        elif isinstance(shape, Box):
            corners = (shape.x, shape.y), (shape.x + shape.width - 1, shape.y + shape.height - 1)
            draw.rounded_rectangle(scaled(corners), 3 * SCALE, paint(shape.colour))
        else:
            font = ImageFont.load_default(SCALE * shape.size)
            place = SCALE * shape.x, SCALE * shape.y
            draw.text(place, shape.text, paint(shape.colour), font, anchors[shape.anchor])
    image.quantize(64).save(path, optimize=True)


def drawing() -> tuple[list[Shape], str]:
    """All shapes, and a sentence for those who cannot see them."""
    model = load()
    architecture, size = model.architecture, model.metadata.input_size
    block = next(b for b in architecture.blocks if b.name == SHOWN)
    sides = {layer.name: layer.shape[0] for layer in architecture.layers(size, size)}
    label = (
        f"A block of MixNet: expand, depthwise with kernels of {len(block.kernel_sizes)} sizes, "
        f"squeeze and excite, project, residual; below, all {len(architecture.blocks)} blocks"
    )
    return one_block(block, sides[f"{SHOWN}/output"]) + row_of_blocks(architecture, size), label


def main(arguments: list[str]) -> int:
    shapes, label = drawing()
    text = svg(shapes, label)
    if "--check" in arguments:
        if not SVG.exists() or SVG.read_text("utf-8") != text:
            print(f"{SVG.name} is not as it would be made: run python -m docs.make_diagram")
            return 1
        return 0
    SVG.write_text(text, "utf-8", newline="\n")
    write_png(shapes, PNG)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
