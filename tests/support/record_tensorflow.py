"""Record what TensorFlow answers to small odd cases, for machines without TensorFlow.

    python -m tests.support.record_tensorflow

writes tests/support/data/tensorflow_layers.npz: `tensorflow` (the version that answered), one array
for every kernel case under its name, and every layer of one small network as `network/LAYER`.
Only answers are stored; questions are made again, bit for bit, from seeds.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.tensorflow_reference import (
    EPSILON,
    Layers,
    Network,
    import_tensorflow,
    random_tensors,
    reference_layers,
    split_sizes,
)

RECORDED = Path(__file__).parent / "data" / "tensorflow_layers.npz"

# Every split here is uneven, and 33 x 47 turns into odd and even sizes on the way down.
SMALL = Network(
    stages=(
        "r1_k3_a1_p1_s11_e1_i5_o5",
        "r1_k3.5.7_a1.1.1_p1.1_s22_e2_i5_o7_se0.5_sw",
        "r2_k3.5.7.9_a1.1_p1.1.1_s11_e3_i7_o7_se0.25",
        "r1_k5.11_a1.1_p1_s22_e3_i7_o9_sw",
    ),
    stem=5,
    head=13,
    classes=11,
)
SMALL_SEED = 20


@dataclass(frozen=True)
class Case:
    """One question to a kernel: the operation, its arrays in order, its stride if it has one."""

    operation: str
    arrays: list[Any]
    stride: int = 1


def _uniform(
    name: str, *shapes: tuple[int, ...], low: float = -1.0, high: float = 1.0
) -> list[np.ndarray]:
    """Arrays that depend on the arguments alone: NumPy has frozen RandomState's stream."""
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
    # 4 x 3 is smaller than most kernels: every window then reaches over both edges.
    for k, stride, (h, w) in product((3, 5, 7, 9, 11), (1, 2), ((4, 3), (9, 12), (10, 7))):
        name = f"depthwise_conv2d/k{k}_s{stride}_{h}x{w}"
        cases[name] = Case("depthwise_conv2d", _uniform(name, (2, h, w, 3), (k, k, 3, 1)), stride)
    mixes = ((10, (3, 5, 7)), (11, (3, 5)), (7, (3, 5, 7, 9)), (13, (3, 5, 7, 9, 11)))
    for (channels, sizes), stride in product(mixes, (1, 2)):
        name = f"mix_conv/c{channels}_k{max(sizes)}_s{stride}"
        widths = split_sizes(channels, len(sizes))
        shapes = [(k, k, c, 1) for k, c in zip(sizes, widths, strict=True)]
        x, *kernels = _uniform(name, (1, 11, 8, channels), *shapes)
        cases[name] = Case("mix_conv", [x, kernels], stride)
    for inputs, outputs, groups in ((10, 7, 3), (7, 10, 2), (5, 9, 4)):
        name = f"grouped_conv2d/{inputs}_to_{outputs}_in_{groups}"
        pairs = zip(split_sizes(inputs, groups), split_sizes(outputs, groups), strict=True)
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
    # Each range apart, for an error is measured against the largest value of its array.
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
    """Every kernel case by name, always with the same bits."""
    return _convolution_cases() | _other_cases()


def small_image() -> np.ndarray:
    """The picture shown to the small network: (1, 33, 47, 3) uint8."""
    return _uniform("image", (1, 33, 47, 3), low=0, high=256)[0].astype(np.uint8)


def small_tensors() -> Layers:
    """The small network's weights."""
    return random_tensors(SMALL, SMALL_SEED)


def _squeeze_excite(tf: ModuleType, activation: Any, *arrays: Any) -> Any:
    x, reduce_kernel, reduce_bias, expand_kernel, expand_bias = arrays
    pooled = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    narrow = activation(tf.nn.conv2d(pooled, reduce_kernel, 1, "SAME") + reduce_bias)
    return x * tf.sigmoid(tf.nn.conv2d(narrow, expand_kernel, 1, "SAME") + expand_bias)


def tensorflow_answer(case: Case) -> np.ndarray:
    """What TensorFlow says to one case."""
    tf, arrays, stride = import_tensorflow(), case.arrays, case.stride

    def depthwise(x: Any, kernel: Any) -> Any:
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

    def conv(x: Any, kernel: Any, bias: Any = 0.0) -> Any:
        return tf.nn.conv2d(x, kernel, stride, "SAME") + bias

    def by_group(operation: Any, x: Any, kernels: Any) -> Any:
        parts = tf.split(x, split_sizes(x.shape[-1], len(kernels)), axis=-1)
        return tf.concat([operation(p, k) for p, k in zip(parts, kernels, strict=True)], axis=-1)

    operations = {
        "conv2d": conv,
        "depthwise_conv2d": depthwise,
        "mix_conv": lambda x, kernels: by_group(depthwise, x, kernels),
        "grouped_conv2d": lambda x, kernels: by_group(conv, x, kernels),
        "batch_norm": lambda x, gamma, beta, mean, variance: tf.nn.batch_normalization(
            x, mean, variance, beta, gamma, EPSILON
        ),
        "softmax": tf.nn.softmax,
        "global_average_pool": lambda x: tf.reduce_mean(x, axis=[1, 2]),
        "dense": lambda x, kernel, bias: tf.matmul(x, kernel) + bias,
        "swish": tf.nn.silu,
        "sigmoid": tf.sigmoid,
        "relu": tf.nn.relu,
        "squeeze_excite_swish": lambda *a: _squeeze_excite(tf, tf.nn.silu, *a),
        "squeeze_excite_relu": lambda *a: _squeeze_excite(tf, tf.nn.relu, *a),
    }
    return np.asarray(operations[case.operation](*arrays))


def tensorflow_answers() -> Layers:
    """Everything the file holds but the version, asked of TensorFlow now."""
    answers = {name: tensorflow_answer(case) for name, case in kernel_cases().items()}
    layers = reference_layers(SMALL, small_tensors(), small_image())
    del layers["image"]  # the question, not an answer
    answers.update({f"network/{name}": layer for name, layer in layers.items()})
    return answers


def main() -> None:
    answers: dict[str, Any] = tensorflow_answers()
    answers["tensorflow"] = np.array(import_tensorflow().__version__)
    RECORDED.parent.mkdir(exist_ok=True)
    beside = RECORDED.with_name(RECORDED.name + ".part")
    try:
        with open(beside, "wb") as file:
            np.savez_compressed(file, **answers)
        os.replace(beside, RECORDED)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{RECORDED}: {len(answers)} arrays, {RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
