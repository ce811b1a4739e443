"""mixnet.py computes what Model does, and stays short and plain enough to be read on one screen."""

import ast
from pathlib import Path

import numpy as np
import pytest

import tinymixnet.mixnet
from benchmarks.weights import synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import mixnet
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model, load

# Differences as parts of the largest logit. The fast path folds batch norms into kernels, so it
# rounds elsewhere; `layers` takes the same steps.
FAST, LAYERS = 1e-5, 1e-6
LONGEST = 60  # lines
SOURCE = Path(tinymixnet.mixnet.__file__).read_text("utf-8")
TREE = ast.parse(SOURCE)


def largest_error(logits: np.ndarray, expected: np.ndarray) -> float:
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def assert_equal_to_model(model: Model, pixels: np.ndarray) -> None:
    before = pixels.copy()
    logits = tinymixnet.mixnet.mixnet(pixels, dict(model.tensors), model.architecture.blocks)
    np.testing.assert_array_equal(pixels, before)
    assert largest_error(logits, dict(model.layers(pixels))["logits"]) <= LAYERS
    assert largest_error(logits, model(pixels)) <= FAST


@pytest.fixture(scope="module", params=["mixnet-s", "mixnet-m", "mixnet-l"])
def made_up(request: pytest.FixtureRequest) -> Model:
    """A network calibrated on enough pixels that float32 rounding does not grow on its way."""
    architecture = mixnet(request.param)
    return Model(architecture, synthetic_tensors(architecture, seed=3, size=224))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131)])
def test_it_equals_model_on_made_up_weights(made_up: Model, height: int, width: int) -> None:
    assert_equal_to_model(made_up, synthetic_image(2, height, width, seed=4))


def test_it_equals_model_on_the_bundled_weights() -> None:
    model = load(BUNDLED)
    assert_equal_to_model(model, model.pixels(BUNDLED.parent / "cat.jpg"))


def test_it_is_short() -> None:
    lines = SOURCE.splitlines()
    assert len(lines) <= LONGEST
    assert max(map(len, lines)) <= 100


def test_it_imports_numpy_and_the_kernels_alone() -> None:
    imported = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"numpy", "tinymixnet.engine.kernels"}


FORBIDDEN = (
    ast.ClassDef,
    ast.Yield,  # generators
    ast.YieldFrom,
    ast.Try,  # error handling
    ast.Raise,
    ast.Assert,
    ast.With,
    ast.Lambda,
    ast.AsyncFunctionDef,
    ast.Global,
)


def test_it_has_no_class_generator_or_error_handling() -> None:
    assert not [ast.dump(node) for node in ast.walk(TREE) if isinstance(node, FORBIDDEN)]


def test_it_has_no_options() -> None:
    """Every argument of every function must be given."""
    functions = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]
    assert functions[0].name == "mixnet"
    for function in functions:
        arguments = function.args
        assert not arguments.defaults, function.name
        assert not arguments.kwonlyargs, function.name
        assert arguments.vararg is None, function.name
        assert arguments.kwarg is None, function.name
