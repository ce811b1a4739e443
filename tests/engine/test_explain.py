"""The maps of an explanation: exact, and each value at the right place in the photo."""

import doctest
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinymixnet.engine.explain
from tests.support.colours import LABELS, STRIDE, colour_model
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model, load
from tinymixnet.engine.explain import (
    GRID,
    Explanation,
    cell_boxes,
    cell_centres,
    class_activation_maps,
    explain,
    find_label,
    grey_squares,
    occlusion_map,
    seen_of_photo,
    spread,
    strongest,
)
from tinymixnet.engine.images import PRESETS, preprocess
from tinymixnet.errors import ImageError, InputError

RED, BLUE = (255, 0, 0), (0, 0, 255)
# Odd and even numbers of cells, squares and not: (height, width) in pixels.
SIZES = [(96, 96), (128, 128), (128, 160), (224, 96), (32, 64)]


def explained(model: Model, pixels: np.ndarray, folder: Path, **options: object) -> Explanation:
    np.save(folder / "pixels.npy", pixels)
    return model.explain(folder / "pixels.npy", **options)  # type: ignore[arg-type]


def planted(size: tuple[int, int], box: tuple[int, int, int, int], colour: object) -> np.ndarray:
    """A black photo with a bright object in it."""
    pixels = np.zeros((*size, 3), np.float32)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = colour
    return pixels


def centroid(values: np.ndarray) -> tuple[float, float]:
    """The middle (x, y) of a map over pixels, in pixels."""
    y, x = np.indices(values.shape) + 0.5
    return float((x * values).sum() / values.sum()), float((y * values).sum() / values.sum())


# -- the class activation map is the logit --------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (97, 70), (128, 128)])
def test_mean_of_a_map_and_bias_are_the_logit(size: tuple[int, int]) -> None:
    model = load()
    kernel, bias = model.tensors["logits/kernel"], model.tensors["logits/bias"]
    for seed in range(2):
        pixels = synthetic_image(1, *size, seed).astype(np.float32)
        layers = dict(model.layers(pixels))
        maps = class_activation_maps(layers["head/act"][0], kernel, range(len(bias)))
        assert maps.shape == (len(bias), *layers["head/act"].shape[1:3])
        logits = maps.mean((1, 2)) + bias
        np.testing.assert_allclose(logits, layers["logits"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(logits, model(pixels)[0], rtol=0, atol=1e-4)  # other path


@pytest.mark.parametrize("size", SIZES)
def test_explanation_is_exact(size: tuple[int, int], tmp_path: Path) -> None:
    model = Model(TINY, synthetic_tensors(TINY))
    pixels = synthetic_image(1, *size, seed=3)[0].astype(np.float32)
    found = explained(model, pixels, tmp_path)
    logits = model(pixels[None])[0]
    order = np.argsort(-logits)
    assert found.indices == (order[0], order[1])
    assert found.labels == tuple(model.labels[i] for i in found.indices)
    np.testing.assert_array_equal(found.pixels, pixels)
    np.testing.assert_array_equal(found.logits, logits[order[:2]])
    mean = found.maps.mean((1, 2)) + found.biases
    np.testing.assert_allclose(mean, found.logits, rtol=0, atol=1e-5)
    total = found.contributions.sum((1, 2)) + found.biases
    np.testing.assert_allclose(total, found.logits, rtol=0, atol=1e-5)
    lead = found.advantage.sum() + found.biases[0] - found.biases[1]
    assert lead == pytest.approx(found.logits[0] - found.logits[1], abs=1e-5)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(found.probabilities, probabilities[order[:2]], rtol=1e-5)


def test_explains_another_label(tmp_path: Path) -> None:
    model = colour_model()
    pixels = planted((128, 128), (0, 0, 128, 128), RED)
    first = explained(model, pixels, tmp_path)
    assert first.labels == ("red", "neither")
    for label in (1, "blue", " BLUE ", "1"):
        other = explained(model, pixels, tmp_path, label=label)
        assert other.labels == ("blue", "red")  # the rival is the best of all others
        assert other.indices == (1, 0)
    np.testing.assert_array_equal(other.maps[1], first.maps[0])


# -- the place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_bright_object_is_in_its_cell(size: tuple[int, int], tmp_path: Path) -> None:
    """Red fills one cell and blue another, at every cell in turn: no other cell sees them."""
    model = colour_model()
    rows, columns = size[0] // STRIDE, size[1] // STRIDE
    for row in range(rows):
        for column in range(columns):
            box = (column * 32, row * 32, column * 32 + 32, row * 32 + 32)
            pixels = planted(size, box, RED)
            pixels[:, :, 2] = pixels[::-1, ::-1, 0]  # blue lies opposite
            found = explained(model, pixels, tmp_path, label="red")
            blue = explained(model, pixels, tmp_path, label="blue")
            expected = np.zeros((rows, columns))
            expected[row, column] = 1
            np.testing.assert_allclose(found.maps[0] / found.maps[0].max(), expected, atol=1e-4)
            opposite = expected[::-1, ::-1]
            np.testing.assert_allclose(blue.maps[0] / blue.maps[0].max(), opposite, atol=1e-4)
            assert tuple(found.map_boxes[row, column]) == box
            x, y = centroid(found.spread(found.maps[0]))
            assert box[0] < x < box[2]
            assert box[1] < y < box[3]
            inner = 0 < row < rows - 1 and 0 < column < columns - 1
            if inner:  # at the photo's edge the values are not blended outwards
                assert (x, y) == pytest.approx((box[0] + 16, box[1] + 16), abs=0.01)


@pytest.mark.parametrize("size", [(225, 193), (161, 225)])
def test_odd_sizes_are_placed_symmetrically(size: tuple[int, int], tmp_path: Path) -> None:
    """All five layers halve an odd size: no zero too many, and symmetric kernels shift nothing."""
    model = colour_model(symmetric=True)
    for x in (81, 97, size[1] - 81):
        for y in (73, 80, size[0] - 65):
            pixels = planted(size, (x - 8, y - 8, x + 8, y + 8), RED)
            found = explained(model, pixels, tmp_path, label="red")
            at = centroid(found.spread(found.maps[0]))
            assert at == pytest.approx((x, y), abs=1)


@pytest.mark.parametrize("axis", [0, 1])
def test_trained_weights_see_an_object_where_its_cell_is_drawn(axis: int) -> None:
    """The cat, small, at several places: less than a quarter of a cell away on average.

    Mirror images are averaged, since what matters in the picture need not be in its middle.
    """
    model = load()
    cat = Image.open(Path(__file__).parents[2] / "tinymixnet/data/cat.jpg").convert("RGB")
    small = np.asarray(cat.resize((32, 32)), np.float32)
    grey = np.tile(np.float32(model.metadata.mean), (1, 256, 256, 1))
    empty = model.features(grey)["reduction_5"]
    distances = []
    for middle in (88, 104, 120, 136, 152, 168):
        for picture in (small, small[::-1], small[:, ::-1], small[::-1, ::-1]):
            pixels = grey.copy()
            there, centre = slice(middle - 16, middle + 16), slice(112, 144)
            pixels[(0, there, centre) if axis == 0 else (0, centre, there)] = picture
            change = np.square(model.features(pixels)["reduction_5"] - empty).sum((0, 3))
            along = change.sum(1 - axis)
            along = np.clip(along - np.median(along), 0, None)
            centres = cell_centres(256, len(along), STRIDE)
            distances.append((along * centres).sum() / along.sum() - middle)
    assert abs(np.mean(distances)) < 8


def test_examples() -> None:
    assert doctest.testmod(tinymixnet.engine.explain) == (0, 1)


def test_centres_and_boxes_of_cells() -> None:
    assert cell_centres(128, 4, 32).tolist() == [16, 48, 80, 112]
    assert cell_centres(224, 7, 32).tolist() == [16, 48, 80, 112, 144, 176, 208]
    assert cell_centres(225, 8, 32).tolist() == [0.5 + 32 * i for i in range(8)]
    assert cell_centres(33, 2, 32).tolist() == [0.5, 32.5]
    boxes = cell_boxes((64, 96), (2, 3), 32)
    assert boxes[1, 2].tolist() == [64, 32, 96, 64]
    assert boxes[0, 1].tolist() == [32, 0, 64, 32]


@pytest.mark.parametrize("size", [(32, 33), (64, 65), (97, 128), (225, 224), (300, 47)])
def test_boxes_of_cells_cover_every_pixel_once(size: tuple[int, int]) -> None:
    cells = -(-size[0] // 32), -(-size[1] // 32)
    covered = np.zeros(size, int)
    for left, top, right, bottom in cell_boxes(size, cells, 32).reshape(-1, 4):
        assert left < right
        assert top < bottom
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()


def test_spread_interpolates_between_centres() -> None:
    cells = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 7.0]])
    y, x = np.array([2.5, 6.5]), np.array([1.5, 5.5, 9.5])
    values = spread(cells, y, x, 9, 12)
    assert values.shape == (9, 12)
    np.testing.assert_allclose(values[[2, 2, 2, 6, 6], [1, 5, 9, 1, 9]], [0, 1, 5, 2, 7])
    assert values[4, 1] == pytest.approx(1)  # half way down
    assert values[2, 3] == pytest.approx(0.5)  # half way to the right
    np.testing.assert_allclose(values[:3, 10:], 5)  # beyond the outer centres
    np.testing.assert_allclose(values[7:, 0], 2)


def test_strongest_cells_in_order() -> None:
    cells = np.array([[1.0, 9.0, 3.0], [4.0, 4.0, -2.0]])
    assert strongest(cells, 3) == [(0, 1), (1, 0), (1, 1)]
    assert strongest(-cells, 1) == [(1, 2)]


# -- the occlusion map ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (64, 160), (97, 33), (32, 500)])
def test_grey_squares_cover_the_photo(size: tuple[int, int]) -> None:
    boxes = grey_squares(*size)
    assert max(boxes.shape[:2]) == GRID
    covered = np.zeros(size, int)
    for left, top, right, bottom in boxes.reshape(-1, 4):
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    left, top, right, bottom = boxes[boxes.shape[0] // 2, boxes.shape[1] // 2]
    assert right - left == pytest.approx(min(0.3 * max(size), size[1]), rel=0.2)
    assert bottom - top == pytest.approx(min(0.3 * max(size), size[0]), rel=0.2)


@pytest.mark.parametrize("size", [(96, 96), (128, 160), (160, 96)])
def test_hiding_the_object_lowers_its_label(size: tuple[int, int], tmp_path: Path) -> None:
    model = colour_model()
    for x, y in ((0.25, 0.25), (0.75, 0.25), (0.5, 0.5), (0.25, 0.85), (0.8, 0.75)):
        at = round(x * size[1]), round(y * size[0])
        pixels = planted(size, (at[0] - 8, at[1] - 8, at[0] + 8, at[1] + 8), RED)
        found = explained(model, pixels, tmp_path, label="red")
        assert found.occlusion.shape == found.occlusion_boxes.shape[:2]
        before = found.probabilities[0]
        for box, value in zip(
            found.occlusion_boxes.reshape(-1, 4), found.occlusion.ravel(), strict=True
        ):
            left, top, right, bottom = box
            inside = left <= at[0] - 8 and top <= at[1] - 8
            inside = inside and at[0] + 8 <= right and at[1] + 8 <= bottom
            apart = at[0] + 8 <= left or right <= at[0] - 8
            apart = apart or at[1] + 8 <= top or bottom <= at[1] - 8
            if inside:
                assert value < before
                assert value == pytest.approx(found.occlusion.min(), abs=1e-6)
            if apart:
                assert value == pytest.approx(before, abs=1e-6)


def test_occlusion_paints_the_grey_and_changes_nothing_else() -> None:
    pixels = synthetic_image(1, 40, 60)[0].astype(np.float32)
    original = pixels.copy()
    boxes = grey_squares(40, 60)
    seen = []

    def probability(hidden: np.ndarray) -> np.ndarray:
        assert hidden.shape == (1, 40, 60, 3)
        seen.append(hidden[0])
        return np.array([len(seen)], np.float32)

    values = occlusion_map(pixels, boxes, (1, 2, 3), probability)
    np.testing.assert_array_equal(pixels, original)
    np.testing.assert_array_equal(values.ravel(), np.arange(values.size) + 1)
    for hidden, (left, top, right, bottom) in zip(seen, boxes.reshape(-1, 4), strict=True):
        assert (hidden[top:bottom, left:right] == (1, 2, 3)).all()
        outside = np.ones((40, 60), bool)
        outside[top:bottom, left:right] = False
        np.testing.assert_array_equal(hidden[outside], original[outside])


def test_progress_is_told_of_every_run() -> None:
    pixels, boxes = np.zeros((32, 32, 3), np.float32), grey_squares(32, 32)
    runs: list[int] = []

    def progress(numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            runs.append(number)
            yield number

    occlusion_map(pixels, boxes, (0, 0, 0), lambda x: np.zeros(1), progress)
    assert runs == list(range(GRID * GRID))


# -- the place in the original photo --------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (257, 256), (90, 91)])
def test_place_in_the_photo(preset: str, size: tuple[int, int]) -> None:
    """A photo whose colours are its own coordinates tells where the preset took them from."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, width)[None]
    ramp[..., 1] = np.linspace(0, 250, height)[:, None]
    seen = preprocess(Image.fromarray(ramp), preset, 64)
    box = seen_of_photo(preset, PRESETS[preset][1], width, height, 64)
    assert box is not None
    left, top, right, bottom = box
    for value, edge, length in (
        (seen[32, 4, 0], left + (right - left) * 4.5 / 64, width),
        (seen[32, 59, 0], left + (right - left) * 59.5 / 64, width),
        (seen[4, 32, 1], top + (bottom - top) * 4.5 / 64, height),
        (seen[59, 32, 1], top + (bottom - top) * 59.5 / 64, height),
    ):
        assert value / 250 * length == pytest.approx(edge, abs=0.012 * length + 2)


def test_box_in_the_photo() -> None:
    model = colour_model()
    photo = np.zeros((200, 300, 3), np.uint8)
    found = model.explain(photo, size=64)
    assert found.photo_box == pytest.approx((50, 0, 250, 200))
    assert found.in_photo((32, 16, 64, 32)) == pytest.approx((150, 50, 250, 100))
    assert repr(found) == "Explanation(neither 54.7%, red 33.1%, 2 x 2 cells)"
    turned = model.explain(photo, preset="tf")
    assert turned.photo_box is not None
    assert turned.photo_box[2] - turned.photo_box[0] == 175
    assert seen_of_photo("something else", {}, 10, 10, 10) is None


# -- the arguments --------------------------------------------------------------------------------


def test_labels_by_name_and_index() -> None:
    labels = ("tench", "Egyptian cat", "tabby cat", "crane", "crane", "7")
    assert find_label("tench", labels) == 0
    assert find_label("egyptian CAT ", labels) == 1
    assert find_label(2, labels) == 2
    assert find_label("3", labels) == 3
    assert find_label("7", labels) == 5  # a name comes before an index
    assert find_label(np.int64(4), labels) == 4  # type: ignore[arg-type]
    for label, words in (
        ("cat", "did you mean 'Egyptian cat' (1) or 'tabby cat' (2)?"),
        ("egiptian cat", "'Egyptian cat' (1)"),
        ("crane", "[3, 4]"),
        ("xyz", "one of the 6"),
        ("", "one of the 6"),
        ("99", "0 to 5"),
        (-1, "0 to 5"),
        (True, "bool"),
        (None, "NoneType"),
        ("9" * 5000, "one of the 6"),
        ("a" * 100_000, "one of the 6"),
    ):
        with pytest.raises(InputError) as error:
            find_label(label, labels)  # type: ignore[arg-type]
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


def test_wrong_arguments(tmp_path: Path) -> None:
    model = colour_model()
    photo = np.zeros((40, 40, 3), np.uint8)
    for size in (31, 5000, 64.0, "64", True):
        with pytest.raises(InputError, match="32 to 4096"):
            model.explain(photo, size=size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no preset"):
        model.explain(photo, preset="none")
    np.save(tmp_path / "two.npy", np.zeros((2, 64, 64, 3), np.float32))
    with pytest.raises(ImageError, match="2 images"):
        model.explain(tmp_path / "two.npy")
    np.save(tmp_path / "one.npy", np.zeros((64, 64, 3), np.float32))
    with pytest.raises(InputError, match="as they are"):
        model.explain(tmp_path / "one.npy", size=64)
    with pytest.raises(InputError, match="one class only"):
        explain(
            np.zeros((32, 32, 3), np.float32),
            np.zeros((1, 1, 2)),
            {},
            ["all"],
            32,
            model,
            (0, 0, 0),
        )


def test_size_of_the_weights_or_another() -> None:
    model = colour_model()
    photo = synthetic_image(1, 200, 200)[0]
    assert model.explain(photo).pixels.shape == (128, 128, 3)
    found = model.explain(photo, size=224)
    assert found.pixels.shape == (224, 224, 3)
    assert found.maps.shape == (2, 7, 7)


def test_json_has_all_numbers(tmp_path: Path) -> None:
    found = explained(colour_model(), planted((64, 96), (0, 0, 32, 32), RED), tmp_path)
    read = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert read["size"] == [64, 96]
    assert read["photo_box"] is None
    assert [one["label"] for one in read["labels"]] == list(found.labels)
    first = read["labels"][0]
    assert np.mean(first["map"]) + first["bias"] == pytest.approx(first["logit"], abs=1e-5)
    np.testing.assert_allclose(read["occlusion"], found.occlusion)
    np.testing.assert_array_equal(read["occlusion_boxes"], found.occlusion_boxes)
    np.testing.assert_array_equal(read["map_boxes"], found.map_boxes)
    found.maps[0, 0, 0] = np.inf
    broken = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert broken["labels"][0]["map"][0][0] is None
    assert LABELS[found.indices[0]] == found.labels[0]
