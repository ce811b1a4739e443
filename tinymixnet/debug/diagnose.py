"""Name the mistakes that make another implementation of MixNet answer differently.

Each of our layers is fed *their* tensors. So an error shows at the layer that makes it, however
many other errors come before. For each such layer the search (`search.py`) tries the suspects
(known mistakes, `suspects/`) on the same input, and the one that gives their output is the cause.
Layers that are not in the dump are computed on the way. So a dump of the blocks' outputs is enough,
but then more suspects must be tried for each tensor.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tinymixnet.debug.causes import Cause, Diagnosis, Evidence
from tinymixnet.debug.checks import expect
from tinymixnet.debug.compare import HALF_TOLERANCE, compare
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.evidence import FORMAT, TheirTensors
from tinymixnet.debug.leftovers import explain_unmatched
from tinymixnet.debug.limits import Limits
from tinymixnet.debug.manifest import Manifest
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.choose import MAPS
from tinymixnet.debug.pairing import pair
from tinymixnet.debug.pairs import counts
from tinymixnet.debug.precision import judgements
from tinymixnet.debug.runner import PartRunner
from tinymixnet.debug.search import Search, kind_of
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

EQUAL = 2e-5  # largest error of a layer of a whole run that is ours but for rounding
INCONCLUSIVE = ["image", "normalize", "probabilities", "se_gate", "se_pool", "head/pool"]
TOLERANCE = 1e-4  # largest error of a whole run of a correct port, as in `compare`


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
    warnings = _warnings(model, pixels, dump, reference_manifest)
    theirs = TheirTensors(dump)
    causes = theirs.correct_dump_errors(model, pixels)
    if not set(theirs.names) - {"image"}:
        shapes = [f"{name} is {its}, not {due}" for name, (its, due) in dump.mismatched.items()]
        why = shapes[0] if shapes else "no name is known: --names says which is which"
        raise TraceError(f"{dump.trace.path}: no layer could be compared ({why})")
    differing, doubtful = _different(model, pixels, theirs)
    theirs.without(doubtful)
    evidence = _evidence(dump, theirs, doubtful)
    if not differing:
        shows = causes[0].place if causes else None
        return Diagnosis(tuple(causes), len(theirs.names), shows, evidence, warnings)

    suspects = [*SUSPECTS, *ONE_GROUP]
    if raw is not None:
        suspects += raw_weights(raw.tensors)
    if photo is not None:
        suspects += resized(model, photo, pixels)
    runner = PartRunner(model, pixels, theirs)
    found = _search(runner, theirs, suspects, progress)
    if guesses := _wrong_guesses(dump, theirs, found):
        theirs.without(guesses)
        doubtful += guesses
        evidence = _evidence(dump, theirs, doubtful)
        runner = PartRunner(model, pixels, theirs)
        found = _search(runner, theirs, suspects, progress)
        differing = [name for name in differing if name not in guesses]
    causes += found
    if not causes and not differing:
        return Diagnosis((), len(theirs.names), None, evidence, warnings)
    if not causes and differing[0] in dump.mismatched:
        shape, due = dump.mismatched[differing[0]]
        sentence = f"no known mistake; its shape is {shape}, not {due}"
        causes.append(Cause("unknown", differing[0], (differing[0],), np.inf, np.inf, sentence))
    elif not causes:  # no layer is wrong by itself, and yet the runs drift apart
        sentence = "every layer is right, but rounding adds up: is all of it float32?"
        causes.append(Cause("low-precision", differing[0], (differing[0],), 0, 0, sentence))
    merged: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: runner.order.index(cause.place)):
        old = merged.get(cause.slug)
        merged[cause.slug] = old._replace(places=old.places + cause.places) if old else cause
    first, *others = merged.values()
    shows = min([*differing, first.place], key=runner.order.index)
    every = first._replace(place=shows), *others
    first_wrong = differing[0] if differing else shows
    return Diagnosis(every, len(theirs.names), first_wrong, evidence, warnings)


def _warnings(
    model: Model, pixels: Array, dump: Dump, reference_manifest: Manifest | None
) -> tuple[str, ...]:
    """Return what `compare` warns of."""
    with suppress(TraceError):  # where no shape is ours, there is nothing to warn of
        return tuple(compare(model.layers(pixels), dump, TOLERANCE, reference_manifest).warnings)
    return ()


def _search(
    runner: PartRunner, theirs: TheirTensors, suspects: Sequence[Suspect], progress: bool
) -> list[Cause]:
    """Return the causes that a search finds, few digits among them."""
    rounded = theirs.rounding()
    verdicts = None
    if rounded:
        how, unrounded = FORMAT[rounded.how], rounded.others
        verdicts = judgements(runner.model, runner.pixels, theirs, how, unrounded=unrounded)
    search = Search(runner, suspects, Limits(theirs.fine, verdicts), progress)
    causes = search.run()
    if rounded:
        causes.append(search.rounding(rounded.how, rounded.places))
    return causes


def _wrong_guesses(dump: Dump, theirs: TheirTensors, causes: Sequence[Cause]) -> list[str]:
    """Return the layers that only the order speaks for, and that no known mistake explains.

    They were probably paired wrongly, unless they are most of what there is.
    """
    guessed = {pair.layer for pair in dump.pairs if pair.found == "order" and not pair.part}
    unknown = {place for cause in causes if cause.slug == "unknown" for place in cause.places}
    wrong = [layer for layer in theirs.names if layer in guessed and layer in unknown]
    others = set(theirs.names) - guessed - {"image"}
    return wrong if len(others) > len(wrong) else []


def _different(model: Model, pixels: Array, theirs: TheirTensors) -> tuple[list[str], list[str]]:
    """Return the layers beyond the tolerance in a whole run, or of another shape, and the doubtful.

    Every layer but the image leads to all that follow. So what stands before a layer of theirs that
    equals ours cannot be wrong, whatever it looks like: it is doubtful whether it is that layer.

    Ports store the image in different forms: as raw pixels, say, or with blue first. So differences
    before the first convolution are ignored if that agrees.
    """
    tolerance = HALF_TOLERANCE if theirs.half else TOLERANCE
    right: dict[str, bool] = {}
    equal: list[str] = []
    for name, x in model.layers(pixels):
        if name in theirs:
            apart = error(x, theirs[name]).max_error
            right[name] = apart <= tolerance
            if apart <= EQUAL and kind_of(name) not in INCONCLUSIVE:
                equal.append(name)
        elif name in theirs.dump.mismatched and name != "image":
            right[name] = False
    for name in ("image", "normalize"):
        later = [fine for other, fine in right.items() if other not in ("image", name)]
        if later and later[0]:
            right.pop(name, None)
    order = list(right)
    before = order[: order.index(equal[-1])] if equal else []
    doubtful = [name for name in before if not right[name] and name in theirs]
    differing = [name for name, fine in right.items() if not fine and name not in before]
    return differing, doubtful


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
