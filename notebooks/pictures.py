"""The pictures of the notebooks in one house style: fonts, sizes, colours, labelled axes.

Importing this sets matplotlib's defaults. Two levels:

    draw_*(axis, ...)   one picture on a given axis; get axes from `panels`
    show_*(...)         a whole figure in one call, for a cell's last line

No function returns a figure: at the end of a cell Jupyter shows each open figure by itself, and it
would show a returned one twice. The colours are those of the report (tinymixnet.report.colours),
and colour-blind readers can tell them apart: dark to light where values have a size, blue to orange
where they have a sign, and the palette of Okabe and Ito for lines and bars.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinymixnet.report import colours as style

WIDTH = 11.0  # inches of every figure: 1210 pixels
SIZES = LinearSegmentedColormap.from_list("dark_to_light", style.SIZES)  # small to large
SIGNS = LinearSegmentedColormap.from_list("blue_orange", style.SIGNS)  # on both sides of zero
STRONG, PALE, COLOURS = style.STRONG, style.PALE, style.COLOURS

matplotlib.colormaps.register(SIZES, force=True)  # by name, as the defaults want it
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "font.size": 13,
        "axes.titlesize": 13,
        "axes.labelsize": 13,
        "xtick.labelsize": 12,
        "ytick.labelsize": 12,
        "legend.fontsize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "lines.linewidth": 2,
        "image.cmap": SIZES.name,
        "image.interpolation": "nearest",
    }
)


def panels(
    rows: int = 1, columns: int = 1, height: float = 3.4, **more: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure of full width and its axes, an array (rows, columns); height in inches.

    more goes to plt.subplots, e.g. width_ratios=[2, 1].
    """
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **more)


# -- one picture on an axis -----------------------------------------------------------------------


def draw_image(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw an RGB picture (H, W, 3) of 0..255."""
    axis.imshow(np.clip(image, 0, 255).astype(np.uint8))
    _label_pixels(axis, image.shape[0], image.shape[1])
    axis.set_title(title)


def draw_map(
    axis: Axes,
    values: np.ndarray,
    title: str = "",
    label: str | None = "value",
    signs: bool = False,
    limits: tuple[float, float] | None = None,
    numbers: str | None = None,
) -> Any:
    """Draw a 2-D array as colours, with a colour bar called label (None: no bar); return the image.

    signs: the middle colour is zero, both ends are at the largest |value|. limits: the values at
    both ends of the colours. numbers: a format such as ".0f" to write every value into its cell.
    """
    low, high = limits or _limits([values], signs)
    image = axis.imshow(values, cmap=SIGNS if signs else SIZES, vmin=low, vmax=high)
    _label_pixels(axis, *values.shape)
    axis.set_title(title)
    if numbers is not None:
        for (row, column), value in np.ndenumerate(values):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            colour = "white" if dark else "black"
            text = format(value, numbers)
            axis.text(column, row, text, ha="center", va="center", color=colour)
    if label is not None:
        axis.figure.colorbar(image, ax=axis, label=label, shrink=0.9)
    return image


def draw_box(
    axis: Axes, row: float, column: float, height: float, width: float, colour: str = COLOURS[1]
) -> None:
    """Draw a frame around height x width pixels, the first of them at (row, column)."""
    corner = column - 0.5, row - 0.5
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=2))


def draw_bars(
    axis: Axes,
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    title: str = "",
    numbers: str | None = "%.1f",
    strong: Sequence[int] | None = None,
) -> None:
    """Draw horizontal bars, the first on top; label names the values' axis with its unit.

    numbers: a %-format for the number at each bar, None for none. strong: which bars stand out, by
    position (None: all).
    """
    wanted = range(len(values)) if strong is None else strong
    colours = [STRONG if i in wanted else PALE for i in range(len(values))]
    bars = axis.barh(range(len(values)), values, color=colours)
    axis.set_yticks(range(len(values)), names)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_title(title)
    if numbers is not None:
        axis.bar_label(bars, fmt=numbers, padding=4)
        axis.margins(x=0.15)


def draw_lines(
    axis: Axes,
    x: Sequence[float] | np.ndarray,
    series: Mapping[str, Any],
    x_label: str,
    y_label: str,
    title: str = "",
    log: bool = False,
    marker: str = "",
) -> None:
    """Draw one line for each named series over x; log: a logarithmic y axis."""
    for name, y in series.items():
        axis.plot(x, y, label=name, marker=marker)
    if log:
        axis.set_yscale("log")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_title(title)
    if len(series) > 1:
        axis.legend(frameon=False)


# -- whole figures --------------------------------------------------------------------------------


def show_images(images: Sequence[np.ndarray], titles: Sequence[str], height: float = 3.4) -> None:
    """Make a figure of RGB pictures (H, W, 3) of 0..255, side by side."""
    _, axes = panels(1, len(images), height)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        draw_image(axis, image, title)


def show_maps(
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    label: str,
    columns: int = 6,
    signs: bool = False,
    height: float | None = None,
    numbers: str | None = None,
    title: str = "",
) -> None:
    """Make a figure of 2-D arrays, `columns` in a row, on one scale; label names the colour bar.

    signs and numbers as for draw_map; height in inches of the whole figure.
    """
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    figure, axes = panels(rows, columns, height or 0.6 + rows * (0.6 + 8.2 / columns))
    limits = _limits(maps, signs)
    for axis, values, name in zip(axes.flat, maps, titles, strict=False):
        image = draw_map(axis, values, name, None, signs, limits, numbers)
        if len({m.shape for m in maps}) == 1:
            axis.label_outer()
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    if title:
        figure.suptitle(title)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, aspect=12 * rows)


def show_bars(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    title: str = "",
    numbers: str | None = "%.1f",
    strong: Sequence[int] | None = None,
    height: float | None = None,
) -> None:
    """Make a figure of one `draw_bars`."""
    _, axes = panels(height=height or 1.2 + 0.36 * len(values))
    draw_bars(axes[0, 0], names, values, label, title, numbers, strong)


def show_lines(
    x: Sequence[float] | np.ndarray,
    series: Mapping[str, Any],
    x_label: str,
    y_label: str,
    title: str = "",
    log: bool = False,
    marker: str = "",
    height: float = 3.8,
) -> None:
    """Make a figure of one `draw_lines`."""
    _, axes = panels(height=height)
    draw_lines(axes[0, 0], x, series, x_label, y_label, title, log, marker)


# -- shared ---------------------------------------------------------------------------------------


def _limits(maps: Sequence[np.ndarray], signs: bool) -> tuple[float, float]:
    if signs:
        largest = max(float(np.abs(values).max()) for values in maps) or 1.0
        return -largest, largest
    return min(float(v.min()) for v in maps), max(float(v.max()) for v in maps)


def _label_pixels(axis: Axes, height: int, width: int) -> None:
    axis.set_xlabel("column")
    axis.set_ylabel("row")
    axis.set_xticks(_ticks(width))
    axis.set_yticks(_ticks(height))
    axis.tick_params(length=2)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _ticks(size: int) -> list[int]:
    """First, middle and last; of a short axis all."""
    return sorted({0, (size - 1) // 2, size - 1}) if size > 5 else list(range(size))


# -- pictures of single notebooks: 00 and 01 -------------------------------------------------------


# -- 02, 03 and 04 ---------------------------------------------------------------------------------


# -- 05, 06 and 07 ---------------------------------------------------------------------------------


# -- 08, 09 and 10 ---------------------------------------------------------------------------------


RIGHT, WRONG, INHERITED = "#cfe3ee", "#d55e00", "#f6cfae"  # boxes of layers that are ...


def show_compare_and_isolated(wrong: int = 2, layers: int = 6) -> None:
    """Draw how `compare` and `isolated` run two networks side by side, one layer of theirs wrong.

    Above, each network goes on with its own numbers; below, ours gets the port's before each layer.
    """
    _, axes = panels(2, 1, 5.6)
    titles = (
        "compare: each network goes on with its own numbers",
        "isolated: before each layer, ours gets the port's numbers",
    )
    for axis, title, isolated in zip(axes[:, 0], titles, (False, True), strict=True):
        axis.set(xlim=(-1.5, layers + 1.4), ylim=(-0.95, 1.5))
        axis.set_title(title, loc="left")
        axis.set_axis_off()
        for row, name in ((1, "ours"), (0, "the port")):
            axis.text(-0.65, row, name, ha="right", va="center")
        for i in range(layers):
            colour = WRONG if i == wrong else INHERITED if i > wrong else RIGHT
            _draw_layer(axis, i, 1, f"layer {i + 1}", RIGHT)
            _draw_layer(axis, i, 0, f"layer {i + 1}", colour)
            _draw_arrow(axis, (i - 0.6, 0), (i - 0.4, 0))
            start = (i - 0.6, 0.25) if isolated and i else (i - 0.6, 1)
            _draw_arrow(axis, start, (i - 0.4, 0.85 if isolated and i else 1))
            differs = i == wrong if isolated else i >= wrong
            sign, strength = ("≠", WRONG) if differs else ("=", "#555555")
            axis.text(i, 0.5, sign, ha="center", va="center", fontsize=20, color=strength)
        axis.text(layers - 0.3, 0.5, "the same?", ha="left", va="center", color="#555555")
        words = "the mistake", "right, but fed with wrong numbers"
        axis.text(wrong, -0.6, words[0], ha="center", color=WRONG)
        axis.text((wrong + layers) / 2 + 0.2, -0.6, words[1], ha="center", color="#9c4a00")


def _draw_layer(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    axis.add_patch(Rectangle((x - 0.38, y - 0.22), 0.76, 0.44, facecolor=colour, linewidth=0))
    dark = colour == WRONG
    axis.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=12)


def _draw_arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "#555555"
) -> None:
    style = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
    axis.annotate("", end, start, arrowprops=style)


def show_answers(names: Sequence[str], percents: Mapping[str, Sequence[float]]) -> None:
    """Make a figure with the probabilities of some classes, one panel for each network."""
    _, axes = panels(1, len(percents), 0.8 + 0.4 * len(names), sharey=True)
    largest = max(max(values) for values in percents.values())
    for axis, (title, values) in zip(axes[0], percents.items(), strict=True):
        draw_bars(axis, names, values, "probability in %", title, strong=[int(np.argmax(values))])
        axis.set_xlim(0, 1.2 * largest)
    if len(percents) % 2 == 0:
        axes[0, 0].invert_yaxis()  # draw_bars turned the shared axis once for each panel


FLOOR = 1e-8  # equal layers have error 0, which has no logarithm


def show_inherited_and_added(comparison: Any) -> None:
    """Make a figure of what `isolated` returns: each layer's error, and what it adds itself."""
    rows = comparison.rows
    _, axes = panels(height=4.6)
    axis = axes[0, 0]
    inherited = np.maximum([row.error for row in rows], FLOOR)
    axis.plot(inherited, color=COLOURS[0], label="error of the layer (compare)")
    added = np.maximum([row.added for row in rows], FLOOR)
    axis.plot(added, ".", color=COLOURS[1], label="added by the layer itself (isolated)")
    axis.axhline(comparison.tolerance, color="gray", linestyle=":", label="tolerance")
    for i, row in enumerate(rows):
        if row.guilty:
            name = row.layer.split("/")[0].replace("blocks_", "block ")
            axis.plot(i, row.added, "o", color=COLOURS[1], markersize=10)
            place = {"ha": "center", "va": "bottom", "rotation": 90}
            axis.annotate(name, (i, row.added), (0, 16), textcoords="offset points", **place)
    axis.set(xlabel="layer, in the network's order", ylabel="largest difference / largest value")
    axis.set(yscale="log", ylim=(FLOOR / 3, 1e3))
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.12))


def show_errors_by_layer(curves: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Make a figure of the error of each layer, one line for each run."""
    figure, axes = panels(height=4.6)
    axis = axes[0, 0]
    for (name, values), line in zip(curves.items(), ("-", "-", "--", "-."), strict=False):
        axis.plot(np.maximum(values, FLOOR), line, label=name)
    axis.axhline(tolerance, color="gray", linestyle=":", label="tolerance")
    axis.set(xlabel="layer, in the network's order", ylabel="largest difference / largest value")
    axis.set(yscale="log", ylim=(FLOOR / 2, 30))
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside right center")


def show_passes(size: int = 3) -> None:
    """Draw two ways to filter one plane: size x size passes over memory, or size copies."""
    _, axes = panels(1, 2, 4.0, width_ratios=[1, 1])
    side = 0.8
    words = (
        f"K x K shifts: {size * size} times read, multiply, add",
        f"columns: {size} copies, one product, {size} additions",
    )
    for axis, title in zip(axes[0], words, strict=True):
        axis.set(xlim=(-0.2, 6.6), ylim=(-0.8, size + 0.3), aspect="equal")
        axis.set_title(title)
        axis.set_axis_off()
    left, right = axes[0]
    for i, j in np.ndindex(size, size):
        corner = j * 1.25, (size - 1 - i) * 1.05
        left.add_patch(Rectangle(corner, side, side, facecolor=RIGHT))
        text = f"weight\n{i}, {j}"
        left.text(
            corner[0] + side / 2, corner[1] + side / 2, text, ha="center", va="center", size=9
        )
    _draw_arrow(left, (3.6, 1.5), (4.6, 1.5))
    left.text(4.1, 1.65, "sum", ha="center")
    left.text(1.6, -0.55, "the whole plane, shifted, times one weight", ha="center", size=11)
    for axis, x in ((left, 4.8), (right, 5.5)):
        axis.add_patch(Rectangle((x, 1.1), side, side, facecolor=COLOURS[0]))
        axis.text(
            x + side / 2, 1.1 + side / 2, "result", ha="center", va="center", color="w", size=10
        )
    names = ("left", "middle", "right"), ("upper", "middle", "lower")
    for i in range(size):
        y = (size - 1 - i) * 1.05
        for x, colour, name in ((0, RIGHT, names[0]), (3.5, INHERITED, names[1])):
            right.add_patch(Rectangle((x, y), side, side, facecolor=colour))
            text = name[i] if size == 3 else str(i)
            right.text(x + side / 2, y + side / 2, text, ha="center", va="center", size=10)
    right.add_patch(Rectangle((1.6, 0.95), 1.1, 1.1, facecolor="#dddddd"))
    right.text(2.15, 1.5, "kernel\nK x K", ha="center", va="center", size=11)
    for start, end in ((0.95, 1.5), (2.8, 3.4), (4.4, 5.4)):
        _draw_arrow(right, (start, 1.5), (end, 1.5))
    right.text(0.4, -0.55, "copies: neighbours", ha="center", size=11)
    right.text(2.15, 0.5, "one product", ha="center", size=11)
    right.text(3.9, -0.55, "one plane a kernel row", ha="center", size=11)
    right.text(4.9, 1.65, "shift, add", ha="center", size=10)


def show_times(times: Mapping[str, float], label: str, log: bool = False) -> None:
    """Make a figure of one bar for each way of computing the same; the fastest is drawn dark."""
    _, axes = panels(height=1.2 + 0.4 * len(times))
    values = list(times.values())
    draw_bars(axes[0, 0], list(times), values, label, "", "%.3g", [int(np.argmin(values))])
    if log:
        axes[0, 0].set_xscale("log")
        axes[0, 0].set_xlim(min(values) / 2, 3 * max(values))


def show_times_of_ways(cases: Mapping[str, Mapping[str, float]], label: str) -> None:
    """Make a figure of one panel for each case, two in a row; the fastest way is drawn dark."""
    rows = -(-len(cases) // 2)
    _, axes = panels(rows, 2, 2.6 * rows)
    for axis, (title, times) in zip(axes.flat, cases.items(), strict=True):
        values = list(times.values())
        draw_bars(axis, list(times), values, label, title, "%.3g", [int(np.argmin(values))])


def show_readable_and_fast(times: Mapping[str, tuple[float, float]], label: str) -> None:
    """Make a figure of two panels on one scale: each layer in the readable and the fast kernel."""
    _, axes = panels(1, 2, 3.2, sharex=True, sharey=True)
    for i, title in enumerate(("readable", "fast")):
        values = [pair[i] for pair in times.values()]
        draw_bars(axes[0, i], list(times), values, label, title, "%.2f")
    axes[0, 0].invert_yaxis()  # draw_bars turned the shared axis twice


def show_profile(
    readable: Mapping[str, float], fast: Mapping[tuple[str, str], float], kernels: Sequence[str]
) -> None:
    """Make a figure of the milliseconds of each part of the network, readable and fast.

    fast: {(part, kernel): ms}, stacked by kernel; kernels that are not listed are "all others".
    """
    parts = list(readable)
    _, axes = panels(1, 2, 7, sharey=True, width_ratios=[1, 2])
    draw_bars(axes[0, 0], parts, list(readable.values()), "milliseconds", "Readable path", "%.1f")
    axes[0, 0].set_ylabel("part of the network")
    ends = np.zeros(len(parts))
    for name, colour in zip([*kernels, "all others"], [*COLOURS[:6], "#999999"], strict=True):
        widths = np.zeros(len(parts))
        for (part, kernel), ms in fast.items():
            if (kernel if kernel in kernels else "all others") == name:
                widths[parts.index(part)] += ms
        places = range(len(parts))
        axes[0, 1].barh(places, widths, left=ends, color=colour, label=name, edgecolor="white")
        ends += widths
    axes[0, 1].set(xlabel="milliseconds (another scale)", title="Fast path, by kernel")
    axes[0, 1].legend(frameon=False, loc="lower right")


def show_work_and_time(work: Mapping[str, float], times: Mapping[str, float]) -> None:
    """Make a figure of each part's share of all multiply-adds, beside its share of the time."""
    _, axes = panels(height=3.6)
    axis = axes[0, 0]
    places = np.arange(len(work))
    for series, shift, label in (
        (work, -0.2, "multiply-adds"),
        (times, 0.2, "time on the fast path"),
    ):
        values = np.array([series[part] for part in work])
        axis.bar(places + shift, 100 * values / values.sum(), 0.4, label=label)
    axis.set_xticks(places, [part.replace("blocks_", "") for part in work])
    axis.set(xlabel="part of the network: stem, blocks 0 to 18, head", ylabel="% of all")
    axis.legend(frameon=False)


def show_checkpoint_layout() -> None:
    """Draw how a reader goes from the end of the index file to the numbers of a tensor."""
    _, axes = panels(height=3.9)
    axis = axes[0, 0]
    axis.set(xlim=(0, 11), ylim=(-0.7, 3.1))
    axis.set_axis_off()
    index = (
        (1.6, 4.4, "data block: name → type, shape, offset, size, checksum", INHERITED),
        (6.0, 1.3, "metaindex", "#dddddd"),
        (7.3, 1.9, "index block", RIGHT),
        (9.2, 1.6, "footer", COLOURS[4]),
    )
    data = (
        (1.6, 1.6, "global_step", "#dddddd"),
        (3.2, 1.0, "beta", "#dddddd"),
        (4.2, 1.4, "gamma", COLOURS[4]),
    )
    for row, name, boxes in ((1.6, ".index", index), (0.0, ".data", data)):
        axis.text(1.45, row + 0.3, name, ha="right", va="center", family="monospace")
        for x, width, text, colour in boxes:
            axis.add_patch(Rectangle((x, row), width, 0.6, facecolor=colour, edgecolor="white"))
            axis.text(x + width / 2, row + 0.3, text, ha="center", va="center", fontsize=10.5)
    steps = (
        ((10.0, 2.2), (8.3, 2.2), 0.35, "1  begin at the end", (9.15, 2.72)),
        (
            (8.0, 2.2),
            (3.8, 2.2),
            0.15,
            "2  the index block knows where each data block is",
            (5.6, 2.85),
        ),
        ((4.9, 1.6), (4.9, 0.6), 0.0, "3  the entry knows where the numbers are", (5.05, 1.02)),
    )
    for start, end, bend, text, place in steps:
        style = {
            "arrowstyle": "->",
            "color": "#333333",
            "linewidth": 1.8,
            "connectionstyle": f"arc3,rad={bend}",
        }
        axis.annotate("", end, start, arrowprops=style)
        axis.text(*place, text, ha="left" if bend == 0 else "center", fontsize=11)
    axis.text(1.6, -0.4, "nothing but numbers, end to end", fontsize=11)


def show_bytes_by_kind(raw: bytes, kinds: np.ndarray, legend: Sequence[str]) -> None:
    """Make a figure of all bytes of a file, 32 in a row, coloured by what they are.

    kinds: for each byte, which entry of the legend it is.
    """
    width = 32
    figure, axes = panels(height=4.4)
    axis = axes[0, 0]
    padded = np.append(kinds.astype(float), [np.nan] * (-len(kinds) % width)).reshape(-1, width)
    colours = ListedColormap([*COLOURS[: len(legend) - 1], "#999999"])
    limits = {"vmin": -0.5, "vmax": len(legend) - 0.5}
    image = axis.imshow(padded, cmap=colours, aspect="auto", alpha=0.55, **limits)
    for i, byte in enumerate(raw):
        text = chr(byte) if 33 <= byte < 127 else f"{byte:02x}"
        axis.text(i % width, i // width, text, ha="center", va="center", fontsize=10)
    axis.set_yticks(range(len(padded)), range(0, len(padded) * width, width))
    axis.set(xlabel="byte of the row", ylabel="offset of the row", title="The whole index")
    bar = figure.colorbar(image, ax=axes, label="what the byte is", ticks=range(len(legend)))
    bar.ax.set_yticklabels(legend)


def show_filters(filters: np.ndarray, count: int = 6) -> None:
    """Make a figure of the filters (3, 3, 3, outputs) with the largest weights, by colour."""
    loud = np.argsort(-np.abs(filters).max(axis=(0, 1, 2)))[:count]
    colours = ("red", "green", "blue")
    maps = [filters[:, :, i, o] for i in range(3) for o in loud]
    titles = [f"{colour}, filter {o}" for colour in colours for o in loud]
    show_maps(maps, titles, "weight", count, signs=True, height=6)
