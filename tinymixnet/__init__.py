"""MixNet in NumPy, written to be read: see README.md, and start with mixnet.py."""

import sys
from importlib import import_module
from typing import Any

from tinymixnet.engine import __version__, architecture
from tinymixnet.errors import TinyMixNetError
from tinymixnet.model import Model, Prediction, load

__all__ = ["Model", "Prediction", "TinyMixNetError", "__version__", "load"]

# The public names of modules that live in a room: `from tinymixnet.architecture import mixnet` and
# `from tinymixnet import diagnose`. Those of the debugger are imported when they are first used.
sys.modules[f"{__name__}.architecture"] = architecture
DEBUG = ("compare", "diagnose", "dumps", "traces")


def __getattr__(name: str) -> Any:
    if name in DEBUG:
        return import_module(f"{__name__}.debug.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
