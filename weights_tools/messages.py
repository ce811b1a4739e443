"""What `fetch` says: no password, and no character that a terminal would obey."""

import re
import sys
from contextlib import suppress

from tinymixnet.errors import FetchError, printable

LONGEST = 300  # characters of a text that a server chose
LONGEST_MESSAGE = 5000  # characters of a line of ours, which may name several files and servers


def foreign(text: str) -> str:
    """Return a text that a server chose as it may be shown: printable, and not too long."""
    return printable(text, LONGEST)


def show_url(url: str) -> str:
    """Return a URL as it may be shown: without its user, password and query, and printable.

    What is hidden ends at the last @ wherever it stands, since a URL with a mistake in it can have
    its password in any part. A query can be a secret, too: a signed URL has its signature there.
    """
    shown = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:/+)?.*@", r"\1***@", url, flags=re.DOTALL)
    address, mark, _ = shown.partition("?")
    return foreign(address + mark + ("..." if mark else ""))


def failure(message: str) -> FetchError:
    """Return an error with this message, made printable: paths and servers choose parts of it."""
    return FetchError(printable(message, LONGEST_MESSAGE))


def say(message: str) -> None:
    """Print one line on standard error. If standard error is closed, go on without it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"fetch: {printable(message, LONGEST_MESSAGE)}", file=sys.stderr, flush=True)
