"""What several files of tests look at: models, pages of them, and a browser."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.pages import tiny_page
from tests.support.chromium import PROGRAM, Browser
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model, load
from tinymixnet.cli import main
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import record
from tinymixnet.report.page import write_report


@pytest.fixture(scope="session")
def model() -> Model:
    return load()


@pytest.fixture(scope="session")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.html and other.html of full MixNet-L at 224 px; the other lacks swish from block 4."""
    folder = tmp_path_factory.mktemp("report")
    pixels = synthetic_image().astype(np.float32)
    strings = list(model.architecture.block_strings)
    strings[4] = strings[4].removesuffix("_sw")
    wrong = replace(model.architecture, block_strings=tuple(strings))
    record(Model(wrong, model.tensors, model.metadata), pixels, folder / "dump")
    np.save(folder / "picture.npy", pixels)
    picture, page = str(folder / "picture.npy"), str(folder / "plain.html")
    assert main(["report", picture, "-o", page]) == 0
    dump = open_dump(folder / "dump", model.architecture, 1, 224, 224)
    write_report(model, picture, pixels, folder / "other.html", dump)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Model:
    return Model(TINY, synthetic_tensors(TINY))


@pytest.fixture(scope="session")
def small(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page that loads at once, with a dump that differs."""
    folder = tmp_path_factory.mktemp("small")
    pixels = synthetic_image(1, 48, 48).astype(np.float32)
    record(Model(TINY, synthetic_tensors(TINY, seed=1)), pixels, folder / "dump")
    tiny_page(tiny, pixels, folder, folder / "dump")
    return (folder / "page.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None and not os.environ.get("CI"):
        pytest.skip("no chromium here: apt-get install chromium")
    browser = Browser()
    yield browser
    browser.close()
