"""MixNet in TensorFlow with planted bugs, each as someone who ports the network would make it.

A bug is a small subclass of the reference's run that gets one thing wrong, so two bugs at once are
a subclass of both. `BUGS` and `PAIRS` name them, with the causes that `diagnose` has to find.
`CORRECT` are ports in which nothing is wrong, however different they look. `UNKNOWN` are errors
that no common mistake explains.

The bugs are those that people make; they were written without looking at how `diagnose` works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tests.support import planted_more as more
from tests.support import tensorflow_reference as reference
from tests.support.planted_run import (
    Planted,
    Scope,
    blocks,
    both,
    depthwise,
    early,
    everywhere,
    expand,
    first_blocks,
    head,
    late,
    project,
    se_act,
    stem,
    variant,
)
from tests.support.tensorflow_reference import EPSILON, MEAN, STD, Block, Layers, Network

# -- what goes in ----------------------------------------------------------------------------------


class Bgr(Planted):
    """A photo read by OpenCV, which has blue first."""

    def picture(self, image: Any) -> Any:
        return super().picture(image[..., ::-1])


class BgrWithItsMeans(Bgr):
    """A photo read by OpenCV and normalised rightly, blue with the mean of blue, but left BGR."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return super().normalize(image, mean[::-1], std[::-1])


class MeansOfBgr(Planted):
    """A photo read as RGB, but normalised with the means and deviations in the order BGR."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return super().normalize(image, mean[::-1], std[::-1])


class Normalized(Planted):
    """Pixels normalised by another formula(x, mean, std)."""

    formula: Callable[[Any, Any, Any], Any]

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return self.note("normalize", type(self).formula(image, mean, std))


class ZeroToOne(Planted):
    """Pixels of 0..1, as most tools load a photo, in a network that takes 0..255."""

    def picture(self, image: Any) -> Any:
        return super().picture(image / 255)


class NormalizedBefore(Planted):
    """Pixels that the loader has normalised, and the network normalises again."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        return super().normalize((image - mean) / std, mean, std)


class NormalizedPicture(Planted):
    """The same, where the loader is part of the port, so that its dump shows normalised pixels."""

    def picture(self, image: Any) -> Any:
        return super().picture((image - np.float32(MEAN)) / np.float32(STD))


class NormalizationFolded(Planted):
    """Mean and deviation folded into the stem's kernel and bias, so that padding means black."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        self.mean, self.std = mean, std
        return image

    def conv(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        if scope != "stem/conv":
            return super().conv(scope, x, kernel, stride)
        folded = kernel / self.std[:, None]
        bias = -(folded * self.mean[:, None]).sum((0, 1, 2))
        return super().conv(scope, x, folded, stride) + bias


class PicturePadded(Planted):
    """The photo padded with zeros first, and normalised together with them."""

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        # Stride 2 over an even side with a 3x3 kernel: SAME pads one row and column after.
        return super().normalize(self.tf.pad(image, [[0, 0], [0, 1], [0, 1], [0, 0]]), mean, std)

    def conv(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        if scope != "stem/conv":
            return super().conv(scope, x, kernel, stride)
        return self.tf.nn.conv2d(x, kernel, strides=stride, padding="VALID")


class PlanesAsPixels(Planted):
    """An NCHW array reshaped to NHWC, where it had to be transposed."""

    def picture(self, image: Any) -> Any:
        planes = self.tf.transpose(image, [0, 3, 1, 2])
        return super().picture(self.tf.reshape(planes, image.shape))


class PixelsAsPlanes(Planted):
    """An NHWC array reshaped to NCHW, where it had to be transposed."""

    def picture(self, image: Any) -> Any:
        n, h, w, c = image.shape
        planes = self.tf.reshape(image, [n, c, h, w])
        return super().picture(self.tf.transpose(planes, [0, 2, 3, 1]))


class RowsAsColumns(Planted):
    """A photo with width before height, in which order many tools give its size."""

    def picture(self, image: Any) -> Any:
        return super().picture(self.tf.transpose(image, [0, 2, 1, 3]))


# -- padding, normalisation and activations --------------------------------------------------------


class SymmetricPadding(Planted):
    """padding=(k - 1) // 2 on both sides, as in PyTorch, also where the stride is 2."""

    symmetric: Scope = everywhere

    def padded(self, x: Any, kernel: Any) -> Any:
        side = (kernel.shape[0] - 1) // 2
        return self.tf.pad(x, [[0, 0], [side, side], [side, side], [0, 0]])

    def conv(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        if stride == 1 or not self.symmetric(scope):
            return super().conv(scope, x, kernel, stride)
        return self.tf.nn.conv2d(self.padded(x, kernel), kernel, stride, padding="VALID")

    def depthwise(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        if stride == 1 or not self.symmetric(scope):
            return super().depthwise(scope, x, kernel, stride)
        steps = [1, stride, stride, 1]
        return self.tf.nn.depthwise_conv2d(self.padded(x, kernel), kernel, steps, padding="VALID")


class SmallEpsilon(Planted):
    """PyTorch's default epsilon."""

    def plant(self) -> None:
        super().plant()
        self.epsilon = 1e-5


class SwishAsRelu(Planted):
    relu_at: Scope = everywhere

    def act(self, name: str, x: Any, swish: bool) -> Any:
        return super().act(name, x, swish and not self.relu_at(name))


class ReluAsSwish(Planted):
    swish_at: Scope = everywhere

    def act(self, name: str, x: Any, swish: bool) -> Any:
        return super().act(name, x, swish or self.swish_at(name))


class HardSwish(Planted):
    """MobileNetV3's."""

    def swish(self, x: Any) -> Any:
        return x * self.tf.nn.relu6(x + 3) / 6


# -- squeeze-excite --------------------------------------------------------------------------------


class NoActivationInSe(Planted):
    def act(self, name: str, x: Any, swish: bool) -> Any:
        return self.note(name, x) if name.endswith("/se_act") else super().act(name, x, swish)


class HardSigmoid(Planted):
    """PyTorch's and MobileNetV3's."""

    def gate(self, x: Any) -> Any:
        return self.tf.nn.relu6(x + 3) / 6


class KerasHardSigmoid(Planted):
    """Keras 2's."""

    def gate(self, x: Any) -> Any:
        return self.tf.clip_by_value(x * 0.2 + 0.5, 0, 1)


class HalfSeWidth(Planted):
    """Squeeze-excite half as wide as it should be, without the second half of its units."""

    def plant(self) -> None:
        super().plant()
        kept: dict[str, Callable[[Any], Any]] = {
            "/se_reduce/kernel": lambda x: x[..., : x.shape[-1] // 2],
            "/se_reduce/bias": lambda x: x[: len(x) // 2],
            "/se_expand/kernel": lambda x: x[:, :, : x.shape[2] // 2],
        }
        for name, cut in kept.items():
            self.change(cut, partial(_ends, name))


class SeReads(Planted):
    """Squeeze-excite looks at another tensor than the one it scales."""

    read: str

    def pool(self, scope: str, x: Any) -> Any:
        return super().pool(scope, self.layers[f"{scope}/{self.read}"])


# -- weights ---------------------------------------------------------------------------------------


def _ends(ending: str, name: str) -> bool:
    return name.endswith(ending)


class ChangedKernels(Planted):
    """Kernels in a wrong layout: `turned` is what was done to those of the layers in `at`."""

    turned: Callable[[Any], Any]
    at: Scope = depthwise

    def plant(self) -> None:
        super().plant()
        turn = type(self).turned
        self.change(turn, lambda name: "_conv/kernel_" in name and self.at(name.rpartition("/")[0]))


class ChangedStem(Planted):
    turned: Callable[[Any], Any]

    def plant(self) -> None:
        super().plant()
        self.change(type(self).turned, lambda name: name == "stem/conv/kernel")


def flipped(kernel: Any) -> Any:
    return kernel[::-1, ::-1].copy()


def transposed(kernel: Any) -> Any:
    return kernel.swapaxes(0, 1).copy()


class Dropped(Planted):
    """Tensors that were never loaded, and so are still zero."""

    endings: tuple[str, ...]
    dropped: Scope = everywhere

    def plant(self) -> None:
        super().plant()
        self.change(np.zeros_like, lambda n: n.endswith(self.endings) and self.dropped(n))


class NoFoldedBias(Planted):
    """Batch norm folded into the convolution, and the bias that this makes forgotten."""

    unbiased: Scope = everywhere

    def plant(self) -> None:
        super().plant()
        ends = ("/beta", "/moving_mean")
        self.change(np.zeros_like, lambda name: name.endswith(ends) and self.unbiased(name))


def int8(x: Any) -> Any:
    """Symmetric, one scale for the whole tensor."""
    scale = np.abs(x).max() / 127
    return (np.round(x / scale) * scale).astype(x.dtype)


def int8_per_channel(kernel: Any) -> Any:
    """Symmetric, one scale an output channel (depthwise: a channel), as TensorFlow Lite does."""
    axis = 3 if kernel.shape[3] > 1 else 2
    others = tuple({0, 1, 2, 3} - {axis})
    scale = np.abs(kernel).max(others, keepdims=True) / 127
    return (np.round(kernel / scale) * scale).astype(kernel.dtype)


class Int8Weights(Planted):
    rounded: Callable[[Any], Any]

    def plant(self) -> None:
        super().plant()
        self.change(type(self).rounded, lambda name: "/kernel" in name and "logits" not in name)


class HalfWeights(Planted):
    """All weights stored in a shorter type; the computation is in float32."""

    short: str

    def plant(self) -> None:
        super().plant()
        cast = self.tf.cast
        self.change(lambda x: cast(cast(x, self.short), x.dtype).numpy(), lambda name: True)


# -- groups ----------------------------------------------------------------------------------------


class KernelsReversed(Planted):
    """The kernels in reversed order, so that a group is filtered with another group's kernel."""

    given: Scope = depthwise

    def kernels(self, scope: str, groups: int) -> list[Any]:
        kernels = super().kernels(scope, groups)
        return kernels[::-1] if self.given(scope) else kernels


class PartsReversed(Planted):
    """The channels dealt to the groups from the last to the first."""

    dealt: Scope = depthwise

    def parts(self, scope: str, x: Any, groups: int) -> list[Any]:
        parts = super().parts(scope, x, groups)
        return parts[::-1] if self.dealt(scope) else parts


class PartsRotated(Planted):
    """The last channels dealt to the first group, the first to the second, and so on."""

    def parts(self, scope: str, x: Any, groups: int) -> list[Any]:
        parts = super().parts(scope, x, groups)
        return parts[-1:] + parts[:-1] if depthwise(self, scope) else parts


class OutputsReversed(Planted):
    """The groups' results concatenated in reversed order."""

    put: Scope

    def joined(self, scope: str, outs: list[Any]) -> Any:
        return super().joined(scope, outs[::-1] if self.put(scope) else outs)


class PartsInterleaved(Planted):
    """Channel c dealt to group c % groups."""

    dealt: Scope

    def parts(self, scope: str, x: Any, groups: int) -> list[Any]:
        if not self.dealt(scope):
            return super().parts(scope, x, groups)
        return [x[..., g::groups] for g in range(groups)]


class OutputsInterleaved(Planted):
    """The groups' results shuffled: the first channel of each, then the second of each."""

    put: Scope

    def joined(self, scope: str, outs: list[Any]) -> Any:
        if not self.put(scope):
            return super().joined(scope, outs)
        n, h, w, c = outs[0].shape
        return self.tf.reshape(self.tf.stack(outs, axis=-1), [n, h, w, c * len(outs)])


# -- residuals -------------------------------------------------------------------------------------


class NoResidual(Planted):
    missing: Scope = everywhere

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return x if self.missing(f"{scope}/") else super().residual(scope, x, entry, block)


class ResidualBeforeNorm(Planted):
    def block(self, scope: str, block: Block, x: Any) -> Any:
        self.entry = x if block.stride == 1 and block.inputs == block.outputs else None
        return super().block(scope, block, x)

    def norm(self, scope: str, x: Any) -> Any:
        if scope.endswith("/project_bn") and self.entry is not None:
            x = x + self.entry
        return super().norm(scope, x)

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return x


class ReluAfterResidual(Planted):
    """As in a ResNet."""

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        return self.tf.nn.relu(super().residual(scope, x, entry, block))


class ActivationAfterResidual(Planted):
    """As in a ResNet, but with the block's own activation."""

    def residual(self, scope: str, x: Any, entry: Any, block: Block) -> Any:
        total = super().residual(scope, x, entry, block)
        return self.swish(total) if block.swish else self.tf.nn.relu(total)


# -- precision -------------------------------------------------------------------------------------


class HalfActivations(Planted):
    """Every tensor between two operations in a shorter type."""

    short: str

    def note(self, name: str, x: Any) -> Any:
        return super().note(name, self.tf.cast(self.tf.cast(x, self.short), x.dtype))


class Int8Activations(Planted):
    """Every tensor between two operations in 8 bits, symmetric about zero."""

    def note(self, name: str, x: Any) -> Any:
        scale = self.tf.reduce_max(abs(x)) / 127
        return super().note(name, self.tf.round(x / scale) * scale)


class QuantizedActivations(Planted):
    """TensorFlow's own fake quantisation, 0..255 over the tensor's range, where layers meet."""

    def note(self, name: str, x: Any) -> Any:
        if name.endswith(("_act", "/act", "/output", "/se_scale", "/se_gate")):
            least, most = self.tf.reduce_min(x), self.tf.reduce_max(x)
            low, high = self.tf.minimum(least, 0.0), self.tf.maximum(most, 0.0)
            x = self.tf.quantization.fake_quant_with_min_max_vars(x, low, high)
        return super().note(name, x)


# -- what comes out --------------------------------------------------------------------------------


class Background(Planted):
    """A class 0 for "nothing of it" in front, as in TensorFlow's 1001-class networks."""

    def answer(self, x: Any) -> Any:
        logits = super().answer(x)
        nothing = self.tf.reduce_min(logits, axis=-1, keepdims=True) - 1
        return self.tf.concat([nothing, logits], axis=-1)


class Rolled(Planted):
    """Labels counted from 1."""

    def answer(self, x: Any) -> Any:
        return self.tf.roll(super().answer(x), 1, axis=-1)


# -- ports in which nothing is wrong ---------------------------------------------------------------


class Fused(Planted):
    """Batch norm folded into the convolutions, activations fused: few layers are left to see."""

    def plant(self) -> None:
        super().plant()
        for name in [name for name in self.weights if name.endswith("/gamma")]:
            norm = name.removesuffix("/gamma")
            gamma, beta, mean, variance = (
                self.weights[f"{norm}/{kind}"]
                for kind in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            scale = gamma / np.sqrt(variance + EPSILON)
            self.weights[f"{norm}/bias"] = beta - mean * scale
            layer, start = norm.removesuffix("bn") + "conv", 0
            kernels = [key for key in self.weights if key.startswith(f"{layer}/kernel")]
            for key in kernels:  # in the order of the groups, as tensor_shapes has them
                kernel = self.weights[key]
                axis = 2 if kernel.shape[3] == 1 and "depthwise" in key else 3
                width = kernel.shape[axis]
                part = scale[start : start + width]
                self.weights[key] = kernel * (part[:, None] if axis == 2 else part)
                start += width

    def norm(self, scope: str, x: Any) -> Any:
        return self.note(scope, x + self.weights[f"{scope}/bias"])

    def note(self, name: str, x: Any) -> Any:
        if name.endswith("conv") or (name.endswith("bn") and "project" not in name):
            return x
        return super().note(name, x)


# -- errors outside any catalogue ------------------------------------------------------------------


class Spoiled(Planted):
    """One layer of the early block changed by `spoil(tf, x)`."""

    layer = "depthwise_bn"
    spoil: Callable[[Any, Any], Any]

    def note(self, name: str, x: Any) -> Any:
        if name == self.early + self.layer:
            x = type(self).spoil(self.tf, x)
        return super().note(name, x)


class Mirrored(Planted):
    """Padding that mirrors the picture instead of zeros, in the early block's depthwise."""

    def depthwise(self, scope: str, x: Any, kernel: Any, stride: int) -> Any:
        if not early(self, scope):
            return super().depthwise(scope, x, kernel, stride)
        side = (kernel.shape[0] - 1) // 2
        sides = [[0, 0], [side, side], [side, side], [0, 0]]
        x = self.tf.pad(x, sides, mode="SYMMETRIC")
        return self.tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], padding="VALID")


def _one_group_louder(tf: Any, x: Any) -> Any:
    half = x.shape[-1] // 2
    return tf.concat([x[..., :half], x[..., half:] * 1.37], axis=-1)


def _noise(tf: Any, x: Any) -> Any:
    return x + tf.random.stateless_normal(x.shape, [1, 2]) * tf.math.reduce_std(x) / 2


# -- the catalogue ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """A port with known faults.

    causes  the slugs that diagnose must give, in the order in which they first show
    run     the network with the faults planted
    answer  whether only the network's answer shows it, and no block's output
    blocks  the slugs for a dump of the blocks' outputs alone, where that cannot show the fault
    raw     which of its weights are raw ones, if any: a key of RAW
    resize  how it makes pixels of a photo, where that is the fault: (PIL image, size) -> pixels
    mixed_up  whether its layers were reshaped where they had to be transposed when written
    dtype   what it computes in
    parts   the names of the bugs, where there are several
    """

    causes: tuple[str, ...]
    run: type[Planted] = Planted
    answer: bool = False
    blocks: tuple[str, ...] | None = None
    raw: str = ""
    resize: Callable[[Any, int], np.ndarray] | None = None
    mixed_up: bool = False
    dtype: str = "float32"
    parts: tuple[str, ...] = ()


def one(slug: str, bug: type[Planted], answer: bool = False, **choices: Any) -> Bug:
    return Bug((slug,), variant(bug, **choices), answer)


RAW: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "statistics": lambda name: "/moving_" in name,
    "gamma and beta": lambda name: name.endswith(("/gamma", "/beta")),
    "every other block": lambda name: any(f"blocks_{i}/" in name for i in range(1, 20, 2)),
}


def _aligned_corners(photo: Any, size: int) -> np.ndarray:
    tf = reference.import_tensorflow()
    image = np.asarray(photo, np.float32)[None]
    resize = tf.compat.v1.image.resize_bilinear
    return resize(image, (size, size), align_corners=True).numpy()[0]


def _preset(name: str) -> Callable[[Any, int], np.ndarray]:
    def resize(photo: Any, size: int) -> np.ndarray:
        from tinymixnet.engine.images import preprocess

        return preprocess(photo, name, size)

    return resize


def _squashed(photo: Any, size: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR), np.float32)


BUGS: dict[str, Bug] = {
    # what goes in
    "bgr": one("bgr", Bgr),
    "bgr with its means": one("bgr", BgrWithItsMeans),
    "bgr in the stem's kernel": one("bgr", ChangedStem, turned=lambda k: k[:, :, ::-1].copy()),
    "means of bgr": one("bgr", MeansOfBgr),
    "no normalization": one("no-normalization", Normalized, formula=lambda x, mean, std: x),
    "pixels / 255 only": one("no-normalization", Normalized, formula=lambda x, mean, std: x / 255),
    "no mean": one("no-normalization", Normalized, formula=lambda x, mean, std: x / std),
    "no std": one("no-normalization", Normalized, formula=lambda x, mean, std: x - mean),
    "0..1 pixels": one("zero-one-input", ZeroToOne),
    "0..1 in normalize": one(
        "zero-one-input", Normalized, formula=lambda x, mean, std: (x / 255 - mean) / std
    ),
    "normalized twice": one("double-normalization", NormalizedBefore),
    "normalized twice, shown": one("double-normalization", NormalizedPicture),
    "normalization folded": one("pad-before-normalization", NormalizationFolded),
    "picture padded": one("pad-before-normalization", PicturePadded),
    "timm's resize": Bug(("other-resize",), resize=_preset("timm")),
    "omz's resize": Bug(("other-resize",), resize=_preset("omz")),
    "squashed": Bug(("other-resize",), resize=_squashed),
    "aligned corners": Bug(("other-resize",), resize=_aligned_corners),
    "planes as pixels": one("transposed-layout", PlanesAsPixels),
    "pixels as planes": one("transposed-layout", PixelsAsPlanes),
    "rows as columns": one("transposed-layout", RowsAsColumns),
    "dump mixed up": Bug(("transposed-layout",), mixed_up=True),
    # padding, normalisation, activations
    "symmetric padding": one("symmetric-padding", SymmetricPadding),
    "symmetric padding, stem": one("symmetric-padding", SymmetricPadding, symmetric=stem),
    "symmetric padding, blocks": one("symmetric-padding", SymmetricPadding, symmetric=blocks),
    "epsilon 1e-5": one("bn-epsilon", SmallEpsilon),
    "relu for swish": one("swish-as-relu", SwishAsRelu),
    "relu for swish, one block": one("swish-as-relu", SwishAsRelu, relu_at=early),
    "relu for swish, se": one("swish-as-relu", SwishAsRelu, relu_at=se_act),
    "swish for relu": one("relu-as-swish", ReluAsSwish),
    "swish for relu, stem": one("relu-as-swish", ReluAsSwish, swish_at=stem),
    "swish for relu, first blocks": one("relu-as-swish", ReluAsSwish, swish_at=first_blocks),
    "swish for relu, head": one("relu-as-swish", ReluAsSwish, answer=True, swish_at=head),
    "hard swish": one("hard-swish", HardSwish),
    # squeeze-excite
    "no activation in se": one("se-no-activation", NoActivationInSe),
    "hard sigmoid": one("hard-sigmoid", HardSigmoid),
    "hard sigmoid, keras": one("hard-sigmoid", KerasHardSigmoid),
    "se half as wide": one("se-width", HalfSeWidth),
    "se reads depthwise_bn": one("se-input", SeReads, read="depthwise_bn"),
    "se reads depthwise_conv": one("se-input", SeReads, read="depthwise_conv"),
    "se reads expand_act": one("se-input", SeReads, read="expand_act"),
    # weights
    "raw weights": Bug(("raw-weights",), raw="all"),
    "raw statistics": Bug(("raw-weights",), raw="statistics"),
    "averages in every other block": Bug(("raw-weights",), raw="every other block"),
    "averages but for gamma and beta": Bug(("raw-weights",), raw="gamma and beta"),
    # from the blocks' outputs alone nobody can tell that each layer is right with other weights
    "other weights": replace(one("other-weights", more.OtherWeights), blocks=("unknown",)),
    "depthwise flipped": one("flipped-kernel", ChangedKernels, turned=flipped),
    "depthwise transposed": one("flipped-kernel", ChangedKernels, turned=transposed),
    "depthwise flipped, one block": one("flipped-kernel", ChangedKernels, turned=flipped, at=early),
    "depthwise mirrored": one("flipped-kernel", ChangedKernels, turned=lambda k: k[:, ::-1].copy()),
    "stem flipped": one("flipped-kernel", ChangedStem, turned=flipped),
    "stem transposed": one("flipped-kernel", ChangedStem, turned=transposed),
    "no se bias": one("missing-bias", Dropped, endings=("/se_reduce/bias", "/se_expand/bias")),
    "no se_reduce bias": one("missing-bias", Dropped, endings=("/se_reduce/bias",)),
    "no logits bias": one("missing-bias", Dropped, answer=True, endings=("logits/bias",)),
    "no beta": one("missing-bias", Dropped, endings=("/beta",)),
    "no beta, one block": one("missing-bias", Dropped, endings=("/beta",), dropped=early),
    "no folded bias, one block": one("missing-bias", NoFoldedBias, unbiased=late),
    "no folded bias": one("missing-bias", NoFoldedBias),
    # groups
    "expand kernels reversed": one("group-order", KernelsReversed, given=expand),
    "depthwise parts rotated": one("group-order", PartsRotated),
    "kernel sizes reversed": one("group-order", KernelsReversed),
    "depthwise parts reversed": one("group-order", PartsReversed),
    "expand parts reversed": one("group-order", PartsReversed, dealt=expand),
    "expand outputs reversed": one("group-order", OutputsReversed, put=expand),
    "project outputs reversed": one("group-order", OutputsReversed, put=project),
    "depthwise outputs reversed": one("group-order", OutputsReversed, put=depthwise),
    "depthwise parts interleaved": one("group-order", PartsInterleaved, dealt=depthwise),
    "expand parts interleaved": one("group-order", PartsInterleaved, dealt=expand),
    "project parts interleaved": one("group-order", PartsInterleaved, dealt=project),
    "project outputs interleaved": one("group-order", OutputsInterleaved, put=project),
    "depthwise outputs interleaved": one("group-order", OutputsInterleaved, put=depthwise),
    # residuals
    "no residual": one("missing-residual", NoResidual),
    "no residual, one block": one("missing-residual", NoResidual, missing=early),
    "residual before norm": one("residual-before-bn", ResidualBeforeNorm),
    "relu after residual": one("activation-after-residual", ReluAfterResidual),
    "activation after residual": one("activation-after-residual", ActivationAfterResidual),
    # precision
    "float16": Bug(("low-precision",), dtype="float16"),
    "float16 activations": one("low-precision", HalfActivations, short="float16"),
    "bfloat16 activations": one("low-precision", HalfActivations, short="bfloat16"),
    "bfloat16 weights": one("low-precision", HalfWeights, short="bfloat16"),
    "int8 activations": one("low-precision", Int8Activations),
    "quantized activations": one("low-precision", QuantizedActivations),
    "int8 weights": one("low-precision", Int8Weights, rounded=int8),
    "int8 weights, per channel": one("low-precision", Int8Weights, rounded=int8_per_channel),
    # what comes out
    "no batch norm": one("missing-bn", more.NoNorm),
    "no batch norm, one block": one("missing-bn", more.NoNorm, without=early),
    "no activation, one block": one("missing-activation", more.NoActivation, without=early),
    "no activation in the head": one(
        "missing-activation", more.NoActivation, answer=True, without=head
    ),
    "no se": one("missing-se", more.NoSe),
    "epsilon outside the root": one("bn-epsilon-outside-root", more.EpsilonOutside),
    "bn1 and bn2 exchanged": one(
        "bn-exchanged", more.Exchanged, names=("expand_bn", "depthwise_bn")
    ),
    "gamma and beta exchanged": one(
        "gamma-beta-exchanged", more.Exchanged, names=("/gamma", "/beta"), exchanged=early
    ),
    "neighbour's weights": one("neighbour-weights", more.NeighbourWeights),
    "gelu": one("gelu", more.OtherActivation, function=more.gelu),
    "gelu by tanh": one("gelu", more.OtherActivation, function=more.gelu_by_tanh),
    "gelu for relu": one("gelu", more.OtherActivation, function=more.gelu, swishes=False),
    "mish": one("mish", more.OtherActivation, function=more.mish),
    "quick gelu": one("quick-gelu", more.OtherActivation, function=more.quick_gelu),
    "relu6 in the stem": one(
        "relu6", more.OtherActivation, function=more.relu6, swishes=False, at=stem
    ),
    "relu6 for relu": one("relu6", more.OtherActivation, function=more.relu6, swishes=False),
    "relu6 for swish": one("relu6", more.OtherActivation, function=more.relu6),
    "clipped everywhere": one("relu6", more.Clipped),
    "se sums": one("se-sum", more.SeSum),
    "gate added": one("se-gate-added", more.GateAdded),
    "gate twice": one("se-gate-twice", more.GateTwice),
    "sigmoid twice": one("se-gate-twice", more.SigmoidTwice),
    "se before depthwise": one("se-before-depthwise", more.SeBeforeDepthwise),
    # blocks
    "residual twice": one("residual-twice", more.ResidualTwice),
    "block skipped": one("block-skipped", more.Skipped),
    "block run twice": one("block-twice", more.RunTwice),
    "block run twice, first shown": one("block-twice", more.RunTwice, keep_first=True),
    "drop-connect": one("drop-connect", more.DropConnect),
    "drop-connect's scaling": one("drop-connect", more.DropConnectScaling),
    # filters
    "average after stride 1": one("stride-by-pooling", more.OtherFilter, filter=more.average_after),
    "largest after stride 1": one("stride-by-pooling", more.OtherFilter, filter=more.largest_after),
    "average before stride 1": one(
        "stride-by-pooling", more.OtherFilter, filter=more.average_before
    ),
    "slice before stride 1": one("stride-by-slicing", more.OtherFilter, filter=more.slice_before),
    "slice after stride 1": one("symmetric-padding", more.OtherFilter, filter=more.slice_after),
    "replicate padding": one(
        "replicate-padding", more.OtherFilter, filter=more.replicate, strided=False
    ),
    "replicate padding, one block": one(
        "replicate-padding", more.OtherFilter, filter=more.replicate, strided=False, at=early
    ),
    "reflect padding": one("reflect-padding", more.OtherFilter, filter=more.reflect, strided=False),
    "dilated": one("dilation", more.OtherFilter, filter=more.dilated, strided=False),
    "dilated, one block": one(
        "dilation", more.OtherFilter, filter=more.dilated, strided=False, at=early
    ),
    # after the overflow, a block is NaN or infinite in whole channels, for whatever reason
    "overflow": replace(one("fp16-overflow", more.Overflow), blocks=("unknown",)),
    # what comes out
    "pool before activation": one("pool-before-activation", more.PoolFirst, answer=True),
    # a random choice among 1536 values cannot be read from the logits that it leads to
    "dropout": replace(one("dropout", more.Dropout, answer=True), blocks=("unknown",)),
    "dropout's scaling": one("dropout", more.DropoutScaling, answer=True),
    "classes permuted": one("classes-permuted", more.Answer, answer=True, change=more.permuted),
    "classes sorted by name": one(
        "classes-sorted", more.Answer, answer=True, change=more.sorted_by_name
    ),
    "softmax twice": one("softmax-twice", more.Probabilities, answer=True, end=more.softmax_twice),
    "softmax in the logits": one("softmax-twice", more.Answer, answer=True, change=more.softmax),
    "log-softmax": one("log-softmax", more.Probabilities, answer=True, end=more.log_softmax_of),
    "log-softmax in the logits": one(
        "log-softmax", more.Answer, answer=True, change=more.log_softmax
    ),
    "background class": one("label-offset", Background, answer=True),
    "labels from 1": one("label-offset", Rolled, answer=True),
}


def _together(*names: str, **options: Any) -> Bug:
    """Return a bug made of several; the name of the one that shows first comes first."""
    bugs = [BUGS[name] for name in names]
    causes = tuple(cause for bug in bugs for cause in bug.causes)
    return Bug(causes, both(*(bug.run for bug in bugs)), parts=names, **options)


PAIRS: dict[str, Bug] = {
    "bgr + symmetric padding": _together("bgr", "symmetric padding"),
    "bgr + labels from 1": _together("bgr", "labels from 1", answer=True),
    "no normalization + epsilon": _together("pixels / 255 only", "epsilon 1e-5"),
    # as timm's mixnet_l, without tf_, has both
    "symmetric padding + epsilon": _together("symmetric padding", "epsilon 1e-5"),
    "epsilon + relu for swish": _together("epsilon 1e-5", "relu for swish"),
    "no residual + hard sigmoid": _together("no residual", "hard sigmoid"),
    # as taken from a MobileNetV3
    "hard swish + hard sigmoid": _together("hard swish", "hard sigmoid"),
    "flipped early + no bias late": _together(
        "depthwise flipped, one block", "no folded bias, one block"
    ),
    "no residual + no logits bias": _together("no residual", "no logits bias", answer=True),
    # as OpenCV leads to
    "squashed + bgr": _together("squashed", "bgr", resize=_squashed),
    "bgr + float16": _together("bgr", "float16", dtype="float16"),
    "three": _together("bgr", "symmetric padding", "epsilon 1e-5"),
    "gelu + gate added": _together("gelu", "gate added"),
    "epsilon outside the root + mish": _together("epsilon outside the root", "mish"),
    "residual twice + quick gelu": _together("residual twice", "quick gelu"),
    "symmetric padding + se before depthwise": _together(
        "symmetric padding", "se before depthwise"
    ),
    "se sums + replicate padding": _together("se sums", "replicate padding, one block"),
    "gate twice + dilated": _together("gate twice", "dilated, one block"),
    "sigmoid twice + softmax twice": _together("sigmoid twice", "softmax twice", answer=True),
    "bn1 and bn2 exchanged + no se": _together("bn1 and bn2 exchanged", "no se"),
    "gamma and beta exchanged + labels from 1": _together(
        "gamma and beta exchanged", "labels from 1", answer=True
    ),
    "neighbour's weights + classes permuted": _together(
        "neighbour's weights", "classes permuted", answer=True
    ),
    "epsilon + block skipped": _together("epsilon 1e-5", "block skipped"),
    "bgr + block run twice": _together("bgr", "block run twice"),
    "hard sigmoid + drop-connect's scaling": _together("drop-connect's scaling", "hard sigmoid"),
    "drop-connect + dropout": _together(
        "drop-connect", "dropout", answer=True, blocks=("drop-connect", "unknown")
    ),
    "average after stride 1 + relu6 for swish": _together(
        "average after stride 1", "relu6 for swish"
    ),
    "slice before stride 1 + classes sorted by name": _together(
        "slice before stride 1", "classes sorted by name", answer=True
    ),
    "slice after stride 1 + log-softmax": _together(
        "slice after stride 1", "log-softmax", answer=True
    ),
    "reflect padding + gelu for relu": _together("reflect padding", "gelu for relu"),
    "clipped everywhere + no beta": _together("clipped everywhere", "no beta, one block"),
    "pool before activation + dropout's scaling": _together(
        "pool before activation", "dropout's scaling", answer=True
    ),
    "no batch norm + mish": _together("mish", "no batch norm, one block"),
    "aligned corners + bgr": _together("aligned corners", "bgr", resize=_aligned_corners),
    "averages in every other block + gelu": _together(
        "averages in every other block", "gelu", raw="every other block"
    ),
    "gelu + overflow": _together("gelu", "overflow", blocks=("gelu", "unknown")),
    "bgr + other weights": _together("bgr", "other weights", blocks=("unknown",)),
    "float16 + gelu": _together("float16", "gelu", dtype="float16"),
}

# In the stem of the bundled network no value is above 6, so that ReLU6 changes nothing there.
IN_MIXNET_L = [name for name in BUGS if name != "relu6 in the stem"]

# For runs that have no time for all: the first bug with each cause, and one of several.
ONE_OF_EACH_CAUSE = (*{bug.causes: name for name, bug in reversed(BUGS.items())}.values(), "three")

CORRECT: dict[str, Bug] = {
    "eager": Bug(()),
    "float64": Bug((), dtype="float64"),
    "folded": Bug((), Fused),
}

# name: (what the text of the diagnosis must say of the error's pattern, the network)
UNKNOWN: dict[str, tuple[str, type[Planted]]] = {
    "one group louder": ("channel", variant(Spoiled, spoil=_one_group_louder)),
    "constant factor": ("factor", variant(Spoiled, spoil=lambda tf, x: x * 1.37)),
    "constant offset": ("offset", variant(Spoiled, spoil=lambda tf, x: x + 0.7)),
    "shifted": ("shift", variant(Spoiled, spoil=lambda tf, x: tf.roll(x, 1, axis=2))),
    "mirrored borders": ("border", Mirrored),
    "noise": ("", variant(Spoiled, spoil=_noise)),
}


def raw_tensors(tensors: Mapping[str, np.ndarray], seed: int) -> Layers:
    """Return weights as training would leave them if `tensors` were their moving averages."""
    rng = np.random.default_rng(seed)
    raw = {}
    for name, tensor in tensors.items():
        noise = rng.standard_normal(tensor.shape)
        if name.endswith("moving_variance"):
            value = tensor * np.exp(0.1 * noise)
        else:
            value = tensor + 0.05 * tensor.std() * noise
        raw[name] = value.astype(np.float32)
    return raw


def planted_layers(
    bug: Bug,
    net: str | Network,
    tensors: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    raw: Mapping[str, np.ndarray] | None = None,
    labels: Sequence[str] = (),
) -> Layers:
    """Return every layer of one run with the bug in it, in order; pixels (n, h, w, 3), RGB, 0..255.

    Layers are float64 where the bug computes in float64, else float32. A bug that takes raw weights
    needs `raw`. labels: the names of the classes, for a bug that sorts by them.
    """
    tf = reference.import_tensorflow()
    chosen = dict(tensors)
    if bug.raw:
        assert raw is not None
        chosen.update({name: x for name, x in raw.items() if RAW[bug.raw](name)})
    weights = {name: np.array(tensor, bug.dtype) for name, tensor in chosen.items()}
    table = reference.blocks(net)
    image, mean, std = (np.asarray(x, bug.dtype) for x in (pixels, MEAN, STD))
    layers = bug.run(tf, weights, table, labels).network(table, tf.constant(image), mean, std)
    wanted = np.float64 if bug.dtype == "float64" else np.float32
    return {name: np.asarray(x).astype(wanted) for name, x in layers.items()}
