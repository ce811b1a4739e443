"""The command `report`, which writes the page."""

import argparse
from typing import Any

from tinymixnet.debug.commands import (
    DUMP,
    IMAGE,
    dump_of,
    dump_options,
    picture_of,
    picture_options,
)
from tinymixnet.errors import printable
from tinymixnet.model import load


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parser of `report` to those of the `tinymixnet` command."""
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


def run_report(arguments: argparse.Namespace) -> int:
    from tinymixnet.report.page import write_report  # slow to import

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, arguments.image)
    dump = dump_of(model, pixels, arguments) if arguments.other else None
    write_report(model, arguments.image, pixels, arguments.output, dump)
    print(printable(arguments.output))
    return 0
