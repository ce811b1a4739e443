"""Mistakes in how a block is put together: its shortcut, whole blocks, drop-connect."""

from collections.abc import Callable

import numpy as np

from tinymixnet.debug.suspects.context import (
    LayerContext,
    Suspect,
    block_output,
    convolved,
    kernels_of,
    swishes,
)
from tinymixnet.engine.architecture import Block
from tinymixnet.engine.kernels import Array, batch_norm, mix_conv, relu, swish
from tinymixnet.engine.network import statistics

FIRST = "expand_conv depthwise_conv head/conv"  # kinds that can begin a part
NEAR_ONE = 0.02  # a branch scaled by a factor this near 1 is not scaled


def residual_before_norm(at: LayerContext) -> Array:
    if at.kind == "output":
        return at.x
    return batch_norm(at.x + at.entry, *statistics(at.layer, at.tensors), at.metadata.epsilon)


def where_residual(
    function: Callable[[LayerContext], Array],
) -> Callable[[LayerContext], Array | None]:
    return lambda at: function(at) if at.block and at.block.residual else None


def block_activation(at: LayerContext) -> Array:
    return swish(at.value) if swishes(at) else relu(at.value)


def skipped(at: LayerContext) -> Array | None:
    return at.entry if at.entry.shape == at.value.shape else None


def twice(block_of: Callable[[LayerContext], Block | None]) -> Callable[..., Array | None]:
    """Return what this part gives if its input goes through the block `block_of(at)` first.

    Only a block with a residual can be run twice: its output fits its input.
    """

    def output(at: LayerContext) -> Array | None:
        block = block_of(at)
        if block is None or not block.residual:
            return None
        if at.kind == "output":
            return at.x + block_output(at.entry, block, at) if at.block.residual else None  # type: ignore[union-attr]
        if at.seen:  # not the first layer of this part
            return None
        x = block_output(at.entry, block, at)
        if at.kind == "depthwise_conv" and at.block:
            return mix_conv(x, kernels_of(at), at.block.stride)
        return convolved(at, x)

    return output


def branch_of(at: LayerContext) -> tuple[Array, Array]:
    """Return the branch of a block as ours has it, and what is added to it: none before the sum."""
    return (at.value, np.zeros_like(at.value)) if at.kind == "project_bn" else (at.x, at.entry)


def again(at: LayerContext) -> Array | None:
    """Return the output of a second run of the block, whose layers are those of the first."""
    return block_output(at.value, at.block, at) if at.block and at.block.residual else None


def branch_factors(at: LayerContext) -> Array | None:
    """Return by which factor each image's branch was multiplied before theirs added it, (N,)."""
    if (
        at.theirs is None
        or at.theirs.shape != at.value.shape
        or not (at.block and at.block.residual)
    ):
        return None
    n = len(at.x)
    scaled, entry = branch_of(at)
    branch = scaled.reshape(n, -1).astype(np.float64)
    added = (at.theirs - entry).reshape(n, -1)
    power = np.einsum("ij,ij->i", branch, branch)
    factors = np.einsum("ij,ij->i", branch, added) / np.where(power > 0, power, 1)
    return factors if np.isfinite(factors).all() else None


def drop_connect(at: LayerContext) -> Array | None:
    """Drop the whole branch of some images, and scale that of the others by 1 / (1 - rate)."""
    factors = branch_factors(at)
    if factors is None:
        return None
    factors[np.abs(factors) < NEAR_ONE] = 0
    kept = factors[factors > 0]
    if (factors < 0).any() or (kept < 1 - 1e-4).any() or (kept > 5).any():
        return None
    if not kept.size:  # nothing shows at which rate: the block may as well be skipped
        return branch_of(at)[1]
    if np.ptp(kept) > 1e-3 or (len(kept) == len(factors) and kept[0] < 1 + NEAR_ONE):
        return None
    branch, entry = branch_of(at)
    return entry + branch * factors.astype(np.float32)[:, None, None, None]


def scaled_branch(at: LayerContext) -> Array | None:
    """Scale the branch of all images by 1 - rate."""
    factors = branch_factors(at)
    if factors is None or np.ptp(factors) > 1e-3 or not 0.1 < factors[0] < 1 - NEAR_ONE:
        return None
    branch, entry = branch_of(at)
    return entry + branch * factors.astype(np.float32)[:, None, None, None]


BLOCK = [
    Suspect(
        "missing-residual",
        "output",
        "the block's input is not added to its output: add it if the stride is 1 and the "
        "numbers of filters are equal",
        where_residual(lambda at: at.x),
    ),
    Suspect(
        "residual-before-bn",
        "project_bn output",
        "the block's input is added before the last batch norm: add it after",
        where_residual(residual_before_norm),
        whole=True,
    ),
    Suspect(
        "residual-twice",
        "output",
        "the block's input is added twice: once is enough",
        where_residual(lambda at: at.value + at.entry),
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
        "block-skipped",
        "output",
        "the block is skipped: its output is its input, as with a wrong number of repeats",
        skipped,
    ),
    Suspect(
        "block-twice",
        f"{FIRST} output",
        "the block is run twice: its number of repeats is too large, or its output is fed back",
        twice(lambda at: at.block),
        whole=True,
    ),
    Suspect(
        "block-twice",
        "output",
        "the block is run twice: its number of repeats is too large, or its output is fed back",
        again,
    ),
    Suspect(
        "block-twice",
        f"{FIRST} output",
        "the block before this one is run twice: its number of repeats is too large",
        twice(lambda at: at.previous),
        whole=True,
    ),
    Suspect(
        "drop-connect",
        "project_bn output",
        "drop-connect is at work: it drops the whole branch of some images and enlarges that of "
        "the others, which belongs to training alone (model.eval())",
        drop_connect,
        fitted=True,
    ),
    Suspect(
        "drop-connect",
        "project_bn output",
        "the scaling of drop-connect is left in: the branch is multiplied by 1 - rate, and it "
        "should be added as it is",
        scaled_branch,
        fitted=True,
    ),
]
