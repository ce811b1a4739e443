"""Suspects: known mistakes, each as a function that computes what a layer then gives.

A `Suspect` changes layers of some kinds in one of two ways. `weights` changes their weights before
anything is computed. `output` computes another result from what went in (`LayerContext`).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.metadata import Metadata

# Kinds of layers: the last part of the name within a block, the whole name elsewhere.
NORMS = "stem/bn expand_bn depthwise_bn project_bn head/bn"
ACTIVATIONS = "stem/act expand_act depthwise_act se_act head/act"
FILTERS = "stem/conv depthwise_conv"
POINTWISE = "expand_conv project_conv se_reduce se_expand head/conv logits"
GROUPED = "expand_conv depthwise_conv project_conv"


class LayerContext(NamedTuple):
    """A layer that has just been computed: what went in, and the right result."""

    layer: str
    kind: str
    x: Array  # the layer's input
    value: Array  # the right result for this input
    entry: Array  # the block's input
    seen: Mapping[str, Array]  # kind -> output, of the block's layers so far
    block: Block | None  # None in the stem and the head
    tensors: Mapping[str, Array]  # all weights of the network
    metadata: Metadata


class Suspect(NamedTuple):
    """A mistake: its name, the kinds of layers that can have it, and a sentence for a person.

    `output` returns None for a layer in which the mistake changes nothing.
    """

    slug: str
    kinds: str  # separated by spaces
    sentence: str
    output: Callable[[LayerContext], Array | None] | None = None
    weights: Callable[[str, Array], Array] | None = None  # (name, tensor) -> tensor


def kernels_of(at: LayerContext) -> list[Array]:
    """Return all kernels of a convolution: one for each group of channels."""
    return group_kernels(at.layer, at.tensors) or [at.tensors[f"{at.layer}/kernel"]]


def swishes(at: LayerContext) -> bool:
    """Whether the activation of this layer is swish; otherwise it is ReLU."""
    return at.block is not None and at.block.swish
