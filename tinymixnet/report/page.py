"""One self-contained HTML page that shows what a network computes for an image, layer by layer.

`write_report` measures the times, runs the network once more for the pictures and numbers, and puts
the page together: the answers, the drawing (`drawing.py`), and a panel for each part of the network
with a card for each layer (`layers.py`). The style sheet and the script are `page.css` and
`page.js`. The page's content security policy lets nothing else run and nothing be fetched.
"""

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.engine.files import atomic_write
from tinymixnet.engine.kernels import Array, softmax, split_channels
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import LONGEST_TEXT, InputError
from tinymixnet.model import Model
from tinymixnet.report.drawing import (
    ReportData,
    Unit,
    differs,
    drawing,
    unit_times,
    units,
)
from tinymixnet.report.layers import (
    DIVERGING,
    SEQUENTIAL,
    SHADES,
    data_uri,
    difference,
    figure,
    kernels,
    layer_card,
)
from tinymixnet.report.text import format_probability, format_seconds, format_shape, to_html

if TYPE_CHECKING:
    from tinymixnet.debug.dumps import Dump

FOLDER = Path(__file__).parent
NOTES = 100  # lines at most about what could not be compared
RUNS = 3  # of which the quickest counts
PICTURE = 448  # pixels a side of the picture in the page at most: twice as many as it shows there
PAGE_START = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="tinymixnet report">
"""


def write_report(
    model: Model,
    image: str,
    pixels: Array,
    path: str | os.PathLike[str],
    dump: "Dump | None" = None,
) -> None:
    """Write the page about `pixels` (N, H, W, 3), 0..255, of which it shows the first image.

    image is what to call them. With a dump of another implementation the page also shows where the
    two differ. Each layer is then shown for the image in which it differs most.
    Raises InputError when `path` holds anything but an earlier page of ours, or cannot be written;
    TraceError when the dump cannot be read.
    """
    check_output(path, [image, *([dump.trace.path] if dump else [])], is_own_report)
    pixels = check_pixels(pixels).astype(np.float32)
    if not len(pixels):
        raise InputError("pixels: expected at least one image, found none")
    with np.errstate(all="ignore"):  # another implementation's values may be anything
        page = _page(model, os.path.basename(image) or image, pixels, dump)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def is_own_report(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a page that `write_report` wrote, so that it may be replaced."""
    start = PAGE_START.encode()
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:  # such as one that we may not read
        return False


def check_output(
    path: str | os.PathLike[str], inputs: Iterable[Any] = (), own: Callable[[Any], bool] = bool
) -> None:
    """Raise InputError if something is at `path` that must not be replaced."""
    # TODO at the merge: this is engine.files.check_output of the branch h-debug.
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and own(path):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    raise InputError(
        f"{path}: something else is there already, which this command did not write; name another "
        "output, or move it away first"
    )


def _page(model: Model, image: str, pixels: Array, dump: "Dump | None") -> str:
    n, h, w, _ = pixels.shape
    comparison = None
    if dump is None:
        pixels = pixels[:1]  # no others are shown
    else:
        from tinymixnet.debug.compare import compare

        comparison = compare(model.layers(pixels), dump)
    slow, fast = slow_times(model, pixels[:1]), fast_times(model, pixels[0])
    rows = {row.layer: row for row in comparison.rows} if comparison else {}
    data = ReportData(model, units(model.architecture, h, w), slow, fast, comparison, rows)

    cards, ours, theirs = {}, pixels[0], None
    for name, layer in model.layers(pixels):
        row = rows.get(name)
        shown = row.worst[0] if row and row.worst else 0  # the image
        other = None
        if dump is not None and row and row.status != "shape":
            other = dump[name]
        cards[name] = layer_card(data, name, layer[shown], None if other is None else other[shown])
        if name == "probabilities":
            ours = layer[0]
        if other is not None and name in ("logits", "probabilities"):
            theirs = softmax(other[:1])[0] if name == "logits" else other[0]

    caption = f"{to_html(image)}, {format_shape((h, w))} pixels"
    caption += f", the first of {n} images" if n > 1 else ""
    network = model.metadata.name or model.architecture.variant
    title = f"{to_html(network)} looks at {to_html(image)}"
    script = (FOLDER / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    parts = [
        answers(model, caption, pixels[0], ours, theirs),
        verdict(data, dump),
        f'<h2 id="network">The network</h2>{drawing(data)}{strip(data)}',
        *(panel(data, place, cards) for place in range(len(data.units))),
    ]
    return f"""{PAGE_START}<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><link rel="icon" href="data:,">
<style>{(FOLDER / "page.css").read_text("utf-8")}</style></head><body>
<header><h1>{title}</h1><p>{summary(data, h, w)}</p></header>
<main>{"".join(parts)}</main><footer>{legend()}</footer>
<script>{script}</script></body></html>
"""


# -- measuring ------------------------------------------------------------------------------------


def slow_times(model: Model, pixels: Array) -> dict[str, float]:
    """Return the seconds that each layer takes on the readable path: the quickest of a few runs."""
    best: dict[str, float] = {}
    for _ in range(RUNS):
        start = perf_counter()
        for name, _ in model.layers(pixels):
            seconds = perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
            start = perf_counter()
    return best


def fast_times(model: Model, image: Array) -> dict[str, float]:
    """Return the seconds that the plan spends on each layer of one image (H, W, 3).

    A layer may take several steps. Of each step the quickest of a few runs counts.
    """
    runs = [list(model.plan.profile(image)) for _ in range(RUNS)]
    times: dict[str, float] = {}
    for measured in zip(*runs, strict=True):
        layer, best = measured[0][0].layer, min(seconds for _, seconds in measured)
        times[layer] = times.get(layer, 0) + best
    return times


# -- the text -------------------------------------------------------------------------------------


def summary(data: ReportData, height: int, width: int) -> str:
    """Say in two sentences how large the network is and how long it took."""
    architecture = data.model.architecture
    slow, fast = (sum(times.values()) for times in (data.slow, data.fast))
    return (
        f"{to_html(architecture.variant)}, {len(architecture.blocks)} blocks, "
        f"{architecture.parameters():,} parameters, "
        f"{architecture.multiply_adds(height, width) / 1e6:,.1f} M multiply-adds. One image took "
        f"{format_seconds(fast)} on the fast path, {format_seconds(slow)} on the readable one."
    )


def answers(model: Model, caption: str, image: Array, ours: Array, theirs: Array | None) -> str:
    """Return the picture and the five best answers, with the other implementation's beside."""
    from PIL import Image

    picture = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    picture.thumbnail((PICTURE, PICTURE))
    rows = ""
    for i in np.argsort(-ours, kind="stable")[:5]:
        meters = meter(ours[i], "ours" if theirs is not None else "")
        meters += meter(theirs[i], "theirs") if theirs is not None else ""
        rows += f"<dt>{to_html(model.labels[i])}</dt><dd>{meters}</dd>"
    return (
        f'<section class="answers" aria-label="Answers"><figure><img src="{data_uri(picture)}" '
        f'alt="The image as the network sees it"><figcaption>{caption}, as the network'
        f" sees it</figcaption></figure><div><h2>What it sees</h2><dl>{rows}</dl></div></section>"
    )


def meter(probability: float, who: str) -> str:
    """Return a bar of a probability, with the number and whose it is on it."""
    share = min(max(probability, 0), 1) if isfinite(probability) else 0
    number = f"{format_probability(float(probability))} {who}".rstrip()
    return (
        f'<span class="meter {who or "ours"}"><i style="width:{100 * share:.2f}%"></i>'
        f"<b>{number}</b></span>"
    )


def verdict(data: ReportData, dump: "Dump | None") -> str:
    """Say whether the other implementation agrees, and what could not be compared."""
    comparison = data.comparison
    if not comparison or dump is None:
        return ""
    count, first = len(comparison.rows), comparison.first
    if first is None:
        text = f"Alike: all {count} layers compared are within {comparison.tolerance:g}."
    else:
        past = sum(row.status != "ok" for row in comparison.rows)
        text = (
            f'First difference: <a href="#{first}">{first}</a>'
            f"{difference(data, first).replace('<br>', ', ')}. {past} of {count} layers are past "
            f"their tolerance, {comparison.tolerance:g} unless a note says otherwise."
        )
    notes = [to_html(warning, LONGEST_TEXT) for warning in comparison.warnings]
    if dump.missing:
        notes.append(f"{len(dump.missing)} layers are not in it: {', '.join(dump.missing)}")
    notes += [
        f"{name} has shape {format_shape(stored)}, expected {format_shape(expected)}"
        for name, (stored, expected) in dump.mismatched.items()
    ]
    unmatched = list(dump.unmatched.items())
    notes += [
        f"{to_html(name)} has no place" + (f": is it {guess}?" if guess else "")
        for name, guess in unmatched[:NOTES]
    ]
    total = len(notes) + len(unmatched[NOTES:])
    more = [f"and {total - NOTES} more"] if total > NOTES else []
    listed = "".join(f"<li>{note}</li>" for note in notes[:NOTES] + more)
    details = f"<details><summary>{total} notes</summary><ul>{listed}</ul></details>"
    kind = "good" if comparison.alike else "bad"
    return (
        f'<section class="verdict {kind}"><h2>Against {to_html(dump.trace.path.name)}</h2>'
        f"<p>{text}</p>{details if notes else ''}</section>"
    )


def strip(data: ReportData) -> str:
    """Return links to all parts, in a row that stays in sight."""
    links = ""
    for unit in data.units:
        off = differs(data, unit)
        links += (
            f'<a href="#{unit.name}" data-part="{unit.name}"{" class=off" if off else ""} '
            f'aria-label="{unit.title}{", differs" if off else ""}">'
            f"{unit.block.name[7:] if unit.block else unit.name}</a>"
        )
    return f'<nav class="scroll strip" aria-label="Go to a part">{links}</nav>'


def panel(data: ReportData, place: int, cards: Mapping[str, str]) -> str:
    """Return the panel of one part of the network: what happens in it, times, and its cards."""
    unit = data.units[place]
    neighbours = ""
    if place:
        before = data.units[place - 1]
        neighbours += f'<a href="#{before.name}" rel="prev">← {before.title}</a>'
    if place + 1 < len(data.units):
        after = data.units[place + 1]
        neighbours += f'<a href="#{after.name}" rel="next">{after.title} →</a>'
    slow, fast = unit_times(unit, data.slow), unit_times(unit, data.fast)
    total, steps = sum(fast.values()), ""
    for name, seconds in fast.items():
        steps += (
            f'<dt>{name.removeprefix(unit.name + "/")}</dt><dd><span class="meter">'
            f'<i style="width:{100 * seconds / total:.1f}%"></i>'
            f"<b>{format_seconds(seconds)}</b></span></dd>"
        )
    return (
        f'<section class="panel" id="{unit.name}" aria-labelledby="{unit.name}-title">'
        f'<h2 id="{unit.name}-title">{unit.title}</h2><p class="flow">{flow(data, unit)}</p>'
        f'<div class="about"><div><h3>Time</h3><p>Fast path {format_seconds(total)}, '
        f"readable path {format_seconds(sum(slow.values()))}. The fast path's steps:</p>"
        f"<dl>{steps}</dl></div><div>{kernels(data, unit.block) if unit.block else ''}</div></div>"
        f'<div class="cards">{"".join(cards[name] for name in unit.layers)}</div>'
        f'<p class="around">{neighbours}</p></section>'
    )


def flow(data: ReportData, unit: Unit) -> str:
    """Say what happens to the tensor in a part of the network, step by step."""
    block, architecture = unit.block, data.model.architecture
    shapes = list(unit.layers.values())
    if block is None:
        steps = [format_shape(shapes[0]), "normalise"]
        steps += [f"3 × 3 convolution, stride 2, {architecture.stem}"]
        if unit.name == "head":
            steps = [f"{format_shape(shapes[0][:2])} × {architecture.blocks[-1].outputs}"]
            steps += [f"1 × 1 convolution, {architecture.head_filters}"]
        steps += ["batch norm, relu"]
        if unit.name == "head":
            steps += ["average pool", f"dense, {architecture.classes}", "softmax"]
        return " <b>→</b> ".join(f"<span>{step}</span>" for step in steps)

    def grouped(count: int) -> str:
        return f" in {count} groups" if count > 1 else ""

    steps = [f"{block.inputs} channels"]
    if block.expand_groups:
        steps.append(f"expand 1 × 1{grouped(block.expand_groups)}, {block.expanded}")
    channels = split_channels(block.expanded, len(block.kernel_sizes))
    groups = zip(block.kernel_sizes, channels, strict=True)
    stride = f", stride {block.stride}" if block.stride > 1 else ""
    steps.append("depthwise " + ", ".join(f"{k} × {k} on {c}" for k, c in groups) + stride)
    if block.se_width:
        steps.append(f"squeeze-and-excite through {block.se_width}")
    steps.append(f"project 1 × 1{grouped(block.project_groups)}, {format_shape(shapes[-1])}")
    if block.residual:
        steps.append("add the input")
    return " <b>→</b> ".join(f"<span>{step}</span>" for step in steps)


def legend() -> str:
    """Explain the colours, the times and the errors."""
    ramp = np.arange(SHADES, dtype=np.uint8).reshape(1, 1, -1)
    colours = figure(
        [ramp + np.uint8(SEQUENTIAL), ramp + np.uint8(DIVERGING)],
        ["values, low to high", "difference, − 0 +"],
        "The two colour scales",
        "Bright pink is NaN or infinity.",
    )
    return (
        f"<h2>How to read this page</h2>{colours}<p>Left and right arrow keys go from part to part."
        f" Times are the quickest of {RUNS} runs for one image: pale, the readable path, which is "
        "<code>Model.layers</code>; dark, the fast path, <code>Model.plan</code>, whose steps join "
        "several layers. Histograms leave out zeros; an outline is the other implementation. "
        "Errors are the largest difference over the largest value of ours, drawn by powers of ten; "
        "the dashed line is the tolerance.</p>"
    )
