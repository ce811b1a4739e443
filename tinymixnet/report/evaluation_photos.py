"""Photos on the page of an evaluation: a thumbnail, the truth, and what was answered instead."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymixnet.engine.images import Source, read_image
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import TinyMixNetError
from tinymixnet.report.pictures import data_uri
from tinymixnet.report.text import format_probability, to_html

SIDE = 96  # pixels of a thumbnail at most: as large as it is shown
LONGEST = 80  # characters of a label and of a file's name
QUALITY = 80  # of its JPEG, about 4 kB


class Album:
    """The photos of an evaluation as figures: HTML.

    predictions: see `evaluation_numbers`. labels: what the classes are called. read: gives what
    `read_image` decodes for the name of a file.
    """

    def __init__(
        self, predictions: Array, labels: Sequence[str], read: Callable[[str], Source]
    ) -> None:
        self.predictions = predictions
        self.labels = labels
        self.counts = Counter(labels)
        self.read = read
        self.made: dict[str, str] = {}  # file: its thumbnail's URI, "" for one that is unreadable

    def label(self, number: int) -> str:
        """Return what a class is called, as HTML.

        The number is added where others are called the same: "crane" is a bird and a machine. A
        class without a label is called by its number.
        """
        if not 0 <= number < len(self.labels):
            return f"class {number}"
        label = self.labels[number]
        return to_html(label, LONGEST) + (f" ({number})" if self.counts[label] > 1 else "")

    def small(self, row: int) -> str:
        """Return a photo of which the truth and the answer stand beside it already."""
        photo = self.predictions[row]
        sure = format_probability(float(photo["probability"][0]))
        return self._figure(row, f"<b>{sure}</b>")

    def mistake(self, row: int) -> str:
        """Return a photo with its truth, and with what was answered instead."""
        photo = self.predictions[row]
        truth, answer = int(photo["truth"]), int(photo["best"][0])
        place = np.flatnonzero(photo["best"] == truth)
        found = "not among the five best"
        if len(place):
            found = format_probability(float(photo["probability"][place[0]]))
        sure = format_probability(float(photo["probability"][0]))
        return self._figure(
            row,
            f"<span><b>{self.label(truth)}</b>, {found}</span> "
            f'<span>taken for <b class="wrong">{self.label(answer)}</b>, {sure}</span>',
        )

    def right(self, row: int) -> str:
        """Return a photo that is answered rightly, with the answer that was nearly as probable."""
        photo = self.predictions[row]
        first, second = (format_probability(float(p)) for p in photo["probability"][:2])
        text = f"<span><b>{self.label(int(photo['truth']))}</b>, {first}</span>"
        if photo["best"][1] >= 0:
            text += f" <span>then <b>{self.label(int(photo['best'][1]))}</b>, {second}</span>"
        return self._figure(row, text)

    def _figure(self, row: int, caption: str) -> str:
        photo = self.predictions[row]
        name = to_html(photo["file"], LONGEST)
        alt = f"{name}: {self.label(int(photo['truth']))}"
        if photo["best"][0] != photo["truth"]:
            alt += f", taken for {self.label(int(photo['best'][0]))}"
        uri = self._thumbnail(str(photo["file"]))
        if uri:
            drawn = f'<img src="{uri}" alt="{alt}">'
        else:
            drawn = f'<span role="img" aria-label="{alt}">cannot be read any more</span>'
        return (
            f'<figure class="shot">{drawn}<figcaption>{caption} <small>{name}</small>'
            "</figcaption></figure>"
        )

    def _thumbnail(self, file: str) -> str:
        """Return a photo as a small JPEG in a URI, or "" if it cannot be read now."""
        if file not in self.made:
            try:
                picture: Any = read_image(self.read(file))
                picture.thumbnail((SIDE, SIDE))
                self.made[file] = data_uri(picture, "JPEG", quality=QUALITY)
            except (TinyMixNetError, OSError):  # moved, or damaged since it was answered
                self.made[file] = ""
        return self.made[file]
