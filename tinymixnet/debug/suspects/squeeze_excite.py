"""Mistakes in squeeze-and-excite: what it pools, its gate, and what the gate does."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import LayerContext, Suspect, convolved, swishes
from tinymixnet.engine.kernels import Array, relu, sigmoid, squeeze_excite, swish


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


def weighed_before(at: LayerContext) -> Array | None:
    """Weigh the channels that go into the depthwise convolution."""
    if at.kind != "depthwise_conv" or not moves(at) or at.block is None:
        return None
    weights = (at.tensors[f"{at.block.name}/{tensor}"] for tensor in SE_WEIGHTS)
    reduce, reduce_bias, expand, expand_bias = weights
    activation = swish if swishes(at) else relu
    return squeeze_excite(at.x, reduce, reduce_bias, expand, expand_bias, activation)


def not_weighed_after(at: LayerContext) -> Array | None:
    """Return what the layers of squeeze-and-excite show if it comes before, and what follows it."""
    if not moves(at) or at.kind == "depthwise_conv":
        return None
    if at.kind == "project_conv":
        return convolved(at, at.seen["depthwise_act"])
    wide = at.seen["expand_act"]
    return wide.mean((1, 2), keepdims=True) if at.kind == "se_pool" else wide * at.x


def moves(at: LayerContext) -> bool:
    """Whether squeeze-and-excite can come before the depthwise convolution of a block."""
    return at.block is not None and at.block.se_width > 0 and "expand_act" in at.seen


SE_WEIGHTS = ("se_reduce/kernel", "se_reduce/bias", "se_expand/kernel", "se_expand/bias")
SQUEEZE_EXCITE = [
    Suspect(
        "missing-se",
        "se_scale",
        "squeeze-and-excite is left out",
        lambda at: at.seen["depthwise_act"],
    ),
    Suspect(
        "se-no-activation",
        "se_act",
        "squeeze-and-excite lacks the activation between its two convolutions",
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
    Suspect(
        "se-gate-added",
        "se_scale",
        "the gate is added to the channels: multiply them by it",
        lambda at: at.seen["depthwise_act"] + at.x,
    ),
    Suspect(
        "se-gate-twice",
        "se_scale",
        "the channels are multiplied by the gate twice: once is enough",
        lambda at: at.value * at.x,
    ),
    Suspect(
        "se-gate-twice",
        "se_gate",
        "the gate goes through its sigmoid twice: once is enough",
        lambda at: sigmoid(at.value),
    ),
    Suspect(
        "se-sum",
        "se_pool",
        "squeeze-and-excite pools the sum over all pixels, which is H * W times the mean: divide "
        "by H * W",
        pooled("depthwise_act", np.sum),
    ),
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
        "se-before-depthwise",
        "depthwise_conv se_pool se_scale project_conv",
        "squeeze-and-excite comes before the depthwise convolution: it belongs after the "
        "activation that follows it",
        not_weighed_after,
        input=weighed_before,
        whole=True,
    ),
]
