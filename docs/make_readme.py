"""Make the parts of README.md and docs/use.md that depend on the bundled weights.

    python -m docs.make_readme            write them, and docs/answer.png
    python -m docs.make_readme --check    only say whether the texts are as they would be written

After new weights were bundled, this brings every number in them up to date.
"""

import contextlib
import doctest
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from docs.make_architecture import fill
from tinymixnet.cli import main as tinymixnet
from tinymixnet.engine.weights import BUNDLED, read_weights
from tinymixnet.model import load
from tinymixnet.report.explanation_pictures import picture

ROOT = Path(__file__).resolve().parents[1]
README, USE, PICTURE = ROOT / "README.md", ROOT / "docs" / "use.md", ROOT / "docs" / "answer.png"
WIDTH = 1500  # pixels of the picture


@contextlib.contextmanager
def _inside(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Work in a folder for a while. (Python 3.10 has no contextlib.chdir.)"""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def answers() -> str:
    """What README's first command prints."""
    command = README.read_text("utf-8").split("```sh\n")[1].split("```")[0].split(" && tinymixnet ")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), _inside(ROOT):
        tinymixnet(command[1].split())
    return f"\n```text\n{output.getvalue()}```\n\n"


def accuracy() -> str:
    """What `weights_tools evaluate --write` has noted in the weights."""
    noted = read_weights(BUNDLED).metadata.accuracy
    return f"Measured with this engine: {noted}." if noted else ""


def puzzle() -> str:
    """What the command of README's puzzle prints."""
    shown = README.read_text("utf-8").split("<!-- made: puzzle -->\n```text\n$ ")[1]
    command, output = shown.split("\n")[0], io.StringIO()
    with _beside_the_package(), contextlib.redirect_stdout(output):
        tinymixnet(command.split()[1:])
    return f"\n```text\n$ {command}\n{output.getvalue()}```\n\n"


@contextlib.contextmanager
def _beside_the_package() -> Iterator[None]:
    """Work in a new folder with a link to the package, as if it were this one."""
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        os.symlink(ROOT / "tinymixnet", "tinymixnet")
        yield


def run_examples(page: str) -> str:
    """The page with what its Python examples print now."""
    start, end = page.index("```python\n") + len("```python\n"), page.index("\n```\n\nA user's")
    parts = doctest.DocTestParser().parse(page[start:end])
    names: dict[str, object] = {}
    text = ""
    with _beside_the_package():
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(part.source, "<example>", "single"), names)
            first, *more = part.source.splitlines()
            lines = [f">>> {first}", *(f"... {line}".rstrip() for line in more)]
            printed = output.getvalue().replace("\n\n", "\n<BLANKLINE>\n")
            text += "\n".join(lines) + "\n" + printed
    return page[:start] + text + page[end:]


def make_picture() -> None:
    """Both bundled photos, what the network answers, and where it looked."""
    from PIL import Image

    model = load()
    pictures = [picture(model.explain(path)) for path in sorted(BUNDLED.parent.glob("*.jpg"))]
    width = max(p.width for p in pictures)
    both = Image.new("RGB", (width, sum(p.height for p in pictures)), "white")
    top = 0
    for one in pictures:
        both.paste(one, (0, top))
        top += one.height
    height = round(both.height * WIDTH / width)
    both = both.resize((WIDTH, height), Image.Resampling.LANCZOS)
    both.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(PICTURE, optimize=True)


def main(arguments: list[str]) -> int:
    readme, use = README.read_text("utf-8"), USE.read_text("utf-8")
    new = {
        README: fill(readme, {"answers": answers, "accuracy": accuracy, "puzzle": puzzle}),
        USE: run_examples(use),
    }
    stale = [path for path, text in new.items() if path.read_text("utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)}: not as `python -m docs.make_readme` writes it")
        return 1 if stale else 0
    for path, text in new.items():
        path.write_text(text, "utf-8")
    make_picture()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
