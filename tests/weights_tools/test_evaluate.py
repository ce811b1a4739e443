"""evaluate: counts right answers, notes them, and keeps the weights whatever happens."""

import numpy as np
import pytest

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError, WeightsError
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


def test_write_keeps_a_file_that_changed_meanwhile(tmp_path, weights, monkeypatch):
    np.savez(tmp_path / "photos.npz", images=IMAGES, labels=LABELS)
    loaded = read_weights(weights)

    def change(items, *_):
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


def test_write_notes_nothing_if_a_photo_cannot_be_read(tmp_path, weights):
    offsets, jpeg = np.array([0, 4, 8]), np.frombuffer(b"no photo", np.uint8)
    np.savez(tmp_path / "photos.npz", jpeg=jpeg, offsets=offsets, labels=np.array([0, 1]))
    with pytest.raises(WeightsError, match="not an image we read"):
        evaluate(weights, tmp_path / "photos.npz", write=True)
    assert read_weights(weights).metadata.accuracy == ""


def test_photos_that_are_not_usable(tmp_path, weights):
    before = weights.read_bytes()
    np.savez(tmp_path / "photos.npz", images=IMAGES)
    with pytest.raises(InputError, match="found no labels"):
        evaluate(weights, tmp_path / "photos.npz", write=True)
    assert weights.read_bytes() == before
