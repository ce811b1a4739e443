"""Write what the bundled weights say of themselves into docs/weights.md.

python -m docs.make_weights_page            write it
python -m docs.make_weights_page --check    only say whether it is as it would be written
"""

import sys
from pathlib import Path

from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model, load

PAGE = Path(__file__).parent / "weights.md"
BEGIN, END = "<!-- begin: make_weights_page.py -->\n", "<!-- end -->\n"


def table(model: Model) -> str:
    """The facts in the metadata of a model, as a Markdown table."""
    metadata = model.metadata
    numbers = sum(tensor.size for tensor in model.tensors.values())
    size = metadata.input_size
    facts = {
        "file": f"`{BUNDLED.name}`",
        "network": f"{model.architecture.variant}, {numbers:,} numbers",
        "classes": len(metadata.labels),
        "input": f"{size} x {size} pixels, preset `{metadata.preset}`",
        "accuracy": metadata.accuracy,
        "made of": f"`{metadata.source}`",
        "its SHA-256": f"`{metadata.source_sha256}`",
        "licence": metadata.licence,
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {fact} |\n" for name, fact in facts.items())


def main(arguments: list[str]) -> int:
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    made = before + BEGIN + table(load(BUNDLED)) + END + rest.split(END, 1)[1]
    if "--check" in arguments:
        if made != page:
            print(f"{PAGE.name} is not as it would be made: run python -m docs.make_weights_page")
            return 1
        return 0
    PAGE.write_text(made, "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
