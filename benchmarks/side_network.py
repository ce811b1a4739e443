"""The network, written once over a handful of operations that each framework supplies.

So the sides differ in how they compute, never in what.
"""

from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.engine.kernels import split_channels
from tinymixnet.engine.metadata import Metadata


def network(ops: Any, x: Any, architecture: Architecture) -> Any:
    """Compute the logits of normalised pixels; ops supplies the operations and the weights."""
    x = ops.relu(ops.norm(ops.conv(x, "stem/conv/kernel", stride=2), "stem/bn"))
    for block in architecture.blocks:
        x = mixnet_block(ops, x, block)
    x = ops.relu(ops.norm(ops.conv(x, "head/conv/kernel"), "head/bn"))
    return ops.dense(ops.pool(x), "logits")


def mixnet_block(ops: Any, x: Any, block: Block) -> Any:
    """Expand, filter with several kernel sizes, weigh the channels, project, add the input."""
    name, act, shortcut = block.name, ops.swish if block.swish else ops.relu, x
    groups = split_channels(block.inputs, block.expand_groups) if block.expand_groups else []
    if groups:
        x = grouped(ops, x, f"{name}/expand_conv", groups)
        x = act(ops.norm(x, f"{name}/expand_bn"))
    groups = split_channels(block.expanded, len(block.kernel_sizes))
    x = grouped(ops, x, f"{name}/depthwise_conv", groups, block.stride)
    x = act(ops.norm(x, f"{name}/depthwise_bn"))
    if block.se_width:
        gate = ops.conv(ops.pool(x), f"{name}/se_reduce/kernel", bias=f"{name}/se_reduce/bias")
        gate = ops.conv(act(gate), f"{name}/se_expand/kernel", bias=f"{name}/se_expand/bias")
        x = ops.multiply(x, ops.sigmoid(gate))
    groups = split_channels(block.expanded, block.project_groups)
    x = ops.norm(grouped(ops, x, f"{name}/project_conv", groups), f"{name}/project_bn")
    return ops.add(x, shortcut) if block.residual else x


def grouped(ops: Any, x: Any, layer: str, groups: list[int], stride: int = 1) -> Any:
    """Convolve each group of channels by itself, and put the results side by side."""
    parts = ops.split(x, groups) if len(groups) > 1 else [x]
    parts = [ops.conv(part, f"{layer}/kernel_{g}", stride) for g, part in enumerate(parts)]
    return ops.concat(parts) if len(parts) > 1 else parts[0]


class Arithmetic:
    """The operations of frameworks whose tensors know Python's operators."""

    def multiply(self, x: Any, gate: Any) -> Any:
        return x * gate

    def add(self, x: Any, shortcut: Any) -> Any:
        return x + shortcut


def is_depthwise(kernel: str) -> bool:
    return "/depthwise_conv/" in kernel


def to_oihw(name: str, tensor: np.ndarray) -> np.ndarray:
    """Return a kernel in the layout of PyTorch and ONNX, where a depthwise one is (C, 1, k, k)."""
    if tensor.ndim != 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if is_depthwise(name) else (3, 2, 0, 1))


def mean_and_std(metadata: Metadata) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(metadata.mean, np.float32), np.asarray(metadata.std, np.float32)
