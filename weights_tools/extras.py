"""Import a framework that only some commands need, or say which extra brings it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

from tinymixnet.errors import TinyMixNetError


def import_extra(module: str, extra: str) -> Any:
    """Return a module of an optional framework. Raises TinyMixNetError if it is not installed.

    What it writes to standard error while it starts is dropped. TensorFlow greets with several
    lines, and a command that fails should print one line.
    """
    starts = module not in sys.modules
    try:
        with _standard_error_dropped() if starts else nullcontext():
            return import_module(module)
    except ImportError:
        raise TinyMixNetError(
            f"this needs {module}, which is not installed: pip install 'tinymixnet[{extra}]'"
        ) from None


@contextmanager
def _standard_error_dropped() -> Iterator[None]:
    """Send what the process writes to file 2 nowhere, also what code outside of Python writes."""
    try:
        before = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
