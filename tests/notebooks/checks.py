"""The checks of one notebook: it runs as it is, its stored outputs are true, no part is missing.

The series is divided between test_first_half.py and test_second_half.py, so that two worker
processes of pytest-xdist share it: a worker takes a whole file of tests.
"""

import importlib.util
import inspect
import os
import re

import pytest

from tests.notebooks.copies import defined_names, fingerprints
from tests.notebooks.series import SERIES, check_links, code, only, prose, tags, texts
from tinymixnet import mixnet
from tinymixnet.engine import kernels, network
from tinymixnet.fast import depthwise
from tinymixnet.fast import kernels as fast_kernels

LONGEST = 150  # seconds for the notebooks of one process: five minutes for two halves
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
        for then, now in zip(code(stored), code(run.notebook), strict=True):
            assert then.execution_count == now.execution_count
            if VARYING.isdisjoint(tags(then)):
                assert texts(then) == texts(now), then.source
            else:
                assert len(texts(then)) == len(texts(now)), then.source

    def test_the_hidden_answer_is_right_and_a_wrong_one_is_not(self, run):
        right, wrong, none = run.replies
        assert right == "Right.\n"
        assert wrong.startswith("Not yet")
        assert none.startswith("No answer yet. Hint: ")

    def test_the_series_is_quick(self, run):
        assert run.seconds_so_far < LONGEST

    def test_it_has_all_its_parts(self, name, script, stored):
        first = script.cells[0]
        assert first.cell_type == "markdown"
        assert re.match(r"# .*\?$", first.source.splitlines()[0]), "the title is the question"
        sources = [cell.source for cell in code(script)]
        assert any("inspect.getsource(" in source for source in sources)
        shown = [text for cell in code(stored) for text in texts(cell)]
        assert any(text.lstrip().startswith(("def ", "class ")) for text in shown), "no source"
        assert "a picture" in shown
        assert "## Exercise" in prose(script)
        exercise = only(cell.source for cell in code(script) if "exercise" in tags(cell))
        assert exercise.startswith("answer = None")
        folded = only(cell for cell in code(script) if "check" in tags(cell))
        assert folded.metadata.jupyter.source_hidden
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

    def test_it_names_every_axis(self, script):
        """Each image and plot goes through pictures.py, or says xlabel and ylabel itself."""
        for cell in code(script):
            if re.search(r"\.(imshow|plot|bar|barh|scatter|hist)\(", cell.source):
                assert "label" in cell.source, cell.source
