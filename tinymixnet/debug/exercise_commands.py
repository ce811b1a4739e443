"""The command `break`: a dump with mistakes in it, and the judge of who finds them."""

import argparse
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.debug.commands import IMAGE, picture_of, picture_options
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.errors import InputError, printable
from tinymixnet.model import load

CAT = BUNDLED.parent / "cat.jpg"
LEVELS = (1, 2, 3, 4, 5)


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parser of `break`."""
    exercise = commands.add_parser(
        "break",
        parents=[weights, picture_options()],
        help="plant mistakes in a dump of this network, for you to find",
        description="Write what every layer of this network gives if mistakes are made in it, and "
        "do not tell which. Find them with `compare` and `report`; `diagnose` knows the solution. "
        "With --answer, say whether a guess is right.",
        example="tinymixnet break -o PUZZLE --level 2",
        exit_codes={
            0: "done; with --answer, the guess is right",
            1: "the guess is wrong or not all, or a standard stream is closed or full",
        },
    )
    exercise.add_argument(
        "image", nargs="?", metavar="IMAGE", help=f"{IMAGE} (the cat that comes along)"
    )
    exercise.add_argument("-o", "--output", metavar="DUMP", help="a new folder, or FILE.npz")
    exercise.add_argument(
        "--level",
        type=int,
        choices=LEVELS,
        metavar="1..5",
        help="1: one loud mistake (the default). 2: one in a single layer. 3: two, in a dump as "
        "PyTorch's. 4: two quiet ones. 5: three quiet ones, and layers are missing",
    )
    exercise.add_argument(
        "--secret",
        type=_secret,
        metavar="N",
        help="a number; the same one gives the same mistakes (drawn at random)",
    )
    exercise.add_argument(
        "--answer",
        nargs=2,
        metavar=("DUMP", "GUESS"),
        help="judge a guess: the name of the mistake as `diagnose` has it, or several with commas",
    )
    exercise.add_argument("--json", action="store_true", help="print one JSON object")
    exercise.add_argument("--force", action="store_true", help="replace FILE.npz whatever it is")
    exercise.set_defaults(run=run_break)


def _secret(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:  # int() refuses very long numbers
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to 999,999,999, found {text!r}"
        )
    return int(text)


def run_break(arguments: argparse.Namespace) -> int:
    if arguments.answer:
        return _answer(arguments)
    if not arguments.output:
        raise InputError("break: expected -o DUMP, to make a puzzle, or --answer DUMP GUESS")
    from tinymixnet.debug.exercise import make_exercise

    image = arguments.image or _cat()
    secret = arguments.secret
    if secret is None:
        secret = int(np.random.default_rng().integers(1_000_000))
    model = load(arguments.weights)
    pixels = picture_of(model, arguments, image)
    exercise = make_exercise(
        model,
        pixels,
        arguments.output,
        secret,
        arguments.level or 1,
        photo=None if image.endswith(".npy") else image,
        image_name=os.path.basename(image),
        inputs=[image, arguments.weights],
        force=arguments.force,
    )
    commands = _next_commands(arguments, image)
    if arguments.json:
        print(write_json({"output": arguments.output, **exercise._asdict(), "next": commands}))
    else:
        some = f"{exercise.mistakes} mistakes" if exercise.mistakes > 1 else "one mistake"
        print(
            f"{printable(arguments.output)}: {exercise.layers} layers of a network with {some} in "
            f"it, for {printable(image)} (level {exercise.level}, secret {exercise.secret})",
            "Where is it? And what is it called?",
            *(f"  {printable(command)}" for command in commands),
            sep="\n",
        )
    return 0


def _answer(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug.exercise import judge, known_mistakes

    dump, guess = arguments.answer
    options = {"image": "IMAGE", "output": "-o", "secret": "--secret", "level": "--level"}
    for name, option in options.items():
        if getattr(arguments, name) is not None:
            raise InputError(f"break: --answer takes DUMP and GUESS alone, found {option} as well")
    judgement = judge(dump, guess)
    if arguments.json:
        print(write_json({"right": judgement.right, **judgement._asdict()}))
    else:
        print(printable(judgement.text()))
    if judgement.wrong and not arguments.json:
        print(f"the names: {', '.join(known_mistakes())}")
    return 0 if judgement.right else 1


def _next_commands(arguments: argparse.Namespace, image: str) -> list[str]:
    """Return the two commands that the reader is to type next, as a shell reads them."""
    options = []
    if arguments.weights:
        options += ["--weights", arguments.weights]
    if arguments.preset:
        options += ["--preset", arguments.preset]
    compare = ["tinymixnet", "compare", image, arguments.output, "--isolated", *options]
    answer = ["tinymixnet", "break", "--answer", arguments.output]
    return [shlex.join(compare), f"{shlex.join(answer)} GUESS"]


def _cat() -> str:
    """Return the path of the bundled cat: a short one in a copy of the repository."""
    short = Path("tinymixnet", "data", CAT.name)
    with suppress(OSError):
        if short.samefile(CAT):
            return str(short)
    return str(CAT)
