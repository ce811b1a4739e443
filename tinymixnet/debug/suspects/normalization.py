"""Mistakes in batch norm."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import NORMS, LayerContext, Suspect
from tinymixnet.engine.kernels import Array, batch_norm
from tinymixnet.engine.network import Statistics, statistics


def norm_with(
    change: Callable[[LayerContext, Statistics], tuple[Statistics, float]],
) -> Callable[[LayerContext], Array]:
    """The batch norm with other statistics or another epsilon."""

    def output(at: LayerContext) -> Array:
        vectors, epsilon = change(at, statistics(at.layer, at.tensors))
        with np.errstate(invalid="ignore", divide="ignore"):  # without epsilon, it may divide by 0
            return batch_norm(at.x, *vectors, epsilon)

    return output


def of_this_batch(at: LayerContext, s: Statistics) -> tuple[Statistics, float]:
    mean, variance = at.x.mean((0, 1, 2)), at.x.var((0, 1, 2))
    return Statistics(s.gamma, s.beta, mean, variance), at.metadata.epsilon


def epsilon_of(value: float) -> Callable[[LayerContext], Array]:
    return norm_with(lambda at, s: (s, value))


NORMALIZATION = [
    *(
        Suspect(
            "bn-epsilon",
            NORMS,
            f"batch norm's epsilon is {value:g}: MixNet's is 1e-3, PyTorch's default 1e-5",
            epsilon_of(value),
        )
        for value in (1e-5, 1e-4, 1e-2, 0.0)
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
        norm_with(lambda at, s: (s._replace(beta=s.beta * 0, mean=s.mean * 0), at.metadata.epsilon)),
    ),
    Suspect(
        "missing-bias",
        NORMS,
        "batch norm's mean is not subtracted",
        norm_with(lambda at, s: (s._replace(mean=s.mean * 0), at.metadata.epsilon)),
    ),
    Suspect(
        "missing-scale",
        NORMS,
        "batch norm's gamma is not multiplied by",
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
        norm_with(lambda at, s: (s._replace(variance=(s.variance + at.metadata.epsilon) ** 2), 0.0)),
    ),
]
