"""How the page writes text and numbers."""

from collections.abc import Iterable
from html import escape

from tinymixnet.errors import printable

LONGEST_NAME = 200  # characters of a name or a label; a file's author may have made it any length


def to_html(text: object, longest: int = LONGEST_NAME) -> str:
    """Text from outside, such as a label or a file's name, as HTML that is only shown, never run.

    Control characters become visible, as on the terminal, and "<" does not begin an element. What
    is longer than `longest` characters loses its middle.
    """
    return escape(printable(text, longest))


def format_shape(shape: Iterable[int]) -> str:
    """(28, 28, 56) -> 28 × 28 × 56"""
    return " × ".join(map(str, shape))


def format_seconds(seconds: float) -> str:
    """0.01234 -> 12.3 ms"""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:,.0f} ms"


def format_number(value: float) -> str:
    """Four digits, with a minus sign that is as wide as a plus sign."""
    return f"{value:.4g}".replace("-", "−").replace("inf", "∞")


def format_probability(value: float) -> str:
    """0.5 -> 50.00%. Values outside 0..1, from a faulty implementation, are shown as numbers."""
    return f"{value:.2%}" if 0 <= value <= 1 else format_number(value)
