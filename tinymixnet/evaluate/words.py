"""Numbers and names in sentences."""

from collections.abc import Sequence

from tinymixnet.errors import printable

SHOWN = 5  # names that a list in a sentence has at most


def count(number: int, thing: str) -> str:
    """Return a number with its thing, in the plural where there is not exactly one.

    >>> count(1, "class"), count(1200, "photo")
    ('1 class', '1,200 photos')
    """
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{'' if number == 1 else plural}"


def percent(share: float) -> str:
    """Return a share as a percentage with two digits; nothing is known of NaN.

    >>> percent(0.78846)
    '78.85 %'
    """
    return "-" if share != share else f"{100 * share:.2f} %"


def listed(names: Sequence[str]) -> str:
    """Return the first few of names from files and folders, fit to be printed.

    >>> listed(["go-kart", "maillot, tank suit", *"abcd"])
    'go-kart, "maillot, tank suit", a, b, c, ...'
    """
    shown = [printable(name, 80) for name in names[:SHOWN]]
    quoted = [f'"{name}"' if "," in name else name for name in shown]
    return ", ".join(quoted) + (", ..." if len(names) > SHOWN else "")
