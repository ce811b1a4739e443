"""Suspects: known mistakes, each as a function that computes what a layer then gives.

A `Suspect` changes layers of some kinds in one of these ways. `weights` changes their weights
before anything is computed, and `other` takes the weights of another layer instead. `input` changes
what goes in, and `output` computes another result from what went in (`LayerContext`).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array, grouped_conv2d, pointwise_conv2d
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import mixnet_block

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
    previous: Block | None = None  # the block before this part, if there is one
    theirs: Array | None = None  # their tensor for this layer: only a search knows it


class Suspect(NamedTuple):
    """A mistake: its name, the kinds of layers that can have it, and a sentence for a person.

    `output` returns None for a layer in which the mistake changes nothing. A few mistakes have a
    number that only theirs shows, such as the rate of a dropout: they are `fitted`. Their `output`
    reads `LayerContext.theirs`, and returns None without it.
    """

    slug: str
    kinds: str  # separated by spaces
    sentence: str
    output: Callable[[LayerContext], Array | None] | None = None
    weights: Callable[[str, Array], Array] | None = None  # (name, tensor) -> tensor
    other: Callable[[str], str] | None = None  # name -> name of the tensor used instead, if it fits
    input: Callable[[LayerContext], Array | None] | None = None  # `value` is the input, too
    fitted: bool = False
    whole: bool = False  # it changes the layers of these kinds together, not one without the other


def kernels_of(at: LayerContext) -> list[Array]:
    """Return all kernels of a convolution: one for each group of channels."""
    return group_kernels(at.layer, at.tensors) or [at.tensors[f"{at.layer}/kernel"]]


def swishes(at: LayerContext) -> bool:
    """Whether the activation of this layer is swish; otherwise it is ReLU."""
    return at.block is not None and at.block.swish


def convolved(at: LayerContext, x: Array) -> Array:
    """Return what a 1x1 convolution of a block, or the head's, gives for another input."""
    if at.block:
        return grouped_conv2d(x, kernels_of(at))
    return pointwise_conv2d(x, at.tensors[f"{at.layer}/kernel"])


def block_output(x: Array, block: Block, at: LayerContext) -> Array:
    """Return the output of a whole block for the input x."""
    steps = mixnet_block(x, block, at.tensors, at.metadata.epsilon)
    _, value = next(steps)
    while True:
        try:
            _, value = steps.send(value)
        except StopIteration as end:
            return end.value
