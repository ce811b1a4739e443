"""List the files of a folder or of a .tar, and read one of them. Nothing is unpacked.

Both are untrusted: links may run in circles, and a .tar may hold paths that lead elsewhere. A name
here is only a name: nothing is ever written, and only what was listed is read.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tinymixnet.engine.budget import budget
from tinymixnet.errors import ImageError, InputError
from tinymixnet.evaluate.tar import FOLDER, REGULAR, read_tar
from tinymixnet.evaluate.words import count, listed

LONGEST_NAME = 4096  # characters, as of a path in Linux
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Listing(NamedTuple):
    """The files in a folder or a .tar by name: parts with / between them."""

    sizes: dict[str, int]  # bytes
    read: Callable[[str], "str | bytes"]  # a path, or the content of a file
    left_out: list[str]  # what else is there, in words
    path: Path
    folders: frozenset[str] = frozenset()  # those directly in it, empty or not

    def photos(self) -> list[str]:
        """Return the names that end as a photo's does, in order."""
        return sorted(name for name in self.sizes if is_photo(name))


def is_photo(name: str) -> bool:
    return name.lower().endswith(PHOTO_ENDINGS)


def list_folder(path: Path) -> Listing:
    """List a folder and all folders in it; hidden ones are left out. Links are followed.

    A folder is entered once, by whatever links one comes to it, so a circle of links ends.
    Raises InputError when the folder itself cannot be read.
    """
    sizes: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    unreadable: list[str] = []
    top: set[str] = set()
    again = 0
    folders = [""]
    for prefix in folders:  # grows while it is read
        place = path / prefix
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                again += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    name = prefix + entry.name
                    if _is_folder(entry):
                        folders.append(f"{name}/")
                    else:
                        sizes[name] = _size(entry)
            if prefix.count("/") == 1:
                top.add(prefix[:-1])
        except OSError as error:
            if not prefix:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
            unreadable.append(prefix.rstrip("/"))
    left_out = []
    if again:
        left_out.append(f"{count(again, 'link')} to a folder that is listed already")
    if unreadable:
        left_out.append(
            f"{count(len(unreadable), 'folder')} that cannot be read: {listed(unreadable)}"
        )
    return Listing(sizes, lambda name: str(path / name), left_out, path, frozenset(top))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _size(entry: "os.DirEntry[str]") -> int:
    """Return a file's bytes; 0 for what is no file or a link to nothing: reading it will tell."""
    try:
        status = entry.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except OSError:
        return 0


def list_tar(path: Path) -> Listing:
    """List the files in a .tar that is not compressed; only the places of their bytes are kept.

    Of two files of one name the later counts, as for tar itself. Raises InputError when the archive
    is damaged or ends too early.
    """
    places: dict[str, tuple[int, int]] = {}  # name: (offset, bytes)
    folders: set[str] = set()
    others: Counter[str] = Counter()
    for member in read_tar(path):
        name = _member_name(member.name)
        if len(member.name) > LONGEST_NAME:
            others["with a name that is too long"] += 1
            continue
        if member.kind == FOLDER:
            folders.add(name or "")
            continue
        if member.kind not in REGULAR:
            others["of another kind (link, device, sparse file)"] += 1
        elif name is None:
            others["with .. in the name"] += 1
        elif not any(part.startswith(".") for part in name.split("/")):
            others["replaced by a later one of the same name"] += name in places
            places[name] = member.start, member.size

    def read(name: str) -> bytes:
        start, length = places[name]
        budget.check("photo_file_bytes", length, "the file")
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(length)
        if len(content) < length:
            raise ImageError("the archive has become shorter")
        return content

    common, places = _without_common_folder(places)
    inner = (name.removeprefix(common).split("/")[0] for name in folders if name + "/" != common)
    top = frozenset(name for name in inner if name and not name.startswith("."))
    sizes = {name: size for name, (_, size) in places.items()}
    left_out = [f"{count(number, 'file')} {what}" for what, number in others.items() if number]
    return Listing(sizes, read, left_out, path, top)


def _member_name(name: str) -> str | None:
    """Return a member's name without ./ and / at its beginning, or None if it has .. in it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/".join(parts)


def _without_common_folder(
    places: dict[str, tuple[int, int]],
) -> tuple[str, dict[str, tuple[int, int]]]:
    """Return the folder that all files lie in, such as val/, if folders follow; places without it.

    `tar cf val.tar val` puts it there. A single folder that photos lie in is a class.
    """
    first = {name.split("/")[0] for name in places}
    inner = {name.split("/")[1] for name in places if name.count("/") > 1}
    if len(first) != 1 or len(inner) < 2 or any(name.count("/") < 2 for name in places):
        return "", places
    common = f"{first.pop()}/"
    return common, {name.removeprefix(common): place for name, place in places.items()}
