"""Make the table of docs/porting_mistakes.md: python docs/make_porting_mistakes.py

Each mistake of tests/planted.py is planted in TensorFlow's MixNet-L with the bundled weights; the
bundled photo goes through it, and the table says what one sees: needs the `test` extra.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinymixnet import load
from tinymixnet.debug.compare import compare
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.images import read_image
from tinymixnet.model import Model

HERE = Path(__file__).parent
PAGE, PHOTO = HERE / "porting_mistakes.md", HERE.parent / "tinymixnet" / "data" / "cat.jpg"
BEGIN, END = "<!-- begin: make_porting_mistakes.py -->\n", "<!-- end -->\n"
COLUMNS = "the mistake, planted | the photo becomes | first difference | its error | `cause:`"
HEAD = f"| {COLUMNS} | explained |\n|---|---|---|---:|---|---:|\n"


def rows() -> list[str]:
    """A row a mistake: what the port answers, what `compare` shows first, what `diagnose` says."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import planted
    import tensorflow_reference as reference

    model = load()
    pixels = model.pixels(PHOTO)
    net = replace(reference.NETWORKS["mixnet-l"], classes=model.architecture.classes)
    raw = planted.raw_tensors(model.tensors, seed=1)
    raw_model = Model(model.architecture, raw, model.metadata)
    found = []
    for name, bug in planted.BUGS.items():
        theirs = pixels
        if bug.resize:
            theirs = bug.resize(read_image(PHOTO), pixels.shape[1])[np.newaxis]
        layers = planted.planted_layers(bug, net, model.tensors, theirs, raw)
        if bug.mixed_up:
            layers = {key: mixed_up(x) for key, x in layers.items()}
        with tempfile.TemporaryDirectory() as folder:
            write_dump(f"{folder}/dump", layers.items())
            dump = open_dump(f"{folder}/dump", model.architecture, *pixels.shape[:3])
            compared = compare(model.layers(pixels), dump)
            diagnosis = diagnose(model, pixels, dump, photo=PHOTO, raw=raw_model)
        answer = layers["probabilities"][0]
        label = (*model.labels, "(none)")[answer.argmax()]
        row = next(row for row in compared.rows if row.layer == compared.first)
        worst = f"{row.error:.1e}" if np.isfinite(row.error) else "shape"
        cause = diagnosis.causes[0]
        found.append(
            f"| {name} | {label} {answer.max():.0%} | {row.layer} | {worst} "
            f"| {', '.join(diagnosis.slugs)} | {cause.before:.0e} to {cause.after:.0e} |"
        )
        print(found[-1])
    return found


def mixed_up(x: np.ndarray) -> np.ndarray:
    """Memory as NCHW, shape as NHWC."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape) if x.ndim == 4 else x


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + HEAD + "\n".join(rows()) + "\n" + END + after)
