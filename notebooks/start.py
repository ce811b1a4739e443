"""What every notebook of the series begins with: `from start import *`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import numpy as np
import pictures
from exercise import check
from IPython.display import Code

import tinymixnet

__all__ = ["CAT", "COFFEE", "check", "model", "np", "pictures", "show", "tinymixnet"]

PHOTOS = Path(tinymixnet.__file__).parent / "data"
CAT, COFFEE = PHOTOS / "cat.jpg", PHOTOS / "coffee.jpg"
model = tinymixnet.load()  # the weights that come with the package


def show(code: Callable[..., Any] | ModuleType) -> Code:
    """Show the source of a function, a class or a module, as it stands in the package."""
    return Code(dedent(inspect.getsource(code)), language="python")
