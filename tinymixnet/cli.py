"""The command line: `classify`, `summary`, and what all commands share.

The other commands stand in `debug/commands.py` and `report/commands.py`. `run` calls a command and
sees to its mistakes: one line on standard error and an exit code, never a traceback.
"""

import argparse
import contextlib
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from tinymixnet.debug import commands as debug_commands
from tinymixnet.engine import __version__
from tinymixnet.engine.budget import read_environment
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import BUNDLED, find_weights
from tinymixnet.errors import ImageError, TinyMixNetError, printable
from tinymixnet.model import Model, Prediction, load
from tinymixnet.report import commands as report_commands

IMAGENET_HINT = (
    "for the 1000 ImageNet classes run `python -m weights_tools fetch mixnet-l`, "
    "then add --weights mixnet-l"
)


class Parser(argparse.ArgumentParser):
    """A parser of arguments that answers a mistake with one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def parser() -> Parser:
    """Return the parser of all commands; each sets `run`, the function that carries it out."""
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
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:  # int() has a limit of digits, too
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def run_classify(arguments: argparse.Namespace) -> int:
    model = load(arguments.weights)
    tell(_which_weights(arguments.weights, model))
    failed = False
    answers = _answers(model, arguments)
    for name, answer in zip(arguments.images, answers, strict=True):
        if isinstance(answer, TinyMixNetError):
            tell(_name_photo(name, str(answer)))
            failed = True
        elif arguments.json:  # with the true names: JSON has its own way to escape them
            predictions = [prediction._asdict() for prediction in answer]
            print(json.dumps({"image": name, "predictions": predictions}), flush=True)
        else:
            lines = [f"  {p.probability:6.2%}  {printable(p.label)}" for p in answer]
            print("\n".join([printable(name), *lines]), flush=True)
    return 1 if failed else 0


def _answers(
    model: Model, arguments: argparse.Namespace
) -> Iterator[list[Prediction] | TinyMixNetError]:
    """Yield for each photo what is in it or what is wrong with it."""
    stdin: Any = sys.stdin.buffer if sys.stdin else ClosedInput()
    sources = [stdin if name == "-" else name for name in arguments.images]
    if arguments.workers:
        yield from model.map(sources, arguments.workers, arguments.top, arguments.preset)
        return
    for source in sources:
        try:
            yield model.classify(source, arguments.top, arguments.preset)
        except TinyMixNetError as error:
            yield error
        except MemoryError as error:
            yield ImageError(_memory_message(error))


class ClosedInput:
    """Stands for standard input that was closed before we started: reading it is an error."""

    def read(self, _: int = -1) -> bytes:
        raise ImageError("standard input is closed")


def _name_photo(name: str, message: str) -> str:
    """Return the message with the photo's name at its beginning, where many have it already."""
    message = message.removeprefix("image: ") if name == "-" else message
    return message if message.startswith(name) else f"{name}: {message}"


def _which_weights(wanted: str | None, model: Model) -> str:
    path = find_weights(wanted)
    name = f"weights {model.metadata.name or path}, {len(model.labels)} classes"
    return f"{name}; {IMAGENET_HINT}" if path == BUNDLED else name


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
        f"{printable(architecture.variant)}, {architecture.classes} classes, "
        f"{size} x {size} pixels: {architecture.parameters():,} parameters, "
        f"{architecture.multiply_adds(size, size) / 1e6:,.2f} M multiply-adds"
    )
    return 0


# -- what all commands share ----------------------------------------------------------------------


def tell(message: object, program: str = "tinymixnet") -> None:
    """Write one line to standard error, whatever the message holds.

    If nobody can read it, because standard error is closed or full, the command goes on.
    """
    with contextlib.suppress(OSError):
        print(f"{program}: {printable(message)}", file=sys.stderr, flush=True)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, call the command's `run(arguments)` and return its exit code.

    A mistake or a failure is told in one line. It gives exit code 2, an output that cannot be
    written gives 1, an interrupt (Ctrl-C) 130.
    """
    _occupy_closed_files()
    output, errors = Output(_open_stream(sys.stdout, 1)), _open_stream(sys.stderr, 2)
    for stream in (output.stream, errors):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all

    message = ""
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda text, *_: tell(f"warning: {text}", parser.prog)
        try:
            code = _run_command(parser, argv)
            output.flush()
        except KeyboardInterrupt:
            code = 130
        except TinyMixNetError as error:
            code, message = 2, str(error)
        except MemoryError as error:
            code, message = 2, _memory_message(error)
        except RecursionError:
            code, message = 2, "something in the input is nested too deeply"
        except ImportError as error:
            code, message = 2, f"a part of this installation is missing: {error}"
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            code, message = 2, f"{name}{error.strerror or error}"
            if error.errno == errno.EMFILE:
                message += "; allow more with `ulimit -n`, or use fewer --workers"
        if failure := output.failure:
            code, message = 1, f"standard output: cannot be written ({failure.strerror or failure})"
        if message and not isinstance(failure, BrokenPipeError):  # `head` has seen enough: no news
            tell(message, parser.prog)
    for stream in (output.stream, errors):
        _discard_unwritten(stream)
    return code


def _run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # after --help, --version or a mistake, which it has told
        return int(stop.code or 0)
    read_environment()
    return arguments.run(arguments)


def _memory_message(error: MemoryError) -> str:
    return f"not enough memory ({error})" if str(error) else "not enough memory"


class Output:
    """Standard output that remembers why it failed: no other error is taken for one of its own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _occupy_closed_files() -> None:
    """Open the null device in place of each standard stream that is closed.

    The next file that is opened would get the stream's number, and what a library or a worker
    process means for the stream would land in that file.
    """
    modes = os.O_RDONLY, os.O_RDONLY, os.O_WRONLY  # to write to the output fails, as it should
    for number, mode in enumerate(modes):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # takes the lowest free number


def _open_stream(stream: TextIO | None, number: int) -> TextIO:
    """The stream, or one on its file in place of the None that Python has for a closed one.

    `print` writes nothing to a standard output of None, and to standard output if the file it is
    given is None: it would tell nobody that the answer is lost, and mix messages into the answer.
    """
    return open(number, "w", closefd=False) if stream is None else stream


def _discard_unwritten(stream: TextIO) -> None:
    """Make sure that Python's own flush at exit has nothing to complain about."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `tinymixnet` command and return its exit code.

    0 for success, 1 when a photo failed, layers differ or the output cannot be written, 2 when
    nothing could run.
    """
    return run(parser(), argv)
