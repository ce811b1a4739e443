"""The model's contract: what goes in, what comes out, what is refused, and what an import costs."""

import ast
import copy
import gc
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import mixnet
from tinymixnet.engine.images import preprocess
from tinymixnet.engine.kernels import softmax
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, WeightsError
from tinymixnet.model import Model

pytestmark = pytest.mark.filterwarnings("error")

PACKAGE = Path(tinymixnet.__file__).parent
VARIANTS = ("mixnet-s", "mixnet-m", "mixnet-l")
LABELS = ("ant", "bee", "cat", "dog", "eel", "fox")

ROUNDING = 1e-5  # of the largest value: the same sums in another order
FOLDED = 1e-4  # of the largest value: batch norms folded into the convolutions


@cache
def model_of(variant: str) -> Model:
    if variant == "tiny":
        metadata = Metadata(labels=LABELS, input_size=64)
        return Model(TINY, synthetic_tensors(TINY), metadata)
    architecture = mixnet(variant)
    return Model(architecture, synthetic_tensors(architecture))


@pytest.fixture
def tiny() -> Model:
    return model_of("tiny")


def floats(*shape: int) -> np.ndarray:
    return synthetic_image(*shape).astype(np.float32)


def assert_near(x: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Equal shapes, and errors below a fraction of the largest expected value."""
    assert x.shape == expected.shape
    assert np.isfinite(expected).all()
    error = np.abs(x - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{error:.1e} of the largest value"


# -- what goes in, what comes out -----------------------------------------------------------------

SIZES = [(1, 224, 224), (2, 97, 131), (1, 64, 50), (3, 33, 32)]


@pytest.mark.parametrize(("n", "h", "w"), SIZES)
@pytest.mark.parametrize("variant", [*VARIANTS, "tiny"])
def test_layers_and_logits(variant: str, n: int, h: int, w: int) -> None:
    """Every layer has the name, order and shape of the architecture; model() ends at its logits."""
    model = model_of(variant)
    pixels = synthetic_image(n, h, w)
    expected = {name: (n, *shape) for name, shape in model.architecture.layer_shapes(h, w).items()}
    found, logits = {}, np.empty(0)
    for name, tensor in model.layers(pixels):
        assert name not in found
        assert tensor.dtype == np.float32
        found[name] = tensor.shape
        logits = tensor if name == "logits" else logits
    assert list(found.items()) == list(expected.items())
    answer = model(pixels)
    assert answer.dtype == np.float32
    assert answer.shape == (n, model.architecture.classes)
    assert_near(answer, logits, FOLDED)


def test_the_first_and_last_layers_are_what_their_names_say(tiny: Model) -> None:
    pixels = floats(2, 40, 36)
    layers = dict(tiny.layers(pixels))
    np.testing.assert_array_equal(layers["image"], pixels)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    normal = (pixels.astype(np.float64) - mean) / std
    assert_near(layers["normalize"], normal, 1e-6)
    powers = np.exp(layers["logits"].astype(np.float64))
    assert_near(layers["probabilities"], powers / powers.sum(axis=1, keepdims=True), ROUNDING)


def test_mean_and_deviation_are_the_metadatas() -> None:
    metadata = Metadata(mean=(0.0, 10.0, 20.0), std=(1.0, 2.0, 4.0))
    model = Model(TINY, synthetic_tensors(TINY), metadata)
    layers = dict(model.layers(np.full((1, 32, 32, 3), 40.0, np.float32)))
    np.testing.assert_array_equal(layers["normalize"][0, 5, 5], [40, 15, 5])


ENTRIES: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "model": lambda model, *args, **kwargs: {"logits": model(*args, **kwargs)},
    "embed": lambda model, *args, **kwargs: {"head/pool": model.embed(*args, **kwargs)},
    "features": lambda model, *args, **kwargs: model.features(*args, **kwargs),
    "layers": lambda model, *args, **kwargs: dict(model.layers(*args, **kwargs)),
}


@pytest.fixture(params=ENTRIES)
def entry(request: pytest.FixtureRequest) -> Callable[..., dict[str, np.ndarray]]:
    """Each method that takes pixels, as a function from (model, pixels, ...) to named tensors."""
    return ENTRIES[request.param]


def assert_all_near(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert_near(tensor, expected[name], ROUNDING)


def test_uint8_and_float32_are_the_same(tiny: Model, entry: Callable[..., Any]) -> None:
    pixels = synthetic_image(2, 45, 38)
    assert_all_near(entry(tiny, pixels), entry(tiny, pixels.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_layout_and_channels(tiny: Model, entry: Callable[..., Any], dtype: type) -> None:
    pixels = synthetic_image(2, 45, 38).astype(dtype)
    expected = entry(tiny, pixels)
    planes, blue_first = pixels.transpose(0, 3, 1, 2).copy(), pixels[..., ::-1].copy()
    assert_all_near(entry(tiny, planes, layout="NCHW"), expected)
    assert_all_near(entry(tiny, blue_first, channels="BGR"), expected)
    both = planes[:, ::-1].copy()
    assert_all_near(entry(tiny, both, layout="NCHW", channels="BGR"), expected)
    plain = np.abs(entry(tiny, blue_first).popitem()[1] - expected.popitem()[1]).max()
    assert plain > 1e-3, "blue first would not show in these pixels: the test proves nothing"


def test_a_batch_is_its_images_one_by_one(tiny: Model, entry: Callable[..., Any]) -> None:
    pixels = synthetic_image(3, 45, 38)
    batch = entry(tiny, pixels)
    for i in range(3):
        single = entry(tiny, pixels[i : i + 1])
        assert_all_near(single, {name: tensor[i : i + 1] for name, tensor in batch.items()})


def test_an_empty_batch_gives_empty_tensors(tiny: Model, entry: Callable[..., Any]) -> None:
    full = entry(tiny, floats(1, 45, 38))
    for dtype in (np.uint8, np.float32):
        empty = entry(tiny, np.empty((0, 45, 38, 3), dtype))
        shapes = {name: (0, *tensor.shape[1:]) for name, tensor in full.items()}
        assert {name: tensor.shape for name, tensor in empty.items()} == shapes
        assert {tensor.dtype for tensor in empty.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_inputs_and_weights_stay_as_they_were(
    tiny: Model, entry: Callable[..., Any], dtype: type
) -> None:
    pixels = synthetic_image(2, 45, 38).astype(dtype)
    copies = {name: tensor.copy() for name, tensor in tiny.tensors.items()}
    before = pixels.copy()
    pixels.setflags(write=False)
    entry(tiny, pixels)
    entry(tiny, np.moveaxis(pixels, 3, 1), layout="NCHW", channels="BGR")
    np.testing.assert_array_equal(pixels, before)
    for name, tensor in tiny.tensors.items():
        np.testing.assert_array_equal(tensor, copies[name])


def test_answers_are_the_callers_to_keep(tiny: Model, entry: Callable[..., Any]) -> None:
    """No later call, of the same size or another, writes into what an earlier one returned."""
    pixels, other = synthetic_image(1, 45, 38), 255 - synthetic_image(1, 45, 38)
    first = entry(tiny, pixels)
    copies = {name: tensor.copy() for name, tensor in first.items()}
    for tensor in entry(tiny, other).values():
        if tensor.flags.writeable:
            tensor.fill(7)
    entry(tiny, synthetic_image(2, 33, 64))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, copies[name])
    assert_all_near(entry(tiny, pixels), copies)


def test_threads_may_share_a_model(tiny: Model) -> None:
    batches = [synthetic_image(2, 45, 38, seed) for seed in range(8)]
    expected = [tiny(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        for answer, one in zip(threads.map(tiny, batches), expected, strict=True):
            assert_near(answer, one, ROUNDING)


def test_pixels_in_any_memory_layout(tiny: Model) -> None:
    pixels = synthetic_image(2, 45, 38)
    wide = np.repeat(pixels, 2, axis=2)[:, :, ::2]
    for same in (np.asfortranarray(pixels), wide, pixels[:, ::-1].copy()[:, ::-1]):
        assert_near(tiny(same), tiny(pixels), ROUNDING)


# -- features and embeddings ----------------------------------------------------------------------

REDUCTIONS = {
    "mixnet-l": [(0, 32), (2, 40), (6, 56), (14, 160), (18, 264)],  # block, channels
    "mixnet-m": [(0, 24), (2, 32), (6, 40), (14, 120), (18, 200)],
    "mixnet-s": [(0, 16), (2, 24), (6, 40), (12, 120), (15, 200)],
}


@pytest.mark.parametrize("variant", REDUCTIONS)
def test_features_are_the_last_block_of_each_resolution(variant: str) -> None:
    model, pixels = model_of(variant), synthetic_image(2, 65, 47)
    features, layers = model.features(pixels), dict(model.layers(pixels))
    assert list(features) == [f"reduction_{i}" for i in range(1, 6)]
    h, w = 65, 47
    for (block, channels), feature in zip(REDUCTIONS[variant], features.values(), strict=True):
        h, w = -(-h // 2), -(-w // 2)
        assert feature.shape == (2, h, w, channels)
        assert_near(feature, layers[f"blocks_{block}/output"], FOLDED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_embed_is_what_the_classifier_sees(variant: str) -> None:
    model, pixels = model_of(variant), synthetic_image(2, 65, 47)
    embedded = model.embed(pixels)
    assert embedded.shape == (2, 1536)
    assert_near(embedded, dict(model.layers(pixels))["head/pool"], FOLDED)
    logits = embedded @ model.tensors["logits/kernel"] + model.tensors["logits/bias"]
    assert_near(logits, model(pixels), ROUNDING)


# -- feeding layers -------------------------------------------------------------------------------


def drive(
    model: Model, pixels: np.ndarray, feed: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run forward by hand, sending `feed`'s tensors in place of the layers they are named for."""
    steps = forward(pixels, model.architecture, model.tensors, model.metadata)
    shown: dict[str, np.ndarray] = {}
    name, tensor = next(steps)
    while True:
        shown[name] = tensor
        try:
            name, tensor = steps.send((feed or {}).get(name))
        except StopIteration:
            return shown


# A tensor that all later layers hang on, and nothing else; hence no layer beside a shortcut.
CUTS = [
    "image",
    "normalize",
    "stem/conv",
    "stem/act",
    "blocks_0/output",
    "blocks_1/expand_conv",
    "blocks_1/depthwise_bn",
    "blocks_2/output",
    "blocks_3/depthwise_act",
    "blocks_3/se_scale",
    "blocks_3/project_conv",
    "head/bn",
    "head/pool",
    "logits",
]


@pytest.mark.parametrize("cut", CUTS)
def test_a_fed_layer_changes_all_later_layers_and_no_earlier_one(tiny: Model, cut: str) -> None:
    mine, other = drive(tiny, floats(1, 48, 40)), drive(tiny, 255 - floats(1, 48, 40))
    fed = drive(tiny, floats(1, 48, 40), {cut: other[cut]})
    names = list(mine)
    assert list(fed) == names
    for name in names[: names.index(cut) + 1]:  # the fed layer itself is shown before it is fed
        np.testing.assert_array_equal(fed[name], mine[name])
    for name in names[names.index(cut) + 1 :]:
        assert_near(fed[name], other[name], ROUNDING)
        assert not np.array_equal(fed[name], mine[name])


def test_a_fed_gate_scales_its_channels(tiny: Model) -> None:
    pixels = floats(1, 48, 40)
    mine = drive(tiny, pixels)
    fed = drive(tiny, pixels, {"blocks_3/se_gate": np.full_like(mine["blocks_3/se_gate"], 2)})
    np.testing.assert_array_equal(fed["blocks_3/se_scale"], 2 * fed["blocks_3/depthwise_act"])


def test_a_fed_shortcut_is_the_next_blocks_input_and_what_is_added(tiny: Model) -> None:
    pixels = floats(1, 48, 40)
    assert tiny.architecture.blocks[2].residual
    zeros = np.zeros_like(drive(tiny, pixels)["blocks_1/output"])
    fed = drive(tiny, pixels, {"blocks_1/output": zeros})
    np.testing.assert_array_equal(fed["blocks_2/expand_conv"], 0)
    np.testing.assert_array_equal(fed["blocks_2/output"], fed["blocks_2/project_bn"])


def test_nothing_sent_is_what_layers_shows(tiny: Model) -> None:
    pixels = floats(2, 48, 40)
    driven, shown = drive(tiny, pixels), dict(tiny.layers(pixels))
    assert list(driven) == list(shown)
    for name, tensor in shown.items():
        np.testing.assert_array_equal(driven[name], tensor)


def test_layers_are_computed_as_they_are_asked_for(tiny: Model) -> None:
    """Without the head's weights the layers before it come all the same."""
    tensors = {name: t for name, t in tiny.tensors.items() if not name.startswith("head/")}
    steps = forward(floats(1, 48, 40), TINY, tensors, tiny.metadata)
    last = f"{TINY.blocks[-1].name}/output"
    assert any(name == last for name, _ in steps)
    with pytest.raises(KeyError, match="head/conv"):
        next(steps)


def test_forward_in_float64_stays_in_float64(tiny: Model) -> None:
    pixels = floats(1, 48, 40).astype(np.float64)
    tensors = {name: tensor.astype(np.float64) for name, tensor in tiny.tensors.items()}
    exact = dict(forward(pixels, TINY, tensors, tiny.metadata))
    assert {tensor.dtype for tensor in exact.values()} == {np.dtype(np.float64)}
    assert_near(tiny(pixels.astype(np.float32)), exact["logits"], FOLDED)


# -- classify -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(synthetic_image(1, 90, 120)[0]).save(path)
    return path


def read_array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "path as str": str,
    "Path": lambda path: path,
    "bytes": Path.read_bytes,
    "file object": lambda path: path.open("rb"),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
    "PIL image": Image.open,
    "array": read_array,
}


@pytest.mark.parametrize("source", SOURCES)
def test_classify_any_source(tiny: Model, photo: Path, source: str) -> None:
    image = SOURCES[source](photo)
    answers = tiny.classify(image, top=6)
    if hasattr(image, "close"):
        image.close()
    with Image.open(photo) as image:
        expected = softmax(tiny(preprocess(image, "tf", 64)[None]))[0]
    assert sorted(answer.index for answer in answers) == list(range(6))
    for answer in answers:
        assert answer.label == LABELS[answer.index]
        assert answer.probability == pytest.approx(expected[answer.index], rel=1e-4)
        assert (answer.label, answer.probability, answer.index) == answer
        assert (type(answer.probability), type(answer.index)) == (float, int)
    probabilities = [answer.probability for answer in answers]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_classify_top(tiny: Model, photo: Path) -> None:
    everything = tiny.classify(photo, top=6)
    assert tiny.classify(photo) == everything[:5]
    assert tiny.classify(photo, top=1) == everything[:1]
    assert tiny.classify(photo, top=1000) == everything
    for top in (0, -1):
        with pytest.raises(InputError, match=f"top={top}"):
            tiny.classify(photo, top=top)


def test_classify_by_another_preset(tiny: Model, photo: Path) -> None:
    shrunk = {"thumbnail": 16}
    metadata = Metadata(labels=LABELS, input_size=64, preset="thumbnail", preset_parameters=shrunk)
    model = Model(TINY, tiny.tensors, metadata)
    wanted: list[tuple[str | None, str, dict[str, float]]] = [
        (None, "thumbnail", shrunk),  # what the weights ask for, with their parameters
        ("thumbnail", "thumbnail", shrunk),
        ("omz", "omz", {}),
        ("timm", "timm", {}),
    ]
    seen = set()
    for preset, name, parameters in wanted:
        with Image.open(photo) as image:
            pixels = preprocess(image, name, 64, parameters)[None]
        np.testing.assert_array_equal(model.pixels(photo, preset), pixels)
        expected = softmax(model(pixels))[0]
        answers = model.classify(photo, top=6, preset=preset)
        for answer in answers:
            assert answer.probability == pytest.approx(expected[answer.index], rel=1e-4)
        seen.add(round(answers[0].probability, 6))
    assert len(seen) == 3, "the presets would not show in these answers: the test proves nothing"
    with pytest.raises(InputError, match="'zoom'"):
        model.classify(photo, preset="zoom")


def test_labels_default_to_the_classes_numbers(tiny: Model, photo: Path) -> None:
    model = Model(TINY, tiny.tensors)
    assert model.labels == tuple(f"class {i}" for i in range(6))


# -- what is refused ------------------------------------------------------------------------------


def spoilt(value: float, dtype: type = np.float32) -> np.ndarray:
    pixels = synthetic_image(2, 40, 36).astype(dtype)
    pixels[1, 20, 10, 2] = value
    return pixels


def normalised() -> np.ndarray:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return ((floats(1, 40, 36) - mean) / std).astype(np.float32)


REFUSED: dict[str, tuple[Callable[[], np.ndarray], dict[str, str], str]] = {
    "rank 3": (lambda: floats(1, 40, 36)[0], {}, r"\(40, 36, 3\).*pixels\[None\]"),
    "rank 2": (lambda: floats(1, 40, 36)[0, :, :, 0], {}, r"\(N, H, W, 3\).*\(40, 36\)"),
    "rank 5": (lambda: floats(1, 40, 36)[None], {}, r"\(1, 1, 40, 36, 3\)"),
    "float64": (lambda: floats(1, 40, 36).astype(float), {}, "uint8 or float32.*float64.*astype"),
    "float16": (lambda: floats(1, 40, 36).astype(np.float16), {}, "float16"),
    "int64": (lambda: floats(1, 40, 36).astype(np.int64), {}, "int64"),
    "int8": (lambda: floats(1, 40, 36).astype(np.int8), {}, "int8"),
    "bool": (lambda: np.ones((1, 40, 36, 3), bool), {}, "bool"),
    "grey": (lambda: floats(1, 40, 36)[..., :1], {}, r"3 channels.*\(1, 40, 36, 1\)$"),
    "RGBA": (lambda: np.zeros((1, 40, 36, 4), np.uint8), {}, r"3 channels.*\(1, 40, 36, 4\)$"),
    "NCHW unsaid": (lambda: np.zeros((1, 3, 40, 36), np.uint8), {}, 'is it layout="NCHW"'),
    "NHWC as NCHW": (lambda: floats(1, 40, 36), {"layout": "NCHW"}, 'is it layout="NHWC"'),
    "low": (lambda: floats(1, 31, 40), {}, "31x40 is too small.* 32 "),
    "narrow": (lambda: floats(1, 40, 31), {}, "40x31 is too small"),
    "no pixels": (lambda: np.empty((1, 0, 40, 3), np.uint8), {}, "0x40 is too small"),
    "narrow NCHW": (lambda: np.zeros((1, 3, 31, 40), np.uint8), {"layout": "NCHW"}, "31x40"),
    "NaN": (lambda: spoilt(np.nan), {}, "NaN"),
    "infinity": (lambda: spoilt(np.inf), {}, "infinity"),
    "-infinity": (lambda: spoilt(-np.inf), {}, "infinity"),
    "too bright": (lambda: spoilt(1000), {}, r"0\.\.255, found .*1000"),
    "too dark": (lambda: spoilt(-300), {}, r"0\.\.255, found -300"),
    "16 bits": (lambda: floats(1, 40, 36) * 257, {}, r"0\.\.255, found"),
    "normalised": (normalised, {}, "normalised already"),
    "-1..1": (lambda: floats(1, 40, 36) / 127.5 - 1, {}, "normalised already"),
    "layout": (lambda: floats(1, 40, 36), {"layout": "nhwc"}, "layout='nhwc'.*'NHWC' or 'NCHW'"),
    "channels": (
        lambda: floats(1, 40, 36),
        {"channels": "RGBA"},
        "channels='RGBA'.*'RGB' or 'BGR'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("method", ["__call__", "embed", "features", "layers"])
def test_pixels_that_are_refused(tiny: Model, method: str, what: str) -> None:
    """Also by layers(), at the call: not only when its first layer is asked for."""
    pixels, options, message = REFUSED[what]
    with pytest.raises(InputError, match=message):
        getattr(tiny, method)(pixels(), **options)


class Hostile:
    """NumPy asks it for its array, and it raises what nobody expects."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on this\nUse something else")


def torch_tensor(**options: Any) -> Any:
    torch = pytest.importorskip("torch")
    options["dtype"] = getattr(torch, options.get("dtype", "float32"))
    return torch.full((1, 40, 36, 3), 100, **options)


NO_ARRAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "found NoneType"),
    "a path": (lambda: "cat.jpg", "found str.*model.classify"),
    "Path": (lambda: Path("cat.jpg"), "found .*Path"),
    "bytes": (lambda: b"\xff\xd8", "found bytes"),
    "a number": (lambda: 7, r"\(N, H, W, 3\)"),
    "a dict": (dict, "found dict"),
    "a model": (lambda: model_of("tiny"), "found Model"),
    "a ragged list": (lambda: [[[[1, 2, 3]], [[1, 2]]]], "pixels: expected .* array.*found list"),
    "a list": (lambda: synthetic_image(1, 40, 36).tolist(), "uint8 or float32, found int64"),
    "texts": (lambda: np.full((1, 40, 36, 3), "7"), "found ndarray"),
    "objects": (lambda: np.full((1, 40, 36, 3), None), "found ndarray"),
    "dates": (lambda: np.zeros((1, 40, 36, 3), "M8[s]"), "found ndarray"),
    "complex": (lambda: np.zeros((1, 40, 36, 3), complex), "found complex128"),
    "hostile": (Hostile, "found Hostile .Can't call numpy.. on this Use something else"),
    "requires_grad": (lambda: torch_tensor(requires_grad=True), "found Tensor .*requires grad"),
    "bfloat16": (lambda: torch_tensor(dtype="bfloat16"), "found Tensor .*BFloat16"),
    "meta device": (lambda: torch_tensor(device="meta"), "found Tensor"),
}


@pytest.mark.parametrize("what", NO_ARRAYS)
@pytest.mark.parametrize("method", ["__call__", "embed", "features", "layers"])
def test_what_is_no_array_is_refused_in_one_line(tiny: Model, method: str, what: str) -> None:
    make, message = NO_ARRAYS[what]
    with pytest.raises(InputError, match=message) as raised:
        getattr(tiny, method)(make())
    assert "\n" not in str(raised.value)


def test_a_tensor_that_is_an_array_is_welcome(tiny: Model) -> None:
    answer = tiny(torch_tensor())
    np.testing.assert_array_equal(answer, tiny(np.full((1, 40, 36, 3), 100, np.float32)))


@pytest.mark.parametrize("what", NO_ARRAYS)
def test_what_is_no_photo_is_refused_in_one_line(tiny: Model, what: str) -> None:
    make, _ = NO_ARRAYS[what]
    for method in (tiny.classify, tiny.pixels):
        with pytest.raises(ImageError) as raised:
            method(make())
        assert "\n" not in str(raised.value)


WRONG = [
    ("classify", {"top": "5"}, "top='5'.*whole number from 1"),
    ("classify", {"top": 2.5}, r"top=2\.5"),
    ("classify", {"top": True}, "top=True"),
    ("classify", {"top": None}, "top=None"),
    ("classify", {"top": np.ones(3)}, "top=array"),
    ("map", {"top": "5"}, "top='5'"),
    ("map", {"workers": None}, "workers=None.*whole number from 1"),
    ("map", {"workers": "2"}, "workers='2'"),
    ("map", {"workers": 1.0}, r"workers=1\.0"),
    ("map", {"workers": False}, "workers=False"),
    *(
        (method, {"preset": preset}, "preset")
        for method in ("classify", "map", "pixels")
        for preset in (7, "", "zoom", ["tf"], np.array(["tf", "omz"]), b"tf", False)
    ),
    *(
        (method, {option: value}, option)
        for method in ("__call__", "embed", "features", "layers")
        for option in ("layout", "channels")
        for value in (None, 7, "", ["NHWC"], b"RGB", np.array("NHCW"))
    ),
]


@pytest.mark.parametrize(("method", "options", "message"), WRONG)
def test_arguments_of_wrong_types(
    tiny: Model, photo: Path, method: str, options: dict[str, Any], message: str
) -> None:
    source: Any = synthetic_image(1, 40, 36) if {"layout", "channels"} & set(options) else photo
    with pytest.raises(InputError, match=message) as raised:
        getattr(tiny, method)([source] if method == "map" else source, **options)
    assert "\n" not in str(raised.value)


def test_numpys_whole_numbers_are_welcome(tiny: Model, photo: Path) -> None:
    assert tiny.classify(photo, top=np.int64(2)) == tiny.classify(photo, top=2)


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"architecture": None}, "architecture: expected .*found None"),
    ({"architecture": "mixnet-l"}, "architecture: expected .*'mixnet-l'"),
    ({"tensors": None}, "tensors: expected a dict"),
    ({"tensors": {}}, "stem/conv/kernel: missing"),
    ({"stem/bn/gamma": None}, "stem/bn/gamma: expected a float32 array, found NoneType"),
    ({"stem/bn/gamma": [1.0] * 5}, "stem/bn/gamma: .*found list"),
    ({"stem/bn/gamma": np.ones(5)}, "stem/bn/gamma: .*found float64"),
    ({"stem/bn/gamma": np.ones(4, np.float32)}, r"stem/bn/gamma: expected \(5,\), found \(4,\)"),
    ({"stem/more": np.ones(4, np.float32)}, "stem/more: unexpected"),
    ({"metadata": {}}, "metadata: expected"),
    ({"labels": "abcdef"}, "labels: expected a tuple of texts, found 'abcdef'"),
    ({"labels": (1, 2, 3, 4, 5, 6)}, "labels: expected a tuple of texts"),
    ({"labels": np.array(list("abcdef"))}, "labels: expected a tuple of texts"),
    ({"labels": None}, "labels: .*None"),
    ({"labels": ("a", "b")}, "6 classes, but 2 labels"),
    ({"input_size": "224"}, "input_size='224'"),
    ({"input_size": 224.0}, r"input_size=224\.0"),
    ({"input_size": 0}, "input_size=0"),
    ({"mean": (1, 2)}, "mean: expected three numbers"),
    ({"mean": 5}, "mean: expected three numbers"),
    ({"mean": ("1", "2", "3")}, "mean: expected three numbers"),
    ({"mean": [[1, 2], 3, 4]}, "mean: expected three numbers"),
    ({"mean": (1, 2, float("nan"))}, "mean: expected three numbers"),
    ({"std": (1, 0, 1)}, "std: expected three numbers.* above 0"),
    ({"epsilon": "0.001"}, "epsilon: expected a number"),
    ({"epsilon": None}, "epsilon: expected a number"),
    ({"preset": 7}, "preset=7"),
    ({"preset": "zoom"}, "'zoom'"),
    ({"preset_parameters": None}, "preset_parameters: expected a dict"),
    ({"preset_parameters": {"crop": "big"}}, "crop"),
    ({"preset_parameters": {"zoom": 1}}, "zoom"),
]


@pytest.mark.parametrize(("parts", "message"), PARTS)
def test_parts_that_make_no_model(tiny: Model, parts: dict[str, Any], message: str) -> None:
    made: dict[str, Any] = {
        "architecture": TINY,
        "tensors": dict(tiny.tensors),
        "metadata": tiny.metadata,
    }
    for name, value in parts.items():
        if name in made:
            made[name] = value
        elif "/" in name:
            made["tensors"][name] = value
        else:
            made["metadata"] = replace(made["metadata"], **{name: value})
    with pytest.raises(InputError, match=message) as raised:
        Model(**made)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("weights", [7, ["mixnet-l"], b"mixnet-l", 0.5, True])
def test_load_of_no_path(weights: Any) -> None:
    with pytest.raises(InputError, match="weights: expected a path or a name"):
        tinymixnet.load(weights)


# -- too much, too large --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["__call__", "embed", "features", "layers"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(tiny: Model, method: str) -> None:
    import tracemalloc

    huge = np.broadcast_to(np.uint8(7), (5, 20_000, 20_000, 3))  # takes one byte
    tracemalloc.start()
    with pytest.raises(TinyMixNetError, match=r"20000 x 20000 pixels.*TINYMIXNET_BUDGET="):
        getattr(tiny, method)(huge)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_many_multiply_adds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinymixnet.engine.budget import budget

    model, pixels = Model(TINY, model_of("tiny").tensors), synthetic_image(1, 90, 90)
    work = TINY.multiply_adds(90, 90)
    monkeypatch.setattr(budget, "network_multiply_adds", work - 1)
    with pytest.raises(TinyMixNetError, match=f"network_multiply_adds={work}"):
        model(pixels)
    monkeypatch.setattr(budget, "network_multiply_adds", work)
    monkeypatch.setattr(budget, "plan_bytes", 10_000)
    with pytest.raises(TinyMixNetError, match=r"fast path at this input size.*plan_bytes="):
        model(pixels)
    monkeypatch.undo()
    assert np.isfinite(model(pixels)).all()


def extreme(**values: float) -> Model:
    """A model in which these tensors have one value throughout."""
    tensors = dict(model_of("tiny").tensors)
    for name, value in values.items():
        tensors[name] = np.full_like(tensors[name], value)
    return Model(TINY, tensors, Metadata(labels=LABELS, input_size=64, name="too large"))


@pytest.mark.parametrize("name", ["stem/bn/beta", "blocks_3/expand_bn/beta", "head/bn/beta"])
def test_logits_that_are_not_finite_are_an_error(photo: Path, name: str) -> None:
    """No warning either: in this module they are errors."""
    model = extreme(**{name: 3e38})
    for run in (lambda: model(synthetic_image(1, 40, 36)), lambda: model.classify(photo)):
        with pytest.raises(WeightsError, match=r"^too large: logits has NaN or infinity.*layers"):
            run()


def test_an_overflow_while_batch_norm_is_folded_is_an_error(photo: Path) -> None:
    norm = "blocks_3/expand_bn"
    model = extreme(**{f"{norm}/gamma": 3e38, f"{norm}/moving_variance": 0})
    for run in (lambda: model.embed(synthetic_image(1, 40, 36)), lambda: model.classify(photo)):
        with pytest.raises(WeightsError, match=r"^too large: blocks_3/expand/kernel_0 overflows"):
            run()
    model = Model(TINY, model_of("tiny").tensors, Metadata(input_size=64, std=(1e-300, 1, 1)))
    with pytest.raises(WeightsError, match=r"stem/kernel_0 overflows .* std "):
        model.classify(photo)


def test_a_gate_that_is_wide_open_is_no_overflow() -> None:
    model = extreme(**{"blocks_5/se_expand/bias": 3e38})
    pixels = synthetic_image(1, 40, 36)
    assert_near(model(pixels), dict(model.layers(pixels))["logits"], FOLDED)


def test_what_depends_on_the_input_size_alone_is_computed_once(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These tables take as long as a tenth of a forward pass."""
    pixels = synthetic_image(2, 45, 38)
    tiny(pixels)
    monkeypatch.setattr(type(TINY), "layer_shapes", None)
    monkeypatch.setattr(type(TINY), "multiply_adds", None)
    assert np.isfinite(tiny(pixels)).all()


def test_a_model_is_freed_at_once() -> None:
    """Without a wait for Python's collector of circular references: weights are large."""
    model = Model(TINY, model_of("tiny").tensors)
    model(synthetic_image(1, 40, 36))
    left = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert left() is None
    finally:
        gc.enable()


# -- copies ---------------------------------------------------------------------------------------


def assert_same_model(copied: Model, model: Model) -> None:
    pixels = synthetic_image(2, 45, 38)
    np.testing.assert_array_equal(copied(pixels), model(pixels))
    assert (copied.labels, copied.metadata) == (model.labels, model.metadata)
    assert copied.architecture == model.architecture
    assert repr(copied) == repr(model)


@pytest.mark.parametrize("used", [False, True])
def test_models_can_be_pickled_and_copied(used: bool) -> None:
    model = Model(TINY, model_of("tiny").tensors, model_of("tiny").metadata)
    if used:
        model(synthetic_image(1, 45, 38))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same_model(pickle.loads(pickle.dumps(model, protocol)), model)
    assert_same_model(copy.copy(model), model)
    deep = copy.deepcopy(model)
    assert_same_model(deep, model)
    for name, tensor in model.tensors.items():
        assert not np.may_share_memory(deep.tensors[name], tensor)
    assert len(pickle.dumps(model)) < 1.2 * sum(t.nbytes for t in model.tensors.values()) + 20_000


def answer_and_return(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, Model]:
    return model(pixels), model


def test_models_travel_to_a_spawned_process_and_back(tiny: Model) -> None:
    pixels = synthetic_image(2, 45, 38)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer, returned = pool.apply(answer_and_return, (tiny, pixels))
    assert_near(answer, tiny(pixels), ROUNDING)  # its BLAS may have another number of threads
    assert_same_model(returned, tiny)


@pytest.mark.parametrize("value", [-5, 262, 0, 255])
def test_pixels_that_overshoot_a_little_are_welcome(tiny: Model, value: float) -> None:
    assert np.isfinite(tiny(spoilt(value))).all()


def test_black_and_white_are_welcome(tiny: Model) -> None:
    for value in (0, 1, 255):
        for dtype in (np.uint8, np.float32):
            assert np.isfinite(tiny(np.full((1, 32, 32, 3), value, dtype))).all()


# -- what an import costs -------------------------------------------------------------------------


def python(code: str) -> Any:
    """What a fresh interpreter prints, as JSON, tinymixnet being this one."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_import_brings_in_numpy_and_the_standard_library_alone() -> None:
    new = python(
        "import json, sys, numpy; before = set(sys.modules); import tinymixnet;"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    assert "tinymixnet" in new
    assert set(new) <= {*sys.stdlib_module_names, "numpy", "tinymixnet"}


def test_import_takes_less_than_a_tenth_of_a_second_beyond_numpys() -> None:
    """In processor time, which other programs on the machine hardly touch."""
    code = (
        "import json, time, numpy; start = time.process_time(); import tinymixnet;"
        "print(json.dumps(time.process_time() - start))"
    )
    assert median(python(code) for _ in range(5)) < 0.1


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; a relative import is the package's own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "tinymixnet" if node.level == 0 else "tinymixnet"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_the_engine_imports_numpy_pillow_and_h5py_alone(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", "h5py", "tinymixnet"}
    assert {name.partition(".")[0] for name in imported(path)} <= allowed


def test_the_engines_files_were_found() -> None:
    names = {path.name for path in PACKAGE.rglob("*.py")}
    assert {"kernels.py", "architecture.py", "model.py", "weights.py", "images.py"} <= names
