"""The command line: `demo`, `classify`, `summary`, and what all commands share.

The other commands stand in `debug/commands.py` and `report/commands.py`. `run` calls a command. A
mistake or a failure becomes one line on standard error and an exit code, never a traceback.

Exit codes, the same for all commands of `tinymixnet` and `weights_tools`:

    0    done; where two things were compared, they are alike
    1    `compare` or `diagnose` found a difference, or a guess for `break` is wrong; or standard
         input or output is closed or full
    2    something failed: a missing photo, an unknown option, a full disk. `classify` returns it
         also if only one of several photos failed
    130  stopped by Ctrl-C
"""

import argparse
import contextlib
import errno
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tinymixnet.debug import commands as debug_commands
from tinymixnet.debug import exercise_commands
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine import __version__
from tinymixnet.engine.budget import read_environment
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import BUNDLED, find_weights
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, printable
from tinymixnet.evaluate import commands as evaluate_commands
from tinymixnet.model import Model, Prediction, load
from tinymixnet.report import commands as report_commands

IMAGENET_HINT = (
    "for the 1000 ImageNet classes run `python -m weights_tools fetch mixnet-l`, "
    "then add --weights mixnet-l"
)

DONE, ALERT, FAILED, STOPPED = 0, 1, 2, 130
EXIT_CODES = {
    DONE: "done",
    ALERT: "standard input or output is closed or full",
    FAILED: "failed; standard error says why",
    STOPPED: "stopped by Ctrl-C",
}


class Parser(argparse.ArgumentParser):
    """A parser of arguments that answers a mistake in one line, with the nearest right word.

    Its --help ends with an example and the exit codes. example: a command line to try.
    exit_codes: texts for codes that EXIT_CODES lacks, or describes in other words.
    """

    def __init__(
        self,
        *args: Any,
        example: str = "",
        exit_codes: Mapping[int, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._positionals.title = "arguments"
        self.example = example
        self.exit_codes = EXIT_CODES | dict(exit_codes or {})

    def format_help(self) -> str:
        example = ["example:", f"  {self.example}", ""] if self.example else []
        codes = [f"  {code:<5}{meaning}" for code, meaning in sorted(self.exit_codes.items())]
        return "\n".join([super().format_help(), *example, "exit codes:", *codes, ""])

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [*map(str, action.choices)]
        listed, near = ", ".join(choices), nearest(str(value), choices)
        meant = f"did you mean {near}?" if near else ""
        if isinstance(action, argparse._SubParsersAction):
            message = f"no command {value!r}: {meant or f'expected one of {listed}'}"
            raise argparse.ArgumentError(None, message)
        message = f"{value!r} is not one of {listed}" + (f": {meant}" if near else "")
        raise argparse.ArgumentError(action, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but report an unknown word while its command is known."""
        known, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            if word.startswith("-") and word != "-":
                option = word.split("=")[0]
                near = nearest(option, self._option_string_actions)
                self.error(f"no option {option!r}" + (f": did you mean {near}?" if near else ""))
        if unknown:
            message = f"unexpected {unknown[0]!r}"
            for action in self._get_positional_actions():
                if action.nargs == "+":  # argparse takes them only side by side
                    message += f": name every {action.metavar} side by side, no option in between"
            self.error(message)
        return known, unknown


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice that a misspelt word is likely to mean, or "" if none is near.

    >>> nearest("clasify", ["classify", "compare"])
    'classify'
    """
    import difflib  # only needed after a mistake

    by_small_letters = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), by_small_letters, n=1)
    return by_small_letters[near[0]] if near else ""


def parser() -> Parser:
    """Return the parser of all commands; each sets `run`, the function that carries it out."""
    top = Parser(
        prog="tinymixnet",
        description="MixNet image classification in NumPy. Without a command, it prints this help.",
        example="tinymixnet demo",
        exit_codes={ALERT: "a difference was found, or a standard stream is closed or full"},
    )
    top.add_argument("--version", action="version", version=f"tinymixnet {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    weights = Parser(add_help=False)
    weights.add_argument(
        "--weights", metavar="F", help="a .h5 file, or the name of fetched weights (mixnet-l)"
    )

    demo = commands.add_parser(
        "demo",
        parents=[weights],
        help="name what is in the photos that came along, and show why",
        description="Name what is in the photos that came along with this program, and show which "
        "of their parts speak for it.",
        example="tinymixnet demo -o pages",
    )
    demo.add_argument("-o", "--output", metavar="DIR", help="a folder for a page about each photo")
    demo.set_defaults(run=run_demo)

    classify = commands.add_parser(
        "classify",
        parents=[weights],
        help="name what is in photos",
        description="Name what is in photos. If one of them cannot be read, the others are "
        "answered nevertheless.",
        example="tinymixnet classify photo.jpg other.png --top 3",
        exit_codes={FAILED: "failed, if only for one photo; standard error says why"},
    )
    classify.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a photo, a folder of photos, or - for standard input",
    )
    classify.add_argument(
        "--preset", choices=PRESETS, help="how to crop and resize (as the weights want it)"
    )
    classify.add_argument(
        "--top",
        type=debug_commands.positive,
        default=5,
        metavar="K",
        help="how many answers for a photo (5)",
    )
    classify.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each photo"
    )
    shared = classify.add_mutually_exclusive_group()
    shared.add_argument(
        "--workers",
        type=debug_commands.positive,
        metavar="N",
        help="share the photos among N processes",
    )
    shared.add_argument(
        "--cores",
        type=lambda text: text if text == "auto" else debug_commands.positive(text),
        default=1,
        metavar="N",
        help="share each photo among N processes, 2 to 8 or auto (1)",
    )
    classify.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="share the photos in a Dask cluster: tcp://HOST:PORT, or local",
    )
    classify.set_defaults(run=run_classify)

    summary = commands.add_parser(
        "summary",
        parents=[weights],
        help="list every layer and its cost",
        description="List every layer of the network with the shape of its output, its parameters "
        "and its multiply-adds for one image.",
        example="tinymixnet summary --weights mixnet-l",
    )
    summary.add_argument("--json", action="store_true", help="print one JSON object")
    summary.set_defaults(run=run_summary)
    debug_commands.add_commands(commands, weights)
    report_commands.add_commands(commands, weights)
    evaluate_commands.add_commands(commands, weights)
    exercise_commands.add_commands(commands, weights)
    return top


def run_demo(arguments: argparse.Namespace) -> int:
    from tinymixnet.report import explanation as pages
    from tinymixnet.report.explanation_words import text

    model = load(arguments.weights)
    page_of = {}
    if arguments.output:
        os.makedirs(arguments.output, exist_ok=True)
        for photo in bundled_photos():
            page_of[photo] = Path(arguments.output, f"{photo.stem}.html")
            pages.check_explanation_output(page_of[photo], [arguments.weights])
    for photo in bundled_photos():
        _print_answer(photo.name, model.classify(photo))
        explanation = model.explain(photo)
        print("", textwrap.indent(text(explanation), "  "), "", sep="\n", flush=True)
        if photo in page_of:
            pages.write_explanation(explanation, photo.name, page_of[photo])
            print(printable(page_of[photo]), "", sep="\n")
    _note_weights(arguments.weights, model)
    return DONE


def bundled_photos() -> list[Path]:
    """Return the photos that come with this package, wherever it is installed."""
    return sorted(BUNDLED.parent.glob("*.jpg"))


def run_classify(arguments: argparse.Namespace) -> int:
    if arguments.dask and arguments.cores != 1:
        raise InputError("--cores and --dask: a cluster shares whole photos; say only one of them")
    model = load(arguments.weights, arguments.cores)
    answered = failed = closed = 0
    names = [photo for name in arguments.images for photo in _photos_in(name)]
    for name, answer in zip(names, _answers(model, names, arguments), strict=True):
        if isinstance(answer, TinyMixNetError):
            tell(_name_photo(name, str(answer)))
            failed += 1
            closed += name == "-" and sys.stdin is None
            continue
        answered += 1
        if arguments.json:  # with the true names: JSON has its own way to escape them
            predictions = [prediction._asdict() for prediction in answer]
            print(write_json({"image": name, "predictions": predictions}), flush=True)
        else:
            _print_answer(name, answer)
    if answered and not arguments.json:
        _note_weights(arguments.weights, model)
    if not failed:
        return DONE
    return ALERT if closed == failed else FAILED


def _print_answer(name: str, predictions: list[Prediction]) -> None:
    lines = [f"  {p.probability:6.2%}  {printable(p.label)}" for p in predictions]
    print("\n".join([printable(name), *lines]), flush=True)


def _photos_in(name: str) -> list[str]:
    """Return the photos in a folder and in all folders in it, or the name if it is none."""
    if not os.path.isdir(name):
        return [name]
    from tinymixnet.evaluate.listing import list_folder

    try:
        return [os.path.join(name, photo) for photo in list_folder(Path(name)).photos()] or [name]
    except TinyMixNetError:
        return [name]  # what is wrong with it is told in its turn


def _answers(
    model: Model, names: Sequence[str], arguments: argparse.Namespace
) -> Iterator[list[Prediction] | TinyMixNetError]:
    """Yield for each photo what is in it or what is wrong with it."""
    from tinymixnet.fast.workers import usable_cores  # not needed for a single photo

    stdin: Any = sys.stdin.buffer if sys.stdin else ClosedInput()
    sources = [stdin if name == "-" else name for name in names]
    if arguments.workers or arguments.dask:
        workers = arguments.workers or usable_cores()
        options = arguments.top, arguments.preset, arguments.dask
        yield from model.map(sources, workers, *options)
        return
    for source in sources:
        try:
            yield model.classify(source, arguments.top, arguments.preset)
        except TinyMixNetError as error:
            yield error
        except MemoryError as error:
            yield ImageError(_memory_message(error))


class ClosedInput:
    """Takes the place of a standard input that was closed at the start: reading it is an error."""

    def read(self, _: int = -1) -> bytes:
        raise ImageError("standard input is closed")


def _name_photo(name: str, message: str) -> str:
    """Return the message with the photo's name at its beginning, where many have it already."""
    message = message.removeprefix("image: ") if name == "-" else message
    beginning = f"{printable(name)}: "[:200]  # the middle of a long name may have been cut out
    return message if message.startswith(beginning) else f"{name}: {message}"


def _note_weights(wanted: str | None, model: Model) -> None:
    """Tell a person at a terminal which weights have answered; programs need no such note."""
    if not sys.stderr.isatty():
        return
    path = find_weights(wanted)
    note = f"weights {model.metadata.name or path}, {len(model.labels)} classes"
    tell(f"{note}; {IMAGENET_HINT}" if path == BUNDLED else note)


def run_summary(arguments: argparse.Namespace) -> int:
    model = load(arguments.weights)
    architecture, size = model.architecture, model.metadata.input_size
    layers = architecture.layers(size, size)
    if arguments.json:
        summary = {
            "network": model.metadata.name or architecture.variant,
            "variant": architecture.variant,
            "classes": architecture.classes,
            "input": [size, size],
            "parameters": architecture.parameters(),
            "multiply_adds": architecture.multiply_adds(size, size),
            "layers": [layer._asdict() for layer in layers],
        }
        print(write_json(summary))
        return DONE
    print(f"{'layer':<26}{'output shape':<20}{'parameters':>12}{'multiply-adds':>16}")
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        cost = f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        print(f"{layer.name:<26}{shape:<20}{parameters:>12}{cost:>16}".rstrip())
    print(
        f"{printable(architecture.variant)}, {architecture.classes} classes, "
        f"{size} x {size} pixels: {architecture.parameters():,} parameters, "
        f"{architecture.multiply_adds(size, size) / 1e6:,.2f} M multiply-adds"
    )
    return DONE


# -- what all commands share ----------------------------------------------------------------------


def tell(message: object, program: str = "tinymixnet") -> None:
    """Write one line to standard error, whatever the message holds.

    If nobody can read it, because standard error is closed or full, the command goes on.
    """
    with contextlib.suppress(OSError):
        print(f"{program}: {printable(message)}", file=sys.stderr, flush=True)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, call the command's `run(arguments)` and return its exit code.

    A mistake or a failure is told in one line. Without a command, print the help.
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
            code = STOPPED
        except TinyMixNetError as error:
            code, message = FAILED, str(error)
        except MemoryError as error:
            code, message = FAILED, _memory_message(error)
        except RecursionError:
            code, message = FAILED, "something in the input is nested too deeply"
        except ImportError as error:
            code, message = FAILED, f"a part of this installation is missing: {error}"
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            code, message = FAILED, f"{name}{error.strerror or error}"
            if error.errno == errno.EMFILE:
                message += "; allow more with `ulimit -n`, or use fewer --workers"
        if failure := output.failure:
            reason = failure.strerror or failure
            code, message = ALERT, f"standard output: cannot be written ({reason})"
        if message and not isinstance(failure, BrokenPipeError):  # `head` stops reading: no error
            tell(message, parser.prog)
    for stream in (output.stream, errors):
        _discard_unwritten(stream)
    return code


def _run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help, the version or the mistake
        return int(stop.code or 0)
    if "run" not in arguments:  # no command was given
        parser.print_help()
        return DONE
    read_environment()
    return arguments.run(arguments)


def _memory_message(error: MemoryError) -> str:
    return f"not enough memory ({error})" if str(error) else "not enough memory"


class Output:
    """Standard output that remembers why it failed, so that we can tell its errors from others."""

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

    Otherwise the next file that is opened would get the stream's number. What a library or a
    worker process writes to the stream would then land in that file.
    """
    modes = os.O_RDONLY, os.O_RDONLY, os.O_WRONLY  # so that writing to the output fails
    for number, mode in enumerate(modes):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # takes the lowest free number


def _open_stream(stream: TextIO | None, number: int) -> TextIO:
    """Return the stream; where Python has None for a closed one, a new stream on that number.

    With None, `print` would fail silently. If standard output is None, the answer is lost and
    nobody is told. If standard error is None, messages go to standard output, into the answer.
    """
    return open(number, "w", closefd=False) if stream is None else stream


def _discard_unwritten(stream: TextIO) -> None:
    """Drop what cannot be written, so that Python's own flush at exit raises no error."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `tinymixnet` command and return its exit code."""
    return run(parser(), argv)
