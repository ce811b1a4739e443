"""What the tensors of a dump are that were paired with no layer: parts of one, or constants.

A graph computes much beside our layers: slices and copies, the multiplication of a split batch
norm, and the shapes and paddings that it works out as it runs. Few of these deserve a word. So each
tensor gets a fingerprint, and only one whose fingerprint is that of a part is read once more.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.constants import constants
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.layouts import Shape, layouts_of
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.parts_of_layers import ALIKE, COPY, parts, shifted_by_channel
from tinymixnet.debug.single_layer import Step, compute, steps
from tinymixnet.debug.stored_tensors import as_layer
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model


class Fingerprint(NamedTuple):
    """Numbers of a tensor that neither its layout nor a padding with zeros changes."""

    total: float
    lowest: float  # 0 if no value is negative
    highest: float  # 0 if no value is positive

    def near(self, other: "Fingerprint", size: int) -> bool:
        """Whether the other one, of `size` values, is that of the same values."""
        within = ALIKE * max(-other.lowest, other.highest, 1e-30)
        return (
            abs(self.total - other.total) <= within * size
            and abs(self.lowest - other.lowest) <= within
            and abs(self.highest - other.highest) <= within
        )


def fingerprint(x: Array) -> Fingerprint:
    with np.errstate(all="ignore"):
        total = float(x.sum(dtype=np.float64))
        return Fingerprint(total, float(x.min(initial=0)), float(x.max(initial=0)))


def explain_unmatched(model: Model, pixels: Array, dump: Dump) -> Dump:
    """Return a dump whose names are certain, with what its other tensors are.

    A copy of a layer that is missing stays unmatched: its name is probably misspelt.
    """
    if dump.explained is not None or not dump.unmatched:
        return dump
    _, found = look_again(model, pixels, dump, dump.unmatched)
    return dump.with_explained(
        [pair for pair in found if pair.part != COPY or pair.layer in dump.theirs]
    )


def look_again(
    model: Model, pixels: Array, dump: Dump, others: Iterable[str]
) -> tuple[dict[str, float], list[Pair]]:
    """Return the error of each layer fed with their input, and what the other tensors are.

    others: names of tensors that are no layer. The result has those that are a part of one, and the
    constants.
    """
    left = {name: fingerprint(dump.trace[name]) for name in others}
    measured: dict[str, float] = {}
    found: list[Pair] = []
    feeds: dict[str, Array] = {}
    every = steps(model.architecture)
    needed = {layer: number for number, step in enumerate(every) for layer in step.inputs}
    for number, step in enumerate(every):
        inputs = [feeds[layer] for layer in step.inputs]
        with np.errstate(all="ignore"):
            ours = compute(step, inputs, model.tensors, model.metadata) if inputs else pixels
            found += _parts(model, dump, left, step, inputs, ours)
            value = ours
            if step.layer in dump.theirs:
                theirs = dump[step.layer].astype(np.float32, copy=False)
                measured[step.layer] = error(ours, theirs).max_error
                value = theirs if step.layer != "image" else ours
                if not measured[step.layer] <= ALIKE:  # a wrong layer has parts of its own
                    found += _parts(model, dump, left, step, inputs, theirs)
                    if step.kind.endswith("bn"):
                        found += _shifted(dump, left, step.layer, theirs)
        feeds[step.layer] = value
        feeds = {layer: x for layer, x in feeds.items() if needed.get(layer, -1) > number}
    found += [Pair(name, part=what) for name, what in constants(model, dump, left)]
    return measured, found


def _parts(
    model: Model,
    dump: Dump,
    left: dict[str, Fingerprint],
    step: Step,
    inputs: list[Array],
    value: Array,
) -> Iterator[Pair]:
    """Take out of `left` what is a part of this layer, and yield it. value: the layer's result."""
    if not left:
        return
    for what, tensor in parts(step, inputs, value, model.tensors, model.metadata):
        for name, layout in list(_equal_to(tensor, dump, left)):
            del left[name]
            yield Pair(name, step.layer, "value", layout, what)


def _equal_to(tensor: Array, dump: Dump, left: dict[str, Fingerprint]) -> Iterator[tuple[str, str]]:
    """Yield (name, layout) of the tensors that hold these values."""
    if not left or not tensor.size:
        return
    ours = fingerprint(tensor)
    for name, theirs in left.items():
        if not theirs.near(ours, tensor.size):
            continue
        for layout in _layouts(dump.headers[name].shape, tensor.shape):
            if error(tensor, as_layer(dump.trace[name], layout, tensor.shape)).max_error <= ALIKE:
                yield name, layout
                break


def _layouts(shape: Shape, expected: Shape) -> tuple[str, ...]:
    """Return the layouts that a part may have, and NHWC under any shape.

    ONNX Runtime calls a tensor of a single block of channels (N, C, H, W), and it lies as NHWC.
    """
    found = layouts_of(shape, expected)
    hidden = len(shape) == 4 and "NHWC" not in found and prod(shape) == prod(expected)
    return (*found, "NHWC") if hidden else found


def _shifted(dump: Dump, left: dict[str, Fingerprint], layer: str, theirs: Array) -> Iterator[Pair]:
    """Take out what is a wrong batch norm before its shift, whatever it is shifted by."""
    for name in list(left):
        for layout in layouts_of(dump.headers[name].shape, theirs.shape):
            other = as_layer(dump.trace[name], layout, theirs.shape)
            if shifted_by_channel(theirs, other):
                del left[name]
                yield Pair(name, layer, "value", layout, "shift missing")
                break
