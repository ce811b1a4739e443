"""One self-contained HTML page that shows what a network computes for an image, layer by layer.

`write_report` measures the times, runs the network once more for the pictures and numbers, and puts
the page together: the answers, the drawing (`drawing.py`) and a panel for each part of it with a
card for each layer (`layers.py`). The style sheet and the script are `page.css` and `page.js`. The
page's content security policy allows nothing else to run and nothing to be fetched.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from tinymixnet.engine.files import atomic_write
from tinymixnet.engine.kernels import Array, softmax, split_channels
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError
from tinymixnet.model import Model
from tinymixnet.report.drawing import (
    ReportData,
    Unit,
    by,
    drawing,
    fine,
    milliseconds,
    of_unit,
    units,
)
from tinymixnet.report.layers import (
    DIVERGING,
    SEQUENTIAL,
    SHADES,
    card,
    data_uri,
    difference,
    figure,
    kernels,
)

if TYPE_CHECKING:
    from tinymixnet.debug.dumps import Dump

FOLDER = Path(__file__).parent
NOTES = 100  # on what could not be compared, at most
RUNS = 3  # of which the quickest counts


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
        with atomic_write(path) as beside:
            beside.write_bytes(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _page(model: Model, image: str, pixels: Array, dump: "Dump | None") -> str:
    n, h, w, _ = pixels.shape
    comparison = None
    if dump is not None:
        from tinymixnet.debug.compare import compare

        comparison = compare(model.layers(pixels), dump)
    slow, fast = slow_times(model, pixels[:1]), fast_times(model, pixels[0])
    rows = {row.layer: row for row in comparison.rows} if comparison else {}
    data = ReportData(model, units(model.architecture, h, w), slow, fast, comparison, rows)

    cards, ours, theirs = {}, pixels[0], None
    for name, layer in model.layers(pixels):
        row = rows.get(name)
        which = row.worst[0] if row and row.worst else 0
        other = dump[name] if dump is not None and name in dump.names else None
        cards[name] = card(data, name, layer[which], None if other is None else other[which])
        if name == "probabilities":
            ours = layer[0]
        if other is not None and name in ("logits", "probabilities"):
            theirs = softmax(other[:1])[0] if name == "logits" else other[0]

    shown = f"{image}, {h} × {w} pixels" + (f", the first of {n} images" if n > 1 else "")
    network = model.metadata.name or model.architecture.variant
    title = f"{network} looks at {image}"
    script = (FOLDER / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = [
        answers(model, shown, pixels[0], ours, theirs),
        verdict(data, dump),
        f'<h2 id="network">The network</h2>{drawing(data)}{strip(data)}',
        *(panel(data, place, cards) for place in range(len(data.units))),
    ]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title><link rel="icon" href="data:,">
<style>{(FOLDER / "page.css").read_text("utf-8")}</style></head><body>
<header><h1>{escape(title)}</h1><p>{summary(data, h, w)}</p></header>
<main>{"".join(parts)}</main><footer>{legend()}</footer>
<script>{script}</script></body></html>
"""


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
    program.image[:] = image
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


# -- the text -------------------------------------------------------------------------------------


def summary(data: ReportData, height: int, width: int) -> str:
    architecture = data.model.architecture
    slow, fast = (sum(times.values()) for times in (data.slow, data.fast))
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
        f'alt="The image as the network sees it"><figcaption>{escape(shown)}, as the network'
        f" sees it</figcaption></figure><div><h2>What it sees</h2><dl>{rows}</dl></div></section>"
    )


def verdict(data: ReportData, dump: "Dump | None") -> str:
    """Whether the other implementation agrees, and what could not be compared."""
    found = data.comparison
    if not found or dump is None:
        return ""
    count = len(found.rows)
    if found.first is None:
        text = f"Alike: all {count} layers compared are within {found.tolerance:g}."
    else:
        past = sum(row.status != "ok" for row in found.rows)
        text = (
            f'First difference: <a href="#{found.first}">{found.first}</a>'
            f"{difference(data, found.first).replace('<br>', ', ')}. {past} of {count} layers are "
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


def strip(data: ReportData) -> str:
    """All parts by name in a line that stays in sight."""
    links = ""
    for unit in data.units:
        off = any(name in data.rows and not fine(data, name) for name in unit.layers)
        links += (
            f'<a href="#{unit.name}" data-part="{unit.name}"{" class=off" if off else ""} '
            f'aria-label="{unit.title}{", differs" if off else ""}">'
            f"{unit.block.name[7:] if unit.block else unit.name}</a>"
        )
    return f'<nav class="scroll strip" aria-label="Go to a part">{links}</nav>'


def panel(data: ReportData, place: int, cards: Mapping[str, str]) -> str:
    """All about one part of the network."""
    unit = data.units[place]
    around = ""
    if place:
        before = data.units[place - 1]
        around += f'<a href="#{before.name}" rel="prev">← {before.title}</a>'
    if place + 1 < len(data.units):
        after = data.units[place + 1]
        around += f'<a href="#{after.name}" rel="next">{after.title} →</a>'
    slow, fast = of_unit(unit, data.slow), of_unit(unit, data.fast)
    steps = "".join(
        f'<dt>{name.removeprefix(unit.name + "/")}</dt><dd><span class="meter"><i style="width:'
        f'{100 * seconds / sum(fast.values()):.1f}%"></i><b>{milliseconds(seconds)}</b></span></dd>'
        for name, seconds in fast.items()
    )
    return (
        f'<section class="panel" id="{unit.name}" aria-labelledby="{unit.name}-title">'
        f'<h2 id="{unit.name}-title">{unit.title}</h2><p class="flow">{flow(data, unit)}</p>'
        f'<div class="about"><div><h3>Time</h3><p>Fast path {milliseconds(sum(fast.values()))}, '
        f"readable path {milliseconds(sum(slow.values()))}. The fast path's steps:</p>"
        f"<dl>{steps}</dl></div><div>{kernels(data, unit.block) if unit.block else ''}</div></div>"
        f'<div class="cards">{"".join(cards[name] for name in unit.layers)}</div>'
        f'<p class="around">{around}</p></section>'
    )


def flow(data: ReportData, unit: Unit) -> str:
    """What happens to the tensor in a part, step by step."""
    b, architecture = unit.block, data.model.architecture
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
        f" Times are the quickest of {RUNS} runs for one image: pale, the readable path, which is "
        "<code>Model.layers</code>; dark, the fast path, <code>Model.plan</code>, whose steps join "
        "several layers. Histograms leave out zeros; an outline is the other implementation. "
        "Errors are the largest difference over the largest value of ours, drawn by powers of ten; "
        "the dashed line is the tolerance.</p>"
    )
