"""The errors that a user can cause, and how text from files is shown.

Catch `TinyMixNetError` to catch them all.
"""

import sys

LONGEST_TEXT = 1000  # characters that `printable` keeps: a path or a message, not a whole file
CUT = " [...] "  # stands for the middle of a text that was too long


class TinyMixNetError(Exception):
    """A user's mistake. The message says what is wrong, what was expected, and what to do.

    Names and paths are part of most messages, so str() of an error is always safe to show: a single
    line without control characters, see `printable`.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), sys.maxsize)


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


def printable(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return str(text) as a single line that is safe to show on a terminal or on a page.

    Labels, names and paths come from files that anybody may have written. An escape sequence in
    them could repaint the terminal, a newline could fake a second message, and a control character
    for right-to-left text could turn a file's name around. Every character that has no shape of its
    own is therefore shown as Python writes it in a string:

    >>> print(printable("cat\\x1b[31m\\nok \\u202egpj.exe"))
    cat\\x1b[31m\\nok \\u202egpj.exe

    All other text stays as it is, and applying `printable` twice changes nothing more. What would
    be longer than `longest` characters loses its middle.
    """
    text = str(text)
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
    if len(text) > longest:
        end = longest // 3  # the end of a path or of a message often says what to do
        text = f"{text[: longest - end - len(CUT)]}{CUT}{text[len(text) - end :]}"
    return text


def short_repr(value: object, longest: int = 80) -> str:
    """Return repr(value) for an error's message: one line of at most `longest` characters.

    Of an array it may be many lines, and an object's own `__repr__` may fail.
    """
    try:
        return printable(" ".join(repr(value).split()), longest)
    except Exception:
        return printable(f"<{type(value).__name__}>", longest)
