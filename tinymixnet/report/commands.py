"""The commands `report` and `explain`, which draw what the network does with a photo."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tinymixnet.debug.commands import (
    DUMP,
    IMAGE,
    dump_of,
    dump_options,
    picture_of,
    picture_options,
    positive,
)
from tinymixnet.debug.strict_json import write_json
from tinymixnet.errors import printable
from tinymixnet.model import load


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add both parsers to those of the `tinymixnet` command."""
    report = commands.add_parser(
        "report",
        parents=[weights, picture_options(), dump_options()],
        help="a page that shows every layer",
        description="Write a page that shows every layer for IMAGE, and beside it that of OTHER.",
        example="tinymixnet report photo.jpg -o report.html",
    )
    report.add_argument("image", metavar="IMAGE", help=IMAGE)
    report.add_argument("other", nargs="?", metavar="OTHER", help=DUMP)
    report.add_argument(
        "-o", "--output", required=True, metavar="FILE.html", help="only a report is replaced"
    )
    report.set_defaults(run=run_report)
    add_explain(commands, weights)


def run_report(arguments: argparse.Namespace) -> int:
    from tinymixnet.report.page import write_report  # slow to import

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, arguments.image)
    dump = dump_of(model, pixels, arguments) if arguments.other else None
    write_report(model, arguments.image, pixels, arguments.output, dump)
    print(printable(arguments.output))
    return 0


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
    explanation = model.explain(source, *options, progress=_with_progress)
    if arguments.output:
        files.write_explanation(explanation, arguments.image, arguments.output, inputs)
    if arguments.json:
        print(write_json({"image": arguments.image, **explanation.as_json()}))
    elif arguments.output:
        print(sentence(explanation), printable(arguments.output), sep="\n")
    else:
        print(text(explanation))
    return 0


def _with_progress(runs: Sequence[int]) -> Iterator[int]:
    """Draw a bar on standard error, if that is a terminal, and remove it in the end."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    for done, run in enumerate(runs):
        if shown:
            bar = "#" * (30 * done // len(runs))
            print(
                f"\r[{bar:<30}] {done}/{len(runs)} parts hidden",
                end="",
                file=sys.stderr,
                flush=True,
            )
        yield run
    if shown:
        print(f"\r{'':<60}\r", end="", file=sys.stderr, flush=True)
