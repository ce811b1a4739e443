"""Mistakes that few tensors show: the blocks' outputs alone, or one group of channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.synthetic import synthetic_image
from tinymixnet.debug.causes import Diagnosis
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.last_resorts import infinite_beyond_half
from tinymixnet.debug.rounding import to_float16
from tinymixnet.debug.runner import Change, run_with
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.debug.suspects.context import LayerContext, Suspect
from tinymixnet.debug.suspects.convolution import ONE_GROUP
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model, load

Layers = dict[str, np.ndarray]
CONV, NORM = "blocks_5/depthwise_conv", "blocks_0/depthwise_bn"
LARGE = np.float32(3e4)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(BUNDLED)


@pytest.fixture(scope="module")
def large_values(model: Model) -> Model:
    """The same network, with values beyond float16's range in the first block alone."""
    tensors = dict(model.tensors)
    for name, factor in ((f"{NORM}/gamma", LARGE), (f"{NORM}/beta", LARGE)):
        tensors[name] = tensors[name] * factor
    for name in tensors:
        if name.startswith("blocks_0/project_conv/"):
            tensors[name] = tensors[name] / LARGE
    return Model(model.architecture, tensors, model.metadata)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return synthetic_image(1, 64, 64, seed=4).astype(np.float32)


def run(model: Model, pixels: np.ndarray, *changes: Change) -> Layers:
    with np.errstate(all="ignore"):
        return {name: x.copy() for name, x in run_with(model, pixels, changes)}


def diagnosed(model: Model, pixels: np.ndarray, layers: Layers, path: Path) -> Diagnosis:
    write_dump(path, layers.items())
    return diagnose(model, pixels, open_dump(path, model.architecture, *pixels.shape[:3]))


def blocks(layers: Layers) -> Layers:
    return {n: x for n, x in layers.items() if n.endswith("/output") or n == "logits"}


def convolutions(layers: Layers) -> Layers:
    kinds = ("conv", "se_reduce", "se_expand", "logits")
    return {n: x for n, x in layers.items() if n.endswith(kinds)}


SHOWN: dict[str, Callable[[Layers], Layers]] = {
    "all": lambda layers: layers,
    "no convolution": lambda layers: {n: x for n, x in layers.items() if n != CONV},
    "blocks": blocks,
}


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("suspect", [ONE_GROUP[0], ONE_GROUP[6]], ids=lambda s: s.sentence[:40])
def test_kernels_of_one_group_are_flipped(
    suspect: Suspect, shown: str, model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    layers = SHOWN[shown](run(model, pixels, Change(suspect, (CONV,))))
    found = diagnosed(model, pixels, layers, tmp_path / "dump.npz")
    assert found.slugs == ["flipped-kernel"]
    assert found.causes[0].places == (CONV,)
    assert found.causes[0].sentence == suspect.sentence


def infinite(at: LayerContext) -> np.ndarray:
    return infinite_beyond_half(at.value)


def cut_off(at: LayerContext) -> np.ndarray:
    return np.clip(at.value, -65504, 65504)


def in_half(at: LayerContext) -> np.ndarray:
    return to_float16(at.value)


@pytest.mark.parametrize("shown", ["all", "blocks"])
@pytest.mark.parametrize("output", [infinite, cut_off, in_half], ids=lambda f: f.__name__)
def test_overflow_of_a_layer(
    output: Callable[[LayerContext], np.ndarray],
    shown: str,
    large_values: Model,
    pixels: np.ndarray,
    tmp_path: Path,
) -> None:
    layers = run(large_values, pixels, Change(Suspect("", "", "", output), (NORM,)))
    found = diagnosed(large_values, pixels, SHOWN[shown](layers), tmp_path / "dump.npz")
    assert found.slugs == ["fp16-overflow"]
    assert found.causes[0].place == (NORM if shown == "all" else "blocks_0/output")
    assert "65504" in found.causes[0].sentence


def test_large_values_are_no_overflow(
    large_values: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    layers = run(large_values, pixels)
    assert np.abs(layers[NORM]).max() > 65504
    assert diagnosed(large_values, pixels, layers, tmp_path / "dump.npz").slugs == ["none"]


def test_dropout_of_values_that_are_partly_zero_anyway(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    pooled = run(model, pixels)["head/pool"]
    assert (pooled == 0).mean() > 0.1
    kept = np.random.default_rng(0).random(pooled.shape) >= 0.2
    drop = Suspect("", "", "", lambda at: at.value * kept / np.float32(0.8))
    layers = run(model, pixels, Change(drop, ("head/pool",)))
    found = diagnosed(model, pixels, layers, tmp_path / "dump.npz")
    assert found.slugs == ["dropout"]


def test_a_hidden_layer_that_another_one_needs_as_it_is_is_not_blamed(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    """The convolution of squeeze-and-excite is as wrong as if the activation were missing.

    But then the product with the gate would be wrong as well, and it is right.
    """
    suspect = next(s for s in SUSPECTS if s.slug == "se-input")
    layers = run(model, pixels, Change(suspect, ("blocks_5/se_pool",)))
    found = diagnosed(model, pixels, convolutions(layers), tmp_path / "dump.npz")
    assert found.slugs == ["se-input"]
    assert "blocks_5/se_pool" in found.causes[0].places


def test_squeeze_and_excite_before_the_depthwise_convolution_is_one_mistake(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    """The tensor that it pools is another one, too, but that is the same mistake."""
    suspect = next(s for s in SUSPECTS if s.slug == "se-before-depthwise")
    layers = run(
        model, pixels, Change(suspect, tuple(f"blocks_5/{k}" for k in suspect.kinds.split()))
    )
    shown = {n: x for n, x in layers.items() if n.endswith(("se_reduce", "se_expand", "output"))}
    found = diagnosed(model, pixels, shown, tmp_path / "dump.npz")
    assert found.slugs == ["se-before-depthwise"]


def planted_in_block_5(model: Model, pixels: np.ndarray, slug: str) -> Layers:
    suspect = next(s for s in SUSPECTS if s.slug == slug)
    places = tuple(f"blocks_5/{kind}" for kind in suspect.kinds.split())
    return run(model, pixels, Change(suspect, places))


def test_what_comes_earlier_in_a_block_is_not_missing_later(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    """A port that scales before the depthwise convolution has nothing to scale after it."""
    layers = planted_in_block_5(model, pixels, "se-before-depthwise")
    layers["blocks_5/se_scale"] = layers["blocks_5/depthwise_act"]
    found = diagnosed(model, pixels, layers, tmp_path / "dump.npz")
    assert found.slugs == ["se-before-depthwise"]


def test_a_shortcut_that_is_added_earlier_is_not_missing(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    """Such a port has the sum before batch norm, and no output beside that of batch norm."""
    layers: Layers = {}
    for name, x in planted_in_block_5(model, pixels, "residual-before-bn").items():
        if name == "blocks_5/project_bn":
            layers["sum"] = layers["blocks_5/project_conv"] + layers["blocks_4/output"]
        if name != "blocks_5/output":
            layers[name] = x
    found = diagnosed(model, pixels, layers, tmp_path / "dump.npz")
    assert found.slugs == ["residual-before-bn"]
