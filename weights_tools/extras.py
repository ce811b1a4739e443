"""Import a framework that only some commands need, or say which extra brings it."""

from importlib import import_module
from typing import Any

from tinymixnet.errors import TinyMixNetError


def import_extra(module: str, extra: str) -> Any:
    """Return a module of an optional framework. Raises TinyMixNetError if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise TinyMixNetError(
            f"this needs {module}, which is not installed: pip install 'tinymixnet[{extra}]'"
        ) from None
