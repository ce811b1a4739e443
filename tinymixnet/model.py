"""MixNet's forward pass, layer by layer, and `Model`, which puts it to use.

`forward` is the network as the paper draws it, one line a layer. `Model.layers` shows what it
computes; all other methods take the fast way to the same numbers, `plan.py`.
"""

import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinymixnet.architecture import BATCH_NORM, Architecture, Block, group_kernels
from tinymixnet.errors import ImageError, InputError
from tinymixnet.images import Source, preprocess, read_image, read_pixels
from tinymixnet.kernels import (
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
from tinymixnet.plan import Plan, constants
from tinymixnet.weights import Metadata, default_labels, find_weights, read_weights

if TYPE_CHECKING:
    from tinymixnet.workers import Answer

Tensors = Mapping[str, Array]
Layers = Generator[tuple[str, Array], Array, Array]

SMALLEST_INPUT = 32  # pixels a side: five times halved, one is left


class Prediction(NamedTuple):
    """One answer of `Model.classify`."""

    label: str
    probability: float
    index: int  # type: ignore[assignment]  # the class's number hides tuple.index, which none needs


# -- the network, layer by layer ------------------------------------------------------------------
#
# Each `x = yield name, value` below shows a layer to the caller and takes back the tensor to go on
# with: usually the same one; a debugger may send another network's tensor instead, and so feed
# every layer an input that no earlier layer of ours has touched.


def network(image: Array, architecture: Architecture, tensors: Tensors, about: Metadata) -> Layers:
    """MixNet from pixels to probabilities; yields (name, tensor), expects a tensor for each."""
    x = yield from stem(image, tensors, about)
    for block in architecture.blocks:
        x = yield from mixnet_block(x, block, tensors, about.epsilon)
    x = yield from head(x, tensors, about.epsilon)
    return x


def stem(image: Array, tensors: Tensors, about: Metadata) -> Layers:
    """Normalise the colours, and see the first edges at half the resolution."""
    x = yield "image", image
    x = yield "normalize", normalize(x, about.mean, about.std)
    x = yield "stem/conv", conv2d(x, tensors["stem/conv/kernel"], stride=2)
    x = yield "stem/bn", batch_norm(x, *statistics("stem/bn", tensors), about.epsilon)
    x = yield "stem/act", relu(x)
    return x


def mixnet_block(x: Array, block: Block, tensors: Tensors, epsilon: float) -> Layers:
    """Expand, look around with several kernel sizes, weigh the channels, project, add the input."""
    name, act = block.name, swish if block.swish else relu
    shortcut = x

    if block.expand_groups:
        x = yield (
            f"{name}/expand_conv",
            grouped_conv2d(x, group_kernels(f"{name}/expand_conv", tensors)),
        )
        norm = statistics(f"{name}/expand_bn", tensors)
        x = yield f"{name}/expand_bn", batch_norm(x, *norm, epsilon)
        x = yield f"{name}/expand_act", act(x)

    sizes = group_kernels(f"{name}/depthwise_conv", tensors)
    x = yield f"{name}/depthwise_conv", mix_conv(x, sizes, block.stride)
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

    x = yield (
        f"{name}/project_conv",
        grouped_conv2d(x, group_kernels(f"{name}/project_conv", tensors)),
    )
    norm = statistics(f"{name}/project_bn", tensors)
    x = yield f"{name}/project_bn", batch_norm(x, *norm, epsilon)
    x = yield f"{name}/output", x + shortcut if block.residual else x
    return x


def head(x: Array, tensors: Tensors, epsilon: float) -> Layers:
    """Widen, take each channel's mean over the image, and weigh these into one number a class."""
    x = yield "head/conv", pointwise_conv2d(x, tensors["head/conv/kernel"])
    x = yield "head/bn", batch_norm(x, *statistics("head/bn", tensors), epsilon)
    x = yield "head/act", relu(x)
    x = yield "head/pool", global_average_pool(x)
    x = yield "logits", dense(x, tensors["logits/kernel"], tensors["logits/bias"])
    x = yield "probabilities", softmax(x)
    return x


class Statistics(NamedTuple):
    """The four vectors of a batch norm, in the order its kernels take them."""

    gamma: Array
    beta: Array
    mean: Array
    variance: Array


def statistics(layer: str, tensors: Tensors) -> Statistics:
    """The batch norm's vectors of a layer."""
    return Statistics(*(tensors[f"{layer}/{statistic}"] for statistic in BATCH_NORM))


def forward(
    image: Array, architecture: Architecture, tensors: Tensors, about: Metadata
) -> Generator[tuple[str, Array], Array | None, None]:
    """Run the network and show each layer as (name, tensor), in order.

    image (N, H, W, 3) float32, RGB, 0..255. A caller that drives the generator by hand may `.send`
    a tensor in place of the one just shown: it feeds all later layers (None: go on with our own).
    With image and tensors in float64 the whole run is in float64.
    """
    steps = network(image, architecture, tensors, about)
    try:
        name, tensor = next(steps)
        while True:
            replacement = yield name, tensor
            name, tensor = steps.send(tensor if replacement is None else replacement)
    except StopIteration:
        return


# -- the model ------------------------------------------------------------------------------------


class Model:
    """A MixNet with its weights, ready to use; `tinymixnet.load` makes one from a file.

    Wherever it takes `pixels`: (N, H, W, 3) uint8 or float32, RGB, 0..255, from 32 pixels a side;
    with layout="NCHW" (N, 3, H, W), with channels="BGR" blue first (the converted OpenVINO model
    takes both). Anything else raises InputError.
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: Tensors,
        metadata: Metadata | None = None,
        prepared: Tensors | None = None,
    ) -> None:
        """Prepared are the `plan.constants` of the same weights, if they are there already."""
        self.architecture = architecture
        self.tensors = tensors
        self.metadata = metadata or Metadata()
        self.labels = self.metadata.labels or default_labels(architecture.classes)
        if len(self.labels) != architecture.classes:
            raise InputError(f"{architecture.classes} classes, but {len(self.labels)} labels")
        prepared = prepared or constants(architecture, tensors, self.metadata)
        self.plan = Plan(architecture, prepared)
        self._layer_shapes = lru_cache(2)(architecture.layer_shapes)  # takes half a millisecond

    def __call__(self, pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
        """The network's answer before softmax: (N, classes) float32."""
        return self._collect(pixels, layout, channels, ["logits"])["logits"]

    def embed(self, pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
        """What the network knows of an image before it names it: the pooled head, (N, 1536)."""
        return self._collect(pixels, layout, channels, ["head/pool"])["head/pool"]

    def features(
        self, pixels: Array, layout: str = "NHWC", channels: str = "RGB"
    ) -> dict[str, Array]:
        """The last output at each resolution: reduction_1 (half the input's) to reduction_5.

        Each (N, H / 2^i, W / 2^i, C), sizes rounded up: what a detector or segmenter builds on.
        """
        blocks = self.architecture.blocks
        last = [block.name for block, after in pairwise(blocks) if after.stride > 1]
        names = [f"{name}/output" for name in [*last, blocks[-1].name]]
        found = self._collect(pixels, layout, channels, names)
        return {f"reduction_{i}": found[name] for i, name in enumerate(names, start=1)}

    def layers(
        self, pixels: Array, layout: str = "NHWC", channels: str = "RGB"
    ) -> Iterator[tuple[str, Array]]:
        """Every canonical layer in order, as (name, tensor): unfolded, in TensorFlow's shapes.

        Each is computed when it is asked for, and none is kept: hold on to what you need.
        """
        images = check_pixels(pixels, layout, channels).astype(np.float32)
        return forward(images, self.architecture, self.tensors, self.metadata)

    def pixels(self, image: Source, preset: str | None = None) -> Array:
        """A photo as the network sees it: (1, S, S, 3) float32, S the input size of the weights.

        image is a path, the bytes of an image file, a file object, a PIL image or a uint8 array
        (H, W), (H, W, 3) or (H, W, 4). It is cropped and resized by the preset that the weights ask
        for, unless another is named. A path that ends in .npy holds pixels already, (H, W, 3) or
        (N, H, W, 3), and they are taken as they are. Raises ImageError when it cannot be read.
        """
        if isinstance(image, (str, os.PathLike)) and os.fsdecode(image).endswith(".npy"):
            return read_pixels(image)
        about = self.metadata
        preset = preset or about.preset
        parameters = about.preset_parameters if preset == about.preset else {}
        return preprocess(read_image(image), preset, about.input_size, parameters)[np.newaxis]

    def classify(self, image: Source, top: int = 5, preset: str | None = None) -> list[Prediction]:
        """Name what is in a photo: the `top` best labels, best first.

        image and preset as for `pixels`. Raises ImageError when the image cannot be read.
        """
        if top < 1:
            raise InputError(f"top={top}: expected the number of answers wanted, 1 or more")
        pixels = self.pixels(image, preset)
        if len(pixels) != 1:
            raise ImageError(f"{image!r}: holds {len(pixels)} images, expected one")
        probabilities = softmax(self(pixels))[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.labels[i], float(probabilities[i]), int(i)) for i in best]

    def map(
        self,
        sources: Iterable[Source],
        workers: int = 2,
        top: int = 5,
        preset: str | None = None,
    ) -> "Generator[Answer, None, None]":
        """`classify` many photos in `workers` processes; yields the answers in the photos' order.

        For a photo that `classify` raises a TinyMixNetError on, the answer is that error, and the
        rest goes on. For all else see `workers.classify_all`.
        """
        from tinymixnet.workers import classify_all  # which imports this module

        return classify_all(self, sources, workers, top, preset)

    def _collect(
        self, pixels: Array, layout: str, channels: str, names: list[str]
    ) -> dict[str, Array]:
        """Run the plan up to the last of the named outputs and return those of all images.

        One image at a time: its activations then stay in the processor's cache, and a large batch
        takes no more scratch memory than a single image.
        """
        images = check_pixels(pixels, layout, channels)
        shapes = self._layer_shapes(*images.shape[1:3])
        found = {name: np.empty((len(images), *shapes[name]), np.float32) for name in names}
        for i, image in enumerate(images):
            for name, output in zip(names, self.plan.run(image, names), strict=True):
                found[name][i] = output
        return found


def check_pixels(pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
    """See that a batch is what the network takes, and turn it to NHWC, RGB (a view, no copy).

    Raises InputError for another rank, type, channel count, a side under 32, NaN, values far from
    0..255, and for values that look already normalised.
    """
    if layout not in ("NHWC", "NCHW"):
        raise InputError(f"layout={layout!r}: expected 'NHWC' or 'NCHW'")
    if channels not in ("RGB", "BGR"):
        raise InputError(f"channels={channels!r}: expected 'RGB' or 'BGR'")
    wanted = "(N, H, W, 3)" if layout == "NHWC" else "(N, 3, H, W)"
    x = np.asarray(pixels)
    if x.ndim != 4:
        hint = ": a single image goes in as pixels[None]" if x.ndim == 3 else ""
        raise InputError(f"pixels: expected {wanted}, found shape {x.shape}{hint}")
    if x.dtype not in (np.uint8, np.float32):
        raise InputError(f"pixels: expected uint8 or float32, found {x.dtype}: use .astype")
    if x.shape[3 if layout == "NHWC" else 1] != 3:
        other = "NCHW" if layout == "NHWC" else "NHWC"
        hint = f': is it layout="{other}"?' if x.shape[1 if layout == "NHWC" else 3] == 3 else ""
        raise InputError(f"pixels: expected {wanted}, 3 channels, found shape {x.shape}{hint}")
    if layout == "NCHW":
        x = x.transpose(0, 2, 3, 1)
    if channels == "BGR":
        x = x[..., ::-1]
    n, h, w, _ = x.shape
    if min(h, w) < SMALLEST_INPUT:
        raise InputError(f"pixels: {h}x{w} is too small, expected {SMALLEST_INPUT} or more a side")
    if x.dtype == np.float32 and n:
        _check_range(float(x.min()), float(x.max()))  # NaN anywhere makes both NaN
    return x


def _check_range(low: float, high: float) -> None:
    """Refuse values that no photo has; resizing may overshoot 0..255 somewhat, and that is fine."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("pixels: expected values 0..255, found NaN or infinity")
    if -5 < low < -0.1 and high < 5:
        raise InputError(
            f"pixels: values {low:.2f}..{high:.2f} look normalised already; expected 0..255, "
            "the network subtracts the mean and divides by the deviation itself"
        )
    if low < -64 or high > 320:
        raise InputError(f"pixels: expected values 0..255, found {low:g}..{high:g}")
    if 0 <= low < high <= 1:  # it could still be a very dark photo
        warnings.warn(f"pixels: values {low:g}..{high:g}, is that 0..1 for 0..255?", stacklevel=4)


def load(weights: str | os.PathLike[str] | None = None) -> Model:
    """Load a model: the bundled one, a weights file, or a fetched one by name ("mixnet-l").

    Without an argument the environment variable TINYMIXNET_WEIGHTS, where set, says which.
    Raises WeightsError for a file that is missing, damaged, unsafe or does not fit.
    """
    architecture, tensors, metadata = read_weights(find_weights(weights))
    return Model(architecture, tensors, metadata)
