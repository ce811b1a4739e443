"""What DATA is: labelled photos in a folder, a .tar or an .npz (docs/evaluate.md)."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tinymixnet.engine.images import Source
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.classes import Understood, understand
from tinymixnet.evaluate.listing import Listing, is_photo, list_folder, list_tar
from tinymixnet.evaluate.npz import EXPECTED as NPZ_EXPECTED
from tinymixnet.evaluate.npz import read_npz
from tinymixnet.evaluate.tables import (
    GROUND_TRUTH,
    LARGEST_TABLE,
    NAMES,
    Truths,
    missing_words,
    read_table,
)
from tinymixnet.evaluate.words import count

COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
DEVELOPMENT_KIT = "ILSVRC2012_devkit_t12/data"
EXPECTED = (
    "expected a folder or .tar of class folders, or of photos with a table of their classes "
    f"(labels.txt, labels.csv or {GROUND_TRUTH}), or an .npz"
)


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
    place = _checked_path(path, "data")
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
    kind, class_of, left_out = _arrange(listing, table)
    try:
        understood = understand(set(class_of.values()), metadata, labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    known = {
        file: number
        for file, name in class_of.items()
        if (number := understood.number_of[name]) is not None
    }
    left_out += _unknown_words(understood, class_of)
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


def _checked_path(path: object, what: str) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InputError(f"{what}: expected a path, found {type(path).__name__}")
    if "\0" in str(path):
        raise InputError(f"{path}: is not a path, it has a null byte")
    place = Path(path)
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; {EXPECTED}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a pipe, socket or device; {EXPECTED}")
    return place


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


# -- which class each photo is of -----------------------------------------------------------------


def _arrange(
    listing: Listing, table: str | os.PathLike[str] | None
) -> tuple[str, dict[str, str], list[str]]:
    """Return what DATA is in words, the name of each photo's class, and what is left out."""
    photos = listing.photos()
    if not photos:
        raise InputError(f"{listing.path}: no photos in it; {EXPECTED}")
    left_out = list(listing.left_out)
    form = "folder" if listing.path.is_dir() else ".tar"
    loose = [photo for photo in photos if "/" not in photo]
    found = _find_table(listing, table, beside=bool(loose))
    truths = Truths({}, [])
    if found:
        name, content = found
        truths = read_table(name, content, photos)
        if not truths.class_of and (table is not None or loose):
            missing = truths.missing[:1] or ["none"]
            raise InputError(f"{name}: names no photo of {listing.path}, but {missing[0]}")
    others = [name for name in listing.sizes if not is_photo(name)]
    if truths.class_of:
        assert found is not None
        others = [name for name in others if name != found[0]]
        left_out += missing_words(truths.missing)
        if rest := len(photos) - len(truths.class_of):
            left_out.append(f"{count(rest, 'photo')} that the table does not name")
        kind = f"{form} of photos, classes from {os.path.basename(found[0])}"
        return kind, truths.class_of, left_out + _other_words(others)
    class_of = {photo: photo.split("/", 1)[0] for photo in photos if "/" in photo}
    if not class_of:
        raise InputError(f"{listing.path}: photos, but no table of their classes; {EXPECTED}")
    if loose:
        left_out.append(f"{count(len(loose), 'photo')} beside the class folders")
    folders = {name.split("/", 1)[0] for name in others if "/" in name} - {*class_of.values()}
    if folders:
        left_out.append(f"{count(len(folders), 'folder')} without photos")
    return f"{form} of class folders", class_of, left_out + _other_words(others)


def _other_words(others: Sequence[str]) -> list[str]:
    if not others:
        return []
    endings = Counter(os.path.splitext(name)[1] or "no ending" for name in others)
    shown = ", ".join(printable(ending, 20) for ending, _ in endings.most_common(5))
    return [f"{count(len(others), 'file')} without a photo's ending ({shown})"]


def _unknown_words(understood: Understood, class_of: Mapping[str, str]) -> list[str]:
    unknown = understood.unknown
    if not unknown:
        return []
    names = set(unknown)
    photos = sum(name in names for name in class_of.values())
    shown = ", ".join(printable(name, 40) for name in unknown[:5])
    more = ", ..." if len(unknown) > 5 else ""
    return [
        f"{count(len(unknown), 'class')} that these weights do not know "
        f"({count(photos, 'photo')}): {shown}{more}"
    ]


def _find_table(
    listing: Listing, table: str | os.PathLike[str] | None, beside: bool
) -> tuple[str, bytes] | None:
    """Return the name and content of a table: the one that is named, or one of a usual name."""
    if table is not None:
        place = _checked_path(table, "labels")
        if place.is_dir():
            raise InputError(f"{table}: is a folder, expected a table of the photos' classes")
        return str(table), _content(place)
    inside = [name for name in NAMES if name in listing.sizes]
    if len(inside) > 1:
        raise InputError(
            f"{listing.path}: has two tables of classes, {inside[0]} and {inside[1]}; say which "
            "one with --labels"
        )
    if inside:
        content = listing.read(inside[0])
        return inside[0], content if isinstance(content, bytes) else _content(Path(content))
    if not beside:
        return None
    around = Path(os.path.realpath(listing.path)).parent
    folders = [around, around / DEVELOPMENT_KIT]
    if listing.path.is_dir():
        folders.insert(0, listing.path / DEVELOPMENT_KIT)
    places = [folder / name for folder in folders for name in NAMES]
    for place in places:
        if place.is_file():
            return str(place), _content(place)
    return None


def _content(place: Path) -> bytes:
    try:
        if not place.is_file():
            raise InputError(f"{place}: is not a file, expected a table of the photos' classes")
        with place.open("rb") as file:
            return file.read(LARGEST_TABLE + 1)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None


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
