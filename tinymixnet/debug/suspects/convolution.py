"""Mistakes in convolutions: padding, kernels that lie the wrong way, groups in another order."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tinymixnet.debug.suspects.context import (
    FILTERS,
    GROUPED,
    POINTWISE,
    LayerContext,
    Suspect,
    kernels_of,
)
from tinymixnet.engine.kernels import (
    Array,
    conv2d,
    depthwise_conv2d,
    mix_conv,
    pointwise_conv2d,
)
from tinymixnet.errors import InputError


def symmetric_padding(at: LayerContext) -> Array | None:
    """Stride 2 with as many zeros before as after: every other pixel of the same with stride 1,
    whose SAME padding is symmetric."""
    stride = at.block.stride if at.block else 2
    if stride == 1:
        return None
    return mix_or_conv(at, kernels_of(at), 1)[:, ::stride, ::stride]


def mix_or_conv(at: LayerContext, kernels: list[Array], stride: int) -> Array:
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


def regrouped(taken: str, put: str) -> Callable[[LayerContext], Array | None]:
    """The groups' channels taken, and their outputs put, in such an order."""

    def output(at: LayerContext) -> Array | None:
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
