"""Every notebook runs as it stands, says what its stored outputs say, and has all its parts."""

import ast
import importlib.util
import inspect
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tinymixnet.engine import kernels
from tinymixnet.fast import kernels as fast_kernels

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
SERIES = (
    "00_classify_a_photo",
    "01_same_padding",
    "02_convolution_as_im2col",
    "03_depthwise_and_mixconv",
    "04_folding_batch_norm",
    "05_swish_and_squeeze_excite",
    "06_reading_block_strings",
    "07_one_block_by_hand",
    "08_debugging_layer_by_layer",
    "09_where_the_time_goes",
    "10_from_tensorflow_checkpoint_to_weights",
)
LONGEST = 300  # seconds, the whole series
NEEDED = ("jupytext", "nbformat", "nbclient", "ipykernel", "matplotlib")
# Cells with one of these tags print what no two machines, or no two runs, agree on.
VARYING = {"timing", "rounding"}

MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"),
    reason=f'the extra "notebooks" is not installed: no {", ".join(MISSING)}',
)

seconds: dict[str, float] = {}


@pytest.fixture(scope="module")
def make():
    """notebooks/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=SERIES)
def pair(request, make):
    """A script as jupytext reads it, and the stored notebook."""
    import nbformat

    script = make.read_script(FOLDER / f"{request.param}.py")
    stored = nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)
    return request.param, script, stored


@pytest.fixture(scope="module")
def run(pair, make):
    """The script run in a fresh kernel, and what it says to three answers."""
    import nbformat

    name, script, _ = pair
    fresh = nbformat.from_dict(script)
    check = only(cell.source for cell in fresh.cells if "check" in tags(cell))
    answers = hidden_answer(fresh), 'answer = "certainly wrong"', "answer = None"
    added = [nbformat.v4.new_code_cell(f"{answer}\n{check}") for answer in answers]
    fresh.cells.extend(added)
    started = time.perf_counter()
    make.execute(fresh)
    seconds[name] = time.perf_counter() - started
    del fresh.cells[-len(added) :]
    return fresh, ["".join(texts(cell)) for cell in added]


def only(found):
    """The one element there must be."""
    (element,) = found
    return element


def tags(cell):
    return cell.metadata.get("tags", [])


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def hidden_answer(notebook):
    """The Python inside <details>."""
    details = only(re.findall(r"<details>(.*?)</details>", prose(notebook), re.DOTALL))
    return only(re.findall(r"```python\n(.*?)```", details, re.DOTALL))


def texts(cell):
    """What a cell printed or displayed, as text."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append(output.text)
        elif "image/png" in output.get("data", {}):
            found.append("a picture")
        elif output.output_type in ("display_data", "execute_result"):
            found.append(output.data["text/plain"])
    return found


def defined(source):
    """Every name that a cell gives a meaning to by def, class or =."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_the_series_is_complete():
    assert tuple(NAMES) == SERIES


def test_the_pair_is_the_same(pair):
    _, script, stored = pair

    def content(notebook):
        return [
            (cell.id, cell.cell_type, cell.source, sorted(tags(cell)), cell.metadata.get("jupyter"))
            for cell in notebook.cells
        ]

    assert content(script) == content(stored)
    assert stored.metadata.kernelspec.name == "python3"


def test_it_runs_without_a_warning(run):
    fresh, _ = run
    for cell in code(fresh):
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.outputs


def test_stored_outputs_are_those_of_a_fresh_run(pair, run):
    _, _, stored = pair
    for then, now in zip(code(stored), code(run[0]), strict=True):
        assert then.execution_count == now.execution_count
        if VARYING.isdisjoint(tags(then)):
            assert texts(then) == texts(now), then.source
        else:
            assert len(texts(then)) == len(texts(now)), then.source


def test_the_hidden_answer_is_right_and_a_wrong_one_is_not(run):
    right, wrong, none = run[1]
    assert right == "Right.\n"
    assert wrong.startswith("Not yet")
    assert none.startswith("No answer yet. Hint: ")


def test_it_has_all_its_parts(pair):
    name, script, stored = pair
    first = script.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .*\?$", first.source.splitlines()[0]), "the title is the question"
    sources = [cell.source for cell in code(script)]
    assert any("inspect.getsource(" in source for source in sources)
    shown = [text for cell in code(stored) for text in texts(cell)]
    assert any(text.lstrip().startswith(("def ", "class ")) for text in shown), "no source shown"
    assert "a picture" in shown
    assert "## Exercise" in prose(script)
    assert only(c.source for c in code(script) if "exercise" in tags(c)).startswith("answer = None")
    folded = only(cell for cell in code(script) if "check" in tags(cell))
    assert folded.metadata.jupyter.source_hidden
    position = SERIES.index(name)
    following = SERIES[position + 1] if position + 1 < len(SERIES) else "README"
    last = script.cells[-1].source
    assert re.search(rf"\]\({following}\.(ipynb|md)\)", last), "no link to the next"


def test_no_kernel_is_defined_again(pair):
    ours = {"forward", "mixnet_block"} | {
        name
        for module in (kernels, fast_kernels)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    assert {"conv2d", "mix_conv", "depthwise_columns"} < ours
    for cell in code(pair[1]):
        assert ours.isdisjoint(defined(cell.source)), cell.source


def test_links_lead_somewhere(pair):
    check_links(prose(pair[1]))


def test_the_index_lists_the_series_in_order():
    index = (FOLDER / "README.md").read_text("utf-8")
    listed = re.findall(r"\]\((\d\d_\w+)\.ipynb\)", index)
    assert tuple(listed) == SERIES
    check_links(index)


def check_links(markdown):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", markdown):
        assert (FOLDER / link).exists(), link


def test_the_picture_in_the_readme_is_one_of_theirs(make):
    import nbformat

    notebooks = [nbformat.read(FOLDER / f"{name}.ipynb", as_version=4) for name in SERIES]
    pictures = [png for png in map(make.readme_picture, notebooks) if png is not None]
    assert make.PICTURE.read_bytes() == only(pictures)


def test_it_names_every_axis(pair):
    """Each image and plot goes through pictures.py, or says xlabel and ylabel itself."""
    for cell in code(pair[1]):
        if re.search(r"\.(imshow|plot|bar|barh|scatter|hist)\(", cell.source):
            assert "label" in cell.source, cell.source


def test_the_whole_series_takes_under_five_minutes():
    if set(seconds) != set(SERIES):
        pytest.skip("only a part of the series ran")
    print({name: round(taken, 1) for name, taken in seconds.items()}, file=sys.stderr)
    assert sum(seconds.values()) < LONGEST
