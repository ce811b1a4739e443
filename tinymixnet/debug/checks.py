"""Checks of arguments: a wrong type raises InputError at once, not some error later on."""

import os
from pathlib import Path
from typing import TypeVar

from tinymixnet.errors import InputError

T = TypeVar("T")


def expect(value: object, kind: type[T], name: str) -> T:
    """Return `value` if it is of this type, else raise InputError."""
    if not isinstance(value, kind):
        raise InputError(f"{name}: expected a {kind.__name__}, found {type(value).__name__}")
    return value


def as_path(path: object) -> Path:
    """Return a path as a `Path`; anything else raises InputError."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"expected a path, found {type(path).__name__}")
    return Path(path)
