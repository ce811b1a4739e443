"""The command line: `classify` and `summary`; the other commands stand in debug/ and report/."""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from tinymixnet.debug import commands as debug_commands
from tinymixnet.engine import __version__
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import BUNDLED, find_weights
from tinymixnet.errors import ImageError, TinyMixNetError
from tinymixnet.model import Model, Prediction, load
from tinymixnet.report import commands as report_commands

IMAGENET_HINT = (
    "for the 1000 ImageNet classes run `python -m weights_tools fetch mixnet-l`, "
    "then add --weights mixnet-l"
)


class Parser(argparse.ArgumentParser):
    """argparse, but with one line for a mistake instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    top = Parser(prog="tinymixnet", description="MixNet image classification in NumPy.")
    top.add_argument("--version", action="version", version=f"tinymixnet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    weights = Parser(add_help=False)
    weights.add_argument("--weights", metavar="F", help="a .h5 file, or fetched ones (mixnet-l)")

    classify = commands.add_parser("classify", parents=[weights], help="name what is in photos")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a photo, or - for stdin")
    classify.add_argument("--preset", choices=PRESETS, help="how to crop and resize")
    classify.add_argument("--top", type=_positive, default=5, metavar="K", help="answers (5)")
    classify.add_argument("--json", action="store_true", help="one JSON object a line")
    classify.add_argument(
        "--workers", type=_positive, metavar="N", help="share the work among N processes"
    )
    classify.set_defaults(run=run_classify)

    summary = commands.add_parser("summary", parents=[weights], help="every layer and its cost")
    summary.set_defaults(run=run_summary)
    debug_commands.add_commands(commands, weights)
    report_commands.add_commands(commands, weights)
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def run_classify(arguments: argparse.Namespace) -> int:
    model = load(arguments.weights)
    tell(_which_weights(arguments.weights, model))
    failed = False
    answers = _answers(model, arguments)
    for name, answer in zip(arguments.images, answers, strict=True):
        if isinstance(answer, TinyMixNetError):
            tell(str(answer))
            failed = True
            continue
        if arguments.json:
            predictions = [prediction._asdict() for prediction in answer]
            print(json.dumps({"image": name, "predictions": predictions}), flush=True)
        else:
            print(name)
            for label, probability, _ in answer:
                print(f"  {probability:6.2%}  {label}", flush=True)
    return 1 if failed else 0


def _answers(
    model: Model, arguments: argparse.Namespace
) -> Iterator[list[Prediction] | TinyMixNetError]:
    """For each image what is in it or what is wrong with it, here or by worker processes."""
    sources = [sys.stdin.buffer if name == "-" else name for name in arguments.images]
    if arguments.workers:
        yield from model.map(sources, arguments.workers, arguments.top, arguments.preset)
        return
    for source in sources:
        try:
            yield model.classify(source, arguments.top, arguments.preset)
        except ImageError as error:
            yield error


def _which_weights(wanted: str | None, model: Model) -> str:
    name = f"weights {model.metadata.name or find_weights(wanted)}, {len(model.labels)} classes"
    return f"{name}; {IMAGENET_HINT}" if find_weights(wanted) == BUNDLED else name


def run_summary(arguments: argparse.Namespace) -> int:
    model = load(arguments.weights)
    architecture, size = model.architecture, model.metadata.input_size
    print(f"{'layer':<26}{'output shape':<20}{'parameters':>12}{'multiply-adds':>16}")
    for layer in architecture.layers(size, size):
        shape = " x ".join(map(str, layer.shape))
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        cost = f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        print(f"{layer.name:<26}{shape:<20}{parameters:>12}{cost:>16}".rstrip())
    print(
        f"{architecture.variant}, {architecture.classes} classes, {size} x {size} pixels: "
        f"{architecture.parameters():,} parameters, "
        f"{architecture.multiply_adds(size, size) / 1e6:,.2f} M multiply-adds"
    )
    return 0


def tell(message: str, program: str = "tinymixnet") -> None:
    """One line on standard error, whatever the message holds."""
    print(f"{program}: " + " ".join(message.splitlines()), file=sys.stderr, flush=True)


def run(parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Parse, run the command's `run(arguments)` and return its exit code; mistakes are one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except TinyMixNetError as error:
        tell(str(error), parser.prog)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's exit complains
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """The `tinymixnet` command: 0, or 1 when a photo failed, or 2 when nothing could run."""
    return run(parser(), argv)
