"""What a suspect is: a known mistake, as what a layer then computes.

A `Suspect` acts on layers of some kinds, in one of two ways. `weights` changes their tensors before
anything is computed. `output` says what comes out instead, given what went in (`LayerContext`).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.metadata import Metadata

# What a kind of layer is called here: the last part of a block's layer, the whole name elsewhere.
NORMS = "stem/bn expand_bn depthwise_bn project_bn head/bn"
ACTIVATIONS = "stem/act expand_act depthwise_act se_act head/act"
FILTERS = "stem/conv depthwise_conv"
POINTWISE = "expand_conv project_conv se_reduce se_expand head/conv logits"
GROUPED = "expand_conv depthwise_conv project_conv"


class LayerContext(NamedTuple):
    """A layer, just computed: what went in, and what rightly came out."""

    layer: str
    kind: str
    x: Array  # the output of the layer before
    value: Array  # what is right, given x
    entry: Array  # what went into the block
    seen: Mapping[str, Array]  # the block's layers so far, by kind
    block: Block | None  # None in the stem and the head
    tensors: Mapping[str, Array]
    metadata: Metadata


class Suspect(NamedTuple):
    """A mistake: its name, the kinds of layer it shows in, a sentence for a person."""

    slug: str
    kinds: str
    sentence: str
    output: Callable[[LayerContext], Array | None] | None = (
        None  # None: such a layer is no different
    )
    weights: Callable[[str, Array], Array] | None = None  # (name, tensor) -> tensor


def kernels_of(at: LayerContext) -> list[Array]:
    """All kernels of a convolution, whether it has groups or not."""
    return group_kernels(at.layer, at.tensors) or [at.tensors[f"{at.layer}/kernel"]]


def swishes(at: LayerContext) -> bool:
    """Whether the activation here is swish, else it is ReLU."""
    return at.block is not None and at.block.swish
