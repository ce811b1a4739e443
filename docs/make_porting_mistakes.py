"""Make the table and the pictures of docs/porting_mistakes.md.

    python -m docs.make_porting_mistakes            write them; about a minute
    python -m docs.make_porting_mistakes --check    only say whether the page is as it would be

It needs the extra `test`. Each mistake of tests/support/planted.py is planted in TensorFlow's
MixNet-L with the bundled weights, and the bundled photo goes through it. A row says what one sees:
what the port answers, what `compare` shows first, and what `diagnose` says.

TensorFlow's last digits differ from machine to machine. So `--check` wants the words of a row to be
the same and its numbers to be near, and compares pictures by their average colours.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np

from benchmarks.measure import markdown
from docs.make_architecture import fill
from docs.mistake_pictures import PICTURES, draw, is_like, path_of
from tests.support import planted
from tests.support import tensorflow_reference as reference
from tinymixnet import load
from tinymixnet.debug.compare import compare
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.images import read_image
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model

PHOTO = BUNDLED.parent / "cat.jpg"
PAGE = Path(__file__).parent / "porting_mistakes.md"
HEADER = ("mistake", "the photo becomes", "first difference", "its error", "`cause:`", "explained")
RULE = ("---", "---", "---", "---:", "---", "---:")
ROUNDING = 1e-5  # an error below this is what float32 rounds, and has other digits elsewhere
NEAR = 0.1  # how far apart, relative to the larger, two printed numbers may be in a check

Row = list[str]


# -- running the mistakes -------------------------------------------------------------------------


def planted_runs(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Array], Row]]:
    """Yield each mistake with all layers of the port that has it, and its row of the table."""
    model = load()
    pixels = model.pixels(PHOTO)
    net = replace(reference.NETWORKS["mixnet-l"], classes=model.architecture.classes)
    raw = planted.raw_tensors(model.tensors, seed=1)
    raw_model = Model(model.architecture, raw, model.metadata)
    for name in names:
        bug = planted.BUGS[name]
        their_pixels = pixels
        if bug.resize:
            their_pixels = bug.resize(read_image(PHOTO), pixels.shape[1])[np.newaxis]
        layers = planted.planted_layers(bug, net, model.tensors, their_pixels, raw, model.labels)
        if bug.mixed_up:
            layers = {layer: mixed_up(x) for layer, x in layers.items()}
        with tempfile.TemporaryDirectory() as folder:
            write_dump(f"{folder}/dump", layers.items())
            dump = open_dump(f"{folder}/dump", model.architecture, *pixels.shape[:3])
            comparison = compare(model.layers(pixels), dump)
            diagnosis = diagnose(model, pixels, dump, photo=PHOTO, raw=raw_model)
        probabilities = layers["probabilities"][0]
        label = (*model.labels, "(none)")[probabilities.argmax()]
        if not np.isfinite(probabilities).all():
            label, probabilities = "not a number", np.zeros(1)
        first = next(row for row in comparison.rows if row.layer == comparison.first)
        cause = diagnosis.causes[0]
        row = [
            name,
            f"{label} {probabilities.max():.0%}",
            first.layer,
            as_error(first.error),
            ", ".join(diagnosis.slugs),
            f"{as_error(cause.before)} to {as_error(cause.after)}",
        ]
        yield name, layers, row


def mixed_up(x: Array) -> Array:
    """Return a tensor whose memory is NCHW while its shape says NHWC."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape) if x.ndim == 4 else x


def as_error(error: float) -> str:
    """Write an error with two digits; "shape" if there is none because the shapes differ."""
    if not isfinite(error):
        return "shape"
    return "rounding" if error < ROUNDING else f"{error:.0f}" if error >= 10 else f"{error:.2g}"


def answer() -> str:
    """What a port without a mistake makes of the photo, as the table has it."""
    best = load().classify(PHOTO, top=1)[0]
    return f"{best.label} {best.probability:.0%}"


# -- checking -------------------------------------------------------------------------------------


def made_part(page: str, name: str) -> str:
    """The text of a made part of the page."""
    return page.partition(f"<!-- made: {name} -->")[2].partition("<!-- end -->")[0]


def rows_of(page: str) -> list[Row]:
    """The table of the page as cells, without its two lines of heading."""
    lines = made_part(page, "table").split("\n")
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]


def same_row(one: Row, other: Row) -> bool:
    """Whether two rows say the same: mistake, label, layer and cause exactly, and numbers nearly.

    A percentage may be one point off, and an error a tenth of itself.
    """
    name, label, layer, error, cause, explained = one
    other_name, other_label, other_layer, other_error, other_cause, other_explained = other
    return (
        (name, layer, cause) == (other_name, other_layer, other_cause)
        and same_answer(label, other_label)
        and near(error, other_error)
        and all(map(near, explained.split(" to "), other_explained.split(" to ")))
    )


def same_answer(one: str, other: str) -> bool:
    """Whether two answers have the same label, and percentages at most one point apart."""
    (label, _, percent), (other_label, _, other_percent) = (
        one.rpartition(" "),
        other.rpartition(" "),
    )
    points = [int(text.removesuffix("%") or -100) for text in (percent, other_percent)]
    return label == other_label and abs(points[0] - points[1]) <= 1


def near(one: str, other: str) -> bool:
    """Whether two printed errors are the same word or nearly the same number."""
    try:
        a, b = float(one), float(other)
    except ValueError:
        return one == other
    return abs(a - b) <= NEAR * max(a, b)


def stale_parts(page: str, rows: Sequence[Row]) -> list[str]:
    """Say what of the page is not as these rows and the bundled weights have it, a line each."""
    problems = []
    shown_answer, shown = made_part(page, "answer"), {row[0]: row for row in rows_of(page)}
    if not same_answer(answer(), shown_answer):
        problems.append(f"expected {answer()}, found {shown_answer!r}")
    for row in rows:
        if row[0] not in shown:
            problems.append(f"expected a row for {row[0]}, found none")
        elif not same_row(row, shown[row[0]]):
            problems.append(f"expected {' | '.join(row)}, found {' | '.join(shown[row[0]])}")
    return problems


def main(arguments: list[str]) -> int:
    page, check = PAGE.read_text("utf-8"), arguments == ["--check"]
    model = load()
    right = dict(model.layers(model.pixels(PHOTO)))
    rows, problems = [], []
    for name, layers, row in planted_runs(planted.IN_MIXNET_L):
        print(" | ".join(row), flush=True)
        rows.append(row)
        if name in PICTURES:
            picture = draw(name, right, layers)
            if not check:
                path_of(name).parent.mkdir(exist_ok=True)
                picture.save(path_of(name), optimize=True)
            elif not is_like(path_of(name), picture):
                problems.append(f"expected another picture of {name}")
    if check:
        problems += stale_parts(page, rows)
        for problem in problems:
            print(f"docs/{PAGE.name}: {problem}; `python -m docs.make_porting_mistakes` makes it")
        return 1 if problems else 0
    table = markdown(HEADER, rows, RULE)
    parts = {"answer": answer, "table": lambda: f"\n\n{table}\n\n"}
    PAGE.write_text(fill(page, parts), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
