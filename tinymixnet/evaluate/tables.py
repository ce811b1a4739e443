"""Tables that say which class a photo is of: a .txt or .csv, or ImageNet's ground truth."""

import csv
import io
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.imagenet import VALIDATION_NAME, wordnet_id_of_ilsvrc2012
from tinymixnet.evaluate.listing import is_photo
from tinymixnet.evaluate.words import count, listed

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NAMES = (
    GROUND_TRUTH,
    "labels.txt",
    "labels.csv",
    "labels.tsv",
    "val.txt",
    "val_annotations.txt",  # of Tiny ImageNet
    "LOC_val_solution.csv",  # of Kaggle
)
LARGEST_TABLE = 1 << 28  # bytes; ImageNet's 1.3 million training photos take 60 MB
LONGEST_CELL = 4096  # characters
MARKS = ",\t; "  # between columns
SAMPLE = 100  # lines by which the mark is chosen
FILE_COLUMNS = {
    *("file", "filename", "file_name", "path", "filepath", "file_path", "photo"),
    *("image", "imageid", "image_id", "image_name", "image_path"),
}
CLASS_COLUMNS = (
    *("class", "wordnet_id", "wnid", "synset", "label", "class_name", "index", "class_id"),
    *("truth", "predictionstring"),
)
EXPECTED = "expected a line for each photo: its file, then its class (file class, or file,class)"


class Truths(NamedTuple):
    """What a table says: of each photo that is there, the name of its class."""

    class_of: dict[str, str]
    missing: list[str]  # files of the table that are not there


class Finder:
    """Finds the photo that a table means: by its name, the last part of it, or without ending.

    A table may also say more than is there: val/a.jpg, where DATA is the folder val.
    """

    def __init__(self, photos: Sequence[str]) -> None:
        self.whole = _unique(photos, _without_ending) | {photo: photo for photo in photos}
        self.last = _unique(photos, _stem) | _unique(photos, _last)
        self.depth = max((photo.count("/") + 1 for photo in photos), default=0)

    def find(self, file: str) -> str | None:
        """Return a photo's whole name; None if no photo fits, or several do."""
        parts = [part for part in file.replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(max(0, len(parts) - self.depth), len(parts)):
            if photo := self.whole.get("/".join(parts[start:])):
                return photo
        return self.last.get(parts[0]) if len(parts) == 1 else None


def _unique(photos: Sequence[str], part: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for photo in photos:
        key = part(photo)
        found[key] = None if key in found else photo
    return {key: photo for key, photo in found.items() if photo is not None}


def _last(photo: str) -> str:
    return photo.rsplit("/", 1)[-1]


def _stem(photo: str) -> str:
    return _last(_without_ending(photo))


def _without_ending(photo: str) -> str:
    return os.path.splitext(photo)[0]


def read_table(name: str, content: bytes, photos: Sequence[str]) -> Truths:
    """Return the class of each photo that a table names.

    name: of the table, for messages; the ground truth of ImageNet's development kit is known by it.
    photos: the names of those that are there. A table may name a photo by its whole name, by its
    last part, or without its ending, as long as only one photo fits. Raises InputError.
    """
    try:
        text = _decode(content)
        if name.rsplit("/", 1)[-1] == GROUND_TRUTH:
            return _ground_truth(text, photos)
        finder = Finder(photos)
        return _match(_rows(text, finder), finder)
    except (InputError, ValueError, csv.Error) as error:
        raise InputError(f"{name}: {error}") from None


def _decode(content: bytes) -> str:
    if len(content) > LARGEST_TABLE:
        raise InputError(f"{len(content):,} bytes, at most {LARGEST_TABLE:,} are read")
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16")
    # Names of files need not be text: they are kept as Python keeps them everywhere.
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _ground_truth(text: str, photos: Sequence[str]) -> Truths:
    """Line i of the ground truth has the ILSVRC2012 id of ILSVRC2012_val_0000000i.JPEG."""
    wordnet_ids = wordnet_id_of_ilsvrc2012()
    lines = text.split()
    if not all(re.fullmatch("[0-9]{1,4}", line) and int(line) in wordnet_ids for line in lines):
        raise InputError("expected a number from 1 to 1000 on each line")
    class_of = {}
    for photo in photos:
        match = VALIDATION_NAME.match(_last(photo))
        if not match:
            continue
        number = int(match[1])
        if not 1 <= number <= len(lines):
            raise InputError(f"{len(lines):,} lines, none for {printable(photo)}")
        class_of[photo] = wordnet_ids[int(lines[number - 1])]
    return Truths(class_of, [])


def _rows(text: str, finder: Finder) -> list[tuple[str, str]]:
    """Return (file, class) of each line.

    Labels may have commas and spaces in them. So the mark between the columns is the one with which
    most of the first lines name a photo that is there.
    """
    sample = "\n".join(islice((line for line in text.splitlines() if line.strip()), SAMPLE))

    def hits(mark: str) -> int:
        return sum(any(map(finder.find, row)) for row in _cut(sample, mark, finder))

    cells = _cut(text, max(MARKS, key=hits), finder)
    if not cells:
        raise InputError(f"empty; {EXPECTED}")
    file_column, class_column = 0, 1
    header = [cell.casefold().replace(" ", "_") for cell in cells[0]]
    files = [i for i, cell in enumerate(header) if cell in FILE_COLUMNS]
    if files or (len(cells) > 1 and _names_columns(header, finder)):
        classes = [header.index(name) for name in CLASS_COLUMNS if name in header]
        file_column = files[0] if files else int(classes[:1] == [0])
        class_column = classes[0] if classes else 1 - min(file_column, 1)
        cells = cells[1:]
    for row in cells:
        if len(row) <= max(file_column, class_column):
            raise InputError(f"{EXPECTED}, found {printable(' '.join(row), 80)!r}")
    rows = [(row[file_column], row[class_column]) for row in cells]
    if header[class_column:][:1] == ["predictionstring"]:  # of Kaggle: the class, and boxes
        rows = [(file, (words.split() or [""])[0]) for file, words in rows]
    return rows


def _names_columns(cells: Sequence[str], finder: Finder) -> bool:
    """Whether a first row can only name the columns: it has neither a photo nor a number."""
    return not any(
        is_photo(cell) or finder.find(cell) or re.search("[0-9]", cell) for cell in cells
    )


def _cut(text: str, mark: str, finder: Finder) -> list[list[str]]:
    """Return the cells of each line that is not empty; a mark of " " is any white space."""
    if mark != " ":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        rows = ([cell.strip() for cell in line] for line in lines)
        return [row for row in rows if any(row)]
    return [_split(line, finder) for line in re.split("\r\n|\n|\r", text) if line.strip()]


def _split(line: str, finder: Finder) -> list[str]:
    """Split a line at its first white space, or at its last if only that names a photo."""
    first, last = line.split(None, 1), line.rsplit(None, 1)
    row = last if finder.find(last[0]) and not finder.find(first[0]) else first
    return [cell.strip() for cell in row]


def _match(rows: list[tuple[str, str]], finder: Finder) -> Truths:
    """Return the truths of the photos that rows name."""
    class_of: dict[str, str] = {}
    missing = []
    for file, name in rows:
        if not name or len(name) > LONGEST_CELL or len(file) > LONGEST_CELL:
            raise InputError(f"{printable(file, 80)}: no class, or one of {len(name):,} letters")
        photo = finder.find(file)
        if photo is None:
            missing.append(file)
        elif class_of.setdefault(photo, name) != name:
            raise InputError(
                f"{printable(file, 80)} stands there twice, as {printable(class_of[photo], 80)} "
                f"and as {printable(name, 80)}"
            )
    return Truths(class_of, missing)


def missing_words(missing: Sequence[str]) -> list[str]:
    """Return what to say of files that a table names and that are not there."""
    if not missing:
        return []
    return [f"{count(len(missing), 'photo')} of the table that were not found: {listed(missing)}"]
