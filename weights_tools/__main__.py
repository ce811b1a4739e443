"""python -m weights_tools: fetch, extract, convert, export, inspect, evaluate, record."""

import argparse
import sys

from tinymixnet.cli import Parser, run
from tinymixnet.debug.commands import positive
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import Weights
from tinymixnet.errors import printable

EXPORTS = ("safetensors", "npz", "onnx", "openvino", "tf-checkpoint", "keras")


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
        help="make a weights file of another framework's model",
        description="Make a weights file of a MixNet in a file of another framework: a state dict "
        "with timm's names (.safetensors, .npz, PyTorch's .pth), an ONNX graph, an OpenVINO model, "
        "a TensorFlow graph or SavedModel, a TensorFlow Lite or a Keras model. The content of the "
        "file tells which it is.",
        example="python -m weights_tools convert tf_mixnet_l.safetensors -o mixnet-l.h5",
    )
    converting.add_argument("source", metavar="FILE", help="the model, a file or a folder")
    converting.add_argument(
        "--check",
        action="store_true",
        help="run the original in its own framework, too, and compare the answers",
    )
    converting.add_argument(
        "--preset",
        choices=PRESETS,
        help="how photos are cropped and resized (as the file says, else timm)",
    )
    converting.add_argument(
        "--input-size",
        type=positive,
        metavar="N",
        help="pixels a side (as the file says, else 224)",
    )
    converting.add_argument("--licence", metavar="TEXT", help="of the weights")
    converting.set_defaults(run=run_convert)

    exporting = commands.add_parser(
        "export",
        help="write weights in another framework's format",
        description="Write weights in the format of another framework: a state dict for timm, a "
        "whole network for ONNX, OpenVINO or Keras, or a TensorFlow checkpoint.",
        example="python -m weights_tools export mixnet-l.h5 --to onnx -o mixnet-l.onnx",
    )
    exporting.add_argument(
        "weights", metavar="WEIGHTS", help="a .h5 file, or the name of fetched weights (mixnet-l)"
    )
    exporting.add_argument(
        "--to", required=True, choices=EXPORTS, metavar="FORMAT", help=", ".join(EXPORTS)
    )
    exporting.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="a new file; for a checkpoint a new folder; for OpenVINO the .xml, and a .bin appears "
        "beside it",
    )
    exporting.add_argument(
        "--size", type=positive, metavar="N", help="pixels a side of the network's input"
    )
    exporting.add_argument(
        "--channels", choices=("RGB", "BGR"), help="the order of colours (OpenVINO BGR, else RGB)"
    )
    exporting.add_argument(
        "--normalized",
        action="store_true",
        default=None,
        help="leave the normalisation of the pixels to the caller",
    )
    exporting.set_defaults(run=run_export)

    inspecting = commands.add_parser(
        "inspect",
        help="print what is in a file of weights",
        description="Print what a file of weights is, which framework wrote it, what of a MixNet "
        "is missing or surplus in it, and its tensors.",
        example="python -m weights_tools inspect mixnet-l.h5",
    )
    inspecting.add_argument(
        "file", metavar="FILE", help="a weights file, a checkpoint, or what `convert` reads"
    )
    inspecting.add_argument("--json", action="store_true", help="print one JSON object")
    inspecting.set_defaults(run=run_inspect)

    evaluating = commands.add_parser(
        "evaluate",
        help="measure accuracy on labelled photos",
        description="Measure how often weights are right on labelled photos, and note it in their "
        "file. `tinymixnet evaluate` does more: it goes on where it stopped.",
        example="python -m weights_tools evaluate mixnet-l.h5 photos.npz --write",
    )
    evaluating.add_argument("weights", metavar="WEIGHTS.h5", help="a weights file")
    evaluating.add_argument(
        "photos",
        metavar="PHOTOS",
        help="an .npz with labels (N,) and images (N, H, W, 3), or labels, jpeg and offsets; or "
        "what else `tinymixnet evaluate` takes",
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
    metadata = {"input_size": a.input_size, "licence": a.licence}
    if a.preset:
        metadata |= {"preset": a.preset, "preset_parameters": PRESETS[a.preset][1]}
    given = {name: value for name, value in metadata.items() if value is not None}
    weights = convert(a.source, a.output, a.variant, a.float16, a.labels, a.check, **given)
    return _report(a.output, weights)


def run_export(arguments: argparse.Namespace) -> int:
    from weights_tools.export import export

    a = arguments
    weights = export(
        a.weights, a.to, a.output, size=a.size, channels=a.channels, normalized=a.normalized
    )
    network = weights.architecture
    print(f"{printable(a.output)}: {network.variant}, {network.classes} classes, for {a.to}")
    return 0


def _report(path: str, weights: Weights) -> int:
    network = weights.architecture
    kind = "moving averages" if weights.metadata.averages else "raw values"
    size = f"{network.classes} classes, {network.parameters():,} parameters"
    print(f"{path}: {network.variant}, {size}, {kind}")
    return 0


def run_inspect(arguments: argparse.Namespace) -> int:
    from weights_tools.inspect_file import describe, inspect

    if arguments.json:
        print(write_json(inspect(arguments.file)))
        return 0
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
