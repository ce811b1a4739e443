"""Make a Keras model of a MixNet; its layers have our names, with `_` for `/`."""

from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.weights import Weights
from weights_tools.extras import import_extra


def keras_model(weights: Weights, normalized: bool = False, size: int | None = None) -> Any:
    """Return the network as a `keras.Model`.

    The input is `image`, (N, size, size, 3) float32, RGB, 0..255; the outputs are the logits
    (N, classes). normalized: the input is `normalize`, with the mean subtracted and divided by the
    deviation already. size: pixels a side, without it the input size of the weights.
    """
    keras = import_extra("keras", "keras")
    network = _Network(keras, weights)
    size = weights.metadata.input_size if size is None else size
    image = keras.Input((size, size, 3), name="normalize" if normalized else "image")
    x = image if normalized else network.normalize(image)
    model = keras.Model(image, network.logits(x), name=weights.architecture.variant)
    for layer, arrays in network.arrays.items():
        model.get_layer(layer).set_weights(arrays)
    return model


class _Network:
    """Calls Keras's layers one after the other, and collects the arrays that each one needs."""

    def __init__(self, keras: Any, weights: Weights) -> None:
        self.layers = keras.layers
        self.split = keras.ops.split
        self.architecture, self.tensors, self.metadata = weights
        self.arrays: dict[str, list[np.ndarray]] = {}

    def normalize(self, image: Any) -> Any:
        mean, std = self.metadata.mean, self.metadata.std
        variance = [value**2 for value in std]
        return self.layers.Normalization(mean=mean, variance=variance, name="normalize")(image)

    def logits(self, x: Any) -> Any:
        x = self.relu("stem/act", self.batch_norm("stem/bn", self.conv("stem/conv", x, stride=2)))
        for block in self.architecture.blocks:
            x = self.block(block, x)
        x = self.relu("head/act", self.batch_norm("head/bn", self.conv("head/conv", x)))
        x = self.layers.GlobalAveragePooling2D(name="head_pool")(x)
        self.arrays["logits"] = [self.tensors["logits/kernel"], self.tensors["logits/bias"]]
        return self.layers.Dense(self.architecture.classes, name="logits")(x)

    def block(self, block: Block, entry: Any) -> Any:
        name, x = block.name, entry
        act = self.swish if block.swish else self.relu
        if block.expand_groups:
            x = self.batch_norm(f"{name}/expand_bn", self.conv(f"{name}/expand_conv", x))
            x = act(f"{name}/expand_act", x)
        x = self.conv(f"{name}/depthwise_conv", x, block.stride, depthwise=True)
        x = act(f"{name}/depthwise_act", self.batch_norm(f"{name}/depthwise_bn", x))
        if block.se_width:
            pool = self.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_pool")
            gate = act(f"{name}/se_act", self.conv(f"{name}/se_reduce", pool(x)))
            gate = self.conv(f"{name}/se_expand", gate)
            gate = self.layers.Activation("sigmoid", name=f"{name}_se_gate")(gate)
            x = self.layers.Multiply(name=f"{name}_se_scale")([x, gate])
        x = self.batch_norm(f"{name}/project_bn", self.conv(f"{name}/project_conv", x))
        if block.residual:
            return self.layers.Add(name=f"{name}_output")([x, entry])
        return self.layers.Activation("linear", name=f"{name}_output")(x)

    def conv(self, layer: str, x: Any, stride: int = 1, depthwise: bool = False) -> Any:
        """A convolution. Several groups are cut from the channels and put together again."""
        kernels = group_kernels(layer, self.tensors) or [self.tensors[f"{layer}/kernel"]]
        bias = self.tensors.get(f"{layer}/bias")

        def one(name: str, x: Any, kernel: np.ndarray) -> Any:
            side, _, _, filters = kernel.shape
            options = {
                "strides": stride, "padding": "same", "use_bias": bias is not None, "name": name,
            }  # fmt: skip
            self.arrays[name] = [kernel] if bias is None else [kernel, bias]
            if depthwise:
                return self.layers.DepthwiseConv2D(side, **options)(x)
            return self.layers.Conv2D(filters, side, **options)(x)

        name = layer.replace("/", "_")
        if len(kernels) == 1:
            return one(name, x, kernels[0])
        ends = np.cumsum([kernel.shape[2] for kernel in kernels])[:-1]
        parts = self.split(x, [int(end) for end in ends], axis=-1)
        done = [
            one(f"{name}_group_{g}", part, kernel)
            for g, (part, kernel) in enumerate(zip(parts, kernels, strict=True))
        ]
        return self.layers.Concatenate(name=name)(done)

    def batch_norm(self, layer: str, x: Any) -> Any:
        name = layer.replace("/", "_")
        statistics = ("gamma", "beta", "moving_mean", "moving_variance")
        self.arrays[name] = [self.tensors[f"{layer}/{statistic}"] for statistic in statistics]
        return self.layers.BatchNormalization(epsilon=self.metadata.epsilon, name=name)(x)

    def relu(self, layer: str, x: Any) -> Any:
        return self.layers.ReLU(name=layer.replace("/", "_"))(x)

    def swish(self, layer: str, x: Any) -> Any:
        return self.layers.Activation("silu", name=layer.replace("/", "_"))(x)


def export_keras(weights: Weights, output: Path, **options: Any) -> None:
    model = keras_model(weights, **options)
    named = output.with_suffix(".keras")  # Keras insists on this ending
    model.save(named)
    named.replace(output)
