"""The weights and pictures that every side of a benchmark runs: made up, but with sane values."""

from pathlib import Path

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights


def pictures(batch: int, size: int) -> np.ndarray:
    """Smooth colours with noise, (batch, size, size, 3) float32 of whole numbers 0..255.

    Picture i is the same in every batch, so that a batch can be checked by its pictures.
    """
    y, x = np.mgrid[0:size, 0:size, 0:1][:2] / size
    images = np.empty((batch, size, size, 3), np.float32)
    for i, image in enumerate(images):
        rng = np.random.default_rng([size, i])
        waves = np.sin(rng.uniform(2, 12, 3) * x + rng.uniform(2, 12, 3) * y + rng.uniform(0, 6, 3))
        image[:] = (128 + 90 * waves + rng.normal(0, 10, image.shape)).clip(0, 255).round()
    return images


def made_up_weights(architecture: Architecture, size: int) -> Weights:
    """Random weights under which values neither die away nor explode.

    Each batch norm takes the mean and variance that a few pictures of that size give it, as
    training would. The preset leaves a photo of size x size as it is.
    """
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in architecture.tensor_shapes().items():
        if "/kernel" in name:
            fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
            tensor = rng.normal(0, np.sqrt(2 / fan_in), shape)
        elif name.endswith("variance"):
            tensor = np.ones(shape)
        else:
            tensor = rng.uniform(0.7, 1.3, shape) if "gamma" in name else rng.normal(0, 0.2, shape)
        tensors[name] = tensor.astype(np.float32)
    metadata = Metadata(input_size=size, preset_parameters={"crop": 1.0}, name="made up")
    for layer, values in forward(pictures(4, size), architecture, tensors, metadata):
        if layer.endswith("conv"):  # the batch norm after it is computed next, with these
            scope = layer.removesuffix("conv") + "bn/moving_"
            variance = values.var((0, 1, 2))
            tensors[scope + "mean"] = values.mean((0, 1, 2))
            tensors[scope + "variance"] = variance + variance.mean()
    return Weights(architecture, tensors, metadata)


def write_made_up_weights(path: Path, architecture: Architecture, size: int) -> Weights:
    """Make the weights and put them where the processes of all sides find the same ones."""
    weights = made_up_weights(architecture, size)
    write_weights(path, weights)
    return weights
