"""A network of which everybody can tell what it must see: how red and how blue each cell is."""

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.model import Model

STRIDE = 32
LABELS = ("red", "blue", "neither")

# Five layers of stride 2, as in MixNet, with kernels of several sizes; two channels all the way.
COLOURS = Architecture(
    variant="colours",
    block_strings=(
        "r1_k3_a1_p1_s22_e1_i2_o2",
        "r1_k3.5_a1_p1_s22_e1_i2_o2",
        "r1_k5.7_a1_p1_s22_e1_i2_o2",
        "r1_k7_a1_p1_s22_e1_i2_o2",
    ),
    stem_filters=2,
    head_filters=2,
    classes=3,
)


def colour_model(symmetric: bool = False) -> Model:
    """Return a model whose first channel is red and whose second is blue, averaged over pixels.

    Each layer of stride 2 takes the mean of the 2 x 2 pixels that one of its positions stands for
    where the axis is even, so that a cell is the mean of its own 32 x 32 pixels. With symmetric
    kernels it weighs the 3 x 3 pixels about the middle of the kernel instead, so that all pixels
    of the photo count alike.
    """

    def taps(size: int) -> np.ndarray:
        line = np.zeros(size)
        if symmetric:
            line[size // 2 - 1 : size // 2 + 2] = 1 / 4, 1 / 2, 1 / 4
        else:
            before = (size - 2) // 2  # what SAME pads before an even axis, and so where 2 i lies
            line[before : before + 2] = 1 / 2
        return np.outer(line, line)

    tensors = {}
    for name, shape in COLOURS.tensor_shapes().items():
        if name == "stem/conv/kernel":  # red to the first channel, blue to the second
            value = taps(3)[:, :, None, None] * np.array([[1, 0], [0, 0], [0, 1]])
        elif "depthwise" in name and "kernel" in name:
            value = np.broadcast_to(taps(shape[0])[:, :, None, None], shape)
        elif name == "logits/kernel":
            value = np.array([[1, 0, 0], [0, 1, 0]]) / 16
        elif name == "logits/bias":
            value = np.array([0.5, -0.5, 1])
        elif name.endswith("kernel") or "conv" in name:
            value = np.eye(2).reshape(shape)
        else:
            value = np.full(shape, float(name.endswith(("gamma", "variance"))))
        tensors[name] = np.array(value, np.float32)
    metadata = Metadata(
        labels=LABELS,
        input_size=128,
        preset="timm",
        preset_parameters={"crop": 1.0},
        mean=(0.0, 0.0, 0.0),  # so that black is zero
        std=(1.0, 1.0, 1.0),
    )
    return Model(COLOURS, tensors, metadata)
