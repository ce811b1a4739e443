"""The command `evaluate`. It stands above all rooms but the command line: its page is a report.

It imports what it needs when it runs, so that `classify` starts quickly.
"""

import argparse
import os
from typing import Any

from tinymixnet.debug.commands import positive
from tinymixnet.debug.strict_json import write_json
from tinymixnet.engine.images import PRESETS
from tinymixnet.errors import InputError, printable
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
        exit_codes={2: "failed, also if not one photo could be read; standard error says why"},
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
    from tinymixnet.evaluate.data import open_data
    from tinymixnet.evaluate.imagenet import published
    from tinymixnet.evaluate.progress import with_progress
    from tinymixnet.evaluate.results_file import check_results_place
    from tinymixnet.evaluate.summary import as_json, data_words, result_words

    inputs = [arguments.data, arguments.labels, arguments.weights]
    presets = list(PRESETS) if arguments.preset == ALL else [arguments.preset]
    output_of = {preset: _output(arguments.output, preset, len(presets) > 1) for preset in presets}
    outputs = [output for output in output_of.values() if output is not None]
    for output in outputs:  # all of them before the first photo
        check_results_place(output, inputs)
    if arguments.report:
        from tinymixnet.report.evaluation import check_evaluation_page, write_evaluation

        inputs += outputs
        check_evaluation_page(arguments.report, inputs)
        if os.path.realpath(arguments.report) in map(os.path.realpath, outputs):
            raise InputError(f"{arguments.report}: is named for the results and for the page")
    model = load(arguments.weights)
    data = open_data(arguments.data, model.metadata, model.labels, arguments.labels)
    if not arguments.json:
        print("\n".join(data_words(data)), flush=True)
    # The weights' own first: the page shows the first in detail.
    presets.sort(key=lambda name: name != model.metadata.preset)
    found = []
    for preset in presets:
        results = model.evaluate(
            data,
            output_of[preset],
            preset,
            arguments.limit,
            arguments.workers,
            cluster=arguments.dask,
            progress=with_progress,
        )
        found.append(results)
        if arguments.json:
            print(write_json(as_json(results, output_of[preset])), flush=True)
        else:
            print("\n".join(result_words(results, output_of[preset])), flush=True)
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
    return 0 if all(results.photos for results in found) else 2


def _output(output: str | None, preset: str | None, several: bool) -> str | None:
    """Return the file of results; of several, that of a preset: results.jsonl, results.tf.jsonl."""
    if output is None or not several:
        return output
    root, ending = os.path.splitext(output)
    return f"{root}.{preset}{ending}"
