"""A small network of six of ImageNet's classes, and photos for it."""

import numpy as np
import pytest

from tests.support.photo_sets import Labelled, as_folders
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.evaluate.imagenet import imagenet_classes
from tinymixnet.model import Model

NUMBERS = (134, 282, 285, 517, 650, 967)  # two cranes, two cats, microphone, espresso


def tiny_metadata():
    classes = [imagenet_classes()[number] for number in NUMBERS]
    return Metadata(
        labels=tuple(c.label for c in classes),
        wordnet_ids=tuple(c.wordnet_id for c in classes),
        imagenet_indices=NUMBERS,
        input_size=32,
        preset="omz",
        preset_parameters=PRESETS["omz"][1],
        name="tiny",
    )


@pytest.fixture(scope="session")
def model():
    return Model(TINY, synthetic_tensors(TINY), tiny_metadata())


@pytest.fixture(scope="session")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    write_weights(path, Weights(model.architecture, dict(model.tensors), model.metadata))
    return path


@pytest.fixture(scope="session")
def photos(model):
    """24 small photos; about half of them are labelled with what the network answers."""
    from io import BytesIO

    from PIL import Image

    labelled = []
    for i, pixels in enumerate(synthetic_image(24, 40, 48)):
        with BytesIO() as file:
            Image.fromarray(np.uint8(pixels)).save(file, "PNG")
            content = file.getvalue()
        answer = model.classify(content, top=1)[0].index
        labelled.append(Labelled(content, answer if i % 2 else i // 2 % 6))
    return labelled


@pytest.fixture(scope="session")
def folder(model, photos, tmp_path_factory):
    """The photos in folders named by WordNet ids."""
    names = dict(enumerate(model.metadata.wordnet_ids))
    return as_folders(photos, tmp_path_factory.mktemp("data") / "val", names)
