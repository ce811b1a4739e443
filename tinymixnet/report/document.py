"""The frame of all our pages: one self-contained HTML document, and how it is written to a file.

A page needs no other file. Its content security policy lets nothing be fetched, and nothing run but
the page's own script.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tinymixnet.engine.files import atomic_write, begins_with, check_output
from tinymixnet.errors import InputError

FOLDER = Path(__file__).parent  # of the style sheets and the script


def page_start(generator: str) -> str:
    """Return the first lines of a page. They name the command that wrote it: see `check_page`."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="{generator}">
"""


def document(
    generator: str, title: str, sheets: Sequence[str], body: str, style: str = "", script: str = ""
) -> str:
    """Return a page as HTML.

    title and body are HTML already. sheets: names of style sheets in this folder; style: rules that
    follow them. script runs at the end of the body.
    """
    rules = "".join((FOLDER / sheet).read_text("utf-8") for sheet in sheets) + style
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        script = f"\n<script>{script}</script>"
    return f"""{page_start(generator)}<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><link rel="icon" href="data:,">
<style>{rules}</style></head><body>
{body}{script}</body></html>
"""


def check_page(
    path: str | os.PathLike[str], generator: str, inputs: Iterable[Any] = (), force: bool = False
) -> None:
    """Raise InputError unless a page of this command may be written to `path`.

    Only its own earlier page is replaced, unless `force`; see `check_output`.
    """
    check_output(path, inputs, begins_with(page_start(generator).encode()), force=force)


def write_page(
    text: str,
    path: str | os.PathLike[str],
    generator: str,
    inputs: Iterable[Any] = (),
    force: bool = False,
) -> None:
    """Write a page, whole or not at all.

    Raises InputError if `path` must not or cannot be written; then nothing has changed there.
    """
    try:
        with atomic_write(path) as temporary:
            check_page(path, generator, inputs, force)
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
