"""Turn what other frameworks raise about a file into an error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinymixnet.errors import TinyMixNetError, printable

LONGEST_REASON = 300  # characters of a framework's own words


@contextmanager
def one_line(
    file: object, error: type[TinyMixNetError], said: str, keep_ours: bool = False
) -> Iterator[None]:
    """Turn whatever is raised inside into `error`, whose line begins with the file's name.

    said: what a framework's own error comes to, such as "cannot be read". keep_ours: errors of this
    package stay as they are, because they may be about another file.
    """
    shown = printable(str(file))
    try:
        yield
    except TinyMixNetError as raised:
        if keep_ours:
            raise
        text = str(raised)
        raise error(text if text.startswith(shown) else f"{file}: {text}") from None
    except Exception as raised:
        why = " ".join(str(raised).split())[:LONGEST_REASON] or type(raised).__name__
        raise error(f"{file}: {said} ({why})") from None
