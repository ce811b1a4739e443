"""`Model`, a network with its weights, ready to use.

`Model.layers` takes the readable path, layer by layer (`engine/network.py`). All other methods take
the fast path to the same numbers (`fast/plan.py`).
"""

import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tinymixnet.engine.architecture import Architecture, check_input_size
from tinymixnet.engine.budget import read_environment
from tinymixnet.engine.explain import Explanation, Progress, explain, seen_of_photo
from tinymixnet.engine.images import PRESETS, Source, check_preset, preprocess, read_image
from tinymixnet.engine.kernels import Array, softmax
from tinymixnet.engine.metadata import Metadata, default_labels
from tinymixnet.engine.network import Tensors, forward, network
from tinymixnet.engine.pixels import check_pixels, read_pixels
from tinymixnet.engine.weights import Weights, join_problems, read_wanted, shape_problems
from tinymixnet.errors import (
    ImageError,
    InputError,
    TinyMixNetError,
    WeightsError,
    printable,
    short_repr,
)
from tinymixnet.fast import swish
from tinymixnet.fast.constants import constants
from tinymixnet.fast.plan import PROGRAMS_KEPT, Plan

if TYPE_CHECKING:  # slow to import, and not always needed
    from PIL.Image import Image

    from tinymixnet.evaluate.data import LabelledPhotos
    from tinymixnet.evaluate.progress import Progress as EvaluationProgress
    from tinymixnet.evaluate.results import Results
    from tinymixnet.fast.choice import TeamPlan

__all__ = ["Model", "Prediction", "load", "network"]


class Prediction(NamedTuple):
    """One answer of `Model.classify`."""

    label: str
    probability: float
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


Answer: TypeAlias = "list[Prediction] | TinyMixNetError"


class Model:
    """A MixNet with its weights; `tinymixnet.load` makes one from a file.

    Models can be pickled and copied, and threads may share one. With `cores` above 1, processes
    share the work on each image: docs/cores.md says how that goes.

    Wherever a method takes `pixels`: (N, H, W, 3) uint8 or float32, RGB, 0..255, at least 32 pixels
    a side. With layout="NCHW" it takes (N, 3, H, W), with channels="BGR" blue comes first (the
    converted OpenVINO model has both). Everything else raises InputError. An image too large for
    the budget (see `engine.budget`) raises TinyMixNetError, and an overflow WeightsError.
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: Tensors,
        metadata: Metadata | None = None,
        cores: int | Literal["auto"] = 1,
    ) -> None:
        """tensors are float32, with the names and shapes of `architecture.tensor_shapes()`.

        cores as for `load`. Raises InputError when architecture, tensors and metadata do not fit
        each other.
        """
        metadata = Metadata() if metadata is None else metadata
        _check_parts(architecture, tensors, metadata)
        self.architecture = architecture
        self.tensors = tensors
        self.metadata = metadata
        self.labels = tuple(metadata.labels) or default_labels(architecture.classes)
        self.cores: int | Literal["auto"] = _check_cores(cores)
        self._plan: Plan | None = None
        self._team_plan: TeamPlan | None = None
        shapes = partial(_shapes_within_budget, architecture)
        self._layer_shapes = lru_cache(PROGRAMS_KEPT)(shapes)  # too slow to repeat for every image

    def __repr__(self) -> str:
        size, millions = self.metadata.input_size, self.architecture.parameters() / 1e6
        parts = f"{self.architecture.classes} classes, {size} px, {millions:.1f} M parameters"
        parts += "" if self.cores == 1 else f", cores={self.cores!r}"
        return f"Model({self.architecture.variant}, {parts})"

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.architecture, dict(self.tensors), self.metadata, self.cores
        return type(self), parts

    @property
    def plan(self) -> Plan:
        """The fast path. It is made when it is first needed: `diagnose`, for one, never runs it.

        Raises WeightsError when the weights overflow float32.
        """
        if self._plan is None:  # two threads may both make one; they are equal, and one is kept
            way = swish.fastest()
            folded = constants(self.architecture, self.tensors, self.metadata, way)
            self._plan = Plan(self.architecture, folded, way)
        return self._plan

    @property
    def _runner(self) -> "Plan | TeamPlan":
        """What runs the network on single images: the plan, or a team of processes."""
        if self.cores == 1 or sys.platform == "win32":
            return self.plan
        if self._team_plan is None:
            from tinymixnet.fast.choice import TeamPlan  # not needed for a single process

            plan = TeamPlan(self.plan, self.cores)
            self._team_plan = self._team_plan or plan  # two threads may make one: keep the first
        return self._team_plan

    def __call__(self, pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
        """Return the logits, the network's answer before softmax: (N, classes) float32."""
        return self._collect(pixels, layout, channels, ["logits"])["logits"]

    def embed(self, pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
        """Return what the classifier sees of each image, the pooled head: (N, 1536) float32.

        1536 is `architecture.head_filters`. Similar images have similar vectors.
        """
        return self._collect(pixels, layout, channels, ["head/pool"])["head/pool"]

    def features(
        self, pixels: Array, layout: str = "NHWC", channels: str = "RGB"
    ) -> dict[str, Array]:
        """Return the last output at each resolution, for a detector or segmenter to build on.

        The names are reduction_1 (half the input's height and width) to reduction_5. Each array is
        (N, H / 2^i, W / 2^i, C) float32, with sizes rounded up.
        """
        blocks = self.architecture.blocks
        last = [block.name for block, after in pairwise(blocks) if after.stride > 1]
        names = [f"{name}/output" for name in [*last, blocks[-1].name]]
        outputs = self._collect(pixels, layout, channels, names)
        return {f"reduction_{i}": outputs[name] for i, name in enumerate(names, start=1)}

    def layers(
        self, pixels: Array, layout: str = "NHWC", channels: str = "RGB"
    ) -> Iterator[tuple[str, Array]]:
        """Yield every canonical layer in order, as (name, tensor), in TensorFlow's shapes.

        Nothing is folded. A layer is computed when it is asked for, and none is kept: hold on to
        those you need.
        """
        try:
            images = self._checked(pixels, layout, channels).astype(np.float32)
        except MemoryError:
            raise InputError(
                "pixels: too many images for the memory there is; give fewer"
            ) from None
        return forward(images, self.architecture, self.tensors, self.metadata)

    def pixels(self, image: Source, preset: str | None = None) -> Array:
        """Return a photo as the network sees it: (1, S, S, 3) float32, S being the input size.

        image is a path, the bytes of an image file, a file object, a PIL image or a uint8 array
        (H, W), (H, W, 3) or (H, W, 4). It is cropped and resized by the preset of the weights, or
        by the one that is named. A path that ends in .npy holds pixels already, (H, W, 3) or
        (N, H, W, 3), and they are taken as they are. Raises ImageError when the image cannot be
        read, InputError for an unknown preset.
        """
        _check_preset_name(preset)
        return _prepare(image, self.metadata, preset)

    def classify(self, image: Source, top: int = 5, preset: str | None = None) -> list[Prediction]:
        """Name what is in a photo: return the `top` best labels, best first.

        image and preset as for `pixels`. Raises ImageError when the image cannot be read,
        InputError for an unusable top or preset, WeightsError when the network overflows.
        """
        return self._classifier(top, preset, self._runner)(image)

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
        _check_preset_name(preset)
        if size is not None and (type(size) is not int or not 32 <= size <= 4096):
            raise InputError(f"size: expected 32 to 4096 pixels a side, found {short_repr(size)}")
        metadata = self.metadata if size is None else replace(self.metadata, input_size=size)
        ready = isinstance(image, (str, os.PathLike)) and os.fsdecode(image).endswith(".npy")
        if ready and size is not None:
            raise InputError("size: the pixels of a .npy file are taken as they are")
        photo = None if ready else read_image(image)
        if photo is None:
            pixels = _prepare(image, metadata, preset)
        else:  # `_prepare` would copy it, and there may not be memory for two
            pixels = _resize(photo, metadata, preset)
        if len(pixels) != 1:
            raise ImageError(f"{short_repr(image)}: holds {len(pixels)} images, expected one")
        layers = {name: x[0] for name, x in self.layers(pixels) if name in ("image", "head/act")}
        box = None
        if photo is not None:
            name, parameters = metadata.chosen_preset(preset)
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
        cluster: str | None = None,
    ) -> Generator[Answer, None, None]:
        """`classify` many photos in `workers` processes; yield the answers in the photos' order.

        sources is any iterable of what `classify` takes. If `classify` raises a TinyMixNetError for
        a photo, that error is the answer, and the next photo follows. No more workers are started
        than there are photos or usable cores. `fast.workers.map_in_processes` says more.

        cluster: the address of a Dask scheduler whose workers do it, see `evaluate.cluster`, or
        "local" for `workers` of them on this machine.
        """
        from tinymixnet.fast.workers import map_in_processes  # not needed for a single photo

        _check_count("workers", workers, "the number of processes")
        classifier = self._classifier(top, preset, self.plan)  # a process for each image
        if cluster is not None:
            from tinymixnet.evaluate.cluster import map_on_cluster

            return map_on_cluster(classifier, sources, cluster, workers)
        return map_in_processes(classifier, sources, workers)

    def evaluate(
        self,
        data: "str | os.PathLike[str] | LabelledPhotos",
        output: str | os.PathLike[str] | None = None,
        preset: str | None = None,
        limit: int | None = None,
        workers: int | None = None,
        labels: str | os.PathLike[str] | None = None,
        cluster: str | None = None,
        progress: "EvaluationProgress | None" = None,
    ) -> "Results":
        """Return how often the network is right on labelled photos.

        data: a folder of class folders, a folder of photos with a table of their classes, a .tar of
        either, or an .npz. labels: the table, if it has no usual name. output: a file in which the
        results grow; the same call goes on where it stopped. limit: a fair sample of so many
        photos. workers: processes, as many as there are cores. cluster: a Dask scheduler's address,
        or "local". progress: such as `evaluate.progress.with_progress`. docs/evaluate.md and
        `evaluate.results.Results` say more. Photos that cannot be read are in `Results.skipped`.
        Raises InputError for unusable data and for an unusable output.
        """
        from tinymixnet.evaluate.data import LabelledPhotos, open_data  # not for a single photo
        from tinymixnet.evaluate.run import evaluate, make_header

        if workers is not None:
            _check_count("workers", workers, "the number of processes")
        if limit is not None:
            _check_count("limit", limit, "the number of photos")
        classifier = self._classifier(5, preset, self.plan)
        if not isinstance(data, LabelledPhotos):
            data = open_data(data, self.metadata, self.labels, labels)
        weights = Weights(self.architecture, dict(self.tensors), self.metadata)
        header = make_header(weights, self.labels, data, preset)
        return evaluate(classifier, header, data, output, limit, workers, cluster, progress)

    def _classifier(self, top: int, preset: str | None, plan: "Plan | TeamPlan") -> "Classifier":
        _check_count("top", top, "the number of answers wanted")
        _check_preset_name(preset)
        return Classifier(plan, self.metadata, self.labels, top, preset)

    def _checked(self, pixels: Array, layout: str, channels: str) -> Array:
        """As `check_pixels`; also ask the budget, before anything is allocated."""
        images = check_pixels(pixels, layout, channels)
        self._layer_shapes(*images.shape[1:3])
        return images

    def _collect(
        self, pixels: Array, layout: str, channels: str, names: list[str]
    ) -> dict[str, Array]:
        """Run the plan up to the last of the named outputs and return those of all images.

        One image at a time: its activations then stay in the processor's cache, and a large batch
        takes no more scratch memory than a single image.
        """
        images = self._checked(pixels, layout, channels)
        shapes = self._layer_shapes(*images.shape[1:3])
        try:
            outputs = {name: np.empty((len(images), *shapes[name]), np.float32) for name in names}
        except (MemoryError, ValueError):  # ValueError: more bytes than NumPy can count
            raise InputError(
                "pixels: too many images for the memory there is; give fewer"
            ) from None
        runner = self._runner
        for i, image in enumerate(images):
            for name, output in zip(names, runner.run(image, names), strict=True):
                _check_finite(name, output, self.metadata)
                outputs[name][i] = output
        return outputs


@dataclass(frozen=True)
class Classifier:
    """All that is needed to name a photo. `Model.map` sends one to its worker processes."""

    plan: "Plan | TeamPlan"
    metadata: Metadata
    labels: tuple[str, ...]
    top: int
    preset: str | None

    def __call__(self, image: Source) -> list[Prediction]:
        """As `Model.classify`."""
        name = "image"
        if isinstance(image, (str, os.PathLike)):
            name = printable(os.fsdecode(image))
        try:
            pixels = _prepare(image, self.metadata, self.preset)
            if len(pixels) != 1:
                raise ImageError(f"{name}: holds {len(pixels)} images, expected one")
            [logits] = self.plan.run(check_pixels(pixels)[0], ["logits"])
        except MemoryError:
            raise ImageError(f"{name}: needs more memory than there is") from None
        _check_finite("logits", logits, self.metadata)
        probabilities = softmax(logits)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        return [Prediction(self.labels[i], float(probabilities[i]), int(i)) for i in best]


def _prepare(image: Source, metadata: Metadata, preset: str | None) -> Array:
    """As `Model.pixels`."""
    if isinstance(image, (str, os.PathLike)) and os.fsdecode(image).endswith(".npy"):
        return read_pixels(image)
    return _resize(read_image(image), metadata, preset)


def _resize(photo: "Image", metadata: Metadata, preset: str | None) -> Array:
    """Return what the preset makes of a photo that is decoded already."""
    name, parameters = metadata.chosen_preset(preset)
    return preprocess(photo, name, metadata.input_size, parameters)[np.newaxis]


def load(weights: str | os.PathLike[str] | None = None, cores: int | Literal["auto"] = 1) -> Model:
    """Load a model: the bundled one, a weights file, or a fetched one by name ("mixnet-l").

    Without an argument, the environment variable TINYMIXNET_WEIGHTS names the weights if it is set.
    cores: how many processes work on one image, 1 to 8, or "auto" for what is fastest with the
    first one. They start with the first image, `docs/cores.md` says more; on Windows it stays one.
    Raises WeightsError for a file that is missing, damaged, unsafe or does not fit.
    """
    if not isinstance(weights, (str, os.PathLike, type(None))):
        raise InputError(f"weights: expected a path or a name, found {short_repr(weights)}")
    _check_cores(cores)
    read_environment()
    architecture, tensors, metadata = read_wanted(weights)
    return Model(architecture, tensors, metadata, cores)


# -- checks ---------------------------------------------------------------------------------------


def _check_count(name: str, value: object, meaning: str) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < 1:  # type: ignore[operator]
        raise InputError(f"{name}={short_repr(value)}: expected {meaning}, a whole number from 1")


def _check_cores(cores: Any) -> Any:
    """Return a number of cores as a plain int, or "auto"; raise InputError for anything else."""
    if isinstance(cores, str) and cores == "auto":
        return cores
    if type(cores) is int and cores == 1:
        return cores
    from tinymixnet.fast.choice import MOST_CORES  # not needed for a single process

    whole = isinstance(cores, (int, np.integer)) and not isinstance(cores, bool)
    if not whole or not 1 <= cores <= MOST_CORES:
        raise InputError(
            f"cores={short_repr(cores)}: expected how many processes work on one image, a whole "
            f'number from 1 to {MOST_CORES}, or "auto"'
        )
    return int(cores)


def _check_preset_name(preset: object) -> None:
    if preset is not None and not isinstance(preset, str):
        names = ", ".join(PRESETS)
        raise InputError(f"preset={short_repr(preset)}: expected one of {names}, or None")
    if isinstance(preset, str):
        check_preset(preset, {})


def _shapes_within_budget(
    architecture: Architecture, height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """As `Architecture.layer_shapes`, if the budget allows for that size, else TinyMixNetError."""
    check_input_size(architecture, height, width)
    return architecture.layer_shapes(height, width)


def _check_finite(name: str, output: Array, metadata: Metadata) -> None:
    """Raise WeightsError for an overflow: good weights and pixels of 0..255 never cause one."""
    if not np.isfinite(output).all():
        weights = printable(metadata.name or "the weights")
        raise WeightsError(
            f"{weights}: {name} has NaN or infinity, because numbers became too large for float32; "
            "are the weights damaged? model.layers(pixels) shows in which layer it begins"
        )


def _check_parts(architecture: object, tensors: object, metadata: object) -> None:
    """Raise InputError unless the parts of a model are of the right types and fit each other."""
    if not isinstance(architecture, Architecture):
        raise InputError(
            f"architecture: expected an Architecture, found {short_repr(architecture)}"
        )
    if not isinstance(tensors, Mapping):
        raise InputError(f"tensors: expected a dict of arrays, found {short_repr(tensors)}")
    if not isinstance(metadata, Metadata):
        raise InputError(f"metadata: expected a Metadata, found {short_repr(metadata)}")
    problems = [
        f"{name}: expected a float32 array, found {getattr(tensor, 'dtype', type(tensor).__name__)}"
        for name, tensor in tensors.items()
        if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32
    ]
    if not problems:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        problems = shape_problems(shapes, architecture)
    if problems:
        raise InputError(f"tensors: {join_problems(problems)}")
    _check_metadata(metadata, architecture.classes)


def _check_metadata(metadata: Metadata, classes: int) -> None:
    """Raise InputError for values of no use. A file's metadata was checked when it was read."""
    labels = metadata.labels
    texts = isinstance(labels, (tuple, list)) and all(isinstance(label, str) for label in labels)
    if not texts:
        raise InputError(f"labels: expected a tuple of texts, found {short_repr(labels)}")
    if labels and len(labels) != classes:
        raise InputError(f"{classes} classes, but {len(labels)} labels")
    _check_count("input_size", metadata.input_size, "pixels a side")
    for name, count in (("mean", (3,)), ("std", (3,)), ("epsilon", ())):
        value = getattr(metadata, name)
        try:
            numbers = np.asarray(value)
            usable = numbers.shape == count and numbers.dtype.kind in "iuf"
            usable = usable and bool(np.isfinite(numbers).all())
        except ValueError:  # a ragged list
            usable = False
        if not usable or (name == "std" and numbers.min() <= 0):
            what = "a number" if count == () else "three numbers, for red, green and blue"
            positive = " above 0" if name == "std" else ""
            raise InputError(f"{name}: expected {what}{positive}, found {short_repr(value)}")
    if not isinstance(metadata.preset_parameters, Mapping):
        found = short_repr(metadata.preset_parameters)
        raise InputError(f"preset_parameters: expected a dict, found {found}")
    _check_preset_name(metadata.preset)
    check_preset(metadata.preset, metadata.preset_parameters)
