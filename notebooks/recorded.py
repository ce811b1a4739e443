"""What TensorFlow answered to small questions, for readers without TensorFlow.

The answers are in recorded.npz: one array for each kernel case under the name of the case, and
every layer of one small network as `network/LAYER`. The file also holds that network's weights, as
`weights/NAME`, and TensorFlow's version, as `tensorflow`. All other questions are made here from
fixed seeds, so they are the same on every machine.

`python -m tests.support.record_tensorflow` asks TensorFlow and writes the file.
"""

import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Architecture

RECORDED = Path(__file__).with_name("recorded.npz")

# Every split of channels is uneven here, and 33 x 47 pixels become odd and even on the way down.
SMALL = Architecture(
    variant="small",
    block_strings=(
        "r1_k3_a1_p1_s11_e1_i5_o5",
        "r1_k3.5.7_a1.1.1_p1.1_s22_e2_i5_o7_se0.5_sw",
        "r2_k3.5.7.9_a1.1_p1.1.1_s11_e3_i7_o7_se0.25",
        "r1_k5.11_a1.1_p1_s22_e3_i7_o9_sw",
    ),
    stem_filters=5,
    head_filters=13,
    classes=11,
)


@dataclass(frozen=True)
class Case:
    """A question to a kernel: the operation, the arrays it takes in order, and the stride."""

    operation: str
    arrays: list[Any]
    stride: int = 1


def _uniform(
    name: str, *shapes: tuple[int, ...], low: float = -1.0, high: float = 1.0
) -> list[np.ndarray]:
    """Random arrays, always the same for a name: RandomState's numbers are frozen by NumPy."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return [rng.uniform(low, high, shape).astype(np.float32) for shape in shapes]


def _float32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def _convolution_cases() -> dict[str, Case]:
    cases = {}
    for k, stride in product((1, 2, 3, 4, 5), (1, 2, 3)):
        name = f"conv2d/k{k}_s{stride}"
        cases[name] = Case("conv2d", _uniform(name, (2, 9, 14, 3), (k, k, 3, 4)), stride)
    arrays = _uniform("bias", (1, 7, 6, 3), (3, 3, 3, 4), (4,))
    cases["conv2d/k3_s2_bias"] = Case("conv2d", arrays, 2)
    # 4 x 3 pixels are fewer than most of these kernels cover: each window reaches over both edges.
    for k, stride, (h, w) in product((3, 5, 7, 9, 11), (1, 2), ((4, 3), (9, 12), (10, 7))):
        name = f"depthwise_conv2d/k{k}_s{stride}_{h}x{w}"
        cases[name] = Case("depthwise_conv2d", _uniform(name, (2, h, w, 3), (k, k, 3, 1)), stride)
    # Each kernel size with its number of channels; none of the splits is even.
    mixes = (
        {3: 4, 5: 3, 7: 3},
        {3: 6, 5: 5},
        {3: 4, 5: 1, 7: 1, 9: 1},
        {3: 5, 5: 2, 7: 2, 9: 2, 11: 2},
    )
    for mix, stride in product(mixes, (1, 2)):
        channels = sum(mix.values())
        name = f"mix_conv/c{channels}_k{max(mix)}_s{stride}"
        shapes = [(k, k, c, 1) for k, c in mix.items()]
        x, *kernels = _uniform(name, (1, 11, 8, channels), *shapes)
        cases[name] = Case("mix_conv", [x, kernels], stride)
    # The input channels of each group with its output channels.
    groupings = (
        ((4, 3), (3, 2), (3, 2)),
        ((4, 5), (3, 5)),
        ((2, 3), (1, 2), (1, 2), (1, 2)),
    )
    for pairs in groupings:
        inputs, outputs = (sum(channels) for channels in zip(*pairs, strict=True))
        name = f"grouped_conv2d/{inputs}_to_{outputs}_in_{len(pairs)}"
        x, *kernels = _uniform(name, (2, 5, 3, inputs), *((1, 1, i, o) for i, o in pairs))
        cases[name] = Case("grouped_conv2d", [x, kernels])
    return cases


def _other_cases() -> dict[str, Case]:
    cases = {
        "softmax/usual": Case("softmax", _uniform("softmax", (3, 10), low=-5, high=5)),
        "softmax/extreme": Case("softmax", [_float32([[1000, 999, -1000], [-1e4] * 3])]),
        "global_average_pool": Case("global_average_pool", _uniform("pool", (2, 7, 5, 4))),
        "dense": Case("dense", _uniform("dense", (3, 17), (17, 5), (5,))),
    }
    variances = {"usual": (0.3, 0.9, 1.1, 2.0, 5.0, 0.01), "tiny": (0, 1e-10, 1e-6, 1e-3, 1e-2, 1)}
    for what, values in variances.items():
        arrays = _uniform(f"batch_norm/{what}", (2, 5, 3, 6), (6,), (6,), (6,))
        cases[f"batch_norm/{what}"] = Case("batch_norm", [*arrays, _float32(values)])
    # One case for each range, because an error is measured against the largest value of its array.
    ranges = {
        "small": _float32([-1e-30, -1e-10, -1e-4, 0, 1e-4, 1e-10, 1e-30]),
        "middle": np.linspace(-12, 12, 97, dtype=np.float32),
        "negative": _float32([-1e30, -1000, -104, -89, -88, -87, -60, -40, -20]),
        "positive": _float32([20, 40, 60, 87, 88, 89, 104, 1000]),
        "huge": _float32([1e10, 1e30, 3e38]),
    }
    for act, (what, x) in product(("swish", "sigmoid", "relu"), ranges.items()):
        cases[f"{act}/{what}"] = Case(act, [x])
    for act, narrow in product(("swish", "relu"), (1, 3)):
        name = f"squeeze_excite_{act}"
        shapes = ((2, 5, 6, 8), (1, 1, 8, narrow), (narrow,), (1, 1, narrow, 8), (8,))
        cases[f"{name}/{narrow}"] = Case(name, _uniform(f"{name}/{narrow}", *shapes))
    return cases


def kernel_cases() -> dict[str, Case]:
    """Every question to a kernel by name; the answer stands in RECORDED under the same name."""
    return _convolution_cases() | _other_cases()


def small_image() -> np.ndarray:
    """The picture that the small network was shown: (1, 33, 47, 3) uint8."""
    return _uniform("image", (1, 33, 47, 3), low=0, high=256)[0].astype(np.uint8)


def small_tensors() -> dict[str, np.ndarray]:
    """The weights of the small network by name."""
    with np.load(RECORDED) as recorded:
        weights = [name for name in recorded if name.startswith("weights/")]
        return {name.removeprefix("weights/"): recorded[name] for name in weights}
