"""The explanation as words, page and picture; the maps have their colours in the right place."""

import base64
import doctest
import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.chromium import PROGRAM, Browser
from tests.support.colours import colour_model
from tests.support.synthetic import synthetic_image
from tinymixnet import Model
from tinymixnet.cli import main
from tinymixnet.engine.explain import Explanation
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError
from tinymixnet.report import explanation_words
from tinymixnet.report.explanation import (
    fragment,
    is_own_page,
    is_own_picture,
    page,
    write_explanation,
)
from tinymixnet.report.explanation_pictures import (
    FOR,
    blend,
    falls,
    map_picture,
    occlusion_picture,
    overlay,
    panels,
    photo,
    picture,
)
from tinymixnet.report.explanation_words import part_name, percent, sentence, text, where_seen

CAT = Path(__file__).parents[2] / "tinymixnet/data/cat.jpg"
HACK = '<script>window.hacked=1</script>"><img src=x onerror=window.hacked=1>\x1b[2J\n\u202e'
PLACES = [(0, 0), (0, 3), (1, 1), (2, 0), (3, 2), (3, 4)]  # (row, column) of cells in 4 x 5


def explained(model: Model, pixels: np.ndarray, folder: Path, label: str = "red") -> Explanation:
    np.save(folder / "pixels.npy", pixels)
    return model.explain(folder / "pixels.npy", label)


def red_cell(row: int, column: int, size: tuple[int, int] = (128, 160)) -> np.ndarray:
    """A dark photo of which one cell is red."""
    pixels = np.full((*size, 3), 8, np.float32)
    pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 255, 0, 0
    return pixels


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    pixels = red_cell(1, 3)
    pixels[96:, :64, 2] = 200  # blue at the bottom left
    return explained(colour_model(), pixels, tmp_path_factory.mktemp("pixels"))


def orange(image: object) -> np.ndarray:
    """How orange, and not blue, each pixel of a picture is."""
    pixels = np.asarray(image).astype(int)
    return pixels[..., 0] - pixels[..., 2]


def middle_of_orange(image: object) -> tuple[float, float]:
    """The middle (x, y) of what is clearly more orange than the rest."""
    values = orange(image)
    y, x = np.nonzero(values > 0.6 * values.max())
    return float(x.mean()) + 0.5, float(y.mean()) + 0.5


# -- the place of colours -------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), PLACES)
def test_drawn_maps_are_orange_where_the_object_is(row: int, column: int, tmp_path: Path) -> None:
    found = explained(colour_model(), red_cell(row, column), tmp_path)
    scale = 3  # 160 pixels, enlarged to about 448
    box = np.array([column, row, column + 1, row + 1]) * 32 * scale
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    largest = float(found.contributions.max())
    drawn = map_picture(found, found.contributions[0], largest)
    assert drawn.size == (160 * scale, 128 * scale)
    assert middle_of_orange(drawn) == pytest.approx(centre, abs=10 * scale)
    # Without the outlines: the colours themselves.
    for values in (found.spread(found.contributions[0]) / largest, falls(found)):
        plain = overlay(np.full_like(found.pixels, 100), values)
        assert middle_of_orange(plain) == pytest.approx((centre[0] / 3, centre[1] / 3), abs=9)
    lines = orange(occlusion_picture(replace(found, pixels=np.full_like(found.pixels, 100))))
    y, x = np.nonzero(lines == orange(np.uint8([[FOR]]))[0, 0])  # all of the object is inside
    assert x.min() <= box[0] + 9
    assert y.min() <= box[1] + 9
    assert x.max() >= box[2] - 9
    assert y.max() >= box[3] - 9
    assert max(np.ptp(x), np.ptp(y)) <= 3 * 48


@pytest.mark.parametrize("size", [(96, 96), (128, 128), (224, 224), (160, 96), (448, 448)])
def test_outline_is_around_its_cell(size: tuple[int, int], tmp_path: Path) -> None:
    """Red in the last cell of the first row: its outline is at its edges, in the drawn pixels."""
    column = size[1] // 32 - 1
    found = explained(colour_model(), red_cell(0, column, size), tmp_path)
    flat = replace(found, pixels=np.full_like(found.pixels, 100))
    cells = np.zeros_like(found.contributions[0])
    cells[0, column] = 1
    drawn = np.asarray(map_picture(flat, cells, 1e9)).astype(int)  # next to no colour
    scale = max(round(448 / max(size)), 1)
    assert drawn.shape == (size[0] * scale, size[1] * scale, 3)
    ground = drawn[-1, 0]
    y, x = np.nonzero(np.abs(drawn - ground).sum(-1) > 30)
    box = column * 32 * scale, 0, size[1] * scale, 32 * scale
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == pytest.approx(box, abs=2)


def test_dashed_blue_outline_is_around_what_speaks_against(explanation: Explanation) -> None:
    flat = replace(explanation, pixels=np.full_like(explanation.pixels, 100))
    cells = np.zeros_like(explanation.contributions[0])
    cells[3, 1] = -1
    drawn = orange(map_picture(flat, cells, 1e9))
    y, x = np.nonzero(drawn < -60)
    assert (x.min(), y.min()) == pytest.approx((32 * 3, 96 * 3), abs=4)
    assert (x.max(), y.max()) == pytest.approx((64 * 3, 128 * 3), abs=4)
    line = drawn[y.min(), x.min() : x.max()] < -60
    assert np.count_nonzero(np.diff(line.astype(int))) > 6  # dashes


def test_all_pictures_stand_in_the_large_one(explanation: Explanation) -> None:
    large = np.asarray(picture(explanation))
    lefts = []
    for i in (0, 1, 2, 4):
        part = np.asarray(panels(explanation)[i].image)
        h, w, _ = part.shape
        places = [
            (y, x)
            for y, x in zip(*np.nonzero((large[:, :, :] == part[0, 0]).all(-1)), strict=True)
            if large[y : y + h, x : x + w].shape == part.shape
            and np.array_equal(large[y, x : x + w], part[0])
            and np.array_equal(large[y : y + h, x : x + w], part)
        ]
        assert len(places) == 1
        lefts.append(places[0][1])
    assert lefts == sorted(lefts)


def test_photo_is_what_the_network_saw(explanation: Explanation) -> None:
    drawn = np.asarray(photo(explanation))
    np.testing.assert_array_equal(drawn[1::3, 1::3], np.rint(explanation.pixels).astype(np.uint8))
    huge = replace(explanation, pixels=np.zeros((900, 300, 3), np.float32))
    assert photo(huge).size == (149, 448)


def test_colours_grow_away_from_grey() -> None:
    values = np.array([[-1, -0.5, 0, 0.5, 1]], np.float32)
    for grey in (0, 128, 255):
        score = orange(blend(np.full(values.shape, grey, np.float32), values))[0]
        assert (np.diff(score) > 10).all()
        assert score[2] == 0
    light = blend(np.array([[0, 255]], np.float32), np.ones((1, 2)))
    assert (light[0, 1].astype(int) - light[0, 0] > 60).any()  # shapes show through the colour
    assert blend(np.zeros((1, 1), np.float32), np.array([[np.nan]])).shape == (1, 1, 3)


# -- words ----------------------------------------------------------------------------------------


def test_sentence_names_the_places(explanation: Explanation) -> None:
    probabilities = np.array([0.977, 0.012], np.float32)
    lower = np.full_like(explanation.occlusion, 0.977)
    lower[3, 7] = 0.41  # of 8 x 10 places: where red is
    falls = replace(explanation, probabilities=probabilities, occlusion=lower)
    assert sentence(falls) == (
        "97.7 % red, then blue with 1.2 %. The part on the right speaks for it most: hidden by "
        "a grey square there, it falls to 41 %."
    )
    lower = np.full_like(lower, 0.977)
    lower[7, 0] = 0.5
    elsewhere = replace(falls, occlusion=lower)
    assert sentence(elsewhere).endswith(
        "The part on the right speaks for it most. A grey square at the bottom left lowers it "
        "most, to 50 %."
    )
    assert "it does not fall" in sentence(replace(falls, occlusion=np.full_like(lower, 0.98)))
    against = replace(falls, maps=falls.maps - falls.maps.max() - 1)
    assert "Every part speaks against it, the one on the right least" in sentence(against)
    behind = replace(falls, probabilities=np.array([0.01, 0.9], np.float32))
    assert sentence(behind).startswith("1.0 % red, after blue with 90.0 %.")


def test_percentages_and_places() -> None:
    assert doctest.testmod(explanation_words) == (0, 1)
    texts = {0.977: "97.7 %", 0.41: "41 %", 0.056: "5.6 %", 0.0021: "0.21 %", 1: "over 99.9 %"}
    texts |= {1e-7: "under 0.01 %", 0: "under 0.01 %", 0.9: "90.0 %", 0.1: "10 %"}
    assert {value: percent(value) for value in texts} == texts
    names = [part_name(row, column) for row in range(3) for column in range(3)]
    assert len(set(names)) == 9
    assert part_name(0, 2) == "at the top right"
    assert part_name(1, 0) == "on the left"


def test_text_draws_the_maps_with_characters(explanation: Explanation) -> None:
    lines = text(explanation).splitlines()
    assert lines[0] == sentence(explanation)
    maps = lines[3:7]
    assert [line[2:17].find("++") // 3 for line in maps] == [
        -1,
        3,
        -1,
        -1,
    ]  # a cell is two signs and a space
    assert max(map(len, lines[1:])) < 80


def test_text_of_a_large_map_is_coarse(explanation: Explanation) -> None:
    maps = np.zeros((2, 21, 32), np.float32)
    maps[0, :2, -7:] = 1
    lines = text(replace(explanation, maps=maps)).splitlines()
    assert len(lines) == 15
    assert lines[3][:31].split() == ["."] * 8 + ["++"] * 2
    assert lines[4].split() == ["."] * 20
    assert max(map(len, lines[1:])) < 80


def test_words_escape_what_a_label_holds(explanation: Explanation) -> None:
    evil = replace(explanation, labels=(HACK, HACK))
    for shown in (sentence(evil), *text(evil).splitlines()):
        assert shown.isprintable()
    whole = page(evil, HACK)
    assert "<script" not in whole
    assert "<img src=x" not in whole
    assert "\x1b" not in whole
    picture(evil)  # draws what it can
    picture(replace(explanation, labels=("кот é" * 99, "猫")))


@pytest.mark.parametrize("size", [(32, 32), (32, 160), (160, 32), (65, 500)])
def test_photos_of_any_shape_are_explained(size: tuple[int, int], tmp_path: Path) -> None:
    found = explained(colour_model(), synthetic_image(1, *size)[0], tmp_path)
    if size == (32, 32):  # one cell
        assert "The part in the middle speaks for it most" in sentence(found)
    assert picture(found).height > 250
    assert page(found, "photo").count("<img") > 5
    assert len(text(found).splitlines()) >= 6


def test_says_what_part_of_the_photo_was_seen(explanation: Explanation) -> None:
    assert where_seen(explanation) == "The maps lie over what the network saw, 160 × 128 pixels."
    placed = replace(explanation, photo_box=(75.4, 0.0, 375.4, 300.0))
    assert "columns 75 to 375 and rows 0 to 300 of the photo" in where_seen(placed)


# -- the page -------------------------------------------------------------------------------------


def test_page_holds_the_pictures(explanation: Explanation) -> None:
    whole = page(explanation, "folder/photo.png")
    sources = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]+)"', whole)
    assert whole.count("<img") == len(sources) >= 5
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data, _ in sources]
    for image, panel in zip(images, panels(explanation), strict=False):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(panel.image))
    assert "<title>Why red? photo.png</title>" in whole
    assert "http" not in whole.replace("http-equiv", "")
    assert fragment(explanation) in whole


def test_patches_are_cut_from_their_cells(explanation: Explanation) -> None:
    """The first patch that speaks for red is red, and only that one."""
    whole = fragment(explanation)
    patches = whole[whole.index('class="patches"') :]
    found = re.findall(r'base64,([^"]*)" alt="Patch in row (\d), column (\d)"', patches)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0][0]))))
    assert found[0][1:] == ("2", "4")  # counted from 1
    assert (image == (255, 0, 0)).all()


@pytest.mark.skipif(not PROGRAM, reason="needs Chromium")
def test_page_in_a_browser(explanation: Explanation, tmp_path: Path) -> None:
    evil = replace(explanation, labels=(HACK, "neither " * 20))
    (tmp_path / "page.html").write_text(page(evil, HACK), "utf-8")
    browser = Browser()
    try:
        for width, scheme in ((1280, "light"), (390, "dark")):
            address = (tmp_path / "page.html").as_uri()
            browser.open(address, width=width, prefers_color_scheme=scheme)
            assert browser.js("window.hacked") is None
            assert browser.js("document.documentElement.scrollWidth") <= width
            assert browser.js("[...document.images].every(i => i.naturalWidth > 0)")
            smallest = browser.js(
                "Math.min(...[...document.querySelectorAll('body *')].map("
                "e => parseFloat(getComputedStyle(e).fontSize)))"
            )
            assert smallest >= 12
            errors = [e for e in browser.events if e["method"] == "Log.entryAdded"]
            assert not errors
    finally:
        browser.close()


# -- files and the command ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model, path = colour_model(), tmp_path_factory.mktemp("weights") / "colours.h5"
    write_weights(path, Weights(model.architecture, dict(model.tensors), model.metadata))
    return str(path)


@pytest.fixture
def red_photo(tmp_path: Path) -> str:
    """A photo of which the network sees the middle; red on the right of what it sees."""
    pixels = synthetic_image(1, 128, 256)[0] // 8
    pixels[32:96, 144:190] = 255, 0, 0
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_command_tells_draws_and_counts(
    red_photo: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", red_photo, "--weights", weights]) == 0
    told = capsys.readouterr()
    assert "% red, then" in told.out
    assert "The part on the right speaks for it most" in told.out
    assert told.err == ""

    assert main(["explain", red_photo, "--weights", weights, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["image"] == red_photo
    assert read["labels"][0]["label"] == "red"
    assert read["photo_box"] == [64, 0, 192, 128]

    for name in ("page.html", "picture.png", "PAGE.HTM"):
        output = str(tmp_path / name)
        for _ in range(2):  # its own earlier output is replaced
            assert main(["explain", red_photo, "--weights", weights, "-o", output]) == 0
            assert capsys.readouterr().out.splitlines()[-1] == output
    assert is_own_page(tmp_path / "page.html")
    assert is_own_picture(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as drawn:
        assert drawn.width > 1000

    assert main(["explain", red_photo, "--weights", weights, "--label", "blue"]) == 0
    assert "% blue, after red" in capsys.readouterr().out
    assert main(["explain", red_photo, "--weights", weights, "--size", "64"]) == 0


def test_command_mistakes_are_one_line(
    red_photo: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.html").write_text("<!DOCTYPE html><p>mine")
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    original = Path(red_photo).read_bytes()
    for more, words in (
        (["--label", "rad"], "did you mean 'red' (0)?"),
        (["--label", "9"], "0 to 2"),
        (["--size", "7"], "32 to 4096"),
        (["-o", str(tmp_path / "page.pdf")], ".html (a page) or .png (a picture)"),
        (["-o", str(tmp_path / "none/page.html")], "make it first"),
        (["-o", red_photo], "an input of this command"),
        (["-o", str(tmp_path / "own.html")], "did not write"),
        (["-o", str(tmp_path / "other.png")], "did not write"),
    ):
        assert main(["explain", red_photo, "--weights", weights, *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert words in told.err
        assert told.err.count("\n") == 1
    assert main(["explain", str(tmp_path / "no.jpg"), "--weights", weights]) == 2
    assert "no such file" in capsys.readouterr().err
    assert Path(red_photo).read_bytes() == original


def test_writes_only_over_its_own(explanation: Explanation, tmp_path: Path) -> None:
    write_explanation(explanation, "photo", tmp_path / "a.png")
    write_explanation(explanation, "photo", tmp_path / "a.png")
    stolen = tmp_path / "b.png"
    Image.open(tmp_path / "a.png").copy().save(stolen)  # somebody else's PNG of the same pixels
    with pytest.raises(InputError, match="did not write"):
        write_explanation(explanation, "photo", stolen)
    (tmp_path / "c.html").symlink_to(tmp_path / "d.html")
    with pytest.raises(InputError, match="symbolic link"):
        write_explanation(explanation, "photo", tmp_path / "c.html")
    (tmp_path / "e.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # cut short
    with pytest.raises(InputError, match="did not write"):
        write_explanation(explanation, "photo", tmp_path / "e.png")


def test_bundled_weights_explain_the_bundled_photo(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["explain", str(CAT), "--size", "96"]) == 0
    assert " %" in capsys.readouterr().out
