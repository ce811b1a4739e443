"""The command `evaluate`. It stands above all rooms but the command line: its page is a report."""

import argparse
import os
from typing import Any

from tinymixnet.debug.commands import positive
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.images import PRESETS
from tinymixnet.errors import printable
from tinymixnet.evaluate.data import LabelledPhotos, open_data
from tinymixnet.evaluate.imagenet import is_validation, published
from tinymixnet.evaluate.progress import with_progress
from tinymixnet.evaluate.results import Results
from tinymixnet.evaluate.words import count, percent
from tinymixnet.model import load

ALL = "all"


def add_commands(
    commands: "argparse._SubParsersAction[Any]", weights: argparse.ArgumentParser
) -> None:
    """Add the parser of `evaluate`."""
    evaluating = commands.add_parser(
        "evaluate",
        parents=[weights],
        help="measure how often the answers are right on labelled photos",
        description="Measure how often the best answer is right, and how often one of the five "
        "best, on labelled photos. A file of results (-o) grows as the photos are answered: the "
        "same command goes on where it stopped.",
        example="tinymixnet evaluate val --weights mixnet-l -o results.jsonl",
    )
    evaluating.add_argument(
        "data",
        metavar="DATA",
        help="a folder of class folders, a folder of photos with a table of their classes, a .tar "
        "of either, or an .npz",
    )
    evaluating.add_argument(
        "--labels",
        metavar="TABLE",
        help="the table of the photos' classes, if it has no usual name (labels.txt, labels.csv)",
    )
    evaluating.add_argument(
        "--preset",
        choices=[*PRESETS, ALL],
        help="how to crop and resize (as the weights want it); all: one after another",
    )
    evaluating.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="how many processes share the photos (as many as there are cores)",
    )
    evaluating.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="share the photos in a Dask cluster: tcp://HOST:PORT, or local",
    )
    evaluating.add_argument(
        "--limit", type=positive, metavar="N", help="only N photos, a fair sample of all"
    )
    evaluating.add_argument(
        "-o", "--output", metavar="RESULTS", help="the file of results, a line for each photo"
    )
    evaluating.add_argument(
        "--report", metavar="FILE.html", help="write a page about the results as well"
    )
    evaluating.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each preset"
    )
    evaluating.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    inputs = [arguments.data, arguments.labels, arguments.weights, arguments.output]
    if arguments.report:
        from tinymixnet.report.evaluation import check_evaluation_page, write_evaluation

        check_evaluation_page(arguments.report, inputs)
    model = load(arguments.weights)
    data = open_data(arguments.data, model.metadata, model.labels, arguments.labels)
    if not arguments.json:
        print("\n".join(data_words(data)), flush=True)
    presets = [arguments.preset]
    if arguments.preset == ALL:  # the weights' own first: the page shows the first in detail
        presets = sorted(PRESETS, key=lambda name: name != model.metadata.preset)
    outputs = [_output(arguments.output, preset, len(presets) > 1) for preset in presets]
    found = []
    for preset, output in zip(presets, outputs, strict=True):
        results = model.evaluate(
            data,
            output,
            preset,
            arguments.limit,
            arguments.workers,
            cluster=arguments.dask,
            progress=with_progress,
        )
        found.append(results)
        if arguments.json:
            print(write_json(as_json(results, output)), flush=True)
        else:
            print("\n".join(result_words(results, output)), flush=True)
    if arguments.report:
        known = {one.header["preset"]: published(one.header) for one in found}
        write_evaluation(
            found,
            arguments.report,
            data.read,
            {preset: figures for preset, figures in known.items() if figures},
            data_words(data),
            inputs,
        )
        if not arguments.json:
            print(printable(arguments.report))
    return 0


def _output(output: str | None, preset: str | None, several: bool) -> str | None:
    """Return the file of results; of several, that of a preset: results.jsonl, results.tf.jsonl."""
    if output is None or not several:
        return output
    root, ending = os.path.splitext(output)
    return f"{root}.{preset}{ending}"


# -- in words -------------------------------------------------------------------------------------


def data_words(data: LabelledPhotos) -> list[str]:
    """Return lines that say what DATA is, and what of it is not evaluated."""
    classes = count(len(data.classes), "class")
    photos = count(len(data.photos), "photo")
    lines = [
        f"{printable(data.path)}: {data.kind}, understood as {data.understood}: {classes}, {photos}"
    ]
    return lines + [f"left out: {words}" for words in data.left_out]


def result_words(results: Results, output: str | None) -> list[str]:
    """Return lines that say how often the answers are right, and how sure that is."""
    header = results.header
    name = printable(header["weights"]["name"])
    lines = [f"{name}, preset {header['preset']}, {header['input_size']} pixels"]
    asked = results.photos + len(results.skipped)
    total = header["data"]["photos"]
    sample = "" if asked == total else f", a sample of {total:,}"
    lines[0] += f": {count(results.photos, 'photo')}{sample}"
    if not results.photos:
        lines.append("  no photo could be read")
    else:
        shares = (
            ("top-1", results.top1, results.interval1),
            ("top-5", results.top5, results.interval5),
        )
        known = published(results.header)
        for i, (top, share, (low, high)) in enumerate(shares):
            line = f"  {top}  {percent(share)}  (95 % interval {percent(low)} to {percent(high)})"
            if known:
                inside = "inside" if low <= known[i] <= high else "outside"
                line += f", published {percent(known[i])}, {inside} the interval"
            lines.append(line)
        if known and not is_validation(results.header):
            lines.append(
                "  (the published figures are of ImageNet's validation photos, these are others)"
            )
    if results.skipped:
        lines.append(f"  skipped: {count(len(results.skipped), 'photo')} that could not be read")
        lines += [f"    {printable(file)}: {printable(why)}" for file, _, why in results.skipped]
    if results.answered_now:
        speed = results.answered_now / max(results.seconds, 1e-9)
        lines.append(f"  {speed:.1f} images/s")
    if output:
        again = "" if results.answered_now else " (all of them were there already)"
        lines.append(f"  {printable(output)}{again}")
    return lines


def as_json(results: Results, output: str | None = None) -> dict[str, Any]:
    """Return results as a value for JSON."""
    header = results.header
    known = published(results.header)
    speed = results.answered_now / results.seconds if results.answered_now else None
    return {
        "weights": header["weights"]["name"],
        "weights_sha256": header["weights"]["sha256"],
        "preset": header["preset"],
        "input_size": header["input_size"],
        "data": header["data"],
        "classes": len(header["classes"]),
        "photos": results.photos,
        "top1": results.top1,
        "top1_interval": results.interval1,
        "top5": results.top5,
        "top5_interval": results.interval5,
        "published": known
        and {
            "top1": known[0],
            "top1_inside": results.interval1[0] <= known[0] <= results.interval1[1],
            "top5": known[1],
            "top5_inside": results.interval5[0] <= known[1] <= results.interval5[1],
            "same_photos": is_validation(results.header),
        },
        "skipped": [{"file": file, "reason": reason} for file, _, reason in results.skipped],
        "images_per_second": speed,
        "results": output,
    }
