"""What a layer is computed from: a tensor of theirs, or what ours has computed.

A few pixels of it are at hand. All of it is read or computed only when a layer needs it.
"""

from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from tinymixnet.debug.single_layer import Step, compute
from tinymixnet.debug.stored_tensors import Kept, StoredTensors, View, sample
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model


class Feed:
    """A tensor that a hypothesis feeds to later layers: one of theirs, or what ours computed.

    A few of its pixels are at hand. All of it is read or computed only when a layer needs it.
    """

    key: Hashable  # equal for feeds that are the same tensor
    near: bool = True  # nothing with weights was computed since the last tensor of theirs

    @property
    def sample(self) -> Array:
        raise NotImplementedError

    def whole(self) -> Array:
        raise NotImplementedError


class Pixels(Feed):
    """The image itself. Ports keep it in different forms, so theirs is never fed."""

    def __init__(self, pixels: Array) -> None:
        self.key, self.pixels = "image", pixels

    @cached_property
    def sample(self) -> Array:
        return sample(self.pixels)

    def whole(self) -> Array:
        return self.pixels


class Theirs(Feed):
    """A tensor of the dump. fits: whether it is like what its layer should give."""

    def __init__(self, stored: StoredTensors, view: View, fits: bool) -> None:
        self.fits = fits
        self.key, self._stored, self.view = view, stored, view

    @cached_property
    def sample(self) -> Array:
        return self._stored.sample(self.view)

    def whole(self) -> Array:
        return self._stored[self.view]


class Ours(Feed):
    """What our layer gives for other feeds."""

    def __init__(self, model: Model, step: Step, inputs: Sequence[Feed], kept: Kept) -> None:
        # Not the keys of our own inputs: they would hold those of all layers before them.
        self.key = (step.layer, *(f if isinstance(f, Ours) else f.key for f in inputs))
        self.near = not step.weighted and all(feed.near for feed in inputs)
        self._model, self._step, self._inputs, self._kept = model, step, inputs, kept

    @cached_property
    def sample(self) -> Array:
        if self._step.pixelwise and self._step.kind != "probabilities":
            return self._compute([feed.sample for feed in self._inputs])
        return sample(self.whole())

    def whole(self) -> Array:
        return self._kept.get(self, lambda: self._compute([f.whole() for f in self._inputs]))

    def _compute(self, inputs: Sequence[Array]) -> Array:
        with np.errstate(all="ignore"):
            return compute(self._step, inputs, self._model.tensors, self._model.metadata)
