"""What `compare` warns of is in the diagnosis too, as text and JSON, and on the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymixnet
from tinymixnet.cli import main
from tinymixnet.debug.compare import compare
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import Dump, open_dump
from tinymixnet.debug.manifest import manifest_of
from tinymixnet.debug.traces import record, write_dump
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.errors import InputError
from tinymixnet.model import Model, load

CAT = str(Path(tinymixnet.__file__).parent / "data" / "cat.jpg")
Output = pytest.CaptureFixture[str]
Layers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(BUNDLED)


@pytest.fixture(scope="module")
def pixels(model: Model) -> np.ndarray:
    return model.pixels(CAT)


@pytest.fixture(scope="module")
def layers(model: Model, pixels: np.ndarray) -> Layers:
    return dict(model.layers(pixels))


def strange(layers: Layers) -> Layers:
    """A dump with one tensor under two names, one of zeros, and one mistake."""
    other = dict(layers)
    other["blocks_3/expand_bn"] = layers["blocks_3/expand_act"]
    other["blocks_5/se_pool"] = np.zeros_like(layers["blocks_5/se_pool"])
    other["logits"] = layers["logits"] * 2
    return other


def written(path: Path, layers: Layers, model: Model, pixels: np.ndarray) -> Dump:
    write_dump(path, layers.items())
    return open_dump(path, model.architecture, *pixels.shape[:3])


def test_warnings_in_the_diagnosis(
    tmp_path: Path, model: Model, pixels: np.ndarray, layers: Layers
) -> None:
    dump = written(tmp_path / "dump", strange(layers), model, pixels)
    found = diagnose(model, pixels, dump)
    expected = compare(model.layers(pixels), dump).warnings
    assert list(found.warnings) == expected
    assert any("under several names" in warning for warning in expected)
    assert any("all zeros" in warning for warning in expected)
    assert found.as_json()["warnings"] == expected
    lines = found.text().splitlines()
    assert lines[0].startswith("cause: ")
    assert [line for line in lines if line.startswith("warning: ")] == [
        f"warning: {warning}" for warning in expected
    ]


def test_warnings_of_the_commands_and_on_both_pages(
    tmp_path: Path, model: Model, pixels: np.ndarray, layers: Layers, capsys: Output
) -> None:
    path, page = str(tmp_path / "dump"), tmp_path / "page.html"
    written(tmp_path / "dump", strange(layers), model, pixels)
    options = ["--weights", str(BUNDLED)]
    main(["diagnose", CAT, path, *options])
    told = capsys.readouterr().out
    main(["diagnose", CAT, path, "--json", *options])
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert warnings
    assert all(f"\nwarning: {warning}\n" in told for warning in warnings)
    for command in (
        ["report", CAT, path, "-o", str(page), "--size", "128"],
        ["compare", CAT, path, "--html", str(page)],
    ):
        main([*command, *options])
        shown = page.read_text("utf-8").partition('<div class="warnings">')[2].split("</div>")[0]
        assert all(f"<li>{warning}</li>" in shown for warning in warnings)


def test_a_right_port_has_no_warnings(
    tmp_path: Path, model: Model, pixels: np.ndarray, layers: Layers, capsys: Output
) -> None:
    dump = written(tmp_path / "dump", layers, model, pixels)
    found = diagnose(model, pixels, dump)
    assert found.warnings == ()
    assert "warning" not in found.text()
    page = tmp_path / "page.html"
    main(["compare", CAT, str(tmp_path / "dump"), "--html", str(page), "--weights", str(BUNDLED)])
    assert 'class="warnings"' not in page.read_text("utf-8")


def test_other_pixels_and_weights(
    tmp_path: Path, model: Model, pixels: np.ndarray, capsys: Output
) -> None:
    """Of a trace of ours, and of an exercise."""
    options = ["--weights", str(BUNDLED)]
    record(model, pixels[:, ::-1], tmp_path / "ours", image_name="other.jpg")
    main(["diagnose", CAT, str(tmp_path / "ours"), *options])
    assert "warning: the two are not of the same pixels (cat.jpg" in capsys.readouterr().out
    puzzle = str(tmp_path / "puzzle")
    main(["break", "-o", puzzle, "--secret", "1", *options])
    capsys.readouterr()
    coffee = str(Path(CAT).parent / "coffee.jpg")
    for command in ("diagnose", "compare"):
        for photo in (CAT, coffee):
            main([command, photo, puzzle, *options])
            warned = "warning: this exercise was made from other pixels, of cat.jpg"
            assert (warned in capsys.readouterr().out) == (photo == coffee)


def test_only_another_number_of_classes(tmp_path: Path, model: Model, pixels: np.ndarray) -> None:
    """Nothing can be compared as it is, and yet there is a diagnosis."""
    logits = np.concatenate([np.zeros((1, 1), np.float32), model(pixels)], axis=1)
    dump = written(tmp_path / "dump", {"logits": logits}, model, pixels)
    found = diagnose(model, pixels, dump)
    assert (found.slugs, found.warnings) == (["label-offset"], ())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"progress": np.zeros(3)}, "progress: expected a bool, found ndarray"),
        ({"progress": None}, "progress: expected a bool, found NoneType"),
        ({"reference_manifest": {}}, "reference_manifest: expected a Manifest, found dict"),
    ],
)
def test_wrong_arguments(
    changed: dict[str, Any],
    message: str,
    tmp_path: Path,
    model: Model,
    pixels: np.ndarray,
    layers: Layers,
) -> None:
    dump = written(tmp_path / "dump", {"logits": layers["logits"]}, model, pixels)
    with pytest.raises(InputError, match=message):
        diagnose(model, pixels, dump, **changed)
    assert diagnose(
        model, pixels, dump, progress=True, reference_manifest=manifest_of(model, pixels)
    ).alike


# -- no RuntimeWarning ----------------------------------------------------------------------------


def huge(layers: Layers) -> Layers:
    """Values near the end of float32, beyond it, of float64, infinite and NaN."""
    other: Layers = dict(layers)
    factors = {"stem/bn": 1e35, "blocks_4/output": 1e300, "blocks_6/output": 1e40, "logits": 1e308}
    for name, factor in factors.items():
        with np.errstate(over="ignore"):
            other[name] = layers[name].astype(np.float64) * factor
    other["stem/bn"] = other["stem/bn"].astype(np.float32)
    other["head/act"] = np.full_like(layers["head/act"], np.inf)
    other["head/pool"] = np.full_like(layers["head/pool"], np.nan)
    return other


@pytest.mark.sweep
@pytest.mark.parametrize(
    "command",
    [
        "diagnose CAT DUMP",
        "compare CAT DUMP",
        "compare CAT DUMP --isolated",
        "compare CAT DUMP --precision float16",
        "compare CAT DUMP --precision int8",
        "report CAT DUMP -o PAGE --size 128",
    ],
)
@pytest.mark.parametrize("names", ["ours", "numbers"])
def test_no_runtime_warning(
    command: str, names: str, tmp_path: Path, model: Model, pixels: np.ndarray, layers: Layers
) -> None:
    """A warning would be an error here: in a process of its own, as nothing may hide it."""
    every = huge(layers)
    if names == "numbers":
        every = {str(number): x for number, x in enumerate(every.values())}
    write_dump(tmp_path / "dump", every.items())
    places = {"CAT": CAT, "DUMP": str(tmp_path / "dump"), "PAGE": str(tmp_path / "page.html")}
    words = [places.get(word, word) for word in command.split()]
    run = [sys.executable, "-W", "error", "-m", "tinymixnet", *words, "--weights", str(BUNDLED)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    if command.startswith("diagnose") and names == "numbers":
        # Their answer is ours. So nothing is wrong, whatever stands before it without a name.
        assert done.stdout.startswith("cause: none\n")
        assert "warning: NaN or infinity in OTHER" in done.stdout
        assert done.returncode == 0
    else:
        assert done.returncode == (0 if command.startswith("report") else 1)
