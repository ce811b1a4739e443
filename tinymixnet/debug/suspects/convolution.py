"""Mistakes in convolutions: flipped kernels, groups of channels in another order, other weights."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tinymixnet.debug.suspects.context import (
    FILTERS,
    GROUPED,
    NORMS,
    POINTWISE,
    LayerContext,
    Suspect,
    kernels_of,
)
from tinymixnet.engine.kernels import Array, depthwise_conv2d, pointwise_conv2d
from tinymixnet.errors import InputError

MOST_GROUPS = 5  # of a mixed convolution in any MixNet


def flipped(change: Callable[[Array], Array]) -> Callable[[str, Array], Array]:
    """Apply a change to kernels, and to no other weights."""
    return lambda name, tensor: change(tensor) if "/kernel" in name else tensor


def flipped_in_group(change: Callable[[Array], Array], group: int) -> Callable[[str, Array], Array]:
    """Apply a change to the kernels of one group of channels."""
    return lambda name, tensor: change(tensor) if name.endswith(f"/kernel_{group}") else tensor


def kernel_memory(name: str, tensor: Array, back: bool = False) -> Array:
    """Read the memory of a kernel in TensorFlow's order as if it were in PyTorch's order.

    back: read the memory of PyTorch's order as if it were in TensorFlow's.
    """
    if "/kernel" not in name:
        return tensor
    order = (1, 0) if tensor.ndim == 2 else (2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1)
    if back:
        return np.ascontiguousarray(tensor.transpose(order)).reshape(tensor.shape)
    theirs = [tensor.shape[axis] for axis in order]
    return np.ascontiguousarray(tensor.reshape(theirs).transpose(np.argsort(order)))


def arranged(order: Callable[[int], list[int]]) -> Callable[[Array, Sequence[int]], list[Array]]:
    """Return a function that cuts channels into groups which lie in the order order(G)."""

    def cut(x: Array, sizes: Sequence[int]) -> list[Array]:
        groups = order(len(sizes))
        ends = np.cumsum([sizes[group] for group in groups])
        parts = dict(zip(groups, np.split(x, ends[:-1], axis=-1), strict=True))
        return [parts[group] for group in range(len(sizes))]

    return cut


def interleaved(x: Array, sizes: Sequence[int]) -> list[Array]:
    """Cut channels into groups: of G groups, group g has the channels g, g + G, ..."""
    return [x[..., group :: len(sizes)] for group in range(len(sizes))]


ORDERS = {
    "in order": arranged(lambda groups: list(range(groups))),
    "in reverse": arranged(lambda groups: list(range(groups))[::-1]),
    "the second first": arranged(lambda groups: [*range(1, groups), 0]),
    "the last first": arranged(lambda groups: [groups - 1, *range(groups - 1)]),
    "interleaved": interleaved,
}


def regrouped(taken: str, put: str) -> Callable[[LayerContext], Array | None]:
    """Take the groups' inputs in one order of channels and put their outputs in another."""

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
        except (InputError, ValueError):  # groups of different sizes cannot change places
            return None
        return result

    return output


def group_orders() -> Iterator[Suspect]:
    """Yield suspects with another order of the groups' inputs, of their outputs, or of both."""
    right, *wrong = ORDERS
    for order in wrong:
        for taken, put in ((order, right), (right, order), (order, order)):
            orders = f"their channels are taken {taken}, their outputs put {put}"
            sentence = f"the channel groups are in another order: {orders}; both belong in order"
            yield Suspect("group-order", GROUPED, sentence, regrouped(taken, put))


def neighbour(step: int) -> Callable[[str], str]:
    """Return a function from the name of a tensor to that of the same tensor `step` blocks on."""

    def other(name: str) -> str:
        part, _, rest = name.partition("/")
        block = part.removeprefix("blocks_")
        return f"blocks_{int(block) + step}/{rest}" if block.isdecimal() else name

    return other


FLIPS: dict[str, Callable[[Array], Array]] = {
    "kernels are turned by 180 degrees: a network's convolution does not flip": (
        lambda k: k[::-1, ::-1]
    ),
    "rows and columns of the kernels are exchanged": lambda k: k.swapaxes(0, 1),
    "kernels are upside down": lambda k: k[::-1],
    "kernels are mirrored left to right": lambda k: k[:, ::-1],
}
CONVOLUTION = [
    *(
        Suspect("flipped-kernel", FILTERS, sentence, weights=flipped(change))
        for sentence, change in FLIPS.items()
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
    *(
        Suspect(
            "neighbour-weights",
            f"depthwise_conv {POINTWISE} {NORMS}",
            f"the weights are those of the block {where}: load each block's own",
            other=neighbour(step),
        )
        for step, where in ((-1, "before"), (1, "after"))
    ),
]

# Not in the list of all suspects: `break` draws from that, and its secrets should stay the same.
ONE_GROUP = [
    Suspect(
        "flipped-kernel",
        "depthwise_conv",
        f"in one group of channels, number {group} from 0, {sentence}",
        weights=flipped_in_group(change, group),
    )
    for sentence, change in FLIPS.items()
    for group in range(MOST_GROUPS)
]
