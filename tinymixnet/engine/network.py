"""The network again, layer by layer: the same as `mixnet.py`, for whoever wants to look inside.

`mixnet.py` computes the logits and shows nothing of the way there. Here each layer is a step of a
generator: it hands out its name and its output, and goes on with whatever tensor it gets back. That
is usually the same one. A debugger sends another network's tensor instead, and so feeds every layer
an input that no earlier layer of ours has touched.
"""

from collections.abc import Generator, Mapping
from typing import NamedTuple

from tinymixnet.engine.architecture import BATCH_NORM, Architecture, Block, group_kernels
from tinymixnet.engine.kernels import (
    Array,
    batch_norm,
    conv2d,
    dense,
    global_average_pool,
    grouped_conv2d,
    mix_conv,
    normalize,
    pointwise_conv2d,
    relu,
    sigmoid,
    softmax,
    swish,
)
from tinymixnet.engine.metadata import Metadata

Tensors = Mapping[str, Array]
Layers = Generator[tuple[str, Array], Array, Array]  # yields (name, tensor), is sent a tensor


def network(
    image: Array, architecture: Architecture, tensors: Tensors, metadata: Metadata
) -> Layers:
    """MixNet from pixels to probabilities. Yields (name, tensor), and is sent a tensor for each."""
    x = yield from stem(image, tensors, metadata)
    for block in architecture.blocks:
        x = yield from mixnet_block(x, block, tensors, metadata.epsilon)
    x = yield from head(x, tensors, metadata.epsilon)
    return x


def stem(image: Array, tensors: Tensors, metadata: Metadata) -> Layers:
    """Normalise the colours and detect the first edges, at half the resolution."""
    x = yield "image", image
    x = yield "normalize", normalize(x, metadata.mean, metadata.std)
    x = yield "stem/conv", conv2d(x, tensors["stem/conv/kernel"], stride=2)
    x = yield "stem/bn", batch_norm(x, *statistics("stem/bn", tensors), metadata.epsilon)
    x = yield "stem/act", relu(x)
    return x


def mixnet_block(x: Array, block: Block, tensors: Tensors, epsilon: float) -> Layers:
    """Expand the channels, filter each by itself, weigh them, project them back, add the input."""
    name, act = block.name, swish if block.swish else relu
    shortcut = x

    if block.expand_groups:
        kernels = group_kernels(f"{name}/expand_conv", tensors)
        x = yield f"{name}/expand_conv", grouped_conv2d(x, kernels)
        norm = statistics(f"{name}/expand_bn", tensors)
        x = yield f"{name}/expand_bn", batch_norm(x, *norm, epsilon)
        x = yield f"{name}/expand_act", act(x)

    kernels = group_kernels(f"{name}/depthwise_conv", tensors)
    x = yield f"{name}/depthwise_conv", mix_conv(x, kernels, block.stride)
    norm = statistics(f"{name}/depthwise_bn", tensors)
    x = yield f"{name}/depthwise_bn", batch_norm(x, *norm, epsilon)
    x = yield f"{name}/depthwise_act", act(x)

    if block.se_width:
        kernel, bias = tensors[f"{name}/se_reduce/kernel"], tensors[f"{name}/se_reduce/bias"]
        gate = yield f"{name}/se_pool", global_average_pool(x)[:, None, None, :]
        gate = yield f"{name}/se_reduce", pointwise_conv2d(gate, kernel, bias)
        gate = yield f"{name}/se_act", act(gate)
        kernel, bias = tensors[f"{name}/se_expand/kernel"], tensors[f"{name}/se_expand/bias"]
        gate = yield f"{name}/se_expand", pointwise_conv2d(gate, kernel, bias)
        gate = yield f"{name}/se_gate", sigmoid(gate)
        x = yield f"{name}/se_scale", x * gate

    kernels = group_kernels(f"{name}/project_conv", tensors)
    x = yield f"{name}/project_conv", grouped_conv2d(x, kernels)
    norm = statistics(f"{name}/project_bn", tensors)
    x = yield f"{name}/project_bn", batch_norm(x, *norm, epsilon)
    x = yield f"{name}/output", x + shortcut if block.residual else x
    return x


def head(x: Array, tensors: Tensors, epsilon: float) -> Layers:
    """Widen to 1536 channels, take the mean of each, and turn these into one number a class."""
    x = yield "head/conv", pointwise_conv2d(x, tensors["head/conv/kernel"])
    x = yield "head/bn", batch_norm(x, *statistics("head/bn", tensors), epsilon)
    x = yield "head/act", relu(x)
    x = yield "head/pool", global_average_pool(x)
    x = yield "logits", dense(x, tensors["logits/kernel"], tensors["logits/bias"])
    x = yield "probabilities", softmax(x)
    return x


class Statistics(NamedTuple):
    """The four vectors of a batch norm, in the order in which `batch_norm` takes them."""

    gamma: Array
    beta: Array
    mean: Array
    variance: Array


def statistics(layer: str, tensors: Tensors) -> Statistics:
    """The batch norm's vectors of a layer."""
    return Statistics(*(tensors[f"{layer}/{statistic}"] for statistic in BATCH_NORM))


def forward(
    image: Array, architecture: Architecture, tensors: Tensors, metadata: Metadata
) -> Generator[tuple[str, Array], Array | None, None]:
    """Run the network and yield each layer as (name, tensor), in order.

    image (N, H, W, 3) float32, RGB, 0..255. A caller may `.send` a tensor in place of the one just
    yielded: all later layers are then computed from it. (Sending None goes on with our own.) With
    image and tensors in float64 the whole run is in float64.
    """
    steps = network(image, architecture, tensors, metadata)
    try:
        name, tensor = next(steps)
        while True:
            replacement = yield name, tensor
            name, tensor = steps.send(tensor if replacement is None else replacement)
    except StopIteration:
        return
