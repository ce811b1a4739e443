"""Ask TensorFlow the questions of notebooks/recorded.py, and record what it answers.

    python -m tests.support.record_tensorflow

writes notebooks/recorded.npz, which says what it holds.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np

from notebooks.recorded import RECORDED, Case, kernel_cases, small_image, small_tensors
from notebooks.recorded import SMALL as SMALL_ARCHITECTURE
from tests.support.tensorflow_reference import (
    EPSILON,
    Layers,
    Network,
    import_tensorflow,
    random_tensors,
    reference_layers,
    split_sizes,
)

__all__ = [
    "RECORDED", "SMALL", "Case", "kernel_cases", "small_image", "small_tensors",
    "tensorflow_answer", "tensorflow_answers",
]  # fmt: skip

SMALL = Network(
    stages=SMALL_ARCHITECTURE.block_strings,
    stem=SMALL_ARCHITECTURE.stem_filters,
    head=SMALL_ARCHITECTURE.head_filters,
    classes=SMALL_ARCHITECTURE.classes,
)
SMALL_SEED = 20


def _squeeze_excite(tf: ModuleType, activation: Any, *arrays: Any) -> Any:
    x, reduce_kernel, reduce_bias, expand_kernel, expand_bias = arrays
    pooled = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    narrow = activation(tf.nn.conv2d(pooled, reduce_kernel, 1, "SAME") + reduce_bias)
    return x * tf.sigmoid(tf.nn.conv2d(narrow, expand_kernel, 1, "SAME") + expand_bias)


def tensorflow_answer(case: Case) -> np.ndarray:
    """TensorFlow's answer to one case."""
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
    """Everything that the file holds, except the version: TensorFlow is asked now."""
    answers = {name: tensorflow_answer(case) for name, case in kernel_cases().items()}
    weights = random_tensors(SMALL, SMALL_SEED)
    answers.update({f"weights/{name}": tensor for name, tensor in weights.items()})
    layers = reference_layers(SMALL, weights, small_image())
    del layers["image"]  # the question, not an answer
    answers.update({f"network/{name}": layer for name, layer in layers.items()})
    return answers


def main() -> None:
    answers: dict[str, Any] = tensorflow_answers()
    answers["tensorflow"] = np.array(import_tensorflow().__version__)
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
