"""Pages of small networks, and a reader of pages that insists on good HTML."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from tinymixnet import Model
from tinymixnet.debug.dumps import open_dump
from tinymixnet.report.page import write_report

VOID = {"meta", "link", "img", "br", "input"}  # elements without an end
HACK = '<script>window.hacked=1</script><img src="x" onerror="window.hacked=1">'
EVIL = f"{HACK}\x1b[2J\n\x07\u202e\u2028\x9b"


def tiny_page(model: Model, pixels: np.ndarray, folder: Path, dump: Path | None = None) -> str:
    n, h, w, _ = pixels.shape
    other = dump and open_dump(dump, model.architecture, n, h, w)
    write_report(model, "picture", pixels, folder / "page.html", other)
    return (folder / "page.html").read_text("utf-8")


def card_of(text: str, layer: str) -> str:
    """The card of a layer as HTML."""
    return text.split(f'id="{layer}"')[1].split("</section>")[0]


def pictures_of(html: str) -> list[np.ndarray]:
    """The pixels of all pictures in a piece of HTML, as palette indices or colours."""
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"data:image/png;base64,([\w+/=]+)", html)
    ]


class Page(HTMLParser):
    """Reads a page and insists that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"{tag}: an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> means something in SVG alone"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]
