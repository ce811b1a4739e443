"""What the model refuses: wrong arrays, arguments and parts, too much work, numbers too large."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image
from tests.test_model import FOLDED, LABELS, assert_near, floats, model_of
from tinymixnet.engine.budget import budget
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, WeightsError
from tinymixnet.model import Model

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def tiny() -> Model:
    return model_of("tiny")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(synthetic_image(1, 90, 120)[0]).save(path)
    return path


# -- pixels ---------------------------------------------------------------------------------------


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
    "None": (lambda: None, "NoneType"),
    "a path": (lambda: "cat.jpg", r"shape \(\) of str"),
    "Path": (lambda: Path("cat.jpg"), r"shape \(\) of \w*Path"),
    "bytes": (lambda: b"\xff\xd8", r"shape \(\) of bytes"),
    "a number": (lambda: 7, r"\(N, H, W, 3\)"),
    "a dict": (dict, r"shape \(\) of dict"),
    "a model": (lambda: model_of("tiny"), r"shape \(\) of Model"),
    "a ragged list": (lambda: [[[[1, 2, 3]], [[1, 2]]]], "pixels: expected .* array.*found list"),
    "a list": (lambda: synthetic_image(1, 40, 36).tolist(), "uint8 or float32, found int64"),
    "texts": (lambda: np.full((1, 40, 36, 3), "7"), "uint8 or float32, found <U1"),
    "objects": (lambda: np.full((1, 40, 36, 3), None), "uint8 or float32, found object"),
    "dates": (lambda: np.zeros((1, 40, 36, 3), "M8[s]"), "uint8 or float32, found datetime64"),
    "complex": (lambda: np.zeros((1, 40, 36, 3), complex), "found complex128"),
    "hostile": (Hostile, "found Hostile .*Can't call numpy.. on this"),
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


@pytest.mark.parametrize("value", [-5, 262, 0, 255])
def test_pixels_that_overshoot_a_little_are_welcome(tiny: Model, value: float) -> None:
    assert np.isfinite(tiny(spoilt(value))).all()


def test_black_and_white_are_welcome(tiny: Model) -> None:
    for value in (0, 1, 255):
        for dtype in (np.uint8, np.float32):
            assert np.isfinite(tiny(np.full((1, 32, 32, 3), value, dtype))).all()


# -- arguments and parts of wrong types ------------------------------------------------------------

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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_more_images_than_there_is_memory_for(tiny: Model, dtype: type) -> None:
    pixels = np.broadcast_to(dtype(7), (10**14, 40, 40, 3))
    with pytest.raises(InputError, match="too many images for the memory there is"):
        tiny(pixels)
    with pytest.raises(InputError, match="too many images for the memory there is"):
        next(tiny.layers(pixels))


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_a_value_that_cannot_be_shown_is_refused_by_its_type(tiny: Model) -> None:
    with pytest.raises(InputError, match=r"weights: .*found <NoRepr>"):
        tinymixnet.load(NoRepr())  # type: ignore[arg-type]
    for value in (NoRepr(), np.zeros((9, 9, 9))):
        with pytest.raises(InputError) as refused:
            tiny(floats(1, 40, 40), layout=value)  # type: ignore[arg-type]
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 200


def test_every_error_is_one_line_without_control_characters() -> None:
    for error in (TinyMixNetError, InputError, ImageError, WeightsError):
        assert str(error("a\x1b[2J\nb \u202e")) == r"a\x1b[2J\nb \u202e"
    assert len(str(InputError("x" * 5000))) == 5000


def test_names_of_weights_are_shown_escaped(tmp_path: Path) -> None:
    for path in ("gone\x1b[2J.h5", str(tmp_path / "cat\x1b[2J\n.h5")):
        with pytest.raises(WeightsError) as refused:
            tinymixnet.load(path)
        assert str(refused.value).isprintable()
        Path(tmp_path, "cat\x1b[2J\n.h5").write_bytes(b"none")


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


def test_explain_keeps_one_copy_of_the_photo(
    tiny: Model, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo may be so large that there is memory for one copy only."""
    monkeypatch.setattr(Image.Image, "copy", lambda _: pytest.fail("the photo was copied"))
    tiny.explain(photo, size=32)
