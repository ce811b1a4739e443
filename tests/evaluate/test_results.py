"""The file of results: documented, append-only, continued where it stopped, never mixed."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_sets import Labelled, as_folders, as_npz, as_tar
from tests.support.sweep import number
from tinymixnet.engine.images import PRESETS
from tinymixnet.errors import InputError
from tinymixnet.evaluate.results import BEST, Row, collect, read_results, read_rows, write_line
from tinymixnet.evaluate.results_file import ResultsFile
from tinymixnet.evaluate.statistics import wilson
from tinymixnet.model import Model

COMMAND = [sys.executable, "-m", "tinymixnet", "evaluate"]


@pytest.fixture(scope="module")
def content(model, folder, tmp_path_factory):
    """What is in a finished file."""
    path = tmp_path_factory.mktemp("finished") / "r.jsonl"
    model.evaluate(folder, path)
    return path.read_bytes()


@pytest.fixture
def finished(content, tmp_path):
    """A finished file."""
    (tmp_path / "r.jsonl").write_bytes(content)
    return tmp_path / "r.jsonl"


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


# -- the format ------------------------------------------------------------------------------------


def test_the_file_as_documented(finished, model, photos, folder):
    header, *rows = map(json.loads, lines_of(finished))
    assert list(header) == [
        "format", "version", "made_by", "weights", "preset", "preset_parameters", "input_size",
        "data", "labels", "classes",
    ]  # fmt: skip
    assert header["format"] == "tinymixnet evaluation"
    assert header["labels"] == list(model.labels)
    assert header["data"]["photos"] == len(photos) == len(rows)
    for row in rows:
        photo = folder / row["file"]
        predictions = model.classify(photo)
        assert [index for index, _ in row["best"]] == [p.index for p in predictions]
        for (_, written), prediction in zip(row["best"], predictions, strict=True):
            assert np.float32(written) == np.float32(prediction.probability)
        assert photo.parent.name == model.metadata.wordnet_ids[row["truth"]]


def test_reading_gives_what_was_returned(finished, model, folder):
    read, returned = read_results(finished), model.evaluate(folder)
    assert np.array_equal(read.predictions, returned.predictions)
    contents = read.header["data"].pop("contents_sha256")
    assert read.header == returned.header
    assert re.fullmatch("[0-9a-f]{64}", contents)  # nobody needs it without a file
    assert (read.top1, read.top5) == (returned.top1, returned.top5)
    assert 0 < read.top1 < 1
    assert read.predictions.dtype.names == ("file", "truth", "best", "probability")
    assert read.predictions["file"].dtype.kind == "U"
    assert read.predictions["best"].shape == (24, BEST)
    assert read.predictions["probability"].dtype == np.float32
    assert repr(read).startswith("Results(tiny, omz, top-1 0.")


def test_fewer_than_five_classes_end_in_minus_one():
    header = {"weights": {"name": "x"}, "preset": "tf"}
    results = collect(header, [Row("a", 1, ((1, 0.75), (0, 0.25)))])
    assert results.predictions["best"].tolist() == [[1, 0, -1, -1, -1]]
    assert (results.top1, results.top5) == (1, 1)


def test_without_photos_nothing_is_known():
    results = collect({"weights": {"name": "x"}, "preset": "tf"}, [Row("a", 0, skipped="why")])
    assert np.isnan(results.top1)
    assert results.interval1 == (0, 1)
    assert results.skipped == (("a", 0, "why"),)


@pytest.mark.parametrize(
    ("right", "photos"), [(0, 10), (10, 10), (1, 2), (5376, 10_000), (39_423, 50_000)]
)
def test_intervals_of_wilson(right, photos):
    """Its ends are the true shares from which what was measured is 1.96 standard deviations off."""
    share = right / photos
    interval = wilson(right, photos)
    for end in interval:
        deviation = (end * (1 - end) / photos) ** 0.5
        assert abs(share - end) == pytest.approx(1.959964 * deviation, rel=1e-5, abs=1e-9)
    assert interval[0] <= share <= interval[1]


def test_the_interval_of_a_tenth():
    """As R's prop.test(1, 10, correct=FALSE) gives it."""
    assert wilson(1, 10) == pytest.approx((0.01787621, 0.40415003), abs=1e-7)


def test_the_interval_holds_the_true_share_in_95_of_100_samples():
    random = np.random.default_rng(1)
    for share, photos in ((0.5, 30), (0.9, 100), (0.02, 200)):
        counts = random.binomial(photos, share, 4000)
        inside = [low <= share <= high for low, high in (wilson(int(n), photos) for n in counts)]
        assert 0.93 < np.mean(inside) < 0.98


# -- going on --------------------------------------------------------------------------------------


def asked(model, folder, output, **options):
    """How many photos an evaluation asks about."""
    return model.evaluate(folder, output, **options).answered_now


def test_a_finished_file_is_only_read(finished, model, folder):
    before = finished.read_bytes(), finished.stat().st_mtime_ns
    assert asked(model, folder, finished) == 0
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == before


@pytest.mark.parametrize("rows", [0, 1, 7, 23])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"file": "a'])
def test_it_goes_on_after_the_last_whole_line(tmp_path, finished, model, folder, rows, torn):
    whole = finished.read_bytes()
    begun = tmp_path / "begun.jsonl"
    begun.write_bytes(b"".join(lines_of(finished)[: 1 + rows]) + torn)
    assert asked(model, folder, begun) == 24 - rows
    assert begun.read_bytes() == whole


def test_wherever_it_was_cut(tmp_path, finished, model, folder):
    whole = finished.read_bytes()
    begun = tmp_path / "begun.jsonl"
    start = len(lines_of(finished)[0])
    ends = np.cumsum([len(line) for line in lines_of(finished)])
    for cut in [0, 5, 30, start - 1, *range(len(whole) - 200, len(whole), 40)]:
        begun.write_bytes(whole[:cut])
        rows = max(int((ends <= cut).sum()) - 1, 0)
        header, read, length = read_rows(begun)
        assert (header is not None) == (cut >= start)
        assert len(read) == rows
        assert whole[:length] == b"".join(lines_of(finished)[: rows + (cut >= start)])
    asked(model, folder, begun)
    assert begun.read_bytes() == whole


def test_a_larger_limit_goes_on_from_a_smaller_one(tmp_path, finished, model, folder):
    output = tmp_path / "limited.jsonl"
    assert asked(model, folder, output, limit=5) == 5
    assert asked(model, folder, output, limit=12) == 7
    results = model.evaluate(folder, output, limit=6)
    assert (results.photos, results.answered_now) == (6, 0)
    assert asked(model, folder, output) == 12
    assert output.read_bytes() == finished.read_bytes()


def test_skipped_photos_are_rows(tmp_path, model, photos):
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "0" / "bad.jpg").write_bytes(b"no photo")
    (path / "1" / "none.png").symlink_to("nowhere")
    os.mkfifo(path / "2" / "pipe.jpg")
    output = tmp_path / "r.jsonl"
    results = model.evaluate(path, output)
    assert results.photos == len(photos)
    reasons = {skipped.file: skipped.reason for skipped in results.skipped}
    assert reasons["0/bad.jpg"].startswith("not an image we read")
    assert reasons["1/none.png"] == "no such file"
    assert "a pipe, socket or device" in reasons["2/pipe.jpg"]
    assert read_results(output).skipped == results.skipped
    assert asked(model, path, output) == 0


# -- never mixed, never overwritten ----------------------------------------------------------------


def test_results_of_something_else_are_not_continued(tmp_path, finished, model, photos, folder):
    before = finished.read_bytes()
    tensors = dict(model.tensors)
    tensors["logits/bias"] = tensors["logits/bias"] + 1
    other_weights = Model(model.architecture, tensors, model.metadata)
    other_epsilon = Model(
        model.architecture, dict(model.tensors), replace(model.metadata, epsilon=1e-5)
    )
    crop = {**PRESETS["omz"][1], "crop": 0.9}
    other_crop = Model(
        model.architecture, dict(model.tensors), replace(model.metadata, preset_parameters=crop)
    )
    names = dict(enumerate(model.metadata.wordnet_ids))
    other_data = as_folders(photos[:-1], tmp_path / "other" / "val", names)
    for words, call in {
        "weights sha256": lambda: other_weights.evaluate(folder, finished),
        "weights epsilon 0.001, now 1e-05": lambda: other_epsilon.evaluate(folder, finished),
        "preset parameters": lambda: other_crop.evaluate(folder, finished),
        "preset omz, now tf": lambda: model.evaluate(folder, finished, preset="tf"),
        "data photos 24, now 23": lambda: model.evaluate(other_data, finished),
    }.items():
        with pytest.raises(InputError, match="holds results of another evaluation") as caught:
            call()
        assert words in str(caught.value)
        assert finished.read_bytes() == before


@pytest.mark.parametrize("form", ["folder", "tar", "files in an .npz", "images in an .npz"])
def test_photos_that_were_changed_and_kept_their_size(tmp_path, model, photos, form):
    """Names, sizes and classes are the same; only the checksum of the contents tells."""
    output = tmp_path / "r.jsonl"

    def lay_out(photos):
        folder = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
        if form == "folder":
            return folder
        if form == "tar":
            return as_tar(folder, tmp_path / "val.tar")
        if form == "files in an .npz":
            return as_npz(photos, tmp_path / "val.npz")
        images = np.stack([np.asarray(Image.open(io.BytesIO(p.content))) for p in photos])
        np.savez(tmp_path / "val.npz", images=images, labels=[p.truth for p in photos])
        return tmp_path / "val.npz"

    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    one, other = (bmp(pixels) for pixels in noise)
    several = [Labelled(one, photo.truth) for photo in photos]
    model.evaluate(lay_out(several), output, limit=3)
    before = output.read_bytes()
    several[20] = Labelled(other, several[20].truth)
    data = lay_out(several)
    with pytest.raises(InputError, match=r"another evaluation: data contents sha256 .*, now "):
        model.evaluate(data, output)
    assert output.read_bytes() == before


def bmp(pixels):
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "BMP")
        return file.getvalue()


def test_the_same_data_elsewhere_goes_on(tmp_path, finished, model, photos):
    names = dict(enumerate(model.metadata.wordnet_ids))
    moved = as_folders(photos, tmp_path / "moved", names)
    assert asked(model, moved, finished) == 0


def test_another_version_is_another_evaluation(finished, model, folder):
    text = finished.read_bytes().replace(
        b'"made_by": "tinymixnet ', b'"made_by": "tinymixnet 9.', 1
    )
    finished.write_bytes(text)
    with pytest.raises(InputError, match=r"made by tinymixnet 9\..*, now tinymixnet"):
        model.evaluate(folder, finished)


@pytest.mark.parametrize("other", [b"notes\n", b"{}", b'{"format": "tinymixnet eval!', b"\0" * 99])
def test_a_file_that_is_no_results_is_kept(tmp_path, model, folder, other):
    path = tmp_path / "notes.txt"
    path.write_bytes(other)
    with pytest.raises(InputError, match="something else is there already"):
        model.evaluate(folder, path)
    assert path.read_bytes() == other
    with pytest.raises(InputError, match="not the results of an evaluation"):
        read_results(path)


def test_places_that_cannot_be_written(tmp_path, model, folder, weights):
    for place, words in {
        tmp_path / "none" / "r.jsonl": "no folder",
        tmp_path: "is a folder",
        folder: "is an input of this command",
        folder / "r.jsonl": "lies in",
        folder / "n02123159" / "r.jsonl": "lies in",
        weights: "something else is there already",
        "/dev/full": "is a device",
        f"{tmp_path}/a\0b": "null byte",
    }.items():
        with pytest.raises(InputError, match=words):
            model.evaluate(folder, place)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    with pytest.raises(InputError, match="is a symbolic link"):
        model.evaluate(folder, tmp_path / "link.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path, model, folder):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        model.evaluate(folder, tmp_path / "r.jsonl")


def test_two_evaluations_cannot_write_to_one_file(tmp_path, finished, model, folder):
    header, _, _ = read_rows(finished)
    assert header is not None
    with (
        ResultsFile(finished, header),
        pytest.raises(InputError, match="another evaluation is writing to it"),
    ):
        model.evaluate(folder, finished)
    assert asked(model, folder, finished) == 0


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "expected a photo"),
        (b"null", "expected a photo"),
        (b'{"file": "a", "truth": 0}', "either best or skipped"),
        (b'{"file": "a", "truth": 0, "skipped": ""}', "either best or skipped"),
        (b'{"file": "a", "truth": 6, "skipped": "x"}', "the number of a class"),
        (b'{"file": "a", "truth": true, "skipped": "x"}', "the number of a class"),
        (b'{"file": 1, "truth": 0, "skipped": "x"}', "expected a file"),
        (b'{"file": "a", "truth": 0, "skipped": "x", "best": []}', "either best or skipped"),
        (b'{"file": "a", "truth": 0, "best": [[0, 1.0]]}', "the 5 best classes"),
        (b'{"file": "a", "truth": 0, "best": [[0,1],[0,0],[1,0],[2,0],[3,0]]}', "the 5 best"),
        (b'{"file": "a", "truth": 0, "best": [[9,1],[0,0],[1,0],[2,0],[3,0]]}', "the 5 best"),
        (b'{"file": "a", "truth": 0, "best": [[4,2],[0,0],[1,0],[2,0],[3,0]]}', "the 5 best"),
        (b'{"file": "a", "truth": 0, "best": [[4,NaN],[0,0],[1,0],[2,0],[3,0]]}', "no number"),
        (b'{"file": "a", "file": "b", "truth": 0, "skipped": "x"}', "twice"),
        (b'{"file": "' + b"a" * 5000 + b'", "truth": 0, "skipped": "x"}', "expected a file"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_a_damaged_row_is_named_by_its_line(finished, model, folder, line, words):
    lines = lines_of(finished)
    finished.write_bytes(b"".join([*lines[:4], line + b"\n", *lines[5:]]))
    before = finished.read_bytes()
    for call in (read_results, lambda path: model.evaluate(folder, path)):
        with pytest.raises(InputError, match=r"r\.jsonl: line 5: ") as caught:
            call(finished)
        assert words in str(caught.value)
        assert str(caught.value).isprintable()
    assert finished.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"version": 1', b'"version": 2', "expected version 1 of the format, found 2"),
        (b'"version": 1', b'"version": true', "version"),
        (b'"input_size": 32', b'"input_size": "32"', "input_size: expected int"),
        (b'"labels": [', b'"labels": [1, ', "labels: expected a text"),
        (b'"classes": [', b'"classes": [6, ', "classes: expected numbers below 6"),
        (b'"photos": 24', b'"photos": null', "data: expected photos, int"),
        (b'"preset": "omz", ', b"", "preset: expected str, found None"),
    ],
)
def test_a_damaged_header(finished, old, new, words):
    content = finished.read_bytes()
    assert old in content
    finished.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match="line 1") as caught:
        read_results(finished)
    assert words in str(caught.value)


def test_rows_of_other_photos(finished, model, folder):
    lines = lines_of(finished)
    finished.write_bytes(b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    with pytest.raises(InputError, match="line 4: damaged, expected a row of"):
        model.evaluate(folder, finished)
    finished.write_bytes(b"".join([*lines, lines[-1]]))
    with pytest.raises(InputError, match="more rows than there are photos"):
        model.evaluate(folder, finished)


def test_paths_that_are_no_results(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InputError, match="no results in it"):
        read_results(tmp_path / "empty")
    for path, words in {tmp_path: "not a file", tmp_path / "none": "no such file"}.items():
        with pytest.raises(InputError, match=words):
            read_results(path)
    with pytest.raises(InputError, match="expected a path"):
        read_results(3)  # type: ignore[arg-type]


def test_mutated_results(tmp_path, content):
    """They are read with values in their ranges, or refused."""
    path = tmp_path / "r.jsonl"
    random = np.random.default_rng(4)
    refusals = []
    for _ in range(number(300, 5000)):
        mutated = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            mutated[position] = random.integers(0, 256)
        path.write_bytes(mutated[: random.integers(len(content) // 4, len(content) + 1)])
        try:
            results = read_results(path)
        except InputError as error:
            refusals.append(str(error))
        else:
            assert 0 <= results.top1 <= results.top5 <= 1
    assert len(refusals) > 50
    assert all(message.isprintable() for message in refusals)


# -- ends of all kinds -----------------------------------------------------------------------------


@pytest.fixture
def many(model, photos, tmp_path):
    """Enough photos that a command is still busy when it is stopped."""
    names = dict(enumerate(model.metadata.wordnet_ids))
    return as_folders(photos * 40, tmp_path / "many", names)


def started(weights, many, output, rows):
    """A command that has just written so many rows."""
    command = [*COMMAND, many, "--weights", weights, "-o", output, "--workers", "1"]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if output.exists() and output.read_bytes().count(b"\n") > rows:
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_it_goes_on_after_a_violent_end(tmp_path, weights, model, many, how):
    output = tmp_path / "r.jsonl"
    process = started(weights, many, output, rows=20)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in err
    rows = output.read_bytes().count(b"\n") - 1
    assert 20 <= rows < 960
    assert asked(model, many, output) == 960 - rows
    fresh = tmp_path / "fresh.jsonl"
    model.evaluate(many, fresh)
    assert output.read_bytes() == fresh.read_bytes()


def test_a_full_disk(tmp_path, weights, many, model):
    """A limit on the size of files acts as a disk that becomes full."""
    output = tmp_path / "full.jsonl"
    limit = 100_000  # bytes; the memory that the workers share counts as a file, too
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from tinymixnet.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [many, "--weights", weights, "-o", output]
    run = subprocess.run(
        [sys.executable, "-c", code, "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    [message] = run.stderr.splitlines()
    assert "full.jsonl: cannot be written (File too large)" in message
    assert "the same command goes on after them" in message
    content = output.read_bytes()
    assert limit - 1000 < len(content) <= limit
    assert content.endswith(b"\n")
    rows = content.count(b"\n") - 1
    assert f"; {rows} photos are in it" in message
    assert asked(model, many, output) == 960 - rows
    assert output.read_bytes().startswith(content)


def test_a_line_is_written_at_once(tmp_path, finished, monkeypatch):
    """So two lines never mix, and a killed process tears at most the last."""
    header, rows, _ = read_rows(finished)
    assert header is not None
    written = []
    write = os.write
    monkeypatch.setattr(
        "os.write", lambda file, line: written.append(bytes(line)) or write(file, line)
    )
    with ResultsFile(tmp_path / "new.jsonl", header) as file:
        for row in rows:
            file.add(row)
    assert written == lines_of(finished)
    assert written[0] == write_line(header)
