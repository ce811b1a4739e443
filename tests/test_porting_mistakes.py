"""The page on porting mistakes shows what happens: its table, its pictures, its answers."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from docs.make_porting_mistakes import (
    PAGE,
    PHOTO,
    near,
    planted_runs,
    rows_of,
    same_answer,
    stale_parts,
)
from docs.mistake_pictures import PICTURES, draw, first_map, is_like, path_of
from tests.support.planted import BUGS, IN_MIXNET_L
from tests.support.tensorflow_reference import import_tensorflow
from tinymixnet import load

TEXT = PAGE.read_text("utf-8")
SHOWN = re.findall(r"!\[([^\]]+)\]\(mistakes/([^)]+)\)", TEXT)
# A mistake in the photo, one in a layer with maps, one without maps: two of them have pictures.
SOME = ("bgr", "symmetric padding", "no logits bias")


@pytest.fixture(scope="module")
def right():
    model = load()
    return dict(model.layers(model.pixels(PHOTO)))


def test_the_table_has_every_planted_mistake_with_its_cause():
    rows = {row[0]: row[4] for row in rows_of(TEXT)}
    assert rows == {
        name: ", ".join(bug.causes) for name, bug in BUGS.items() if name in IN_MIXNET_L
    }


def test_the_right_answer_is_that_of_the_bundled_weights():
    assert stale_parts(TEXT, []) == []


def test_the_page_shows_every_picture_that_is_made_and_no_other():
    assert len(PICTURES) >= 8
    assert set(PICTURES) <= set(BUGS)
    assert [name for _, name in SHOWN] == [path_of(mistake).name for mistake in PICTURES]
    assert {name for _, name in SHOWN} == {path.name for path in path_of("").parent.iterdir()}
    assert all(len(alt) > 20 for alt, _ in SHOWN)


@pytest.mark.parametrize("mistake", PICTURES)
def test_a_picture_is_small_and_stands_on_white(mistake):
    from PIL import Image

    assert path_of(mistake).stat().st_size < 60_000
    with Image.open(path_of(mistake)) as picture:
        assert picture.width == 900
        assert "transparency" not in picture.info
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.fixture(scope="module")
def tensorflow():
    """TensorFlow; in CI its absence is a failure, elsewhere a reason to skip."""
    if os.environ.get("CI") != "true":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    return import_tensorflow()


@pytest.mark.usefixtures("tensorflow")
def test_a_sample_of_the_page_is_what_tensorflow_gives(right):
    rows = []
    for name, layers, row in planted_runs(SOME):
        rows.append(row)
        if name in PICTURES:
            assert is_like(path_of(name), draw(name, right, layers))
    assert stale_parts(TEXT, rows) == []


@pytest.mark.whole
@pytest.mark.usefixtures("tensorflow")
def test_the_whole_page_is_what_tensorflow_gives():
    command = [sys.executable, "-m", "docs.make_porting_mistakes", "--check"]
    run = subprocess.run(
        command, cwd=PAGE.parents[1], capture_output=True, text=True, timeout=3600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_changed_row_is_noticed():
    row = next(row for row in rows_of(TEXT) if row[0] == "symmetric padding")
    assert stale_parts(TEXT, [row]) == []
    for i, other in enumerate(["symmetry", "nothing 1%", "head/act", "9.9", "bgr", "9 to 9"]):
        changed = [*row[:i], other, *row[i + 1 :]]
        assert len(stale_parts(TEXT, [changed])) == 1


def test_what_another_machine_may_round_differently():
    assert near("0.61", "0.62")
    assert near("shape", "shape")
    assert not near("0.61", "0.72")
    assert not near("rounding", "0.00002")
    assert same_answer("banana 51%", "banana 52%")
    assert not same_answer("banana 51%", "banana 53%")
    assert not same_answer("banana 51%", "sock 51%")
    assert not same_answer("banana 51%", "")


def test_the_map_that_is_shown_is_the_first_and_furthest_off(right):
    def wrong(layer, channel):
        layers = dict(right)
        layers["blocks_3/se_gate"] = 2 * right["blocks_3/se_gate"]  # has no map
        layers[layer] = right[layer].copy()
        layers[layer][..., channel] += 1
        layers[layer][0, 0, 0, channel - 1] += 5  # a single value does not count for more
        return layers

    assert first_map(right, wrong("blocks_3/se_scale", 7)) == ("blocks_3/se_scale", 7)
    assert first_map(right, wrong("stem/conv", 5)) == ("stem/conv", 5)
    with pytest.raises(ValueError, match="differs"):
        first_map(right, right)


def test_another_picture_is_noticed(right, tmp_path):
    def with_error_in(channel):
        layers = dict(right)
        layers["stem/conv"] = right["stem/conv"].copy()
        layers["stem/conv"][..., channel] *= np.float32(1.5)
        return draw("planted", right, layers)

    one, other = with_error_in(3), with_error_in(4)
    one.save(tmp_path / "one.png")
    assert is_like(tmp_path / "one.png", one)
    assert not is_like(tmp_path / "one.png", other)
    assert not is_like(tmp_path / "none.png", one)
