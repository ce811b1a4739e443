"""Each notebook is read and run once for all tests of its class (a class names its notebooks)."""

from typing import NamedTuple

import pytest

from benchmarks.startup import processor_seconds
from tests.notebooks.series import FOLDER, hidden_answers, load_make, positions, texts

pytest.register_assert_rewrite("tests.notebooks.checks")


class Run(NamedTuple):
    """A notebook that ran in a fresh kernel."""

    notebook: object
    replies: list  # of each exercise: what its check says to the right answer, a wrong one and none
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


# A function where the right answer is a function: a check may call what it is given.
WRONG = 'answer = (lambda *_, **__: "certainly wrong") if callable(answer) else "certainly wrong"'


@pytest.fixture(scope="class")
def run(name, script, make):
    """The script run in a fresh kernel, with three more answers tried at each exercise.

    They are tried where a reader would try them: a name that an answer defines may not harm the
    cells after it.
    """
    import nbformat

    fresh = nbformat.from_dict(script)
    checks, right = positions(fresh, "check"), hidden_answers(fresh)
    assert len(checks) == len(right), "each check has one hidden answer"
    tries = []
    for position, answer in reversed(list(zip(checks, right, strict=True))):
        check = fresh.cells[position].source
        sources = [f"{a}\n{check}" for a in (answer, WRONG, "answer = None")]
        tries.insert(0, [nbformat.v4.new_code_cell(source) for source in sources])
        fresh.cells[position + 1 : position + 1] = tries[0]
    before = processor_seconds()  # the time of day would be that of a busy machine, too
    make.execute(fresh)
    seconds[name] = processor_seconds() - before
    added = {id(cell) for cells in tries for cell in cells}
    fresh.cells = [cell for cell in fresh.cells if id(cell) not in added]
    replies = [["".join(texts(cell)) for cell in cells] for cells in tries]
    return Run(fresh, replies, sum(seconds.values()))
