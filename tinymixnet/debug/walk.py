"""Walk along our network with the tensors of a dump, to find out which of them is which layer.

`pairing.py` explains the idea.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log10

import numpy as np

from tinymixnet.debug.feeds import Feed, Ours, Pixels, Theirs
from tinymixnet.debug.single_layer import Step, steps
from tinymixnet.debug.stored_tensors import StoredTensors, View, is_map
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.progress import with_progress
from tinymixnet.model import Model

EXACT = 2e-5  # distance that rounding makes
DIGITS = 5.0  # more equal digits than these give no more points
POINTS = 6.0  # of an exact layer that depends on weights
FEW_POINTS = 2.5  # of an exact layer that does not
COPY = 0.6  # of a tensor that is what the layer's input is
NAMED = 0.6  # points for a name that says so; as many are lost if it says another layer
FORWARD = 0.2  # points for a tensor that stands after the last one
FITS = 0.05  # distance of a tensor that is hardly any other layer; to pass it over costs its points
UNLIKE = 0.5  # distance from which a tensor is like any other
UNLIKELY = 0.5  # points that such a pair costs
MISSING = 0.1  # points that a missing layer costs
LEFT_OUT = 0.4  # points that it costs to say that they leave a layer out
MOST_OPTIONS = 24  # tensors that are tried for one layer
MOST_HYPOTHESES = 48
MARGIN = 28.0  # points behind the best at which a hypothesis is given up


@dataclass(frozen=True)
class Option:
    """A tensor that may be the next layer."""

    view: View
    distance: float  # from what ours gives for the hypothesis's inputs
    points: float
    telling: bool  # whether weights were used since the last tensor of theirs


@dataclass
class Hypothesis:
    """What has been paired so far, and which tensors feed the layers that follow."""

    score: float
    feeds: dict[str, Feed]  # of the layers that are still needed
    used: int = 0  # a bit for each tensor of theirs that is paired
    last: int = -1  # the number of the last one
    before: "Hypothesis | None" = None
    layer: str = ""
    option: Option | None = None  # None: missing, or left out
    left_out: View | None = None  # the tensor that is taken once more
    others: Sequence[Option] = field(default=(), repr=False)  # that were not taken
    layout: str = ""  # of the last map that fitted

    def chain(self) -> list["Hypothesis"]:
        """Return this and all before it, first to last."""
        result: list[Hypothesis] = []
        now: Hypothesis | None = self
        while now is not None and now.layer:
            result.append(now)
            now = now.before
        return result[::-1]


class Walk:
    """Walks along our network with the tensors of a dump."""

    def __init__(
        self,
        model: Model,
        pixels: Array,
        stored: StoredTensors,
        shapes: Mapping[str, tuple[int, ...]],
        names: Mapping[str, str],
        bound: Mapping[str, str],
    ) -> None:
        """names: stored name -> the layer that it suggests, "" for none of ours. bound: the same,
        where nothing else will do."""
        self.model, self.pixels, self.stored, self.shapes = model, pixels, stored, shapes
        self.names, self.bound = names, bound
        self.bound_layers = set(bound.values())
        self.steps = steps(model.architecture)
        self.needed = {  # layer -> the number of the last step that reads it
            layer: number for number, step in enumerate(self.steps) for layer in step.inputs
        }

    def run(self, progress: bool = False) -> Hypothesis:
        """Return the best hypothesis about all layers. progress: draw a bar."""
        beam = [Hypothesis(0.0, {})]
        numbered = with_progress(
            enumerate(self.steps),
            len(self.steps),
            lambda item: f"pairing {item[1].layer}",
            progress,
        )
        for number, step in numbered:
            following: list[Hypothesis] = []
            ours: dict[object, Feed] = {}
            for hypothesis in beam:
                following += self._continue(hypothesis, number, step, ours)
            beam = self._best(following, number)
        return max(beam, key=lambda hypothesis: hypothesis.score)

    def _best(self, hypotheses: Sequence[Hypothesis], number: int) -> list[Hypothesis]:
        """Drop all but the best hypotheses.

        Of those that feed the same tensors to all later layers only two are kept: the best one, and
        the one that has used the fewest tensors, as the others may be needed later.
        """
        same: dict[object, list[Hypothesis]] = {}
        for hypothesis in hypotheses:
            hypothesis.feeds = {
                layer: feed
                for layer, feed in hypothesis.feeds.items()
                if self.needed.get(layer, -1) > number
            }
            key = tuple((layer, feed.key) for layer, feed in hypothesis.feeds.items())
            same.setdefault(key, []).append(hypothesis)
        merged = []
        for alike in same.values():
            best = max(alike, key=lambda h: h.score)
            thrifty = min(alike, key=lambda h: (h.used.bit_count(), -h.score))
            merged += [best] if thrifty.used == best.used else [best, thrifty]
        ranked = sorted(merged, key=lambda h: -h.score)
        limit = ranked[0].score - MARGIN
        # One that goes on without their tensors gets no points for a while: keep the best of those.
        kept, fewest = [], 1 << 30
        for place, hypothesis in enumerate(h for h in ranked if h.score >= limit):
            used = hypothesis.used.bit_count()
            if place < MOST_HYPOTHESES or used < fewest:
                kept.append(hypothesis)
            fewest = min(fewest, used)
        return kept

    def _continue(
        self, hypothesis: Hypothesis, number: int, step: Step, ours: dict[object, Feed]
    ) -> Iterator[Hypothesis]:
        """Yield what a hypothesis becomes if it goes on with one more layer."""
        inputs = [hypothesis.feeds[layer] for layer in step.inputs]
        feed = self._ours(step, inputs)
        feed = ours.setdefault(feed.key, feed)
        options = self._options(hypothesis, step, feed, inputs)
        exact = [option for option in options if option.distance <= EXACT]
        if not exact and step.weighted and hypothesis.others:
            yield from self._second_thoughts(hypothesis, number, step, options)
        taken = exact[:1] or _plausible(options)
        for option in taken:
            others = options if exact else ()
            yield self._paired(hypothesis, step, option, others)
        if taken and step.layer in self.bound_layers:
            return
        if step.identity:
            again = inputs[0].view if isinstance(inputs[0], Theirs) else None
            yield self._next(hypothesis, step, inputs[0], 0.0, left_out=again, others=options)
        elif not exact:
            fitting = [option.points for option in options if option.distance < FITS]
            yield self._next(hypothesis, step, feed, -MISSING - max(fitting, default=0.0))
            if len(inputs) == 2 and _equal(*inputs):
                return  # a branch that is what its shortcut is: it can only be the block's output
            for layer, source in zip(step.inputs, inputs, strict=True):
                same_shape = self.shapes[layer] == self.shapes[step.layer]
                view = _view(source)
                if same_shape and view is not None and _can_be_left_out(step):
                    yield self._next(hypothesis, step, source, -LEFT_OUT, left_out=view)

    def _ours(self, step: Step, inputs: Sequence[Feed]) -> Feed:
        if not inputs:
            return Pixels(self.pixels)
        return Ours(self.model, step, inputs, self.stored.kept)

    def _options(
        self, hypothesis: Hypothesis, step: Step, feed: Feed, inputs: Sequence[Feed]
    ) -> list[Option]:
        """Return the tensors that may be a layer, the best first."""
        shape = self.shapes[step.layer]
        views = self.stored.views[shape]
        if not views:
            return []
        apart = self.stored.distances(shape, feed.sample)
        points = FEW_POINTS if feed.near else POINTS
        if feed.near and inputs and _equal(feed, inputs[0]):
            points = COPY  # the layer changes nothing, so that it fits says nothing
        options = []
        for view, distance in zip(views, apart.tolist(), strict=True):
            bound = self.bound.get(view.name)
            if (bound if bound is not None else step.layer) != step.layer:
                continue
            if bound is None and step.layer in self.bound_layers:
                continue
            if hypothesis.used >> view.number & 1:
                continue
            if distance > UNLIKE and view.layout != _likely_layout(view, hypothesis):
                continue
            digits = min(max(-log10(max(distance, 1e-30)), 0.0), DIGITS) / DIGITS
            total = points * digits + self._prior(hypothesis, step, view)
            if distance > UNLIKE:
                total -= UNLIKELY
            options.append(Option(view, distance, total, not feed.near))
        options.sort(key=lambda option: (option.distance > EXACT, -option.points))
        return options[:MOST_OPTIONS]

    def _prior(self, hypothesis: Hypothesis, step: Step, view: View) -> float:
        """Return the points for what name and order say: too few to outweigh a value."""
        points = FORWARD if view.number > hypothesis.last else 0.0
        points -= 1e-4 * abs(view.number - hypothesis.last)
        named = self.names.get(view.name)
        if named is not None:
            points += NAMED if named == step.layer else -NAMED
        return points

    def _paired(
        self, hypothesis: Hypothesis, step: Step, option: Option, others: Sequence[Option] = ()
    ) -> Hypothesis:
        feed: Feed = Theirs(self.stored, option.view, option.distance < UNLIKE)
        if step.layer == "image":
            feed = Pixels(self.pixels)
        following = self._next(hypothesis, step, feed, option.points, option=option)
        following.used |= 1 << option.view.number
        following.last = option.view.number
        if is_map(option.view.shape) and option.distance < FITS:
            following.layout = option.view.layout
        following.others = [other for other in others if other is not option]
        return following

    def _next(
        self,
        hypothesis: Hypothesis,
        step: Step,
        feed: Feed,
        points: float,
        option: Option | None = None,
        left_out: View | None = None,
        others: Sequence[Option] = (),
    ) -> Hypothesis:
        return Hypothesis(
            hypothesis.score + points,
            {**hypothesis.feeds, step.layer: feed},
            hypothesis.used,
            hypothesis.last,
            hypothesis,
            step.layer,
            option,
            left_out,
            others,
            hypothesis.layout,
        )

    def _second_thoughts(
        self, hypothesis: Hypothesis, number: int, step: Step, options: Sequence[Option]
    ) -> Iterator[Hypothesis]:
        """Yield hypotheses in which the layer before this one is another tensor.

        That one fitted exactly, and yet this layer does not follow from it: it is another one that
        it follows from. So a block that runs twice: its first run gives what ours gives.
        """
        previous, before = self.steps[number - 1], hypothesis.before
        if before is None or previous.layer not in step.inputs:
            return
        nearest = min((option.distance for option in options), default=1.0)
        for other in hypothesis.others:
            again = self._paired(before, previous, other)
            inputs = [again.feeds[layer] for layer in step.inputs]
            feed = self._ours(step, inputs)
            for option in self._options(again, step, feed, inputs)[:1]:
                if option.distance <= max(EXACT, 0.01 * nearest):
                    yield self._paired(again, step, option)


def _plausible(options: Sequence[Option]) -> Sequence[Option]:
    """Leave out the tensors that are much further away than the nearest, if that is near."""
    nearest = min((option.distance for option in options), default=1.0)
    if nearest > 0.05:
        return options
    return [option for option in options if option.distance <= 5 * nearest]


def _likely_layout(view: View, hypothesis: Hypothesis) -> str:
    """Return the layout of a tensor if its values do not tell: that of the tensors before it."""
    return hypothesis.layout if hypothesis.layout in view.layouts else view.layouts[0]


def _view(feed: Feed) -> View | None:
    """Return the tensor that may be taken once more, if a layer is left out."""
    return feed.view if isinstance(feed, Theirs) and feed.fits else None


def _equal(feed: Feed, other: Feed) -> bool:
    a, b = feed.sample, other.sample
    return a.shape == b.shape and bool(np.array_equal(a, b))


def _can_be_left_out(step: Step) -> bool:
    return step.kind.endswith(("bn", "act", "se_scale", "output", "se_gate", "probabilities"))
