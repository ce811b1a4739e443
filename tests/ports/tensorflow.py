"""The same network in TensorFlow: a frozen graph, TensorFlow Lite, and Keras models."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tensorflow_reference as reference
from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.engine.kernels import split_channels

Tensors = Mapping[str, np.ndarray]


def concrete_function(architecture: Architecture, tensors: Tensors, side: int) -> Any:
    """Return the reference network as one TensorFlow function of normalised pixels, NHWC."""
    tf = reference.import_tensorflow()
    network = reference.Network(
        architecture.block_strings,
        architecture.stem_filters,
        architecture.head_filters,
        architecture.multiplier,
        architecture.classes,
    )
    weights = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}

    def answer(pixels: Any) -> Any:
        run = Normalized(tf, weights, reference.EPSILON)
        return run.network(reference.blocks(network), pixels, 0, 1)["probabilities"]

    signature = tf.TensorSpec((1, side, side, 3), tf.float32, name="pixels")
    return tf.function(answer).get_concrete_function(signature)


class Normalized(reference._Run):
    """The network without its first step."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return self.note("normalize", image)


def frozen_graph(function: Any, path: Path) -> Path:
    """Write a frozen graph, with the names that TensorFlow gives its nodes."""
    path.write_bytes(function.graph.as_graph_def().SerializeToString())
    return path


def lite_file(function: Any, path: Path) -> Path:
    """Convert to TensorFlow Lite, in float32."""
    tf = reference.import_tensorflow()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    path.write_bytes(converter.convert())
    return path


def keras_model(architecture: Architecture, tensors: Tensors, side: int, named: bool) -> Any:
    """Return a functional Keras model of normalised pixels; unnamed layers are called conv2d_7."""
    import keras
    from keras import layers

    keras.utils.clear_session()  # automatic names count from 0
    loaded: list[tuple[Any, list[np.ndarray]]] = []

    def make(kind: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        if named:
            kwargs["name"] = name.replace("/", "_")
        return kind(*args, **kwargs)

    def conv(scope: str, x: Any, outputs: list[int], stride: int = 1, kernel: int = 1) -> Any:
        one, names = len(outputs) == 1, [f"{scope}/kernel_{g}" for g in range(len(outputs))]
        if scope in ("stem/conv", "head/conv"):
            names = [f"{scope}/kernel"]
        made = []
        for part, count, name in zip(parts(x, len(outputs)), outputs, names, strict=True):
            label = scope if one else name
            layer = make(
                layers.Conv2D, label, count, kernel, stride, padding="same", use_bias=False
            )
            made.append(layer(part))
            loaded.append((layer, [tensors[name]]))
        return made[0] if one else make(layers.Concatenate, scope)(made)

    def parts(x: Any, groups: int) -> list[Any]:
        if groups == 1:
            return [x]
        edges = np.cumsum([0, *split_channels(x.shape[-1], groups)])
        return [x[..., int(a) : int(b)] for a, b in pairwise(edges)]

    def depthwise(scope: str, x: Any, block: Block) -> Any:
        made = []
        sizes, one = block.kernel_sizes, len(block.kernel_sizes) == 1
        for g, (part, kernel) in enumerate(zip(parts(x, len(sizes)), sizes, strict=True)):
            label = scope if one else f"{scope}_{g}"
            layer = make(
                layers.DepthwiseConv2D, label, kernel, block.stride, padding="same", use_bias=False
            )
            made.append(layer(part))
            loaded.append((layer, [tensors[f"{scope}/kernel_{g}"]]))
        return made[0] if one else make(layers.Concatenate, scope)(made)

    def norm(scope: str, x: Any) -> Any:
        layer = make(layers.BatchNormalization, scope, epsilon=reference.EPSILON)
        kinds = ("gamma", "beta", "moving_mean", "moving_variance")
        y = layer(x)
        loaded.append((layer, [tensors[f"{scope}/{kind}"] for kind in kinds]))
        return y

    def act(name: str, x: Any, block: Block | None = None) -> Any:
        kind = "silu" if block is not None and block.swish else "relu"
        return make(layers.Activation, name, kind)(x)

    def dense(name: str, x: Any, width: int) -> Any:
        layer = make(layers.Conv2D, name, width, 1)
        y = layer(x)
        loaded.append((layer, [tensors[f"{name}/kernel"], tensors[f"{name}/bias"]]))
        return y

    inputs = keras.Input((side, side, 3))
    x = conv("stem/conv", inputs, [architecture.blocks[0].inputs], 2, 3)
    x = act("stem/act", norm("stem/bn", x))
    for block in architecture.blocks:
        scope, entry = block.name, x
        if block.expand_groups:
            x = conv(f"{scope}/expand_conv", x, split_channels(block.expanded, block.expand_groups))
            x = act(f"{scope}/expand_act", norm(f"{scope}/expand_bn", x), block)
        x = depthwise(f"{scope}/depthwise_conv", x, block)
        x = act(f"{scope}/depthwise_act", norm(f"{scope}/depthwise_bn", x), block)
        if block.se_width:
            pool = make(layers.GlobalAveragePooling2D, f"{scope}/se_pool", keepdims=True)
            y = dense(f"{scope}/se_reduce", pool(x), block.se_width)
            y = dense(f"{scope}/se_expand", act(f"{scope}/se_act", y, block), block.expanded)
            gate = make(layers.Activation, f"{scope}/se_gate", "sigmoid")(y)
            x = make(layers.Multiply, f"{scope}/se_scale")([x, gate])
        x = conv(f"{scope}/project_conv", x, split_channels(block.outputs, block.project_groups))
        x = norm(f"{scope}/project_bn", x)
        if block.residual:
            x = make(layers.Add, f"{scope}/output")([x, entry])
    x = act("head/act", norm("head/bn", conv("head/conv", x, [architecture.head_filters])))
    x = make(layers.GlobalAveragePooling2D, "head/pool")(x)
    last = make(layers.Dense, "logits", architecture.classes)
    x = last(x)
    loaded.append((last, [tensors["logits/kernel"], tensors["logits/bias"]]))
    model = keras.Model(inputs, make(layers.Softmax, "probabilities")(x))
    for layer, values in loaded:
        layer.set_weights([np.asarray(value) for value in values])
    return model
