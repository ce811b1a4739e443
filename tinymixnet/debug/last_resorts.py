"""What to look at when no suspect explains a layer: overflow, and weights that are not ours."""

from collections.abc import Callable, Sequence

import numpy as np

from tinymixnet.debug.evidence import FINE
from tinymixnet.debug.measure import error, largest_size
from tinymixnet.debug.rounding import to_float16
from tinymixnet.debug.runner import Change, PartRunner
from tinymixnet.debug.suspects.context import LayerContext, Suspect, kernels_of
from tinymixnet.engine.kernels import Array, windows

LARGEST_HALF = 65504  # float16's largest number
INFINITE_HALF = 65520  # the smallest number that becomes infinite in float16
HALF = 4e-3  # error that computing one layer in float16 makes
MOST_FITS = 12  # layers whose weights are fitted
CHANNELS = 8  # of a layer that is fitted
MOST_WEIGHTED = 0.6  # share of the layers with weights that must be wrong before all are others
NORM_KINDS = ("bn", "expand_bn", "depthwise_bn", "project_bn")


# -- overflow --------------------------------------------------------------------------------------


def overflow(runner: PartRunner, layer: str, ours: Array) -> str:
    """Return a sentence if NaN and infinity in their layer come from too large numbers; else "".

    Either they stand exactly where our values are largest, and the rest is right; or float16's
    range alone leads to them where ours is computed in it.
    """
    theirs = runner.theirs[layer]
    bad = ~np.isfinite(theirs)
    sizes = np.abs(ours)
    top = float(sizes.max())
    place = f"float16 ends at {LARGEST_HALF}: what is larger becomes infinite"
    if not bad.all():
        limit = float(sizes[bad].min())
        rest = np.where(bad, 0, theirs - ours)
        if limit >= 0.98 * float(sizes[~bad].max()) and float(np.abs(rest).max()) <= HALF * top:
            return (
                f"{int(bad.sum())} of {bad.size} values are infinite or NaN, the {limit:.3g} and "
                f"larger ones, and the rest is right. {place}. Scale the values down, or compute "
                "this layer in float32"
            )
    for what, change in {
        "with numbers of float16": to_float16,
        f"with {LARGEST_HALF} as the largest number": infinite_beyond_half,
    }.items():
        if bool((np.isfinite(in_half_range(runner, layer, change)) == ~bad).all()):
            return (
                f"{int(bad.sum())} of {bad.size} values are infinite or NaN, as ours are {what}. "
                f"{place}. Compute the layers before in float32"
            )
    return ""


def saturated(runner: PartRunner, layer: str) -> tuple[str, float] | None:
    """Return a sentence if ours is theirs when all values are cut off where float16 ends.

    Some processors cut off where others give infinity. Also returns the error that this leaves.
    """
    cut: list[str] = []

    def cut_off(at: LayerContext) -> Array:
        if largest_size(at.value) > LARGEST_HALF:
            cut.append(at.layer)
        return np.clip(at.value, -LARGEST_HALF, LARGEST_HALF)

    change = Change(Suspect("", "", "", cut_off), tuple(runner.order))
    ours = runner.result(runner.start_of(layer), layer, [change])
    left = error(ours, runner.theirs[layer]).max_error
    if not cut or left > HALF:
        return None
    return (
        f"values are cut off at {LARGEST_HALF}, where float16 ends, first in {cut[0]}. Scale the "
        "values down, or compute this layer in float32"
    ), left


def infinite_beyond_half(x: Array) -> Array:
    """Make those values infinite that float16 cannot hold, and leave the others as they are."""
    return np.where(np.abs(x) >= INFINITE_HALF, np.copysign(np.float32(np.inf), x), x)


def in_half_range(
    runner: PartRunner, layer: str, limit: Callable[[Array], Array] = to_float16
) -> Array:
    """Return our layer with every value since their last tensor in the range of float16."""

    def limited(at: LayerContext) -> Array:
        value = at.value
        if at.kind.endswith("pool"):  # the mean is a sum first
            before = at.seen.get("depthwise_act", at.x) if at.block else at.x
            total = limit(before.sum((1, 2), keepdims=bool(at.block)))
            value = total / np.float32(before.shape[1] * before.shape[2])
        return limit(value)

    change = Change(Suspect("", "", "", limited), tuple(runner.order))
    return runner.result(runner.start_of(layer), layer, [change])


# -- other weights ---------------------------------------------------------------------------------


def other_weights(runner: PartRunner, wrong: Sequence[str], names: Sequence[str]) -> str:
    """Return a sentence if theirs computes what ours does, but with other weights; else "".

    Most layers with weights must be wrong and no other layer, and where their inputs are varied
    enough, some weights must give exactly what theirs is.
    """
    weighted = [name for name in names if has_weights(runner, name)]
    if any(name not in weighted for name in wrong) or len(wrong) < MOST_WEIGHTED * len(weighted):
        return ""
    fits: list[float] = []
    for layer in wrong:
        contexts: list[LayerContext] = []
        look = Suspect("", "", "", contexts.append)
        runner.result(runner.start_of(layer), layer, [Change(look, (layer,))])
        rest = fit(contexts[-1], runner)
        if rest is not None:
            fits.append(rest)
        if len(fits) == MOST_FITS:
            break
    if len(fits) < 3 or max(fits) > 10 * FINE:
        return ""
    return (
        f"{len(wrong)} of {len(weighted)} layers have other weights: with weights of its own, each "
        "of them does what it should. Are they of another variant or training, or not loaded?"
    )


def has_weights(runner: PartRunner, layer: str) -> bool:
    """Whether weights stand between a layer of theirs and their last tensor before it."""
    place = runner.order.index(layer)
    while not runner.tensors_of.get(runner.order[place]):
        place -= 1
        if place < 0 or runner.order[place] in runner.theirs:
            return False
    return True


def fit(at: LayerContext, runner: PartRunner) -> float | None:
    """Return the error that the best weights leave in a layer; None if any output can be reached.

    Only a few channels are fitted. The input has to be in the dump, or it is not theirs.
    """
    assert at.theirs is not None
    before = runner.order[runner.order.index(at.layer) - 1]
    if before not in runner.theirs or at.theirs.ndim != 4:
        return None
    theirs = at.theirs
    rest, size = 0.0, float(np.abs(theirs).max()) or 1.0
    for channel in range(0, theirs.shape[-1], max(1, theirs.shape[-1] // CHANNELS)):
        design = inputs_of(at, channel)
        y = theirs[..., channel].reshape(-1).astype(np.float64)
        rows, unknowns = design.shape
        if rows < 2 * unknowns + 4:
            return None
        chosen = np.linspace(0, rows - 1, min(rows, 6 * unknowns + 64)).astype(int)
        a, y = design[chosen].astype(np.float64), y[chosen]
        best, *_ = np.linalg.lstsq(a, y, rcond=None)
        rest = max(rest, float(np.abs(a @ best - y).max()))
    return rest / size


def inputs_of(at: LayerContext, channel: int) -> Array:
    """Return what one output channel is a weighted sum of: a row for each pixel."""
    if at.kind.rpartition("/")[2] in NORM_KINDS:
        x = at.x[..., channel].reshape(-1, 1)
        return np.concatenate([x, np.ones_like(x)], axis=1)
    kernels = kernels_of(at)
    depthwise = at.kind == "depthwise_conv"
    axis = 2 if depthwise else 3
    ends = np.cumsum([kernel.shape[axis] for kernel in kernels])
    group = int(np.searchsorted(ends, channel, side="right"))
    k = kernels[group].shape[0]
    if depthwise:
        stride = at.block.stride if at.block else 1
        patches = windows(at.x[..., channel : channel + 1], (k, k), stride)
        return patches.reshape(-1, k * k)
    if k > 1:
        patches = windows(at.x, (k, k), 2)
        return patches.reshape(-1, patches.shape[3] * k * k)
    start = sum(kernel.shape[2] for kernel in kernels[:group])
    part = at.x[..., start : start + kernels[group].shape[2]]
    if at.kind.startswith("se_"):
        part = np.concatenate([part, np.ones_like(part[..., :1])], axis=-1)
    return part.reshape(-1, part.shape[-1])
