"""Labelled photos for `evaluate`, laid out in each of the ways that it takes."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.support.shared import SHARED
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, read_weights

TINY_IMAGENET = SHARED / "data" / "tiny-imagenet-val.npz"


class Labelled(NamedTuple):
    """A photo's file and the number of its class among those of the bundled weights."""

    content: bytes
    truth: int


def tiny_imagenet(count: int | None = None) -> list[Labelled]:
    """The photos of Tiny ImageNet's validation set in ../shared, or the first few of them."""
    with np.load(TINY_IMAGENET) as arrays:
        content, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
        labels = arrays["labels"].tolist()
    places = zip(pairwise(offsets), labels, strict=True)
    return [Labelled(content[a:b], truth) for (a, b), truth in islice(places, count)]


def bundled_photos(count: int = 8) -> list[Labelled]:
    """Small photos for a fresh clone: parts of the cat and of the cup of coffee, some misnamed."""
    cat, coffee = (Image.open(BUNDLED.parent / f"{name}.jpg") for name in ("cat", "coffee"))
    photos = []
    for i in range(count):
        photo, truth = ((cat, 32), (coffee, 192))[i % 2]
        w, h = photo.size
        part = photo.crop((4 * i, 3 * i, w - 5 * i, h - 2 * i)).resize((96 + i, 80))
        with io.BytesIO() as file:
            part.save(file, "JPEG", quality=90)
            photos.append(Labelled(file.getvalue(), 30 if i % 5 == 4 else truth))
    return photos


def name_of(number: int) -> str:
    """The name that ImageNet would give the photo of this number."""
    return f"ILSVRC2012_val_{number + 1:08d}.JPEG"


def as_folders(photos: Iterable[Labelled], folder: Path, names: Mapping[int, str]) -> Path:
    """Lay photos out in a folder for each class; names: what the folders are called."""
    for number, photo in enumerate(photos):
        place = folder / names[photo.truth]
        place.mkdir(parents=True, exist_ok=True)
        (place / name_of(number)).write_bytes(photo.content)
    return folder


def as_flat(
    photos: Iterable[Labelled], folder: Path, table: str, line: str, metadata: Metadata
) -> Path:
    """Lay photos out in one folder with a table.

    line: of the table, with {file} and {id}, {label} or {index} in it. metadata: of the weights.
    """
    folder.mkdir()
    lines = []
    for number, photo in enumerate(photos):
        (folder / name_of(number)).write_bytes(photo.content)
        values = {
            "file": name_of(number),
            "id": metadata.wordnet_ids[photo.truth],
            "label": metadata.labels[photo.truth],
            "index": photo.truth,
        }
        lines.append(line.format(**values))
    (folder / table).write_text("\n".join(lines) + "\n")
    return folder


def as_tar(folder: Path, path: Path, inner: str = "") -> Path:
    """Put what is in a folder into a .tar, below a folder `inner`."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{inner}{file.relative_to(folder)}", recursive=False)
    return path


def as_npz(photos: Iterable[Labelled], path: Path) -> Path:
    """Pack photos end to end, as ../shared/data/tiny-imagenet-val.npz has them."""
    contents, labels = zip(*photos, strict=True)
    offsets = np.cumsum([0, *map(len, contents)])
    jpeg = np.frombuffer(b"".join(contents), np.uint8)
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=np.array(labels))
    return path


def bundled_metadata() -> Metadata:
    """What the bundled weights say of their classes."""
    return read_weights(BUNDLED).metadata
