"""TensorFlow, with a frozen graph: how the original network is run."""

from typing import Any

import numpy as np

from benchmarks.side import Ready, ready
from benchmarks.side_network import Arithmetic, is_depthwise, mean_and_std, network
from tinymixnet.engine.weights import Weights


class TensorFlowOperations(Arithmetic):
    """The operations of the original graph; its optimiser folds and fuses what it can."""

    def __init__(self, weights: Weights) -> None:
        import tensorflow as tf

        self.tf = tf
        self.epsilon = weights.metadata.epsilon
        self.variables = {name: tf.Variable(tensor) for name, tensor in weights.tensors.items()}

    def conv(self, x: Any, kernel: str, stride: int = 1, bias: str = "") -> Any:
        conv = self.tf.nn.depthwise_conv2d if is_depthwise(kernel) else self.tf.nn.conv2d
        x = conv(x, self.variables[kernel], strides=[1, stride, stride, 1], padding="SAME")
        return self.tf.nn.bias_add(x, self.variables[bias]) if bias else x

    def norm(self, x: Any, layer: str) -> Any:
        gamma, beta, mean, variance = (
            self.variables[f"{layer}/{v}"]
            for v in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return self.tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, epsilon=self.epsilon, is_training=False
        )[0]

    def relu(self, x: Any) -> Any:
        return self.tf.nn.relu(x)

    def swish(self, x: Any) -> Any:
        return self.tf.nn.silu(x)

    def sigmoid(self, x: Any) -> Any:
        return self.tf.sigmoid(x)

    def pool(self, x: Any) -> Any:
        return self.tf.reduce_mean(x, (1, 2), keepdims=True)

    def dense(self, x: Any, layer: str) -> Any:
        kernel, bias = self.variables[f"{layer}/kernel"], self.variables[f"{layer}/bias"]
        return self.tf.nn.bias_add(self.tf.squeeze(x, (1, 2)) @ kernel, bias)

    def split(self, x: Any, sizes: list[int]) -> Any:
        return self.tf.split(x, sizes, 3)

    def concat(self, parts: list[Any]) -> Any:
        return self.tf.concat(parts, 3)


def tensorflow_frozen(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if tf.config.threading.get_intra_op_parallelism_threads() == 0:  # once a process
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    ops = TensorFlowOperations(weights)
    mean, std = mean_and_std(weights.metadata)

    def graph(image: Any) -> Any:
        return network(ops, (image - mean) / std, weights.architecture)

    traced = tf.function(graph, input_signature=[tf.TensorSpec(pixels.shape, tf.float32)])
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    image = tf.constant(pixels)
    return ready(lambda: frozen(image)[0].numpy())
