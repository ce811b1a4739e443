"""tinymixnet against TensorFlow: layer by layer, live, recorded, and as the original code answered.

Run with -s to see every measured error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.support import record_tensorflow as record
from tests.support import tensorflow_reference as reference
from tests.support.shared import SHARED
from tests.support.synthetic import synthetic_image
from tinymixnet.engine import kernels
from tinymixnet.engine.architecture import Architecture, mixnet
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward
from tinymixnet.errors import WeightsError
from tinymixnet.model import Model, load

Layers = dict[str, np.ndarray]

# Errors are measured against a layer's largest value; one float32 rounding is 6e-8.
ISOLATED = 1e-5  # one layer, given TensorFlow's own inputs
ACCUMULATED = 5e-5  # after all the layers before it
FLOAT64 = 1e-12  # the same in float64: what is left is the mathematics
FUSED = 1e-4  # batch norms folded into kernels, so every rounding falls elsewhere
KERNEL = 2e-6  # one kernel over a few hundred products

ORIGINALS = SHARED / "reference"

UNEVEN = reference.Network(
    stages=(
        "r1_k3.5.7_a1_p1.1.1_s11_e1_i10_o10",
        "r2_k3.5.7_a1.1.1_p1.1_s22_e3_i10_o14_se0.5_sw",
        "r1_k3.5.7.9.11_a1.1.1_p1.1.1.1_s22_e2_i14_o11_se0.25",
        "r2_k9.3_a1.1_p1.1.1_s11_e3_i11_o11_sw",
    ),
    stem=10,
    head=50,
    classes=7,
)
# 8, 15, 33 and 28 become 16, 24, 48 and 40: the 16 by the step that keeps nine tenths of a count.
SCALED = reference.Network(
    stages=(
        "r1_k3.5.7_a1_p1_s11_e1_i8_o8",
        "r2_k3.5.7.9.11_a1.1.1_p1.1.1_s22_e3_i8_o15_se0.5_sw",
        "r1_k3_a1_p1.1.1.1.1_s11_e6_i15_o33_se0.25_sw",
        "r1_k3.5.7_a1.1.1_p1_s22_e2_i33_o28",
    ),
    stem=8,
    head=40,
    multiplier=1.4,
    classes=5,
)
# What tinymixnet.load() gives: real, trained weights.
BUNDLED = replace(reference.NETWORKS["mixnet-l"], classes=200)

# name: (network, batch, height, width)
CASES: dict[str, tuple[str | reference.Network, int, int, int]] = {
    "S 224": ("mixnet-s", 1, 224, 224),
    "M 224": ("mixnet-m", 1, 224, 224),
    "L 224": ("mixnet-l", 1, 224, 224),
    "L 97x131": ("mixnet-l", 3, 97, 131),
    "M 64x50": ("mixnet-m", 2, 64, 50),
    "S 33x32": ("mixnet-s", 4, 33, 32),
    "uneven 45x38": (UNEVEN, 3, 45, 38),
    "scaled 32x57": (SCALED, 2, 32, 57),
    "bundled 128": (BUNDLED, 2, 128, 128),
}


def architecture_of(net: str | reference.Network) -> Architecture:
    if isinstance(net, str):
        return mixnet(net)
    return Architecture(
        variant="synthetic",
        block_strings=net.stages,
        stem_filters=net.stem,
        head_filters=net.head,
        multiplier=net.multiplier or 1.0,
        classes=net.classes,
    )


METADATA = Metadata(mean=reference.MEAN, std=reference.STD, epsilon=reference.EPSILON)


@cache
def tensors_of(net: str | reference.Network) -> Layers:
    """The bundled model's weights, or random ones with the range of trained, made without us."""
    if net is BUNDLED:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("TINYMIXNET_WEIGHTS", raising=False)
            try:
                return {name: np.asarray(tensor) for name, tensor in load().tensors.items()}
            except WeightsError as problem:
                pytest.skip(f"no bundled model: {problem}")
    return reference.calibrated_tensors(net, synthetic_image(4, 224, 224, seed=9), seed=2)


@dataclass
class Comparison:
    """A network and an image, with TensorFlow's runs and ours; each is made when first needed."""

    name: str
    net: str | reference.Network
    tensors: Layers
    pixels: np.ndarray

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.net)

    @cached_property
    def tensorflow(self) -> Layers:
        return reference.reference_layers(self.net, self.tensors, self.pixels)

    @cached_property
    def tensorflow64(self) -> Layers:
        return reference.reference_layers(self.net, self.tensors, self.pixels, dtype="float64")

    def forward(self, dtype: str = "float32") -> Any:
        """Our generator over the layers, in float32 or float64."""
        tensors = {name: tensor.astype(dtype) for name, tensor in self.tensors.items()}
        return forward(self.pixels.astype(dtype), self.architecture, tensors, METADATA)

    @cached_property
    def ours(self) -> Layers:
        return dict(self.forward())

    @cached_property
    def ours64(self) -> Layers:
        return dict(self.forward("float64"))

    def report(self, what: str, measured: dict[str, float]) -> None:
        report(self.name, what, measured)


def report(name: str, what: str, measured: dict[str, float]) -> None:
    layer = max(measured, key=lambda layer: measured[layer])
    print(f"\n{name:14} {what:38} {measured[layer]:9.2e} at {layer}", end="")


def largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a part of the largest value."""
    scale = float(np.abs(theirs).max()) or 1.0
    return float(np.abs(ours.astype(np.float64) - theirs).max() / scale)


def typical_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The root mean square difference, as a part of the root mean square value."""
    difference = ours.astype(np.float64) - theirs
    return float(np.sqrt(np.mean(difference**2) / np.mean(theirs.astype(np.float64) ** 2)))


def assert_close(layer: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    """The largest error; above the tolerance an AssertionError that says where it is."""
    assert ours.shape == theirs.shape, f"{layer}: shape {ours.shape}, TensorFlow {theirs.shape}"
    error = largest_error(ours, theirs)
    worst = np.unravel_index(np.argmax(np.abs(ours - theirs)), ours.shape)
    assert error <= tolerance, (
        f"{layer}: error {error:.3g} of the largest value, tolerance {tolerance:.3g}; worst at "
        f"{tuple(map(int, worst))}: ours {ours[worst]!r}, expected {theirs[worst]!r}"
    )
    return error


@pytest.fixture(scope="module")
def tensorflow() -> ModuleType:
    """TensorFlow; in CI its absence is a failure, elsewhere a reason to skip."""
    if os.environ.get("CI") != "true":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    return reference.import_tensorflow()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tensorflow: ModuleType) -> Comparison:
    """Each case of CASES; the tests that take it share its runs."""
    net, n, h, w = CASES[request.param]
    return Comparison(request.param, net, tensors_of(net), synthetic_image(n, h, w))


@pytest.mark.parametrize("name", CASES)
def test_architecture_asks_for_the_same_tensors(name: str) -> None:
    """The tables, the scaling of filters and the uneven splits, against the reference's own."""
    net = CASES[name][0]
    assert dict(architecture_of(net).tensor_shapes()) == reference.tensor_shapes(net)


def test_layers_have_the_same_names_shapes_and_types(case: Comparison) -> None:
    ours = {name: (x.shape, x.dtype) for name, x in case.ours.items()}
    theirs = {name: (x.shape, x.dtype) for name, x in case.tensorflow.items()}
    assert list(ours) == list(theirs)
    assert ours == theirs


def test_each_layer_alone(case: Comparison) -> None:
    """Every layer is given TensorFlow's tensors, so that no earlier layer's error reaches it."""
    run, sent, errors = case.forward(), None, {}
    for layer, theirs in case.tensorflow.items():
        name, ours = run.send(sent)
        assert name == layer
        errors[layer] = assert_close(layer, ours, theirs, ISOLATED)
        sent = theirs
    with pytest.raises(StopIteration):
        run.send(sent)
    case.report("each layer alone", errors)


def test_errors_stay_small_through_the_network(case: Comparison) -> None:
    errors = {
        layer: assert_close(layer, case.ours[layer], theirs, ACCUMULATED)
        for layer, theirs in case.tensorflow.items()
    }
    case.report("accumulated", errors)


def test_float64_leaves_no_difference(case: Comparison) -> None:
    """Rounding gone, any difference in the mathematics would show; so would a float32 step."""
    errors = {}
    for layer, theirs in case.tensorflow64.items():
        ours = case.ours64[layer]
        assert ours.dtype == np.float64, f"{layer} is {ours.dtype} in a float64 run"
        errors[layer] = assert_close(layer, ours, theirs, FLOAT64)
    case.report("float64 against float64", errors)


def test_rounding_is_no_worse_than_tensorflows(case: Comparison) -> None:
    """Our float32 run lies at most twice as far from the float64 run as TensorFlow's does.

    Distances are root mean squares, for the largest of a small layer's few differences is luck. A
    layer is allowed what TensorFlow has shown so far, at it or before it, and never less than half
    a rounding: a layer may hide the error that it carries (a pool averages it away, a gate flattens
    it), and two good runs hide it unequally.
    """
    allowed, ratios = 2.0**-24, {}
    for layer, exact in case.ours64.items():
        allowed = max(allowed, typical_error(case.tensorflow[layer], exact))
        distance = typical_error(case.ours[layer], exact)
        ratios[layer] = distance / allowed
        assert distance <= 2 * allowed, (
            f"{layer}: {distance:.3g} from the float64 run, TensorFlow at most {allowed:.3g} so far"
        )
    case.report("distance to float64, TensorFlow's = 1", ratios)


def test_fused_model(case: Comparison) -> None:
    model = Model(case.architecture, case.tensors, METADATA)
    error = assert_close("logits", model(case.pixels), case.tensorflow["logits"], FUSED)
    case.report("fused model", {"logits": error})


@pytest.mark.sweep(case=["uneven 45x38", "bundled 128"])
def test_tensorflow_against_itself(case: Comparison) -> None:
    """Two ways of running TensorFlow agree as closely as is asked of us.

    It fails where a network is so ill-conditioned that no float32 run could meet the tolerance.
    """
    fetch = [name for name in case.tensorflow if name.endswith("/output")]
    fetch += ["head/pool", "logits", "probabilities"]
    run = reference.reference_program(case.net, case.tensors, fused=True, fetch=fetch)
    fused = run(case.pixels)
    errors = {
        layer: assert_close(layer, fused[layer], case.tensorflow[layer], ACCUMULATED)
        for layer in fetch
    }
    case.report("TensorFlow fused against eager", errors)


@pytest.fixture(scope="module", params=("mixnet-s", "mixnet-l"))
def original(request: pytest.FixtureRequest, tensorflow: ModuleType) -> Iterator[dict[str, Any]]:
    """What the original code answered to twelve images, with its weights under our names."""
    folder = ORIGINALS / request.param
    if not folder.exists():
        pytest.skip(f"no recorded answers of the original code at {folder}")
    tensors = reference.checkpoint_tensors(str(folder / "model.ckpt"), request.param)
    with np.load(folder / "activations.npz") as recorded:
        yield {"variant": request.param, "tensors": tensors, "recorded": dict(recorded)}


def compare_with_original(
    what: str, original: dict[str, Any], layers: Layers, logits: np.ndarray
) -> None:
    """Layers of the first two images at the recorded positions, and logits of all twelve."""
    recorded, errors = original["recorded"], {}
    names = [str(name) for name in recorded["layers"]]
    # The original code normalises elsewhere, so its record begins after these two.
    assert set(layers) - set(names) == {"image", "normalize"}
    for name in names:
        ours, (_, _, low, high) = layers[name], recorded[f"{name}:stats"]
        assert ours.shape == tuple(recorded[f"{name}:shape"]), name
        sampled = ours.reshape(-1)[recorded[f"{name}:index"]]
        # A sample may miss the largest value, which errors are measured against: append it to both.
        top = np.array([max(-low, high)], np.float32)
        ours, theirs = np.append(sampled, top), np.append(recorded[f"{name}:value"], top)
        errors[name] = assert_close(name, ours, theirs, ACCUMULATED)
    errors["logits of twelve"] = assert_close("logits", logits, recorded["logits"], ACCUMULATED)
    report(original["variant"], what, errors)


def test_reference_matches_original(original: dict[str, Any]) -> None:
    """The reference that judges us is itself judged by what the original code answered."""
    variant, tensors = original["variant"], original["tensors"]
    images = original["recorded"]["image"]
    layers = reference.reference_layers(variant, tensors, images[:2])
    run = reference.reference_program(variant, tensors, fetch=["logits"])
    logits = np.concatenate([run(images[i : i + 4])["logits"] for i in range(0, len(images), 4)])
    compare_with_original("reference against the original", original, layers, logits)


def test_engine_matches_original(original: dict[str, Any]) -> None:
    variant, tensors = original["variant"], original["tensors"]
    images = original["recorded"]["image"]
    layers = dict(forward(images[:2].astype(np.float32), mixnet(variant), tensors, METADATA))
    model = Model(mixnet(variant), tensors, METADATA)
    logits = np.concatenate([model(image[None]) for image in images])
    compare_with_original("engine against the original", original, layers, logits)


@pytest.fixture(scope="module")
def recorded() -> Layers:
    """What TensorFlow answered when tests/support/record_tensorflow.py was last run."""
    with np.load(record.RECORDED) as file:
        return dict(file)


def our_answer(case: record.Case) -> np.ndarray:
    operations: dict[str, Any] = {
        "conv2d": lambda x, kernel, bias=None: kernels.conv2d(x, kernel, case.stride, bias),
        "depthwise_conv2d": partial(kernels.depthwise_conv2d, stride=case.stride),
        "mix_conv": partial(kernels.mix_conv, stride=case.stride),
        "batch_norm": partial(kernels.batch_norm, epsilon=reference.EPSILON),
        "squeeze_excite_swish": partial(kernels.squeeze_excite, activation=kernels.swish),
        "squeeze_excite_relu": partial(kernels.squeeze_excite, activation=kernels.relu),
    }
    operation = operations.get(case.operation) or getattr(kernels, case.operation)
    return operation(*case.arrays)


@pytest.mark.parametrize("name", record.kernel_cases())
def test_recorded_kernel(name: str, recorded: Layers) -> None:
    case = record.kernel_cases()[name]
    before = [np.copy(x) for x in case.arrays if isinstance(x, np.ndarray)]
    answer = our_answer(case)
    assert answer.dtype == np.float32
    assert_close(name, answer, recorded[name], KERNEL)
    after = [x for x in case.arrays if isinstance(x, np.ndarray)]
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now, err_msg=f"{name} changed its input")


def test_recorded_network(recorded: Layers) -> None:
    image = record.small_image().astype(np.float32)
    architecture = architecture_of(record.SMALL)
    layers = dict(forward(image, architecture, record.small_tensors(), METADATA))
    assert ["network/image"] + [n for n in recorded if n.startswith("network/")] == [
        f"network/{name}" for name in layers
    ]
    for name, ours in layers.items():
        if name != "image":
            assert_close(name, ours, recorded[f"network/{name}"], ACCUMULATED)


def test_recorded_file_is_what_tensorflow_says_now(
    tensorflow: ModuleType, recorded: Layers
) -> None:
    live = record.tensorflow_answers()
    assert set(recorded) - set(live) == {"tensorflow"}
    for name, theirs in live.items():
        tolerance = ACCUMULATED if name.startswith("network/") else KERNEL
        assert_close(name, recorded[name], theirs, tolerance)
