"""The commands for whoever ports MixNet: trace, compare and diagnose.

Each imports what it needs when it runs, so that they do not slow down the start of `classify`.
"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import TraceError
from tinymixnet.model import Model, load

if TYPE_CHECKING:
    from tinymixnet.debug.compare import Comparison
    from tinymixnet.debug.dumps import Dump

IMAGE = "a photo, or .npy pixels (N, H, W, 3), 0..255, used as they are"
DUMP = "a trace, or any folder of .npy, .npz or .h5 of another implementation's layers"


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the three parsers to those of the `tinymixnet` command."""
    picture, foreign = picture_options(), dump_options()

    trace = commands.add_parser("trace", parents=[weights, picture], help="record every layer")
    trace.add_argument("image", metavar="IMAGE", help=IMAGE)
    trace.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder, or FILE.npz")
    trace.add_argument(
        "--layers", nargs="+", action="extend", metavar="PATTERN", help="only these: 'blocks_3/*'"
    )
    trace.set_defaults(run=run_trace)

    compare = commands.add_parser(
        "compare", parents=[weights, picture, foreign], help="find the first layer that differs"
    )
    compare.add_argument("reference", metavar="REFERENCE", help="a trace of ours, or an image")
    compare.add_argument("other", metavar="OTHER", help=DUMP)
    compare.add_argument("--tolerance", type=_tolerance, default=1e-4, metavar="T", help="(1e-4)")
    compare.add_argument(
        "--isolated", action="store_true", help="feed each layer of ours their inputs"
    )
    compare.add_argument("--json", action="store_true", help="one JSON object")
    compare.add_argument("--html", metavar="FILE", help="write a page as well")
    compare.set_defaults(run=run_compare)

    diagnose = commands.add_parser(
        "diagnose", parents=[weights, picture, foreign], help="name the bug behind the difference"
    )
    diagnose.add_argument("image", metavar="IMAGE", help=IMAGE)
    diagnose.add_argument("other", metavar="OTHER", help=DUMP)
    diagnose.add_argument(
        "--raw-weights", metavar="F", help="not the moving averages (extract --raw), to try as well"
    )
    diagnose.add_argument("--json", action="store_true", help="one JSON object")
    diagnose.set_defaults(run=run_diagnose)


def picture_options() -> argparse.ArgumentParser:
    """The options of every command that takes IMAGE."""
    picture = argparse.ArgumentParser(add_help=False)
    picture.add_argument("--preset", choices=PRESETS, help="how to crop and resize the photo")
    return picture


def dump_options() -> argparse.ArgumentParser:
    """The options of every command that takes OTHER."""
    foreign = argparse.ArgumentParser(add_help=False)
    foreign.add_argument(
        "--names", metavar="MAP", help="how the layers of OTHER are named: a shipped map or a .json"
    )
    foreign.add_argument("--layout", choices=("NHWC", "NCHW"), help="where shapes leave it open")
    return foreign


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def picture_of(model: Model, arguments: argparse.Namespace, image: str) -> np.ndarray:
    """The pixels of IMAGE, checked."""
    return check_pixels(model.pixels(image, arguments.preset)).astype(np.float32)


def dump_of(model: Model, pixels: np.ndarray, arguments: argparse.Namespace) -> "Dump":
    """OTHER, as layers of this network for these pixels."""
    from tinymixnet.debug.dumps import open_dump

    n, h, w, _ = pixels.shape
    names, layout = arguments.names, arguments.layout
    return open_dump(arguments.other, model.architecture, n, h, w, names, layout)


def _origin(model: Model, arguments: argparse.Namespace, image: str) -> tuple[str, str]:
    """For a manifest: the image's name, and the preset ("" for pixels, which come as they are)."""
    preset = "" if image.endswith(".npy") else arguments.preset or model.metadata.preset
    return os.path.basename(image), preset


def run_trace(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug.traces import record

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, arguments.image)
    image_name, preset = _origin(model, arguments, arguments.image)
    count = record(model, pixels, arguments.output, arguments.layers or ["*"], image_name, preset)
    print(f"{arguments.output}: {count} layers")
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug import tables

    reference = arguments.reference
    if os.path.isdir(reference) or reference.endswith((".npz", ".h5", ".hdf5")):
        found = _compare_trace(arguments, reference)
    else:
        found = _compare_image(arguments, reference)
    if arguments.html:
        _write_page(arguments.html, tables.html(found))
    print(json.dumps(tables.as_json(found)) if arguments.json else tables.table(found))
    return 0 if found.alike else 1


def _compare_trace(arguments: argparse.Namespace, path: str) -> "Comparison":
    """With what was recorded earlier; only --isolated runs the network, on the recorded image."""
    from tinymixnet.debug.compare import compare, isolated
    from tinymixnet.debug.dumps import open_dump
    from tinymixnet.debug.traces import open_trace, weights_hash

    trace = open_trace(path)
    about = trace.manifest
    if about is None:
        raise TraceError(
            f"{path}: no manifest.json, so not a trace of ours; make one with "
            "`tinymixnet trace IMAGE -o DIR`, or name the image itself"
        )
    n, h, w, _ = about.image_shape
    names, layout = arguments.names, arguments.layout
    dump = open_dump(arguments.other, about.architecture, n, h, w, names, layout)
    if not arguments.isolated:
        layers = ((name, trace[name]) for name in trace.names)
        return compare(layers, dump, arguments.tolerance, about)
    model = load(arguments.weights)
    if weights_hash(model) != about.weights_sha256:
        wanted = about.weights_name or "others"
        raise TraceError(f"{path}: --isolated needs its weights ({wanted}): say --weights F")
    if "image" not in trace.names:
        raise TraceError(f"{path}: --isolated needs its layer `image`; or name the image itself")
    return isolated(model, trace["image"], dump, arguments.tolerance, about)


def _compare_image(arguments: argparse.Namespace, image: str) -> "Comparison":
    """With a run of ours on the image."""
    from tinymixnet.debug.compare import compare, isolated
    from tinymixnet.debug.traces import manifest_of

    model = load(arguments.weights)
    pixels = picture_of(model, arguments, image)
    dump = dump_of(model, pixels, arguments)
    manifest = None
    if dump.trace.manifest:  # a trace of ours says what it is of: so will this run
        manifest = manifest_of(model, pixels, *_origin(model, arguments, image))
    if arguments.isolated:
        return isolated(model, pixels, dump, arguments.tolerance, manifest)
    return compare(model.layers(pixels), dump, arguments.tolerance, manifest)


def _write_page(path: str, text: str) -> None:
    from tinymixnet.engine.files import atomic_write

    try:
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None


def run_diagnose(arguments: argparse.Namespace) -> int:
    from tinymixnet.debug import diagnose as diagnosing

    model = load(arguments.weights)
    raw = load(arguments.raw_weights) if arguments.raw_weights else None
    pixels = picture_of(model, arguments, arguments.image)
    dump = dump_of(model, pixels, arguments)
    photo = None if arguments.image.endswith(".npy") else arguments.image
    found = diagnosing.diagnose(model, pixels, dump, photo=photo, raw=raw, progress=True)
    print(json.dumps(found.as_json()) if arguments.json else found.text())
    return 0 if found.alike else 1
