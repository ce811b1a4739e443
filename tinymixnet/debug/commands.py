"""The commands for debugging a port: trace, compare and diagnose.

Each imports what it needs when it runs, so that `classify` starts quickly.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.debug.names.layouts import LAYOUTS
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import TraceError, printable
from tinymixnet.model import Model, load

if TYPE_CHECKING:
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.dumps import Dump
    from tinymixnet.debug.manifest import Manifest
    from tinymixnet.debug.pairs import Pair

IMAGE = "a photo, or a .npy file of pixels (N, H, W, 3), 0..255, which are used as they are"
PRECISIONS = ("float16", "bfloat16", "int8")  # as in precision.py, which takes time to import
DUMP = "what another implementation's layers give: a folder of .npy files, a .npz or a .h5"

PAIRS = "print only which tensor is which layer, as JSON; correct it and give it to --names"


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parsers of the three commands to those of `tinymixnet`."""
    picture, foreign = picture_options(), dump_options()

    trace = commands.add_parser(
        "trace",
        parents=[weights, picture],
        help="record what every layer gives for an image",
        description="Run the network on IMAGE and write what every layer gives, as .npy files.",
        example="tinymixnet trace photo.jpg -o OURS",
    )
    trace.add_argument("image", metavar="IMAGE", help=IMAGE)
    trace.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="a new folder, or FILE.npz"
    )
    trace.add_argument(
        "--layers",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="only the layers of these names, such as 'blocks_3/*'",
    )
    trace.add_argument("--json", action="store_true", help="print one JSON object")
    trace.add_argument("--force", action="store_true", help="replace FILE.npz whatever it is")
    trace.set_defaults(run=run_trace)

    compare = commands.add_parser(
        "compare",
        parents=[weights, picture, foreign],
        help="find the first layer where another implementation differs",
        description="Compare every layer of another implementation with ours, and name the first "
        "that differs.",
        example="tinymixnet compare photo.jpg DUMP --isolated",
        exit_codes={
            0: "done; every layer is alike",
            1: "a layer differs, or a standard stream is closed or full",
        },
    )
    compare.add_argument(
        "reference", metavar="REFERENCE", help="what `tinymixnet trace` has written, or an image"
    )
    compare.add_argument("other", metavar="OTHER", help=DUMP)
    compare.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        metavar="T",
        help="a layer differs if its error, as a share of its largest value, is above this (1e-4)",
    )
    compare.add_argument(
        "--isolated",
        action="store_true",
        help="give each layer of ours the input that theirs had, so that only its own error shows",
    )
    compare.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="judge each layer by what rounding to this format leaves: is it broken, or coarse?",
    )
    compare.add_argument("--json", action="store_true", help="one JSON object")
    compare.add_argument("--pairs", action="store_true", help=PAIRS)
    compare.set_defaults(run=run_compare)

    diagnose = commands.add_parser(
        "diagnose",
        parents=[weights, picture, foreign],
        help="name the mistake that makes another implementation differ",
        description="Find the mistakes that make another implementation give other values than "
        "ours, and name them.",
        example="tinymixnet diagnose photo.jpg DUMP",
        exit_codes={
            0: "done; no mistake was found",
            1: "a mistake was found, or a standard stream is closed or full",
        },
    )
    diagnose.add_argument("image", metavar="IMAGE", help=IMAGE)
    diagnose.add_argument("other", metavar="OTHER", help=DUMP)
    diagnose.add_argument(
        "--raw-weights",
        metavar="F",
        help="weights made with `extract --raw`: tells whether theirs are not the moving averages",
    )
    diagnose.add_argument("--json", action="store_true", help="print one JSON object")
    diagnose.add_argument("--pairs", action="store_true", help=PAIRS)
    diagnose.set_defaults(run=run_diagnose)


def picture_options() -> argparse.ArgumentParser:
    """Return the options of every command that takes IMAGE."""
    picture = argparse.ArgumentParser(add_help=False)
    picture.add_argument(
        "--preset", choices=PRESETS, help="how to crop and resize (as the weights want it)"
    )
    return picture


def dump_options() -> argparse.ArgumentParser:
    """Return the options of every command that takes OTHER."""
    foreign = argparse.ArgumentParser(add_help=False)
    foreign.add_argument(
        "--names",
        metavar="MAP",
        help="whose names the layers of OTHER have: canonical (ours), tensorflow, timm, onnx, or "
        "those of your own .json file (mostly, the names tell)",
    )
    foreign.add_argument(
        "--layout",
        metavar="LAYOUT",
        choices=LAYOUTS,
        help="the order of the values in OTHER: NHWC, NCHW, batch last (HWCN, CHWN, HWNC), or "
        "channels in blocks (NC4HW4, nChw8c, nChw16c, nChw32c); mostly, the shapes or values tell",
    )
    return foreign


def positive(text: str) -> int:
    """Return the number that an argument stands for, for a parser's `type`: 1 or more."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:  # int() refuses very long numbers
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def picture_of(model: Model, arguments: argparse.Namespace, image: str) -> np.ndarray:
    """Return the pixels of IMAGE, (N, H, W, 3) float32, checked."""
    return check_pixels(model.pixels(image, arguments.preset)).astype(np.float32)


def dump_of(model: Model, pixels: np.ndarray, arguments: argparse.Namespace) -> "Dump":
    """Open OTHER as layers of this network, paired by value where the names leave doubt."""
    always = getattr(arguments, "pairs", False)
    return by_value(model, pixels, opened_dump(model, pixels, arguments), always)


def opened_dump(model: Model, pixels: np.ndarray, arguments: argparse.Namespace) -> "Dump":
    """Open OTHER as layers of this network, as names and order say."""
    from tinymixnet.debug.dumps import open_dump

    n, h, w, _ = pixels.shape
    names, layout = arguments.names, arguments.layout
    return open_dump(arguments.other, model.architecture, n, h, w, names, layout)


def by_value(model: Model, pixels: np.ndarray, dump: "Dump", always: bool = False) -> "Dump":
    """Pair the tensors of a dump by value; not where the names are certain, unless `always`."""
    from tinymixnet.debug.leftovers import explain_unmatched
    from tinymixnet.debug.pairing import pair

    if always or not dump.certain:
        return pair(model, pixels, dump, progress=True)
    return explain_unmatched(model, pixels, dump)


def _print_pairs(pairs: "Sequence[Pair]") -> int:
    """Print which tensor is which layer, as --names takes it back: one a line."""
    from tinymixnet.debug.pairs import pairs_json

    entries = pairs_json(pairs).items()
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries]
    print("{\n" + ",\n".join(lines) + "\n}")
    return 0


def _origin(model: Model, arguments: argparse.Namespace, image: str) -> tuple[str, str]:
    """Return the image's name and its preset for a manifest; .npy pixels have the preset ""."""
    preset = "" if image.endswith(".npy") else arguments.preset or model.metadata.preset
    return os.path.basename(image), preset


def _trace_json(output: str) -> dict[str, Any]:
    """Return what has just been written, as its manifest says."""
    from tinymixnet.debug.traces import open_trace

    manifest = open_trace(output).manifest
    assert manifest is not None  # `record` writes one
    return {
        "output": output,
        "image": manifest.image_name,
        "preset": manifest.preprocessing or None,
        "network": manifest.weights_name or manifest.architecture.variant,
        "input": manifest.image_shape,
        "layers": [
            {"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in manifest.layers
        ],
    }


def run_trace(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug.traces import record

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, arguments.image)
    image_name, preset = _origin(model, arguments, arguments.image)
    count = record(
        model,
        pixels,
        arguments.output,
        arguments.layers or ["*"],
        image_name,
        preset,
        inputs=[arguments.image, arguments.weights],
        force=arguments.force,
    )
    if arguments.json:
        print(write_json(_trace_json(arguments.output)))
    else:
        print(f"{printable(arguments.output)}: {count} layers")
    return 0


class Compared(NamedTuple):
    """A comparison, and what a page about it needs."""

    comparison: "Comparison"
    model: Model
    image: str
    pixels: np.ndarray
    dump: "Dump"


def run_compare(
    arguments: argparse.Namespace, show: Callable[[Compared], object] | None = None
) -> int:
    """Compare and print. show: called first with the result, for example to write a page."""
    from tinymixnet.debug import tables

    reference = arguments.reference
    if arguments.pairs:
        return _pairs_of(arguments, reference)
    if _is_trace(reference):
        comparison = _compare_trace(arguments, reference, show)
    else:
        comparison = _compare_image(arguments, reference, show)
    print(json.dumps(tables.as_json(comparison)) if arguments.json else tables.table(comparison))
    return 0 if comparison.alike else 1


def _compare_trace(
    arguments: argparse.Namespace, path: str, show: Callable[[Compared], object] | None
) -> "Comparison":
    """Compare with a trace of ours. Only --isolated and a page run the network, on its image."""
    from tinymixnet.debug.compare import compare
    from tinymixnet.debug.dumps import open_dump
    from tinymixnet.debug.manifest import weights_hash
    from tinymixnet.debug.traces import open_trace

    trace = open_trace(path)
    manifest = trace.manifest
    if manifest is None:
        raise TraceError(
            f"{path}: no manifest.json, so not a trace of ours; make one with "
            "`tinymixnet trace IMAGE -o DIR`, or name the image itself"
        )
    n, h, w, _ = manifest.image_shape
    names, layout = arguments.names, arguments.layout
    dump = open_dump(arguments.other, manifest.architecture, n, h, w, names, layout)

    def recorded() -> "Comparison":
        layers = ((name, trace[name]) for name in trace.names)
        return compare(layers, dump, arguments.tolerance, manifest)

    feeds = arguments.isolated or arguments.precision
    if not feeds and not show:
        return recorded()
    option = "--precision" if arguments.precision else "--isolated" if feeds else "--html"
    model = load(arguments.weights)
    if weights_hash(model) != manifest.weights_sha256:
        wanted = manifest.weights_name or "others"
        raise TraceError(f"{path}: {option} needs its weights ({wanted}): say --weights F")
    if "image" not in trace.names:
        raise TraceError(f"{path}: {option} needs its layer `image`; or name the image itself")
    pixels = trace["image"]
    comparison = _fed(arguments, model, pixels, dump, manifest) if feeds else recorded()
    if show:
        show(Compared(comparison, model, manifest.image_name or path, pixels, dump))
    return comparison


def _pairs_of(arguments: argparse.Namespace, image: str) -> int:
    """Print the pairs that a comparison would use."""
    if _is_trace(image):
        raise TraceError(f"{image}: --pairs needs the image itself, as values decide")
    model = load(arguments.weights)
    return _print_pairs(dump_of(model, picture_of(model, arguments, image), arguments).pairs)


def _is_trace(path: str) -> bool:
    return os.path.isdir(path) or path.endswith((".npz", ".h5", ".hdf5"))


def _compare_image(
    arguments: argparse.Namespace, image: str, show: Callable[[Compared], object] | None
) -> "Comparison":
    """Compare with a run of ours on the image."""
    from tinymixnet.debug.compare import compare

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, image)
    dump = dump_of(model, pixels, arguments)
    manifest = _manifest(model, pixels, dump, arguments, image)
    if arguments.isolated or arguments.precision:
        comparison = _fed(arguments, model, pixels, dump, manifest)
    else:
        comparison = compare(model.layers(pixels), dump, arguments.tolerance, manifest)
    if show:
        show(Compared(comparison, model, image, pixels, dump))
    return comparison


def _fed(
    arguments: argparse.Namespace,
    model: Model,
    pixels: np.ndarray,
    dump: "Dump",
    manifest: "Manifest | None",
) -> "Comparison":
    """Compare with our layers fed with their inputs, as --isolated and --precision do."""
    from tinymixnet.debug.compare import isolated, judged

    if arguments.precision:
        return judged(model, pixels, dump, arguments.precision, arguments.tolerance, manifest)
    return isolated(model, pixels, dump, arguments.tolerance, manifest)


def _manifest(
    model: Model, pixels: np.ndarray, dump: "Dump", arguments: argparse.Namespace, image: str
) -> "Manifest | None":
    """Return the manifest of a run of ours, if the dump says from which pixels it was made."""
    from tinymixnet.debug.manifest import manifest_of

    if not dump.trace.manifest and not dump.trace.exercise:
        return None
    return manifest_of(model, pixels, *_origin(model, arguments, image))


def run_diagnose(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug.diagnose import diagnose

    model = load(arguments.weights)
    raw = load(arguments.raw_weights) if arguments.raw_weights else None
    pixels = picture_of(model, arguments, arguments.image)
    dump = dump_of(model, pixels, arguments)
    photo = None if arguments.image.endswith(".npy") else arguments.image
    manifest = _manifest(model, pixels, dump, arguments, arguments.image)
    diagnosed = partial(diagnose, model, pixels, dump, photo, raw, True, manifest)
    if arguments.pairs:
        pairs = dump.pairs
        with suppress(TraceError):  # nothing could be compared: there are only names to give
            pairs = diagnosed().pairs
        return _print_pairs(pairs)
    diagnosis = diagnosed()
    print(json.dumps(diagnosis.as_json()) if arguments.json else diagnosis.text())
    return 0 if diagnosis.alike else 1
