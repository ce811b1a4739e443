"""Tensors are paired with layers by value: names are numbers here, and the order says little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.debug.test_diagnose import (
    EVERY,
    PHOTO,
    SMALL,
    Layers,
    Subject,
    dumped,
    only_blocks,
    small_model,
    write,
)
from tests.support.planted import CORRECT, ONE_OF_EACH_CAUSE, UNKNOWN, Bug, SmallEpsilon
from tests.support.planted_more import Skipped
from tests.support.shared import SHARED
from tests.support.synthetic import synthetic_image
from tinymixnet.cli import main
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.pairing import pair, stored_tensors
from tinymixnet.debug.single_layer import compute, steps
from tinymixnet.debug.walk import Walk
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights

PORTS = ("pytorch_separate_bn_and_act", "onnx_new_exporter", "openvino_graph_order")


@pytest.fixture(scope="module")
def small() -> Subject:
    return Subject(SMALL, small_model(), synthetic_image(2, 64, 64, seed=4).astype(np.float32))


@pytest.fixture(scope="module")
def small_photo() -> Subject:
    model = small_model()
    return Subject(SMALL, model, model.pixels(PHOTO), PHOTO)


def shuffled(names: list[str], layers: Layers) -> list[str]:
    """Exchange the places of layers that have one shape."""
    rng = np.random.default_rng(1)
    places: dict[tuple[int, ...], list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(layers[name].shape, []).append(i)
    result = list(names)
    for same in places.values():
        for i, j in zip(same, rng.permutation(same), strict=True):
            result[i] = names[int(j)]
    return result


def nameless(layers: Layers, how: str) -> tuple[Layers, dict[str, str]]:
    """Return layers with numbers for names, and what each number is."""
    names = shuffled(list(layers), layers) if how == "shuffled" else list(layers)
    truth = {f"t{i:04}": name for i, name in enumerate(names)}
    return {number: layers[name] for number, name in truth.items()}, truth


def diagnosed(subject: Subject, layers: Layers, folder: Path, bug: Bug | None = None) -> Any:
    path = write(folder / "dump.npz", layers)
    return subject.diagnose(path, raw=subject.raw if bug and bug.raw else None)


def command_line(subject: Subject, layers: Layers, folder: Path) -> list[str]:
    """Write what a command reads: pixels, a dump of these layers, weights; return its arguments."""
    model, weights = subject.model, str(folder / "weights.h5")
    write_weights(weights, Weights(model.architecture, dict(model.tensors), model.metadata))
    np.save(folder / "pixels.npy", subject.pixels)
    dump = str(write(folder / "dump.npz", layers))
    return [str(folder / "pixels.npy"), dump, "--weights", weights]


def test_one_layer_at_a_time_is_the_same_as_all_of_them(small: Subject) -> None:
    model = small.model
    layers = dict(model.layers(small.pixels))
    order = steps(model.architecture)
    assert [step.layer for step in order] == list(layers)
    for step in order[1:]:
        inputs = [layers[name] for name in step.inputs]
        found = compute(step, inputs, model.tensors, model.metadata)
        assert np.array_equal(found, layers[step.layer]), step.layer
        if step.pixelwise and found.ndim == 4 and found.shape[1] > 1:  # also on some pixels alone
            some = [x[:, :1, :3] if x.shape[1] > 1 else x for x in inputs]
            part = compute(step, some, model.tensors, model.metadata)
            np.testing.assert_allclose(part, found[:, :1, :3], rtol=1e-4, atol=1e-4)


# -- right ports -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in order", "shuffled"])
@pytest.mark.parametrize("mode", ["full", "nchw", "blocks"])
@pytest.mark.parametrize("name", CORRECT)
def test_a_right_port_is_right(
    small: Subject, name: str, mode: str, how: str, tmp_path: Path
) -> None:
    layers = dumped(small.run(CORRECT[name]), mode, CORRECT[name])
    layers, truth = nameless(layers, how)
    found = diagnosed(small, layers, tmp_path)
    assert found.slugs == ["none"]
    assert not found.evidence.doubtful
    first, second = found.text().splitlines()[:2]
    assert first == "cause: none"
    assert second.startswith(f"compared {found.layers} layers: ")
    assert found.layers >= len(truth) - 1  # ports keep the image in different forms


@pytest.mark.parametrize("how", ["in order", "shuffled"])
def test_every_tensor_finds_its_layer(small: Subject, how: str, tmp_path: Path) -> None:
    layers, truth = nameless(small.clean, how)
    path = write(tmp_path / "dump.npz", layers)
    n, h, w, _ = small.pixels.shape
    dump = pair(small.model, small.pixels, open_dump(path, small.model.architecture, n, h, w))
    for layer, stored in dump.theirs.items():
        assert np.array_equal(layers[stored], small.clean[layer]), (layer, truth[stored])
    assert set(dump.theirs) == set(small.clean)
    assert {p.found for p in dump.pairs} == {"value"}
    assert max(p.error for p in dump.pairs if p.error is not None) < 1e-5


@pytest.fixture(scope="module")
def shared_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not (SHARED / "ports").is_dir():
        pytest.skip("needs ../shared/ports")
    path = tmp_path_factory.mktemp("weights") / "weights.h5"
    source = SHARED / "weights" / "mixnet-l-tiny-imagenet.safetensors"
    command = [sys.executable, "-m", "weights_tools", "convert", str(source), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


@pytest.mark.sweep
@pytest.mark.parametrize("how", ["as it is", "numbers", "shuffled"])
@pytest.mark.parametrize("port", PORTS)
def test_other_peoples_ports_are_right(
    port: str, how: str, shared_weights: str, tmp_path: Path
) -> None:
    """Their README says that all three are; names may say what they like."""
    path = SHARED / "ports" / f"{port}.npz"
    if how != "as it is":
        with np.load(path) as stored:
            names = [name for name in stored.files if name != "manifest.json"]
            layers, _ = nameless({name: stored[name] for name in names}, how)
        path = write(tmp_path / "dump.npz", layers)
    pixels = str(SHARED / "ports" / "pixels.npy")
    assert main(["diagnose", pixels, str(path), "--weights", shared_weights]) == 0


# -- wrong ports -----------------------------------------------------------------------------------


# What may be unknown without names: cause -> in which dumps. With the weights of another training,
# no layer is like any of ours.
UNDECIDED = {"other-weights": ("shuffled",)}


# Of dumps that hold nothing but the blocks' outputs, and for some mistakes the answer, each mistake
# comes in one kind, in turns: all four take too long.
BLOCKS = ("blocks, in order", "blocks nchw, shuffled", "blocks, shuffled", "blocks nchw, in order")
IN_BLOCKS = {name: BLOCKS[number % len(BLOCKS)] for number, name in enumerate(EVERY)}


@pytest.mark.sweep(name=ONE_OF_EACH_CAUSE)
@pytest.mark.parametrize("how", ["in order", "shuffled", "blocks"])
@pytest.mark.parametrize("name", EVERY)
def test_a_mistake_is_found_without_names(
    request: pytest.FixtureRequest, name: str, how: str, tmp_path: Path
) -> None:
    bug = EVERY[name]
    mode, _, order = (IN_BLOCKS[name] if how == "blocks" else f"full, {how}").partition(", ")
    subject = request.getfixturevalue("small_photo" if bug.resize else "small")
    layers, _ = nameless(dumped(subject.planted(name), mode, bug), order)
    found = diagnosed(subject, layers, tmp_path, bug).slugs
    causes = list((how == "blocks" and bug.blocks) or bug.causes)
    if any(how in UNDECIDED.get(cause, ()) for cause in causes):
        assert "unknown" in found
        assert set(found) <= {*causes, "unknown"}
    elif how == "blocks":  # two may first show in the same block: then in either order
        assert sorted(found) == sorted(causes)
    else:
        assert found == causes


# Many ports do not show every layer. Hooks on modules miss activations that are functions.
SHOWN = {
    "convolutions": ("conv", "se_reduce", "se_expand", "logits"),
    "modules": ("bn", "se_reduce", "se_expand", "output", "logits"),
}

FLAX = {
    "expand_bn": "BatchNorm_0",
    "depthwise_bn": "BatchNorm_1",
    "project_bn": "BatchNorm_2",
    "se_reduce": "Conv_4",
    "se_expand": "Conv_5",
    "output": "__call__",
    "logits": "Dense_0",
}


def without_names(layers: Layers, shown: str) -> Layers:
    return nameless({n: x for n, x in layers.items() if n.endswith(SHOWN[shown])}, "in order")[0]


def test_a_layer_is_not_taken_for_the_next_one(small: Subject, tmp_path: Path) -> None:
    """With another activation before it, se_reduce is as far from itself as from se_act."""
    layers = without_names(small.planted("gelu"), "convolutions")
    assert diagnosed(small, layers, tmp_path).slugs == ["gelu"]


def test_squeeze_and_excite_of_another_tensor_is_no_missing_activation(tmp_path: Path) -> None:
    """Without the activation it would fit, too. But the product with the gate would not."""
    one = Subject(SMALL, small_model(), synthetic_image(1, 64, 64, seed=4).astype(np.float32))
    layers = {
        name.replace("blocks", "MBConv").replace(kind, FLAX[kind]): x
        for name, x in one.run(EVERY["se reads depthwise_bn"]).items()
        if (kind := name.split("/")[-1]) in FLAX
    }
    assert diagnosed(one, layers, tmp_path).slugs == ["se-input"]


def test_a_skipped_block_is_no_missing_shortcut(small: Subject, tmp_path: Path) -> None:
    """Its output is one more tensor that is what its input is, and no branch of the block."""

    class LastSkipped(Skipped, SmallEpsilon):
        def plant(self) -> None:
            super().plant()
            self.early = "blocks_6/"

    layers = without_names(small.run(Bug((), LastSkipped)), "modules")
    *_, block_5, block_6, _, _ = layers
    assert np.array_equal(layers[block_5], layers[block_6])
    dump = open_dump(write(tmp_path / "dump.npz", layers), small.model.architecture, 2, 64, 64)
    stored = stored_tensors(small.model, small.pixels, dump)
    names = {block_6: "blocks_6/project_bn"}  # as the order may suggest
    best = Walk(small.model, small.pixels, stored, dump.expected, names, {}).run()
    pairs = {h.layer: h.option for h in best.chain()}
    assert pairs["blocks_6/project_bn"] is None


def test_what_looks_like_the_image_is_not_taken_for_it(tmp_path: Path) -> None:
    """A port of 8 bits that normalizes itself has the normalized image as 0..255, too."""
    model = small_model()
    one = Subject(SMALL, model, synthetic_image(1, 64, 64, seed=4).astype(np.float32))
    layers = dict(one.clean)
    del layers["image"]
    x = layers["normalize"]
    coarse = np.round((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)
    numbered, _ = nameless({"coarse": coarse, **layers}, "in order")
    dump = open_dump(write(tmp_path / "dump.npz", numbered), model.architecture, 1, 64, 64)
    pairs = {p.name: p.layer for p in pair(model, one.pixels, dump).pairs}
    assert pairs["t0001"] == "normalize"
    assert "image" not in pairs.values()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_is_so_without_names(small: Subject, name: str, tmp_path: Path) -> None:
    pattern, run = UNKNOWN[name]
    layers, _ = nameless(small.run(Bug((), run)), "shuffled")
    found = diagnosed(small, layers, tmp_path)
    assert found.slugs == ["unknown"]
    assert pattern in found.text()
    # pools and products do not see every pattern, but nothing outside the early block is blamed
    assert {place.split("/")[0] for place in found.causes[0].places} == {"blocks_3"}


@pytest.mark.sweep
@pytest.mark.parametrize("how", ["in order", "shuffled"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_in_blocks_is_so_without_names(
    small: Subject, name: str, how: str, tmp_path: Path
) -> None:
    layers, _ = nameless(only_blocks(small.run(Bug((), UNKNOWN[name][1]))), how)
    assert diagnosed(small, layers, tmp_path).slugs == ["unknown"]


def test_an_end_that_cannot_be_paired_is_not_right(small: Subject, tmp_path: Path) -> None:
    """All blocks but the last two are right, and those are like nothing that ours computes."""
    layers = only_blocks(small.clean)
    rng = np.random.default_rng(3)
    for name in list(layers)[-2:]:
        layers[name] = rng.standard_normal(layers[name].shape).astype(np.float32)
    layers, truth = nameless(layers, "in order")
    found = diagnosed(small, layers, tmp_path)
    assert found.slugs == ["unknown"]
    for number in list(truth)[-2:]:
        assert number in found.text()
    json.dumps(found.as_json(), allow_nan=False)


# -- no impossible verdict -------------------------------------------------------------------------


def test_a_tensor_overwritten_after_use_is_not_blamed(small: Subject, tmp_path: Path) -> None:
    """As in-place activations leave it: the batch norm's tensor holds the activation's values."""
    layers = dict(small.clean)
    layers["stem/bn"] = layers["stem/act"]
    found = diagnosed(small, layers, tmp_path)
    assert found.slugs == ["none"]
    assert found.evidence.doubtful == (("stem/bn", "stem/bn"),)
    assert "probably paired wrongly, or overwritten after use: stem/bn" in found.text()
    json.dumps(found.as_json(), allow_nan=False)


def test_what_comes_after_the_last_layer_is_listed(small: Subject, tmp_path: Path) -> None:
    layers, _ = nameless(small.clean, "in order")
    layers["softmax_again"] = layers[list(layers)[-1]] ** 2
    found = diagnosed(small, layers, tmp_path)
    assert found.slugs == ["none"]
    assert "softmax_again" in found.text()


def test_parts_of_layers_are_known_as_such(small: Subject, tmp_path: Path) -> None:
    layers = dict(small.clean)
    x = layers["blocks_5/expand_bn"]
    layers["gate of swish"] = 1 / (1 + np.exp(-x))
    layers["first half"] = layers["blocks_5/depthwise_conv"][..., : x.shape[-1] // 2]
    numbered, truth = nameless(layers, "in order")
    path = write(tmp_path / "dump.npz", numbered)
    n, h, w, _ = small.pixels.shape
    dump = pair(small.model, small.pixels, open_dump(path, small.model.architecture, n, h, w))
    parts = {truth[p.name]: (p.layer, p.part) for p in dump.pairs if p.part}
    assert parts["gate of swish"] == ("blocks_5/expand_act", "sigmoid")
    assert parts["first half"] == ("blocks_5/depthwise_conv", "result of group 0")
    assert not dump.unmatched


# -- the pairing is theirs to see and mend ---------------------------------------------------------


def test_pairs_can_be_printed_mended_and_given_back(
    small: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, truth = nameless(small.clean, "shuffled")
    command = command_line(small, layers, tmp_path)

    assert main(["diagnose", *command, "--pairs"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    assert set(pairs) == set(truth)
    named = {number: entry["layer"] for number, entry in pairs.items()}
    for number, layer in named.items():
        assert np.array_equal(layers[number], small.clean[layer])
        assert pairs[number]["found"] == "value"
        assert pairs[number]["error"] < 1e-5
    assert main(["compare", *command, "--pairs"]) == 0
    assert json.loads(capsys.readouterr().out) == pairs

    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    given = ["--names", str(tmp_path / "pairs.json")]
    assert main(["diagnose", *command, *given]) == 0
    assert f"compared {len(pairs)} layers: {len(pairs)} given" in capsys.readouterr().out

    one, other = (n for n, layer in named.items() if layer in ("stem/conv", "stem/bn"))
    pairs[one]["layer"], pairs[other]["layer"] = pairs[other]["layer"], pairs[one]["layer"]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    assert main(["compare", *command, *given]) == 1  # what is given is used, right or wrong
    capsys.readouterr()

    pairs[one]["layer"] = "stem/convolution"
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    assert main(["diagnose", *command, *given]) == 2
    assert "stem/convolution" in capsys.readouterr().err


def test_one_tensor_that_is_several_layers_is_given_back(
    small: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Theirs leaves out squeeze-and-excite, so that one tensor stands for two layers."""
    layers = small.planted("no se")
    layers = {name: x for name, x in layers.items() if not name.endswith("/se_scale")}
    layers, truth = nameless(layers, "in order")
    command = command_line(small, layers, tmp_path)

    assert main(["diagnose", *command, "--pairs"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    act = next(n for n, name in truth.items() if name == "blocks_3/depthwise_act")
    assert (pairs[act]["layer"], pairs[act]["also"]) == (truth[act], ["blocks_3/se_scale"])
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    command += ["--names", str(tmp_path / "pairs.json")]

    assert main(["compare", *command, "--isolated", "--json"]) == 1
    rows = {row["layer"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["blocks_3/se_scale"]["added"] > 0.1
    assert rows["blocks_3/depthwise_act"]["added"] < 1e-5
    assert main(["diagnose", *command]) == 1
    assert capsys.readouterr().out.startswith("cause: missing-se\n")
    assert main(["diagnose", *command, "--pairs"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again[act]["also"] == ["blocks_3/se_scale"]

    pairs[act]["also"] = ["blocks_3/se_scaled"]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    assert main(["diagnose", *command]) == 2
    assert "blocks_3/se_scaled" in capsys.readouterr().err
    pairs[act]["also"] = "blocks_3/se_scale"
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    assert main(["diagnose", *command]) == 2
    assert "--pairs" in capsys.readouterr().err


def test_compare_pairs_by_value(
    small: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, _ = nameless(small.planted("no residual"), "shuffled")
    command = [*command_line(small, layers, tmp_path), "--isolated", "--json"]
    assert main(["compare", *command]) == 1
    assert json.loads(capsys.readouterr().out)["guilty"] == "blocks_0/output"
