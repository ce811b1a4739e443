"""Make docs/architecture.svg and the made parts of docs/architecture.md, from the code itself.

    python -m docs.make_architecture            write both
    python -m docs.make_architecture --check    only say whether they are as they would be written

The order of the rooms is that of tests/test_imports.py. The way of a photo is recorded: a run of
`tinymixnet classify` under Python's profiler, which tells every function that is called.
"""

import ast
import contextlib
import io
import re
import sys
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from tests.test_imports import GRAPH, LEVELS, level_of, modules
from tinymixnet.report.colours import BLUE, SKY

ROOT = Path(__file__).resolve().parents[1]

PAGE, DRAWING = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
PHOTO = ROOT / "tinymixnet" / "data" / "cat.jpg"
ROOMS = [level for level in LEVELS if level != "around the package"]

# -- the drawing of the rooms ---------------------------------------------------------------------

WIDTH, LEFT, TALL, GAP = 860, 12, 18, 20  # pixels: of the drawing, its margin, a line, an arrow
PURPOSE = {
    "weights_tools": "everything that knows other formats: fetch, extract, convert, record",
    "command line": "what a user types",
    "report": "the page that shows every layer",
    "debug": "record layers, compare two runs, find the mistake behind a difference",
    "evaluate": "how often answers are right on labelled photos; clusters",
    "arrays and JSON": "files of arrays and JSON that nobody vouches for",
    "model": "a network with its weights, ready to use",
    "fast": "the same numbers, compiled; processes that share photos, or one photo",
    "weights and images": "reading what comes from outside; the network layer by layer",
    "kernels and architecture": "every operation, and the network as data",
    "errors": "what a user can do wrong",
}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1a1a1a }
.room { font-weight: 600; font-size: 15px } .what { fill: #555 } .file { font-family: monospace }
rect { fill: #f4f6f8; stroke: #9aa4af } path { fill: none; stroke: BLUE; stroke-width: 1.5 }
.head { fill: BLUE; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e6e6 } .what { fill: #a8b0b8 } rect { fill: #22262b; stroke: #59636e }
  path { stroke: SKY } .head { fill: SKY }
}""".replace("BLUE", BLUE).replace("SKY", SKY)


def files_of(level: str) -> list[str]:
    """The modules of a level, as a reader finds them: kernels, names/timm, ..."""
    files = []
    for name in modules():
        if name.startswith(("tinymixnet", "weights_tools")) and level_of(name) == level:
            path = modules()[name].relative_to(ROOT)
            if path.name != "__init__.py" and path.name != "__main__.py":
                files.append(path.with_suffix("").as_posix().removeprefix("tinymixnet/"))
    room = f"{level}/"
    return [file.removeprefix(room) for file in files]


def wrapped(words: list[str], width: int) -> list[str]:
    """Words in lines of at most `width` characters."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + word
    return lines


def used_rooms(level: str) -> set[str]:
    """The rooms whose modules those of a room import."""
    used = {
        level_of(name) for module in GRAPH if level_of(module) == level for name in GRAPH[module]
    }
    return used - {level}


def drawing() -> str:
    """A box for each room, those that use above those that are used."""
    boxes, arrows, y = "", "", 4
    for level in reversed(ROOMS):
        lines = wrapped(files_of(level), 100)
        used = ", ".join(sorted(used_rooms(level), key=ROOMS.index, reverse=True))
        lines.append(f"uses {used}" if used else "uses nothing of ours")
        height = 32 + TALL * len(lines)
        x = LEFT + 12
        boxes += f'<rect x="{LEFT}" y="{y}" width="{WIDTH - 2 * LEFT}" height="{height}" rx="6"/>'
        boxes += f'<text class="room" x="{x}" y="{y + 21}">{escape(level)}</text>'
        boxes += f'<text class="what" x="{x + 216}" y="{y + 21}">{escape(PURPOSE[level])}</text>'
        for i, line in enumerate(lines):
            kind = "what" if i == len(lines) - 1 else "file"
            place = f'x="{x}" y="{y + 42 + TALL * i}"'
            boxes += f'<text class="{kind}" {place} xml:space="preserve">{escape(line)}</text>'
        y += height
        if level != ROOMS[0]:
            arrows += f'<path d="M{WIDTH // 2} {y}v{GAP - 8}"/>'
            arrows += f'<path class="head" d="M{WIDTH // 2} {y + GAP}l-6 -9h12z"/>'
            y += GAP
    y += 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
        f'height="{y}" role="img" aria-label="The rooms of the package and which uses which">'
        f"<style>{STYLE}</style>{boxes}{arrows}</svg>\n"
    )


# -- the way of a photo ---------------------------------------------------------------------------


def called() -> list[tuple[int, str, str]]:
    """All public functions of ours that classifying a photo calls: (depth, file, function)."""
    from tinymixnet.cli import main
    from tinymixnet.model import load

    load()(_grey())  # what is imported or made at first use is not part of the way
    calls: list[tuple[int, str, str]] = []
    seen: set[tuple[Path, str]] = set()
    stack: list[bool] = []  # of the calls that have not returned: whether they are shown

    def watch(frame: Any, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if not file.is_relative_to(ROOT / "tinymixnet"):
            return
        name = frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
        if event == "call":
            last = name.rpartition(".")[2]
            shown = last == "__call__" or not last.startswith(("_", "<"))
            stack.append(shown)
            if shown and (file, name) not in seen:
                seen.add((file, name))
                calls.append((sum(stack), file.relative_to(ROOT).as_posix(), name))
        elif event == "return" and stack:
            stack.pop()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sys.setprofile(watch)
        try:
            main(["classify", str(PHOTO)])
        finally:
            sys.setprofile(None)
    return calls


def _grey() -> Any:
    import numpy as np

    return np.full((1, 64, 64, 3), 128, np.float32)


def way() -> str:
    """The calls as an indented list, each with the first sentence of the function's docstring."""
    lines = []
    for depth, file, name in called():
        sentence = first_sentence(ROOT / file, name)
        what = f": {sentence}" if sentence else ""
        place = file.removeprefix("tinymixnet/")
        lines.append(f"{'  ' * (depth - 1)}- `{name}` ({place}){what}")
    return "\n".join(lines)


def first_sentence(path: Path, qualified: str) -> str:
    """What the docstring of a function begins with."""
    node: Any = ast.parse(path.read_text("utf-8"))
    for name in qualified.split("."):
        node = next((n for n in node.body if getattr(n, "name", None) == name), None)
        if node is None:
            return ""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:]) ", text)[0].rstrip(".:")


# -- writing --------------------------------------------------------------------------------------


def fill(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The page with its made parts, which stand between <!-- made: NAME --> and <!-- end -->."""
    for name, make in parts.items():
        begin, end = f"<!-- made: {name} -->", "<!-- end -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{make()}{end}{rest.partition(end)[2]}"
    return page


def main(arguments: list[str]) -> int:
    page = PAGE.read_text("utf-8")
    new = {PAGE: fill(page, {"way": lambda: f"\n\n{way()}\n\n"}), DRAWING: drawing()}
    stale = [p for p, text in new.items() if not p.is_file() or p.read_text("utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)}: not as `python -m docs.make_architecture` writes it")
        return 1 if stale else 0
    for path, text in new.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
