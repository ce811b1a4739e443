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
from matplotlib.colors import LinearSegmentedColormap
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
