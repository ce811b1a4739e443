"""Which class each photo of a folder or a .tar is of: its folder's name, or what a table says."""

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.classes import Understood
from tinymixnet.evaluate.listing import Listing, is_photo
from tinymixnet.evaluate.tables import (
    GROUND_TRUTH,
    LARGEST_TABLE,
    NAMES,
    Truths,
    missing_words,
    read_table,
)
from tinymixnet.evaluate.words import count, listed

DEVELOPMENT_KIT = "ILSVRC2012_devkit_t12/data"
EXPECTED = (
    "expected a folder or .tar of class folders, or of photos with a table of their classes "
    f"(labels.txt, labels.csv or {GROUND_TRUTH}), or an .npz"
)


def arrange(
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
        try:
            truths = read_table(name, content, photos)
        except InputError:
            if table is not None or loose:
                raise
            # Something else of this name lies beside the class folders, such as a list of labels.
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
    folders = listing.folders | {name.split("/", 1)[0] for name in others if "/" in name}
    if empty := sorted(folders - {*class_of.values()}):
        left_out.append(f"{count(len(empty), 'folder')} without photos: {listed(empty)}")
    return f"{form} of class folders", class_of, left_out + _other_words(others)


def _other_words(others: Sequence[str]) -> list[str]:
    if not others:
        return []
    endings = Counter(os.path.splitext(name)[1] or "no ending" for name in others)
    shown = ", ".join(printable(ending, 20) for ending, _ in endings.most_common(5))
    return [f"{count(len(others), 'file')} without a photo's ending ({shown})"]


def unknown_words(understood: Understood, class_of: Mapping[str, str]) -> list[str]:
    unknown = understood.unknown
    if not unknown:
        return []
    names = set(unknown)
    photos = sum(name in names for name in class_of.values())
    return [
        f"{count(len(unknown), 'class')} that these weights do not know "
        f"({count(photos, 'photo')}): {listed(unknown)}"
    ]


def _find_table(
    listing: Listing, table: str | os.PathLike[str] | None, beside: bool
) -> tuple[str, bytes] | None:
    """Return the name and content of a table: the one that is named, or one of a usual name."""
    if table is not None:
        place = checked_path(table, "labels")
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


def checked_path(path: object, what: str) -> Path:
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
