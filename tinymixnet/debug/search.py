"""The search behind a diagnosis: for each wrong layer, find the mistakes that explain it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice, product
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.causes import Cause
from tinymixnet.debug.evidence import ROUNDING
from tinymixnet.debug.measure import Error, averaged, error
from tinymixnet.debug.patterns import SPREAD, pattern
from tinymixnet.debug.runner import Change, PartRunner
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.debug.suspects.precision import to_float16
from tinymixnet.engine.kernels import Array

PARTLY = 10  # decoders and resizers differ a little: one that explains nearly all is the one
MOST_SEARCHES = 2  # through all suspects without an answer: what else is wrong hardly has one
ENOUGH = 6  # layers with noise, to speak of rounding
MOST_AT_ONCE = 3  # mistakes in one place, where none of them has been found elsewhere
MOST_TRIALS = 400  # of several mistakes at once, for one layer


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
        self, runner: PartRunner, suspects: Sequence[Suspect], fine: float, progress: bool
    ) -> None:
        self.runner = runner
        self.suspects = list(suspects)
        self.fine = fine
        self.progress = progress
        self.found: list[Suspect] = []
        self.causes: dict[str, Cause] = {}
        self.errors: dict[str, Error] = {}  # of each layer, fed their input
        self.unexplained: list[Unexplained] = []

    def run(self) -> list[Cause]:
        theirs = self.runner.theirs
        last = next(name for name in reversed(self.runner.order) if name in theirs)
        names = [name for name in self.runner.order if name in theirs and name != "image"]
        harmless = self._harmless()
        for number, (layer, ours, before) in enumerate(self._walk(last)):
            self._draw(number, len(names), layer)
            self.errors[layer] = before
            if layer in harmless or before.max_error <= 3 * self.fine:
                continue
            trial = self.explain(layer, before)
            if trial is None:
                block = next(part.block for part in self.runner.parts if layer in part.layers)
                how, bias = pattern(ours, theirs[layer], block), averaged(ours, theirs[layer])
                self.unexplained.append(Unexplained(layer, before.max_error, bias, how))
                continue
            for suspect, layers in trial.changes:
                if layers == ("image",) and self._image_is_right():
                    layers = (layer,)  # what is wrong happens later
                self.add_cause(suspect, layers, before.max_error, trial.error.max_error)
        self._draw(len(names), len(names), "")
        return [*self.causes.values(), *self.unexplained_causes(names)]

    def _walk(self, last: str) -> Iterator[tuple[str, Array, Error]]:
        """Each dumped layer, computed from their tensors."""
        for layer, ours, distance in self.runner.errors(0, last):
            if layer != "image":
                yield layer, ours, distance

    def _harmless(self) -> set[str]:
        """The normalised image, if the first convolution comes out right all the same."""
        for layer, ours in self.runner.model.layers(self.runner.pixels):
            if layer in self.runner.theirs and layer not in ("image", "normalize"):
                right = error(ours, self.runner.theirs[layer]).max_error <= 3 * self.fine
                return {"normalize"} if right else set()
        return set()

    def _image_is_right(self) -> bool:
        theirs = self.runner.theirs
        return (
            "image" in theirs and error(self.runner.pixels, theirs["image"]).max_error <= self.fine
        )

    def explain(self, layer: str, before: Error) -> Trial | None:
        """The changes that make our layer theirs, or None: what is known already comes first."""
        start = self.runner.start_of(layer)
        places = self.candidate_layers(start, layer)

        def tried(*changes: Change) -> Trial:
            return Trial(changes, self.runner.result(start, layer, changes))

        known = [c for suspect in self.found for c in self._changes(suspect, places)]
        for size in (1, 2, 3):
            some = islice(combinations(known, size), MOST_TRIALS)
            trials = [tried(*changes) for changes in some]
            if trials and (best := _best(trials)).error.max_error <= self.fine:
                return best
        if len(self.unexplained) >= MOST_SEARCHES:
            return None
        every = [c for suspect in self.suspects for c in self._changes(suspect, places)]
        singles = sorted((tried(change) for change in every), key=lambda t: t.error.rms_error)
        if singles and singles[0].error.max_error <= self.fine:
            return singles[0]
        several = self._together(tried, singles, every, before, 1 + len(places) // 20)
        if several:
            return several
        resize = [t for t in singles if t.changes[0].suspect.slug == "other-resize"]
        near = [trial for trial in resize if trial.error.rms_error * PARTLY <= before.rms_error]
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
            near = [trial for trial in best[:8] if trial.error.rms_error < 0.9 * before.rms_error]
            best = []
            for trial, change in islice(product(near, more), MOST_TRIALS // cost // (size - 1)):
                if change not in trial.changes:
                    best.append(tried(*trial.changes, change))
                    if best[-1].error.max_error <= self.fine:
                        return best[-1]
            best.sort(key=lambda trial: trial.error.rms_error)
        return None

    def candidate_layers(self, start: int, layer: str) -> list[str]:
        """The layers that may be to blame: itself, and those before it that were not dumped."""
        names = [name for part in self.runner.parts[start:] for name in part.layers]
        names = names[: names.index(layer)]
        hidden = [name for name in names if name not in self.runner.theirs or name == "image"]
        return [*hidden, layer]

    def _changes(self, suspect: Suspect, layers: Sequence[str]) -> Iterator[Change]:
        """The suspect at work wherever it can be, and at each place alone."""
        kinds = suspect.kinds.split()
        places = tuple(name for name in layers if kind_of(name) in kinds)
        if places:
            yield Change(suspect, places)
        if 1 < len(places) < 8:
            yield from (Change(suspect, (place,)) for place in places)

    def add_cause(
        self, suspect: Suspect, layers: tuple[str, ...], before: float, after: float
    ) -> None:
        if suspect not in self.found:
            self.found.append(suspect)
        if old := self.causes.get(suspect.slug):
            self.causes[suspect.slug] = old._replace(places=(*old.places, *layers))
        else:
            self.causes[suspect.slug] = Cause(
                suspect.slug, layers[0], layers, before, after, suspect.sentence
            )

    def unexplained_causes(self, names: Sequence[str]) -> list[Cause]:
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
            tensors = self.runner.model.tensors.values()
            if all(np.array_equal(to_float16(tensor), tensor) for tensor in tensors):
                sentence += " Ours are float16 values: give both sides the same"
            measured = first.error, first.averaged
            return [Cause("low-precision", first.layer, places, *measured, sentence)]
        sentence = f"no known mistake; {first.pattern}"
        return [Cause("unknown", first.layer, places, first.error, first.error, sentence)]

    def rounding(self, how: str, places: list[str]) -> Cause:
        """Say that their numbers have few digits, and how well rounding ours makes them theirs."""
        fine = [name for name in places if self.errors[name].max_error <= 3 * self.fine]
        layer = fine[0] if fine else places[0]
        start, before = self.runner.start_of(layer), self.errors[layer].max_error
        suspect = Suspect("", "", "", lambda at: ROUNDING[how][0](at.value))
        after = self.runner.result(
            start, layer, [Change(suspect, tuple(self.runner.order))]
        ).max_error
        if not after < before:  # it is rounded at other places in between
            for _, ours in self.runner.run(start, layer):  # noqa: B007  (the last one)
                pass
            after = averaged(ours, self.runner.theirs[layer])
        sentence = f"all values of {len(places)} layers are {how}, or rounded to as many digits"
        return Cause("low-precision", places[0], tuple(places), before, after, sentence)

    def _draw(self, done: int, of: int, layer: str) -> None:
        if self.progress and sys.stderr.isatty():
            bar = "#" * (30 * done // max(of, 1))
            end = "\n" if done == of else ""
            print(f"\r[{bar:<30}] {done}/{of} {layer:<28}", end=end, file=sys.stderr, flush=True)


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.error.rms_error)


def kind_of(layer: str) -> str:
    """As `suspects/context.py` calls it: a block's layer by its last part, another by its name."""
    return layer.split("/")[1] if layer.startswith("blocks_") else layer
