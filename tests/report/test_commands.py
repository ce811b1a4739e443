"""The commands: `report` with its sizes and its JSON, and the page of `compare --html`."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.report.pages import Page
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model
from tinymixnet.cli import main
from tinymixnet.debug.traces import record
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights

FIRST = "blocks_0/depthwise_bn"  # past the tolerance; the difference before it is smaller


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A photo, weights that prefer 64 px, and a trace of ours and of a port with a mistake."""
    folder = tmp_path_factory.mktemp("commands")
    metadata = Metadata(input_size=64)
    tensors = synthetic_tensors(TINY)
    write_weights(folder / "tiny.h5", Weights(TINY, tensors, metadata))
    photo = folder / "photo.png"
    Image.fromarray(synthetic_image(1, 300, 260)[0]).save(photo)
    model = Model(TINY, tensors, metadata)
    wrong = Model(TINY, tensors, Metadata(input_size=64, epsilon=1e-5))
    record(model, model.pixels(photo), folder / "ours", image_name="photo.png")
    record(wrong, model.pixels(photo), folder / "theirs")
    layers = {name.replace("/", "."): x for name, x in wrong.layers(model.pixels(photo))}
    np.savez(folder / "foreign.npz", **layers)
    large = Model(TINY, tensors, Metadata(input_size=96))
    record(large, large.pixels(photo), folder / "large")
    return SimpleNamespace(
        photo=str(photo),
        page=str(folder / "page.html"),
        weights=["--weights", str(folder / "tiny.h5")],
        **{name: str(folder / name) for name in ("ours", "theirs", "foreign.npz", "large")},
    )


def as_object(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) in (0, 1)
    out, _ = capsys.readouterr()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(out, parse_constant=refuse)


@pytest.mark.parametrize(
    ("arguments", "size"), [([], 224), (["--size", "96"], 96), (["--size", "32"], 32)]
)
def test_the_size_of_the_input(files, capsys, arguments: list[str], size: int) -> None:
    data = as_object(capsys, "report", files.photo, *files.weights, *arguments)
    assert data["input"] == [size, size]
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert layers["image"]["shape"] == [size, size, 3]
    assert layers["head/conv"]["shape"] == [size // 8, size // 8, 16]


@pytest.mark.parametrize("size", ["0", "31", "1025", "-1", "x", "9" * 5000, "1e2", "٢٢٤"])
def test_a_size_of_no_use(files, capsys, size: str) -> None:
    capsys.readouterr()
    argv = ["report", files.photo, *files.weights, "--json", f"--size={size}"]
    code = 0 if size == "٢٢٤" else 2  # digits, if of another script
    assert main(argv) == code
    assert len(capsys.readouterr().err.splitlines()) == (code == 2)


@pytest.mark.parametrize(("name", "size"), [("theirs", 64), ("foreign.npz", 64), ("large", 96)])
def test_a_dump_decides_the_size(files, capsys, name: str, size: int) -> None:
    data = as_object(capsys, "report", files.photo, getattr(files, name), *files.weights)
    assert data["input"] == [size, size]
    assert data["comparison"]["alike"] == (name == "large")


def test_the_answers_are_those_at_the_size_of_the_weights(files, capsys, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    main(["classify", files.photo, *files.weights, "--json"])
    expected = json.loads(capsys.readouterr().out)["predictions"]
    for size in ("64", "96"):
        argv = ["report", files.photo, *files.weights, "-o", str(page), "--size", size]
        data = as_object(capsys, *argv)
        assert data["answers_input"] == [64, 64]
        assert [a["label"] for a in data["answers"]] == [p["label"] for p in expected]
        ours = [answer["ours"] for answer in data["answers"]]
        assert ours == pytest.approx([p["probability"] for p in expected], abs=1e-4)
        text = page.read_text("utf-8")
        assert ("The answers are those at 64 × 64 pixels" in text) == (size == "96")
        assert f'<h2 id="network">The network at {size} × {size} pixels</h2>' in text


def test_json_holds_what_the_page_shows(files, capsys, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    argv = ["report", files.photo, files.theirs, *files.weights, "-o", str(page)]
    data = as_object(capsys, *argv)
    text = page.read_text("utf-8")
    [cause] = data["comparison"]["causes"]
    first = data["comparison"]["first"]
    assert (cause["slug"], cause["place"], first) == ("bn-epsilon", "stem/bn", FIRST)
    assert f"<title>bn-epsilon: theirs first differs at {first}</title>" in text
    shown = re.findall('<section class="card" id="(.*?)"', text)
    assert [layer["name"] for layer in data["layers"]] == shown
    assert re.findall("<dt>(.*?)</dt><dd><span class=.meter ours", text)[:5] == [
        answer["label"] for answer in data["answers"]
    ]
    for answer in data["answers"]:
        assert f"<b>{answer['ours']:.2%} ours</b>" in text
        assert f"<b>{answer['theirs']:.2%} theirs</b>" in text
    layer = next(layer for layer in data["layers"] if layer["name"] == "stem/conv")
    assert layer["error"] == 0
    assert layer["snr"] is None  # infinite
    assert layer["ours"] == layer["theirs"]
    assert set(layer["ours"]) == {"min", "max", "mean", "std", "zeros"}
    page.unlink()
    assert as_object(capsys, *argv[:-2])["layers"][0]["shape"] == [64, 64, 3]
    assert not page.exists()


def test_the_explanation_opens_the_page_of_a_photo(files, capsys, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    argv = ["report", files.photo, *files.weights, "--size", "96", "-o", str(page)]
    data = as_object(capsys, *argv)
    text = page.read_text("utf-8").split("<main>")[1]
    assert text.startswith('<section class="why"')
    best, label = data["answers"][0], data["explanation"]["labels"][0]
    assert (best["label"], best["number"]) == (label["label"], label["index"])
    assert best["ours"] == pytest.approx(label["probability"], abs=1e-4)
    for pixels in (synthetic_image(2, 64, 64), synthetic_image(1, 64, 64)):
        np.save(tmp_path / "pixels.npy", pixels)
        argv = ["report", str(tmp_path / "pixels.npy"), *files.weights]
        assert ("explanation" in as_object(capsys, *argv)) == (len(pixels) == 1)
    argv = ["report", files.photo, files.theirs, *files.weights]
    assert "explanation" not in as_object(capsys, *argv)


def test_a_report_goes_somewhere(files, capsys) -> None:
    capsys.readouterr()
    assert main(["report", files.photo, *files.weights]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "-o FILE.html" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("reference", ["photo", "ours"])
@pytest.mark.parametrize("isolated", [[], ["--isolated"]])
def test_compare_writes_the_same_page(
    files, capsys, tmp_path: Path, reference: str, isolated: list[str]
) -> None:
    page, report = tmp_path / "page.html", tmp_path / "report.html"
    given = [getattr(files, reference), files.theirs, *files.weights, *isolated]
    assert main(["compare", *given, "--html", str(page)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"first difference: {FIRST}")
    text = page.read_text("utf-8")
    Page(text)
    assert f"<title>bn-epsilon: theirs first differs at {FIRST}</title>" in text
    assert ("of which" in text) == bool(isolated)
    assert main(["report", files.photo, files.theirs, *files.weights, "-o", str(report)]) == 0
    if not isolated:
        texts = [text, report.read_text("utf-8")]
        tops = [t.split("</details>", 1)[1].split('id="network"')[0] for t in texts]
        assert tops[0] == tops[1]
