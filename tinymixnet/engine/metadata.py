"""What a model needs besides its tensors, and how a weights file writes it down as attributes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.images import PRESETS, check_preset
from tinymixnet.errors import WeightsError, short_repr

FORMAT, FORMAT_VERSION = "tinymixnet weights", 1
FLOAT32 = np.finfo(np.float32)
CLASS_LISTS = {  # fields with a value for each class: the pattern and type of the values
    "wordnet_ids": (re.compile("n[0-9]{8}"), str),
    "imagenet_indices": (re.compile("[0-9]{1,6}"), int),
}


@dataclass(frozen=True)
class Metadata:
    """How to prepare a photo, what the classes are called, and where the weights come from."""

    labels: tuple[str, ...] = ()
    wordnet_ids: tuple[str, ...] = ()  # of the classes, where they are ImageNet's: n02123045, ...
    imagenet_indices: tuple[int, ...] = ()  # of the classes among ImageNet's 1000
    input_size: int = 224  # pixels a side that the preset makes
    preset: str = "tf"  # how a photo is cropped and resized: a name of images.PRESETS
    preset_parameters: Mapping[str, float] = field(default_factory=lambda: dict(PRESETS["tf"][1]))
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # RGB, subtracted from 0..255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)  # RGB, divided by
    epsilon: float = 1e-3  # batch norm's
    averages: bool = True  # moving averages of the training (EMA), or the raw last values
    folded: bool = False  # whether the file they are from had batch norm folded into the kernels
    name: str = ""  # what to call these weights
    source: str = ""
    source_sha256: str = ""
    licence: str = ""
    accuracy: str = ""  # as measured, and on which photos; empty: not measured

    def chosen_preset(self, name: str | None) -> tuple[str, Mapping[str, float]]:
        """Return a preset and its parameters: that of the weights, or another one as it is."""
        if name is None or name == self.preset:
            return self.preset, self.preset_parameters
        return name, PRESETS[name][1]


def default_labels(classes: int) -> tuple[str, ...]:
    """What the classes are called where nobody named them."""
    return tuple(f"class {index}" for index in range(classes))


def to_attributes(architecture: Architecture, metadata: Metadata) -> dict[str, Any]:
    """The attributes of a weights file; the labels are not among them, they are a dataset."""
    attributes = {f.name: getattr(metadata, f.name) for f in fields(metadata)}
    del attributes["labels"]
    if not metadata.folded:
        del attributes["folded"]
    for name in CLASS_LISTS:
        values = attributes.pop(name)
        if values:
            attributes[name] = " ".join(map(str, values))
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "variant": architecture.variant,
        "block_strings": " ".join(architecture.block_strings),
        "stem_filters": architecture.stem_filters,
        "head_filters": architecture.head_filters,
        "multiplier": architecture.multiplier,
        "classes": architecture.classes,
        **attributes,
        "preset_parameters": json.dumps(dict(metadata.preset_parameters), sort_keys=True),
    }


def check_format(attributes: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the file says that it is of our format, in this version."""
    name, version = attributes.get("format"), attributes.get("format_version")
    if (name, version) != (FORMAT, FORMAT_VERSION):
        raise WeightsError(
            f"expected format {FORMAT!r}, version {FORMAT_VERSION}; found {short_repr(name)}, "
            f"version {short_repr(version)}: make the file anew (weights_tools)"
        )


def read_architecture(attributes: Mapping[str, Any]) -> Architecture:
    """The network that the attributes describe. Raises WeightsError or InputError."""
    return Architecture(
        variant=_typed(attributes, "variant", str),
        block_strings=tuple(_typed(attributes, "block_strings", str).split()),
        stem_filters=_typed(attributes, "stem_filters", int),
        head_filters=_typed(attributes, "head_filters", int),
        multiplier=_typed(attributes, "multiplier", float),
        classes=_typed(attributes, "classes", int),
    )


def read_metadata(attributes: Mapping[str, Any], classes: int) -> Metadata:
    """All fields but the labels. Raises WeightsError or InputError for values of no use."""
    texts = ("name", "source", "source_sha256", "licence", "accuracy")
    try:
        parameters = dict(json.loads(_typed(attributes, "preset_parameters", str)))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"attribute preset_parameters: not a JSON object ({error})") from None
    metadata = Metadata(
        input_size=_typed(attributes, "input_size", int),
        preset=_typed(attributes, "preset", str),
        preset_parameters=parameters,
        mean=_typed(attributes, "mean", tuple),
        std=_typed(attributes, "std", tuple),
        epsilon=_typed(attributes, "epsilon", float),
        averages=_typed(attributes, "averages", bool),
        folded=_typed({"folded": False, **attributes}, "folded", bool),  # older files lack it
        wordnet_ids=_class_list(attributes, "wordnet_ids", classes),
        imagenet_indices=_class_list(attributes, "imagenet_indices", classes),
        **{name: _typed(attributes, name, str) for name in texts},
    )
    mean, std, epsilon = metadata.mean, metadata.std, metadata.epsilon
    # The network computes in float32: a smaller divisor would be rounded to zero there.
    smallest, largest = (float(limit) for limit in (FLOAT32.tiny, FLOAT32.max))
    floats = all(type(n) is float and abs(n) <= largest for n in (*mean, *std, epsilon))
    if len(mean) != 3 or len(std) != 3 or not floats or min(*std, epsilon) < smallest:
        raise WeightsError(f"attributes mean, std, epsilon: unusable {mean}, {std}, {epsilon}")
    if not 32 <= metadata.input_size <= 4096:
        raise WeightsError(f"attribute input_size: expected 32..4096, found {metadata.input_size}")
    check_preset(metadata.preset, metadata.preset_parameters)
    return metadata


def _class_list(attributes: Mapping[str, Any], name: str, classes: int) -> tuple[Any, ...]:
    """A list with a value for each class, or an empty one. Older files have no such attribute."""
    values = _typed({name: "", **attributes}, name, str).split()
    pattern, kind = CLASS_LISTS[name]
    if len(values) not in (0, classes) or not all(map(pattern.fullmatch, values)):
        raise WeightsError(f"attribute {name}: expected none or {classes}, one for each class")
    return tuple(map(kind, values))


def _typed(attributes: Mapping[str, Any], name: str, kind: type) -> Any:
    value = attributes.get(name)
    if type(value) is not kind:
        raise WeightsError(f"attribute {name}: expected {kind.__name__}, found {short_repr(value)}")
    return value
