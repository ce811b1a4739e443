"""Name the mistakes that make another implementation of MixNet answer differently.

Each of our layers is fed *their* tensors. So an error shows at the layer that makes it, however
many other errors come before. For each such layer the search (`search.py`) tries the suspects
(known mistakes, `suspects/`) on the same input, and the one that gives their output is the cause.
Layers that are not in the dump are computed on the way. So a dump of the blocks' outputs is enough,
but then more suspects must be tried for each tensor.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numpy as np

from tinymixnet.debug.causes import Cause, Diagnosis, Evidence
from tinymixnet.debug.checks import expect
from tinymixnet.debug.compare import compare
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.evidence import TheirTensors
from tinymixnet.debug.findings import TOLERANCE, Findings, look, unpaired_end
from tinymixnet.debug.leftovers import explain_unmatched
from tinymixnet.debug.manifest import Manifest
from tinymixnet.debug.names.choose import MAPS
from tinymixnet.debug.pairing import pair
from tinymixnet.debug.pairing_again import pair_again
from tinymixnet.debug.pairs import counts
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.debug.suspects.convolution import ONE_GROUP
from tinymixnet.debug.suspects.from_data import other_pixels, raw_weights
from tinymixnet.debug.suspects.resizes import ways
from tinymixnet.engine.budget import budget
from tinymixnet.engine.images import PRESETS, Source, preprocess, read_image
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import ImageError, InputError, TraceError
from tinymixnet.model import Model


@np.errstate(all="ignore")  # NaN and infinity in a dump are results, not accidents
def diagnose(
    model: Model,
    pixels: Array,
    dump: Dump,
    photo: "Source | None" = None,
    raw: Model | None = None,
    progress: bool = False,
    reference_manifest: Manifest | None = None,
) -> Diagnosis:
    """Return the mistakes that make our network compute what a dump of another one holds.

    pixels: (N, H, W, 3), 0..255, the input that theirs should have had. photo: the file of the
    pixels, to try other ways of resizing. raw: the same network with its raw weights, to try them.
    progress: draw a bar if standard error is a terminal. reference_manifest: of ours, to warn of
    other pixels or weights. Raises TraceError if the dump has no layer of this network, and
    InputError for arguments of a wrong type.

    >>> dump = open_dump("theirs.npz", model.architecture, 1, 224, 224)
    >>> diagnose(model, pixels, dump).slugs  # theirs has blue first
    ['bgr']
    """
    expect(model, Model, "model")
    pixels = check_pixels(pixels).astype(np.float32)
    expect(dump, Dump, "dump")
    if raw is not None and expect(raw, Model, "raw").architecture != model.architecture:
        raise InputError("raw: expected weights of the same network")
    expect(progress, bool, "progress")
    if reference_manifest is not None:
        expect(reference_manifest, Manifest, "reference_manifest")
    dump.guess_scales(model.layers(pixels))
    if not (dump.certain or dump.pairs):
        dump = pair(model, pixels, dump, progress)
    elif not dump.pairs:
        dump = explain_unmatched(model, pixels, dump)
    suspects = cache(partial(_suspects, model, pixels, photo, raw))
    found = look(model, pixels, dump, suspects, progress)
    if found.doubts and found.search and not dump.certain:
        better = pair_again(model, pixels, found.theirs, found.search)
        found = look(model, pixels, better, suspects, progress) if better else found
    warnings = _warnings(model, pixels, found.theirs.dump, reference_manifest)
    return _conclusion(found, warnings)


def _suspects(
    model: Model, pixels: Array, photo: "Source | None", raw: Model | None
) -> list[Suspect]:
    """Return all mistakes to try, those among them that only a photo or raw weights can show."""
    suspects = [*SUSPECTS, *ONE_GROUP]
    if raw is not None:
        suspects += raw_weights(raw.tensors)
    if photo is not None:
        suspects += resized(model, photo, pixels)
    return suspects


def _conclusion(found: Findings, warnings: tuple[str, ...]) -> Diagnosis:
    """Return the diagnosis that follows from what was found."""
    theirs, differing = found.theirs, list(found.differing)
    dump, causes, layers = theirs.dump, list(found.causes), len(theirs.names)
    evidence = _evidence(dump, theirs, found.doubtful)
    if not causes and not differing:
        causes += unpaired_end(found)
        if not causes:
            return Diagnosis((), layers, None, evidence, warnings, dump.pairs)
    elif not causes and differing[0] in dump.mismatched:
        shape, due = dump.mismatched[differing[0]]
        sentence = f"no known mistake; its shape is {shape}, not {due}"
        causes.append(Cause("unknown", differing[0], (differing[0],), np.inf, np.inf, sentence))
    elif not causes:  # no layer is wrong by itself, and yet the runs drift apart
        sentence = "every layer is right, but rounding adds up: is all of it float32?"
        causes.append(Cause("low-precision", differing[0], (differing[0],), 0, 0, sentence))
    order = list(dump.expected)
    merged: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: order.index(cause.place)):
        old = merged.get(cause.slug)
        merged[cause.slug] = old._replace(places=old.places + cause.places) if old else cause
    first, *others = merged.values()
    shows = min([*differing, first.place], key=order.index)
    every = first._replace(place=shows), *others
    first_wrong = differing[0] if differing else shows
    return Diagnosis(every, layers, first_wrong, evidence, warnings, dump.pairs)


def _warnings(
    model: Model, pixels: Array, dump: Dump, reference_manifest: Manifest | None
) -> tuple[str, ...]:
    """Return what `compare` warns of."""
    with suppress(TraceError):  # where no shape is ours, there is nothing to warn of
        return tuple(compare(model.layers(pixels), dump, TOLERANCE, reference_manifest).warnings)
    return ()


def _evidence(dump: Dump, theirs: TheirTensors, doubtful: Sequence[str]) -> Evidence:
    """Return how the layers were paired, and what was not."""
    known = set(theirs.names)
    if not dump.pairs:
        how = "order" if dump.map == "onnx" else "name" if dump.map in MAPS else "given"
        found = {how: len(known)}
        others = list(dump.unmatched)
    else:
        found = counts([pair for pair in dump.pairs if pair.layer in known])
        others = [pair.name for pair in dump.pairs if pair.unknown]
    order = {name: number for number, name in enumerate(dump.trace.names)}
    last = max((order[name] for name in dump.theirs.values()), default=len(order))
    after = tuple(name for name in others if order[name] > last)
    named = tuple((layer, dump.theirs[layer]) for layer in doubtful)
    explained = [*dump.pairs, *(dump.explained or ())]
    parts = sum(1 for pair in explained if pair.layer and pair.part)
    constants = sum(1 for pair in explained if pair.constant)
    return Evidence(found, len(others), after, named, parts, constants)


def resized(model: Model, photo: Source, pixels: Array) -> list[Suspect]:
    """Return suspects that resize the photo by other presets, or by a plain resize or crop.

    What would take too much memory for a large photo is left out.
    """
    from PIL import Image

    image, (_, height, width, _) = read_image(photo), pixels.shape  # decoded once, it may be large
    images: dict[str, Any] = {}  # how -> pixels (H, W, 3)
    size, own = model.metadata.input_size, model.metadata.preset
    for preset in PRESETS:
        parameters = model.metadata.preset_parameters if preset == own else None
        with suppress(ImageError):
            images[f"the preset {preset}"] = preprocess(image, preset, size, parameters)
    for how in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
        method, name = Image.Resampling[how], how.lower()
        images[f"squashing the whole photo, {name}"] = image.resize((width, height), method)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    if 4 * (image.width * image.height + short * short) <= budget.photo_bytes:
        square = image.crop((left, top, left + short, top + short))
        for how in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
            method, name = Image.Resampling[how], how.lower()
            resized_square = square.resize((width, height), method)
            images[f"a central square, all of it, {name}"] = resized_square
    images.update(ways(image, height, width))
    suspects = []
    for how, other in images.items():
        x = np.asarray(other, np.float32)[np.newaxis]
        if x.shape == pixels.shape and not np.array_equal(x, pixels):
            suspects.append(other_pixels(how, x))
    return suspects
