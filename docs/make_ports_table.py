"""Make the table of real ports in docs/debugging.md, and what `diagnose` says of them.

    python -m docs.make_ports_table             record all ports, diagnose them, write the table
    python -m docs.make_ports_table FOLDER      keep the dumps in FOLDER, and take those there

It needs the extra `test-ports`, and takes about ten minutes. Each verdict is the first line of the
command itself. The exit code is 1 if one of them is not the truth; the table is written all
the same, and says so.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import markdown
from docs.make_architecture import fill
from tests.ports.table import PORTS, Port, record_ports

PAGE = Path(__file__).parent / "debugging.md"
HEADER = ("port", "recorded", "truth", "`diagnose` says", "seconds")
RULE = ("---", "---", "---", "---", "---:")
PACKAGES = ("torch", "timm", "geffnet", "pytorchcv", "onnx", "onnxscript", "onnxsim")
PACKAGES += ("onnxruntime", "openvino", "tensorflow_cpu", "keras")


def verdict(port: Port, folder: Path) -> tuple[str, float]:
    """Return the first line that `tinymixnet diagnose` prints, and how long it takes."""
    command = [sys.executable, "-m", "tinymixnet", "diagnose"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, str(folder / "pixels.npy"), str(port.dump(folder))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    said = (done.stdout or done.stderr).splitlines()
    return (said[0] if said else "nothing"), time.perf_counter() - start


def rows(folder: Path) -> Iterator[list[str]]:
    """Yield the row of each port."""
    for port in PORTS:
        said, seconds = verdict(port, folder)
        mark = "" if said == port.truth_line else " **wrong**"
        print(f"{port.name}: {said}{mark}, {seconds:.1f} s", flush=True)
        yield [port.what, port.recorded, port.truth_in_words, f"`{said}`{mark}", f"{seconds:.0f}"]


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments[0] if arguments else temporary)
        for line in record_ports(folder, keep=True):
            print(line, flush=True)
        table = list(rows(folder))
    wrong = sum("**wrong**" in row[3] for row in table)
    parts = {
        "ports": lambda: f"\n\n{markdown(HEADER, table, RULE)}\n\n",
        "ports-count": lambda: f"{len(table)} ports, {len(table) - wrong} verdicts right",
        "ports-versions": lambda: ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    PAGE.write_text(fill(PAGE.read_text("utf-8"), parts), "utf-8")
    print(f"{PAGE}: {parts['ports-count']()}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
