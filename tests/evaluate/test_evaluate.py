"""evaluate: its numbers are the engine's, whatever DATA is and however many processes work."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.support.photo_sets import (
    TINY_IMAGENET,
    as_folders,
    as_npz,
    as_tar,
    bundled_metadata,
    bundled_photos,
    tiny_imagenet,
)
from tests.test_cli import MODULE, run
from tinymixnet.engine.images import PRESETS
from tinymixnet.evaluate.imagenet import imagenet_classes, published
from tinymixnet.evaluate.results import Row, collect, read_results
from tinymixnet.evaluate.summary import as_json, result_words
from tinymixnet.model import load


def evaluate(*arguments, **environment):
    return run(MODULE, "evaluate", *map(str, arguments), **environment)


# -- numbers ---------------------------------------------------------------------------------------


def assert_as_the_engine_says(results, model, contents):
    """Equal `Model.classify`, and what the readable layers give for the same pixels."""
    for i, row in enumerate(results.predictions):
        predictions = model.classify(contents[str(row["file"])])
        assert row["best"].tolist() == [p.index for p in predictions]
        assert np.array_equal(row["probability"], np.float32([p.probability for p in predictions]))
        if i < 2:
            *_, (name, probabilities) = model.layers(model.pixels(contents[str(row["file"])]))
            assert name == "probabilities"
            expected = probabilities[0, row["best"]]
            assert np.allclose(row["probability"], expected, rtol=1e-4, atol=1e-7)


def test_the_bundled_weights_on_photos_of_the_bundled_kind(tmp_path):
    photos, model = bundled_photos(), load()
    ids = dict(enumerate(model.metadata.wordnet_ids))
    folder = as_folders(photos, tmp_path / "val", ids)
    results = model.evaluate(folder)
    contents = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.JPEG")}
    assert_as_the_engine_says(results, model, contents)
    best = [model.classify(photo.content) for photo in photos]
    truths = [photo.truth for photo in photos]
    first = [answers[0].index == t for answers, t in zip(best, truths, strict=True)]
    five = [t in [p.index for p in answers] for answers, t in zip(best, truths, strict=True)]
    assert (results.right1, results.right5) == (sum(first), sum(five))
    for other in (as_tar(folder, tmp_path / "v.tar"), as_tar(folder, tmp_path / "w.tar", "w/")):
        assert np.array_equal(model.evaluate(other).predictions, results.predictions)
    packed = model.evaluate(as_npz(photos, tmp_path / "p.npz"))
    assert (packed.right1, packed.right5) == (results.right1, results.right5)


@pytest.mark.skipif(not TINY_IMAGENET.exists() and "CI" not in os.environ, reason="no ../shared")
def test_tiny_imagenets_photos(tmp_path):
    """In folders and in an .npz: the accuracy that the weights say of themselves is theirs."""
    photos, model = tiny_imagenet(60), load()
    folder = as_folders(photos, tmp_path / "val", dict(enumerate(bundled_metadata().wordnet_ids)))
    results = model.evaluate(folder)
    contents = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.JPEG")}
    assert_as_the_engine_says(results, model, contents)
    assert results.interval1[0] < 0.5376 < results.interval1[1]
    sample = model.evaluate(TINY_IMAGENET, limit=60)
    assert sample.header["data"]["photos"] == 10_000
    assert sample.interval1[0] < 0.5376 < sample.interval1[1]
    assert len(set(sample.predictions["truth"].tolist())) == 60


def test_any_number_of_processes_gives_the_same(tmp_path, model, folder):
    files = []
    for workers in (1, 2):
        files.append(tmp_path / f"{workers}.jsonl")
        model.evaluate(folder, files[-1], workers=workers)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_weights_of_a_thousand_classes_and_of_six(tmp_path, model, photos):
    """On a set of more classes than the weights know, what both know is compared."""
    others = ["n01440764", "n01443537", "n01484850"]
    folder = as_folders(photos, tmp_path / "val", dict(enumerate(model.metadata.wordnet_ids)))
    before = model.evaluate(folder)
    for name in others:
        as_folders(photos[:2], folder, dict.fromkeys(range(6), name))
    after = model.evaluate(folder)
    assert np.array_equal(before.predictions, after.predictions)
    assert after.header["classes"] == list(range(6))
    assert after.header["data"]["left_out"] == [
        "3 classes that these weights do not know (6 photos): " + ", ".join(others)
    ]


def test_arguments_that_are_wrong(model, folder):
    for options in ({"limit": 0}, {"limit": 1.5}, {"workers": 0}, {"preset": "none"}):
        [name] = options
        with pytest.raises(ValueError, match=name):
            model.evaluate(folder, **options)


# -- the command -----------------------------------------------------------------------------------


def test_what_is_printed(tmp_path, weights, folder, model, photos):
    (tmp_path / "val").symlink_to(folder)
    code, out, err = evaluate(tmp_path / "val", "--weights", weights, "--workers", 1)
    assert (code, err) == (0, "")
    results = model.evaluate(folder)
    low, high = results.interval1
    lines = out.splitlines()
    assert lines[0] == (
        f"{tmp_path}/val: folder of class folders, understood as WordNet ids: 6 classes, 24 photos"
    )
    assert lines[1] == "tiny, preset omz, 32 pixels: 24 photos"
    assert lines[2] == (
        f"  top-1  {results.top1:.2%}  (95 % interval {low:.2%} to {high:.2%})".replace(
            "%", " %"
        ).replace("95  %", "95 %")
    )
    assert lines[3].startswith("  top-5  ")
    assert lines[4].endswith(" images/s")
    assert len(lines) == 5


def test_json(tmp_path, weights, folder, model):
    output = tmp_path / "r.jsonl"
    code, out, err = evaluate(folder, "--weights", weights, "-o", output, "--json", "--limit", 10)
    assert (code, err) == (0, "")
    printed = json.loads(out)
    results = read_results(output)
    assert printed["photos"] == 10
    assert printed["top1"] == results.top1
    assert printed["top5_interval"] == list(results.interval5)
    assert printed["published"] is None
    assert printed["skipped"] == []
    assert printed["images_per_second"] > 0
    assert printed["results"] == str(output)
    assert printed["data"]["understood"] == "WordNet ids"
    code, out, err = evaluate(folder, "--weights", weights, "-o", output, "--json", "--limit", 10)
    assert json.loads(out)["images_per_second"] is None


def test_all_presets(tmp_path, weights, folder, model):
    output = tmp_path / "r.jsonl"
    code, out, err = evaluate(folder, "--weights", weights, "-o", output, "--preset", "all")
    assert (code, err) == (0, "")
    names = ["tf", "timm", "omz", "square"]
    assert sorted(os.listdir(tmp_path)) == sorted(f"r.{name}.jsonl" for name in names)
    for name in names:
        assert f"tiny, preset {name}, 32 pixels: 24 photos" in out
        assert f"{tmp_path}/r.{name}.jsonl" in out
        results = read_results(tmp_path / f"r.{name}.jsonl")
        assert results.header["preset"] == name
        assert np.array_equal(results.predictions, model.evaluate(folder, preset=name).predictions)


def test_skipped_photos_are_listed(tmp_path, weights, photos):
    folder = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (folder / "0" / "bad\x1b[31m\n.jpg").write_bytes(b"no photo")
    code, out, err = evaluate(folder, "--weights", weights)
    assert (code, err) == (0, "")
    assert "  skipped: 1 photo that could not be read\n" in out
    assert r"    0/bad\x1b[31m\n.jpg: not an image we read" in out


def test_nothing_but_bad_photos(tmp_path, weights):
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "0" / "bad.jpg").write_bytes(b"")
    code, out, err = evaluate(tmp_path / "val", "--weights", weights)
    assert code == 2
    assert "no photo could be read" in out


def test_a_mistake_is_one_line(tmp_path, weights, folder):
    for arguments, words in {
        (tmp_path / "none",): "no such file or folder",
        (tmp_path,): "no photos in it",
        (folder, "--preset", "al"): "did you mean all?",
        (folder, "--limit", "0"): "from 1 on",
        (folder, "-o", folder / "r.jsonl"): "lies in",
        (folder, "--labels", tmp_path / "none.csv"): "no such file",
        (folder, "--dask", "nowhere"): "no Dask scheduler answers at nowhere",
    }.items():
        code, out, err = evaluate(*arguments, "--weights", weights)
        assert code == 2
        assert words in err
        assert len(err.splitlines()) == 1
    assert not list(folder.glob("*.jsonl"))


def test_standard_output_that_is_closed(tmp_path, weights, folder, model):
    """The answers are kept in the file all the same."""
    output = tmp_path / "r.jsonl"
    command = [*MODULE, "evaluate", str(folder), "--weights", str(weights), "-o", str(output)]
    line = 'exec "$@" >&-'
    closed = subprocess.run(
        ["sh", "-c", line, "sh", *command], capture_output=True, text=True, timeout=60
    )
    assert closed.returncode == 1
    assert "standard output" in closed.stderr
    assert len(closed.stderr.splitlines()) == 1
    model.evaluate(folder, output)
    assert read_results(output).photos == 24


def test_the_report(tmp_path, weights, folder):
    page = tmp_path / "page.html"
    code, out, err = evaluate(folder, "--weights", weights, "--report", page)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "understood as WordNet ids" in text
    page.write_text("mine")
    code, out, err = evaluate(folder, "--weights", weights, "--report", page)
    assert code == 2
    assert page.read_text() == "mine"


@pytest.mark.parametrize(
    ("presets", "page"), [([], "./r.jsonl"), (["--preset", "all"], "r.timm.jsonl")]
)
def test_one_path_for_the_results_and_the_page(tmp_path, weights, folder, presets, page):
    """It is refused before a photo is asked about."""
    output = tmp_path / "r.jsonl"
    page = f"{tmp_path}/{page}"
    arguments = [folder, "--weights", weights, "-o", output, *presets, "--report", page]
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert err == f"tinymixnet: {page}: is named for the results and for the page\n"
    assert not list(tmp_path.iterdir())


def test_all_files_of_results_are_looked_at_first(tmp_path, weights, folder):
    (tmp_path / "r.timm.jsonl").write_text("mine")
    output = tmp_path / "r.jsonl"
    code, _, err = evaluate(folder, "--weights", weights, "-o", output, "--preset", "all")
    assert code == 2
    assert "r.timm.jsonl: something else is there already" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_progress_is_for_people(tmp_path, weights, folder):
    """On a terminal tqdm draws a bar on standard error; elsewhere nothing is drawn."""
    pytest.importorskip("tqdm")
    script = (
        "import fcntl, os, pty, struct, sys, termios\n"
        "pid, terminal = pty.fork()\n"
        "if not pid: os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        "fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))\n"
        "text = b''\n"
        "try:\n"
        "    while part := os.read(terminal, 4096): text += part\n"
        "except OSError: pass\n"
        "print(text.decode(), os.waitpid(pid, 0)[1])\n"
    )
    output = ["-o", str(tmp_path / "results.jsonl")]
    command = [*MODULE[1:], "evaluate", str(folder), "--weights", str(weights), *output]
    shown = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=60
    )
    for doing in ("checksum", "classify"):
        assert re.search(rf"{doing}: 100%.* 24/24 ", shown.stdout)
    assert shown.stdout.rstrip().endswith(" 0")


def test_classify_takes_folders(tmp_path, weights, folder):
    """It names the photos in them, and in folders in them, in order."""
    (tmp_path / "empty").mkdir()
    code, out, err = run(MODULE, "classify", folder, tmp_path / "empty", "--weights", weights)
    names = [line for line in out.splitlines() if not line.startswith(" ")]
    assert names == [str(path) for path in sorted(folder.rglob("*.JPEG"))]
    assert code == 2
    assert "empty: cannot be read: it is a folder" in err
    assert len(err.splitlines()) == 1


# -- published figures -----------------------------------------------------------------------------


def official(**changes):
    header = {
        "weights": {
            "name": "mixnet-l", "sha256": "", "variant": "mixnet-l", "source": "mixnet-l.tar.gz",
            "averages": True,
        },
        "preset": "tf",
        "preset_parameters": {"crop": 224 / 256},
        "input_size": 224,
        "labels": [c.label for c in imagenet_classes()],
        "classes": list(range(1000)),
        "data": {"name": "val", "kind": "", "understood": "", "photos": 50_000, "sha256": ""},
    }  # fmt: skip
    return {**header, **changes}


def test_the_published_figures():
    assert published(official()) == (0.78846, 0.94212)
    for preset, figures in {"omz": (0.7830, 0.9391), "timm": (0.78774, 0.94000)}.items():
        header = official(preset=preset, preset_parameters=PRESETS[preset][1])
        assert published(header) == figures
    weights = official()["weights"]
    for other in (
        official(input_size=256),
        official(preset="square", preset_parameters={"crop": 1.0}),
        official(preset_parameters={"crop": 0.5}),
        official(labels=["a"] * 200),
        official(weights={**weights, "source": "mine.tar.gz"}),
        official(weights={**weights, "source": "mixnet-m.tar.gz"}),
        official(weights={**weights, "source": "mixnet_l-5a9a2ed8.pth"}),  # timm's own training
        official(weights={**weights, "averages": False}),
    ):
        assert published(other) is None
    converted = {**weights, "source": "tf_mixnet_l-6c92e0c8.pth"}
    assert published(official(weights=converted)) == (0.78846, 0.94212)


def photos_of(right, wrong):
    answers = tuple((i, 0.2) for i in range(5))
    return [Row(f"{i}", 0 if i < right else 7, answers) for i in range(right + wrong)]


@pytest.mark.parametrize(("right", "words"), [(788, "inside"), (700, "outside")])
def test_words_on_the_published_figures(right, words):
    results = collect(official(), photos_of(right, 1000 - right))
    text = "\n".join(result_words(results, None))
    assert f"published 78.85 %, {words} the interval" in text
    assert "1,000 photos, a sample of 50,000" in text
    assert "these are others" not in text
    assert as_json(results)["published"]["top1_inside"] == (words == "inside")
    data = {**official()["data"], "photos": 1000}
    text = "\n".join(result_words(collect(official(data=data), photos_of(right, 10)), None))
    assert "of ImageNet's validation photos, these are others" in text
