"""evaluate: counts right answers, notes them, and refuses every other file in one line."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import WeightsError, printable
from weights_tools import evaluate as module
from weights_tools.evaluate import evaluate

TENSORS = synthetic_tensors(TINY)
IMAGES = synthetic_image(4, 40, 40)
LABELS = np.array([0, 1, 2, 5])


@pytest.fixture
def weights(tmp_path):
    metadata = Metadata(
        labels=tuple("abcdef"), input_size=32, preset="omz", preset_parameters=PRESETS["omz"][1]
    )
    write_weights(tmp_path / "w.h5", Weights(TINY, TENSORS, metadata), float16=True)
    return tmp_path / "w.h5"


def assert_refused(weights, photos, *words):
    before = weights.read_bytes()
    with pytest.raises(WeightsError) as caught:
        evaluate(weights, photos, write=True)
    message = str(caught.value)
    assert message.startswith(f"{printable(photos)}: ")
    assert message.count(printable(photos)) == 1
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message
    assert weights.read_bytes() == before
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_counts_right_answers_and_notes_them(tmp_path, weights, save, dtype):
    model = tinymixnet.load(weights)
    images = synthetic_image(8, 40, 40)
    answers = np.array([model.classify(image, top=1)[0].index for image in images])
    wrong = (answers + 1) % 6
    labels = np.where([1, 0] * 4, answers, wrong).astype(dtype)
    save(tmp_path / "photos.npz", images=images, labels=labels, more=np.array(["text"]))
    assert evaluate(weights, tmp_path / "photos.npz") == (0.5, 1.0, 8)
    assert read_weights(weights).metadata.accuracy == ""
    before = read_weights(weights)
    evaluate(weights, tmp_path / "photos.npz", write=True)
    after = read_weights(weights)
    assert after.metadata.accuracy == "top-1 0.5000, top-5 1.0000 on 8 photos of photos.npz"
    assert after.metadata.labels == before.metadata.labels
    assert all(np.array_equal(after.tensors[n], before.tensors[n]) for n in TENSORS)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES, np.array(["cat"] * 4), "labels: refused"),
        (IMAGES, np.array([0, 1, 2, -1]), "found labels from -1 to 2"),
        (IMAGES, np.array([0, 1, 2, 6]), "found labels from 0 to 6"),
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
def test_arrays_that_are_no_photos_or_labels(tmp_path, weights, images, labels, words):
    np.savez(tmp_path / "photos.npz", images=images, labels=labels)
    assert_refused(weights, tmp_path / "photos.npz", words)


def test_missing_arrays(tmp_path, weights):
    np.savez(tmp_path / "photos.npz", images=IMAGES)
    assert_refused(weights, tmp_path / "photos.npz", "found no labels")
    np.savez(tmp_path / "photos.npz", labels=LABELS)
    assert_refused(weights, tmp_path / "photos.npz", "found no images")
    np.savez(tmp_path / "photos.npz", pictures=IMAGES)
    assert_refused(weights, tmp_path / "photos.npz", "found no images")


def test_other_files(tmp_path, weights):
    np.save(tmp_path / "photos.npy", IMAGES)
    assert_refused(weights, tmp_path / "photos.npy")
    np.savez(tmp_path / "npz_as.npy.npz", images=IMAGES)
    assert_refused(weights, tmp_path / "npz_as.npy.npz", "found no labels")
    (tmp_path / "text.npz").write_text("hello")
    assert_refused(weights, tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    assert_refused(weights, tmp_path / "empty.npz")
    assert_refused(weights, tmp_path / "none.npz", "no such file")
    (tmp_path / "folder").mkdir()
    assert_refused(weights, tmp_path / "folder", "a folder")
    assert_refused(weights, f"{tmp_path}/a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npz")
        assert_refused(weights, tmp_path / "pipe.npz")
    assert_refused(weights, "/dev/zero")


def test_damaged_archives(tmp_path, weights):
    np.savez_compressed(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    whole = (tmp_path / "photos.npz").read_bytes()
    for cut in range(0, len(whole), len(whole) // 20):
        (tmp_path / "photos.npz").write_bytes(whole[:cut])
        assert_refused(weights, tmp_path / "photos.npz")


def npy(shape, dtype, content):
    stream = io.BytesIO()
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def test_archive_that_unpacks_to_gigabytes(tmp_path, weights):
    path = tmp_path / "photos.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("labels.npy", npy((3,), "<i8", LABELS[:3].tobytes()))
        with archive.open("images.npy", "w") as stream:
            stream.write(npy((3, 8192, 8192, 3), "|u1", b""))
            for _ in range(3 * 3 * 64):
                stream.write(bytes(1 << 20))
    assert (tmp_path / "photos.npz").stat().st_size < 8 << 20
    assert_refused(weights, tmp_path / "photos.npz", "layer_bytes")


def test_header_that_promises_more_than_there_is(tmp_path, weights):
    with zipfile.ZipFile(tmp_path / "photos.npz", "w") as archive:
        archive.writestr("labels.npy", npy((1 << 30,), "<i8", b""))
        archive.writestr("images.npy", npy((1 << 30, 1, 1, 3), "|u1", b""))
    assert_refused(weights, tmp_path / "photos.npz")


def test_write_keeps_a_file_that_changed_meanwhile(tmp_path, weights, monkeypatch):
    np.savez(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    loaded = read_weights(weights)

    def change(items):
        changed = {**TENSORS, "logits/bias": TENSORS["logits/bias"] + 1}
        write_weights(weights, loaded._replace(tensors=changed))
        return items

    monkeypatch.setattr(module, "with_progress", change)
    with pytest.raises(WeightsError, match="changed while it was evaluated"):
        evaluate(weights, tmp_path / "photos.npz", write=True)
    after = read_weights(weights)
    assert after.metadata.accuracy == ""
    assert np.array_equal(after.tensors["logits/bias"], TENSORS["logits/bias"] + 1)


def test_write_leaves_the_file_when_the_disk_is_full(tmp_path, weights, monkeypatch):
    np.savez(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    before, files = weights.read_bytes(), sorted(tmp_path.iterdir())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WeightsError, match="No space left"):
        evaluate(weights, tmp_path / "photos.npz", write=True)
    assert weights.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


def test_write_refuses_a_link(tmp_path, weights):
    np.savez(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "link.h5").symlink_to(weights)
    evaluate(tmp_path / "link.h5", tmp_path / "photos.npz")
    with pytest.raises(WeightsError, match="a symbolic link"):
        evaluate(tmp_path / "link.h5", tmp_path / "photos.npz", write=True)
    assert (tmp_path / "link.h5").is_symlink()
    assert read_weights(weights).metadata.accuracy == ""


def test_photos_packed_as_files(tmp_path, weights):
    """As ../shared/data/tiny-imagenet-val.npz has them: bytes end to end, and where each begins."""
    model = tinymixnet.load(weights)
    files = []
    for image in synthetic_image(4, 40, 40):
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "PNG")
            files.append(file.getvalue())
    labels = np.array([model.classify(file, top=1)[0].index for file in files])
    offsets = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "photos.npz", jpeg=jpeg, offsets=offsets, labels=labels)
    assert evaluate(weights, tmp_path / "photos.npz") == (1.0, 1.0, 4)
    for wrong in (offsets[::-1], offsets + 1, offsets[:-1], np.zeros_like(offsets), offsets / 1):
        np.savez(tmp_path / "photos.npz", jpeg=jpeg, offsets=wrong, labels=labels)
        assert_refused(weights, tmp_path / "photos.npz", "offsets")
    np.savez(tmp_path / "photos.npz", jpeg=jpeg, labels=labels)
    assert_refused(weights, tmp_path / "photos.npz", "found no offsets")
    np.savez(tmp_path / "photos.npz", jpeg=jpeg[:-9], offsets=offsets, labels=labels)
    assert_refused(weights, tmp_path / "photos.npz", "offsets")
