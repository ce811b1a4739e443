"""`Model`, a network with its weights, ready to use.

`Model.layers` takes the readable path, layer by layer (`engine/network.py`). All other methods take
the fast path to the same numbers (`fast/plan.py`).
"""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.budget import read_environment
from tinymixnet.engine.explain import Explanation, Progress, explain, seen_of_photo
from tinymixnet.engine.images import PRESETS, Source, check_preset, preprocess, read_image
from tinymixnet.engine.kernels import Array, softmax
from tinymixnet.engine.metadata import Metadata, default_labels
from tinymixnet.engine.network import Tensors, forward, network
from tinymixnet.engine.pixels import check_pixels, read_pixels
from tinymixnet.engine.weights import find_weights, read_weights
from tinymixnet.errors import ImageError, InputError, TinyMixNetError
from tinymixnet.fast.constants import constants
from tinymixnet.fast.plan import Plan
from tinymixnet.fast.workers import map_in_processes

__all__ = ["Model", "Prediction", "load", "network"]


class Prediction(NamedTuple):
    """One answer of `Model.classify`."""

    label: str
    probability: float
    index: int  # type: ignore[assignment]  # the class's number hides tuple.index, which none needs


Answer: TypeAlias = "list[Prediction] | TinyMixNetError"


class Model:
    """A MixNet with its weights; `tinymixnet.load` makes one from a file.

    Wherever it takes `pixels`: (N, H, W, 3) uint8 or float32, RGB, 0..255, at least 32 pixels a
    side; with layout="NCHW" (N, 3, H, W), with channels="BGR" blue first (the converted OpenVINO
    model takes both). Anything else raises InputError.
    """

    def __init__(
        self, architecture: Architecture, tensors: Tensors, metadata: Metadata | None = None
    ) -> None:
        self.architecture = architecture
        self.tensors = tensors
        self.metadata = metadata or Metadata()
        self.labels = self.metadata.labels or default_labels(architecture.classes)
        if len(self.labels) != architecture.classes:
            raise InputError(f"{architecture.classes} classes, but {len(self.labels)} labels")
        self._plan: Plan | None = None
        self._layer_shapes = lru_cache(2)(architecture.layer_shapes)  # takes half a millisecond

    def __repr__(self) -> str:
        size, millions = self.metadata.input_size, self.architecture.parameters() / 1e6
        what = f"{self.architecture.classes} classes, {size} px, {millions:.1f} M parameters"
        return f"Model({self.architecture.variant}, {what})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self.architecture, dict(self.tensors), self.metadata)

    @property
    def plan(self) -> Plan:
        """The fast path; made when it is first needed, since `diagnose`, say, never runs it."""
        if self._plan is None:  # two threads may both make one: the same, and either will do
            folded = constants(self.architecture, self.tensors, self.metadata)
            self._plan = Plan(self.architecture, folded)
        return self._plan

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
        outputs = self._collect(pixels, layout, channels, names)
        return {f"reduction_{i}": outputs[name] for i, name in enumerate(names, start=1)}

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
        return _prepare(image, self.metadata, preset)

    def classify(self, image: Source, top: int = 5, preset: str | None = None) -> list[Prediction]:
        """Name what is in a photo: the `top` best labels, best first.

        image and preset as for `pixels`. Raises ImageError when the image cannot be read.
        """
        return self._classifier(top, preset)(image)

    def explain(
        self,
        image: Source,
        label: str | int | None = None,
        size: int | None = None,
        preset: str | None = None,
        progress: Progress = iter,
    ) -> Explanation:
        """Return why the network gives a photo its label: see `engine.explain.Explanation`.

        image and preset as for `pixels`. label: the name or index of a label to explain instead of
        the best. size: pixels a side that the network sees; the input size of the weights is where
        they answer best. progress: such as `tqdm.tqdm`, is put around the network's 100 runs.
        Raises ImageError when the image cannot be read, InputError for an unusable label, size or
        preset.
        """
        if size is not None and (type(size) is not int or not 32 <= size <= 4096):
            raise InputError(f"size: expected 32 to 4096 pixels a side, found {size!r:.40}")
        metadata = self.metadata if size is None else replace(self.metadata, input_size=size)
        ready = isinstance(image, (str, os.PathLike)) and os.fsdecode(image).endswith(".npy")
        if ready and size is not None:
            raise InputError("size: the pixels of a .npy file are taken as they are")
        photo = None if ready else read_image(image)
        pixels = _prepare(image if photo is None else photo, metadata, preset)
        if len(pixels) != 1:
            raise ImageError(f"{image!r}: holds {len(pixels)} images, expected one")
        layers = {name: x[0] for name, x in self.layers(pixels) if name in ("image", "head/act")}
        box = None
        if photo is not None:
            name = preset or metadata.preset
            own = name == metadata.preset
            parameters = metadata.preset_parameters if own else PRESETS[name][1]
            box = seen_of_photo(name, parameters, *photo.size, metadata.input_size)
        return explain(
            layers["image"],
            layers["head/act"],
            self.tensors,
            self.labels,
            stride=2 * prod(block.stride for block in self.architecture.blocks),
            logits_of=self,
            grey=metadata.mean,
            label=label,
            photo_box=box,
            progress=progress,
        )

    def map(
        self,
        sources: Iterable[Source],
        workers: int = 2,
        top: int = 5,
        preset: str | None = None,
    ) -> Generator[Answer, None, None]:
        """`classify` many photos in `workers` processes; yields the answers in the photos' order.

        sources is any iterable of what `classify` takes. For a photo on which `classify` raises a
        TinyMixNetError, the answer is that error, and the rest goes on. For everything else see
        `fast.workers.map_in_processes`.
        """
        if preset is not None:
            check_preset(preset, {})
        return map_in_processes(self._classifier(top, preset), sources, workers)

    def _classifier(self, top: int, preset: str | None) -> "Classifier":
        if top < 1:
            raise InputError(f"top={top}: expected the number of answers wanted, 1 or more")
        return Classifier(self.plan, self.metadata, self.labels, top, preset)

    def _collect(
        self, pixels: Array, layout: str, channels: str, names: list[str]
    ) -> dict[str, Array]:
        """Run the plan up to the last of the named outputs and return those of all images.

        One image at a time: its activations then stay in the processor's cache, and a large batch
        takes no more scratch memory than a single image.
        """
        images = check_pixels(pixels, layout, channels)
        shapes = self._layer_shapes(*images.shape[1:3])
        outputs = {name: np.empty((len(images), *shapes[name]), np.float32) for name in names}
        for i, image in enumerate(images):
            for name, output in zip(names, self.plan.run(image, names), strict=True):
                outputs[name][i] = output
        return outputs


@dataclass(frozen=True)
class Classifier:
    """All that it takes to name a photo. `Model.map` sends one to its worker processes."""

    plan: Plan
    metadata: Metadata
    labels: tuple[str, ...]
    top: int
    preset: str | None

    def __call__(self, image: Source) -> list[Prediction]:
        """As `Model.classify`."""
        pixels = _prepare(image, self.metadata, self.preset)
        if len(pixels) != 1:
            raise ImageError(f"{image!r}: holds {len(pixels)} images, expected one")
        [logits] = self.plan.run(check_pixels(pixels)[0], ["logits"])
        probabilities = softmax(logits)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        return [Prediction(self.labels[i], float(probabilities[i]), int(i)) for i in best]


def _prepare(image: Source, metadata: Metadata, preset: str | None) -> Array:
    """As `Model.pixels`."""
    if isinstance(image, (str, os.PathLike)) and os.fsdecode(image).endswith(".npy"):
        return read_pixels(image)
    preset = preset or metadata.preset
    parameters: Mapping[str, float] = {}
    if preset == metadata.preset:
        parameters = metadata.preset_parameters
    return preprocess(read_image(image), preset, metadata.input_size, parameters)[np.newaxis]


def load(weights: str | os.PathLike[str] | None = None) -> Model:
    """Load a model: the bundled one, a weights file, or a fetched one by name ("mixnet-l").

    Without an argument the environment variable TINYMIXNET_WEIGHTS, where set, says which.
    Raises WeightsError for a file that is missing, damaged, unsafe or does not fit.
    """
    read_environment()
    architecture, tensors, metadata = read_weights(find_weights(weights))
    return Model(architecture, tensors, metadata)
