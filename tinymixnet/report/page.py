"""One self-contained HTML page that shows what a network computes for an image, layer by layer.

`data.py` measures. Here the page is put together: the answers, with another implementation what
differs and why (`verdict.py`), the drawing (`drawing.py`), and a panel for each part of the network
(`steps.py`) with a card for each layer (`layers.py`). The style sheet and the script are `page.css`
and `page.js`. The page's content security policy lets nothing else run and nothing be fetched.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.engine.explain import Explanation
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model
from tinymixnet.report.data import ReportData, gather, unit_times
from tinymixnet.report.document import FOLDER, check_page, document, write_page
from tinymixnet.report.drawing import drawing
from tinymixnet.report.drawing import style as drawing_style
from tinymixnet.report.elements import bar, meter
from tinymixnet.report.explanation import fragment, how_to_read
from tinymixnet.report.layers import kernels, layer_card, side_by_side
from tinymixnet.report.pictures import DIVERGING, SEQUENTIAL, SHADES, data_uri, strips
from tinymixnet.report.steps import Step, steps
from tinymixnet.report.text import format_seconds, format_shape, to_html
from tinymixnet.report.verdict import headline, verdict

if TYPE_CHECKING:
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.dumps import Dump
    from tinymixnet.engine.images import Source

GENERATOR = "tinymixnet report"  # written into every page, so that the command knows its own
PICTURE = 448  # pixels a side of the picture in the page at most: twice as many as it shows there


def write_report(
    model: Model,
    image: str,
    pixels: Array,
    path: str | os.PathLike[str] | None,
    dump: "Dump | None" = None,
    comparison: "Comparison | None" = None,
    explanation: Explanation | None = None,
    photo: "Source | None" = None,
    inputs: Iterable[Any] = (),
    force: bool = False,
    progress: bool = False,
) -> ReportData:
    """Write the page about `pixels` (N, H, W, 3), 0..255, and return what it shows as data.

    image is what to call them. With a dump of another implementation the page shows where the two
    differ and why. explanation: of the same photo, to open the page; it may be of another size, for
    which the weights are better. For comparison, photo and progress see `gather`. Only an earlier
    page of ours is replaced, unless `force`; never one of the `inputs`. Without a path nothing is
    written.
    Raises InputError if `path` must not or cannot be written; then nothing has changed there.
    """
    if path is not None:
        check_page(path, GENERATOR, inputs, force)
    cards: dict[str, str] = {}
    first: list[str] = []

    def visit(data: ReportData, name: str, ours: Array, theirs: Array | None) -> None:
        cards[name] = layer_card(data, name, ours, theirs)
        if name == data.first and theirs is not None:
            shape = (1, 1, -1) if ours.ndim == 1 else ours.shape
            first.append(side_by_side(name, ours.reshape(shape), theirs.reshape(shape)))

    name = os.path.basename(image) or image
    with np.errstate(all="ignore"):  # another implementation's values may be anything
        data = gather(
            model,
            name,
            pixels,
            dump,
            comparison,
            explanation,
            photo,
            progress,
            visit if path else None,
        )
        text = page(data, cards, "".join(first)) if path else ""
    if path is not None:
        write_page(text, path, GENERATOR, inputs, force)
    return data


def page(data: ReportData, cards: Mapping[str, str], first: str) -> str:
    """Return the page. cards: of all layers; first: a picture of the first that differs."""
    network = to_html(data.model.metadata.name or data.model.architecture.variant)
    title = f"{network} looks at {to_html(data.image)}"
    if data.comparison:
        title = headline(data)
    photo = f"--photo:{data.pixels.shape[1]}/{data.pixels.shape[0]}"
    sheets = ("page.css", "explanation.css") if data.explanation else ("page.css",)
    style = drawing_style(data)
    style += f":root{{{photo}}}.photo{{background-image:url({picture_of(data)})}}"
    parts = [
        fragment(data.explanation) if data.explanation else "",
        verdict(data, first),
        answers(data),
        f'<h2 id="network">The network at {format_shape(data.pixels.shape[:2])} pixels</h2>',
        drawing(data),
        *(panel(data, place, cards) for place in range(len(data.units))),
    ]
    start = f' data-first="{data.first}"' if data.first else ""
    body = f"""<header><h1>{title}</h1><p>{summary(data)}</p>{reading_aid(data)}</header>
<main{start}>{"".join(parts)}</main>
<dialog id="enlarged" aria-label="Enlarged"><div></div><form method="dialog"><p></p>
<button>Close</button></form></dialog>"""
    script = (FOLDER / "page.js").read_text("utf-8")
    return document(GENERATOR, title, sheets, body, style, script)


# -- the text -------------------------------------------------------------------------------------


def summary(data: ReportData) -> str:
    """Say in two sentences how large the network is and how long it took."""
    architecture = data.model.architecture
    h, w, _ = data.pixels.shape
    text = (
        f"{to_html(architecture.variant)}, {len(architecture.blocks)} blocks, "
        f"{architecture.parameters():,} parameters, {format_shape((h, w))} pixels, "
        f"{architecture.multiply_adds(h, w) / 1e6:,.1f} M multiply-adds."
    )
    if data.timing:
        slow, fast = (sum(times.values()) for times in data.timing[:2])
        text += f" One image took {format_seconds(fast)} on the fast path, {format_seconds(slow)} "
        text += "on the readable one."
    return text


def picture_of(data: ReportData) -> str:
    """Return the photo as the network sees it, as a data URI."""
    from PIL import Image

    picture = Image.fromarray(np.clip(np.rint(data.pixels), 0, 255).astype(np.uint8))
    picture.thumbnail((PICTURE, PICTURE))
    return data_uri(picture)


def answers(data: ReportData) -> str:
    """Return the picture and the best answers, with the other implementation's beside."""
    rows = ""
    both = any(answer.theirs is not None for answer in data.answers)
    for answer in data.answers:
        meters = meter(answer.ours, "ours" if both else "")
        meters += meter(answer.theirs, "theirs") if answer.theirs is not None else ""
        rows += f"<dt>{to_html(answer.label)}</dt><dd>{meters}</dd>"
    caption = f"{to_html(data.image)}, {format_shape(data.pixels.shape[:2])} pixels"
    caption += f", the first of {data.images} images" if data.images > 1 else ""
    if data.answer_size != data.pixels.shape[:2]:
        caption += (
            f". The answers are those at {format_shape(data.answer_size)} pixels, for which the "
            "weights were made. They can differ in the layers below, at another size"
        )
    return (
        '<section class="answers" aria-label="Answers"><figure><span class="photo" role="img" '
        'aria-label="The image as the network sees it"></span>'
        f"<figcaption>{caption}</figcaption></figure>"
        f"<div><h2>What it sees</h2><dl>{rows}</dl></div></section>"
    )


def panel(data: ReportData, place: int, cards: Mapping[str, str]) -> str:
    """Return the panel of one part of the network: its steps, each with the cards of its layers."""
    unit = data.units[place]
    neighbours = ""
    if place:
        before = data.units[place - 1]
        neighbours += f'<a href="#{before.name}" rel="prev">← {before.title}</a>'
    if place + 1 < len(data.units):
        after = data.units[place + 1]
        neighbours += f'<a href="#{after.name}" rel="next">{after.title} →</a>'
    own = steps(data, unit)
    flow = " <b>→</b> ".join(f'<a href="#{step.layers[0]}">{step.title}</a>' for step in own)
    return (
        f'<section class="panel" id="{unit.name}" aria-labelledby="{unit.name}-title">'
        f'<p class="around">{neighbours}</p><h2 id="{unit.name}-title">{unit.title}</h2>'
        f'<p class="flow">{flow}</p>{times(data, place)}'
        f"{''.join(step_section(data, place, step, cards) for step in own)}"
        f'<p class="around">{neighbours}</p></section>'
    )


def step_section(data: ReportData, place: int, step: Step, cards: Mapping[str, str]) -> str:
    """Return a step: what it does, what it is for, its kernels, and the cards of its layers."""
    block = data.units[place].block
    drawn = kernels(data, block) if block and step.title == "Depthwise" else ""
    return (
        f'<div class="step"><h3>{step.title}</h3><p><b>{step.purpose}</b></p>'
        f'<p class="soft">{step.does}.</p>{drawn}{"".join(cards[n] for n in step.layers)}</div>'
    )


def times(data: ReportData, place: int) -> str:
    """Return the times of a part, and of each step of the fast path as a bar."""
    if not data.timing:
        return ""
    unit = data.units[place]
    slow, fast = (unit_times(unit, times) for times in data.timing[:2])
    total = sum(fast.values())
    rows = ""
    for name, seconds in fast.items():
        drawn = bar(100 * seconds / total, format_seconds(seconds), "ours")
        rows += f"<dt>{name.removeprefix(unit.name + '/')}</dt><dd>{drawn}</dd>"
    return (
        f"<details><summary>Time: {format_seconds(total)} on the fast path, "
        f"{format_seconds(sum(slow.values()))} on the readable path</summary>"
        f"<p>The steps of the fast path:</p><dl>{rows}</dl></details>"
    )


def reading_aid(data: ReportData) -> str:
    """Explain the drawing, the colours, the times and the errors; a click opens it."""
    shades = np.arange(SHADES, dtype=np.uint8)
    rows = [shades + np.uint8(SEQUENTIAL), shades + np.uint8(DIVERGING)]
    colours = strips(rows, ["values, low to high", "with a sign, − 0 +"], "colours")
    paragraphs = [
        "The drawing shows the network from left to right. A box is as tall as its maps are large, "
        "and its stripes are the sizes of its kernels. An arrow over a box: the block adds its "
        "input to its result. Click a box, or use the left and right arrow keys, to see what "
        "happens in it.",
        "Below, every layer shows the channels that vary most, each at the scale of the photo. "
        "Point at one, or tap it, for its channel and its range; click it to see it large. Bright "
        "pink is NaN or infinity. Histograms leave out zeros.",
    ]
    if data.timing:
        paragraphs.append(
            f"Times are for one image, of each layer the quickest of {data.timing.runs} runs: "
            "pale, the readable path, which is <code>Model.layers</code>; dark, the fast path, "
            "<code>Model.plan</code>, whose steps join several layers."
        )
    else:
        paragraphs.append("There are no times: this machine was too busy to measure them.")
    if data.comparison:
        paragraphs.append(
            "An error is the largest difference over the largest value of ours, drawn by powers of "
            "ten; the dashed line is the tolerance. In charts the outline is the other "
            "implementation."
        )
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    if data.explanation:
        text = how_to_read(data.explanation) + text
    return (
        f'<details class="help"><summary>How to read this page</summary>{text}{colours}</details>'
    )
