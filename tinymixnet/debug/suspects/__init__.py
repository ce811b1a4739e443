"""Mistakes that people make when they port MixNet: one module for each part of the network."""

from tinymixnet.debug.suspects.activation import ACTIVATION
from tinymixnet.debug.suspects.block import BLOCK
from tinymixnet.debug.suspects.convolution import CONVOLUTION
from tinymixnet.debug.suspects.input import INPUT
from tinymixnet.debug.suspects.normalization import NORMALIZATION
from tinymixnet.debug.suspects.output import OUTPUT
from tinymixnet.debug.suspects.padding import PADDING
from tinymixnet.debug.suspects.precision import PRECISION
from tinymixnet.debug.suspects.squeeze_excite import SQUEEZE_EXCITE

SUSPECTS = [
    *INPUT,
    *PADDING,
    *CONVOLUTION,
    *NORMALIZATION,
    *ACTIVATION,
    *SQUEEZE_EXCITE,
    *BLOCK,
    *OUTPUT,
    *PRECISION,
]
