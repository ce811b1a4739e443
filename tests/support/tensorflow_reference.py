"""MixNet written a second time, in plain TensorFlow, to judge tinymixnet by.

Nothing here is shared with the engine. The tables, the rounding of filter counts, the splits and
the padding (TensorFlow's own "SAME") come from the paper and from the original code's behaviour, so
a mistake would have to be made twice to go unnoticed. Only running a network needs TensorFlow; the
tables, the shapes and the random tensors do not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

Layers = dict[str, np.ndarray]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
EPSILON = 1e-3


@dataclass(frozen=True)
class Network:
    """A network as a table: a block string for each stage, with filter counts before scaling.

    Where multiplier is None the counts stay as they are, and are not rounded to a multiple of 8.
    """

    stages: tuple[str, ...]
    stem: int
    head: int = 1536
    multiplier: float | None = None
    classes: int = 1000


@dataclass(frozen=True)
class Block:
    """An inverted-residual block with scaled filter counts; se is 0 without squeeze-excite."""

    inputs: int
    outputs: int
    ratio: int
    kernels: tuple[int, ...]
    expand_groups: int
    project_groups: int
    stride: int
    se: float
    swish: bool


_S = Network(
    stages=(
        "r1_k3_a1_p1_s11_e1_i16_o16",
        "r1_k3_a1.1_p1.1_s22_e6_i16_o24",
        "r1_k3_a1.1_p1.1_s11_e3_i24_o24",
        "r1_k3.5.7_a1_p1_s22_e6_i24_o40_se0.5_sw",
        "r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw",
        "r1_k3.5.7_a1_p1.1_s22_e6_i40_o80_se0.25_sw",
        "r2_k3.5_a1_p1.1_s11_e6_i80_o80_se0.25_sw",
        "r1_k3.5.7_a1.1_p1.1_s11_e6_i80_o120_se0.5_sw",
        "r2_k3.5.7.9_a1.1_p1.1_s11_e3_i120_o120_se0.5_sw",
        "r1_k3.5.7.9.11_a1_p1_s22_e6_i120_o200_se0.5_sw",
        "r2_k3.5.7.9_a1_p1.1_s11_e6_i200_o200_se0.5_sw",
    ),
    stem=16,
)
_M = Network(
    stages=(
        "r1_k3_a1_p1_s11_e1_i24_o24",
        "r1_k3.5.7_a1.1_p1.1_s22_e6_i24_o32",
        "r1_k3_a1.1_p1.1_s11_e3_i32_o32",
        "r1_k3.5.7.9_a1_p1_s22_e6_i32_o40_se0.5_sw",
        "r3_k3.5_a1.1_p1.1_s11_e6_i40_o40_se0.5_sw",
        "r1_k3.5.7_a1_p1_s22_e6_i40_o80_se0.25_sw",
        "r3_k3.5.7.9_a1.1_p1.1_s11_e6_i80_o80_se0.25_sw",
        "r1_k3_a1_p1_s11_e6_i80_o120_se0.5_sw",
        "r3_k3.5.7.9_a1.1_p1.1_s11_e3_i120_o120_se0.5_sw",
        "r1_k3.5.7.9_a1_p1_s22_e6_i120_o200_se0.5_sw",
        "r3_k3.5.7.9_a1_p1.1_s11_e6_i200_o200_se0.5_sw",
    ),
    stem=24,
)
NETWORKS = {"mixnet-s": _S, "mixnet-m": _M, "mixnet-l": replace(_M, multiplier=1.3)}


def _network(net: str | Network) -> Network:
    return NETWORKS[net] if isinstance(net, str) else net


def _scaled(filters: int, multiplier: float | None) -> int:
    if multiplier is None:
        return filters
    target = filters * multiplier
    rounded = max(8, int(target + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * target else rounded


def split_sizes(channels: int, groups: int) -> list[int]:
    """Return the channels of each group: equal parts, and the remainder goes to the first."""
    part = channels // groups
    return [channels - part * (groups - 1)] + [part] * (groups - 1)


def blocks(net: str | Network) -> list[Block]:
    """Return the network's blocks: the repeats of a stage one by one, with scaled filter counts."""
    net = _network(net)
    result = []
    for stage in net.stages:
        options: dict[str, str] = {}
        for word in stage.split("_"):
            option = re.fullmatch(r"(se|sw|[rkapseio])([\d.]*)", word)
            assert option, f"{word!r} in block string {stage!r} is not understood"
            options[option[1]] = option[2]
        down, across = options["s"][0], options["s"][1]
        assert down == across, f"{stage!r}: strides differ between the axes"
        first = Block(
            inputs=_scaled(int(options["i"]), net.multiplier),
            outputs=_scaled(int(options["o"]), net.multiplier),
            ratio=int(options["e"]),
            kernels=tuple(int(k) for k in options["k"].split(".")),
            expand_groups=len(options["a"].split(".")),
            project_groups=len(options["p"].split(".")),
            stride=int(down),
            se=float(options.get("se", 0)),
            swish="sw" in options,
        )
        again = replace(first, inputs=first.outputs, stride=1)
        result += [first] + [again] * (int(options["r"]) - 1)
    return result


def tensor_shapes(net: str | Network) -> dict[str, tuple[int, ...]]:
    """Return the shape that the table gives each canonical tensor name."""
    net = _network(net)
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(scope: str, channels: int) -> None:
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{scope}/{kind}"] = (channels,)

    def grouped(scope: str, inputs: int, outputs: int, groups: int) -> None:
        sizes = zip(split_sizes(inputs, groups), split_sizes(outputs, groups), strict=True)
        for g, (one_in, one_out) in enumerate(sizes):
            shapes[f"{scope}/kernel_{g}"] = (1, 1, one_in, one_out)

    stem = _scaled(net.stem, net.multiplier)
    shapes["stem/conv/kernel"] = (3, 3, 3, stem)
    norm("stem/bn", stem)
    for i, block in enumerate(blocks(net)):
        scope, wide = f"blocks_{i}", block.inputs * block.ratio
        if block.ratio != 1:
            grouped(f"{scope}/expand_conv", block.inputs, wide, block.expand_groups)
            norm(f"{scope}/expand_bn", wide)
        widths = split_sizes(wide, len(block.kernels))
        for g, (k, c) in enumerate(zip(block.kernels, widths, strict=True)):
            shapes[f"{scope}/depthwise_conv/kernel_{g}"] = (k, k, c, 1)
        norm(f"{scope}/depthwise_bn", wide)
        if block.se:
            narrow = max(1, int(block.inputs * block.se))
            shapes[f"{scope}/se_reduce/kernel"] = (1, 1, wide, narrow)
            shapes[f"{scope}/se_reduce/bias"] = (narrow,)
            shapes[f"{scope}/se_expand/kernel"] = (1, 1, narrow, wide)
            shapes[f"{scope}/se_expand/bias"] = (wide,)
        grouped(f"{scope}/project_conv", wide, block.outputs, block.project_groups)
        norm(f"{scope}/project_bn", block.outputs)
    shapes["head/conv/kernel"] = (1, 1, blocks(net)[-1].outputs, net.head)
    norm("head/bn", net.head)
    shapes["logits/kernel"], shapes["logits/bias"] = (net.head, net.classes), (net.classes,)
    return shapes


def random_tensors(net: str | Network, seed: int) -> Layers:
    """Return float32 weights with the same bits on any machine and with any NumPy.

    They are drawn from RandomState.uniform alone: NumPy has frozen its stream, and it needs no
    mathematical library. A kernel is scaled by its fan-in, which keeps values near one through the
    layers of a small network.
    """
    rng = np.random.RandomState(seed)
    tensors = {}
    for name, shape in tensor_shapes(net).items():
        if name.endswith(("gamma", "moving_variance")):
            low, high = 0.5, 1.5
        elif name.endswith(("beta", "moving_mean", "bias")):
            low, high = -0.5, 0.5
        else:
            depthwise = "/depthwise_conv/" in name
            high = (6 / np.prod(shape[:2] if depthwise else shape[:-1])) ** 0.5
            low = -high
        tensors[name] = rng.uniform(low, high, shape).astype(np.float32)
    return tensors


def import_tensorflow() -> ModuleType:
    """Import TensorFlow without its start-up messages; ImportError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


class _Run:
    """A pass through the network in TensorFlow operations that notes every canonical layer.

    It has a method for each operation, so that planted.py can replace one of them.
    """

    def __init__(self, tf: ModuleType, weights: dict[str, Any], epsilon: float) -> None:
        self.tf, self.weights, self.epsilon = tf, weights, epsilon
        self.layers: dict[str, Any] = {}

    def note(self, name: str, x: Any) -> Any:
        self.layers[name] = x
        return x

    def act(self, name: str, x: Any, swish: bool) -> Any:
        return self.note(name, self.swish(x) if swish else self.tf.nn.relu(x))

    def swish(self, x: Any) -> Any:
        return self.tf.nn.silu(x)

    def gate(self, x: Any) -> Any:
        return self.tf.sigmoid(x)

    def picture(self, image: Any) -> Any:
        return self.note("image", image)

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return self.note("normalize", (image - mean) / std)

    def norm(self, scope: str, x: Any) -> Any:
        gamma, beta, mean, variance = (
            self.weights[f"{scope}/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y = self.tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)
        return self.note(scope, y)

    def conv(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        return self.tf.nn.conv2d(x, kernel, strides=stride, padding="SAME")

    def depthwise(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        return self.tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding="SAME")

    def parts(self, scope: str, x: Any, groups: int) -> list[Any]:
        return self.tf.split(x, split_sizes(x.shape[-1], groups), axis=-1)

    def kernels(self, scope: str, groups: int) -> list[Any]:
        return [self.weights[f"{scope}/kernel_{g}"] for g in range(groups)]

    def joined(self, scope: str, outs: list[Any]) -> Any:
        return self.tf.concat(outs, axis=-1)

    def grouped(self, scope: str, x: Any, groups: int) -> Any:
        """Apply 1x1 convolutions, each to its own part of the channels."""
        pairs = zip(self.parts(scope, x, groups), self.kernels(scope, groups), strict=True)
        outs = [self.conv(scope, part, kernel, 1) for part, kernel in pairs]
        return self.note(scope, self.joined(scope, outs))

    def mixed(self, scope: str, x: Any, groups: int, stride: int) -> Any:
        """MixConv: apply depthwise convolutions of several sizes, each to its own channels."""
        pairs = zip(self.parts(scope, x, groups), self.kernels(scope, groups), strict=True)
        outs = [self.depthwise(scope, part, kernel, stride) for part, kernel in pairs]
        return self.note(scope, self.joined(scope, outs))

    def pool(self, scope: str, x: Any) -> Any:
        return self.note(f"{scope}/se_pool", self.tf.reduce_mean(x, axis=[1, 2], keepdims=True))

    def squeeze_excite(self, scope: str, x: Any, swish: bool) -> Any:
        tf = self.tf

        def dense(name: str, y: Any) -> Any:
            kernel, bias = self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]
            conv = tf.nn.conv2d(y, kernel, strides=1, padding="SAME")
            return self.note(name, tf.nn.bias_add(conv, bias))

        pooled = self.pool(scope, x)
        narrow = self.act(f"{scope}/se_act", dense(f"{scope}/se_reduce", pooled), swish)
        gate = self.note(f"{scope}/se_gate", self.gate(dense(f"{scope}/se_expand", narrow)))
        return self.note(f"{scope}/se_scale", x * gate)

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return x + entry

    def block(self, scope: str, block: Block, x: Any) -> Any:
        entry = x
        if block.ratio != 1:
            x = self.grouped(f"{scope}/expand_conv", x, block.expand_groups)
            x = self.act(f"{scope}/expand_act", self.norm(f"{scope}/expand_bn", x), block.swish)
        x = self.mixed(f"{scope}/depthwise_conv", x, len(block.kernels), block.stride)
        x = self.act(f"{scope}/depthwise_act", self.norm(f"{scope}/depthwise_bn", x), block.swish)
        if block.se:
            x = self.squeeze_excite(scope, x, block.swish)
        x = self.grouped(f"{scope}/project_conv", x, block.project_groups)
        x = self.norm(f"{scope}/project_bn", x)
        if block.stride == 1 and block.inputs == block.outputs:
            x = self.residual(scope, x, entry, block)
        return self.note(f"{scope}/output", x)

    def answer(self, x: Any) -> Any:
        return self.tf.matmul(x, self.weights["logits/kernel"]) + self.weights["logits/bias"]

    def network(self, table: list[Block], image: Any, mean: Any, std: Any) -> dict[str, Any]:
        tf, weights = self.tf, self.weights
        x = self.normalize(self.picture(image), mean, std)
        x = self.conv("stem/conv", x, weights["stem/conv/kernel"], 2)
        x = self.norm("stem/bn", self.note("stem/conv", x))
        x = self.act("stem/act", x, swish=False)
        for i, block in enumerate(table):
            x = self.block(f"blocks_{i}", block, x)
        x = self.conv("head/conv", x, weights["head/conv/kernel"], 1)
        x = self.norm("head/bn", self.note("head/conv", x))
        x = self.act("head/act", x, swish=False)
        x = self.note("head/pool", tf.reduce_mean(x, axis=[1, 2]))
        x = self.note("logits", self.answer(x))
        self.note("probabilities", tf.nn.softmax(x))
        return self.layers


class _Calibrating(_Run):
    """A pass in which each batch norm takes the statistics of its input, and then uses them."""

    def norm(self, scope: str, x: Any) -> Any:
        mean, variance = self.tf.nn.moments(x, axes=[0, 1, 2])
        # In a small feature map a channel may hardly vary, and its noise must not be amplified.
        variance += self.tf.reduce_mean(variance) / 4
        self.weights[f"{scope}/moving_mean"] = mean.numpy()
        self.weights[f"{scope}/moving_variance"] = variance.numpy()
        return super().norm(scope, x)


def calibrated_tensors(
    net: str | Network, image: np.ndarray, seed: int, factors: Mapping[str, Sequence[float]] = {}
) -> Layers:
    """Return random_tensors with batch norm statistics of these pictures, (n, h, w, 3), 0..255.

    factors: multiplied with the first values of some tensors, before the statistics are taken.

    A deep random network needs this, and many pixels for it. Otherwise its values grow from layer
    to layer, squeeze-excite gates are stuck at 0 or 1, or a norm divides by the spread of a few
    values; then even TensorFlow's own float32 and float64 runs drift apart.
    """
    tensors = random_tensors(net, seed)
    for name, values in factors.items():
        tensors[name][: len(values)] *= np.array(values, np.float32)
    pixels, mean, std = (np.asarray(x, np.float32) for x in (image, MEAN, STD))
    _Calibrating(import_tensorflow(), tensors, EPSILON).network(blocks(net), pixels, mean, std)
    return tensors


def reference_program(
    net: str | Network,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "float32",
    fused: bool = False,
    fetch: Sequence[str] | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    epsilon: float = EPSILON,
) -> Callable[[np.ndarray], Layers]:
    """Return the network as a function from an image to its layers, run in one of two ways.

    Eager (fused=False) runs operation by operation. Fused makes one tf.function of the network,
    with the weights as constants. TensorFlow's graph optimiser then folds constants and joins
    operations, except where it must keep a layer of `fetch` (None: all layers).

    The function takes pixels (n, h, w, 3), RGB, 0..255. AssertionError where a tensor is missing,
    unknown or of another shape than in the table.
    """
    table, expected = blocks(net), tensor_shapes(net)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    differing = sorted(set(shapes.items()) ^ set(expected.items()))
    assert not differing, f"given tensors and the table differ in {differing}"
    tf = import_tensorflow()
    weights = {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}
    shift, scale = np.asarray(mean, dtype), np.asarray(std, dtype)

    names: list[str] = []

    def layers(image: Any) -> list[Any]:
        every = _Run(tf, weights, epsilon).network(table, image, shift, scale)
        # A tf.function returns dictionaries sorted by key, so the order is kept in `names`.
        names[:] = every if fetch is None else fetch
        return [every[name] for name in names]

    run = tf.function(layers) if fused else layers

    def program(image: np.ndarray) -> Layers:
        done = run(tf.constant(np.asarray(image, dtype)))
        return {name: tensor.numpy() for name, tensor in zip(names, done, strict=True)}

    return program


def reference_layers(
    net: str | Network, tensors: Mapping[str, np.ndarray], image: np.ndarray, **options: Any
) -> Layers:
    """Return every canonical layer of one run, in order; options are those of reference_program."""
    return reference_program(net, tensors, **options)(image)


def checkpoint_tensors(prefix: str, net: str | Network) -> Layers:
    """Return the moving averages of an original checkpoint, by canonical name; TensorFlow reads it.

    The numbers in the variables' names run through the whole graph, and only their order means
    anything. So a variable is identified by its scope, its kind and its place among these.
    """
    reader = import_tensorflow().train.load_checkpoint(prefix)
    average = "/ExponentialMovingAverage"
    numbers: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in reader.get_variable_to_shape_map():
        if not name.endswith(average):
            continue
        parts = name.removesuffix(average).split("/")
        scope = "/".join(part for part in parts[1:-2] if part != "mixnet_model")
        numbered = re.fullmatch(r"(.*)_(\d+)", parts[-2])
        kind, number = (numbered[1], int(numbered[2])) if numbered else (parts[-2], 0)
        numbers.setdefault((scope, f"{kind}/{parts[-1]}"), []).append((number, name))
    queues = {key: [name for _, name in sorted(names)] for key, names in numbers.items()}

    tensors = {}
    for name, shape in tensor_shapes(net).items():
        tensors[name] = reader.get_tensor(queues[_origin(name)].pop(0))
        assert tensors[name].shape == shape, f"{name}: {tensors[name].shape}, expected {shape}"
    left = [name for names in queues.values() for name in names]
    assert not left, f"variables without a place: {left}"
    return tensors


def _origin(name: str) -> tuple[str, str]:
    """Return the scope and kind that a canonical tensor name has in the original graph."""
    scope, *layer, kind = name.split("/")
    if scope == "logits":
        return "head", f"dense/{kind}"
    if layer[0].endswith("bn"):
        return scope, f"batch_normalization/{kind}"
    if layer[0].startswith("se_"):
        return f"{scope}/se", f"conv2d/{kind}"
    if layer[0] == "depthwise_conv":
        return scope, "depthwise_conv2d/depthwise_kernel"
    return scope, "conv2d/kernel"
