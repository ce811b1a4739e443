"""What DATA is: labelled photos in a folder, a .tar or an .npz (docs/evaluate.md)."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tinymixnet.engine.images import Source
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError
from tinymixnet.evaluate.arrange import EXPECTED, arrange, checked_path, unknown_words
from tinymixnet.evaluate.classes import understand
from tinymixnet.evaluate.contents import contents_hash
from tinymixnet.evaluate.listing import list_folder, list_tar
from tinymixnet.evaluate.npz import EXPECTED as NPZ_EXPECTED
from tinymixnet.evaluate.npz import read_npz
from tinymixnet.evaluate.progress import Progress

COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


class Photo(NamedTuple):
    """A photo and its class."""

    file: str  # its name inside of DATA
    size: int  # bytes
    truth: int  # the number of its class among those of the weights


@dataclass(frozen=True)
class LabelledPhotos:
    """The photos that a network is asked about, in the order in which it is asked.

    photos: those whose class the weights know. kind: what DATA is, in words. understood: how the
    names of the classes were understood. left_out: what is not evaluated, in words. read: gives for
    a photo's `file` what `read_image` takes: a path, bytes or an array. table: the file that says
    the classes, where it was named.
    """

    path: Path
    kind: str
    understood: str
    photos: tuple[Photo, ...]
    left_out: tuple[str, ...]
    read: Callable[[str], Source]
    table: Path | None = None
    _contents: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def classes(self) -> list[int]:
        """The numbers of the classes that the photos are of."""
        return sorted({photo.truth for photo in self.photos})

    def hash(self) -> str:
        """Return the SHA-256 of the photos' names, sizes and classes, in their order."""
        digest = sha256(self.kind.encode())
        for file, size, truth in self.photos:
            digest.update(_encoded(file) + f"\0{size} {truth}\n".encode())
        return digest.hexdigest()

    def contents(self, progress: Progress) -> str:
        """Return the SHA-256 of what is in the photos. The first call reads all of them."""
        if not self._contents:
            files = [photo.file for photo in self.photos]
            self._contents.append(contents_hash(files, self.read, progress))
        return self._contents[0]


def open_data(
    path: str | os.PathLike[str],
    metadata: Metadata,
    labels: Sequence[str],
    table: str | os.PathLike[str] | None = None,
) -> LabelledPhotos:
    """Return the labelled photos that a folder, a .tar or an .npz holds, for some weights.

    metadata, labels: of the weights. table: a file that says which class each photo is of; without
    it, a table of a usual name is looked for in DATA and beside it. Raises InputError.
    """
    place = checked_path(path, "data")
    if place.is_dir():
        listing = list_folder(place)
    else:
        start = _first_bytes(place)
        if start.startswith(b"PK\x03\x04"):
            if table is not None:
                raise InputError(f"{path}: an .npz has its labels inside, no table is needed")
            return _open_npz(place, metadata, labels)
        _refuse_compressed(place, start)
        if start[257:262] != b"ustar" and place.suffix != ".tar":
            expected = NPZ_EXPECTED if place.suffix == ".npz" else EXPECTED
            raise InputError(f"{place}: not a file of photos; {expected}")
        listing = list_tar(place)
    kind, class_of, left_out = arrange(listing, table)
    try:
        understood = understand(set(class_of.values()), metadata, labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    known = {
        file: number
        for file, name in class_of.items()
        if (number := understood.number_of[name]) is not None
    }
    left_out += unknown_words(understood, class_of)
    photos = [Photo(file, listing.sizes[file], truth) for file, truth in known.items()]
    return LabelledPhotos(
        place,
        kind,
        understood.kind,
        tuple(in_fair_order(photos)),
        tuple(left_out),
        listing.read,
        None if table is None else Path(table),
    )


def _first_bytes(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None


def _refuse_compressed(place: Path, start: bytes) -> None:
    for magic, program in COMPRESSED.items():
        if start.startswith(magic):
            raise InputError(
                f"{place}: is compressed, so its photos cannot be read one by one; unpack it with "
                f"`{program}` to a .tar first"
            )


def _open_npz(place: Path, metadata: Metadata, labels: Sequence[str]) -> LabelledPhotos:
    pictures, truths = read_npz(place)
    try:
        understand({str(t) for t in truths.tolist()}, metadata, labels, numbers_only=True)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    photos = [
        Photo(str(i), picture.nbytes if hasattr(picture, "nbytes") else len(picture), int(truth))
        for i, (picture, truth) in enumerate(zip(pictures, truths, strict=True))
    ]
    kind = "photos in an .npz"
    understood = "class numbers of the weights"
    ordered = tuple(in_fair_order(photos))
    return LabelledPhotos(place, kind, understood, ordered, (), lambda file: pictures[int(file)])


# -- the order ------------------------------------------------------------------------------------


def in_fair_order(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos in an order whose beginning is a fair sample, however long it is.

    Each class is spread evenly over the whole, its photos shuffled. So the first tenth holds a
    tenth of each class, rounded up or down. The shuffle comes from the SHA-256 of the names: it is
    the same on every machine and in every run.
    """
    of_class: dict[int, list[tuple[bytes, Photo]]] = defaultdict(list)
    for photo in photos:
        of_class[photo.truth].append((sha256(_encoded(photo.file)).digest(), photo))
    ordered = []
    for truth, members in of_class.items():
        members.sort()
        start = int.from_bytes(sha256(str(truth).encode()).digest()[:6], "big") / 2**48
        for place, (digest, photo) in enumerate(members):
            ordered.append(((place + start) / len(members), digest, photo))
    ordered.sort()
    return [photo for *_, photo in ordered]


def _encoded(file: str) -> bytes:
    """Return a name as bytes, the same on every machine; it need not be text."""
    return file.encode("utf-8", "surrogatepass")
