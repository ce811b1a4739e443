"""Mistakes that people make when they port MixNet: one module for each part of the network."""

from tinymixnet.debug.suspects.activation import ACTIVATION
from tinymixnet.debug.suspects.convolution import CONVOLUTION
from tinymixnet.debug.suspects.input import INPUT
from tinymixnet.debug.suspects.normalization import NORMALIZATION
from tinymixnet.debug.suspects.precision import PRECISION

SUSPECTS = [*INPUT, *CONVOLUTION, *NORMALIZATION, *ACTIVATION, *PRECISION]
