"""Mistakes in activations, squeeze-and-excite, shortcuts and the end of the network."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import ACTIVATIONS, LayerContext, Suspect, swishes
from tinymixnet.engine.kernels import Array, batch_norm, relu, sigmoid, swish
from tinymixnet.engine.network import statistics


def hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3, 0, 6) / 6


def where_swish(function: Callable[[Array], Array]) -> Callable[[LayerContext], Array | None]:
    return lambda at: function(at.x) if swishes(at) else None


def where_relu(function: Callable[[Array], Array]) -> Callable[[LayerContext], Array | None]:
    return lambda at: None if swishes(at) else function(at.x)


def pooled(
    kind: str, function: Callable[..., Array] = np.mean
) -> Callable[[LayerContext], Array | None]:
    """Squeeze-and-excite that pools another layer's output, if that has as many channels."""

    def output(at: LayerContext) -> Array | None:
        x = at.entry if kind == "entry" else at.seen.get(kind)
        if x is None or x.shape[-1] != at.value.shape[-1]:
            return None
        return function(x, axis=(1, 2), keepdims=True)

    return output


def fewer_units(share: int) -> Callable[[LayerContext], Array | None]:
    """Only the first units of the squeezed layer have any effect: one in `share`."""
    return lambda at: np.where(
        np.arange(at.value.shape[-1]) < at.value.shape[-1] // share, at.value, 0
    )


def residual_before_norm(at: LayerContext) -> Array:
    if at.kind == "output":
        return at.x
    return batch_norm(at.x + at.entry, *statistics(at.layer, at.tensors), at.metadata.epsilon)


def where_residual(
    function: Callable[[LayerContext], Array],
) -> Callable[[LayerContext], Array | None]:
    return lambda at: function(at) if at.block and at.block.residual else None


def block_activation(at: LayerContext) -> Array:
    return swish(at.value) if swishes(at) else relu(at.value)


ACTIVATION = [
    Suspect("swish-as-relu", ACTIVATIONS, "ReLU stands where swish should", where_swish(relu)),
    Suspect(
        "relu-as-swish",
        ACTIVATIONS,
        "swish stands where ReLU should: stem, head and the first blocks (no `sw`) have ReLU",
        where_relu(swish),
    ),
    Suspect(
        "hard-swish", ACTIVATIONS, "hard-swish stands where swish should", where_swish(hard_swish)
    ),
    Suspect(
        "hard-swish", ACTIVATIONS, "hard-swish stands where ReLU should", where_relu(hard_swish)
    ),
    Suspect(
        "relu6", ACTIVATIONS, "ReLU6 stands where ReLU should", where_relu(lambda x: x.clip(0, 6))
    ),
    Suspect(
        "se-no-activation",
        "se_act",
        "squeeze-and-excite lacks the activation between its two convolutions",
        lambda at: at.x,
    ),
    Suspect(
        "missing-activation",
        ACTIVATIONS.replace("se_act ", ""),
        "the activation is left out",
        lambda at: at.x,
    ),
    Suspect(
        "hard-sigmoid",
        "se_gate",
        "the gate is a hard sigmoid, relu6(x + 3) / 6: it should be 1 / (1 + exp(-x))",
        lambda at: np.clip(at.x + 3, 0, 6) / 6,
    ),
    Suspect(
        "hard-sigmoid",
        "se_gate",
        "the gate is a hard sigmoid, 0.2 x + 0.5 within 0..1: it should be 1 / (1 + exp(-x))",
        lambda at: np.clip(at.x * np.float32(0.2) + np.float32(0.5), 0, 1),
    ),
    Suspect("missing-sigmoid", "se_gate", "the gate lacks its sigmoid", lambda at: at.x),
    *(
        Suspect(
            "se-input",
            "se_pool",
            f"squeeze-and-excite pools {what}: it should be the output of the activation after the "
            "depthwise convolution",
            pooled(kind),
        )
        for kind, what in {
            "depthwise_bn": "the batch norm's output, before the activation",
            "depthwise_conv": "the depthwise convolution's output",
            "expand_act": "the expanded tensor",
            "entry": "the block's input",
        }.items()
    ),
    Suspect(
        "se-input",
        "se_pool",
        "squeeze-and-excite pools the maximum: it should be the mean",
        pooled("depthwise_act", np.max),
    ),
    *(
        Suspect(
            "se-width",
            "se_act",
            f"only one in {share} of the squeezed units is used: their number should be the "
            "block's *input* filters times the ratio",
            fewer_units(share),
        )
        for share in (2, 4)
    ),
    Suspect(
        "missing-se",
        "se_scale",
        "squeeze-and-excite is left out",
        lambda at: at.seen["depthwise_act"],
    ),
    Suspect(
        "missing-bias",
        "se_reduce se_expand logits",
        "the bias is not added",
        weights=lambda name, tensor: tensor * 0 if name.endswith("/bias") else tensor,
    ),
    Suspect(
        "missing-residual",
        "output",
        "the block's input is not added to its output: add it if the stride is 1 and the "
        "numbers of filters are equal",
        where_residual(lambda at: at.x),
    ),
    Suspect(
        "residual-before-bn",
        "project_bn output",
        "the block's input is added before the last batch norm: add it after",
        where_residual(residual_before_norm),
    ),
    Suspect(
        "activation-after-residual",
        "output",
        "the block's output goes through its activation: it should not",
        block_activation,
    ),
    Suspect(
        "activation-after-residual",
        "output",
        "the block's output goes through ReLU, as in a ResNet: it should not",
        lambda at: relu(at.value),
    ),
    Suspect(
        "head-pooling",
        "head/pool",
        "the head pools the maximum: it should be the mean",
        lambda at: at.x.max((1, 2)),
    ),
    *(
        Suspect(
            "label-offset",
            "logits",
            "the classes are shifted by one: the original has no background class",
            lambda at, by=by: np.roll(at.value, by, axis=-1),  # type: ignore[misc]
        )
        for by in (1, -1)
    ),
    Suspect("missing-softmax", "probabilities", "logits stand for probabilities", lambda at: at.x),
    Suspect(
        "missing-softmax", "probabilities", "a sigmoid stands for softmax", lambda at: sigmoid(at.x)
    ),
]
