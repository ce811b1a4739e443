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


def show_answers(
    photos: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    top: int = 5,
) -> None:
    """Make a figure of how photos become answers: one row a photo, one column a step.

    photos and pixels: RGB pictures of 0..255; logits and probabilities (N, classes).
    """
    steps = zip(photos, pixels, logits, probabilities, strict=True)
    _, axes = panels(len(photos), 4, 3.3 * len(photos), width_ratios=[3, 2, 2.2, 1.8])
    for row, (photo, seen, values, shares) in zip(axes, steps, strict=True):
        draw_image(row[0], photo, "1. a photo")
        draw_image(row[1], seen, "2. pixels")
        order = np.argsort(-values)
        best = order[:top]
        ranks = np.arange(1, len(values) + 1)
        row[2].plot(ranks, values[order], color=PALE, label="all labels")
        row[2].plot(ranks[:top], values[best], "o", color=STRONG, label=f"the first {top}")
        row[2].set(title="3. logits", xlabel="rank of the label", ylabel="logit")
        row[2].legend(frameon=False)
        names = [labels[i] for i in best]
        draw_bars(row[3], names, 100 * shares[best], "probability in %", "4. softmax", "%.1f", [0])
        row[3].margins(x=0.35)


def show_presets(
    photo: np.ndarray,
    seen: Mapping[str, np.ndarray],
    boxes: Mapping[str, Sequence[float]],
) -> None:
    """Make a figure of a photo, the part that each preset cuts out, and what becomes of it.

    seen: a picture of 0..255 for each preset. boxes: (left, top, right, bottom) in the photo.
    """
    _, axes = panels(1, len(seen) + 1, 2.9, width_ratios=[1.9] + [1] * len(seen))
    draw_image(axes[0, 0], photo, "the photo, and what is cut out")
    styles = ("-", ":", "--", "-.")
    for axis, colour, style, name in zip(axes[0, 1:], COLOURS, styles, seen, strict=False):
        left, top, right, bottom = boxes[name]
        corner = left - 0.5, top - 0.5
        frame = Rectangle(
            corner, right - left, bottom - top, fill=False, edgecolor=colour, lw=3, ls=style
        )
        axes[0, 0].add_patch(frame)
        draw_image(axis, seen[name], name)
        axis.title.set_color(colour)
        axis.label_outer()


def show_features(features: Mapping[str, np.ndarray]) -> None:
    """Make a figure of one channel of each output (1, h, w, C): the one that varies most."""
    maps, titles = [], []
    for name, tensor in features.items():
        channel = int(tensor[0].std(axis=(0, 1)).argmax())
        values = tensor[0, :, :, channel]
        maps.append(values / np.abs(values).max())
        titles.append(f"{name}\nchannel {channel}")
    show_maps(maps, titles, "value / largest |value|", columns=5, signs=True, height=3.4)


def show_kernels(
    picture: np.ndarray, kernels: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray]
) -> None:
    """Make a figure of kernels (3, 3) above what each makes of a grey picture (H, W) of 0..255.

    An answer with values below zero is drawn in blue and orange, any other one in grey.
    """
    _, axes = panels(2, len(kernels) + 1, 5.6, height_ratios=[1, 1.5])
    axes[0, 0].set_visible(False)
    draw_image(axes[1, 0], np.repeat(picture[..., np.newaxis], 3, 2), "the picture")
    for column, (name, weights) in enumerate(kernels.items(), start=1):
        whole = bool((weights == weights.round()).all())
        draw_map(axes[0, column], weights, name, None, True, None, ".0f" if whole else ".2f")
        axes[0, column].set(xlabel="", ylabel="", xticks=[], yticks=[])
        values = answers[name]
        if values.min() < -0.5 * values.max():
            draw_map(axes[1, column], values, "", None, True)
        else:
            draw_image(axes[1, column], np.repeat(values[..., np.newaxis], 3, 2))
        axes[1, column].label_outer()


def show_filters(
    kernel: np.ndarray, answers: np.ndarray, chosen: Sequence[int], balance: np.ndarray
) -> None:
    """Make a figure of some filters, and of what each answers to a photo.

    kernel (KH, KW, 3, O), drawn as small colour pictures in which mid-grey is zero, each brightened
    to its own range; answers (H, W, O), each on its own scale; balance (O,) is written above.
    """
    _, axes = panels(2, len(chosen), 4.2)
    for column, number in enumerate(chosen):
        tiny, values = kernel[..., number], answers[..., number]
        title = f"filter {number}\nbalance {balance[number]:.2f}"
        draw_image(axes[0, column], 127.5 + 127.5 * tiny / np.abs(tiny).max(), title)
        bar = draw_map(axes[1, column], values / np.abs(values).max(), "", None, True, (-1, 1))
        axes[0, column].label_outer()
        axes[1, column].label_outer()
    axes[1, 0].figure.colorbar(bar, ax=axes[1], label="value /\nlargest |value|")


def show_patch(
    pixels: np.ndarray, products: np.ndarray, answers: np.ndarray, row: int, column: int
) -> None:
    """Make a figure of one output of a 3x3 convolution with stride 2, and of all its products.

    pixels (H, W, 3) of 0..255; products (3, 3, 3), pixel times weight: row, column, colour;
    answers (H/2, W/2), of one filter; row and column of the output.
    """
    _, axes = panels(1, 3, 4.6, width_ratios=[2, 3, 2])
    draw_image(axes[0, 0], pixels, "the patch in the photo")
    draw_box(axes[0, 0], 2 * row, 2 * column, 3, 3)
    names = [f"{colour} {i},{j}" for i in range(3) for j in range(3) for colour in "RGB"]
    title = "one row times one column"
    draw_bars(axes[0, 1], names, products.ravel(), "pixel * weight", title, None)
    axes[0, 1].tick_params(axis="y", labelsize=8)
    axes[0, 1].set_ylabel("colour, row and column in the patch")
    draw_map(axes[0, 2], answers, "one filter, all positions", "value", True)
    draw_box(axes[0, 2], row, column, 1, 1)


def show_receptive_fields(rows: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Make a figure of which pixels reach one output after 1, 2, 3 ... layers.

    rows: for each kind of layer its maps, one for each number of layers; a map holds the number of
    ways from each pixel to the output. Pixels without a way stay white, and the width of the rest
    is written above.
    """
    columns = max(len(maps) for maps in rows.values())
    figure, axes = panels(len(rows), columns, 3.7 * len(rows))
    for row, (kind, maps) in zip(axes, rows.items(), strict=True):
        for layers, (axis, ways) in enumerate(zip(row, maps, strict=True), start=1):
            high, wide = (int((ways.sum(axis=i) > 0).sum()) for i in (1, 0))
            name = f"{layers} layer{'s' if layers > 1 else ''}, {kind}: {high} x {wide}"
            shares = np.ma.masked_equal(ways / ways.max(), 0)
            image = draw_map(axis, shares, name, None, limits=(0, 1))
            top, left = (int(np.flatnonzero(ways.sum(axis=i))[0]) for i in (1, 0))
            draw_box(axis, top, left, high, wide)
            draw_box(axis, 0, 0, *ways.shape, "#d0d0d0")
            axis.label_outer()
    figure.colorbar(image, ax=axes, label="ways to the output / most ways", shrink=0.6)


def show_who_notices(changes: Mapping[str, np.ndarray], row: int, column: int, size: int) -> None:
    """Make a figure of which places of each layer change when one pixel of a photo does.

    changes: for each layer a map (h, w) of |change|, over the same size x size pixels. The pixel at
    (row, column) is marked. All maps show the same part of the photo, around the pixel.
    """
    figure, axes = panels(1, len(changes), 3.4)
    for axis, (name, values) in zip(axes[0], changes.items(), strict=True):
        step = size // len(values)
        shares = np.ma.masked_equal(values / values.max(), 0)
        image = axis.imshow(shares, cmap=SIZES, vmin=0, vmax=1, extent=(0, size, size, 0))
        count = int((values > 0).sum())
        places = "1 place" if count == 1 else f"{count} places"
        axis.set_title(f"{name}\n{places} of {step} x {step}")
        axis.set(xlim=(column - 16, column + 17), ylim=(row + 17, row - 16))
        axis.set(xlabel="column of the photo", ylabel="row of the photo")
        axis.add_patch(Rectangle((column, row), 1, 1, facecolor=COLOURS[1]))
        axis.label_outer()
    figure.colorbar(image, ax=axes, label="|change| / largest", shrink=0.9)


# -- 02, 03 and 04 ---------------------------------------------------------------------------------


# -- 05, 06 and 07 ---------------------------------------------------------------------------------


# -- 08, 09 and 10 ---------------------------------------------------------------------------------
