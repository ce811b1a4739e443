"""Mistakes in the activations: another function, or none."""

from collections.abc import Callable
from math import pi

import numpy as np

from tinymixnet.debug.suspects.context import ACTIVATIONS, LayerContext, Suspect, swishes
from tinymixnet.engine.kernels import Array, relu, sigmoid, swish

WITHOUT_SE = " ".join(kind for kind in ACTIVATIONS.split() if kind != "se_act")


def hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3, 0, 6) / 6


def relu6(x: Array) -> Array:
    return x.clip(0, 6)


def gelu(x: Array) -> Array:
    """x times the share of a normal distribution that lies below x.

    NumPy has no erf. This is formula 7.1.26 of Abramowitz and Stegun, which errs by 1.5e-7 at most.
    """
    with np.errstate(under="ignore"):
        z = np.abs(x) * np.float32(0.5**0.5)
        t = 1 / (1 + np.float32(0.3275911) * z)
        sum_of_powers = np.zeros_like(t)
        for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
            sum_of_powers = (sum_of_powers + np.float32(factor)) * t
        erf = np.sign(x) * (1 - sum_of_powers * np.exp(-z * z))
        return x * (1 + erf) / 2


def gelu_by_tanh(x: Array) -> Array:
    """Many libraries' fast form of GELU."""
    with np.errstate(over="ignore"):
        inner = np.float32((2 / pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)
        return x * (1 + np.tanh(inner)) / 2


def quick_gelu(x: Array) -> Array:
    return x * sigmoid(np.float32(1.702) * x)


def mish(x: Array) -> Array:
    """x * tanh(log(1 + exp(x)))."""
    return x * np.tanh(np.logaddexp(x, np.float32(0)))


def leaky_relu(slope: float) -> Callable[[Array], Array]:
    return lambda x: np.maximum(x, np.float32(slope) * x)


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def where_swish(function: Callable[[Array], Array]) -> Callable[[LayerContext], Array | None]:
    return lambda at: function(at.x) if swishes(at) else None


def where_relu(function: Callable[[Array], Array]) -> Callable[[LayerContext], Array | None]:
    return lambda at: None if swishes(at) else function(at.x)


def instead(slug: str, name: str, function: Callable[[Array], Array]) -> list[Suspect]:
    """Return suspects for a function in place of swish, and in place of ReLU."""
    return [
        Suspect(slug, ACTIVATIONS, f"{name} stands where swish should", where_swish(function)),
        Suspect(slug, ACTIVATIONS, f"{name} stands where ReLU should", where_relu(function)),
    ]


ACTIVATION = [
    Suspect("swish-as-relu", ACTIVATIONS, "ReLU stands where swish should", where_swish(relu)),
    Suspect(
        "relu-as-swish",
        ACTIVATIONS,
        "swish stands where ReLU should: stem, head and the first blocks (no `sw`) have ReLU",
        where_relu(swish),
    ),
    *instead("hard-swish", "hard-swish", hard_swish),
    *instead("relu6", "ReLU6, which ends at 6,", relu6),
    Suspect(
        "relu6",
        ACTIVATIONS,
        "swish is cut off at 6, as ReLU6 is: it should go on",
        where_swish(lambda x: np.minimum(swish(x), 6)),
    ),
    *instead("gelu", "GELU", gelu),
    *instead("gelu", "GELU, in its form with tanh,", gelu_by_tanh),
    *instead("quick-gelu", "x * sigmoid(1.702 x), called quick GELU,", quick_gelu),
    *instead("mish", "Mish, x * tanh(log(1 + exp(x))),", mish),
    *(
        suspect
        for slope in (0.01, 0.1, 0.2)
        for suspect in instead("leaky-relu", f"leaky ReLU, {slope:g} x below 0,", leaky_relu(slope))
    ),
    *instead("elu", "ELU, exp(x) - 1 below 0,", elu),
    Suspect(
        "missing-activation",
        WITHOUT_SE,
        "the activation is left out",
        lambda at: at.x,
    ),
]
