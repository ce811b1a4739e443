"""A port with fewer digits is judged by its own precision: is a layer broken, or merely coarse?"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.debug.test_diagnose import SMALL, Subject, dumped, small_model, write
from tests.support.planted import BUGS, Bug, Planted, both
from tests.support.planted_more import OtherActivation
from tests.support.planted_run import variant
from tests.support.synthetic import synthetic_image
from tinymixnet.cli import main
from tinymixnet.debug.compare import Comparison, judged
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.precision import hidden, judgements, round_output, rounded_weights
from tinymixnet.debug.rounding import Scale, step_of, to_bfloat16, to_int8_by_channel, to_steps
from tinymixnet.debug.traces import record, write_dump
from tinymixnet.engine.network import forward
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError

Layers = dict[str, np.ndarray]

PORTS = {  # planted kind of rounding: the format that it is judged by
    "float16": "float16",
    "float16 activations": "float16",
    "bfloat16 activations": "bfloat16",
    "bfloat16 weights": "bfloat16",
    "int8 activations": "int8",
    "quantized activations": "int8",
    "int8 weights": "int8",
    "int8 weights, per channel": "int8",
}
BROKEN = {  # planted bug: the layers of the early block, or its output, that are broken
    "depthwise flipped, one block": ["depthwise_conv"],
    "no beta, one block": ["expand_bn", "depthwise_bn", "project_bn"],
}


@pytest.fixture(scope="module")
def small() -> Subject:
    return Subject(SMALL, small_model(), synthetic_image(2, 64, 64, seed=4).astype(np.float32))


def run(subject: Subject, *names: str) -> Layers:
    """All layers of a port with these bugs, of which only the first may have a type of its own."""
    runs = [BUGS[name].run for name in names if BUGS[name].run is not Planted]
    planted = both(*runs) if runs else Planted
    return subject.run(Bug((), planted, dtype=BUGS[names[0]].dtype))


def judge(subject: Subject, path: Path, precision: str) -> Comparison:
    n, h, w, _ = subject.pixels.shape
    dump = open_dump(path, subject.model.architecture, n, h, w)
    return judged(subject.model, subject.pixels, dump, precision)


def beyond(comparison: Comparison) -> list[str]:
    return [row.layer for row in comparison.rows if row.status == "BEYOND"]


@pytest.mark.sweep
@pytest.mark.parametrize("mode", ["full", "blocks nchw"])
@pytest.mark.parametrize("port", PORTS)
def test_a_coarse_port_is_not_broken(small: Subject, port: str, mode: str, tmp_path: Path) -> None:
    layers = dumped(run(small, port), mode, BUGS[port])
    comparison = judge(small, write(tmp_path / "dump.npz", layers), PORTS[port])
    assert beyond(comparison) == []
    assert comparison.alike
    assert comparison.first is None
    coarse = [row for row in comparison.rows if row.status == "coarse"]
    assert len(coarse) > len(layers) / 2  # without --precision they differ
    assert all(row.explained is not None and row.explained > 0.1 for row in coarse)


@pytest.mark.sweep
@pytest.mark.parametrize("mode", ["full", "blocks"])
@pytest.mark.parametrize("bug", BROKEN)
@pytest.mark.parametrize("port", PORTS)
def test_the_broken_layer_of_a_coarse_port_is_named(
    small: Subject, port: str, bug: str, mode: str, tmp_path: Path
) -> None:
    layers = dumped(run(small, port, bug), mode, BUGS[port])
    comparison = judge(small, write(tmp_path / "dump.npz", layers), PORTS[port])
    kinds = BROKEN[bug] if mode == "full" else ["output"]
    assert beyond(comparison) == [f"blocks_3/{kind}" for kind in kinds]
    assert not comparison.alike
    assert comparison.first == beyond(comparison)[0]
    row = next(row for row in comparison.rows if row.layer == comparison.first)
    assert row.added is not None
    assert row.rounding is not None
    assert row.explained is not None
    assert row.rounding < row.added
    assert row.explained < 0.34


def test_tensors_that_are_stored_before_they_are_rounded(small: Subject) -> None:
    """As in ONNX graphs with QuantizeLinear: the next layer reads a copy with 8 bits."""
    model, layers = small.model, {}
    weights = rounded_weights(model, {}, "int8", by_channel=True)
    network, x = forward(small.pixels, model.architecture, weights, model.metadata), None
    with contextlib.suppress(StopIteration):
        while True:
            name, stored = network.send(x)
            layers[name] = stored
            x = stored if hidden(name, model) else round_output(name, stored, "int8", None, None)[0]
    shown = {name: x for name, x in layers.items() if not hidden(name, model)}
    found = judgements(model, small.pixels, shown, "int8")
    assert min(judgement.explains for judgement in found.values()) > 0.9
    assert not any(judgement.beyond for judgement in found.values())


def test_a_right_port_is_not_coarse(small: Subject, tmp_path: Path) -> None:
    comparison = judge(small, write(tmp_path / "dump.npz", small.clean), "int8")
    assert {row.status for row in comparison.rows} == {"ok"}


SCALES: dict[str, dict[str, float]] = {}  # of the layers of the last run


class Integers(Planted):
    """Every layer after the image as 8-bit integers, whose scales are kept."""

    def note(self, name: str, x: Any) -> Any:
        if name != "image":
            low, high = min(float(x.numpy().min()), 0), max(float(x.numpy().max()), 0)
            scale = (high - low) / 255
            zero_point = round(-low / scale)
            q = self.tf.clip_by_value(self.tf.round(x / scale) + zero_point, 0, 255)
            SCALES[name], x = {"scale": scale, "zero_point": zero_point}, (q - zero_point) * scale
        return super().note(name, x)


@pytest.mark.parametrize("bug", ["", *BROKEN])
def test_integers_with_their_scales_beside(small: Subject, bug: str, tmp_path: Path) -> None:
    parts = [BUGS[name].run for name in ("int8 weights, per channel", bug) if name]
    layers = small.run(Bug((), both(Integers, *parts)))
    integers = {
        name: np.round(layers[name] / it["scale"] + it["zero_point"]).astype(np.uint8)
        for name, it in SCALES.items()
    }
    path = write(tmp_path / "dump.npz", integers)
    (tmp_path / "dump.json").write_text(json.dumps({"quantization": SCALES}))
    comparison = judge(small, path, "int8")
    assert beyond(comparison) == [f"blocks_3/{kind}" for kind in BROKEN.get(bug, [])]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(small: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    model = small.model
    weights = Weights(model.architecture, dict(model.tensors), model.metadata)
    write_weights(folder / "weights.h5", weights)
    np.save(folder / "pixels.npy", small.pixels)
    record(model, small.pixels, folder / "ours")
    write(folder / "coarse.npz", run(small, "quantized activations"))
    write(folder / "broken.npz", run(small, "quantized activations", "no beta, one block"))
    names = {"weights": "weights.h5", "pixels": "pixels.npy", "ours": "ours"}
    names |= {"coarse": "coarse.npz", "broken": "broken.npz"}
    return {name: str(folder / file) for name, file in names.items()}


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize("reference", ["pixels", "ours"])
def test_command(files: dict[str, str], reference: str, capsys: Output) -> None:
    options = ["--precision", "int8", "--weights", files["weights"]]
    assert main(["compare", files[reference], files["coarse"], *options]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("none of ")
    assert "beyond int8" in first
    assert any(" coarse " in line for line in rest)
    assert main(["compare", files[reference], files["broken"], *options]) == 1
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("first layer beyond int8: blocks_3/expand_bn (adds ")
    lines = [line for line in rest if " BEYOND " in line]
    assert [line.split()[0] for line in lines] == [
        f"blocks_3/{kind}" for kind in ("expand_bn", "depthwise_bn", "project_bn")
    ]
    heading = next(line for line in rest if line.startswith("layer "))
    assert heading.split()[3:6] == ["error", "added", "rounding"]
    assert all("%" in line for line in lines)
    assert all(len(line) <= 100 for line in rest if "blocks_" in line)


def test_command_json(files: dict[str, str], capsys: Output) -> None:
    options = ["--precision", "int8", "--json", "--weights", files["weights"]]
    assert main(["compare", files["pixels"], files["broken"], *options]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "int8"
    assert found["first"] == "blocks_3/expand_bn"
    row = next(row for row in found["rows"] if row["layer"] == "blocks_3/expand_bn")
    assert row["status"] == "BEYOND"
    assert 0 < row["explained"] < 0.34
    assert 0 < row["rounding"] < row["added"]


def test_page(files: dict[str, str], tmp_path: Path, capsys: Output) -> None:
    page = tmp_path / "page.html"
    options = ["--precision", "int8", "--html", str(page), "--weights", files["weights"]]
    assert main(["compare", files["pixels"], files["broken"], *options]) == 1
    text = page.read_text("utf-8")
    assert "beyond int8" in text
    assert "rounding explains" in text


def test_an_unknown_format(files: dict[str, str], small: Subject) -> None:
    with pytest.raises(InputError, match="float16, bfloat16, int8"):
        judge(small, Path(files["coarse"]), "int4")
    assert main(["compare", files["pixels"], files["coarse"], "--precision", "int4"]) == 2


# -- what diagnose makes of it ---------------------------------------------------------------------


def slugs(subject: Subject, path: Path) -> list[str]:
    n, h, w, _ = subject.pixels.shape
    dump = open_dump(path, subject.model.architecture, n, h, w)
    found: list[str] = diagnose(subject.model, subject.pixels, dump).slugs
    return found


def gentle(tf: Any, x: Any) -> Any:
    """A swish that is a little too steep; nobody's known mistake."""
    return x * tf.sigmoid(1.05 * x)


OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "a steeper swish": gentle,
    "a scaled swish": lambda tf, x: tf.nn.silu(x) * 1.002,
    "softplus minus log 2": lambda tf, x: tf.nn.softplus(x) - 0.6931472,
}


@pytest.mark.parametrize("mode", ["full", "blocks"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_function_that_is_a_little_off_is_not_rounding(
    small: Subject, name: str, mode: str, tmp_path: Path
) -> None:
    other = variant(OtherActivation, function=OTHERS[name])
    layers = dumped(small.run(Bug((), other)), mode, Bug(()))
    assert slugs(small, write(tmp_path / "dump.npz", layers)) == ["unknown"]


@pytest.mark.sweep
@pytest.mark.parametrize("bug", ["gelu", "hard sigmoid", "no residual, one block"])
@pytest.mark.parametrize("port", ["float16", "bfloat16 activations", "int8 activations"])
def test_a_bug_in_a_coarse_port(small: Subject, port: str, bug: str, tmp_path: Path) -> None:
    path = write(tmp_path / "dump.npz", run(small, port, bug))
    assert sorted(slugs(small, path)) == sorted(["low-precision", *BUGS[bug].causes])


def test_no_warning_where_numbers_overflow(small: Subject, tmp_path: Path) -> None:
    """Neither `compare` nor `diagnose` lets NumPy complain about what a dump holds."""
    layers = dict(small.clean)
    for name in ("blocks_1/depthwise_bn", "blocks_3/expand_act", "head/pool"):
        layers[name] = layers[name].astype(np.float64) * 1e300
    layers["blocks_5/output"] = np.full_like(layers["blocks_5/output"], np.inf)
    layers["logits"] = layers["logits"] * np.float32(np.nan)
    layers["blocks_2/se_pool"] = np.full_like(layers["blocks_2/se_pool"], -3e38)
    path = write(tmp_path / "dump.npz", layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision in ("float16", "bfloat16", "int8"):
            assert not judge(small, path, precision).alike
        assert slugs(small, path) != ["none"]
        half = write(tmp_path / "half.npz", run(small, "float16", "se sums"))
        assert slugs(small, half) != ["none"]
        plain = tmp_path / "plain"
        write_dump(plain, layers.items())
        assert not judge(small, plain, "float16").alike


# -- rounding --------------------------------------------------------------------------------------


def test_rounding_to_formats() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -3.14159], np.float32)
    assert to_bfloat16(x).tolist() == [1.0, 1.0, 1.015625, -3.140625]  # ties to even
    assert to_steps(x, Scale(0.5, 3, 0, 4)).tolist() == [0.5, 0.5, 0.5, -1.5]
    kernel = np.array([[127.0, 1.27], [-64.4, 0.644]], np.float32).reshape(1, 1, 2, 2)
    assert np.allclose(to_int8_by_channel(kernel).ravel(), [127, 1.27, -64, 0.64])


def test_the_step_between_values() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-100, 100, 50_000).astype(np.float32) * np.float32(0.037)
    step = step_of(x)
    assert step is not None
    assert abs(step - 0.037) < 1e-4
    assert step_of(rng.normal(size=5000).astype(np.float32)) is None
    assert step_of(x * x * x) is None  # more values than 8 bits have
