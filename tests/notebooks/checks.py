"""The checks of one notebook: it runs as it is, its stored outputs are true, no part is missing.

The series is divided between test_first_half.py and test_second_half.py, so that two worker
processes of pytest-xdist share it: a worker takes a whole file of tests.
"""

import ast
import importlib.util
import inspect
import os
import re

import pytest

from tests.notebooks.copies import defined_names, fingerprints
from tests.notebooks.series import (
    EXERCISES,
    SERIES,
    check_links,
    code,
    hidden_answers,
    positions,
    prose,
    tags,
    texts,
)
from tinymixnet import mixnet
from tinymixnet.engine import kernels, network
from tinymixnet.fast import depthwise
from tinymixnet.fast import kernels as fast_kernels

LINES = 20  # of a cell that one still reads as one thought
LONGEST = 150  # seconds of a processor for one half of the notebooks
NEEDED = ("jupytext", "nbformat", "nbclient", "ipykernel", "matplotlib")
# Cells with one of these tags print what no two machines, or no two runs, agree on.
VARYING = {"timing", "rounding"}

KERNELS = {"forward", "mixnet_block"} | {
    name
    for module in (kernels, fast_kernels, depthwise)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__
}
KERNEL_CODE = {
    fingerprint
    for module in (mixnet, network, kernels, fast_kernels, depthwise)
    for fingerprint in fingerprints(inspect.getsource(module))
}

# What only code that draws has: these belong into pictures.py.
PLOTTING = {"plt", "axis", "axes", "figure", "panels", "subplots", "imshow", "barh"}
PLOTTING |= {"plot", "bar", "scatter", "hist", "colorbar", "annotate", "set_title", "set_xlabel"}

MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_jupyter = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"),
    reason=f'the extra "notebooks" is not installed: no {", ".join(MISSING)}',
)


@needs_jupyter
class NotebookChecks:
    """A subclass lists its `notebooks`; the fixtures then give one of them after the other."""

    notebooks: tuple[str, ...]

    def test_the_pair_is_the_same(self, script, stored):
        def content(notebook):
            return [
                (c.id, c.cell_type, c.source, sorted(tags(c)), c.metadata.get("jupyter"))
                for c in notebook.cells
            ]

        assert content(script) == content(stored)
        assert stored.metadata.kernelspec.name == "python3"

    def test_it_runs_without_a_warning(self, run):
        for cell in code(run.notebook):
            assert all(output.get("name") != "stderr" for output in cell.outputs), cell.outputs

    def test_stored_outputs_are_those_of_a_fresh_run(self, stored, run):
        assert [c.execution_count for c in code(stored)] == list(range(1, len(code(stored)) + 1))
        for then, now in zip(code(stored), code(run.notebook), strict=True):
            if VARYING.isdisjoint(tags(then)):
                assert texts(then) == texts(now), then.source
            else:
                assert len(texts(then)) == len(texts(now)), then.source

    def test_the_hidden_answers_are_right_and_wrong_ones_are_not(self, run):
        assert len(run.replies) == EXERCISES
        for right, wrong, none in run.replies:
            assert right == "Right.\n"
            assert wrong.startswith("Not yet")
            assert none.startswith("No answer yet. Hint: ")

    def test_each_exercise_is_a_question_a_cell_a_check_and_an_answer(self, script):
        asked = re.findall(r"^### Exercise (\d)$", prose(script), re.MULTILINE)
        assert asked == [str(number + 1) for number in range(EXERCISES)]
        exercises = positions(script, "exercise")
        assert len(exercises) == EXERCISES
        assert positions(script, "check") == [position + 1 for position in exercises]
        for position in exercises:
            cell, folded, details = script.cells[position : position + 3]
            assert cell.source.startswith("answer = None")
            assert "check(" in folded.source
            assert folded.metadata.jupyter.source_hidden
            assert details.source.startswith("<details><summary>Answer</summary>")

    def test_an_exercise_asks_for_code(self, script):
        """At least one: its answer is or has a function."""
        parts = [p for answer in hidden_answers(script) for p in ast.walk(ast.parse(answer))]
        assert any(isinstance(part, (ast.FunctionDef, ast.Lambda)) for part in parts)

    def test_it_begins_with_one_line_of_set_up(self, script):
        assert code(script)[0].source == "from start import *"

    def test_its_cells_are_short(self, script):
        for cell in code(script):
            assert len(cell.source.splitlines()) < LINES, cell.source

    def test_the_series_is_quick(self, run):
        assert run.seconds_so_far < LONGEST

    def test_it_has_all_its_parts(self, name, script, stored):
        first = script.cells[0]
        assert first.cell_type == "markdown"
        assert re.match(r"# .*\?$", first.source.splitlines()[0]), "the title is the question"
        sources = [cell.source for cell in code(script)]
        assert any(re.search(r"(?<![\w.])show\(", source) for source in sources)
        shown = [text for cell in code(stored) for text in texts(cell)]
        assert any(text.lstrip().startswith(("def ", "class ")) for text in shown), "no source"
        assert "a picture" in shown
        position = SERIES.index(name)
        following = SERIES[position + 1] if position + 1 < len(SERIES) else "README"
        last = script.cells[-1].source
        assert re.search(rf"\]\({following}\.(ipynb|md)\)", last), "no link to the next"

    def test_no_kernel_is_defined_again(self, script):
        for cell in code(script):
            assert KERNELS.isdisjoint(defined_names(cell.source)), cell.source
            assert KERNEL_CODE.isdisjoint(fingerprints(cell.source, KERNELS)), cell.source

    def test_it_takes_nothing_from_the_tests(self, script):
        for cell in code(script):
            assert not re.search(r"\bsys\.path\b|\b(from|import) tests\b", cell.source)

    def test_links_lead_somewhere(self, script):
        check_links(prose(script))

    def test_its_plots_are_drawn_in_pictures_py(self, script):
        """A cell calls one function of pictures.py; it handles no figure and no axis itself."""
        for cell in code(script):
            for part in ast.walk(ast.parse(cell.source)):
                name = getattr(part, "id", None) or getattr(part, "attr", None) or ""
                assert name not in PLOTTING, cell.source
                assert not name.startswith("draw_"), cell.source
            assert "matplotlib" not in cell.source
