"""Make the notebooks: run each script in a fresh kernel, and write it with its outputs as .ipynb.

    python notebooks/make.py                                all of them, and then all pages of docs/
                                                            that depend on the bundled weights
    python notebooks/make.py notebooks/01_convolution.py    only these

Needs the extra `notebooks`. The .py (jupytext's percent format) is the source, so change that one.
The picture of the cell tagged "readme" becomes docs/notebooks.png.
"""

import base64
import os
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
PICTURE = FOLDER.parent / "docs" / "notebooks.png"
PAGES = ("docs.make_readme", "docs.make_weights_page", "docs.make_porting_mistakes")
TIMEOUT = 240  # seconds a cell
UNWANTED = ("TINYMIXNET_WEIGHTS", "MPLBACKEND")  # would change the answers, or show no picture


def scripts() -> list[Path]:
    """The sources of the series, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read_script(path: Path) -> nbformat.NotebookNode:
    """Read a script as a notebook without outputs; the result is the same each time."""
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext would choose a random one
    return notebook


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run all cells in a new kernel, in this folder, and put their outputs into the notebook.

    Raises nbclient's CellExecutionError at the first cell that fails.
    """
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,  # join what was printed: it arrives in parts of any size
    )
    client.execute(env=env)
    notebook.metadata.pop("language_info", None)  # it contains this machine's Python version


def write(path: Path, content: bytes) -> None:
    """Write a file in one step, so that a failure leaves no half of it."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def readme_picture(notebook: nbformat.NotebookNode) -> bytes | None:
    """The picture of the cell tagged "readme", where there is one."""
    for cell in notebook.cells:
        if "readme" in cell.metadata.get("tags", []):
            (png,) = (o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
            return base64.b64decode(png)
    return None


def main(paths: list[Path]) -> None:
    for path in paths:
        started = time.perf_counter()
        notebook = read_script(path)
        execute(notebook)
        text = nbformat.writes(notebook) + "\n"
        write(path.with_suffix(".ipynb"), text.encode())
        if (png := readme_picture(notebook)) is not None:
            write(PICTURE, png)
        print(f"{path.stem}: {time.perf_counter() - started:.1f} s, {len(text) / 1e6:.1f} MB")


def make_pages() -> None:
    """Make README and the pages in docs/ that tell what the bundled weights answer."""
    for module in PAGES:
        subprocess.run([sys.executable, "-m", module], cwd=FOLDER.parent, check=True)
        print(module)


if __name__ == "__main__":
    main([Path(name).resolve().with_suffix(".py") for name in sys.argv[1:]] or scripts())
    if not sys.argv[1:]:
        make_pages()
