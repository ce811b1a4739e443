"""Mistakes in batch norm."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import NORMS, LayerContext, Suspect
from tinymixnet.engine.kernels import Array, batch_norm
from tinymixnet.engine.network import Statistics, statistics


def norm_with(
    change: Callable[[LayerContext, Statistics], Statistics], epsilon: float | None = None
) -> Callable[[LayerContext], Array]:
    """Return the output of a batch norm with other statistics or another epsilon."""

    def output(at: LayerContext) -> Array:
        changed = change(at, statistics(at.layer, at.tensors))
        with np.errstate(invalid="ignore", divide="ignore"):  # without epsilon it may divide by 0
            used = at.metadata.epsilon if epsilon is None else epsilon
            return batch_norm(at.x, *changed, used)

    return output


def of_this_batch(at: LayerContext, s: Statistics) -> Statistics:
    return s._replace(mean=at.x.mean((0, 1, 2)), variance=at.x.var((0, 1, 2)))


def exchanged(one: str, two: str) -> Callable[[str], str]:
    """Return a function from a tensor's name to the name in which two parts changed places."""
    return lambda name: name.replace(one, two) if one in name else name.replace(two, one)


NORMALIZATION = [
    *(
        Suspect(
            "bn-epsilon",
            NORMS,
            f"batch norm's epsilon is {value:g}: MixNet's is 1e-3, PyTorch's default 1e-5",
            norm_with(lambda at, s: s, epsilon=value),
        )
        for value in (1e-5, 1e-4, 1e-2, 0.0)
    ),
    Suspect(
        "bn-epsilon-outside-root",
        NORMS,
        "batch norm adds epsilon to the deviation, outside the square root: add it to the "
        "variance, and then take the root",
        norm_with(
            lambda at, s: s._replace(variance=(np.sqrt(s.variance) + at.metadata.epsilon) ** 2),
            epsilon=0.0,
        ),
    ),
    Suspect(
        "missing-bias",
        NORMS,
        "batch norm's beta is not added",
        weights=lambda name, tensor: tensor * 0 if name.endswith("/beta") else tensor,
    ),
    Suspect(
        "missing-bias",
        NORMS,
        "the bias that folding batch norm gives (beta - mean * scale) is dropped",
        norm_with(lambda at, s: s._replace(beta=s.beta * 0, mean=s.mean * 0)),
    ),
    Suspect(
        "missing-bias",
        NORMS,
        "batch norm's mean is not subtracted",
        norm_with(lambda at, s: s._replace(mean=s.mean * 0)),
    ),
    Suspect(
        "missing-scale",
        NORMS,
        "the multiplication by batch norm's gamma is missing",
        weights=lambda name, tensor: tensor * 0 + 1 if name.endswith("/gamma") else tensor,
    ),
    Suspect("missing-bn", NORMS, "batch norm is left out", lambda at: at.x),
    Suspect(
        "training-mode",
        NORMS,
        "batch norm takes the mean and variance of this batch: use the moving ones (model.eval())",
        norm_with(of_this_batch),
    ),
    Suspect(
        "bn-variance",
        NORMS,
        "batch norm divides by the variance: divide by its square root",
        norm_with(
            lambda at, s: s._replace(variance=(s.variance + at.metadata.epsilon) ** 2), epsilon=0.0
        ),
    ),
    Suspect(
        "bn-exchanged",
        "expand_bn depthwise_bn",
        "the weights of the block's first and second batch norm are exchanged",
        other=exchanged("/expand_bn/", "/depthwise_bn/"),
    ),
    Suspect(
        "bn-exchanged",
        "depthwise_bn project_bn",
        "the weights of the batch norms after the depthwise and the last convolution are exchanged",
        other=exchanged("/depthwise_bn/", "/project_bn/"),
    ),
    Suspect(
        "gamma-beta-exchanged",
        NORMS,
        "batch norm's gamma and beta are exchanged: gamma multiplies, beta is added",
        other=exchanged("/gamma", "/beta"),
    ),
    Suspect(
        "mean-variance-exchanged",
        NORMS,
        "batch norm's mean and variance are exchanged",
        other=exchanged("/moving_mean", "/moving_variance"),
    ),
]
