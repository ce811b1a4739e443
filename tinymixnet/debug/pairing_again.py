"""Pair once more, when a search has looked for their mistakes.

The first pairing (`pairing.py`) knows of no mistakes. Where each block has one, and the dump shows
little but the blocks' outputs, no tensor is near to what ours computes, and those of one shape are
taken for one another. But the first of these blocks may well be explained. Then ours can make the
same mistakes everywhere else, too. The tensor that ours then gives to the last digits is the right
one, wherever it stands. Where no mistake is known yet, a tensor that ours gives without any may
still be found so: the first pairing has to weigh all layers at once and may miss it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tinymixnet.debug.answers import odd_answers
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.evidence import TheirTensors
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.layouts import Shape
from tinymixnet.debug.pairing import stored_tensors, with_parts
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.runner import PartRunner
from tinymixnet.debug.search import Search
from tinymixnet.debug.single_layer import Step, steps
from tinymixnet.debug.stored_tensors import StoredTensors, View, sample
from tinymixnet.debug.walk import FITS
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model


def pair_again(model: Model, pixels: Array, theirs: TheirTensors, search: Search) -> Dump | None:
    """Return the dump with the pairs that the mistakes found by a search lead to.

    None if these are the pairs that it has.
    """
    dump = theirs.dump
    stored = stored_tensors(model, pixels, dump)
    every = {(v.name, v.layout, v.shape): v for views in stored.views.values() for v in views}
    before = {
        layer: every[key]
        for layer, name in dump.theirs.items()
        if (key := (name, dump.layouts[layer], dump.expected[layer])) in every
    }
    walk = _Walk(model, pixels, stored, before, search, dump)
    after = walk.run()
    if after == before:
        return None
    found = {(pair.layer, pair.name): pair.found for pair in dump.pairs if not pair.part}
    pairs = []
    for layer in dump.expected:
        if view := after.get(layer):
            how = found.get((layer, view.name), "order")
            if how == "order" and view.name in walk.settled:
                how = "value"
            pairs.append(Pair(view.name, layer, how, view.layout))
    return odd_answers(with_parts(model, pixels, dump, pairs))


class _Tensors(Mapping[str, Array]):
    """Their tensors by layer; which one that is changes on the way."""

    def __init__(self, stored: StoredTensors, views: Mapping[str, View]) -> None:
        self.stored, self.views = stored, views

    def __getitem__(self, layer: str) -> Array:
        return self.stored[self.views[layer]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)


class _Walk:
    """One walk along the network, in which a layer may get another tensor."""

    def __init__(
        self,
        model: Model,
        pixels: Array,
        stored: StoredTensors,
        before: Mapping[str, View],
        search: Search,
        dump: Dump,
    ) -> None:
        self.stored, self.before, self.shapes = stored, before, dump.expected
        self.parts = {pair.name for pair in dump.pairs if pair.part}  # of layers
        self.views = dict(before)  # layer -> tensor; those ahead are as they were before
        self.settled: set[str] = set()  # names of tensors that agree with their layer
        self.runner = PartRunner(model, pixels, _Tensors(stored, self.views))
        self.search = Search(self.runner, search.suspects, search.limits, progress=False)
        self.search.guilty = search.guilty
        self.steps = {step.layer: step for step in steps(model.architecture)}

    def run(self) -> dict[str, View]:
        """Return the tensor of each layer that has one."""
        for layer, ours in self.runner.run(0, self.runner.order[-1]):
            step = self.steps[layer]
            if layer in ("image", "normalize"):
                continue
            if step.identity and self._was_its_input(step):
                self._give(layer, self.views.get(step.inputs[0]))
                continue
            own = self.views.get(layer)
            view = self._fitting(layer, ours)
            if view:
                moved = step.weighted and view != own
                for other in [o for o, v in self.views.items() if v.name == view.name]:
                    wrong = view.name not in self.settled and self._is_before(other, layer)
                    if wrong or (moved and self._is_before(layer, other)):
                        del self.views[other]
                self.settled.add(view.name)
                self._give(layer, view)
            elif own and (own.name in self.settled or self._repeats_its_input(step)):
                self._give(layer, None)  # that is probably another layer
        self._what_is_left()
        return self.views

    def _give(self, layer: str, view: View | None) -> None:
        self.views.pop(layer, None)
        if view:
            self.views[layer] = view

    def _is_before(self, layer: str, other: str) -> bool:
        return self.runner.order.index(layer) < self.runner.order.index(other)

    def _was_its_input(self, step: Step) -> bool:
        source = step.inputs[0]
        known = source in self.before or source in self.views
        return known and self.before.get(step.layer) == self.before.get(source)

    def _repeats_its_input(self, step: Step) -> bool:
        """Whether a layer should be what its input is, a tensor that is surely the right one."""
        source = self.views.get(step.inputs[0])
        return step.identity and source is not None and source.name in self.settled

    def _fitting(self, layer: str, ours: Array) -> View | None:
        """Return the tensor that is this layer, with or without the known mistakes."""
        views = self._candidates(layer, ours.shape)
        if not views:
            return None
        if view := self._alike(layer, ours, views, right=True):
            return view
        own, start = self.views.get(layer), self.runner.start_of(layer)
        for changes in self.search.trials(layer):
            fitted = any(change.suspect.fitted for change in changes)
            for some in [[view] for view in views] if fitted else [views]:
                if fitted:  # it looks at their tensor
                    self.views[layer] = some[0]
                value = self.runner.result(start, layer, changes)
                found = self._alike(layer, value, some)
                self._give(layer, own)
                if found:
                    return found
        return None

    def _candidates(self, layer: str, shape: tuple[int, ...]) -> list[View]:
        """Return the tensors that a layer may get: the one that it has, and what is not settled.

        A layer that had none gets what no other layer has. The output of a block may also get that
        of a later one, and a layer with weights what a later layer has: to be that by accident, it
        would have to fit by accident.
        """
        own = self.views.get(layer)
        taken = self.settled
        step = self.steps[layer]
        if layer not in self.before and step.kind != "output":
            taken = taken.union(
                view.name
                for other, view in self.views.items()
                if not (step.weighted and self._is_before(layer, other))
            )
        others = [v for v in self.stored.views[shape] if v.name not in taken and v != own]
        return [own, *others] if own else others

    def _alike(
        self, layer: str, ours: Array, views: Sequence[View], right: bool = False
    ) -> View | None:
        """Return the nearest of these tensors that agrees with ours. right: ours has no mistake."""
        shape, limits = views[0].shape, self.search.limits
        if ours.shape != shape:
            return None
        apart = self.stored.distances(shape, sample(ours))
        distances = dict(zip(self.stored.views[shape], apart.tolist(), strict=True))
        for view in sorted(views, key=distances.__getitem__):
            if distances[view] > FITS:
                return None
            theirs, judged = self.stored[view], self._judged_as(layer, view)
            if right and limits.right(layer, error(ours, theirs)):
                return view
            if not right and limits.explained(judged, error(theirs, ours)):
                return view
        return None

    def _judged_as(self, layer: str, view: View) -> str:
        """Return the layer whose limits hold: what a layer without a tensor may get has some."""
        holders = (other for other, its in self.before.items() if its == view)
        return layer if layer in self.before else next(holders, layer)

    def _what_is_left(self) -> None:
        """Pair layers that have no tensor: with the one that they had, if nothing else has it now.

        Or with the only one of their shape that is left, if they are the only layer for it. Inside
        the blocks, this goes for layers that had one before: a dump need not show all of them.
        """
        taken = {view.name for view in self.views.values()} | self.parts
        for layer, view in self.before.items():
            if layer not in self.views and view.name not in taken:
                self.views[layer] = view
                taken.add(view.name)
        layers: dict[Shape, list[str]] = defaultdict(list)
        tensors: dict[Shape, dict[str, View]] = defaultdict(dict)
        for layer, step in self.steps.items():
            if layer not in self.views and (layer in self.before or step.kind == "output"):
                layers[self.shapes[layer]].append(layer)
        for shape, views in self.stored.views.items():
            for view in views:
                if view.name not in taken:
                    tensors[shape].setdefault(view.name, view)
        for shape, (layer, *more) in layers.items():
            if not more and len(tensors[shape]) == 1:
                (self.views[layer],) = tensors[shape].values()
