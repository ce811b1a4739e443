"""An explanation as a page and as a picture: what the command `explain` writes.

`engine/explain.py` computes it, `explanation_words.py` puts it in words, `explanation_pictures.py`
draws it.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.engine.explain import Explanation, strongest
from tinymixnet.engine.files import atomic_write, begins_with, check_output
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import LONGEST_TEXT, InputError
from tinymixnet.report.document import document, page_start
from tinymixnet.report.explanation_pictures import Panel, blend, panels, patch, picture
from tinymixnet.report.explanation_words import sentence, where_seen
from tinymixnet.report.pictures import data_uri
from tinymixnet.report.text import to_html

if TYPE_CHECKING:
    from PIL.Image import Image

PAGES, PICTURES = (".html", ".htm"), (".png",)
SOFTWARE = "tinymixnet explain"  # written into every output, so that it knows its own
PNG_START = b"\x89PNG\r\n\x1a\n"
CROPS = 3  # patches for a label, and against it


# -- writing --------------------------------------------------------------------------------------


def check_explanation_output(path: str | os.PathLike[str], inputs: Iterable[Any] = ()) -> None:
    """Raise InputError unless an explanation may be written to `path`.

    Its ending must be one of PAGES or PICTURES. Nothing is replaced but an earlier explanation.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in PAGES + PICTURES:
        raise InputError(f"{path}: expected a name that ends in .html (a page) or .png (a picture)")
    check_output(path, inputs, is_own_picture if ending in PICTURES else is_own_page)


def is_own_page(path: Path) -> bool:
    return begins_with(page_start(SOFTWARE).encode())(path)


def is_own_picture(path: Path) -> bool:
    """Whether a file is a PNG in whose first text chunk `write_explanation` left its name."""
    if not begins_with(PNG_START)(path):
        return False
    with path.open("rb") as file:
        start = file.read(33 + 8 + 9 + len(SOFTWARE))  # signature and size; a chunk's head; text
    return start.endswith(b"tEXtSoftware\0" + SOFTWARE.encode())


def write_explanation(
    explanation: Explanation, name: str, path: str | os.PathLike[str], inputs: Iterable[Any] = ()
) -> None:
    """Write an explanation as a page or as a picture, by the ending of `path`.

    name: what to call the photo. inputs: files that must not be overwritten.
    Raises InputError when `path` holds anything but an earlier explanation, or cannot be written.
    """
    check_explanation_output(path, inputs)
    try:
        with atomic_write(path) as temporary:
            if os.fspath(path).lower().endswith(PAGES):
                temporary.write_text(page(explanation, name), "utf-8")
            else:
                _save(picture(explanation), temporary)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _save(image: "Image", path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    with path.open("wb") as file:
        image.save(file, "PNG", pnginfo=info, optimize=True)


# -- the page -------------------------------------------------------------------------------------


def page(explanation: Explanation, name: str) -> str:
    """A page that needs nothing but itself; name is what to call the photo."""
    label = to_html(explanation.labels[0])
    name = to_html(os.path.basename(name) or name)
    title = f"Why {label}? {name}"
    seen = to_html(where_seen(explanation))
    body = f"""<header><h1>Why {label}?</h1><p>{name}. {seen}</p></header>
<main>{fragment(explanation)}</main>
<footer><h2>How to read this page</h2>{how_to_read(explanation)}</footer>"""
    return document(SOFTWARE, title, ("page.css", "explanation.css"), body)


def fragment(explanation: Explanation) -> str:
    """The sentence, the pictures and the patches as HTML; `explanation.css` is their style."""
    answer = _unbroken(to_html(sentence(explanation), LONGEST_TEXT))
    figures = "".join(map(_figure, panels(explanation)))
    label, rival = (to_html(name) for name in explanation.labels)
    rows = "".join(
        _patches(explanation, heading, cells)
        for heading, cells in (
            (f"The logit of {label}", explanation.contributions[0]),
            (f"The logit of {rival}", explanation.contributions[1]),
            (f"{label} rather than {rival}", explanation.advantage),
        )
    )
    return (
        f'<section class="why" aria-label="Why"><p class="sentence">{answer}</p>'
        f'<div class="pictures">{figures}</div></section>'
        f'<section class="why"><h2>Parts that count most</h2><div class="patches">{rows}</div>'
        "</section>"
    )


def _figure(panel: Panel) -> str:
    bar = ""
    if panel.low:
        bar = (
            f'<div class="bar" style="background:{gradient()}"></div><div class="ends">'
            f"<span>{to_html(panel.low)}</span><span>{to_html(panel.high)}</span></div>"
        )
    note = _unbroken(to_html(panel.note))
    return (
        f'<figure><h3>{to_html(panel.title)}</h3><img src="{data_uri(panel.image)}" '
        f'alt="{to_html(panel.alt)}"><div>{bar}</div><figcaption>{note}</figcaption></figure>'
    )


def _unbroken(html: str) -> str:
    """Keep numbers and their per cent signs on one line."""
    return html.replace(" %", "&nbsp;%")


def gradient() -> str:
    """The scale of the maps for a style sheet."""
    values = np.linspace(-1, 1, 17, dtype=np.float32)[np.newaxis]
    colours = blend(np.full(values.shape, 170, np.float32), values)[0]
    return f"linear-gradient(90deg,{','.join('#' + bytes(c).hex() for c in colours)})"


def _patches(explanation: Explanation, heading: str, cells: Array) -> str:
    """The patches of the photo that add most to a logit, and those that take most away."""
    groups = ""
    for kind, words, sign in (
        ("for", "These add most", 1),
        ("against", "These take most away", -1),
    ):
        crops = ""
        for row, column in strongest(sign * cells, min(CROPS, max(cells.size // 2, 1))):
            value = float(cells[row, column])
            if sign * value <= 0:
                continue
            number = f"{value:+.2f}".replace("-", "−")
            crops += (
                f'<figure><img src="{data_uri(patch(explanation, row, column))}" alt="Patch in row '
                f'{row + 1}, column {column + 1}"><figcaption>{number}</figcaption></figure>'
            )
        groups += f"<p>{words}</p><div class={kind}>{crops or 'none'}</div>"
    return f"<div><h3>{heading}</h3>{groups}</div>"


def how_to_read(explanation: Explanation) -> str:
    """How to read the maps, for somebody who sees them for the first time: paragraphs."""
    h, w = explanation.maps.shape[1:]
    return (
        "<p>Orange speaks for a label, blue against it, grey is in "
        f"between. The last layer has {h} × {w} cells. The logit of a label, its score before "
        "softmax, is the sum of what the cells add, plus a constant: so the maps are exact. Each "
        "cell is drawn where it lies, and colours are blended in between. A cell looks at more of "
        "the photo than its own square, so a map shows about where, not exactly which pixels. "
        "Outlined are the cells that add most (orange) and take most away (dashed blue).</p><p>For "
        "the last picture a grey square hides one part after the other, and the network answers "
        "anew each time. That shows what the whole network needs, not only its last layer. The two "
        "need not agree: a part can speak for a label, and yet others make up for it when it is "
        "hidden.</p>"
    )
