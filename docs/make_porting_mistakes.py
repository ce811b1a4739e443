"""Make the table of docs/porting_mistakes.md.

    python -m docs.make_porting_mistakes

needs the extra `test`. Each mistake of tests/support/planted.py is planted in TensorFlow's MixNet-L
with the bundled weights, and the bundled photo goes through it. A row says what one sees: what
the port answers, what `compare` shows first, and what `diagnose` says.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import markdown
from tests.support import planted
from tests.support import tensorflow_reference as reference
from tinymixnet import load
from tinymixnet.debug.compare import compare
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.images import read_image
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model

PHOTO = BUNDLED.parent / "cat.jpg"
PAGE = Path(__file__).parent / "porting_mistakes.md"
BEGIN, END = "<!-- begin: make_porting_mistakes.py -->\n", "<!-- end -->\n"
HEADER = (
    "the mistake, planted",
    "the photo becomes",
    "first difference",
    "its error",
    "`cause:`",
    "explained",
)
RULE = ("---", "---", "---", "---:", "---", "---:")


def rows() -> list[list[str]]:
    """Return the cells of the table, a row for each mistake."""
    model = load()
    pixels = model.pixels(PHOTO)
    net = replace(reference.NETWORKS["mixnet-l"], classes=model.architecture.classes)
    raw = planted.raw_tensors(model.tensors, seed=1)
    raw_model = Model(model.architecture, raw, model.metadata)
    table = []
    for name, bug in planted.BUGS.items():
        their_pixels = pixels
        if bug.resize:
            their_pixels = bug.resize(read_image(PHOTO), pixels.shape[1])[np.newaxis]
        layers = planted.planted_layers(bug, net, model.tensors, their_pixels, raw)
        if bug.mixed_up:
            layers = {layer: mixed_up(x) for layer, x in layers.items()}
        with tempfile.TemporaryDirectory() as folder:
            write_dump(f"{folder}/dump", layers.items())
            dump = open_dump(f"{folder}/dump", model.architecture, *pixels.shape[:3])
            comparison = compare(model.layers(pixels), dump)
            diagnosis = diagnose(model, pixels, dump, photo=PHOTO, raw=raw_model)
        probabilities = layers["probabilities"][0]
        label = (*model.labels, "(none)")[probabilities.argmax()]
        first = next(row for row in comparison.rows if row.layer == comparison.first)
        cause = diagnosis.causes[0]
        table.append(
            [
                name,
                f"{label} {probabilities.max():.0%}",
                first.layer,
                f"{first.error:.1e}" if np.isfinite(first.error) else "shape",
                ", ".join(diagnosis.slugs),
                f"{cause.before:.0e} to {cause.after:.0e}",
            ]
        )
        print(" | ".join(table[-1]))
    return table


def mixed_up(x: np.ndarray) -> np.ndarray:
    """Return a tensor whose memory is NCHW while its shape says NHWC."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape) if x.ndim == 4 else x


if __name__ == "__main__":
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    table = markdown(HEADER, rows(), RULE)
    PAGE.write_text(f"{before}{BEGIN}{table}\n{END}{after}", "utf-8")
