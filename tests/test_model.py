"""The model's contract: what goes in, what comes out, copies, and what an import costs."""

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
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
from tinymixnet.errors import InputError
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
    half = {"crop": 0.5}
    metadata = Metadata(labels=LABELS, input_size=64, preset="square", preset_parameters=half)
    model = Model(TINY, tiny.tensors, metadata)
    wanted: list[tuple[str | None, str, dict[str, float]]] = [
        (None, "square", half),  # what the weights ask for, with their parameters
        ("square", "square", half),
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


# -- copies and memory ---------------------------------------------------------------------------


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
    """In processor time, which other programs on the machine hardly touch: the least of several."""
    code = (
        "import json, time, numpy; start = time.process_time(); import tinymixnet;"
        "print(json.dumps(time.process_time() - start))"
    )
    assert min(python(code) for _ in range(5)) < 0.1
