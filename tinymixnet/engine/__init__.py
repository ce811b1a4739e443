"""The network itself: kernels, architecture, the layers in order, photos and weights."""

__version__ = "0.1.0"
