"""Each notebook is read and run once for all tests of its class (a class names its notebooks)."""

import time
from typing import NamedTuple

import pytest

from tests.notebooks.series import FOLDER, code, hidden_answer, load_make, only, tags, texts

pytest.register_assert_rewrite("tests.notebooks.checks")


class Run(NamedTuple):
    """A notebook that ran in a fresh kernel."""

    notebook: object
    replies: list  # what the check of its exercise says to a right answer, a wrong one and none
    seconds_so_far: float  # of all notebooks that this process has run


seconds: dict[str, float] = {}


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames and hasattr(metafunc.cls, "notebooks"):
        metafunc.parametrize("name", metafunc.cls.notebooks, scope="class")


@pytest.fixture(scope="session")
def make():
    return load_make()


@pytest.fixture(scope="class")
def script(name, make):
    """A script as jupytext reads it."""
    return make.read_script(FOLDER / f"{name}.py")


@pytest.fixture(scope="class")
def stored(name):
    """The stored notebook."""
    import nbformat

    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="class")
def run(name, script, make):
    """The script run in a fresh kernel."""
    import nbformat

    fresh = nbformat.from_dict(script)
    check = only(cell.source for cell in code(fresh) if "check" in tags(cell))
    answers = hidden_answer(fresh), 'answer = "certainly wrong"', "answer = None"
    added = [nbformat.v4.new_code_cell(f"{answer}\n{check}") for answer in answers]
    fresh.cells.extend(added)
    started = time.perf_counter()
    make.execute(fresh)
    seconds[name] = time.perf_counter() - started
    del fresh.cells[-len(added) :]
    return Run(fresh, ["".join(texts(cell)) for cell in added], sum(seconds.values()))
