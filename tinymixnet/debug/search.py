"""The search behind a diagnosis: for each wrong layer, find the mistakes that explain it."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations, islice, product
from math import inf
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.causes import Cause
from tinymixnet.debug.evidence import FINE, ROUNDING
from tinymixnet.debug.last_resorts import LARGEST_HALF, other_weights, overflow, saturated
from tinymixnet.debug.limits import Limits
from tinymixnet.debug.measure import Error, error, largest_size, mean_error
from tinymixnet.debug.patterns import pattern
from tinymixnet.debug.precision import UNROUNDED, Judgement, judgements
from tinymixnet.debug.rounding import to_float16
from tinymixnet.debug.runner import Change, PartRunner
from tinymixnet.debug.single_layer import steps
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.progress import with_progress

PARTLY = 10  # a resize is named if it divides the error by this: decoders differ a little
MOST_SEARCHES = 2  # failed searches, after which only mistakes that explained others are tried
NEAREST = 8  # trials to which other mistakes are added
MOST_AT_ONCE = 3  # new mistakes that are tried together in one place
MOST_TRIALS = 900  # combinations of mistakes that are tried for one layer
# What is done earlier in a block is missing where we do it, and works on another tensor than ours.
BRINGS = {
    "se-before-depthwise": {"se-input", "missing-se"},
    "residual-before-bn": {"missing-residual"},
}
OUR_WEIGHTS = (
    "as much noise as rounding weights to float16 makes, and no more in any channel. Our weights "
    "are float16 values, theirs probably not: give both sides the same weights"
)


class Trial(NamedTuple):
    """A hypothesis and how well it explains a layer."""

    changes: tuple[Change, ...]
    distance: Error  # relative to theirs, see `PartRunner.distance`


class Unexplained(NamedTuple):
    """A layer that is wrong although no suspect explains it."""

    layer: str
    error: float
    mean_error: float
    pattern: str


class Search:
    """Looks for the mistake behind each wrong layer of the dump."""

    def __init__(
        self, runner: PartRunner, suspects: Sequence[Suspect], limits: Limits, progress: bool
    ) -> None:
        self.runner = runner
        self.suspects = list(suspects)
        self.limits = limits
        self.progress = progress
        self.guilty: list[Suspect] = []  # suspects that explained a layer
        self.causes: dict[str, Cause] = {}  # slug -> cause
        self.errors: dict[str, Error] = {}  # layer -> error when ours is fed their input
        self.unexplained: list[Unexplained] = []
        self.not_finite: set[str] = set()  # layers in which theirs has NaN or infinity
        self.noisy: list[Unexplained] = []  # as far off as if our weights were rounded ones

    def run(self) -> list[Cause]:
        """Search all layers and return the causes."""
        theirs = self.runner.theirs
        last = next(name for name in reversed(self.runner.order) if name in theirs)
        names = [name for name in self.runner.order if name in theirs and name != "image"]
        harmless = self._harmless()
        pairs = self._layers(last)
        for layer, ours in with_progress(pairs, len(names), itemgetter(0), self.progress):
            before = error(ours, theirs[layer])
            self.errors[layer] = before
            finite = before.max_error < inf or bool(np.isfinite(theirs[layer]).all())
            if not finite:
                self.not_finite.add(layer)
            right = layer in harmless or self.limits.right(layer, before)
            if right and not largest_size(ours) > LARGEST_HALF:
                continue
            if not np.isfinite(ours).all() or self._has_no_input(layer):
                continue  # what stands before it is to blame, or nobody can tell
            if not finite:
                self._not_finite(layer, ours)
                continue
            exact = before.max_error <= 3 * self.limits.fine
            if not exact and (cut := saturated(self.runner, layer)):
                suspect = Suspect("fp16-overflow", "", cut[0])
                self.add_cause(suspect, (layer,), before.max_error, cut[1])
                continue
            if right:  # rounding to float16 might have made infinity of what is beyond its range
                continue
            noisy = self._is_noise(layer)
            trial = None
            if not (noisy and len(self.noisy) >= MOST_SEARCHES):
                trial = self.explain(layer, error(theirs[layer], ours))
            if trial is None:
                block = next(part.block for part in self.runner.parts if layer in part.layers)
                words, bias = pattern(ours, theirs[layer], block), mean_error(ours, theirs[layer])
                left = self.noisy if noisy else self.unexplained
                left.append(Unexplained(layer, before.max_error, bias, words))
                continue
            after = self._error(layer, trial.changes)
            for suspect, layers in trial.changes:
                if layers == ("image",) and self._image_is_right():
                    layers = (layer,)  # their image is right, so the mistake happens later
                self.add_cause(suspect, layers, before.max_error, after)
        self._merge()
        return [*self.causes.values(), *self.unexplained_causes(names)]

    def _has_no_input(self, layer: str) -> bool:
        """Whether a layer is computed from NaN or infinity of theirs, which says nothing of it."""
        return any(
            source in self.not_finite
            or (source not in self.runner.theirs and self._has_no_input(source))
            for source in self._inputs[layer]
        )

    @cached_property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        return {step.layer: step.inputs for step in steps(self.runner.model.architecture)}

    def _not_finite(self, layer: str, ours: Array) -> None:
        """Note a layer in which theirs alone has NaN or infinity."""
        evidence = overflow(self.runner, layer, ours)
        if evidence:
            suspect = Suspect("fp16-overflow", "", evidence)
            self.add_cause(suspect, (layer,), inf, 0.0)
        else:
            words = pattern(ours, self.runner.theirs[layer], None)
            self.unexplained.append(Unexplained(layer, inf, inf, words))

    @cached_property
    def _weight_noise(self) -> dict[str, Judgement]:
        """Judge their layers as if our weights were theirs, rounded to float16."""
        runner = self.runner
        tensors = runner.model.tensors.values()
        if self.limits.judgements or not all(np.array_equal(to_float16(t), t) for t in tensors):
            return {}
        return judgements(runner.model, runner.pixels, runner.theirs, UNROUNDED)

    def _is_noise(self, layer: str) -> bool:
        judgement = self._weight_noise.get(layer)
        return judgement is not None and not judgement.beyond

    def _merge(self) -> None:
        """Take back a cause that another one brings with it.

        Where drop-connect is at work, a block that seems to be skipped has lost its branch. Where
        the head pools before its activation, none stands before the pooling. For what a block does
        elsewhere or earlier, see `BRINGS`.
        """
        for slug, brought in BRINGS.items():
            for other in brought & self.causes.keys() if slug in self.causes else ():
                if _blocks(self.causes[other]) <= _blocks(self.causes[slug]):
                    del self.causes[other]
        missing = self.causes.get("missing-activation")
        if "pool-before-activation" in self.causes and missing and missing.places == ("head/act",):
            del self.causes["missing-activation"]
        skipped, dropped = (self.causes.get(s) for s in ("block-skipped", "drop-connect"))
        if skipped and dropped:
            del self.causes["block-skipped"]
            places = sorted({*skipped.places, *dropped.places}, key=self.runner.order.index)
            self.causes["drop-connect"] = dropped._replace(place=places[0], places=tuple(places))

    def _layers(self, last: str) -> Iterator[tuple[str, Array]]:
        """Yield each layer that is in the dump, computed from their tensors."""
        for layer, ours in self.runner.run(0, last):
            if layer in self.runner.theirs and layer != "image":
                yield layer, ours

    def _error(self, layer: str, changes: Sequence[Change]) -> float:
        """Return the error of a layer, relative to ours, if ours makes these mistakes."""
        ours = self.runner.result(self.runner.start_of(layer), layer, changes)
        return error(ours, self.runner.theirs[layer]).max_error

    def _harmless(self) -> set[str]:
        """Return {"normalize"} if the first layer after it is right, whatever `normalize` is."""
        for layer, ours in self.runner.model.layers(self.runner.pixels):
            if layer in self.runner.theirs and layer not in ("image", "normalize"):
                right = self.limits.alike(layer, error(ours, self.runner.theirs[layer]))
                return {"normalize"} if right else set()
        return set()

    def _image_is_right(self) -> bool:
        theirs = self.runner.theirs
        return (
            "image" in theirs
            and error(self.runner.pixels, theirs["image"]).max_error <= self.limits.fine
        )

    def trials(self, layer: str) -> Iterator[tuple[Change, ...]]:
        """Yield what the mistakes found so far may have changed before a layer of theirs.

        Each of them in all places and in single ones, and some together.
        """
        places = self.candidate_layers(self.runner.start_of(layer), layer)
        every = [list(self._changes(suspect, places)) for suspect in self.guilty]
        for changes in every:
            yield from ((change,) for change in changes)
        everywhere = [changes[0] for changes in every if changes]
        for size in range(2, MOST_AT_ONCE + 1):
            yield from islice(combinations(everywhere, size), NEAREST)

    def explain(self, layer: str, before: Error) -> Trial | None:
        """Return the changes that turn our layer into theirs, or None.

        before: the distance from theirs without any change. Mistakes that explained earlier layers
        are tried first.
        """
        start = self.runner.start_of(layer)
        places = self.candidate_layers(start, layer)

        def explained(trial: Trial) -> bool:
            fits = self.limits.explained(layer, trial.distance)
            return fits and not self._breaks_what_is_right(layer, trial.changes)

        def tried(*changes: Change) -> Trial:
            return Trial(changes, self.runner.distance(start, layer, changes))

        known = [c for suspect in self.guilty for c in self._changes(suspect, places)]
        seeds: list[Trial] = []
        for size in (1, 2, 3):
            some = islice(combinations(known, size), MOST_TRIALS)
            trials = sorted((tried(*changes) for changes in some), key=_rms_distance)
            if best := next(filter(explained, trials), None):
                return best
            seeds += trials if size == 1 else []
        if len(self.unexplained) >= MOST_SEARCHES:
            return None
        every = [c for suspect in self.suspects for c in self._changes(suspect, places)]
        singles = sorted((tried(change) for change in every), key=_rms_distance)
        if best := next(filter(explained, singles), None):
            return best
        near = [t for t in _one_of_each(singles) if _rms_distance(t) < 0.9 * before.rms_error]
        seeds = sorted(seeds, key=_rms_distance)[:NEAREST]
        # A mistake that changes nothing here by itself does not help others, unless it is fitted.
        idle = {changes[0] for changes, distance in singles if distance == before}
        at_work = [change for change in every if change.suspect.fitted or change not in idle]
        cost = 1 + len(places) // 20
        several = self._together(tried, explained, [*seeds, *near], at_work, cost)
        if several:
            return several
        resize = [t for t in singles if t.changes[0].suspect.slug == "other-resize"]
        near = [trial for trial in resize if _rms_distance(trial) * PARTLY <= before.rms_error]
        return _best(near) if near else None

    def _breaks_what_is_right(self, layer: str, changes: Sequence[Change]) -> bool:
        """Whether mistakes that explain a layer make a later layer wrong that is right without.

        Two layers may be computed from one that is not in the dump: squeeze-and-excite and its
        product from the activation, say. A mistake in the activation would show in both.
        """
        if all(places == (layer,) for _, places in changes):
            return False  # it is in the dump, and the later layers get it
        runner, start = self.runner, self.runner.start_of(layer)
        part = next(part for part in runner.parts if layer in part.layers)
        later = [name for name in part.layers if name in runner.theirs]
        later = later[later.index(layer) + 1 :]
        if not later:
            return False
        runs = zip(runner.run(start, later[-1]), runner.run(start, later[-1], changes), strict=True)
        for (name, plain), (_, changed) in runs:
            if name in later:
                without, within = (error(x, runner.theirs[name]) for x in (plain, changed))
                if self.limits.right(name, without) and not self.limits.alike(name, within):
                    return True
        return False

    def _together(
        self,
        tried: Callable[..., Trial],
        explained: Callable[[Trial], bool],
        near: list[Trial],
        every: Sequence[Change],
        cost: int,
    ) -> Trial | None:
        """Return several mistakes that explain a layer together, or None.

        near: trials that came nearest, or whose mistakes explained other layers. Adds to each
        whatever brings it nearer still.
        """
        # One change for each suspect: the one at work in all places.
        more = list({change.suspect: change for change in reversed(every)}.values())
        more.sort(key=lambda change: change.suspect.fitted)  # those explain more than they should
        for size in range(2, MOST_AT_ONCE + 1):
            most = MOST_TRIALS // cost // (size - 1)
            found = []
            for trial, change in islice(product(near, more), most):
                if change not in trial.changes:
                    found.append(tried(*trial.changes, change))
                    if explained(found[-1]):
                        return found[-1]
            near = _one_of_each(sorted(found, key=_rms_distance))
        return None

    def candidate_layers(self, start: int, layer: str) -> list[str]:
        """Return the layers that may hold the mistake: this one, and hidden ones before it."""
        names = [name for part in self.runner.parts[start:] for name in part.layers]
        names = names[: names.index(layer)]
        hidden = [name for name in names if name not in self.runner.theirs or name == "image"]
        return [*hidden, layer]

    def _changes(self, suspect: Suspect, layers: Sequence[str]) -> Iterator[Change]:
        """Yield the mistake made in all layers where it can be, then in each of them alone."""
        kinds = suspect.kinds.split()
        places = tuple(name for name in layers if kind_of(name) in kinds)
        if places:
            yield Change(suspect, places)
        if 1 < len(places) < 8 and not suspect.whole:
            yield from (Change(suspect, (place,)) for place in places)

    def add_cause(
        self, suspect: Suspect, layers: tuple[str, ...], before: float, after: float
    ) -> None:
        """Remember a mistake that explained a layer."""
        if suspect not in self.guilty:
            self.guilty.append(suspect)
        if old := self.causes.get(suspect.slug):
            self.causes[suspect.slug] = old._replace(places=(*old.places, *layers))
        else:
            self.causes[suspect.slug] = Cause(
                suspect.slug, layers[0], layers, before, after, suspect.sentence
            )

    def unexplained_causes(self, names: Sequence[str]) -> list[Cause]:
        """Return one cause for all layers that no suspect explains, or none.

        Or two, if some are no further off than by weights that were rounded to float16.
        """
        causes = []
        if self.noisy:
            first, places = self.noisy[0], tuple(layer for layer, *_ in self.noisy)
            causes.append(Cause("low-precision", first.layer, places, *first[1:3], OUR_WEIGHTS))
        wrong = [left for left in self.unexplained if not left.error <= 10 * self.limits.fine]
        if wrong:
            first, places = wrong[0], tuple(layer for layer, *_ in wrong)
            sentence = other_weights(self.runner, places, names)
            if sentence:
                after = FINE
                causes.append(
                    Cause("other-weights", first.layer, places, first.error, after, sentence)
                )
            else:
                sentence = f"no known mistake; {first.pattern}"
                causes.append(
                    Cause("unknown", first.layer, places, first.error, first.error, sentence)
                )
        return causes

    def rounding(self, how: str, places: list[str]) -> Cause:
        """Return the cause that their values in these layers have few digits."""
        fine = [name for name in places if self.limits.right(name, self.errors[name])]
        layer = fine[0] if fine else places[0]
        before = self.errors[layer].max_error
        suspect = Suspect("", "", "", lambda at: ROUNDING[how][0](at.value))
        after = self._error(layer, [Change(suspect, tuple(self.runner.order))])
        if not after < before:  # theirs is rounded at other layers than ours
            ours = self.runner.result(self.runner.start_of(layer), layer)
            after = mean_error(ours, self.runner.theirs[layer])
        sentence = f"all values of {len(places)} layers are {how}, or rounded to as many digits"
        return Cause("low-precision", places[0], tuple(places), before, after, sentence)


def _blocks(cause: Cause) -> set[str]:
    return {place.split("/")[0] for place in cause.places}


def _rms_distance(trial: Trial) -> float:
    return trial.distance.rms_error


def _one_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """Return the first trials, only one for each set of mistakes that are in other places."""
    firsts: dict[frozenset[Suspect], Trial] = {}
    for trial in trials:
        firsts.setdefault(frozenset(change.suspect for change in trial.changes), trial)
    return list(firsts.values())[:NEAREST]


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=_rms_distance)


def kind_of(layer: str) -> str:
    """Return a layer's kind as `suspects/context.py` has it: blocks_3/se_pool -> se_pool."""
    return layer.split("/")[1] if layer.startswith("blocks_") else layer
