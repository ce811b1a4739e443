"""Why does another implementation of MixNet answer differently? Try the known mistakes and see.

Every layer of ours is fed *their* tensors, so an error is found at the layer that makes it, however
many others there are before it. For each such layer `explain` computes what the suspects (known
mistakes, `suspects.py`) would have made of the same input, and the one that gives their output is
the cause. Layers that they did not dump are computed on the way, so a dump of block outputs alone
does as well: then more suspects come into question for each tensor.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.architecture import Part
from tinymixnet.compare import HALF_TOLERANCE
from tinymixnet.errors import TraceError
from tinymixnet.images import PRESETS, Source, read_image
from tinymixnet.kernels import Array
from tinymixnet.model import Layers, Model, head, mixnet_block, stem
from tinymixnet.patterns import SPREAD, Error, averaged, cosine, error, pattern
from tinymixnet.suspects import (
    SUSPECTS,
    At,
    Suspect,
    memory_as_nchw,
    memory_as_nhwc,
    other_pixels,
    raw_weights,
    rows_and_columns_exchanged,
    to_bfloat16,
    to_float16,
    to_int8,
)

if TYPE_CHECKING:
    from tinymixnet.dumps import Dump

TOLERANCE = 1e-4  # of a whole run
FINE = 1e-5  # of one layer or block: what is below is rounding
PARTLY = 10  # decoders and resizers differ a little: one that explains nearly all is the one
MOST_SEARCHES = 2  # through all suspects without an answer: what else is wrong hardly has one
ENOUGH = 6  # layers with noise, to speak of rounding
MOST_AT_ONCE = 3  # mistakes in one place, where none of them has been found elsewhere
MOST_TRIALS = 400  # of several mistakes at once, for one layer
ROUNDING = {  # to a format: how, and what error a block may then have
    "float16": (to_float16, 4e-3),
    "bfloat16": (to_bfloat16, 3e-2),
    "8-bit integers": (to_int8, 5e-2),
}


class Cause(NamedTuple):
    """A mistake that explains what they computed, where it shows and how well it explains it."""

    slug: str
    place: str  # the first layer
    places: tuple[str, ...]
    before: float  # error at the layer where it first shows, fed their input
    after: float  # the same, with the mistake made here as well
    sentence: str


class Diagnosis(NamedTuple):
    """What `diagnose` found."""

    causes: tuple[Cause, ...]  # in the network's order; none for a correct port
    layers: int  # compared
    first: str | None  # the first of them that differs

    @property
    def alike(self) -> bool:
        return not self.causes

    @property
    def slugs(self) -> list[str]:
        return [cause.slug for cause in self.causes] or ["none"]

    def as_json(self) -> dict[str, Any]:
        causes = [
            {**cause._asdict(), "before": _number(cause.before), "after": _number(cause.after)}
            for cause in self.causes
        ]
        return {"alike": self.alike, "layers": self.layers, "first": self.first, "causes": causes}

    def text(self) -> str:
        """The first line is for programs, the rest for people."""
        lines = [f"cause: {', '.join(self.slugs)}"]
        if self.alike:
            lines.append(f"all {self.layers} layers that could be compared agree with ours")
        else:
            lines.append(f"of {self.layers} layers compared, {self.first} is the first to differ")
        for cause in self.causes:
            more = f" and {len(cause.places) - 1} more" if len(cause.places) > 1 else ""
            lines += ["", f"{cause.slug}, at {cause.place}{more}", f"  {cause.sentence}"]
            explained = f", {cause.after:.1e} with this" if cause.slug != "unknown" else ""
            lines.append(f"  error fed with their input: {cause.before:.1e}{explained}")
        return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no infinity


def diagnose(
    model: Model,
    pixels: Array,
    dump: "Dump",
    photo: "Source | None" = None,
    raw: Model | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Find the mistakes that make our network compute what is in a dump of another one.

    pixels (N, H, W, 3) float32, 0..255, as theirs should have been; photo, where they come from,
    to try other ways of resizing; raw, the same network with the raw weights, to try these.
    progress draws a bar on a terminal's standard error. Raises TraceError when the dump has no
    layer of this network's.
    """
    theirs = Evidence(dump)
    causes = theirs.set_straight(model, pixels)
    if not set(theirs.names) - {"image"}:
        shapes = [f"{name} is {is_so}, not {due}" for name, (is_so, due) in dump.mismatched.items()]
        why = shapes[0] if shapes else "no name is known: --names says which is which"
        raise TraceError(f"{dump.trace.path}: no layer could be compared ({why})")
    differing = _different(model, pixels, theirs)
    if not differing:
        return Diagnosis(tuple(causes), len(theirs.names), causes[0].place if causes else None)

    suspects = list(SUSPECTS)
    if raw is not None:
        suspects += raw_weights(raw.tensors)
    if photo is not None:
        suspects += resized(model, photo, pixels)
    bench = Bench(model, pixels, theirs)
    rounded = theirs.rounding()
    search = Search(bench, suspects, theirs.fine, progress)
    causes += search.run()
    if rounded:
        causes.append(search.rounding(*rounded))
    if not causes and differing[0] in dump.mismatched:
        found, due = dump.mismatched[differing[0]]
        sentence = f"no known mistake; its shape is {found}, not {due}"
        causes.append(Cause("unknown", differing[0], (differing[0],), np.inf, np.inf, sentence))
    elif not causes:  # no layer is wrong by itself, and yet they drift apart
        sentence = "every layer is right, but rounding adds up: is there less than float32 in it?"
        causes.append(Cause("low-precision", differing[0], (differing[0],), 0, 0, sentence))
    merged: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: bench.order.index(cause.place)):
        old = merged.get(cause.slug)
        merged[cause.slug] = old._replace(places=old.places + cause.places) if old else cause
    first, *others = merged.values()
    shows = min([*differing, first.place], key=bench.order.index)
    return Diagnosis((first._replace(place=shows), *others), len(theirs.names), differing[0])


def _different(model: Model, pixels: Array, theirs: "Evidence") -> list[str]:
    """The layers past the tolerance in a whole run, or of another shape.

    Not what is before the first convolution, if that agrees: everybody may keep an image as he
    likes. Raw pixels, say, or blue first, and turned round later.
    """
    tolerance = HALF_TOLERANCE if theirs.half else TOLERANCE
    right: dict[str, bool] = {}
    for name, x in model.layers(pixels):
        if name in theirs:
            right[name] = error(x, theirs[name]).most <= tolerance
        elif name in theirs.dump.mismatched and name != "image":
            right[name] = False
    for name in ("image", "normalize"):
        later = [fine for other, fine in right.items() if other not in ("image", name)]
        if later and later[0]:
            right.pop(name, None)
    return [name for name, fine in right.items() if not fine]


def resized(model: Model, photo: Source, pixels: Array) -> list[Suspect]:
    """The photo brought to the same size by other presets, and by a plain resize or crop."""
    from PIL import Image

    image, (_, height, width, _) = read_image(photo), pixels.shape
    found = {}
    for preset in PRESETS:
        found[f"the preset {preset}"] = model.pixels(photo, preset)[0]
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    for how in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
        method, name = Image.Resampling[how], how.lower()
        found[f"squashing the whole photo, {name}"] = image.resize((width, height), method)
        found[f"a central square, all of it, {name}"] = square.resize((width, height), method)
    suspects = []
    for how, other in found.items():
        x = np.asarray(other, np.float32)[np.newaxis]
        if x.shape == pixels.shape and not np.array_equal(x, pixels):
            suspects.append(other_pixels(how, x))
    return suspects


# -- their tensors --------------------------------------------------------------------------------


class Evidence(Mapping[str, Array]):
    """Their tensors by canonical name, float32; the last few are kept: they are asked for often."""

    def __init__(self, dump: "Dump") -> None:
        self.dump = dump
        self.half = dump.half
        self.fine = ROUNDING["float16"][1] if self.half else FINE
        self.view = lambda x: x  # how a tensor of pixels must be read
        self.extra: dict[str, Array] = {}  # set straight, in place of what the dump has
        self.names = list(dump.names)  # and of what is extra
        self._there = set(self.names)
        self._kept: dict[str, Array] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._there

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Array:
        if name not in self._kept:
            x = self.extra[name] if name in self.extra else self.dump[name]
            if x.ndim == 4 and min(x.shape[1:]) > 1:
                x = self.view(x)
            while len(self._kept) > 30:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = np.ascontiguousarray(x, np.float32)
        return self._kept[name]

    def set_straight(self, model: Model, pixels: Array) -> list[Cause]:
        """See to mistakes of the dump itself, which hide all others; say which there were."""
        found = self._labels(model, pixels), self._order(model, pixels)
        return [cause for cause in found if cause]

    def _labels(self, model: Model, pixels: Array) -> Cause | None:
        """One class too many: a background class stands before or behind the others."""
        classes, cause = model.architecture.classes, None
        for name in ("logits", "probabilities"):
            found, _ = self.dump.mismatched.get(name, ((), ()))
            if np.prod(found, dtype=int) != len(pixels) * (classes + 1):
                continue
            values = self.dump.raw(name).reshape(-1, classes + 1).astype(np.float32)
            if cause is None:
                ours = _layer(model, pixels, name)
                ahead = cosine(values[:, 1:], ours) >= cosine(values[:, :-1], ours)
                where = "ahead of" if ahead else "behind"
                sentence = f"there is one class too many, {where} the others: drop it"
                cause = Cause("label-offset", name, (name,), np.inf, 0.0, sentence)
            values = values[:, 1:] if ahead else values[:, :-1]
            if name == "probabilities":
                values = values / values.sum(axis=1, keepdims=True)
            self.extra[name] = values
            self.names.append(name)
            self._there.add(name)
        return cause

    def _order(self, model: Model, pixels: Array) -> Cause | None:
        """Tensors dumped in an order that is not what their shape says."""
        views = {
            "tensors in NHWC order are dumped as NCHW": memory_as_nhwc,
            "tensors in NCHW order are dumped as NHWC": memory_as_nchw,
            "rows and columns are exchanged in what is dumped": rows_and_columns_exchanged,
        }
        votes = dict.fromkeys(views, 0)
        seen: list[str] = []
        for name, ours in model.layers(pixels):
            spatial = ours.ndim == 4 and min(ours.shape[1:3]) > 1
            if name not in self or not spatial or name in ("image", "normalize"):
                continue
            theirs = self[name]
            if cosine(ours, theirs) > 0.9 or len(seen) == 3:
                break
            seen.append(name)
            for how, view in views.items():
                turned = view(theirs)
                votes[how] += turned is not None and cosine(ours, turned) > 0.98
        best = max(votes, key=lambda how: votes[how])
        if not seen or votes[best] < len(seen):
            return None
        ours = _layer(model, pixels, seen[0])
        before = error(ours, self[seen[0]]).most
        self.view = views[best]
        self._kept.clear()
        after = error(ours, self[seen[0]]).most
        sentence = f"{best}: transpose where you reshape"
        shapes = model.architecture.layer_shapes(*pixels.shape[1:3])
        places = [name for name in self.names if len(shapes[name]) == 3 and shapes[name][0] > 1]
        return Cause("transposed-layout", places[0], tuple(places), before, after, sentence)

    def rounding(self) -> tuple[str, list[str]] | None:
        """The format with fewer digits than float32 that most of their tensors are of, and which
        these are; errors of that size are then fine."""
        kinds: dict[str, list[str]] = {name: [] for name in ROUNDING}
        asked = 0
        for name in self.names:
            x = self[name].ravel()[:20_000]
            values = np.unique(x[x != 0])
            if name in ("image", "normalize") or values.size < 16 or not np.isfinite(x).all():
                continue
            asked += 1
            if x.size > 2000 and values.size < 256:
                kinds["8-bit integers"].append(name)
            elif np.array_equal(to_bfloat16(values), values):
                kinds["bfloat16"].append(name)
            elif not self.half and np.array_equal(to_float16(values), values):
                kinds["float16"].append(name)
        how = max(kinds, key=lambda kind: len(kinds[kind]))
        if 2 * len(kinds[how]) <= asked or not asked:
            return None
        self.fine = ROUNDING[how][1]
        return how, kinds[how]


def _layer(model: Model, pixels: Array, name: str) -> Array:
    return next(x for layer, x in model.layers(pixels) if layer == name)


# -- running parts of the network -----------------------------------------------------------------


class Change(NamedTuple):
    """A suspect at work in some layers."""

    suspect: Suspect
    layers: tuple[str, ...]


class Bench:
    """Runs parts of our network on their tensors, with suspects at work."""

    def __init__(self, model: Model, pixels: Array, theirs: Evidence) -> None:
        self.model = model
        self.pixels = pixels
        self.theirs = theirs
        self.parts = model.architecture.parts()
        self.order = [layer for part in self.parts for layer in part.layers]
        self.tensors_of: dict[str, list[str]] = {}
        for name in model.tensors:
            self.tensors_of.setdefault(name.rsplit("/", 1)[0], []).append(name)

    def start_of(self, layer: str) -> int:
        """The part to start with, so as to reach a layer: what comes before it they dumped."""
        i = next(i for i, part in enumerate(self.parts) if layer in part.layers)
        while i > 0 and self._last_of(i - 1) not in self.theirs:
            i -= 1
        return i

    def _last_of(self, part: int) -> str:
        return list(self.parts[part].layers)[-1]

    def run(
        self, start: int, last: str, changes: Sequence[Change] = ()
    ) -> Iterator[tuple[str, Array]]:
        """From part number `start` to layer `last`: what we make of their tensors, layer by layer.

        A layer that they dumped feeds the next with their tensor; but not the image, which
        everybody keeps as he likes.
        """
        tensors = dict(self.model.tensors)
        for suspect, layers in changes:
            if suspect.weights:
                for layer in layers:
                    for name in self.tensors_of.get(layer, []):
                        tensors[name] = suspect.weights(name, tensors[name])
        x = self.pixels if start == 0 else self.theirs[self._last_of(start - 1)]
        for part in self.parts[start:]:
            entry, seen = x, dict[str, Array]()
            steps = self._steps(part, x, tensors)
            layer, value = next(steps)
            for _ in part.layers:
                kind = layer.split("/")[1] if part.block else layer
                for suspect, layers in changes:
                    if suspect.output and layer in layers:
                        about = self.model.metadata
                        at = At(layer, kind, x, value, entry, seen, part.block, tensors, about)
                        changed = suspect.output(at)
                        value = value if changed is None else changed
                yield layer, value
                if layer == last:
                    return
                x = self.theirs[layer] if layer in self.theirs and layer != "image" else value
                seen[kind] = x
                try:
                    layer, value = steps.send(x)
                except StopIteration:
                    break

    def _steps(self, part: Part, x: Array, tensors: Mapping[str, Array]) -> Layers:
        about = self.model.metadata
        if part.block:
            return mixnet_block(x, part.block, tensors, about.epsilon)
        if part.name == "stem":
            return stem(x, tensors, about)
        return head(x, tensors, about.epsilon)

    def errors(
        self, start: int, last: str, changes: Sequence[Change] = ()
    ) -> Iterator[tuple[str, Array, Error]]:
        """The layers of `run` that they dumped, with the distance from theirs."""
        for layer, ours in self.run(start, last, changes):
            if layer in self.theirs:
                yield layer, ours, error(ours, self.theirs[layer])

    def result(self, start: int, layer: str, changes: Sequence[Change]) -> Error:
        """The error of one layer."""
        with np.errstate(all="ignore"):
            for _, ours in self.run(start, layer, changes):  # noqa: B007  (the last one)
                pass
            return error(ours, self.theirs[layer])


# -- the search -----------------------------------------------------------------------------------


class Trial(NamedTuple):
    """A hypothesis and how well it explains a layer."""

    changes: tuple[Change, ...]
    error: Error


class Unexplained(NamedTuple):
    """A layer that is wrong, and no suspect says why."""

    layer: str
    error: float
    averaged: float
    pattern: str


class Search:
    """Goes through the layers that they dumped, and for each that is wrong finds out why."""

    def __init__(
        self, bench: Bench, suspects: Sequence[Suspect], fine: float, progress: bool
    ) -> None:
        self.bench = bench
        self.suspects = list(suspects)
        self.fine = fine
        self.progress = progress
        self.found: list[Suspect] = []
        self.causes: dict[str, Cause] = {}
        self.errors: dict[str, Error] = {}  # of each layer, fed their input
        self.unexplained: list[Unexplained] = []

    def run(self) -> list[Cause]:
        theirs = self.bench.theirs
        last = next(name for name in reversed(self.bench.order) if name in theirs)
        names = [name for name in self.bench.order if name in theirs and name != "image"]
        harmless = self._harmless()
        for number, (layer, ours, before) in enumerate(self._walk(last)):
            self._draw(number, len(names), layer)
            self.errors[layer] = before
            if layer in harmless or before.most <= 3 * self.fine:
                continue
            trial = self.explain(layer, before)
            if trial is None:
                block = next(part.block for part in self.bench.parts if layer in part.layers)
                how, bias = pattern(ours, theirs[layer], block), averaged(ours, theirs[layer])
                self.unexplained.append(Unexplained(layer, before.most, bias, how))
                continue
            for suspect, layers in trial.changes:
                if layers == ("image",) and self._image_is_right():
                    layers = (layer,)  # what is wrong happens later
                self._note(suspect, layers, before.most, trial.error.most)
        self._draw(len(names), len(names), "")
        return [*self.causes.values(), *self._rest(names)]

    def _walk(self, last: str) -> Iterator[tuple[str, Array, Error]]:
        """Each dumped layer, computed from their tensors."""
        for layer, ours, distance in self.bench.errors(0, last):
            if layer != "image":
                yield layer, ours, distance

    def _harmless(self) -> set[str]:
        """The normalised image, if the first convolution comes out right all the same."""
        for layer, ours in self.bench.model.layers(self.bench.pixels):
            if layer in self.bench.theirs and layer not in ("image", "normalize"):
                right = error(ours, self.bench.theirs[layer]).most <= 3 * self.fine
                return {"normalize"} if right else set()
        return set()

    def _image_is_right(self) -> bool:
        theirs = self.bench.theirs
        return "image" in theirs and error(self.bench.pixels, theirs["image"]).most <= self.fine

    def explain(self, layer: str, before: Error) -> Trial | None:
        """The changes that make our layer theirs, or None: what is known already comes first."""
        start = self.bench.start_of(layer)
        places = self._open(start, layer)

        def tried(*changes: Change) -> Trial:
            return Trial(changes, self.bench.result(start, layer, changes))

        known = [c for suspect in self.found for c in self._changes(suspect, places)]
        for size in (1, 2, 3):
            some = islice(combinations(known, size), MOST_TRIALS)
            trials = [tried(*changes) for changes in some]
            if trials and (best := _best(trials)).error.most <= self.fine:
                return best
        if len(self.unexplained) >= MOST_SEARCHES:
            return None
        every = [c for suspect in self.suspects for c in self._changes(suspect, places)]
        singles = sorted((tried(change) for change in every), key=lambda t: t.error.mean)
        if singles and singles[0].error.most <= self.fine:
            return singles[0]
        several = self._together(tried, singles, every, before, 1 + len(places) // 20)
        if several:
            return several
        resize = [t for t in singles if t.changes[0].suspect.slug == "other-resize"]
        near = [trial for trial in resize if trial.error.mean * PARTLY <= before.mean]
        return _best(near) if near else None

    def _together(
        self,
        tried: Callable[..., Trial],
        best: list[Trial],
        every: Sequence[Change],
        before: Error,
        cost: int,
    ) -> Trial | None:
        """Several mistakes in one place: add to the best trials whatever makes them better."""
        more = list({change.suspect: change for change in reversed(every)}.values())  # all places
        for size in range(2, MOST_AT_ONCE + 1):
            near = [trial for trial in best[:8] if trial.error.mean < 0.9 * before.mean]
            best = []
            for trial, change in islice(product(near, more), MOST_TRIALS // cost // (size - 1)):
                if change not in trial.changes:
                    best.append(tried(*trial.changes, change))
                    if best[-1].error.most <= self.fine:
                        return best[-1]
            best.sort(key=lambda trial: trial.error.mean)
        return None

    def _open(self, start: int, layer: str) -> list[str]:
        """The layers that may be to blame: itself, and those before it that were not dumped."""
        names = [name for part in self.bench.parts[start:] for name in part.layers]
        names = names[: names.index(layer)]
        hidden = [name for name in names if name not in self.bench.theirs or name == "image"]
        return [*hidden, layer]

    def _changes(self, suspect: Suspect, layers: Sequence[str]) -> Iterator[Change]:
        """The suspect at work wherever it can be, and at each place alone."""
        kinds = suspect.kinds.split()
        places = tuple(name for name in layers if kind_of(name) in kinds)
        if places:
            yield Change(suspect, places)
        if 1 < len(places) < 8:
            yield from (Change(suspect, (place,)) for place in places)

    def _note(self, suspect: Suspect, layers: tuple[str, ...], before: float, after: float) -> None:
        if suspect not in self.found:
            self.found.append(suspect)
        if old := self.causes.get(suspect.slug):
            self.causes[suspect.slug] = old._replace(places=(*old.places, *layers))
        else:
            self.causes[suspect.slug] = Cause(
                suspect.slug, layers[0], layers, before, after, suspect.sentence
            )

    def _rest(self, names: Sequence[str]) -> list[Cause]:
        """What no suspect explains: rounding, if in most layers of some kinds; else unknown."""
        wrong = [found for found in self.unexplained if not found.error <= 10 * self.fine]
        if not wrong:
            return []
        first, places = wrong[0], tuple(found.layer for found in wrong)
        noisy = [found.layer for found in wrong if found.error < 0.1 and found.pattern == SPREAD]
        kinds = {kind_of(layer) for layer in noisy}
        alike = [name for name in names if kind_of(name) in kinds]
        if len(noisy) >= ENOUGH and 2 * len(noisy) > len(alike):
            sentence = (
                "a little noise in layer after layer, which averages out: is there less than "
                "float32 in it, or in the weights of one side?"
            )
            tensors = self.bench.model.tensors.values()
            if all(np.array_equal(to_float16(tensor), tensor) for tensor in tensors):
                sentence += " Ours are float16 values: give both sides the same"
            measured = first.error, first.averaged
            return [Cause("low-precision", first.layer, places, *measured, sentence)]
        sentence = f"no known mistake; {first.pattern}"
        return [Cause("unknown", first.layer, places, first.error, first.error, sentence)]

    def rounding(self, how: str, places: list[str]) -> Cause:
        """Say that their numbers have few digits, and how well rounding ours makes them theirs."""
        fine = [name for name in places if self.errors[name].most <= 3 * self.fine]
        layer = fine[0] if fine else places[0]
        start, before = self.bench.start_of(layer), self.errors[layer].most
        suspect = Suspect("", "", "", lambda at: ROUNDING[how][0](at.value))
        after = self.bench.result(start, layer, [Change(suspect, tuple(self.bench.order))]).most
        if not after < before:  # it is rounded at other places in between
            for _, ours in self.bench.run(start, layer):  # noqa: B007  (the last one)
                pass
            after = averaged(ours, self.bench.theirs[layer])
        sentence = f"all values of {len(places)} layers are {how}, or rounded to as many digits"
        return Cause("low-precision", places[0], tuple(places), before, after, sentence)

    def _draw(self, done: int, of: int, layer: str) -> None:
        if self.progress and sys.stderr.isatty():
            bar = "#" * (30 * done // max(of, 1))
            end = "\n" if done == of else ""
            print(f"\r[{bar:<30}] {done}/{of} {layer:<28}", end=end, file=sys.stderr, flush=True)


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.error.mean)


def kind_of(layer: str) -> str:
    """As `suspects.py` calls it: a block's layer by its last part, another by its name."""
    return layer.split("/")[1] if layer.startswith("blocks_") else layer
