"""The pictures of the notebooks in one house style: fonts, sizes, colours, labelled axes.

Importing this sets matplotlib's defaults. Two levels:

    draw_*(axis, ...)   one picture on a given axis; get axes from `panels`
    show_*(...)         a whole figure in one call, for a cell's last line

No function returns a figure: at the end of a cell Jupyter shows each open figure by itself, and it
would show a returned one twice. Colour-blind readers can tell all colours apart: cividis where
values have a size, blue to orange where they have a sign, and the palette of Okabe and Ito for
lines and bars.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

WIDTH = 11.0  # inches of every figure: 1210 pixels
SIZES = "cividis"  # colours for values from small to large
SIGNS = LinearSegmentedColormap.from_list(  # colours for values on both sides of zero
    "blue_orange", ["#08407e", "#4f94cd", "#f7f7f7", "#f0973a", "#9c4a00"]
)
STRONG, PALE = "#0b6e99", "#b8c4d0"  # the bar that matters, and the others
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")

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
        "image.cmap": SIZES,
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


def show_squeeze_and_excite(
    channels: Sequence[Any], reduce: Sequence[float], expand: Sequence[float]
) -> None:
    """Draw squeeze-and-excite on two small channels, with its numbers.

    channels: two maps of 2 x 2 pixels. reduce: the weights of both means in the one number in
    between. expand: its weights in the two gates.
    """
    maps = np.asarray(channels, float)
    means = maps.mean(axis=(1, 2))
    between = max(float(means @ np.asarray(reduce)), 0.0)
    gates = 1 / (1 + np.exp(-between * np.asarray(expand)))
    axis = _canvas(4.6)
    headings = ("channels", "means", "in between", "gates", "channels\ntimes gates")
    for x, heading in zip((1.1, 3.4, 5.3, 7.2, 9.9), headings, strict=True):
        axis.text(x, 4.55, heading, ha="center", va="top", weight="bold")
    for i, y in enumerate((2.95, 1.25)):
        _draw_cells(axis, 1.1, y, maps[i], maps.max())
        _draw_cells(axis, 9.9, y, maps[i] * gates[i], maps.max())
        _draw_arrow(axis, (1.8, y), (3.0, y), "mean")
        _draw_arrow(axis, (3.75, y), (4.95, 2.1 + 0.15 * (1 - 2 * i)), f"times {reduce[i]:g}")
        _draw_arrow(axis, (5.65, 2.1 + 0.15 * (1 - 2 * i)), (6.85, y), f"times {expand[i]:g}")
        _draw_arrow(axis, (7.6, y), (9.2, y), "multiplies")
        _draw_disc(axis, 3.4, y, f"{means[i]:.3g}")
        _draw_disc(axis, 7.2, y, f"{gates[i]:.2f}")
        around = (3.85, 0.4)[i]
        edge = y + (0.6, -0.6)[i]
        axis.plot([1.1, 1.1, 9.9], [edge, around, around], color="gray", linewidth=1.5)
        _draw_arrow(axis, (9.9, around), (9.9, edge), "")
    _draw_disc(axis, 5.3, 2.1, f"{between:.3g}")
    for x, text in ((5.3, "ReLU"), (7.2, "sigmoid")):
        axis.text(x, 0.75, text, ha="center", va="center")


def show_gates_of_two(gates: Mapping[str, Mapping[str, np.ndarray]], blocks: Sequence[str]) -> None:
    """Plot the gates of one picture against those of another, a dot for each channel.

    gates: {picture: {block: gates}} of two pictures.
    """
    (across, first), (up, second) = gates.items()
    _, axes = panels(1, len(blocks), 3.4)
    for axis, block in zip(axes[0], blocks, strict=True):
        axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
        axis.plot(first[block], second[block], ".", markersize=3, color=STRONG)
        axis.set(title=block, xlabel=f"gate, {across}", ylabel=f"gate, {up}", aspect="equal")
        axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axis.label_outer()


def show_channels_of_two(
    images: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    gates: Mapping[str, np.ndarray],
    channels: Sequence[int],
) -> None:
    """Show some channels for two pictures, a row for each, on one scale for a channel.

    images {picture: (H, W, 3)}, maps {picture: (H, W, C)} before the gates, gates {picture: (C,)}.
    """
    figure, axes = panels(len(images), 1 + len(channels), 4.6)
    for row, (name, image) in enumerate(images.items()):
        draw_image(axes[row, 0], image, f"the {name}")
        for axis, channel in zip(axes[row, 1:], channels, strict=True):
            largest = max(np.abs(values[..., channel]).max() for values in maps.values()) or 1.0
            title = f"ch {channel}\ngate {gates[name][channel]:.2f}"
            values = maps[name][..., channel] / largest
            shown = draw_map(axis, values, title, None, True, (-1, 1))
            axis.label_outer()
    figure.colorbar(shown, ax=axes[:, 1:], label="value / largest of both")


def show_block_string(text: str, meanings: Sequence[str]) -> None:
    """Draw a block string in large letters, with the meaning of each field under it."""
    fields = text.split("_")
    height = 0.95 + 0.32 * len(fields)
    axis = _canvas(height)
    letter = 0.222  # inches: the width of a letter of the size below
    x, y = 0.2, height - 0.3
    for i, (field, meaning) in enumerate(zip(fields, meanings, strict=True)):
        colour = COLOURS[i % 4]
        for j, character in enumerate(field):
            place = x + letter * (j + 0.5)
            axis.text(
                place, y, character, family="monospace", size=26, ha="center", va="center", c=colour
            )
        end = 0.2 + 0.32 * i
        axis.plot([x, x + letter * len(field)], [y - 0.26] * 2, color=colour)
        axis.plot([x + 0.1] * 2, [y - 0.26, end], color=colour, linewidth=1.5)
        axis.text(x + 0.2, end, meaning, va="center")
        x += letter * len(field)
        if i + 1 < len(fields):
            axis.text(x + letter / 2, y, "_", family="monospace", size=26, ha="center", va="center")
            x += letter


def show_scaling(
    wished: np.ndarray,
    rounded: Sequence[int],
    nearest: Sequence[int],
    pairs: Sequence[tuple[int, int]],
) -> None:
    """Plot how MixNet-L's numbers of filters follow 1.3 times those of the block strings.

    rounded: by the package's rule; nearest: by rounding alone; both for each number in wished.
    pairs: (in the block strings, in MixNet-L), for the bars on the right.
    """
    _, axes = panels(1, 2, 4.0, width_ratios=[3, 2])
    left, right = axes[0]
    left.plot(wished, wished * 1.3, color=PALE, label="1.3 x filters")
    left.step(wished, rounded, where="mid", color=COLOURS[0], label="round_filters")
    raised = np.not_equal(rounded, nearest)
    points = wished[raised], np.array(rounded)[raised]
    left.plot(*points, "o", color=COLOURS[1], label="raised by the second rule")
    left.set(xlabel="filters in the block string", ylabel="filters in MixNet-L")
    left.legend(frameon=False)
    names = [f"{before} to {after}" for before, after in pairs]
    ratios = [after / before for before, after in pairs]
    draw_bars(right, names, ratios, "scaled by", "from M to L", "%.2f")


def show_costs(costs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Draw two or more costs of each part of the network, as bars divided by kind of layer.

    costs: {name of the cost with its unit: {kind: {part: value}}}.
    """
    _, axes = panels(1, len(costs), 7.2, sharey=True)
    for axis, (label, kinds) in zip(axes[0], costs.items(), strict=True):
        parts = list(dict.fromkeys(part for values in kinds.values() for part in values))
        parts.sort(key=lambda part: (part == "head", part != "stem", len(part), part))
        ends = np.zeros(len(parts))
        for kind, colour in zip(kinds, COLOURS, strict=False):
            widths = np.array([kinds[kind].get(part, 0.0) for part in parts])
            axis.barh(parts, widths, left=ends, color=colour, label=kind, edgecolor="white")
            ends += widths
        axis.set_xlabel(label)
    axes[0, 0].set_ylabel("part of the network")
    axes[0, 0].margins(y=0.01)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(frameon=False, loc="center right")


def show_shares(costs: Mapping[str, Mapping[str, float]], strong: Sequence[int]) -> None:
    """Draw what share each kind of layer has in each cost: {cost: {kind: value}}."""
    _, axes = panels(1, len(costs), 3.2, sharey=True)
    for axis, (label, kinds) in zip(axes[0], costs.items(), strict=True):
        shares = [100 * value / sum(kinds.values()) for value in kinds.values()]
        draw_bars(axis, list(kinds), shares, f"% of the {label}", strong=strong)
    if len(costs) % 2 == 0:
        axes[0, 0].invert_yaxis()  # each draw_bars has turned the axis that all of them share


def show_block(
    x: np.ndarray, layers: Mapping[str, np.ndarray], name: str, sizes: Sequence[int]
) -> None:
    """Draw what becomes of x (1, H, W, C) in a block that halves H and W.

    The higher a box, the more channels; the wider, the more columns. layers: the network's layers.
    name: the block's. sizes: of its kernels. The channels of a group have one colour. After the
    gates, each channel is as strong as its gate.
    """
    steps = ("expand_act", "depthwise_act", "se_scale", "project_bn")
    arrows = ("expand\n1 x 1", "filter\nstride 2", "gates", "project\n1 x 1")
    tensors = [x, *(layers[f"{name}/{step}"] for step in steps)]
    gates = layers[f"{name}/se_gate"].ravel()
    axis = _canvas(3.8)
    inch = 3.0 / tensors[1].shape[-1]  # of height, for a channel
    centres = (0.8, 3.0, 5.8, 8.1, 10.2)
    halves = [0.6 * tensor.shape[2] / x.shape[2] for tensor in tensors]
    for i, (tensor, centre, half) in enumerate(zip(tensors, centres, halves, strict=True)):
        height, width, channels = tensor.shape[1:]
        top = 1.65 + inch * channels / 2
        title = f"{('input', 'expanded', 'filtered', 'weighed', 'output')[i]}\n"
        axis.text(centre, 3.75, title + f"{height} x {width} x {channels}", ha="center", va="top")
        inner = i in (1, 2, 3)
        for channel in range(channels):
            group = channel * len(sizes) // channels
            colour = COLOURS[group] if inner else "gray"
            strength = gates[channel] if i == 3 else 1.0
            corner = centre - half, top - inch * (channel + 1)
            axis.add_patch(Rectangle(corner, 2 * half, inch, color=colour, alpha=strength, lw=0))
        for group, size in enumerate(sizes if i == 2 else ()):
            middle = top - inch * channels * (group + 0.5) / len(sizes)
            label = f"{size} x {size}"
            axis.text(centre - half - 0.1, middle, label, ha="right", va="center")
    for i, label in enumerate(arrows):
        start = centres[i] + halves[i] + 0.1
        end = centres[i + 1] - halves[i + 1] - (0.75 if i == 1 else 0.1)
        _draw_arrow(axis, (start, 1.65), (end, 1.65), label)


def show_toy_block(layers: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Show some layers (1, H, W, C) with all their numbers: a column a layer, a row a channel."""
    rows = max(layers[name].shape[-1] for name in names)
    _, axes = panels(rows, len(names), 0.4 + 2.5 * rows)
    largest = max(float(np.abs(layers[name]).max()) for name in names)
    for column, name in enumerate(names):
        for channel, axis in enumerate(axes[:, column]):
            if channel >= layers[name].shape[-1]:
                axis.set_visible(False)
                continue
            values, title = layers[name][0, :, :, channel], f"{name}\nchannel {channel}"
            draw_map(axis, values, title, None, True, (-largest, largest), numbers=".4g")
            last = channel + 1 == layers[name].shape[-1]
            axis.set(xlabel="column" if last else "", ylabel="" if column else "row")


def show_gates_by_group(gates: np.ndarray, edges: Sequence[int], names: Sequence[str]) -> None:
    """Draw the gates of each group of channels, sorted, and the share of them below one half.

    gates (C,); edges: where each group begins, and C; names of the groups.
    """
    _, axes = panels(1, 2, 3.8, width_ratios=[3, 1])
    groups = np.split(gates, edges[1:-1])
    for group, (values, start) in enumerate(zip(groups, edges[:-1], strict=True)):
        places = np.arange(start, start + len(values))
        axes[0, 0].bar(places, np.sort(values)[::-1], width=1, color=COLOURS[group])
        axes[0, 0].text(places.mean(), 1.02, names[group], ha="center", color=COLOURS[group])
    axes[0, 0].set(xlabel="channels of each group, the most open first", ylabel="gate")
    axes[0, 0].set_ylim(0, 1.12)
    axes[0, 0].margins(x=0.01)
    low = [100 * np.mean(values < 0.5) for values in groups]
    axes[0, 1].bar(names, low, color=COLOURS[: len(names)])
    axes[0, 1].set(xlabel="kernel size", ylabel="% of gates below 0.5")


def show_changes(changes: Sequence[np.ndarray], titles: Sequence[str]) -> None:
    """Show where layers changed (H, W), as powers of ten, with how many pixels did."""
    counts = [f"{np.count_nonzero(c)} of {c.size} pixels" for c in changes]
    powers = [np.log10(np.maximum(change, 1e-7)) for change in changes]
    names = [f"{title}\n{count}" for title, count in zip(titles, counts, strict=True)]
    show_maps(powers, names, "log10 of change", columns=len(changes), height=3.0)


def _canvas(height: float) -> Axes:
    """Make an empty figure to draw on, in inches from its lower left corner."""
    _, axes = panels(height=height)
    axis: Axes = axes[0, 0]
    axis.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
    axis.set_axis_off()
    return axis


def _draw_cells(axis: Axes, x: float, y: float, values: np.ndarray, largest: float) -> None:
    """Draw a small map with its numbers, its centre at (x, y), its cells 0.6 wide and high."""
    rows, columns = values.shape
    for (row, column), value in np.ndenumerate(values):
        left = x + 0.6 * (column - columns / 2)
        bottom = y + 0.6 * (rows / 2 - row - 1)
        share = value / largest
        colour = plt.get_cmap(SIZES)(share)
        axis.add_patch(Rectangle((left, bottom), 0.6, 0.6, facecolor=colour, edgecolor="white"))
        text = {"ha": "center", "va": "center", "color": "black" if share > 0.5 else "white"}
        axis.text(left + 0.3, bottom + 0.3, f"{value:.2g}", **text)


def _draw_disc(axis: Axes, x: float, y: float, text: str) -> None:
    axis.plot([x], [y], "o", markersize=44, color="white", markeredgecolor=STRONG)
    axis.text(x, y, text, ha="center", va="center")


def _draw_arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], label: str
) -> None:
    """Draw an arrow with its label above its middle, or on it where the arrow is not level."""
    style = {"arrowstyle": "-|>", "color": "gray", "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style)
    level = start[1] == end[1]
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + (0.1 if level else 0)
    box = None if level else {"color": "white", "pad": 1}
    place = {"ha": "center", "va": "bottom" if level else "center"}
    axis.text(*middle, label, fontsize=12, bbox=box, **place)


# -- 08, 09 and 10 ---------------------------------------------------------------------------------
