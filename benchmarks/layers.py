"""Where the time goes, layer by layer and kernel by kernel: python -m benchmarks.layers

Prints tables for README.md by kind of layer, by kernel and by block, and one that says how much
faster each fast kernel is than the readable one that it replaces. One thread computes, so that no
kernel waits for another core. --readable measures `Model.layers` instead of the fast path, and
--picture FILE draws the blocks as bars (needs the extra `pictures`).
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Server, chosen_kernels, machine, markdown
from benchmarks.weights import write_made_up_weights
from tinymixnet.engine.architecture import Architecture, mixnet
from tinymixnet.model import Model

COLOURED = 6  # kernels with a colour of their own in the picture; the others share a grey
GREY = "#999999"


class Step(NamedTuple):
    """A layer, or one of the kernel calls that make up a layer, with the time it took."""

    layer: str  # blocks_3/expand on the fast path; blocks_3/expand_conv, ... on the readable one
    kernel: str  # the name of the function that computed it
    seconds: float


# -- measuring ------------------------------------------------------------------------------------

FUNCTIONS = {  # the end of a layer's name: the function of engine/kernels.py that computes it
    "normalize": "normalize",
    "stem/conv": "conv2d",
    "head/conv": "pointwise_conv2d",
    "expand_conv": "grouped_conv2d",
    "depthwise_conv": "mix_conv",
    "project_conv": "grouped_conv2d",
    "bn": "batch_norm",
    "pool": "global_average_pool",
    "output": "add",
    "logits": "dense",
    "probabilities": "softmax",
}


def function_of(layer: str, swish: set[str]) -> str:
    """Return the function that computes a layer of the readable path.

    swish: the names of the blocks whose activation is swish.
    """
    scope, _, last = layer.rpartition("/")
    if last.startswith("se_"):
        return "squeeze_excite"
    if last.endswith("act"):
        return "swish" if scope in swish else "relu"
    return next(function for end, function in FUNCTIONS.items() if layer.endswith(end))


def readable_steps(model: Model, pixels: np.ndarray) -> Iterator[Step]:
    """Run the readable path once; a layer's time is that since the layer before it."""
    swish = {block.name for block in model.architecture.blocks if block.swish}
    before = perf_counter()
    for layer, _ in model.layers(pixels):
        now = perf_counter()
        if layer != "image":
            yield Step(layer, function_of(layer, swish), now - before)
        before = perf_counter()


def fast_steps(model: Model, pixels: np.ndarray) -> Iterator[Step]:
    """Run the compiled plan once, with a clock around each of its steps."""
    [image] = pixels
    for step, seconds in model.plan.profile(image):
        yield Step(step.layer, step.kernel, seconds)


def profile(model: Model, pixels: np.ndarray, rounds: int, readable: bool) -> list[Step]:
    """Return the steps of one forward pass, each with its median time over the rounds."""
    steps = readable_steps if readable else fast_steps
    runs = [list(steps(model, pixels)) for _ in range(rounds + 1)][1:]  # the first one warms up
    return [
        Step(step.layer, step.kernel, median(run[i].seconds for run in runs))
        for i, step in enumerate(runs[0])
    ]


# -- adding up ------------------------------------------------------------------------------------


def part_of(layer: str) -> str:
    """Return a layer's part of the network: "blocks_3/se_pool" -> "blocks_3"; or stem, or head."""
    if layer.startswith("blocks_"):
        return layer.split("/")[0]
    return "stem" if layer.startswith(("image", "normalize", "stem")) else "head"


def kind_of(layer: str) -> str:
    """Return what a layer is for: "blocks_3/se_pool" -> "se", "blocks_3/expand_bn" -> "expand"."""
    if not layer.startswith("blocks_"):
        return part_of(layer)
    kind = layer.split("/")[1].split("_")[0]
    return (
        "project" if kind == "output" else kind
    )  # the sum with the block's input counts as project


def longest_first(sums: dict[str, float]) -> dict[str, float]:
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def by_kernel(steps: Iterable[Step]) -> dict[str, float]:
    """Return the seconds of each kernel, the longest first."""
    sums: dict[str, float] = defaultdict(float)
    for _, kernel, seconds in steps:
        sums[kernel] += seconds
    return longest_first(sums)


def by_kind(steps: Iterable[Step]) -> dict[str, float]:
    """Return the seconds of each kind of layer, the longest first."""
    sums: dict[str, float] = defaultdict(float)
    for layer, _, seconds in steps:
        sums[kind_of(layer)] += seconds
    return longest_first(sums)


def by_part(steps: Iterable[Step]) -> dict[str, dict[str, float]]:
    """Return the seconds of each kernel in each part of the network, parts in order."""
    sums: dict[str, dict[str, float]] = {}
    for layer, kernel, seconds in steps:
        sums.setdefault(part_of(layer), defaultdict(float))[kernel] += seconds
    return sums


# -- showing --------------------------------------------------------------------------------------


def kind_table(steps: Sequence[Step], architecture: Architecture, size: int) -> str:
    """Return a table with the time, share, multiply-adds and speed of each kind of layer."""
    work: Counter[str] = Counter()
    for row in architecture.layers(size, size):
        work[kind_of(row.name)] += row.multiply_adds
    seconds = by_kind(steps)
    total = sum(seconds.values())
    rows = [
        [kind, f"{1e3 * s:.2f}", f"{100 * s / total:.1f} %", *rate(work[kind], s)]
        for kind, s in seconds.items()
    ]
    rows.append(["all", f"{1e3 * total:.2f}", "100 %", *rate(sum(work.values()), total)])
    return markdown(["layers", "ms", "share", "M multiply-adds", "G multiply-adds/s"], rows)


def rate(multiply_adds: int, seconds: float) -> tuple[str, str]:
    return f"{multiply_adds / 1e6:.1f}", f"{multiply_adds / seconds / 1e9:.1f}"


def kernel_table(steps: Sequence[Step]) -> str:
    """Return a table with the time, share and number of calls of each kernel."""
    calls = Counter(step.kernel for step in steps)
    seconds = by_kernel(steps)
    total = sum(seconds.values())
    rows = [
        [kernel, f"{1e3 * s:.2f}", f"{100 * s / total:.1f} %", str(calls[kernel])]
        for kernel, s in seconds.items()
    ]
    return markdown(["kernel", "ms", "share", "calls"], rows)


def block_table(steps: Sequence[Step], kernels: int = 5) -> str:
    """Return a table of milliseconds: a row for each block, a column for the longest kernels."""
    columns = list(by_kernel(steps))[:kernels]
    rows = []
    for part, times in by_part(steps).items():
        rest = sum(s for kernel, s in times.items() if kernel not in columns)
        cells = [*(times.get(kernel, 0) for kernel in columns), rest, sum(times.values())]
        rows.append([part, *(f"{1e3 * s:.2f}" if s else "" for s in cells)])
    return markdown(["ms", *columns, "others", "all"], rows)


REPLACES = {  # kernels of the fast path: the readable one whose result they give
    ("depthwise_columns",): "mix_conv",
    ("depthwise_fourier",): "mix_conv",
    ("swish_of_half_to",): "swish",
    ("negated_swish_to",): "swish",
    ("relu_to",): "relu",
    ("squeeze", "gate_of_squeezed", "multiply"): "squeeze_excite",
}


def gains_table(fast: Sequence[Step], readable: Sequence[Step]) -> str:
    """Return a table with each fast kernel's time beside that of the readable kernel it replaces.

    Both are summed over the blocks in which the fast kernel is used.
    """
    theirs, rows = by_part(readable), []
    for kernels, function in REPLACES.items():
        ours = {
            part: sum(s for kernel, s in times.items() if kernel in kernels)
            for part, times in by_part(fast).items()
            if kernels[0] in times
        }
        quick, slow = sum(ours.values()), sum(theirs[part].get(function, 0) for part in ours)
        if ours:
            names = " and ".join(kernels), function
            rows.append([*names, f"{1e3 * slow:.2f}", f"{1e3 * quick:.2f}", f"{slow / quick:.1f}"])
    return markdown(["fast kernel", "readable one", "its ms", "ms", "times as fast"], rows)


def draw(steps: Sequence[Step], title: str, path: Path) -> None:
    """Draw a bar for each block, divided by kernel; the shorter kernels share one colour."""
    import matplotlib

    matplotlib.use("agg")  # draws without a screen
    import matplotlib.pyplot as plt

    from notebooks.pictures import COLOURS

    parts, columns = by_part(steps), list(by_kernel(steps))[:COLOURED]
    names = [part.replace("blocks_", "block ") for part in parts]
    figure, axes = plt.subplots(figsize=(10, 0.32 * len(names) + 1.6), layout="constrained")
    end = np.zeros(len(names))
    for kernel, colour in [*zip(columns, COLOURS, strict=False), ("others", GREY)]:
        widths = [
            1e3 * sum(s for k, s in part.items() if (k if k in columns else "others") == kernel)
            for part in parts.values()
        ]
        if any(widths):
            axes.barh(names, widths, left=end, color=colour, label=kernel, edgecolor="white")
        end += widths
    for y, width in enumerate(end):
        axes.text(width, y, f" {width:.1f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(title, loc="left")
    axes.margins(x=0.06, y=0.01)
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# -- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers", description="where the time goes"
    )
    parser.add_argument("--quick", action="store_true", help="a small network, to try the command")
    parser.add_argument("--readable", action="store_true", help="the path of Model.layers")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the bars, as PNG")
    options = parser.parse_args(arguments)
    variant, size, rounds = ("mixnet-s", 64, 2) if options.quick else ("mixnet-l", 224, 20)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.h5"
        write_made_up_weights(weights, mixnet(variant), size)
        with Server("benchmarks.peers:tinymixnet", 1, weights) as server:

            def measured(readable: bool, rounds: int) -> list[Step]:
                answer = server.ask("layers", size=size, rounds=rounds, readable=readable)
                return [Step(*step) for step in answer["steps"]]

            steps = measured(options.readable, rounds)
            readable = None if options.readable else measured(True, 5)
    path = "readable path" if options.readable else "fast path"
    what = f"{variant}, {path}, one image of {size} px"
    facts = {
        "NumPy's BLAS kernels": chosen_kernels(as_set=False),
        "figures": f"{what}; of each step the median of {rounds} runs",
    }
    print(machine(1, ["numpy"], facts))
    for table in (kind_table(steps, mixnet(variant), size), kernel_table(steps)):
        print(f"\n{table}")
    print(f"\n{block_table(steps)}")
    if readable:
        print(f"\n{gains_table(steps, readable)}")
    if options.picture:
        draw(steps, f"Where the time goes: {what}", options.picture)


if __name__ == "__main__":
    main()
