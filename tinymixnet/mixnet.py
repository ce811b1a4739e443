"""All of MixNet: the pixels of a photo go in, one number for each class comes out."""

import numpy as np

from tinymixnet.engine.kernels import (
    batch_norm,
    conv2d,
    global_average_pool,
    grouped_conv2d,
    mix_conv,
    pointwise_conv2d,
    relu,
    squeeze_excite,
    swish,
)

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of red, green and blue over ImageNet
STD = np.array([58.395, 57.12, 57.375], np.float32)
EPSILON = 1e-3  # keeps batch norm from dividing by zero


def mixnet(pixels, weights, blocks):
    """pixels (N, H, W, 3), RGB, 0..255; weights {name: array}; blocks: the table of the network."""
    x = (pixels - MEAN) / STD
    x = conv2d(x, weights["stem/conv/kernel"], stride=2)  # (N, H/2, W/2, 32)
    x = relu(batch_norm(x, **part("stem/bn", weights), epsilon=EPSILON))
    for block in blocks:
        x = mixnet_block(x, part(block.name, weights), block)  # at the end (N, H/32, W/32, 264)
    x = pointwise_conv2d(x, weights["head/conv/kernel"])  # (N, H/32, W/32, 1536)
    x = relu(batch_norm(x, **part("head/bn", weights), epsilon=EPSILON))
    x = global_average_pool(x)  # (N, 1536)
    return x @ weights["logits/kernel"] + weights["logits/bias"]  # (N, classes)


def mixnet_block(x, weights, block):
    """Expand the channels, filter each by itself, weigh them, project them back, add the input."""
    activation = swish if block.swish else relu
    y = x  # (N, H, W, inputs)
    if block.expand_groups:
        y = grouped_conv2d(y, kernels("expand_conv", weights))  # (N, H, W, expanded)
        y = activation(batch_norm(y, **part("expand_bn", weights), epsilon=EPSILON))
    y = mix_conv(y, kernels("depthwise_conv", weights), block.stride)  # (N, H/stride, W/stride, ..)
    y = activation(batch_norm(y, **part("depthwise_bn", weights), epsilon=EPSILON))
    if block.se_width:
        w1, b1 = weights["se_reduce/kernel"], weights["se_reduce/bias"]
        w2, b2 = weights["se_expand/kernel"], weights["se_expand/bias"]
        y = squeeze_excite(y, w1, b1, w2, b2, activation)  # each channel times a number of 0..1
    y = grouped_conv2d(y, kernels("project_conv", weights))  # (N, H/stride, W/stride, outputs)
    y = batch_norm(y, **part("project_bn", weights), epsilon=EPSILON)
    return x + y if block.residual else y


def part(scope, weights):
    """The arrays inside a scope: part("stem/bn", weights) -> {"gamma": ..., "beta": ..., ...}."""
    return {n[len(scope) + 1 :]: a for n, a in weights.items() if n.startswith(f"{scope}/")}


def kernels(layer, weights):
    """The kernels of a layer, one for each group of channels, in order."""
    return [array for name, array in sorted(part(layer, weights).items())]
