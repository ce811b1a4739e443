"""The errors a user can cause. Catch `TinyMixNetError` to catch them all."""


class TinyMixNetError(Exception):
    """A user's mistake: the message names the thing, what it should be, what it is, what to do."""


class InputError(TinyMixNetError, ValueError):
    """An array or an argument that a function cannot work with."""


class ImageError(TinyMixNetError):
    """A photo that cannot be read or is not safe to read."""


class WeightsError(TinyMixNetError):
    """A weights file that is missing, damaged, unsafe or made for another network."""


class CheckpointError(TinyMixNetError):
    """A TensorFlow checkpoint or PyTorch state dict that cannot be read or does not fit."""


class FetchError(TinyMixNetError):
    """A download that did not arrive or is not the file it should be."""


class TraceError(TinyMixNetError):
    """A recording of a network's layers that cannot be read or does not fit."""
