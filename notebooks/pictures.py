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
from itertools import pairwise
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinymixnet.report import colours as house

WIDTH = 11.0  # inches of every figure: 1210 pixels
SIZES = LinearSegmentedColormap.from_list("dark_to_light", house.SIZES)  # small to large
SIGNS = LinearSegmentedColormap.from_list("blue_orange", house.SIGNS)  # on both sides of zero
STRONG, PALE, COLOURS = house.STRONG, house.PALE, house.COLOURS

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


def show_four_steps(
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


def show_learned_filters(
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
    draw_bars(axes[0, 1], names, products.ravel().tolist(), "pixel * weight", title, None)
    axes[0, 1].tick_params(axis="y", labelsize=8)
    axes[0, 1].set_ylabel("colour, row and column in the patch")
    draw_map(axes[0, 2], answers, "one filter, all positions", "value", True)
    draw_box(axes[0, 2], row, column, 1, 1)


def show_growing_fields(rows: Mapping[str, Sequence[np.ndarray]]) -> None:
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
            draw_box(axis, 0, 0, ways.shape[0], ways.shape[1], "#d0d0d0")
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


def show_connections(sizes: Sequence[int] = (3, 5, 7, 9)) -> None:
    """Draw which input channels each output channel sees: ordinary, depthwise and mixed layers.

    sizes: the kernel size of each group of the mixed layer, which has two channels in each.
    """
    channels = 2 * len(sizes)
    titles = "ordinary convolution", "depthwise", f"mixed: {len(sizes)} groups"
    notes = (
        "every output adds up all channels",
        "every output sees one channel",
        "each group has its own kernel size",
    )
    _, axes = panels(1, 3, 4.2)
    for panel, (axis, title, note) in enumerate(zip(axes[0], titles, notes, strict=True)):
        for output in range(channels):
            group = output // 2 if panel == 2 else 0
            colour = COLOURS[group]
            for source in range(channels) if panel == 0 else [output]:
                axis.plot(
                    [0.12, 0.88], [source, output], color=PALE if panel == 0 else colour, lw=1
                )
            for x in (0, 1):
                corner = x - 0.12, output - 0.34
                axis.add_patch(Rectangle(corner, 0.24, 0.68, facecolor=colour, edgecolor="white"))
            if panel > 0:
                k = sizes[group] if panel == 2 else sizes[0]
                _draw_kernel(axis, 0.5, output, k, colour)
        axis.set(xlim=(-0.35, 1.35), ylim=(channels - 0.2, -0.8), title=title, xlabel=note)
        axis.set_xticks([0, 1], ["input", "output"])
        axis.set_yticks([])
        if panel == 2:
            for group, k in enumerate(sizes):
                axis.text(1.2, 2 * group + 0.5, f"{k}x{k}", va="center", color=COLOURS[group])
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[0, 0].set_ylabel("channels")


def _draw_kernel(axis: Axes, x: float, y: float, k: int, colour: str) -> None:
    """Draw a kernel as a small k x k grid centred on (x, y); one cell has the same size always."""
    width, height = 0.032 * k, 0.096 * k
    left, top = x - width / 2, y - height / 2
    corner = left, top
    axis.add_patch(Rectangle(corner, width, height, facecolor="white", edgecolor=colour, zorder=3))
    for i in range(1, k):
        axis.plot([left + 0.032 * i] * 2, [top, top + height], color=colour, lw=0.5, zorder=4)
        axis.plot([left, left + width], [top + 0.096 * i] * 2, color=colour, lw=0.5, zorder=4)


def show_receptive_fields(
    photo: np.ndarray, fields: Mapping[str, Mapping[str, int]], boxes: Sequence[str]
) -> None:
    """Draw how the receptive field grows from layer to layer, and some of them on the photo.

    photo (H, W, 3) of 0..255. fields: for each choice of kernels, {layer: pixels of the photo}.
    boxes: the layers whose fields, by the first choice, are drawn around the photo's centre.
    """
    _, axes = panels(1, 2, 4.6, width_ratios=[1, 1.7])
    draw_image(axes[0, 0], photo, "centre of the photo")
    first = next(iter(fields.values()))
    height, width = photo.shape[:2]
    for name, colour in zip(boxes, COLOURS[1:], strict=False):
        side = first[name]
        top, left = (height - side) / 2, (width - side) / 2
        draw_box(axes[0, 0], top, left, side, side, colour)
        inside = top < 12  # else the name stands above the box
        place = left + side / 2 - 0.5, top + 1 if inside else top - 2
        va = "top" if inside else "bottom"
        keywords = {"color": colour, "ha": "center", "va": va, "fontsize": 11}
        axes[0, 0].text(*place, name, bbox={"fc": "white", "lw": 0, "pad": 1}, **keywords)
    names = list(first)
    curves = {title: list(values.values()) for title, values in fields.items()}
    draw_lines(
        axes[0, 1],
        np.arange(len(names)),
        curves,
        "layer",
        "pixels of the photo",
        "receptive field of the convolutions",
        log=True,
        marker="o",
    )
    axes[0, 1].axhline(width, color="gray", linestyle="--")
    axes[0, 1].text(len(names) - 1, width * 0.93, f"the photo: {width}", ha="right", va="top")
    axes[0, 1].set_yticks([3, 10, 30, 100, 300, 1000], [3, 10, 30, 100, 300, 1000])
    marks = range(0, len(names), 3)
    axes[0, 1].set_xticks(marks, [names[i] for i in marks], rotation=20)


def show_effects(
    photo: np.ndarray,
    sizes: Sequence[int],
    effects: Sequence[np.ndarray],
    boxes: Sequence[tuple[int, int]],
) -> None:
    """Draw how much each patch of the photo moves one value, for every kernel size.

    photo (H, W, 3) of 0..255; effects: 2-D arrays, one value for each patch of the photo; boxes:
    the first and the last pixel, down and across, that the value can depend on.
    """
    figure, axes = panels(1, len(sizes) + 1, 3.0)
    draw_image(axes[0, 0], photo, "part of the photo")
    for axis, k, effect, (low, high) in zip(axes[0, 1:], sizes, effects, boxes, strict=True):
        patch = len(photo) // len(effect)
        shown = np.kron(effect, np.ones((patch, patch)))
        image = draw_map(axis, shown / shown.max(), f"through {k}x{k}", None, limits=(0, 1))
        draw_box(axis, low, low, high - low + 1, high - low + 1)
        axis.label_outer()
    figure.colorbar(image, ax=axes[0, 1:], label="effect / largest")


def show_groups(
    photo: np.ndarray,
    kernels: Sequence[np.ndarray],
    spectra: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
) -> None:
    """Draw what each group of a mixed layer has learned, one column for each group.

    photo (H, W, 3) of 0..255; kernels (K, K), one of each group; spectra, the mean power of the
    group at each frequency; answers, what that one kernel makes of the photo.
    """
    columns = len(kernels) + 1
    figure, axes = panels(
        3, columns, 6.6, width_ratios=[1.3] + [1] * len(kernels), layout="compressed"
    )
    draw_image(axes[0, 0], photo, "what the network sees")
    explained = [
        "The waves that each\ngroup lets through\n(mean of its kernels).\n"
        "Centre: large areas.\nEdge: fine detail.",
        "What the kernel in\nthe top row makes\nof the photo.",
    ]
    for axis, text in zip(axes[1:, 0], explained, strict=True):
        axis.axis("off")
        axis.text(0.02, 0.5, text, va="center", fontsize=12)
    limits = (0.0, max(float(power.max()) for power in spectra))
    for axis, kernel, power, shown in zip(axes.T[1:], kernels, spectra, answers, strict=True):
        k, middle = len(kernel), shown - shown.mean()
        signed = draw_map(axis[0], kernel / np.abs(kernel).max(), f"{k}x{k}", None, True, (-1, 1))
        waves = draw_map(axis[1], power, "", None, limits=limits)
        last = len(power) - 1
        axis[1].set(
            xticks=[0, last / 2, last], xticklabels=["-½", "0", "½"], xlabel="waves a pixel"
        )
        axis[1].set(
            yticks=[0, last / 2, last], yticklabels=["-½", "0", "½"], ylabel="waves a pixel"
        )
        draw_map(axis[2], middle / np.abs(middle).max(), "", None, True, (-1, 1))
    for axis in axes[:, 2:].flat:
        axis.set_ylabel("")
    figure.colorbar(signed, ax=axes[0], label="weight / largest")
    figure.colorbar(waves, ax=axes[1], label="power")
    figure.colorbar(signed, ax=axes[2], label="answer / largest")


def show_powers(
    frequencies: np.ndarray, powers: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Draw power over frequency, one panel for each layer and one line for each kernel size."""
    _, axes = panels(1, len(powers), 3.8, sharey=True)
    for axis, (title, curves) in zip(axes[0], powers.items(), strict=True):
        axis.axhline(1, color="gray", linestyle="--", linewidth=1)
        draw_lines(
            axis, frequencies, curves, "waves a pixel", "power (random: 1)", title, marker="o"
        )
        axis.label_outer()
    axes[0, 0].set_ylim(bottom=0)


def show_paddings(size: int, kernel: int, stride: int, paddings: Mapping[str, tuple]) -> None:
    """Draw one row of pixels with its zeros, and where the kernel stands, for some paddings.

    paddings: {name: (zeros before, zeros after)}. The centre of each window is a full bar.
    """
    _, axes = panels(1, len(paddings), 3.2)
    for axis, (name, (before, after)) in zip(axes[0], paddings.items(), strict=True):
        for place in range(-before, size + after):
            padded = not 0 <= place < size
            face = "white" if padded else PALE
            keywords: dict[str, Any] = {"facecolor": face, "edgecolor": "dimgray"}
            axis.add_patch(
                Rectangle((place - 0.5, 0), 1, 0.8, ls=":" if padded else "-", **keywords)
            )
            axis.text(place, 0.4, "0" if padded else str(place), ha="center", va="center")
        starts = range(-before, size + after - kernel + 1, stride)
        for output, (start, colour) in enumerate(zip(starts, COLOURS, strict=False)):
            y, middle = -0.55 - 0.7 * output, start + kernel // 2
            axis.add_patch(Rectangle((start - 0.5, y), kernel, 0.4, facecolor=colour, alpha=0.3))
            axis.add_patch(Rectangle((middle - 0.5, y), 1, 0.4, facecolor=colour))
            axis.text(start + kernel - 0.3, y + 0.2, f"output {output}", va="center", color=colour)
        axis.set(xlim=(-1.7, size + 2.6), ylim=(-0.7 - 0.7 * len(starts), 1), title=name)
        axis.axis("off")


def show_two_paddings(
    photo: np.ndarray, same: np.ndarray, symmetric: np.ndarray, moved: np.ndarray
) -> None:
    """Draw a photo, a channel of it with either padding, and the move that explains the difference.

    photo (H, W, 3) of 0..255, the others (OH, OW): moved is the channel with SAME padding on the
    photo moved by one pixel.
    """
    figure, axes = panels(1, 5, 2.9)
    draw_image(axes[0, 0], photo, "pixels")
    maps = {
        "SAME": same,
        "symmetric": symmetric,
        "symmetric − SAME": symmetric - same,
        "symmetric −\nSAME, moved photo": symmetric - moved,
    }
    limits = _limits(list(maps.values()), True)
    for axis, (name, values) in zip(axes[0, 1:], maps.items(), strict=True):
        image = draw_map(axis, values, name, None, True, limits)
        axis.label_outer()
    figure.colorbar(image, ax=axes[0, 1:], label="value")


def show_moves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Draw a difference over a move in pixels of the photo, each curve's least value marked.

    curves: {name: (moves, differences)}.
    """
    _, axes = panels(height=4.2)
    for (name, (moves, differences)), colour in zip(curves.items(), COLOURS, strict=False):
        axes[0, 0].plot(moves, differences, marker=".", color=colour, label=name)
        least = int(np.argmin(differences))
        place = moves[least], differences[least]
        axes[0, 0].plot(*place, "o", color=colour, markersize=10)
        offset = {"xytext": (0, -18), "textcoords": "offset points", "ha": "center"}
        axes[0, 0].annotate(str(moves[least]), place, color=colour, **offset)
    axes[0, 0].set(xlabel="move of the photo, in pixels", ylabel="difference / mean size")
    axes[0, 0].set_ylim(bottom=-0.15)
    axes[0, 0].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def show_logits(
    photos: Sequence[np.ndarray],
    titles: Sequence[str],
    names: Sequence[str],
    logits: Mapping[str, Sequence[float]],
) -> None:
    """Draw photos (H, W, 3) of 0..255, and beside them one group of bars for each class."""
    _, axes = panels(1, len(photos) + 1, 3.8, width_ratios=[1] * len(photos) + [2])
    for axis, photo, title in zip(axes[0], photos, titles, strict=False):
        draw_image(axis, photo, title)
        axis.label_outer()
    axis, height = axes[0, -1], 0.8 / len(logits)
    for number, (name, values) in enumerate(logits.items()):
        places = np.arange(len(names)) + (number - (len(logits) - 1) / 2) * height
        axis.barh(places, values, height, label=name, color=COLOURS[number])
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("logit")
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=len(logits))


def show_normalization(
    steps: Mapping[str, np.ndarray], channels: Sequence[int], names: Sequence[str]
) -> None:
    """Draw how the values of some channels are spread after each step of a batch norm.

    steps: {title: values (N, H, W, C)}. names: of the channels, for the legend.
    """
    figure, axes = panels(1, len(steps), 3.7)
    for axis, (title, values) in zip(axes[0], steps.items(), strict=True):
        low, high = np.percentile(values[..., list(channels)], [0.5, 99.5])
        edges = np.linspace(low, high, 61)
        for channel, name, colour in zip(channels, names, COLOURS, strict=False):
            counts, _ = np.histogram(values[..., channel], edges)
            axis.stairs(counts / counts.max(), edges, color=colour, fill=True, alpha=0.25)
            axis.stairs(counts / counts.max(), edges, color=colour, linewidth=2, label=name)
        axis.axvline(0, color="gray", linestyle="--", linewidth=1)
        axis.set(title=title, xlabel="value", yticks=[])
    axes[0, 0].set_ylabel("how often (largest: 1)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)


def show_scales(scales: np.ndarray, biases: np.ndarray) -> None:
    """Draw what a batch norm multiplies each filter by, and what it adds: one bar for each."""
    order = np.argsort(-scales)
    _, axes = panels(1, 2, 3.2)
    titles = "multiplied by gamma / deviation", "added: the bias"
    for axis, values, title in zip(axes[0], (scales, biases), titles, strict=True):
        axis.bar(range(len(order)), values[order], color=STRONG)
        axis.axhline(0, color="black", linewidth=1)
        axis.set(title=title, xlabel="filters of the stem, by scale", ylabel="value")


def show_epsilons(variances: np.ndarray, ours: float, theirs: float) -> None:
    """Draw where a network's variances lie, and how much a smaller epsilon stretches a channel.

    ours and theirs: the epsilon of the training and another one.
    """
    _, axes = panels(1, 2, 3.4)
    low = min(theirs, float(variances.min())) / 2
    axes[0, 0].hist(variances, np.geomspace(low, variances.max(), 60), color=STRONG)
    v = np.geomspace(low, variances.max(), 200)
    axes[0, 1].plot(v, 100 * (np.sqrt((v + ours) / (v + theirs)) - 1))
    axes[0, 0].set(title="all channels of the network", ylabel="channels")
    axes[0, 1].set(title=f"scale with {theirs:g} instead of {ours:g}", ylabel="% too large")
    axes[0, 1].set_yscale("log")
    for axis, height, va in zip(axes[0], (0.98, 0.03), ("top", "bottom"), strict=True):
        axis.set(xscale="log", xlabel="variance")
        for epsilon in (ours, theirs):
            axis.axvline(epsilon, color="gray", linestyle="--", linewidth=1)
            keywords = {"va": va, "rotation": 90, "color": "dimgray", "fontsize": 11}
            transform = axis.get_xaxis_transform()
            axis.text(epsilon, height, f" {epsilon:g}", transform=transform, **keywords)


def show_roundings(names: Sequence[str], curves: Mapping[str, Sequence[float]], title: str) -> None:
    """Draw errors, in roundings of float32, from layer to layer; names are those of the layers."""
    _, axes = panels(height=4.4)
    label = "error in roundings"
    draw_lines(axes[0, 0], np.arange(len(names)), curves, "layer", label, title)
    outputs = [i for i, name in enumerate(names) if name.endswith("/output")]
    marks = outputs[:: -(-len(outputs) // 7)]
    axes[0, 0].set_xticks(marks, [names[i].removesuffix("/output") for i in marks], rotation=20)
    axes[0, 0].set_ylim(0)


def show_sums(
    counts: Sequence[int],
    toy: Mapping[str, Sequence[float]],
    points: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Draw the error of sums over the number of their products: random ones and a network's.

    toy: {way of adding: an error for each of counts}; points: {kind of layer: (products, error)}.
    """
    _, axes = panels(1, 2, 4.2, sharey=True)
    for marker, (name, errors) in zip("osD", toy.items(), strict=False):
        axes[0, 0].plot(counts, errors, marker=marker, label=name)
    for marker, (name, pairs) in zip("osD", points.items(), strict=False):
        axes[0, 1].plot(*zip(*pairs, strict=True), marker, label=name)
    axes[0, 0].set(title="sums of random products", ylabel="error in roundings")
    axes[0, 1].set(title="what the convolutions add")
    for axis in axes[0]:
        axis.set(xscale="log", yscale="log", xlabel="products in each sum")
        axis.set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
        axis.legend(frameon=False)


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
        _draw_labelled_arrow(axis, (1.8, y), (3.0, y), "mean")
        _draw_labelled_arrow(
            axis, (3.75, y), (4.95, 2.1 + 0.15 * (1 - 2 * i)), f"times {reduce[i]:g}"
        )
        _draw_labelled_arrow(
            axis, (5.65, 2.1 + 0.15 * (1 - 2 * i)), (6.85, y), f"times {expand[i]:g}"
        )
        _draw_labelled_arrow(axis, (7.6, y), (9.2, y), "multiplies")
        _draw_disc(axis, 3.4, y, f"{means[i]:.3g}")
        _draw_disc(axis, 7.2, y, f"{gates[i]:.2f}")
        around = (3.85, 0.4)[i]
        edge = y + (0.6, -0.6)[i]
        axis.plot([1.1, 1.1, 9.9], [edge, around, around], color="gray", linewidth=1.5)
        _draw_labelled_arrow(axis, (9.9, around), (9.9, edge), "")
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
        _draw_labelled_arrow(axis, (start, 1.65), (end, 1.65), label)


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
        colour = "black" if share > 0.5 else "white"
        text = f"{value:.2g}"
        axis.text(left + 0.3, bottom + 0.3, text, ha="center", va="center", color=colour)


def _draw_disc(axis: Axes, x: float, y: float, text: str) -> None:
    axis.plot([x], [y], "o", markersize=44, color="white", markeredgecolor=STRONG)
    axis.text(x, y, text, ha="center", va="center")


def _draw_labelled_arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], label: str
) -> None:
    """Draw an arrow with its label above its middle, or on it where the arrow is not level."""
    arrow = {"arrowstyle": "-|>", "color": "gray", "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=arrow)
    level = start[1] == end[1]
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + (0.1 if level else 0)
    box = None if level else {"color": "white", "pad": 1}
    side = "bottom" if level else "center"
    axis.text(*middle, label, fontsize=12, bbox=box, ha="center", va=side)


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


# -- 11 --------------------------------------------------------------------------------------------


def show_team(colours: Sequence[str] = (RIGHT, INHERITED)) -> None:
    """Draw a block that two members share: a lane for each, and the two exchanges across them."""
    axis = _canvas(4.2)
    stations = (
        (2.2, "expand", "rows of\nthe kernel"),
        (4.1, "depthwise", "its\nchannels"),
        (6.0, "squeeze", "rows"),
        (7.3, "gate", "columns"),
        (8.9, "project", "columns of\nthe kernel"),
    )
    for lane, colour in enumerate(colours):
        y = 2.9 - 1.9 * lane
        axis.text(0.1, y + 0.62, f"member {lane}", weight="bold")
        _draw_part(axis, 0.7, y, "input\nwhole", "#dddddd")
        for x, name, what in stations:
            _draw_part(axis, x, y, f"{name}\n{what}", colour)
        _draw_part(axis, 10.4, y, "output\nwhole", "#dddddd")
        edges = (0.7, *(x for x, _, _ in stations), 10.4)
        for start, end in pairwise(edges):
            _draw_arrow(axis, (start + 0.56, y), (end - 0.58, y))
    for x, name in (
        (6.65, "first exchange:\na number a channel of SE"),
        (9.65, "second exchange:\nplanes"),
    ):
        axis.annotate(
            "",
            (x, 1.05),
            (x, 2.85),
            arrowprops={"arrowstyle": "<->", "color": WRONG, "linewidth": 2},
        )
        axis.text(x, 0.15, name, ha="center", va="center", color=WRONG, fontsize=11)
        axis.text(
            x,
            1.95,
            "+",
            ha="center",
            va="center",
            fontsize=20,
            color=WRONG,
            bbox={"color": "white", "pad": 2},
        )


def _draw_part(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    axis.add_patch(Rectangle((x - 0.56, y - 0.42), 1.12, 0.84, facecolor=colour, linewidth=0))
    axis.text(x, y, text, ha="center", va="center", fontsize=10)


def show_threads(times: Mapping[str, Mapping[str, float]], label: str) -> None:
    """Make a figure of one bar for each number of threads, stacked by kernel."""
    _, axes = panels(height=1.4 + 0.5 * len(times))
    kernels = list(dict.fromkeys(kernel for row in times.values() for kernel in row))
    ends = np.zeros(len(times))
    for kernel, colour in zip(kernels, (*COLOURS, "#999999"), strict=False):
        widths = np.array([row.get(kernel, 0) for row in times.values()])
        axes[0, 0].barh(list(times), widths, left=ends, label=kernel, color=colour)
        ends += widths
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel=label)
    axes[0, 0].legend(frameon=False, bbox_to_anchor=(1, 1))


def show_amdahl(serial: Mapping[str, float], measured: tuple[int, float], most: int = 8) -> None:
    """Make a figure of Amdahl's law: how many times as fast, over the number of cores.

    serial: by name, the share of the time that is not divided. measured: (cores, times as fast).
    """
    cores = np.arange(1, most + 1)
    _, axes = panels(height=3.8)
    series = {"everything is divided": cores.astype(float)}
    series |= {name: 1 / (share + (1 - share) / cores) for name, share in serial.items()}
    draw_lines(axes[0, 0], cores, series, "cores", "times as fast", marker="o")
    axes[0, 0].plot(*measured, "*", markersize=16, color="black", label="a team, measured")
    axes[0, 0].legend(frameon=False)
