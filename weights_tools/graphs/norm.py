"""What a graph does to each channel after a convolution, as one factor and one shift."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weights_tools.graphs.graph import Node


@dataclass
class Norm:
    """What a graph does to each channel after a convolution: x * scale + shift."""

    scale: np.ndarray
    shift: np.ndarray
    whole: tuple[np.ndarray, ...] = ()  # gamma, beta, mean, variance if it is one batch norm
    epsilon: float = 0.0
    steps: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the graph does nothing else than one batch norm."""
        return bool(self.whole) and self.steps == 1

    def apply(self, node: Node, values: Sequence[np.ndarray]) -> None:
        """Add one more operation. values: its constant inputs."""
        if node.operation == "BatchNormalization":
            gamma, beta, mean, variance = (np.ravel(v).astype(np.float64) for v in values)
            epsilon = float(node.options["epsilon"])
            scale = gamma / np.sqrt(variance + epsilon)
            self.whole, self.epsilon = tuple(map(np.ravel, values)), epsilon
            self.scale, self.shift = self.scale * scale, (self.shift - mean) * scale + beta
        else:
            value = np.ravel(values[0]).astype(np.float64)
            if node.operation == "Mul":
                self.scale, self.shift = self.scale * value, self.shift * value
            elif node.operation == "Div":
                self.scale, self.shift = self.scale / value, self.shift / value
            else:
                self.shift = self.shift + (value if node.operation == "Add" else -value)
        self.steps += 1


def output_axis(layer: str) -> int:
    """Return which axis of a kernel has the output channels: (K, K, C, 1) or (H, W, I, O)."""
    return 2 if layer.endswith("depthwise_conv") else 3


def scaled(layer: str, kernels: Sequence[np.ndarray], scale: np.ndarray) -> list[np.ndarray]:
    """Return the kernels of a layer times a factor for each of its output channels."""
    axis = output_axis(layer)
    ends = np.cumsum([kernel.shape[axis] for kernel in kernels])[:-1]
    factors = np.split(scale, ends)
    return [
        kernel * (factor[:, None] if axis == 2 else factor)
        for kernel, factor in zip(kernels, factors, strict=True)
    ]
