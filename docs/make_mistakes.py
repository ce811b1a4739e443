"""Make the list of mistakes that `diagnose` knows, in docs/debugging.md.

    python -m docs.make_mistakes            write it
    python -m docs.make_mistakes --check    only say whether the page has it as it would be

A mistake may be made in several ways: then the sentences of all ways are listed.
"""

import sys
from pathlib import Path

from benchmarks.measure import markdown
from docs.make_architecture import fill
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.debug.suspects.from_data import raw_weights

PAGE = Path(__file__).parent / "debugging.md"
MOST = 3  # ways that are listed

# What is not tried by changing our run, but seen in another way.
OTHERS = {
    "other-resize": "the photo is cropped or resized in another way: which one is said",
    "low-precision": "values are rounded to float16, bfloat16 or 8-bit integers, and the errors "
    "are as large as this rounding makes them in our run",
    "fp16-overflow": "NaN, infinity or 65504, where float16 ends, stands where our values are "
    "larger",
    "other-weights": "most layers do what they should with weights of their own: those of another "
    "variant or training, or none that were loaded",
    "unknown": "no known mistake: the pattern of the error is described",
}


def meanings() -> dict[str, list[str]]:
    """Return slug -> sentences, in the order of the network's parts."""
    found: dict[str, list[str]] = {}
    for suspect in [*SUSPECTS, *raw_weights({})]:
        if suspect.slug not in OTHERS:
            found.setdefault(suspect.slug, [])
            if suspect.sentence not in found[suspect.slug]:
                found[suspect.slug].append(suspect.sentence)
    return found | {slug: [sentence] for slug, sentence in OTHERS.items()}


def table() -> str:
    """Return a row for each mistake: its name in `cause:`, and what it means."""
    rows = []
    for slug, sentences in meanings().items():
        more = f"; and {len(sentences) - MOST} more ways" if len(sentences) > MOST else ""
        rows.append((f"`{slug}`", "; or ".join(sentences[:MOST]).replace("|", "\\|") + more))
    return f"\n\n{markdown(('`cause:`', 'what it means'), rows, ('---', '---'))}\n\n"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text("utf-8")
    made = fill(page, {"mistakes": table})
    if arguments == ["--check"]:
        if made != page:
            print(f"docs/{PAGE.name}: the list of mistakes is old; `python -m docs.make_mistakes`")
        return int(made != page)
    PAGE.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
