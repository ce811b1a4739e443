"""MixNet in NumPy, to be read: see README.md, and start with kernels.py and model.py."""

from tinymixnet.errors import TinyMixNetError
from tinymixnet.model import Model, Prediction, load

__all__ = ["Model", "Prediction", "TinyMixNetError", "load"]
__version__ = "0.1.0"
