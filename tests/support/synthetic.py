"""Networks and pictures made up for the tests: random, but with the range of trained ones."""

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward

# Small enough to run in milliseconds, with every feature of the block strings, and with channel
# counts that split unevenly (S, M and L have none): 10 into 3 kernel sizes, 15 into 2 groups.
TINY = Architecture(
    variant="tiny",
    block_strings=(
        "r1_k3_a1_p1_s11_e1_i5_o5",
        "r2_k3.5.7_a1.1_p1.1_s22_e2_i5_o7",
        "r1_k3.5.7.9.11_a1_p1.1_s22_e3_i7_o9_se0.5_sw",
        "r2_k3.5_a1.1_p1_s11_e3_i9_o9_se0.25_sw",
    ),
    stem_filters=5,
    head_filters=16,
    classes=6,
)


def synthetic_image(n: int = 1, h: int = 224, w: int = 224, seed: int = 0) -> np.ndarray:
    """Pictures with large shapes, edges and noise, (n, h, w, 3) uint8: the spectrum of photos."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    pictures = np.empty((n, h, w, 3))
    for picture in pictures:
        for channel in range(3):
            fy, fx, phase = rng.uniform(1, 9, 3)
            picture[..., channel] = 128 + 70 * np.sin(fy * y + fx * x + phase)
        cy, cx, radius = rng.uniform(0.2, 0.6, 3)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < radius**2 / 4] = rng.uniform(0, 255, 3)
    pictures += rng.normal(0, 8, pictures.shape)
    return pictures.clip(0, 255).astype(np.uint8)


def synthetic_tensors(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights, calibrated: batch norm holds the statistics that a picture gives.

    Without calibration the values of so many random layers would die away or explode, and a
    comparison of them would prove little.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in architecture.tensor_shapes().items():
        if "kernel" in name:
            inputs = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
            value = rng.normal(0, np.sqrt(2 / inputs), shape)
        elif name.endswith("gamma"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("moving_variance"):
            value = np.ones(shape)
        else:
            value = rng.normal(0, 0.3, shape)
        tensors[name] = value.astype(np.float32)
    picture = synthetic_image(4, 112, 112, seed).astype(np.float32)
    for name, x in forward(picture, architecture, tensors, Metadata()):
        if name.endswith("conv"):  # the batch norm that follows is computed after this
            norm = name.removesuffix("conv") + "bn"
            variance = x.var((0, 1, 2))
            variance += variance.mean()  # at few pixels a channel may hardly vary
            tensors[f"{norm}/moving_mean"] = x.mean((0, 1, 2))
            tensors[f"{norm}/moving_variance"] = variance
    return tensors
