"""Run our network, or parts of it on their tensors, with suspected mistakes made in some layers."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.measure import Error, error
from tinymixnet.debug.suspects.context import LayerContext, Suspect
from tinymixnet.engine.architecture import Part
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.network import Layers, head, mixnet_block, stem
from tinymixnet.model import Model


class Change(NamedTuple):
    """A suspected mistake and the layers that make it."""

    suspect: Suspect
    layers: tuple[str, ...]


def run_with(model: Model, pixels: Array, changes: Sequence[Change]) -> Iterator[tuple[str, Array]]:
    """Run our whole network with these mistakes and yield every layer as (name, tensor), in order.

    pixels (N, H, W, 3) float32, 0..255. A mistake may give NaN or infinity: run it inside
    `np.errstate(all="ignore")`.
    """
    runner = PartRunner(model, pixels, {})
    return runner.run(0, runner.order[-1], changes)


class PartRunner:
    """Runs parts of our network (the stem, a block, the head) on their tensors."""

    def __init__(self, model: Model, pixels: Array, theirs: Mapping[str, Array]) -> None:
        self.model = model
        self.pixels = pixels
        self.theirs = theirs
        self.parts = model.architecture.parts()
        self.order = [layer for part in self.parts for layer in part.layers]
        self.tensors_of: dict[str, list[str]] = {}  # layer -> the names of its weights
        for name in model.tensors:
            self.tensors_of.setdefault(name.rsplit("/", 1)[0], []).append(name)

    def start_of(self, layer: str) -> int:
        """Return the nearest part at or before `layer` whose input is known: it is in the dump."""
        i = next(i for i, part in enumerate(self.parts) if layer in part.layers)
        while i > 0 and self._last_of(i - 1) not in self.theirs:
            i -= 1
        return i

    def _last_of(self, part: int) -> str:
        return list(self.parts[part].layers)[-1]

    def run(
        self, start: int, last: str, changes: Sequence[Change] = ()
    ) -> Iterator[tuple[str, Array]]:
        """Yield (layer, what ours computes) from part number `start` to the layer `last`.

        Each layer that is in the dump is replaced by their tensor before the next layer runs, so
        errors do not add up. The image is the exception: ports keep it in different forms.
        """
        tensors = self._changed_tensors(changes)
        x = self.pixels if start == 0 else self.theirs[self._last_of(start - 1)]
        for number, part in enumerate(self.parts[start:], start):
            names = list(part.layers)
            entry, seen = x, dict[str, Array]()
            steps = self._steps(part, x, tensors)
            _, value = next(steps)

            def context(layer: str, x: Array, value: Array) -> LayerContext:
                return LayerContext(
                    layer=layer,
                    kind=layer.split("/")[1] if part.block else layer,  # noqa: B023
                    x=x,
                    value=value,
                    entry=entry,  # noqa: B023
                    seen=seen,  # noqa: B023
                    block=part.block,  # noqa: B023
                    tensors=tensors,
                    metadata=self.model.metadata,
                    previous=self.parts[number - 1].block if number else None,  # noqa: B023
                    theirs=self._theirs(layer),
                )

            for layer, following in zip(names, [*names[1:], ""], strict=True):
                for suspect, layers in changes:
                    if suspect.output and layer in layers:
                        changed = suspect.output(context(layer, x, value))
                        value = value if changed is None else changed
                yield layer, value
                if layer == last:
                    return
                x = self.theirs[layer] if layer in self.theirs and layer != "image" else value
                seen[layer.split("/")[1] if part.block else layer] = x
                for suspect, layers in changes:
                    if suspect.input and following in layers:
                        changed = suspect.input(context(following, x, x))
                        x = x if changed is None else changed
                if following:
                    _, value = steps.send(x)

    def _theirs(self, layer: str) -> Array | None:
        return self.theirs[layer] if layer in self.theirs else None  # noqa: SIM401

    def _changed_tensors(self, changes: Sequence[Change]) -> dict[str, Array]:
        """Return all weights of the network, with the changes in those of some layers."""
        own = self.model.tensors
        tensors = dict(own)
        for suspect, layers in changes:
            for name in (name for layer in layers for name in self.tensors_of.get(layer, ())):
                if suspect.weights:
                    tensors[name] = suspect.weights(name, tensors[name])
                if suspect.other:
                    instead = own.get(suspect.other(name))
                    if instead is not None and instead.shape == own[name].shape:
                        tensors[name] = instead
        return tensors

    def _steps(self, part: Part, x: Array, tensors: Mapping[str, Array]) -> Layers:
        metadata = self.model.metadata
        if part.block:
            return mixnet_block(x, part.block, tensors, metadata.epsilon)
        if part.name == "stem":
            return stem(x, tensors, metadata)
        return head(x, tensors, metadata.epsilon)

    def result(self, start: int, layer: str, changes: Sequence[Change] = ()) -> Array:
        """Return what ours computes for one layer."""
        with np.errstate(all="ignore"):
            for _, ours in self.run(start, layer, changes):  # noqa: B007  (the last one)
                pass
        return ours

    def distance(self, start: int, layer: str, changes: Sequence[Change]) -> Error:
        """Return how far ours is from theirs, relative to *theirs*.

        Trials are ranked by this. Relative to ours, a trial that makes our values huge would look
        good whatever theirs are.
        """
        ours, theirs = self.result(start, layer, changes), self.theirs[layer]
        return error(theirs, ours) if ours.shape == theirs.shape else Error(inf, inf)
