"""Tables that say which class a photo is of: a .txt or .csv, or ImageNet's ground truth."""

import csv
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.imagenet import VALIDATION_NAME, wordnet_id_of_ilsvrc2012
from tinymixnet.evaluate.words import count

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
FILE_COLUMNS = {"file", "filename", "file_name", "image", "imageid", "image_id", "path", "photo"}
CLASS_COLUMNS = ("class", "wordnet_id", "label", "index", "truth", "predictionstring")
EXPECTED = "expected a line for each photo: its file, then its class (file class, or file,class)"


class Truths(NamedTuple):
    """What a table says: of each photo that is there, the name of its class."""

    class_of: dict[str, str]
    missing: list[str]  # files of the table that are not there


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
        return _match(_rows(text, photos), photos)
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
        match = VALIDATION_NAME.match(photo.rsplit("/", 1)[-1])
        if not match:
            continue
        number = int(match[1])
        if not 1 <= number <= len(lines):
            raise InputError(f"{len(lines):,} lines, none for {printable(photo)}")
        class_of[photo] = wordnet_ids[int(lines[number - 1])]
    return Truths(class_of, [])


def _rows(text: str, photos: Sequence[str]) -> list[tuple[str, str]]:
    """Return (file, class) of each line."""
    lines = [line for line in re.split("\r\n|\n|\r", text) if line.strip()]
    if not lines:
        raise InputError(f"empty; {EXPECTED}")
    delimiter = next((mark for mark in ",\t;" if mark in lines[0]), None)
    if delimiter is None:
        known = set(photos)
        return [_split(line, known) for line in lines]
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    file_column, class_column = 0, 1
    header = [cell.casefold() for cell in cells[0]]
    files = [i for i, cell in enumerate(header) if cell in FILE_COLUMNS]
    if files:
        classes = [header.index(name) for name in CLASS_COLUMNS if name in header]
        file_column = files[0]
        class_column = classes[0] if classes else 1 - min(file_column, 1)
        cells = cells[1:]
    if any(len(row) <= max(file_column, class_column) for row in cells):
        raise InputError(f"a line has too few columns; {EXPECTED}")
    rows = [(row[file_column], row[class_column]) for row in cells]
    if files and header[class_column] == "predictionstring":  # of Kaggle: the class, and boxes
        rows = [(file, (words.split() or [""])[0]) for file, words in rows]
    return rows


def _split(line: str, known: set[str]) -> tuple[str, str]:
    """Split a line at its first white space, or at its last if only that gives a known photo."""
    first, last = line.split(None, 1), line.rsplit(None, 1)
    if len(first) < 2:
        raise InputError(f"{EXPECTED}, found {printable(line, 80)!r}")
    file, name = last if last[0] in known and first[0] not in known else first
    return file, name.strip()


def _match(rows: list[tuple[str, str]], photos: Sequence[str]) -> Truths:
    """Return the truths of the photos that rows name."""
    exact, last, stem = set(photos), _unique(photos, _last), _unique(photos, _stem)
    class_of: dict[str, str] = {}
    missing = []
    for file, name in rows:
        file = file.replace("\\", "/").removeprefix("./")
        if not name or len(name) > LONGEST_CELL or len(file) > LONGEST_CELL:
            raise InputError(f"{printable(file, 80)}: no class, or one of {len(name):,} letters")
        photo = file if file in exact else last.get(file) or stem.get(file)
        if photo is None:
            missing.append(file)
        elif class_of.setdefault(photo, name) != name:
            raise InputError(
                f"{printable(file, 80)} stands there twice, as {printable(class_of[photo], 80)} "
                f"and as {printable(name, 80)}"
            )
    return Truths(class_of, missing)


def _unique(photos: Sequence[str], part: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for photo in photos:
        key = part(photo)
        found[key] = None if key in found else photo
    return {key: photo for key, photo in found.items() if photo is not None}


def _last(photo: str) -> str:
    return photo.rsplit("/", 1)[-1]


def _stem(photo: str) -> str:
    return _last(photo).rsplit(".", 1)[0]


def missing_words(missing: Sequence[str]) -> list[str]:
    """Return what to say of files that a table names and that are not there."""
    if not missing:
        return []
    shown = ", ".join(printable(file, 80) for file in missing[:5])
    more = ", ..." if len(missing) > 5 else ""
    return [f"{count(len(missing), 'photo')} of the table that were not found: {shown}{more}"]
