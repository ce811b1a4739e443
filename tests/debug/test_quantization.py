"""Integers in a dump: what a JSON file beside it says they stand for, or what ours lets guess."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.compare import compare, isolated
from tinymixnet.debug.dumps import Dump, open_dump
from tinymixnet.debug.quantization import guess_quantization
from tinymixnet.errors import TraceError
from tinymixnet.model import Model

SIDES = 64, 96
MODEL = Model(TINY, synthetic_tensors(TINY))
PIXELS = synthetic_image(1, *SIDES)
OURS = dict(MODEL.layers(PIXELS))
COARSE = 0.01  # error of 8 bits in a tensor, relative to its largest value


def quantised(x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, Any, Any]:
    """Return (uint8, scale, zero point), one for the tensor or one for each channel."""
    axes = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    low, high = np.minimum(x.min(axes), 0), np.maximum(x.max(axes), 0)
    scale = np.maximum(high - low, 1e-6) / 255
    zero = np.round(-low / scale)
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = -1
    q = np.round(x / scale.reshape(shape)) + zero.reshape(shape)
    return q.clip(0, 255).astype(np.uint8), scale.tolist(), zero.tolist()


def opened(path: Path, tensors: dict[str, np.ndarray], about: Any, folder: bool) -> Dump:
    """Write a dump of this and the JSON file beside it, and open it."""
    if folder:
        path = path / "theirs"
        path.mkdir(exist_ok=True)
        for name, x in tensors.items():
            np.save(path / f"{name.replace('/', '_')}.npy", x)
        beside = path / "quantization.json"
    else:
        np.savez(path / "theirs.npz", **{n.replace("/", "_"): x for n, x in tensors.items()})
        beside, path = path / "theirs.json", path / "theirs.npz"
    if about is not None:
        beside.write_text(about if isinstance(about, str) else json.dumps(about))
    return open_dump(path, TINY, 1, *SIDES)


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "npz"])
@pytest.mark.parametrize("by_channel", [False, True], ids=["tensor", "channel"])
def test_scales_in_a_file_beside(tmp_path: Path, folder: bool, by_channel: bool) -> None:
    tensors, about = {"image": PIXELS}, {}
    for name, x in OURS.items():
        if name == "image":
            continue
        theirs = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x  # a port in NCHW
        tensors[name], scale, zero_point = quantised(theirs, 1 if by_channel else None)
        entry = {"scale": scale, "zero_point": zero_point, **({"axis": 1} if by_channel else {})}
        about[name.replace("/", "_")] = entry
    dump = opened(tmp_path, tensors, {"quantization": about}, folder)
    found = compare(OURS.items(), dump, COARSE)
    assert len(found.rows) == len(OURS)
    assert found.alike, found.first
    assert dump.guessed == {}
    assert dump.unscaled == []
    assert dump["stem/conv"].dtype == np.float32
    assert not any("8-bit" in warning for warning in found.warnings)


def test_scales_are_guessed_and_it_is_said(tmp_path: Path) -> None:
    tensors = {name: quantised(x)[0] for name, x in OURS.items() if name != "image"}
    tensors["stem/conv"] = np.random.default_rng(0).integers(0, 255, OURS["stem/conv"].shape, "u1")
    dump = opened(tmp_path, tensors, None, folder=False)
    assert set(dump.unscaled) == set(tensors)
    for found in (compare(OURS.items(), dump, COARSE), isolated(MODEL, PIXELS, dump, COARSE)):
        wrong = [row for row in found.rows if row.status != "ok"]
        assert wrong[0].layer == "stem/conv"
        assert all(np.prod(row.shape) < 10 for row in wrong[1:])  # too few values to guess well
        said = [warning for warning in found.warnings if "8-bit integers without scale" in warning]
        assert "guessed from ours: normalize" in said[0]
        assert "too unlike ours to guess one: stem/conv" in said[1]
    _, scale, zero_point = quantised(OURS["head/act"])
    np.testing.assert_allclose(dump.guessed["head/act"].scale, scale, rtol=0.01)
    assert dump.guessed["head/act"].zero_point == zero_point


def test_a_guess_needs_values_that_are_alike() -> None:
    rng = np.random.default_rng(1)
    ours = rng.normal(size=(1, 8, 8, 4)).astype(np.float32)
    q = np.round(ours / 0.05 - 7).clip(-128, 127).astype(np.int8)
    guess = guess_quantization(q, ours)
    assert guess is not None
    assert (round(float(guess.scale[0]), 3), guess.zero_point[0]) == (0.05, -7)
    wrong = rng.normal(size=ours.shape).astype(np.float32)
    for other in (wrong, ours * 0, -ours, np.full_like(ours, np.nan)):
        assert guess_quantization(q, other) is None
    assert guess_quantization(q * 0 + 127, ours) is None


def test_a_map_of_names_beside_the_dump_is_no_scale(tmp_path: Path) -> None:
    dump = opened(tmp_path, {"stem/conv": OURS["stem/conv"]}, {"a": "stem/conv"}, folder=False)
    assert dump.trace.quantization == {}
    opened(tmp_path, {"stem/conv": OURS["stem/conv"]}, "no JSON at all", folder=False)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ('{"scale": ', "not JSON"),
        ('["scale"]', "expected {"),
        ({"a_layer": {"scale": 1}}, "none of its tensors is in theirs.npz; the first is 'a_layer'"),
        ({"stem_conv": {"scale": "x"}}, "'stem_conv': scale: expected a number, found 'x'"),
        ({"stem_conv": {"scale": [[1]]}}, "expected a number"),
        ({"stem_conv": {"scale": []}}, "empty list"),
        ({"stem_conv": {"scale": 0}}, "expected a number above 0"),
        ({"stem_conv": {"scale": 1e300}}, "expected a number"),
        ({"stem_conv": {"scale": True}}, "expected a number"),
        ({"stem_conv": {"scale": 1, "zeropoint": 3}}, "expected scale, zero_point and axis"),
        ({"stem_conv": {"scale": [1, 2, 3]}}, "do not fit the shape"),
        ({"stem_conv": {"scale": [1] * 8, "axis": 9}}, "do not fit the shape"),
        ({"stem_conv": {"scale": [1] * 8, "zero_point": [1, 2]}}, "8 scales, but 2 zero points"),
        ('{"scale": ' + "1" * 100 + "}", "not JSON"),
        ('{"scale": 1}' + " " * (1 << 22), "too large"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, about: Any, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        opened(tmp_path, {"stem/conv": OURS["stem/conv"]}, about, folder=False)
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "theirs.json"))
    assert "\n" not in said
    assert message in said
