"""More bugs planted in MixNet in TensorFlow: how its layers are put together, and what comes out.

Like those of `planted.py`, they were written as someone who ports the network would make them. A
layer that such a port does not have is not in its dump.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.planted_run import Planted, Scope, everywhere
from tests.support.tensorflow_reference import Block

RATE = 0.2  # of dropout and drop-connect


# -- activations -----------------------------------------------------------------------------------


class OtherActivation(Planted):
    """Another function(tf, x) in place of swish or of ReLU."""

    function: Callable[[Any, Any], Any]
    at: Scope = everywhere
    swishes: bool = True

    def act(self, name: str, x: Any, swish: bool) -> Any:
        if swish == self.swishes and self.at(name):
            return self.note(name, type(self).function(self.tf, x))
        return super().act(name, x, swish)


def gelu(tf: Any, x: Any) -> Any:
    return tf.nn.gelu(x, approximate=False)


def gelu_by_tanh(tf: Any, x: Any) -> Any:
    return tf.nn.gelu(x, approximate=True)


def mish(tf: Any, x: Any) -> Any:
    return x * tf.math.tanh(tf.math.softplus(x))


def quick_gelu(tf: Any, x: Any) -> Any:
    return x * tf.sigmoid(1.702 * x)


def relu6(tf: Any, x: Any) -> Any:
    return tf.nn.relu6(x)


class Clipped(Planted):
    """Every activation cut off at 6, swish too."""

    def act(self, name: str, x: Any, swish: bool) -> Any:
        y = self.swish(x) if swish else self.tf.nn.relu(x)
        return self.note(name, self.tf.minimum(y, 6))


class NoActivation(Planted):
    without: Scope = everywhere

    def act(self, name: str, x: Any, swish: bool) -> Any:
        left_out = self.without(name) and not name.endswith("/se_act")
        return self.note(name, x) if left_out else super().act(name, x, swish)


# -- batch norm ------------------------------------------------------------------------------------


class EpsilonOutside(Planted):
    """gamma / (sqrt(variance) + epsilon)."""

    def norm(self, scope: str, x: Any) -> Any:
        gamma, beta, mean, variance = (
            self.weights[f"{scope}/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / (self.tf.sqrt(variance) + self.epsilon)
        return self.note(scope, (x - mean) * scale + beta)


class NoNorm(Planted):
    without: Scope = everywhere

    def norm(self, scope: str, x: Any) -> Any:
        return self.note(scope, x) if self.without(scope) else super().norm(scope, x)


class Exchanged(Planted):
    """Tensors under each other's names, where their shapes allow it."""

    names: tuple[str, str]
    exchanged: Scope = everywhere

    def plant(self) -> None:
        super().plant()
        one, two = self.names
        for name in [name for name in self.weights if one in name and self.exchanged(name)]:
            other = name.replace(one, two)
            if self.weights[name].shape == self.weights[other].shape:
                pair = self.weights[other], self.weights[name]
                self.weights[name], self.weights[other] = pair


class NeighbourWeights(Planted):
    """All weights of the early block are those of the block before it."""

    def plant(self) -> None:
        super().plant()
        number = int(self.early.removeprefix("blocks_").rstrip("/"))
        before = f"blocks_{number - 1}/"
        for name in [name for name in self.weights if name.startswith(self.early)]:
            self.weights[name] = self.weights[before + name.removeprefix(self.early)]


# -- squeeze-excite --------------------------------------------------------------------------------


class NoSe(Planted):
    def squeeze_excite(self, scope: str, x: Any, swish: bool) -> Any:
        return x


class SeSum(Planted):
    def pool(self, scope: str, x: Any) -> Any:
        total = self.tf.reduce_sum(x, axis=[1, 2], keepdims=True)
        return self.note(f"{scope}/se_pool", total)


class GateAdded(Planted):
    def squeeze_excite(self, scope: str, x: Any, swish: bool) -> Any:
        super().squeeze_excite(scope, x, swish)
        return self.note(f"{scope}/se_scale", x + self.layers[f"{scope}/se_gate"])


class GateTwice(Planted):
    def squeeze_excite(self, scope: str, x: Any, swish: bool) -> Any:
        y = super().squeeze_excite(scope, x, swish)
        return self.note(f"{scope}/se_scale", y * self.layers[f"{scope}/se_gate"])


class SigmoidTwice(Planted):
    def gate(self, x: Any) -> Any:
        return self.tf.sigmoid(super().gate(x))


class SeBeforeDepthwise(Planted):
    def block(self, scope: str, block: Block, x: Any) -> Any:
        self.weighed = False
        return super().block(scope, block, x)

    def mixed(self, scope: str, x: Any, groups: int, stride: int) -> Any:
        name = scope.rpartition("/")[0]
        if f"{name}/se_reduce/kernel" in self.weights and f"{name}/expand_act" in self.layers:
            x = super().squeeze_excite(name, x, self.swishes(name))
            self.weighed = True
        return super().mixed(scope, x, groups, stride)

    def squeeze_excite(self, scope: str, x: Any, swish: bool) -> Any:
        return x if self.weighed else super().squeeze_excite(scope, x, swish)

    def swishes(self, name: str) -> bool:
        return self.table[int(name.removeprefix("blocks_"))].swish


# -- blocks ----------------------------------------------------------------------------------------


class ResidualTwice(Planted):
    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return super().residual(scope, x, entry, block) + entry


class Skipped(Planted):
    """The early block is not there, or only its output is."""

    shown: bool = True

    def block(self, scope: str, block: Block, x: Any) -> Any:
        if f"{scope}/" != self.early:
            return super().block(scope, block, x)
        return self.note(f"{scope}/output", x) if self.shown else x


class RunTwice(Planted):
    """The early block runs on its own output. Its layers are those of the first or last run."""

    keep_first: bool = False

    def block(self, scope: str, block: Block, x: Any) -> Any:
        x = super().block(scope, block, x)
        if f"{scope}/" != self.early:
            return x
        first = dict(self.layers)
        x = super().block(scope, block, x)
        if self.keep_first:
            self.layers = first
        return x


class DropConnect(Planted):
    """Drop-connect at work, at one rate: some images lose a block's branch, others get more."""

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        number = int(scope.removeprefix("blocks_"))
        rng = np.random.RandomState(number)
        kept = (rng.uniform(size=(len(x), 1, 1, 1)) >= RATE) / (1 - RATE)
        return entry + x * kept.astype(np.float32)


class DropConnectScaling(Planted):
    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return entry + x * (1 - RATE)


# -- filters ---------------------------------------------------------------------------------------


class OtherFilter(Planted):
    """Filters that move over their input in another way: `filter(run, x, kernel, stride, same)`.

    `same(x, kernel, stride)` is the right way; kernels of 1x1 are left alone.
    """

    filter: Callable[..., Any]
    at: Scope = everywhere
    strided: bool = True  # only where there is a stride

    def moved(self, scope: str, x: Any, kernel: Any, stride: int, same: Callable[..., Any]) -> Any:
        if not self.at(scope) or kernel.shape[0] == 1 or (self.strided and stride == 1):
            return same(x, kernel, stride)
        return type(self).filter(self.tf, x, kernel, stride, same)

    def conv(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        def same(x: Any, kernel: Any, stride: int, **how: Any) -> Any:
            return self.tf.nn.conv2d(x, kernel, stride, **{"padding": "SAME", **how})

        return self.moved(scope, x, kernel, stride, same)

    def depthwise(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        def same(x: Any, kernel: Any, stride: int, **how: Any) -> Any:
            steps = [1, stride, stride, 1]
            return self.tf.nn.depthwise_conv2d(x, kernel, steps, **{"padding": "SAME", **how})

        return self.moved(scope, x, kernel, stride, same)


def average_after(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    return tf.nn.avg_pool2d(same(x, kernel, 1), stride, stride, "VALID")


def largest_after(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    return tf.nn.max_pool2d(same(x, kernel, 1), stride, stride, "VALID")


def average_before(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    return same(tf.nn.avg_pool2d(x, stride, stride, "VALID"), kernel, 1)


def slice_before(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    return same(x[:, ::stride, ::stride], kernel, 1)


def slice_after(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    """On an even side this is symmetric padding: no dump can tell the two apart."""
    return same(x, kernel, 1)[:, ::stride, ::stride]


def _pads(x: Any, kernel: Any, stride: int) -> list[tuple[int, int]]:
    totals = [max((-(-n // stride) - 1) * stride + kernel.shape[0] - n, 0) for n in x.shape[1:3]]
    return [(0, 0), *((total // 2, total - total // 2) for total in totals), (0, 0)]


def replicate(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    for axis, (before, after) in enumerate(_pads(x, kernel, stride)):
        places = np.clip(np.arange(-before, x.shape[axis] + after), 0, x.shape[axis] - 1)
        x = tf.gather(x, places, axis=axis)
    return same(x, kernel, stride, padding="VALID")


def reflect(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    pads = _pads(x, kernel, stride)
    if max(max(pad) for pad in pads) >= min(x.shape[1:3]):
        return same(x, kernel, stride)
    return same(tf.pad(x, pads, "REFLECT"), kernel, stride, padding="VALID")


def dilated(tf: Any, x: Any, kernel: Any, stride: int, same: Any) -> Any:
    return same(x, kernel, stride) if stride > 1 else same(x, kernel, 1, dilations=[2, 2])


# -- what comes out --------------------------------------------------------------------------------


class PoolFirst(Planted):
    """The head pools, and then comes ReLU."""

    def act(self, name: str, x: Any, swish: bool) -> Any:
        return x if name == "head/act" else super().act(name, x, swish)

    def answer(self, x: Any) -> Any:
        return super().answer(self.tf.nn.relu(x))


class Dropout(Planted):
    """Dropout at work before the last layer; `shown`: its result stands as head/pool."""

    shown: bool = True

    def answer(self, x: Any) -> Any:
        kept = np.random.RandomState(7).uniform(size=x.shape) >= RATE
        x = x * (kept / (1 - RATE)).astype(np.float32)
        return super().answer(self.note("head/pool", x) if self.shown else x)


class DropoutScaling(Planted):
    def answer(self, x: Any) -> Any:
        return super().answer(x / (1 - RATE))


class Answer(Planted):
    """What comes out, changed by `change(run, logits)`."""

    change: Callable[[Any, Any], Any]

    def answer(self, x: Any) -> Any:
        return type(self).change(self, super().answer(x))


def permuted(run: Planted, x: Any) -> Any:
    return run.tf.gather(x, np.random.RandomState(3).permutation(x.shape[-1]), axis=-1)


def sorted_by_name(run: Planted, x: Any) -> Any:
    assert len(run.labels) == x.shape[-1], "the classes have no names"
    return run.tf.gather(x, np.argsort(run.labels, kind="stable"), axis=-1)


def log_softmax(run: Planted, x: Any) -> Any:
    return run.tf.nn.log_softmax(x)


def softmax(run: Planted, x: Any) -> Any:
    return run.tf.nn.softmax(x)


class Probabilities(Planted):
    """Another end(tf, logits) in place of softmax."""

    end: Callable[[Any, Any], Any]

    def network(self, *arguments: Any) -> dict[str, Any]:
        layers = super().network(*arguments)
        self.note("probabilities", type(self).end(self.tf, layers["logits"]))
        return layers


def softmax_twice(tf: Any, x: Any) -> Any:
    return tf.nn.softmax(tf.nn.softmax(x))


def log_softmax_of(tf: Any, x: Any) -> Any:
    return tf.nn.log_softmax(x)


# -- numbers ---------------------------------------------------------------------------------------


class OtherWeights(Planted):
    """Weights of the same shapes from another training."""

    def plant(self) -> None:
        super().plant()
        rng = np.random.RandomState(11)
        for name, x in self.weights.items():
            moved = rng.permutation(x.reshape(-1)).reshape(x.shape)
            self.weights[name] = (moved * rng.uniform(0.8, 1.2, x.shape)).astype(x.dtype)


class Overflow(Planted):
    """One batch norm of the early block in float16, where it multiplies before it divides."""

    def norm(self, scope: str, x: Any) -> Any:
        y = super().norm(scope, x)
        if scope != f"{self.early}depthwise_bn":
            return y
        factor = 65504 / float(self.tf.reduce_max(abs(y))) * 1.5
        scaled = self.tf.cast(y * factor, "float16")
        return self.note(scope, self.tf.cast(scaled, "float32") / factor)
