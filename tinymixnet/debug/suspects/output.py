"""Mistakes at the end of the network: the head's pooling, dropout, the classes, softmax."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import LayerContext, Suspect
from tinymixnet.engine.kernels import Array, dense, relu, sigmoid, softmax

RATES = np.arange(1, 19) * 0.05  # of a dropout
SAME_NUMBERS = 1e-4  # largest error, relative to the largest, at which two lists are the same


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def before_activation(at: LayerContext) -> Array | None:
    """Pool the batch norm's output, and apply the activation to what that gives."""
    if at.kind == "head/pool":
        return at.seen["head/bn"].mean((1, 2))
    return dense(relu(at.x), at.tensors["logits/kernel"], at.tensors["logits/bias"])


def dropout(at: LayerContext) -> Array | None:
    """Set some values to zero and divide the others by the share that is left."""
    if at.theirs is None or at.theirs.shape != at.value.shape:
        return None
    shown = at.value != 0  # a value that is 0 anyway does not show whether it was dropped
    kept = shown & (at.theirs != 0)
    count = int(shown.sum())
    if not count:
        return None
    ours, theirs = at.value[kept].astype(np.float64), at.theirs[kept]
    factor = float(np.dot(ours, theirs) / (np.dot(ours, ours) or 1))
    rate, dropped = 1 - 1 / max(factor, 1), 1 - float(kept.sum()) / count
    spread = (rate * (1 - rate) / count) ** 0.5  # standard deviation of the share dropped
    if rate < 0.01 or abs(dropped - rate) > 4 * spread + 2 / count:
        return None
    return np.where(kept, at.value * np.float32(factor), 0)


def scaled_by_dropout(at: LayerContext) -> Array | None:
    """Multiply all pooled values by 1 - rate, or by 1 / (1 - rate)."""
    if at.theirs is None or at.theirs.shape != at.value.shape:
        return None
    bias = at.tensors["logits/bias"] if at.kind == "logits" else np.float32(0)
    ours, theirs = (side.ravel().astype(np.float64) for side in (at.value - bias, at.theirs - bias))
    factor = float(np.dot(ours, theirs) / (np.dot(ours, ours) or 1))
    known = np.concatenate([1 - RATES, 1 / (1 - RATES)])
    nearest = known[np.abs(np.log(known / factor)).argmin()] if factor > 0 else 0
    if abs(nearest - factor) > 1e-3 * factor:
        return None
    return (at.value - bias) * np.float32(nearest) + bias


def permuted(at: LayerContext) -> Array | None:
    """Put our classes in the order in which theirs are, if both have the same numbers."""
    if at.theirs is None or at.theirs.shape != at.value.shape or at.value.shape[-1] < 4:
        return None
    ours, theirs = at.value, at.theirs
    if at.kind == "probabilities":  # tiny numbers are all alike, their logarithms are not
        with np.errstate(divide="ignore", invalid="ignore"):
            ours, theirs = np.log(ours), np.log(theirs)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    order, rank = ours.argsort(axis=-1), theirs.argsort(axis=-1).argsort(axis=-1)
    moved = np.take_along_axis(ours, np.take_along_axis(order, rank, -1), -1)
    largest = float(np.abs(ours).max()) or 1.0
    if float(np.abs(moved - theirs).max()) > SAME_NUMBERS * largest:
        return None
    places = np.take_along_axis(order, rank, -1)
    # Nearly equal numbers may have changed places by rounding, so not all images need to agree.
    same_for_all = np.abs(ours[:, places[0]] - theirs).max() <= SAME_NUMBERS * largest
    return np.take_along_axis(at.value, places, -1) if same_for_all else None


def sorted_by(key: Callable[[LayerContext], list[str]]) -> Callable[[LayerContext], Array | None]:
    """Return the classes sorted by a text that each of them has."""

    def output(at: LayerContext) -> Array | None:
        texts = key(at)
        if len(texts) != at.value.shape[-1]:
            return None
        order = sorted(range(len(texts)), key=texts.__getitem__)
        return at.value[..., order]

    return output


def numbers_as_text(at: LayerContext) -> list[str]:
    return [str(number) for number in range(at.value.shape[-1])]


OUTPUT = [
    Suspect(
        "missing-bias",
        "se_reduce se_expand logits",
        "the bias is not added",
        weights=lambda name, tensor: tensor * 0 if name.endswith("/bias") else tensor,
    ),
    Suspect(
        "head-pooling",
        "head/pool",
        "the head pools the maximum: it should be the mean",
        lambda at: at.x.max((1, 2)),
    ),
    Suspect(
        "head-pooling",
        "head/pool",
        "the head pools the sum over all pixels: divide by H * W",
        lambda at: at.x.sum((1, 2)),
    ),
    Suspect(
        "pool-before-activation",
        "head/pool logits",
        "the head pools before its activation: ReLU comes first, then the mean over the pixels",
        before_activation,
        whole=True,
    ),
    Suspect(
        "pool-before-activation",
        "head/pool",
        "the head pools before its activation: ReLU comes first, then the mean over the pixels",
        lambda at: relu(at.seen["head/bn"].mean((1, 2))),
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
    *(
        Suspect("classes-sorted", "logits probabilities", sentence, sorted_by(key))
        for sentence, key in {
            "the classes are sorted by name: keep the order of the weights": (
                lambda at: list(at.metadata.labels)
            ),
            "the classes are sorted by name, capital letters like small ones: keep the order of "
            "the weights": lambda at: [label.lower() for label in at.metadata.labels],
            "the classes are sorted by WordNet number: keep the order of the weights": (
                lambda at: list(at.metadata.wordnet_ids)
            ),
            "the numbers of the classes are sorted as text (0, 1, 10, 100, ...): sort them as "
            "numbers": numbers_as_text,
        }.items()
    ),
    Suspect(
        "classes-permuted",
        "logits probabilities",
        "theirs are our numbers in another order: the classes are permuted",
        permuted,
        fitted=True,
    ),
    Suspect("missing-softmax", "probabilities", "logits stand for probabilities", lambda at: at.x),
    Suspect(
        "missing-softmax", "probabilities", "a sigmoid stands for softmax", lambda at: sigmoid(at.x)
    ),
    Suspect(
        "softmax-twice",
        "probabilities",
        "softmax is applied twice: once is enough",
        lambda at: softmax(at.value),
    ),
    Suspect(
        "softmax-twice",
        "logits",
        "the logits have gone through softmax already: the softmax after them is a second one",
        lambda at: softmax(at.value),
    ),
    Suspect(
        "log-softmax",
        "probabilities",
        "log-softmax stands for softmax: these are the logarithms of the probabilities",
        lambda at: log_softmax(at.x),
    ),
    Suspect(
        "log-softmax",
        "logits",
        "log-softmax is applied to the logits: leave them as they are",
        lambda at: log_softmax(at.value),
    ),
    Suspect(
        "dropout",
        "head/pool",
        "dropout is at work: it sets some values to zero and enlarges the others, which belongs "
        "to training alone (model.eval())",
        dropout,
        fitted=True,
    ),
    Suspect(
        "dropout",
        "head/pool logits",
        "the scaling of dropout is left in: without dropout, the pooled values stay as they are",
        scaled_by_dropout,
        fitted=True,
    ),
]
