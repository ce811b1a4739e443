"""Pieces of HTML that several pages have: bars and tables. `page.css` is their style."""

from collections.abc import Iterable
from math import isfinite

from tinymixnet.report.text import format_probability


def meter(probability: float, who: str = "") -> str:
    """Return a bar of a probability, with the number, and whose it is, beside it."""
    share = min(max(probability, 0), 1) if isfinite(probability) else 0
    number = f"{format_probability(probability)} {who}".rstrip()
    return bar(100 * share, number, who or "ours")


def bar(percent: float, text: str, kind: str = "ours") -> str:
    """Return a bar that is `percent` of its row long, with a text beside it."""
    none = "" if percent > 0 else ' class="none"'
    return (
        f'<span class="meter {kind}"><span><i{none} style="width:{percent:.2f}%"></i></span>'
        f"<b>{text}</b></span>"
    )


def scrolling_table(headings: Iterable[str], rows: Iterable[str], label: str) -> str:
    """Return a table that scrolls in its own frame. rows: <tr> elements; label names the frame."""
    cells = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>'
        f"{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def table_row(heading: str, texts: Iterable[str], style: str = "") -> str:
    """Return a row of a table that begins with its heading."""
    styled = f' style="{style}"' if style else ""
    return f'<tr{styled}><th scope="row">{heading}</th>{table_cells(texts)}</tr>'


def table_cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)


def section(name: str, title: str, reading: str, content: str) -> str:
    """Return a section of a page. reading: how to read it; this, title and content are HTML."""
    return (
        f'<section class="panel" id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2><p class="soft">{reading}</p>{content}</section>'
    )
