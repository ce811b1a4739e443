"""What the tests of the notebooks share: the series, and how to look into a notebook."""

import importlib.util
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"
SERIES = (
    "00_classify_a_photo",
    "01_convolution",
    "02_depthwise_and_mixconv",
    "03_same_padding",
    "04_batch_norm",
    "05_swish_and_squeeze_excite",
    "06_reading_block_strings",
    "07_one_block_by_hand",
    "08_debugging_layer_by_layer",
    "09_where_the_time_goes",
    "10_from_tensorflow_checkpoint_to_weights",
    "11_one_image_on_many_cores",
)
HALF = 6  # notebooks of the first half: the two halves take about as long
EXERCISES = 3  # in each notebook


def load_make():
    """notebooks/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def only(elements):
    """The one element there must be."""
    (element,) = elements
    return element


def tags(cell):
    return cell.metadata.get("tags", [])


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def positions(notebook, tag):
    """Where the code cells with a tag stand, in order."""
    return [
        i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and tag in tags(cell)
    ]


def hidden_answers(notebook):
    """The Python inside each <details>, in order."""
    details = re.findall(r"<details>(.*?)</details>", prose(notebook), re.DOTALL)
    return [only(re.findall(r"```python\n(.*?)```", text, re.DOTALL)) for text in details]


def texts(cell):
    """What a cell printed or displayed, as text."""
    shown = []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown.append(output.text)
        elif "image/png" in output.get("data", {}):
            shown.append("a picture")
        elif output.output_type in ("display_data", "execute_result"):
            shown.append(output.data["text/plain"])
    return shown


def check_links(markdown):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", markdown):
        assert (FOLDER / link).exists(), link
