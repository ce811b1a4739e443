"""Pixels that are ready for the network: what is no such array is refused in one line."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymixnet.engine.budget import budget
from tinymixnet.engine.pixels import check_pixels, read_pixels
from tinymixnet.errors import ImageError, InputError


def photo(low: float, high: float, shape: tuple[int, ...] = (1, 40, 40, 3)) -> np.ndarray:
    values = np.random.default_rng(0).random(shape)
    values = (values - values.min()) / np.ptp(values)
    return (values * (high - low) + low).astype(np.float32)


class FailingArray:
    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise RuntimeError("no array\x1b[31m\nat all")


@pytest.mark.parametrize(
    "pixels",
    [
        None, "a photo", b"a photo", 3, [], {}, object(), [[1, 2], [3]], [[1, "a"], [None, 2]],
        FailingArray(), [FailingArray()], [FailingArray(), [1, [2]]], np.zeros(3), iter([1]),
        {1, 2},
        np.full((1, 40, 40, 3), None), np.full((1, 40, 40, 3), "x"), np.zeros((1, 40, 40, 3), bool),
        np.zeros((1, 40, 40, 3), ">f4"), np.zeros((1, 40, 40, 3), [("a\x1b\n", "u1")]),
    ],
    ids=lambda pixels: type(pixels).__name__,
)  # fmt: skip
def test_what_is_no_batch_of_pixels(pixels: Any) -> None:
    with pytest.raises(InputError, match="pixels: expected") as caught:
        check_pixels(pixels)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["gradient", "bfloat16", "sparse", "meta"])
def test_torch_tensors(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.zeros(1, 40, 40, 3)
    odd = {
        "gradient": lambda: tensor.requires_grad_(),
        "bfloat16": lambda: tensor.to(torch.bfloat16),
        "sparse": lambda: tensor.to_sparse(),
        "meta": lambda: tensor.to("meta"),
    }[kind]()
    with pytest.raises(InputError, match="pixels: expected") as caught:
        check_pixels(odd)
    assert str(caught.value).isprintable()
    assert check_pixels(torch.zeros(1, 40, 40, 3)).shape == (1, 40, 40, 3)


@pytest.mark.parametrize("value", [None, 3, ["NHWC"], np.array(["NHWC", "NCHW"]), "nhwc\n\x1b"])
def test_layouts_and_channels_that_are_none(value: Any) -> None:
    for options in ({"layout": value}, {"channels": value}):
        with pytest.raises(InputError, match="expected") as caught:
            check_pixels(photo(0, 255), **options)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-0.02, 1.02), (0, 1.05), (-0.05, 1), (0, 2), (0.2, 0.9), (-0.08, 1.5)],
)
def test_values_of_0_to_1_warn(low: float, high: float) -> None:
    """Also where a bicubic resize has gone beyond 0..1."""
    with pytest.warns(UserWarning, match="is that 0..1 for 0..255"):
        check_pixels(photo(low, high))


@pytest.mark.parametrize("case", ["0..255", "0..3", "night", "noise 0..2", "all black", "uint8"])
def test_photos_do_not_warn(case: str) -> None:
    chance = np.random.default_rng(0)
    pixels = {
        "0..255": photo(-20, 275),
        "0..3": photo(0, 3),
        "night": photo(0, 12),
        "noise 0..2": chance.integers(0, 3, (1, 40, 40, 3)).astype(np.float32),
        "all black": np.zeros((1, 40, 40, 3), np.float32),
        "uint8": chance.integers(0, 2, (1, 40, 40, 3)).astype(np.uint8),
    }[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pixels(pixels)


def test_normalised_values_and_nan_are_refused() -> None:
    for low, high, reason in [
        (-2, 2.5, "normalised"),
        (-0.2, 1.2, "normalised"),
        (0, 999, "found"),
    ]:
        with pytest.raises(InputError, match=reason):
            check_pixels(photo(low, high))
    for value in (np.nan, np.inf):
        pixels = photo(0, 255)
        pixels[0, 1, 2, 0] = value
        with pytest.raises(InputError, match="NaN or infinity"):
            check_pixels(pixels)


# -- .npy -----------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3))


@pytest.mark.parametrize("kind", ["u1", "i2", ">i2", "<u4", "i8", "f2", ">f4", "f4", "f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_numbers(tmp_path: Path, kind: str, order: Any) -> None:
    path = tmp_path / "pixels.npy"
    for array in (COLOURS, np.stack([COLOURS, COLOURS[::-1]])):
        np.save(path, array.astype(kind, order=order))
        pixels = read_pixels(path)
        assert pixels.dtype == np.float32
        assert pixels.dtype.isnative
        assert pixels.flags.c_contiguous
        assert not isinstance(pixels, np.memmap)
        assert (pixels == array.reshape(-1, 6, 5, 3)).all()


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text.encode()


def odd_npys() -> dict[str, bytes]:
    whole = npy(COLOURS.astype(np.float32))
    archive = io.BytesIO()
    np.savez(archive, pixels=COLOURS)
    claim = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}\n"
    return {
        "npz": archive.getvalue(),
        "truncated": whole[:-1],
        "only a header": whole[:128],
        "half a header": whole[:40],
        "half a magic": whole[:3],
        "empty": b"",
        "text": b"0 1 2",
        "object": npy(COLOURS.astype(object), allow_pickle=True),
        "structured": npy(np.zeros((6, 5, 3), [("a\x1b[31m\n", "u1")])),
        "bool": npy(COLOURS > 100),
        "complex": npy(COLOURS.astype(complex)),
        "text in it": npy(COLOURS.astype(str)),
        "dates": npy(COLOURS.astype("M8[s]")),
        "a number": npy(np.float32(3)),
        "grey": npy(COLOURS[..., 0]),
        "five dimensions": npy(COLOURS[None, None]),
        "huge": npy_header(claim % "(100000, 100000, 3)"),
        "more than any": npy_header(claim % "(9999999999999, 9999999999999, 3)"),
        "negative": npy_header(claim % "(-1, 5, 3)"),
        "huge header": npy_header(" " * 100_000),
        "header of 4 GB": b"\x93NUMPY\x02\0\xff\xff\xff\xff",
        "version 9": b"\x93NUMPY\x09\0" + whole[8:],
        "code": npy_header("__import__('os').system('false')"),
        "nested": npy_header("(" * 5000),
    }


@pytest.mark.parametrize("name", odd_npys())
@pytest.mark.filterwarnings("error")
def test_npy_that_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pixels\x1b.npy"
    path.write_bytes(odd_npys()[name])
    with pytest.raises(ImageError) as caught:
        read_pixels(path)
    message = str(caught.value)
    assert message.isprintable()
    assert "pixels\\x1b.npy: " in message


def test_npy_of_no_pixels(tmp_path: Path) -> None:
    for shape in ((0, 40, 40, 3), (1, 0, 40, 3), (0, 40, 3)):
        path = tmp_path / "pixels.npy"
        np.save(path, np.zeros(shape, np.uint8))
        try:
            pixels = read_pixels(path)
        except ImageError:
            continue
        assert pixels.size == 0


def test_npy_beyond_float32_and_nan(tmp_path: Path) -> None:
    path = tmp_path / "pixels.npy"
    for value in (1e300, np.nan):
        np.save(path, np.full((40, 40, 3), value))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = read_pixels(path)
        with pytest.raises(InputError, match="NaN or infinity"):
            check_pixels(pixels)


def test_npy_of_more_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pixels.npy"
    np.save(path, COLOURS.astype(np.uint8))
    monkeypatch.setattr(budget, "photo_bytes", COLOURS.size * 4 - 1)
    with pytest.raises(ImageError, match="TINYMIXNET_BUDGET=photo_bytes=360"):
        read_pixels(path)
    monkeypatch.setattr(budget, "photo_bytes", COLOURS.size * 4)
    assert (read_pixels(path) == COLOURS).all()
    monkeypatch.setattr(budget, "photo_file_bytes", 99)
    with pytest.raises(ImageError, match="photo_file_bytes"):
        read_pixels(path)


def test_npy_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "dangling.npy").symlink_to(tmp_path / "missing.npy")
    for name, reason in [
        ("pipe.npy", "a pipe"), ("folder.npy", "a folder"), ("dangling.npy", "no such file"),
        ("missing.npy", "no such file"), ("nul\0.npy", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(ImageError, match=reason):
            read_pixels(tmp_path / name)


def test_a_broadcast_array_takes_no_time() -> None:
    """It shows one value 3e15 times: to look at each of them would never end."""
    shape = (10**5, 10**5, 10**5, 3)
    assert check_pixels(np.broadcast_to(np.float32(7), shape)).shape == shape
    with pytest.raises(InputError, match="NaN"):
        check_pixels(np.broadcast_to(np.float32(np.nan), shape))
    row = np.broadcast_to(photo(0, 400)[:, :, :1], (1, 40, 10**12, 3))
    with pytest.raises(InputError, match="expected values 0"):
        check_pixels(row)


def test_a_number_is_no_path_of_pixels() -> None:
    """Python would take it for an open file, read that one and close it."""
    read_end, write_end = os.pipe()
    for value in (read_end, True, None, b"x.npy"):
        with pytest.raises(InputError, match=r"path: expected that of a \.npy file"):
            read_pixels(value)  # type: ignore[arg-type]
    os.close(read_end)
    os.close(write_end)
