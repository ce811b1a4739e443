"""Evaluate a network: ask it about every photo, and collect what it answers."""

import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from tinymixnet.engine import __version__
from tinymixnet.engine.budget import budget
from tinymixnet.engine.images import Source
from tinymixnet.engine.weights import Weights, tensors_hash
from tinymixnet.errors import InputError, TinyMixNetError, printable
from tinymixnet.evaluate.data import LabelledPhotos, Photo
from tinymixnet.evaluate.progress import Progress, without_progress
from tinymixnet.evaluate.results import FORMAT, VERSION, Results, Row, collect, prediction_type
from tinymixnet.evaluate.results_file import ResultsFile, check_results_place
from tinymixnet.fast.workers import map_in_processes, usable_cores

Classify = Callable[[Source], Any]  # gives the best answers: (label, probability, number) of each


def make_header(
    weights: Weights, labels: tuple[str, ...], data: LabelledPhotos, preset: str | None
) -> dict[str, Any]:
    """Return what is evaluated, as the first line of a file of results says it.

    That line has the checksum of the photos' contents as well, which is not needed without a file.
    """
    architecture, tensors, metadata = weights
    name, parameters = metadata.chosen_preset(preset)
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"tinymixnet {__version__}",
        "weights": {
            "name": metadata.name or architecture.variant,
            "sha256": tensors_hash(tensors),
            "variant": architecture.variant,
            "source": metadata.source,
            "averages": metadata.averages,
            "mean": list(metadata.mean),
            "std": list(metadata.std),
            "epsilon": metadata.epsilon,
        },
        "preset": name,
        "preset_parameters": dict(parameters),
        "input_size": metadata.input_size,
        "data": {
            "name": os.path.basename(os.path.abspath(data.path)),
            "kind": data.kind,
            "understood": data.understood,
            "photos": len(data.photos),
            "left_out": list(data.left_out),
            "sha256": data.hash(),
        },
        "labels": list(labels),
        "classes": data.classes,
    }


def evaluate(
    classify: Classify,
    header: dict[str, Any],
    data: LabelledPhotos,
    output: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Results:
    """Ask a network about photos and return how often it is right.

    classify gives for a photo its five best answers, and can be pickled. output: a file in which
    the results grow; if it has results of the same evaluation, only the photos that are missing are
    asked about. limit: only the first so many photos, which are a fair sample of all. workers: how
    many processes (as many as there are cores that may be used); with a cluster of "local", that
    many Dask workers. cluster: the address of a Dask scheduler, or "local".

    Raises InputError for an unusable output, and TinyMixNetError where workers or the cluster fail.
    """
    progress = progress or without_progress
    wanted = data.photos[:limit]
    longest = max((len(photo.file) for photo in wanted), default=0)
    size = len(wanted) * prediction_type(longest).itemsize
    budget.check("layer_bytes", size, f"a table of names of up to {longest:,} characters")
    inputs = [data.path, data.table]
    if output is not None:
        check_results_place(output, inputs)  # before all photos are read for their checksum
        header = {**header, "data": {**header["data"], "contents_sha256": data.contents(progress)}}
    with ResultsFile(output, header, inputs) if output is not None else nullcontext() as file:
        rows = list(file.rows) if file else []
        _check_rows(output, rows, data.photos)
        rest = wanted[len(rows) :]
        start = time.perf_counter()
        answers = _answers(classify, rest, data.read, workers, cluster)
        with closing(answers):
            pairs: Iterable[Any] = zip(rest, answers, strict=True)
            if rest:
                pairs = progress(pairs, len(wanted), len(rows), "classify")
            for photo, answer in pairs:
                row = _row(photo, answer, data.path)
                rows.append(row)
                if file:
                    file.add(row)
        seconds = time.perf_counter() - start
    results = collect(header, rows[: len(wanted)])
    return results.timed(seconds if rest else 0.0, len(rest))


def _check_rows(
    output: str | os.PathLike[str] | None, rows: list[Row], photos: tuple[Photo, ...]
) -> None:
    """Raise InputError unless the rows of a file are those of the first photos."""
    if len(rows) > len(photos):
        raise InputError(f"{output}: damaged, it has more rows than there are photos")
    for number, (row, photo) in enumerate(zip(rows, photos, strict=False), start=2):
        if (row.file, row.truth) != (photo.file, photo.truth):
            raise InputError(
                f"{output}: line {number}: damaged, expected a row of {photo.file}, found "
                f"{row.file}; move it away"
            )


def _answers(
    classify: Classify,
    photos: tuple[Photo, ...],
    read: Callable[[str], Source],
    workers: int | None,
    cluster: str | None,
) -> Generator[Any, None, None]:
    """Yield the answers about photos in their order; an answer may be a TinyMixNetError."""
    if not photos:
        return
    sources = (_source(photo, read) for photo in photos)
    if cluster is not None:
        from tinymixnet.evaluate.cluster import map_on_cluster

        yield from map_on_cluster(classify, sources, cluster, workers)
    elif sys.platform == "win32":
        yield from (_answer(classify, source) for source in sources)
    else:
        yield from map_in_processes(classify, sources, workers or usable_cores())


def _source(photo: Photo, read: Callable[[str], Source]) -> Any:
    """Return what is known of a photo, or a file object that raises why it cannot be read."""
    try:
        return read(photo.file)
    except (TinyMixNetError, OSError) as error:
        return Unreadable(error)


class Unreadable:
    """Takes the place of a photo that cannot be read: reading it is that error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, _: int = -1) -> bytes:
        raise self.error


def _answer(classify: Classify, source: Source) -> Any:
    try:
        return classify(source)
    except TinyMixNetError as error:
        return error


def _row(photo: Photo, answer: Any, folder: Path) -> Row:
    """Return the row of a photo."""
    if isinstance(answer, TinyMixNetError):
        reason = _reason(str(folder / photo.file), str(answer))
        return Row(photo.file, photo.truth, skipped=reason)
    best = tuple((index, probability) for _, probability, index in answer)
    return Row(photo.file, photo.truth, best)


def _reason(name: str, message: str) -> str:
    """Return why a photo was not read without its name, which depends on where DATA lies."""
    for beginning in (f"{printable(name)}: ", "image: ", "array: "):
        message = message.removeprefix(beginning)
    return re.sub("^image [0-9]+, counted from 0: ", "", message)
