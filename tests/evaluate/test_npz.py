"""Labelled photos in an .npz: read if they fit, and refused in one line if they do not."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.data import open_data
from tinymixnet.model import Model

IMAGES = synthetic_image(4, 40, 40)
LABELS = np.array([0, 1, 2, 5])
METADATA = Metadata(
    labels=tuple("abcdef"), input_size=32, preset="omz", preset_parameters=PRESETS["omz"][1]
)


def opened(photos):
    return open_data(photos, METADATA, METADATA.labels)


def assert_refused(photos, *words):
    with pytest.raises(InputError) as caught:
        opened(photos)
    message = str(caught.value)
    assert message.startswith(f"{printable(photos)}: ")
    assert message.count(printable(photos)) == 1
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES, np.array(["cat"] * 4), "labels: refused"),
        (IMAGES, np.array([0, 1, 2, -1]), "found labels from -1 to 2"),
        (IMAGES, np.array([0, 1, 2, 6]), "expected numbers from 0 to 5, found 6"),
        (IMAGES, np.array([0, 1, 2, np.nan]), "float64"),
        (IMAGES, LABELS.astype(float), "float64"),
        (IMAGES, LABELS.astype(bool), ""),
        (IMAGES, LABELS.astype(complex), ""),
        (IMAGES, LABELS.astype(object), ""),
        (IMAGES, LABELS.astype("datetime64[s]"), ""),
        (IMAGES, LABELS[:3], "images uint8 (4, 40, 40, 3), labels int64 (3,)"),
        (IMAGES, LABELS[:, None], "int64 (4, 1)"),
        (IMAGES, np.array(3), "int64 ()"),
        (IMAGES[:0], LABELS[:0], "found images uint8 (0, 40, 40, 3)"),
        (IMAGES[..., 0], LABELS, "found images uint8 (4, 40, 40)"),
        (IMAGES[..., :2], LABELS, "found images uint8 (4, 40, 40, 2)"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, "found images uint8 (4, 3, 40, 40)"),
        (IMAGES.astype(np.float32), LABELS, "found images float32"),
        (IMAGES.astype(object), LABELS, ""),
        (np.array([{}]), np.array([0]), ""),
        (np.uint8(3), LABELS, "found images uint8 ()"),
    ],
)
def test_arrays_that_are_no_photos_or_labels(tmp_path, images, labels, words):
    np.savez(tmp_path / "photos.npz", images=images, labels=labels)
    assert_refused(tmp_path / "photos.npz", words)


def test_missing_arrays(tmp_path):
    np.savez(tmp_path / "photos.npz", images=IMAGES)
    assert_refused(tmp_path / "photos.npz", "found no labels")
    np.savez(tmp_path / "photos.npz", labels=LABELS)
    assert_refused(tmp_path / "photos.npz", "found no images")
    np.savez(tmp_path / "photos.npz", pictures=IMAGES)
    assert_refused(tmp_path / "photos.npz", "found no images")


def test_other_files(tmp_path):
    np.save(tmp_path / "photos.npy", IMAGES)
    assert_refused(tmp_path / "photos.npy")
    np.savez(tmp_path / "npz_as.npy.npz", images=IMAGES)
    assert_refused(tmp_path / "npz_as.npy.npz", "found no labels")
    (tmp_path / "text.npz").write_text("hello")
    assert_refused(tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    assert_refused(tmp_path / "empty.npz")
    assert_refused(tmp_path / "none.npz", "no such file")
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", "no photos in it")
    assert_refused(f"{tmp_path}/a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npz")
        assert_refused(tmp_path / "pipe.npz")
    assert_refused("/dev/zero")


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    whole = (tmp_path / "photos.npz").read_bytes()
    for cut in range(0, len(whole), len(whole) // 20):
        (tmp_path / "photos.npz").write_bytes(whole[:cut])
        assert_refused(tmp_path / "photos.npz")


def npy(shape, dtype, content):
    stream = io.BytesIO()
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def test_archive_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "photos.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("labels.npy", npy((3,), "<i8", LABELS[:3].tobytes()))
        with archive.open("images.npy", "w") as stream:
            stream.write(npy((3, 8192, 8192, 3), "|u1", b""))
            for _ in range(3 * 3 * 64):
                stream.write(bytes(1 << 20))
    assert (tmp_path / "photos.npz").stat().st_size < 8 << 20
    assert_refused(tmp_path / "photos.npz", "layer_bytes")


def test_header_that_promises_more_than_there_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.npz", "w") as archive:
        archive.writestr("labels.npy", npy((1 << 30,), "<i8", b""))
        archive.writestr("images.npy", npy((1 << 30, 1, 1, 3), "|u1", b""))
    assert_refused(tmp_path / "photos.npz")


def test_photos_packed_as_files(tmp_path):
    """As ../shared/data/tiny-imagenet-val.npz has them: bytes end to end, and where each begins."""
    model = Model(TINY, synthetic_tensors(TINY), METADATA)
    files = []
    for image in synthetic_image(4, 40, 40):
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "PNG")
            files.append(file.getvalue())
    labels = np.array([model.classify(file, top=1)[0].index for file in files])
    offsets = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "photos.npz", jpeg=jpeg, offsets=offsets, labels=labels)
    results = model.evaluate(tmp_path / "photos.npz")
    assert (results.top1, results.photos) == (1.0, 4)
    assert {photo.file for photo in opened(tmp_path / "photos.npz").photos} == set("0123")
    for wrong in (offsets[::-1], offsets + 1, offsets[:-1], np.zeros_like(offsets), offsets / 1):
        np.savez(tmp_path / "photos.npz", jpeg=jpeg, offsets=wrong, labels=labels)
        assert_refused(tmp_path / "photos.npz", "offsets")
    np.savez(tmp_path / "photos.npz", jpeg=jpeg, labels=labels)
    assert_refused(tmp_path / "photos.npz", "found no offsets")
    np.savez(tmp_path / "photos.npz", jpeg=jpeg[:-9], offsets=offsets, labels=labels)
    assert_refused(tmp_path / "photos.npz", "offsets")
