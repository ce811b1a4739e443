"""python -m weights_tools: fetch, extract, convert, inspect, evaluate, record."""

import argparse
import sys

from tinymixnet.cli import Parser, run
from tinymixnet.debug.commands import positive
from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import Weights


def parser() -> Parser:
    """Return the parser of all commands; each sets `run`, the function that carries it out."""
    top = Parser(
        prog="python -m weights_tools",
        description="Get weights for tinymixnet, and look into files of weights. Without a "
        "command, it prints this help.",
        example="python -m weights_tools fetch mixnet-l",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    fetching = commands.add_parser(
        "fetch",
        help="download the official weights, for 1000 classes",
        description="Download the official weights, for the 1000 classes of ImageNet. Then "
        "`tinymixnet classify --weights NAME` uses them.",
        example="python -m weights_tools fetch mixnet-l",
    )
    fetching.add_argument("name", choices=VARIANTS, help="the network")
    fetching.set_defaults(run=run_fetch)

    output = Parser(add_help=False)
    output.add_argument(
        "-o", "--output", required=True, metavar="OUT.h5", help="the weights file to write"
    )
    output.add_argument("--variant", choices=VARIANTS, help="refuse weights of any other network")
    output.add_argument("--float16", action="store_true", help="store at half the size")
    output.add_argument(
        "--labels", metavar="F", help="class names: a text file, one a line, or a .tsv"
    )

    extracting = commands.add_parser(
        "extract",
        parents=[output],
        help="make a weights file of a TensorFlow checkpoint",
        description="Make a weights file of a TensorFlow checkpoint.",
        example="python -m weights_tools extract mixnet-l.tar.gz -o mixnet-l.h5",
    )
    extracting.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a folder, a prefix or the official .tar.gz"
    )
    extracting.add_argument(
        "--raw", action="store_true", help="take the weights themselves, not their moving averages"
    )
    extracting.set_defaults(run=run_extract)

    converting = commands.add_parser(
        "convert",
        parents=[output],
        help="make a weights file of timm's .safetensors",
        description="Make a weights file of a state dict of timm's tf_mixnet_s, _m or _l.",
        example="python -m weights_tools convert tf_mixnet_l.safetensors -o mixnet-l.h5",
    )
    converting.add_argument("state_dict", metavar="FILE.safetensors", help="the state dict")
    converting.add_argument(
        "--preset",
        choices=PRESETS,
        default="timm",
        help="how photos are cropped and resized (timm)",
    )
    converting.add_argument(
        "--input-size", type=positive, default=224, metavar="N", help="pixels a side (224)"
    )
    converting.add_argument("--licence", default="", metavar="TEXT", help="of the weights")
    converting.set_defaults(run=run_convert)

    inspecting = commands.add_parser(
        "inspect",
        help="print what is in a file of weights",
        description="Print the metadata and the tensors of any file that the other commands read.",
        example="python -m weights_tools inspect mixnet-l.h5",
    )
    inspecting.add_argument(
        "file", metavar="FILE", help="a weights file, a checkpoint or a .safetensors"
    )
    inspecting.set_defaults(run=run_inspect)

    evaluating = commands.add_parser(
        "evaluate",
        help="measure accuracy on labelled photos",
        description="Measure how often weights are right on labelled photos.",
        example="python -m weights_tools evaluate mixnet-l.h5 photos.npz",
    )
    evaluating.add_argument("weights", metavar="WEIGHTS.h5", help="a weights file")
    evaluating.add_argument(
        "photos",
        metavar="PHOTOS.npz",
        help="labels (N,) and images (N, H, W, 3), or labels, jpeg and offsets",
    )
    evaluating.add_argument(
        "--write", action="store_true", help="write the result into the weights file"
    )
    evaluating.set_defaults(run=run_evaluate)

    recording = commands.add_parser(
        "record",
        help="record every layer of another framework's model",
        description="Run a model on one input and write what each layer computes, in its own names "
        "and layout, for `tinymixnet compare` and `diagnose`. A PyTorch module has no file that is "
        "safe to load: call weights_tools.record.record_torch(module, input, DIR) from Python.",
        example="python -m weights_tools record model.onnx input.npy -o DUMP",
    )
    recording.add_argument(
        "model",
        metavar="MODEL",
        help="a .onnx, .keras, .h5, .tflite, OpenVINO .xml, frozen .pb or SavedModel folder",
    )
    recording.add_argument("input", metavar="INPUT.npy", help="the input, as the model takes it")
    recording.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="a new folder, or FILE.npz"
    )
    recording.add_argument(
        "--layers",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="only the layers of these names, such as '*Conv*'",
    )
    recording.set_defaults(run=run_record)
    return top


# Each command imports its own module when it runs: most of them need little of the others.


def run_fetch(arguments: argparse.Namespace) -> int:
    from weights_tools.fetch import fetch

    path = fetch(arguments.name)
    print(f"{path}: load it with tinymixnet.load({arguments.name!r}) or --weights {arguments.name}")
    return 0


def run_extract(arguments: argparse.Namespace) -> int:
    from weights_tools.extract import extract

    a = arguments
    weights = extract(a.checkpoint, a.output, a.variant, a.raw, a.float16, a.labels)
    return _report(a.output, weights)


def run_convert(arguments: argparse.Namespace) -> int:
    from weights_tools.convert import convert

    a = arguments
    metadata = {
        "preset": a.preset,
        "preset_parameters": PRESETS[a.preset][1],
        "input_size": a.input_size,
        "licence": a.licence,
    }
    weights = convert(a.state_dict, a.output, a.variant, a.float16, a.labels, **metadata)
    return _report(a.output, weights)


def _report(path: str, weights: Weights) -> int:
    network = weights.architecture
    kind = "moving averages" if weights.metadata.averages else "raw values"
    size = f"{network.classes} classes, {network.parameters():,} parameters"
    print(f"{path}: {network.variant}, {size}, {kind}")
    return 0


def run_inspect(arguments: argparse.Namespace) -> int:
    from weights_tools.inspect_file import describe

    for line in describe(arguments.file):
        print(line)
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    from weights_tools.evaluate import evaluate

    accuracy = evaluate(arguments.weights, arguments.photos, arguments.write)
    print(f"{accuracy} on {accuracy.photos:,} photos")
    return 0


def run_record(arguments: argparse.Namespace) -> int:
    from weights_tools.record import read_input, record_file

    a = arguments
    count = record_file(a.model, read_input(a.input), a.output, a.layers or ["*"])
    print(f"{a.output}: {count} layers of {a.model}")
    return 0


if __name__ == "__main__":
    sys.exit(run(parser()))
