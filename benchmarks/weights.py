"""Made-up weights and pictures, for benchmarks and tests: random, but with the range of real ones.

The pictures are no photos and the weights are not trained, yet the values in every layer are about
as large as in a trained network. So times are those of real use, and errors are realistic too.
"""

from pathlib import Path

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights


def synthetic_image(n: int = 1, h: int = 224, w: int = 224, seed: int = 0) -> np.ndarray:
    """Return pictures with waves, a disc and noise, (n, h, w, 3) uint8.

    Like photos they have large areas, edges and fine grain.
    """
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


def pictures(batch: int, size: int) -> np.ndarray:
    """Return square synthetic images, (batch, size, size, 3) float32 of whole numbers 0..255.

    Picture i is the same in every batch, so that a batch can be checked picture by picture.
    """
    images = [synthetic_image(1, size, size, seed=i) for i in range(batch)]
    return np.concatenate(images).astype(np.float32)


def synthetic_tensors(
    architecture: Architecture, seed: int = 0, size: int = 112
) -> dict[str, np.ndarray]:
    """Return random float32 weights by canonical name, with calibrated batch norms.

    Each batch norm holds the mean and variance that four synthetic images of size x size give it,
    as training would. Without that, values would fade or explode on their way through so many
    random layers, and comparing them would prove little.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in architecture.tensor_shapes().items():
        if "kernel" in name:
            fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
            values = rng.normal(0, np.sqrt(2 / fan_in), shape)
        elif name.endswith("gamma"):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("moving_variance"):
            values = np.ones(shape)
        else:
            values = rng.normal(0, 0.3, shape)
        tensors[name] = values.astype(np.float32)
    images = synthetic_image(4, size, size, seed).astype(np.float32)
    for layer, x in forward(images, architecture, tensors, Metadata()):
        if layer.endswith("conv"):  # `forward` computes the batch norm after it next, with these
            norm = layer.removesuffix("conv") + "bn"
            variance = x.var((0, 1, 2))
            variance += variance.mean()  # in a layer of few pixels a channel may hardly vary
            tensors[f"{norm}/moving_mean"] = x.mean((0, 1, 2))
            tensors[f"{norm}/moving_variance"] = variance
    return tensors


def made_up_weights(architecture: Architecture, size: int) -> Weights:
    """Return synthetic tensors, with a preset that leaves a photo of size x size as it is."""
    metadata = Metadata(input_size=size, preset_parameters={"crop": 1.0}, name="made up")
    return Weights(architecture, synthetic_tensors(architecture, size=size), metadata)


def write_made_up_weights(path: Path, architecture: Architecture, size: int) -> Weights:
    """Write made-up weights to a file, from which every side's process reads the same ones."""
    weights = made_up_weights(architecture, size)
    write_weights(path, weights)
    return weights
