"""Compute one layer of our network from inputs that somebody hands in.

`network.py` runs the whole network and cannot stop, go back and try another input. A search that
tries many inputs for one layer needs the layers one by one: which earlier layers each one reads
(`steps`), and a function that computes it (`compute`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tinymixnet.engine.architecture import Architecture, Block, group_kernels
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
from tinymixnet.engine.network import statistics


class Step(NamedTuple):
    """A layer, and the earlier layers that it is computed from."""

    layer: str
    kind: str  # within a block the last part of the name, else the whole name
    inputs: tuple[str, ...]  # none for the image
    block: Block | None

    @property
    def weighted(self) -> bool:
        """Whether the layer has weights, so that its result tells it from all other layers."""
        return self.kind.endswith(("conv", "bn", "se_reduce", "se_expand", "logits"))

    @property
    def pixelwise(self) -> bool:
        """Whether a pixel of the result needs only the same pixel of each input."""
        return self.kind not in ("stem/conv", "depthwise_conv", "se_pool", "head/pool")

    @property
    def identity(self) -> bool:
        """Whether the layer is its input: the output of a block without a shortcut."""
        return self.kind == "output" and len(self.inputs) == 1


def steps(architecture: Architecture) -> list[Step]:
    """Return all layers in order, each with the layers that it is computed from."""
    result: list[Step] = []
    for part in architecture.parts():
        entry = result[-1].layer if result else ""
        for layer in part.layers:
            kind = layer.split("/")[1] if part.block else layer
            inputs: tuple[str, ...] = (result[-1].layer,) if result else ()
            if part.block and kind == "se_scale":
                inputs = (f"{part.name}/depthwise_act", f"{part.name}/se_gate")
            elif part.block and kind == "output" and part.block.residual:
                inputs = (f"{part.name}/project_bn", entry)
            result.append(Step(layer, kind, inputs, part.block))
    return result


def compute(
    step: Step, inputs: Sequence[Array], tensors: Mapping[str, Array], metadata: Metadata
) -> Array:
    """Return what a layer gives for these inputs: maps (N, H, W, C), or vectors (N, C) at the end.

    Layers that work on each pixel by itself also take some of the pixels: (N, 1, P, C).
    """
    return _FUNCTIONS[step.kind](_Layer(step, tensors, metadata), *inputs)


class _Layer(NamedTuple):
    step: Step
    tensors: Mapping[str, Array]
    metadata: Metadata

    def tensor(self, name: str) -> Array:
        return self.tensors[f"{self.step.layer}/{name}"]

    def kernels(self) -> list[Array]:
        return group_kernels(self.step.layer, self.tensors)


def _norm(at: _Layer, x: Array) -> Array:
    return batch_norm(x, *statistics(at.step.layer, at.tensors), at.metadata.epsilon)


def _act(at: _Layer, x: Array) -> Array:
    return swish(x) if at.step.block and at.step.block.swish else relu(x)


def _grouped(at: _Layer, x: Array) -> Array:
    return grouped_conv2d(x, at.kernels())


def _mixed(at: _Layer, x: Array) -> Array:
    return mix_conv(x, at.kernels(), at.step.block.stride if at.step.block else 1)


def _pointwise(at: _Layer, x: Array) -> Array:
    return pointwise_conv2d(x, at.tensor("kernel"), at.tensor("bias"))


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "normalize": lambda at, x: normalize(x, at.metadata.mean, at.metadata.std),
    "stem/conv": lambda at, x: conv2d(x, at.tensor("kernel"), stride=2),
    "expand_conv": _grouped,
    "depthwise_conv": _mixed,
    "project_conv": _grouped,
    "head/conv": lambda at, x: pointwise_conv2d(x, at.tensor("kernel")),
    **dict.fromkeys(("stem/bn", "expand_bn", "depthwise_bn", "project_bn", "head/bn"), _norm),
    **dict.fromkeys(("stem/act", "expand_act", "depthwise_act", "se_act", "head/act"), _act),
    "se_pool": lambda at, x: global_average_pool(x)[:, None, None, :],
    "se_reduce": _pointwise,
    "se_expand": _pointwise,
    "se_gate": lambda at, x: sigmoid(x),
    "se_scale": lambda at, x, gate: x * gate,
    "output": lambda at, x, *entry: x + entry[0] if entry else x,
    "head/pool": lambda at, x: global_average_pool(x),
    "logits": lambda at, x: dense(x, at.tensor("kernel"), at.tensor("bias")),
    "probabilities": lambda at, x: softmax(x),
}
