"""A small network as a weights file, and what the tests of other frameworks' formats need."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.model import Model
from weights_tools.convert import convert
from weights_tools.exporters.keras_model import keras_model
from weights_tools.graphs.from_tensorflow import _frozen
from weights_tools.inspect_file import inspect
from weights_tools.record import record_file

METADATA = Metadata(
    labels=("cat", "dog, or wolf", "café", "d", "e", "f"),
    input_size=64,
    preset="square",
    preset_parameters={"crop": 0.9},
    licence="Apache-2.0",
    name="small",
)
WEIGHTS = Weights(TINY, synthetic_tensors(TINY), METADATA)
PIXELS = synthetic_image(3, 64, 64).astype(np.float32)
CLOSE = 1e-5  # of the logits, to the largest of them: what the issue of each runtime may add


def needed(name: str) -> Any:
    """A package that a format takes: CI has them all, elsewhere one may be missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)


def small_network() -> Iterator[None]:
    """Make TINY one of the known networks, so that the files are small, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", (TINY.block_strings, TINY.stem_filters, 1.0))
        patch.setattr("tinymixnet.engine.architecture.HEAD_FILTERS", TINY.head_filters)
        yield


def weights_file(path: Path) -> Path:
    write_weights(path, WEIGHTS)
    return path


def logits(weights: Weights = WEIGHTS, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return Model(*weights)(pixels)


def distance(ours: np.ndarray, theirs: Any) -> float:
    return float(np.abs(ours - np.asarray(theirs)).max() / np.abs(ours).max())


def assert_equal(left: Weights, right: Weights) -> None:
    """All tensors are equal to the last bit."""
    assert left.architecture == right.architecture
    assert {n: x.tobytes() for n, x in left.tensors.items()} == {
        n: x.tobytes() for n, x in right.tensors.items()
    }


def save_with_keras(folder: Path) -> Any:
    """Save the network in every way of today's Keras and TensorFlow; return the Keras model."""
    tf = needed("tensorflow")
    model = keras_model(WEIGHTS)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    model.export(folder / "saved", verbose=False)
    shape = tf.TensorSpec([1, 64, 64, 3], tf.float32)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(shape)
    (folder / "frozen.pb").write_bytes(_frozen(function).SerializeToString())
    lite = tf.lite.TFLiteConverter.from_concrete_functions([function])
    (folder / "model.tflite").write_bytes(lite.convert())
    return model


def reading_commands(path: Path) -> tuple[Callable[[], object], ...]:
    """Return all that opens a file or folder of a framework. Outputs would be put beside it."""
    return (
        lambda: convert(path, path.parent / "out.h5"),
        lambda: inspect(path),
        lambda: record_file(path, np.zeros((1, 8), np.float32), path.parent / "dump", ["*"]),
    )
