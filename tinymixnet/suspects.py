"""The mistakes people make when they port MixNet, each as what a layer then comes out as.

A `Suspect` acts on layers of some kinds, in one of two ways: `weights` changes their tensors before
anything is computed; `output` says what comes out instead, given what went in (`At`). `diagnose.py`
finds out which of them make this network answer as another implementation did.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinymixnet.architecture import Block, group_kernels
from tinymixnet.errors import InputError
from tinymixnet.kernels import (
    Array,
    batch_norm,
    conv2d,
    depthwise_conv2d,
    mix_conv,
    normalize,
    pointwise_conv2d,
    relu,
    sigmoid,
    swish,
)
from tinymixnet.model import Statistics, statistics
from tinymixnet.weights import Metadata

# What a kind of layer is called here: the last part of a block's layer, the whole name elsewhere.
NORMS = "stem/bn expand_bn depthwise_bn project_bn head/bn"
ACTIVATIONS = "stem/act expand_act depthwise_act se_act head/act"
FILTERS = "stem/conv depthwise_conv"
POINTWISE = "expand_conv project_conv se_reduce se_expand head/conv logits"
GROUPED = "expand_conv depthwise_conv project_conv"


class At(NamedTuple):
    """A layer, just computed: what went in, and what rightly came out."""

    layer: str
    kind: str
    x: Array  # the output of the layer before
    value: Array  # what is right, given x
    entry: Array  # what went into the block
    seen: Mapping[str, Array]  # the block's layers so far, by kind
    block: Block | None  # None in the stem and the head
    tensors: Mapping[str, Array]
    about: Metadata


class Suspect(NamedTuple):
    """A mistake: its name, the kinds of layer it shows in, a sentence for a person."""

    slug: str
    kinds: str
    sentence: str
    output: Callable[[At], Array | None] | None = None  # None: such a layer is no different
    weights: Callable[[str, Array], Array] | None = None  # (name, tensor) -> tensor


def kernels_of(at: At) -> list[Array]:
    """All kernels of a convolution, whether it has groups or not."""
    return group_kernels(at.layer, at.tensors) or [at.tensors[f"{at.layer}/kernel"]]


def swishes(at: At) -> bool:
    """Whether the activation here is swish, else it is ReLU."""
    return at.block is not None and at.block.swish


# -- input ----------------------------------------------------------------------------------------


def colours(change: Callable[[Array, Array, Array], Array]) -> Callable[[At], Array]:
    """Another normalisation: (image of 0..255, mean, deviation) to what comes out."""

    def output(at: At) -> Array:
        mean, std = (np.asarray(v, at.x.dtype) for v in (at.about.mean, at.about.std))
        return change(at.x, mean, std)

    return output


def memory_as_nchw(x: Array) -> Array:
    """The numbers of an NHWC array in their order in memory, taken for NCHW; back as NHWC."""
    n, h, w, c = x.shape
    return x.reshape(n, c, h, w).transpose(0, 2, 3, 1)


def memory_as_nhwc(x: Array) -> Array:
    """The numbers of an array that lies in memory as NCHW, taken for NHWC."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape)


def rows_and_columns_exchanged(x: Array) -> Array | None:
    n, h, w, c = x.shape
    return x.transpose(0, 2, 1, 3) if h == w else None


def pad_before_normalization(at: At) -> Array:
    """SAME's zeros put round the image: black, which normalisation then turns to -mean / std."""
    black = normalize(np.zeros(3, at.x.dtype), at.about.mean, at.about.std)
    kernel = at.tensors["stem/conv/kernel"]
    return conv2d(at.x - black, kernel, stride=2) + black @ kernel.sum((0, 1))


UNNORMALIZED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "neither mean nor deviation is applied": lambda x, mean, std: x,
    "pixels are divided by 255, and that is all": lambda x, mean, std: x / 255,
    "pixels are brought to -1..1, and that is all": lambda x, mean, std: x / 127.5 - 1,
    "the mean is not subtracted": lambda x, mean, std: x / std,
    "the deviation is not divided by": lambda x, mean, std: x - mean,
    "the mean is subtracted, but the division is by 255": lambda x, mean, std: (x - mean) / 255,
}
DOUBLED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "the image is normalised twice": lambda x, mean, std: ((x - mean) / std - mean) / std,
    "the mean is subtracted twice": lambda x, mean, std: (x - mean - mean) / std,
    "the deviation is divided by twice": lambda x, mean, std: (x - mean) / std / std,
}
INPUT = [
    Suspect(
        "bgr",
        "image",
        "the colours come as BGR, and the network wants RGB: reverse the last axis",
        lambda at: at.value[..., ::-1],
    ),
    Suspect(
        "bgr",
        "normalize",
        "the colours are normalised as RGB and then reversed: leave them as they are",
        lambda at: at.value[..., ::-1],
    ),
    Suspect(
        "bgr",
        "normalize",
        "means and deviations are in the order BGR, and the image is RGB: reverse them",
        colours(lambda x, mean, std: (x - mean[::-1]) / std[::-1]),
    ),
    Suspect(
        "bgr",
        "stem/conv",
        "the first kernel takes BGR, and the image is RGB: leave the kernel as it is",
        weights=lambda name, tensor: tensor[:, :, ::-1],
    ),
    *(
        Suspect(
            "no-normalization",
            "normalize",
            f"{how}: subtract the mean, divide by the deviation, both in units of 0..255",
            colours(change),
        )
        for how, change in UNNORMALIZED.items()
    ),
    Suspect(
        "zero-one-input",
        "image",
        "pixels of 0..1 are normalised with constants for 0..255: multiply by 255 first",
        lambda at: at.value / 255,
    ),
    *(
        Suspect("double-normalization", "normalize", f"{how}: once is enough", colours(change))
        for how, change in DOUBLED.items()
    ),
    Suspect(
        "pad-before-normalization",
        "stem/conv",
        "the image is padded before it is normalised: pad with zeros afterwards",
        pad_before_normalization,
    ),
    Suspect(
        "transposed-layout",
        "image",
        "an image in NHWC order is read as NCHW: transpose it, do not reshape",
        lambda at: memory_as_nchw(at.value),
    ),
    Suspect(
        "transposed-layout",
        "image",
        "an image in NCHW order is read as NHWC: transpose it, do not reshape",
        lambda at: memory_as_nhwc(at.value),
    ),
    Suspect(
        "transposed-layout",
        "image",
        "rows and columns of the image are exchanged: it is (height, width), not (width, height)",
        lambda at: rows_and_columns_exchanged(at.value),
    ),
    Suspect(
        "flipped-image",
        "image",
        "the image is mirrored left to right",
        lambda at: at.value[:, :, ::-1],
    ),
    Suspect("flipped-image", "image", "the image is upside down", lambda at: at.value[:, ::-1]),
]


# -- convolution ----------------------------------------------------------------------------------


def symmetric_padding(at: At) -> Array | None:
    """Stride 2 with as many zeros before as after: every other pixel of the same with stride 1,
    whose SAME padding is symmetric."""
    stride = at.block.stride if at.block else 2
    if stride == 1:
        return None
    return mix_or_conv(at, kernels_of(at), 1)[:, ::stride, ::stride]


def mix_or_conv(at: At, kernels: list[Array], stride: int) -> Array:
    return mix_conv(at.x, kernels, stride) if at.block else conv2d(at.x, kernels[0], stride)


def flipped(change: Callable[[Array], Array]) -> Callable[[str, Array], Array]:
    """Change how a kernel lies over the pixels."""
    return lambda name, tensor: change(tensor) if "/kernel" in name else tensor


def kernel_memory(name: str, tensor: Array, back: bool = False) -> Array:
    """A kernel in TensorFlow's order of memory, taken for PyTorch's (or, with back, vice versa)."""
    if "/kernel" not in name:
        return tensor
    order = (1, 0) if tensor.ndim == 2 else (2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1)
    if back:
        return np.ascontiguousarray(tensor.transpose(order)).reshape(tensor.shape)
    theirs = [tensor.shape[axis] for axis in order]
    return np.ascontiguousarray(tensor.reshape(theirs).transpose(np.argsort(order)))


def arranged(order: Callable[[int], list[int]]) -> Callable[[Array, Sequence[int]], list[Array]]:
    """Cut channels into groups of such sizes; of G groups, they lie there as order(G) says."""

    def cut(x: Array, sizes: Sequence[int]) -> list[Array]:
        there = order(len(sizes))
        ends = np.cumsum([sizes[group] for group in there])
        parts = dict(zip(there, np.split(x, ends[:-1], axis=-1), strict=True))
        return [parts[group] for group in range(len(sizes))]

    return cut


def interleaved(x: Array, sizes: Sequence[int]) -> list[Array]:
    """Group g of G has the channels g, g + G, ..."""
    return [x[..., group :: len(sizes)] for group in range(len(sizes))]


ORDERS = {
    "in order": arranged(lambda groups: list(range(groups))),
    "in reverse": arranged(lambda groups: list(range(groups))[::-1]),
    "the second first": arranged(lambda groups: [*range(1, groups), 0]),
    "the last first": arranged(lambda groups: [groups - 1, *range(groups - 1)]),
    "interleaved": interleaved,
}


def regrouped(taken: str, put: str) -> Callable[[At], Array | None]:
    """The groups' channels taken, and their outputs put, in such an order."""

    def output(at: At) -> Array | None:
        kernels = kernels_of(at)
        if len(kernels) < 2:
            return None
        parts = ORDERS[taken](at.x, [kernel.shape[2] for kernel in kernels])
        stride = at.block.stride if at.block else 1
        depthwise = at.kind == "depthwise_conv"
        result = np.empty_like(at.value)
        try:
            done = [
                depthwise_conv2d(part, k, stride) if depthwise else pointwise_conv2d(part, k)
                for part, k in zip(parts, kernels, strict=True)
            ]
            places = ORDERS[put](result, [part.shape[-1] for part in done])
            for place, part in zip(places, done, strict=True):
                place[:] = part
        except (InputError, ValueError):  # groups of different sizes do not fit one another's
            return None
        return result

    return output


def group_orders() -> Iterator[Suspect]:
    """Another order of what the groups take, or of what they give, or of both: of the kernels."""
    right, *wrong = ORDERS
    for order in wrong:
        for taken, put in ((order, right), (right, order), (order, order)):
            found = f"their channels are taken {taken}, their outputs put {put}"
            sentence = f"the channel groups are in another order: {found}; both belong in order"
            yield Suspect("group-order", GROUPED, sentence, regrouped(taken, put))


CONVOLUTION = [
    Suspect(
        "symmetric-padding",
        FILTERS,
        "stride 2 is padded symmetrically, as by padding=(k-1)//2: where SAME needs an odd number "
        "of zeros, it puts one more after than before, (0, 1) for 3x3 on an even side",
        symmetric_padding,
    ),
    *(
        Suspect("flipped-kernel", FILTERS, sentence, weights=flipped(change))
        for sentence, change in {
            "kernels are turned by 180 degrees: a network's convolution does not flip": (
                lambda k: k[::-1, ::-1]
            ),
            "rows and columns of the kernels are exchanged": lambda k: k.swapaxes(0, 1),
            "kernels are upside down": lambda k: k[::-1],
            "kernels are mirrored left to right": lambda k: k[:, ::-1],
        }.items()
    ),
    *group_orders(),
    Suspect(
        "transposed-layout",
        f"{FILTERS} {POINTWISE}",
        "kernels in TensorFlow's order (H, W, in, out) are reshaped to (out, in, H, W): transpose",
        weights=kernel_memory,
    ),
    Suspect(
        "transposed-layout",
        f"{FILTERS} {POINTWISE}",
        "kernels in PyTorch's order (out, in, H, W) are reshaped to (H, W, in, out): transpose",
        weights=lambda name, tensor: kernel_memory(name, tensor, back=True),
    ),
]


# -- batch normalisation --------------------------------------------------------------------------


def norm_with(
    change: Callable[[At, Statistics], tuple[Statistics, float]],
) -> Callable[[At], Array]:
    """The batch norm with other statistics or another epsilon."""

    def output(at: At) -> Array:
        vectors, epsilon = change(at, statistics(at.layer, at.tensors))
        with np.errstate(invalid="ignore", divide="ignore"):  # without epsilon, it may divide by 0
            return batch_norm(at.x, *vectors, epsilon)

    return output


def of_this_batch(at: At, s: Statistics) -> tuple[Statistics, float]:
    mean, variance = at.x.mean((0, 1, 2)), at.x.var((0, 1, 2))
    return Statistics(s.gamma, s.beta, mean, variance), at.about.epsilon


def epsilon_of(value: float) -> Callable[[At], Array]:
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
        norm_with(lambda at, s: (s._replace(beta=s.beta * 0, mean=s.mean * 0), at.about.epsilon)),
    ),
    Suspect(
        "missing-bias",
        NORMS,
        "batch norm's mean is not subtracted",
        norm_with(lambda at, s: (s._replace(mean=s.mean * 0), at.about.epsilon)),
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
        norm_with(lambda at, s: (s._replace(variance=(s.variance + at.about.epsilon) ** 2), 0.0)),
    ),
]


# -- activations, squeeze-and-excite, shortcuts, the end ------------------------------------------


def hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3, 0, 6) / 6


def where_swish(function: Callable[[Array], Array]) -> Callable[[At], Array | None]:
    return lambda at: function(at.x) if swishes(at) else None


def where_relu(function: Callable[[Array], Array]) -> Callable[[At], Array | None]:
    return lambda at: None if swishes(at) else function(at.x)


def pooled(kind: str, function: Callable[..., Array] = np.mean) -> Callable[[At], Array | None]:
    """Squeeze-and-excite that looks at another layer's output, if that has as many channels."""

    def output(at: At) -> Array | None:
        x = at.entry if kind == "entry" else at.seen.get(kind)
        if x is None or x.shape[-1] != at.value.shape[-1]:
            return None
        return function(x, axis=(1, 2), keepdims=True)

    return output


def fewer_units(share: int) -> Callable[[At], Array | None]:
    """Only the first of the squeezed units have any effect."""
    return lambda at: np.where(
        np.arange(at.value.shape[-1]) < at.value.shape[-1] // share, at.value, 0
    )


def residual_before_norm(at: At) -> Array:
    if at.kind == "output":
        return at.x
    return batch_norm(at.x + at.entry, *statistics(at.layer, at.tensors), at.about.epsilon)


def where_residual(function: Callable[[At], Array]) -> Callable[[At], Array | None]:
    return lambda at: function(at) if at.block and at.block.residual else None


def block_activation(at: At) -> Array:
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
            f"only one in {share} of the squeezed units is there: their number is the block's "
            "*input* filters times the ratio",
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
        "the block's input is not added to its output: it is, where stride is 1 and filters equal",
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


# -- precision ------------------------------------------------------------------------------------


def to_bfloat16(x: Array) -> Array:
    """Round to the nearest number with 8 significant bits, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def to_float16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_int8(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Round to 255 steps, as many up as down from zero, as large as the largest number needs."""
    step = np.abs(x).max(axes, keepdims=True) / np.float32(127)
    return np.round(x / np.where(step > 0, step, 1)) * step


def to_int8_by_channel(x: Array) -> Array:
    """As `to_int8`, with steps of its own for each output channel (depthwise: its one channel)."""
    if x.ndim == 1:
        return to_int8(x)
    axes = (0, 1) if x.ndim == 4 and x.shape[-1] == 1 else tuple(range(x.ndim - 1))
    return to_int8(x, axes)


def rounded(change: Callable[[Array], Array], which: str) -> Callable[[str, Array], Array]:
    return lambda name, tensor: change(tensor) if which in name else tensor


PRECISION = [
    Suspect("low-precision", kinds, f"{what} are rounded to {name}", weights=rounded(change, which))
    for name, change in {
        "float16": to_float16,
        "bfloat16": to_bfloat16,
        "8-bit integers, one scale a kernel": to_int8,
        "8-bit integers, one scale a channel": to_int8_by_channel,
    }.items()
    for what, kinds, which in (
        ("the kernels", f"{FILTERS} {POINTWISE}", "/kernel"),
        ("all weights", f"{FILTERS} {POINTWISE} {NORMS}", ""),
    )
]

SUSPECTS = [*INPUT, *CONVOLUTION, *NORMALIZATION, *ACTIVATION, *PRECISION]


# -- suspects that need something at hand ---------------------------------------------------------


def raw_weights(raw: Mapping[str, Array]) -> list[Suspect]:
    """The values as trained, in place of their moving averages: all, or these or those alone."""

    def taken(moving: tuple[bool, ...]) -> Callable[[str, Array], Array]:
        return lambda name, tensor: raw[name] if ("/moving_" in name) in moving else tensor

    kinds = f"{FILTERS} {POINTWISE} {NORMS}"
    advice = "raw weights: take the checkpoint's exponential moving averages"
    return [
        Suspect("raw-weights", kinds, f"these are {advice}", weights=taken((False, True))),
        Suspect(
            "raw-weights", NORMS, f"batch norm's statistics are {advice}", weights=taken((True,))
        ),
        Suspect(
            "raw-weights", kinds, f"all but the statistics are {advice}", weights=taken((False,))
        ),
    ]


def other_pixels(how: str, pixels: Array) -> Suspect:
    """The photo, brought to size in another way."""
    sentence = f"the photo is cropped or resized in another way: as by {how}"
    return Suspect("other-resize", "image", sentence, lambda at: pixels)
