"""What the report shows, as data: `gather` measures it, the page draws it, `as_json` lists it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.debug.strict_json import json_values
from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.engine.explain import Explanation
from tinymixnet.engine.kernels import Array, softmax
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError
from tinymixnet.model import Model
from tinymixnet.report.times import Times, Timing, measure_times

if TYPE_CHECKING:
    from tinymixnet.debug.causes import Diagnosis
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.dumps import Dump
    from tinymixnet.debug.measure import Row
    from tinymixnet.engine.images import Source

ANSWERS = 5  # labels, the best ones


class Unit(NamedTuple):
    """One part of the network: the stem, a block or the head."""

    name: str  # also the id of its panel, so #blocks_3 leads there
    title: str
    layers: dict[str, tuple[int, ...]]
    block: Block | None


class Statistics(NamedTuple):
    """The values of one layer for one image, in five numbers."""

    min: float
    max: float
    mean: float
    std: float
    zeros: float  # share of all values


class LayerFacts(NamedTuple):
    """What is known of a layer of the image that is shown."""

    shape: tuple[int, ...]
    ours: Statistics
    theirs: Statistics | None  # None without another implementation, or if it lacks the layer


class Answer(NamedTuple):
    label: str
    number: int  # of the class
    ours: float
    theirs: float | None


class ReportData(NamedTuple):
    """Everything that was measured. The last two are filled while the layers pass by."""

    model: Model
    image: str  # what to call the photo
    pixels: Array  # (H, W, 3), of the image that is shown
    images: int  # how many there were
    units: list[Unit]
    timing: Timing | None  # None: this machine is too busy to measure
    dump: "Dump | None"
    comparison: "Comparison | None"
    rows: Mapping[str, "Row"]  # of the comparison, by layer
    diagnosis: "Diagnosis | None"  # None if nothing differs
    explanation: Explanation | None
    layers: dict[str, LayerFacts]
    answers: list[Answer]

    @property
    def answer_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the image that the answers belong to."""
        h, w, _ = self.explanation.pixels.shape if self.explanation else self.pixels.shape
        return h, w

    @property
    def first(self) -> str | None:
        """The first layer that differs."""
        return self.comparison.first if self.comparison else None

    @property
    def warnings(self) -> list[str]:
        """What `compare` and `diagnose` warn of, each once."""
        compared = self.comparison.warnings if self.comparison else ()
        diagnosed = self.diagnosis.warnings if self.diagnosis else ()
        return list(dict.fromkeys([*compared, *diagnosed]))


Visit = Callable[[ReportData, str, Array, "Array | None"], None]


def gather(
    model: Model,
    image: str,
    pixels: Array,
    dump: "Dump | None" = None,
    comparison: "Comparison | None" = None,
    explanation: Explanation | None = None,
    photo: "Source | None" = None,
    progress: bool = False,
    visit: Visit | None = None,
) -> ReportData:
    """Measure what the report shows of `pixels` (N, H, W, 3), 0..255: the first of the images.

    With a dump each layer is shown for the image in which it differs most, and the mistake behind
    the first difference is looked for (`photo` and `progress` as for `diagnose`). comparison: of
    this dump, if it is known already. explanation: of the same photo; if it is of another size, the
    answers are those of that size. visit(data, name, ours, theirs) is called for each layer, to
    draw it: (H, W, C) or (C,) each, theirs None where the dump lacks the layer.
    """
    pixels = check_pixels(pixels).astype(np.float32)
    if not len(pixels):
        raise InputError("pixels: expected at least one image, found none")
    count, h, w, _ = pixels.shape
    with np.errstate(all="ignore"):  # another implementation's values may be anything
        diagnosis = None
        if dump is None:
            pixels = pixels[:1]  # no others are shown
        else:
            from tinymixnet.debug.compare import compare
            from tinymixnet.debug.diagnose import diagnose

            comparison = comparison or compare(model.layers(pixels), dump)
            if not comparison.alike:
                diagnosis = diagnose(model, pixels, dump, photo=photo, progress=progress)
        data = ReportData(
            model=model,
            image=image,
            pixels=pixels[0],
            images=count,
            units=units(model.architecture, h, w),
            timing=measure_times(model, pixels[0]),
            dump=dump,
            comparison=comparison,
            rows={row.layer: row for row in comparison.rows} if comparison else {},
            diagnosis=diagnosis,
            explanation=explanation,
            layers={},
            answers=[],
        )
        _visit_layers(data, pixels, visit)
    return data


def _visit_layers(data: ReportData, pixels: Array, visit: Visit | None) -> None:
    ours, theirs = pixels[0], None
    for name, layer in data.model.layers(pixels):
        row = data.rows.get(name)
        shown = row.worst[0] if row and row.worst else 0  # the image
        other = None
        if data.dump is not None and row and row.status != "shape":
            other = data.dump[name]
        x, y = layer[shown], None if other is None else other[shown]
        own, their = statistics(x), None if y is None else statistics(y)
        data.layers[name] = LayerFacts(x.shape, own, their)
        if visit:
            visit(data, name, x, y)
        if name == "probabilities":
            ours = layer[0]
        if other is not None and name in ("logits", "probabilities"):
            theirs = softmax(other[:1])[0] if name == "logits" else other[0]
    if data.explanation and data.answer_size != data.pixels.shape[:2]:
        ours = softmax(data.model(data.explanation.pixels[None]))[0]
    for i in np.argsort(-ours, kind="stable")[:ANSWERS]:
        their_own = None if theirs is None else float(theirs[i])
        data.answers.append(Answer(data.model.labels[i], int(i), float(ours[i]), their_own))


def units(architecture: Architecture, height: int, width: int) -> list[Unit]:
    """Return the parts of the network in order, for images of height x width pixels."""
    return [
        Unit(name, f"Block {name[7:]}" if block else name.capitalize(), layers, block)
        for name, layers, block in architecture.parts(height, width)
    ]


def unit_times(unit: Unit, times: Times) -> dict[str, float]:
    """Return those times that belong to a part of the network."""
    own = {unit.name} | {name for name in unit.layers if "/" not in name}  # such as `logits`
    return {name: seconds for name, seconds in times.items() if name.split("/")[0] in own}


def block_of(data: ReportData, layer: str) -> Block | None:
    """Return the block of a layer, None in the stem and the head."""
    return next(unit.block for unit in data.units if layer in unit.layers)


def within_tolerance(data: ReportData, name: str) -> bool:
    return data.rows[name].status in ("ok", "coarse")


def differing(data: ReportData, unit: Unit) -> int:
    """Return how many layers of a part of the network are past their tolerance."""
    return sum(name in data.rows and not within_tolerance(data, name) for name in unit.layers)


def statistics(values: Array) -> Statistics:
    zeros = 1 - np.count_nonzero(values) / values.size
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return Statistics(
        float(values.min()), float(values.max()), float(mean), float(deviation), zeros
    )


# -- for programs ---------------------------------------------------------------------------------


def as_json(data: ReportData) -> dict[str, Any]:
    """Return what the page shows as values that JSON has; NaN and infinity become null."""
    architecture, timing = data.model.architecture, data.timing
    h, w, _ = data.pixels.shape
    result: dict[str, Any] = {
        "image": data.image,
        "images": data.images,
        "network": data.model.metadata.name or architecture.variant,
        "input": [h, w],
        "parameters": architecture.parameters(),
        "multiply_adds": architecture.multiply_adds(h, w),
        "seconds": None,
        "answers_input": list(data.answer_size),
        "answers": [answer._asdict() for answer in data.answers],
        "layers": [_layer_json(data, unit, name) for unit in data.units for name in unit.layers],
    }
    if data.explanation:
        result["explanation"] = data.explanation.as_json()
    if timing:
        result["seconds"] = {
            "readable": sum(timing.readable.values()),
            "fast": sum(timing.fast.values()),
            "fast_steps": dict(timing.fast),
            "runs": timing.runs,
        }
    if data.dump is not None and data.comparison is not None:
        diagnosis = data.diagnosis
        result["comparison"] = {
            "dump": str(data.dump.trace.path),
            "alike": data.comparison.alike,
            "first": data.comparison.first,
            "tolerance": data.comparison.tolerance,
            "warnings": data.warnings,
            "missing": data.comparison.missing,
            "unmatched": data.comparison.unmatched,
            "causes": [cause._asdict() for cause in diagnosis.causes] if diagnosis else [],
        }
    return json_values(result)


def _layer_json(data: ReportData, unit: Unit, name: str) -> dict[str, Any]:
    facts, row = data.layers[name], data.rows.get(name)
    layer: dict[str, Any] = {"name": name, "part": unit.name, "shape": facts.shape}
    layer["seconds"] = data.timing.readable[name] if data.timing else None
    layer["ours"] = facts.ours._asdict()
    if data.comparison:
        layer["theirs"] = facts.theirs._asdict() if facts.theirs else None
        measures = ["status", "error", "added", "rounding", "explained", "snr", "cosine"]
        measures += ["worst", "channel", "values"]
        layer |= {key: getattr(row, key) if row else None for key in measures}
    return layer
