"""Run parts of our network on their tensors, with suspects at work in some layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.evidence import TheirTensors
from tinymixnet.debug.measure import Error, error
from tinymixnet.debug.suspects.context import LayerContext, Suspect
from tinymixnet.engine.architecture import Part
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.network import Layers, head, mixnet_block, stem
from tinymixnet.model import Model


class Change(NamedTuple):
    """A suspect at work in some layers."""

    suspect: Suspect
    layers: tuple[str, ...]


class PartRunner:
    """Runs parts of our network on their tensors, with suspects at work."""

    def __init__(self, model: Model, pixels: Array, theirs: TheirTensors) -> None:
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
                        at = LayerContext(
                            layer, kind, x, value, entry, seen, part.block, tensors, about
                        )
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
