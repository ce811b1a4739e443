"""Layouts: every order in which a port may store a layer must come out as ours."""

import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.compare import compare
from tinymixnet.debug.dumps import Dump, open_dump
from tinymixnet.debug.names.layouts import (
    BATCH_LAST,
    BLOCKED,
    LAYOUTS,
    as_nhwc,
    layouts_of,
    zero_padded,
)
from tinymixnet.errors import TraceError
from tinymixnet.model import Model

Tensors = dict[str, np.ndarray]
SIDES = 64, 96
MODEL = Model(TINY, synthetic_tensors(TINY))


@pytest.fixture(scope="module", params=[1, 2], ids=["one image", "two images"])
def layers(request: pytest.FixtureRequest) -> Tensors:
    """All layers of the tiny network on one picture or on two."""
    return dict(MODEL.layers(synthetic_image(request.param, *SIDES)))


def stored(x: np.ndarray, layout: str, multiple: int = 1) -> np.ndarray:
    """Return a layer (N, H, W, C) as a port of this layout stores it, padded to a multiple."""
    block = BLOCKED.get(layout, 1)
    multiple = max(multiple, block)
    x = np.pad(x, [(0, 0)] * 3 + [(0, -x.shape[3] % multiple)])
    if block > 1:
        return x.reshape(*x.shape[:3], -1, block).transpose(0, 3, 1, 2, 4)
    return x.transpose(["NHWC".index(axis) for axis in layout])


def opened(path: Path, tensors: Tensors, n: int, layout: str | None = None) -> Dump:
    np.savez(path / "theirs.npz", **tensors)
    return open_dump(path / "theirs.npz", TINY, n, *SIDES, layout=layout)


def maps(layers: Tensors) -> Tensors:
    return {name: x for name, x in layers.items() if x.ndim == 4}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_as_it_is_and_merged(tmp_path: Path, layers: Tensors, layout: str) -> None:
    n = len(layers["image"])
    if layout in BATCH_LAST and n == 1:
        pytest.skip("the same as NHWC or NCHW in memory")
    theirs = {name: stored(x, layout) for name, x in maps(layers).items()}
    dump = opened(tmp_path, theirs, n)
    assert (dump.mismatched, dump.unmatched) == ({}, {})
    for name in theirs:
        np.testing.assert_array_equal(dump[name], layers[name], err_msg=name)
        assert dump[name].flags.c_contiguous
    if layout not in BATCH_LAST:
        flat = {name: x.ravel() for name, x in theirs.items()}
        dump = opened(tmp_path, flat, n, layout)
        for name in theirs:
            np.testing.assert_array_equal(dump[name], layers[name], err_msg=name)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("multiple", [4, 16, 128])
def test_padded_channels(tmp_path: Path, layers: Tensors, layout: str, multiple: int) -> None:
    n = len(layers["image"])
    theirs = {name: stored(x, layout, multiple) for name, x in maps(layers).items()}
    dump = opened(tmp_path, theirs, n)
    for name in theirs:
        np.testing.assert_array_equal(dump[name], layers[name], err_msg=name)
    name = "stem/conv" if multiple > 8 else "image"
    theirs[name][...] += 1  # so what is beyond the channels is no longer zero
    dump = opened(tmp_path, theirs, n)
    assert dump.mismatched == {name: (theirs[name].shape, layers[name].shape)}


@pytest.mark.parametrize("layout", ["NC4HW4", "nChw8c"])
def test_blocks_behind_a_shape_of_four_axes(tmp_path: Path, layers: Tensors, layout: str) -> None:
    """ONNX Runtime says (N, C, H, W) of a blocked tensor: only its values or the user know."""
    name = "blocks_1/depthwise_conv"
    x = stored(layers[name], layout)
    n, blocks, h, w, block = x.shape
    dump = opened(tmp_path, {name: x.reshape(n, blocks * block, h, w)}, n, layout)
    np.testing.assert_array_equal(dump[name], layers[name])


def test_merged_axes(tmp_path: Path, layers: Tensors) -> None:
    n, h, w, c = layers["stem/conv"].shape
    planes = layers["stem/conv"].transpose(0, 3, 1, 2)
    for theirs in (
        planes.reshape(n, c, h * w),
        layers["stem/conv"].reshape(n, h * w, c),
        planes.reshape(n * c, h, w),
        layers["stem/conv"].reshape(n, h, 1, w, c),
    ):
        dump = opened(tmp_path, {"stem/conv": theirs}, n)
        assert dump.ambiguous == []
        np.testing.assert_array_equal(dump["stem/conv"], layers["stem/conv"])
    flat = opened(tmp_path, {"stem/conv": planes.ravel(), "image": layers["image"]}, n, "NCHW")
    assert flat.ambiguous == []
    flat = opened(tmp_path, {"stem/conv": planes.ravel()}, n)
    assert flat.ambiguous == ["stem/conv"]
    one_more = {"stem/conv": np.append(planes.ravel(), 0)}
    assert list(opened(tmp_path, one_more, n).mismatched) == ["stem/conv"]


def test_a_flat_layer_follows_the_others(tmp_path: Path, layers: Tensors) -> None:
    n = len(layers["image"])
    theirs = {name: stored(x, "NCHW") for name, x in maps(layers).items()}
    theirs["stem/conv"] = theirs["stem/conv"].ravel()
    dump = opened(tmp_path, theirs, n)
    assert (dump.ambiguous, dump.layouts["stem/conv"]) == ([], "NCHW")
    np.testing.assert_array_equal(dump["stem/conv"], layers["stem/conv"])


def test_an_unknown_shape_is_named(tmp_path: Path, layers: Tensors) -> None:
    n, h, w, c = layers["stem/conv"].shape
    theirs = {"stem/conv": np.zeros((n, w, h, c))}  # rows and columns exchanged
    dump = opened(tmp_path, theirs, n)
    with pytest.raises(TraceError, match=rf"expected {n}x{h}x{w}x{c}, found {n}x{w}x{h}x{c}"):
        compare(layers.items(), dump)


def test_likely_layouts_come_first() -> None:
    assert layouts_of((1, 32, 9, 9), (1, 9, 9, 32)) == ("NCHW", "NC4HW4", "nChw8c", "nChw16c")
    assert layouts_of((1, 9, 9, 32), (1, 9, 9, 32)) == ("NHWC",)
    assert layouts_of((1, 32, 9, 9), (1, 9, 9, 20)) == ("NCHW", "nChw16c", "nChw32c")
    assert layouts_of((1, 9, 9, 24), (1, 9, 9, 20)) == ("NHWC",)
    assert layouts_of((1, 3, 9, 9, 8), (1, 9, 9, 20)) == ("nChw8c",)
    assert layouts_of((1620,), (1, 9, 9, 20)) == ("NHWC", "NCHW", "NC4HW4")
    assert layouts_of((1, 201), (1, 200)) == ()  # a background class, and no padding
    assert layouts_of((2, 810), (1, 9, 9, 20)) == ()
    # A vector is the same in all of them.
    assert layouts_of((24,), (1, 1, 1, 24)) == layouts_of((24,), (1, 24)) == ("NHWC", "NCHW")


def test_padding_of_other_values_is_none() -> None:
    x = np.zeros((1, 4, 4, 8), np.float32)
    assert zero_padded(x, "NHWC", (1, 4, 4, 5))
    x[0, 1, 1, 6] = np.nan
    assert not zero_padded(x, "NHWC", (1, 4, 4, 5))
    assert zero_padded(x, "NHWC", (1, 4, 4, 8))
    assert as_nhwc(x, "NHWC", (1, 4, 4, 5)).shape == (1, 4, 4, 5)


def test_hostile_shapes_are_cheap() -> None:
    expected = [(1, *shape) for shape in TINY.layer_shapes(*SIDES).values()]
    shapes = [
        (1,) * 32, (2,) * 32, (0,), (1, 0, 5), (1 << 62,) * 4, (1 << 62,), tuple(range(1, 33)),
        (1,) * 31 + (24576,),
    ]  # fmt: skip
    start = time.thread_time()
    fits = {shape: [layouts_of(shape, due) for due in expected] for shape in shapes}
    assert time.thread_time() - start < 1
    for shape, found in fits.items():
        for due, layouts in zip(expected, found, strict=True):
            if layouts:
                x = np.zeros(shape, np.int8)
                assert all(as_nhwc(x, layout, due).shape == due for layout in layouts)
