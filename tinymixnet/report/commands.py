"""The commands `report`, `explain`, and the page of `compare --html`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.debug.commands import (
    DUMP,
    IMAGE,
    Compared,
    by_value,
    dump_options,
    opened_dump,
    picture_of,
    picture_options,
    positive,
    run_compare,
)
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.pixels import SMALLEST_INPUT
from tinymixnet.engine.progress import with_progress
from tinymixnet.errors import InputError, printable
from tinymixnet.model import Model, load

if TYPE_CHECKING:
    from tinymixnet.debug.dumps import Dump

SIZE = 224  # pixels a side, halved five times: the last maps are 7 x 7
LARGEST_SIZE = 1024  # pixels a side; the page of a larger input would be too large to open


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parsers of `report` and `explain`, and --html to that of `compare`.

    `compare` must be there already. Its page is made here, because debug may not import report.
    """
    report = commands.add_parser(
        "report",
        parents=[weights, picture_options(), dump_options()],
        help="a page that shows every layer",
        description="Write a page that shows every layer for IMAGE, and beside it that of OTHER.",
        example="tinymixnet report photo.jpg -o report.html",
    )
    report.add_argument("image", metavar="IMAGE", help=IMAGE)
    report.add_argument("other", nargs="?", metavar="OTHER", help=DUMP)
    report.add_argument("-o", "--output", metavar="FILE.html", help="the page")
    report.add_argument(
        "--size", type=_size, metavar="N", help=f"pixels a side ({SIZE}; with OTHER, its own)"
    )
    report.add_argument("--json", action="store_true", help="what the page shows, as one object")
    report.add_argument("--force", action="store_true", help="replace any FILE.html")
    report.set_defaults(run=run_report)

    compare = commands.choices["compare"]
    compare.add_argument("--html", metavar="FILE", help="write a report as well")
    compare.add_argument("--force", action="store_true", help="replace any FILE")
    compare.set_defaults(run=run_compare_with_page)
    add_explain(commands, weights)


def _size(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not SMALLEST_INPUT <= int(text) <= LARGEST_SIZE:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {SMALLEST_INPUT} to {LARGEST_SIZE}, found {text!r}"
        )
    return int(text)


def run_report(arguments: argparse.Namespace) -> int:
    from tinymixnet.report.data import as_json  # slow to import
    from tinymixnet.report.document import check_page
    from tinymixnet.report.page import GENERATOR, write_report

    if not arguments.output and not arguments.json:
        raise InputError("report: expected -o FILE.html, where the page goes, or --json")
    inputs = [arguments.image, arguments.other, arguments.names, arguments.weights]
    if arguments.output:
        check_page(arguments.output, GENERATOR, inputs, arguments.force)
    loaded = load(arguments.weights)
    model, pixels, dump = _choose_size(loaded, arguments)
    if dump:
        dump = by_value(model, pixels, dump)
    explanation = None
    if dump is None and len(pixels) == 1:
        # at the size of the weights, at which they answer best
        explanation = loaded.explain(
            arguments.image, preset=arguments.preset, progress=_parts_hidden
        )
    data = write_report(
        model,
        arguments.image,
        pixels,
        arguments.output,
        dump,
        explanation=explanation,
        photo=_photo(arguments.image),
        inputs=inputs,
        force=arguments.force,
        progress=True,
    )
    print(write_json(as_json(data)) if arguments.json else printable(arguments.output))
    return 0


def run_compare_with_page(arguments: argparse.Namespace) -> int:
    if not arguments.html:
        return run_compare(arguments)
    from tinymixnet.report.document import check_page
    from tinymixnet.report.page import GENERATOR, write_report

    inputs = [arguments.reference, arguments.other, arguments.names, arguments.weights]
    check_page(arguments.html, GENERATOR, inputs, arguments.force)

    def show(result: Compared) -> None:
        write_report(
            result.model,
            result.image,
            result.pixels,
            arguments.html,
            result.dump,
            result.comparison,
            photo=_photo(result.image) if result.image == arguments.reference else None,
            inputs=inputs,
            force=arguments.force,
            progress=True,
        )

    return run_compare(arguments, show)


def _photo(image: str) -> str | None:
    """Return the file of a photo, for trying other ways to resize it; pixels cannot be."""
    return None if image.endswith(".npy") else image


def _choose_size(
    model: Model, arguments: argparse.Namespace
) -> "tuple[Model, np.ndarray, Dump | None]":
    """Return the model at the size of the report, the pixels, and the opened dump.

    A dump decides the size: one of ours says it, another is tried at the size that the weights
    prefer and at that of the report, and the size that more of its layers fit is right.
    """

    def model_of(size: int) -> Model:
        metadata = replace(model.metadata, input_size=size)
        return Model(model.architecture, model.tensors, metadata)

    def opened(size: int) -> "tuple[Model, np.ndarray, Dump]":
        sized = model_of(size)
        pixels = picture_of(sized, arguments, arguments.image)
        return sized, pixels, opened_dump(sized, pixels, arguments)

    if not arguments.other:
        sized = model_of(arguments.size or SIZE)
        return sized, picture_of(sized, arguments, arguments.image), None
    own = arguments.size or model.metadata.input_size
    first = opened(own)
    if arguments.size or arguments.image.endswith(".npy"):
        return first
    manifest = first[2].trace.manifest
    other = manifest.image_shape[1] if manifest else SIZE
    if other == own or not SMALLEST_INPUT <= other <= LARGEST_SIZE:
        return first
    second = opened(other)
    return max(first, second, key=lambda choice: len(choice[2].names))


def add_explain(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parser of `explain`."""
    explain = commands.add_parser(
        "explain",
        parents=[weights, picture_options()],
        help="show which parts of a photo speak for its label",
        description="Show which parts of a photo speak for its label, and which against it.",
        example="tinymixnet explain photo.jpg -o page.html",
    )
    explain.add_argument("image", metavar="PHOTO", help="a photo, or - for standard input")
    explain.add_argument(
        "-o", "--output", metavar="FILE", help="write a page.html or a picture.png"
    )
    explain.add_argument(
        "--label", metavar="L", help="explain this label, a name or an index (the best)"
    )
    explain.add_argument(
        "--size",
        type=positive,
        metavar="S",
        help="pixels a side (those of the weights, at which they answer best)",
    )
    explain.add_argument("--json", action="store_true", help="print one JSON object")
    explain.set_defaults(run=run_explain)


def run_explain(arguments: argparse.Namespace) -> int:
    from tinymixnet.report import explanation as files  # slow to import
    from tinymixnet.report.explanation_words import sentence, text

    inputs = [arguments.image, arguments.weights]
    if arguments.output:
        files.check_explanation_output(arguments.output, inputs)
    model = load(arguments.weights)
    source = sys.stdin.buffer if arguments.image == "-" and sys.stdin else arguments.image
    options = arguments.label, arguments.size, arguments.preset
    explanation = model.explain(source, *options, progress=_parts_hidden)
    if arguments.output:
        files.write_explanation(explanation, arguments.image, arguments.output, inputs)
    if arguments.json:
        print(write_json({"image": arguments.image, **explanation.as_json()}))
    elif arguments.output:
        print(sentence(explanation), printable(arguments.output), sep="\n")
    else:
        print(text(explanation))
    return 0


def _parts_hidden(runs: Sequence[int]) -> Iterator[int]:
    """Yield the runs of an explanation, with a bar."""
    return with_progress(runs, len(runs), lambda run: "parts hidden")
