"""Run our network with fewer digits, as a port in float16, bfloat16 or 8-bit integers does.

Such a port rounds its weights and what its layers give. `rounded_layers` does the same to ours, fed
with *their* inputs. So it shows which error that rounding alone makes in each layer, and `judge`
says whether theirs is larger: then the layer is broken, and not merely coarse.
"""

from collections.abc import Collection, Iterator, Mapping
from math import inf
from typing import NamedTuple

import numpy as np

from tinymixnet.debug.rounding import (
    LEVELS,
    Scale,
    step_of,
    to_bfloat16,
    to_float16,
    to_int8,
    to_int8_by_channel,
    to_steps,
)
from tinymixnet.engine.architecture import group_kernels
from tinymixnet.engine.kernels import Array, sigmoid
from tinymixnet.engine.network import forward, statistics
from tinymixnet.model import Model

ROUND = {"float16": to_float16, "bfloat16": to_bfloat16}
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest rounding error of 1
SUMS = 3  # sums inside a layer may be rounded, too, and not only what it gives
UNROUNDED = "weights before they were rounded to float16"  # a format for `judgements` alone
FORMATS = ("float16", "bfloat16", "int8")
FLOAT32 = 1e-6  # error that float32 makes in one layer, relative to its largest value
BEYOND = 3  # a layer is broken if its error is so many times what rounding makes
BEYOND_IN_CHANNEL = 8  # the same for a channel by itself, whose few values vary more
ACTS = ("expand_act", "depthwise_act", "se_act")
GATE_STEP = 1 / 127  # between the 8-bit values of a sigmoid
FEW = 16  # values of a channel: fewer say nothing about it


# -- the run ---------------------------------------------------------------------------------------


class Rounded(NamedTuple):
    """A layer computed from their input, exactly and with rounding."""

    layer: str
    ours: Array
    rounded: Array
    theirs: Array | None  # None if the dump does not have it
    usual: float  # the error that rounding the layer's output makes on average


def rounded_layers(
    model: Model,
    pixels: Array,
    theirs: Mapping[str, Array],
    how: str,
    by_channel: bool = True,
    scales: Mapping[str, Scale] | None = None,
    unrounded: Collection[str] = (),
) -> Iterator[Rounded]:
    """Yield each layer, computed from their inputs: as ours computes it, and with rounding.

    pixels (N, H, W, 3), 0..255. theirs: layer -> their tensor; a layer that is not in it goes on
    with our own value, so rounding adds up from one of their tensors to the next. An 8-bit port may
    store a tensor before it rounds it for the next layer. So the rounded run reads it rounded.
    how: a format of FORMATS. by_channel: whether 8-bit kernels have a scale for each output channel
    or one for all. scales: of their layers, if the dump says so; else the values on a grid tell, or
    else the range that the layer has in this run.
    """
    weights = rounded_weights(model, theirs, how, by_channel)
    exact = forward(pixels, model.architecture, model.tensors, model.metadata)
    coarse = forward(pixels, model.architecture, weights, model.metadata)
    own: Array | None = None
    rounded: Array | None = None
    swishes = {
        f"{block.name}/{act}" for block in model.architecture.blocks if block.swish for act in ACTS
    }
    with np.errstate(all="ignore"):
        while True:
            try:
                layer, own = exact.send(own)
            except StopIteration:
                return
            x, rounded = rounded, coarse.send(rounded)[1]
            if how == "int8" and layer in swishes and x is not None:
                # Ports compute x * sigmoid(x), and the sigmoid has 8 bits, too.
                rounded = x * to_steps(sigmoid(x), Scale(GATE_STEP))
            scale, usual = scales.get(layer) if scales else None, 0.0
            known = theirs[layer] if layer in theirs and layer != "image" else None
            if layer not in unrounded and (known is not None or not hidden(layer, model)):
                rounded, usual = round_output(layer, rounded, how, scale, known)
            if layer == "image" and layer in theirs:  # judged, not fed: ports differ here
                coarse_image, usual = round_output(layer, pixels, how, scale, theirs[layer])
                yield Rounded(layer, pixels, coarse_image, theirs[layer], usual)
                continue
            yield Rounded(layer, own, rounded, known, usual)
            if known is not None:
                own = rounded = known
                if how == "int8":
                    rounded, _ = round_output(layer, known, how, scale, known)


def hidden(layer: str, model: Model) -> bool:
    """Whether a port that does not show this layer probably does not have it, and so not round it.

    Ports fold batch norm into the convolution before it, and ReLU into both.
    """
    part, _, kind = layer.rpartition("/")
    if kind in ("image", "conv") or kind.endswith("_conv"):
        return True
    if kind == "project_bn":
        return False
    if not (kind == "bn" or kind.endswith("_bn")):
        return False
    block = next((b for b in model.architecture.blocks if b.name == part), None)
    return block is None or not block.swish


def round_output(
    layer: str, x: Array, how: str, scale: Scale | None, theirs: Array | None
) -> tuple[Array, float]:
    """Round what a layer gives to a format; return also the usual size of that rounding's error."""
    if how == UNROUNDED:
        return x, 0.0
    if how != "int8":
        return ROUND[how](x), SUMS * UNIT[how] * rms(x)
    if scale is None:
        step = step_of(theirs) if theirs is not None else None
        if step is None:
            top = 1.0 if layer == "probabilities" else max(float(x.max()), 0)
            step = (top - min(float(x.min()), 0)) / LEVELS
        if not 0 < step < inf:
            return x, 0.0
        scale = Scale(step)
    return to_steps(x, scale), scale.scale / 12**0.5


def rounded_weights(
    model: Model, theirs: Mapping[str, Array], how: str, by_channel: bool
) -> dict[str, Array]:
    """Return the weights of the network, rounded to a format.

    Only kernels become 8-bit integers. If the dump has no output of a convolution, then the batch
    norm after it is taken to be folded into the kernel, which is rounded with it.
    """
    tensors = model.tensors
    if how == UNROUNDED:
        return {name: unrounded(tensor) for name, tensor in tensors.items()}
    if how != "int8":
        return {name: ROUND[how](tensor) for name, tensor in tensors.items()}
    to_integers = to_int8_by_channel if by_channel else to_int8
    result = dict(tensors)
    for name, kernel in tensors.items():
        layer, _, tensor = name.rpartition("/")
        if not tensor.startswith("kernel"):
            continue
        if layer.endswith("conv") and layer not in theirs:
            factor = folded_scale(model, layer, tensor)
            factor = np.where(np.abs(factor) > 1e-12, factor, np.float32(1))
            result[name] = (to_integers(kernel * factor) / factor).astype(np.float32)
        else:
            result[name] = to_integers(kernel)
    return result


def unrounded(tensor: Array) -> Array:
    """Return weights that would become these if they were rounded to float16.

    The same ones each time, but as good as random: they are as far off as rounding can bring them.
    """
    rng = np.random.default_rng(tensor.size)
    return (tensor * (1 + rng.uniform(-1, 1, tensor.shape) * UNIT["float16"])).astype(np.float32)


def folded_scale(model: Model, layer: str, kernel: str) -> Array:
    """Return by what batch norm multiplies a kernel that it is folded into.

    kernel: `kernel`, or `kernel_2` for that of the third group of channels.
    -> (O,), or (C, 1) for a depthwise kernel (K, K, C, 1).
    """
    norm = statistics(layer.removesuffix("conv") + "bn", model.tensors)
    scale = norm.gamma / np.sqrt(norm.variance + np.float32(model.metadata.epsilon))
    groups = group_kernels(layer, model.tensors) or [model.tensors[f"{layer}/{kernel}"]]
    axis = 2 if layer.endswith("depthwise_conv") else 3
    number = int(kernel.rpartition("_")[2]) if "_" in kernel else 0
    ends = np.cumsum([group.shape[axis] for group in groups])
    part = np.split(scale, ends[:-1])[number]
    return part[:, None] if axis == 2 else part


# -- the verdict -----------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """What rounding alone explains of the error that a layer of theirs adds."""

    rounding: float  # error that rounding makes in this layer, as `compare` measures errors
    explains: float  # its share in the error that theirs adds, 0 to 1, by root mean squares
    beyond: bool  # whether theirs is further off than rounding can explain
    largest: float = 0.0  # the error of rounding relative to the largest value of theirs
    share: float = 0.0  # the same by root mean squares


def judge(ours: Array, rounded: Array, theirs: Array, usual: float = 0.0) -> Judgement:
    """Compare the error of their layer with that of rounding. All three are (..., C).

    usual: what rounding makes on average. A few values may have been lucky.
    """
    largest = float(np.abs(ours).max(initial=0)) or 1.0
    with np.errstate(all="ignore"):
        due, added = rounded - ours, theirs - ours  # not in float64: that takes too much memory
        rounding = float(np.abs(due).max(initial=0)) / largest
    if not np.isfinite(added).all():
        return Judgement(rounding, 0.0, bool(np.isfinite(ours).all()))
    if not np.isfinite(due).all():
        return Judgement(inf, 1.0, False)
    floor = max(FLOAT32 * largest, usual)
    expected, found = rms(due), rms(added)
    explains = 1.0 if found <= floor else min(1.0, expected / found)
    beyond = found > BEYOND * max(expected, floor)
    channels = added.shape[-1]
    if added.size >= FEW * channels:
        each_due, each = channel_rms(due), channel_rms(added)
        usual = np.maximum(each_due, max(expected, floor))
        beyond = beyond or bool((each > BEYOND_IN_CHANNEL * usual).any())
    size, largest_due = rms(theirs), rounding * largest
    return Judgement(
        rounding,
        explains,
        beyond,
        max(largest_due, floor) / (float(np.abs(theirs).max(initial=0)) or 1.0),
        max(expected, floor) / (size or 1.0),
    )


def judgements(
    model: Model,
    pixels: Array,
    theirs: Mapping[str, Array],
    how: str,
    scales: Mapping[str, Scale] | None = None,
    unrounded: Collection[str] = (),
) -> dict[str, Judgement]:
    """Judge each of their layers by a format; layer -> judgement.

    8-bit kernels may have one scale or one for each channel. The run that explains more counts.
    """
    runs: list[dict[str, Judgement]] = []
    for by_channel in (True, False) if how == "int8" else (True,):
        layers = rounded_layers(model, pixels, theirs, how, by_channel, scales, unrounded)
        runs.append(
            {
                layer: judge(ours, rounded, known, usual)
                for layer, ours, rounded, known, usual in layers
                if known is not None and ours.size
            }
        )
    return min(runs, key=lambda run: sum(judgement.beyond for judgement in run.values()))


def rms(x: Array) -> float:
    """Return the root mean square of all values, without a copy of them."""
    return float(np.vdot(x, x) / x.size) ** 0.5 if x.size else 0.0


def channel_rms(x: Array) -> Array:
    """Return the root mean square of each channel: (..., C) -> (C,)."""
    pixels = x.reshape(-1, x.shape[-1])
    return np.sqrt(np.einsum("pc,pc->c", pixels, pixels) / len(pixels))
