"""The series as a whole: its order, its index, its picture in the README, its first code."""

import inspect
import re

import pytest

from tests.notebooks.checks import KERNEL_CODE, KERNELS, needs_jupyter
from tests.notebooks.copies import defined_names, fingerprints
from tests.notebooks.series import FOLDER, SERIES, check_links, code, only, texts
from tests.notebooks.test_first_half import TestFirstHalf as FirstHalf
from tests.notebooks.test_second_half import TestSecondHalf as SecondHalf
from tinymixnet import mixnet


@pytest.fixture(scope="module")
def notebooks():
    """All stored notebooks, in order."""
    nbformat = pytest.importorskip("nbformat")
    return [nbformat.read(FOLDER / f"{name}.ipynb", as_version=4) for name in SERIES]


def test_the_series_is_complete():
    assert tuple(sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))) == SERIES
    assert FirstHalf.notebooks + SecondHalf.notebooks == SERIES


def test_the_index_lists_the_series_in_order():
    index = (FOLDER / "README.md").read_text("utf-8")
    listed = re.findall(r"\]\((\d\d_\w+)\.ipynb\)", index)
    assert tuple(listed) == SERIES
    check_links(index)
    for name in SERIES:
        title = (FOLDER / f"{name}.py").read_text("utf-8").split("\n# # ")[1].split("\n")[0]
        assert f"]({name}.ipynb) | {title}" in index


@needs_jupyter
def test_the_picture_in_the_readme_is_one_of_theirs(make, notebooks):
    pictures = [png for png in map(make.readme_picture, notebooks) if png is not None]
    assert make.PICTURE.read_bytes() == only(pictures)


def test_the_first_code_shown_is_the_whole_network(notebooks):
    shown = [text for cell in code(notebooks[0]) for text in texts(cell)]
    sources = [text for text in shown if re.search(r"^def ", text, re.MULTILINE)]
    assert sources[0].strip() == inspect.getsource(mixnet).strip()


@pytest.mark.parametrize(
    "copy",
    [
        "def positive(values):\n    return np.maximum(values, 0)",
        "positive = lambda values: np.maximum(values, 0)",
        'y = np.einsum("nhwcij,ijc->nhwc", seen, weights[..., 0])',
        "y = (y - mean) * (scale / np.sqrt(variance + tiny)) + shift",
        "def conv2d(x):\n    pass",
    ],
)
def test_a_copy_of_a_kernel_is_found(copy):
    assert {"conv2d", "mix_conv", "relu_to", "depthwise_columns"} < KERNELS
    by_name = not KERNELS.isdisjoint(defined_names(copy))
    assert by_name or not KERNEL_CODE.isdisjoint(fingerprints(copy, KERNELS))


@pytest.mark.parametrize(
    "other", ["y = swish(conv2d(x, kernel, stride=2, bias=bias))", "def f(x):\n    return x + 1"]
)
def test_what_only_uses_a_kernel_is_no_copy(other):
    assert KERNEL_CODE.isdisjoint(fingerprints(other, KERNELS))
    assert KERNELS.isdisjoint(defined_names(other))
