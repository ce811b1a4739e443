"""Tensors that are no layer: parts and copies of one, constants, and what is really unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.debug.test_diagnose import SMALL, Layers, Subject, small_model, write
from tests.debug.test_pairing import nameless
from tests.support.synthetic import synthetic_image
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.pairing import pair
from tinymixnet.debug.pairs import Pair, pairs_json
from tinymixnet.debug.runner import Change, run_with
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.engine.network import statistics

BN, CONV = "blocks_5/depthwise_bn", "blocks_5/depthwise_conv"


@pytest.fixture(scope="module")
def small() -> Subject:
    return Subject(SMALL, small_model(), synthetic_image(1, 64, 64, seed=4).astype(np.float32))


def found_in(small: Subject, layers: Layers, folder: Path) -> dict[str, Pair]:
    """Return what each tensor is, by its name before it was replaced by a number."""
    numbered, truth = nameless(layers, "in order")
    path = write(folder / "dump.npz", numbered)
    dump = open_dump(path, small.model.architecture, *small.pixels.shape[:3])
    return {truth[p.name]: p for p in pair(small.model, small.pixels, dump).pairs}


def with_mistake(small: Subject, slug: str, layer: str) -> Layers:
    suspect = next(s for s in SUSPECTS if s.slug == slug)
    with np.errstate(all="ignore"):
        return {
            n: x.copy() for n, x in run_with(small.model, small.pixels, [Change(suspect, (layer,))])
        }


def before_the_last(layers: Layers, more: Layers) -> Layers:
    last = list(layers)[-1]
    return {**{n: x for n, x in layers.items() if n != last}, **more, last: layers[last]}


def test_constants_are_no_layers(small: Subject, tmp_path: Path) -> None:
    tensors, epsilon = small.model.tensors, small.model.metadata.epsilon
    gamma, beta, mean, variance = statistics("blocks_3/project_bn", tensors)
    scale = gamma / np.sqrt(variance + epsilon)
    kernel = tensors["logits/kernel"]
    numbers: Layers = {
        "a shape": np.array([1, 24, 16, 16], np.int64),
        "an index": np.array(3, np.int64),
        "paddings": np.array([[0, 0], [0, 0], [1, 1], [0, 1]], np.int64),
        "a padding on the way": np.array(1.5, np.float32),
        "sizes": np.array([0, 1, 0, 1], np.float32),
    }
    weights: Layers = {
        "a kernel": tensors["stem/conv/kernel"].transpose(3, 2, 0, 1),
        "a vector": tensors["blocks_2/depthwise_bn/gamma"],
        "a folded kernel": (tensors["head/conv/kernel"] * _scale("head/bn", small)).transpose(
            3, 2, 0, 1
        ),
        "a folded bias": (beta - mean * scale)[:, None, None],
        "weights that are wrong": np.roll(kernel, 1).reshape(*kernel.shape[-2:]).T * 2,
    }
    unknown = {"nothing": np.random.default_rng(0).normal(size=(1, 17, 5)).astype(np.float32)}
    pairs = found_in(small, before_the_last(small.clean, numbers | weights | unknown), tmp_path)
    assert {n: pairs[n].part for n in numbers} == dict.fromkeys(numbers, "numbers")
    assert {n: pairs[n].part for n in weights} == dict.fromkeys(weights, "weights")
    assert all(pairs[name].constant for name in (*numbers, *weights))
    assert pairs["nothing"].unknown
    assert pairs_json([pairs["a shape"]])[pairs["a shape"].name] == {
        "layer": "",
        "constant": "numbers",
    }
    diagnosis = small.diagnose(tmp_path / "dump.npz")
    assert diagnosis.slugs == ["none"]
    evidence = diagnosis.evidence
    assert (evidence.others, evidence.parts, evidence.constants) == (1, 0, 10)
    assert (
        diagnosis.text()
        .splitlines()[1]
        .endswith("; 1 tensor of theirs is no layer of ours; besides, theirs has 10 constants")
    )


def _scale(norm: str, small: Subject) -> np.ndarray:
    gamma, _, _, variance = statistics(norm, small.model.tensors)
    return np.asarray(gamma / np.sqrt(variance + small.model.metadata.epsilon))


def test_numbers_after_the_network_are_constants_and_results_are_not(
    small: Subject, tmp_path: Path
) -> None:
    more = {
        "the best class": np.array([7], np.int64),
        "other classes": np.array([[0.25, 0.75]], np.float32),
        "softmax again": small.clean["probabilities"] ** 2,
    }
    pairs = found_in(small, small.clean | more, tmp_path)
    assert pairs["the best class"].constant
    diagnosis = small.diagnose(tmp_path / "dump.npz")
    assert set(diagnosis.evidence.after) == {pairs[n].name for n in list(more)[1:]}


def test_parts_of_a_wrong_layer(small: Subject, tmp_path: Path) -> None:
    """They are parts of their layer: ours has no such numbers."""
    layers = with_mistake(small, "replicate-padding", CONV)
    x = layers[CONV]
    half = x.shape[-1] // 2
    more = {"copy": x.transpose(0, 3, 1, 2), "first": x[..., :half], "second": x[..., half:]}
    pairs = found_in(small, before_the_last(layers, more), tmp_path)
    assert {name: (pairs[name].layer, pairs[name].part) for name in more} == {
        "copy": (CONV, "copy"),
        "first": (CONV, "result of group 0"),
        "second": (CONV, "result of group 1"),
    }
    diagnosis = small.diagnose(tmp_path / "dump.npz")
    assert (diagnosis.slugs, diagnosis.evidence.others) == (["replicate-padding"], 0)


def test_a_wrong_batch_norm_in_two_steps(small: Subject, tmp_path: Path) -> None:
    layers = with_mistake(small, "missing-scale", BN)
    _, beta, mean, _ = statistics(BN, small.model.tensors)
    shift = beta - mean * _scale(BN, small) * np.float32(1.1)  # not the one that ours has
    pairs = found_in(small, before_the_last(layers, {"scaled": layers[BN] - shift}), tmp_path)
    assert (pairs["scaled"].layer, pairs["scaled"].part) == (BN, "shift missing")


def test_copies_in_blocks_of_channels(small: Subject, tmp_path: Path) -> None:
    """As ONNX Runtime has them: padded with zeros, and under the shape (N, C, H, W)."""
    layer = next(n for n, x in small.clean.items() if n.endswith("_bn") and x.shape[-1] % 16)
    x = small.clean[layer]
    n, h, w, c = x.shape
    wide = -(-c // 16) * 16
    padded = np.zeros((n, h, w, wide), np.float32)
    padded[..., :c] = x
    blocks = padded.reshape(n, h, w, wide // 16, 16).transpose(0, 3, 1, 2, 4)
    more = {
        "padded": blocks.reshape(n, wide, h, w),
        "as it lies": small.clean["stem/bn"].reshape(n, -1, *small.clean["stem/bn"].shape[1:3]),
    }
    pairs = found_in(small, before_the_last(small.clean, more), tmp_path)
    assert (pairs["padded"].layer, pairs["padded"].part) == (layer, "copy")
    assert (pairs["as it lies"].layer, pairs["as it lies"].part) == ("stem/bn", "copy")


def test_a_matmul_before_its_bias_is_not_the_answer(small: Subject, tmp_path: Path) -> None:
    layers = {n: x for n, x in small.clean.items() if n != "probabilities"}
    product = layers["logits"] - small.model.tensors["logits/bias"]
    pairs = found_in(small, before_the_last(layers, {"matmul": product}), tmp_path)
    assert (pairs["matmul"].layer, pairs["matmul"].part) == ("logits", "bias missing")


def test_parts_where_names_are_certain(small: Subject, tmp_path: Path) -> None:
    """Our own names. A copy of a layer that is not there is rather a misspelt name."""
    x = small.clean["blocks_5/expand_bn"]
    layers = {n: x for n, x in small.clean.items() if n != BN}
    more = {
        "gate of swish": 1 / (1 + np.exp(-x)),
        "shape": np.array([1, 2, 3], np.int64),
        "again": x,
        BN + "x": small.clean[BN],
        "noise": np.random.default_rng(0).normal(size=x.shape),
    }
    found = small.diagnose(write(tmp_path / "dump.npz", before_the_last(layers, more))).evidence
    assert (found.others, found.parts, found.constants) == (2, 2, 1)
