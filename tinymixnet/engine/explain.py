"""Why the network answered as it did: which parts of a photo speak for a label, and which against.

Two questions, two answers:

    class activation map   what does each cell of the last layer add to a label's logit? The network
                           ends with a mean over the cells and a dense layer. Both are linear, so
                           the answer is exact: no approximation, no gradient.
    occlusion map          how does the probability of the label change when a part is hidden?
                           A grey square is moved over the photo, and the network runs again.

The first uses only the last layer, the second the whole network.

Where a cell lies in the photo. The network halves the resolution five times, so the centres of
neighbouring cells are `stride` = 32 pixels apart. They are placed symmetrically about the middle of
the photo: in 128 pixels the four centres are at 16, 48, 80 and 112.

It is not the only possible choice. A cell looks at far more than 32 pixels, and the middle of these
is another point. Where an axis has an even size, SAME padding adds one zero more after it than
before it (see `kernels.same_padding`), which moves the middle of what is seen by half a pixel to
the right, or down. In a photo of 128 pixels this happens at all five resolutions, which makes
0.5 + 1 + 2 + 4 + 8 = 15.5 pixels. Trained weights, however, have learnt to balance it: they saw
every photo and its mirror image, and could not prefer one side. A test pastes a small photo at
several places and finds it less than a quarter of a cell from where the centres say.

Letters: H x W pixels, h x w cells, K explained labels, C channels of the last layer.
Boxes are (left, top, right, bottom) in pixels, right and bottom being outside, as in Pillow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymixnet.engine.kernels import Array, softmax
from tinymixnet.errors import InputError, printable, short_repr

Box = tuple[float, float, float, float]
Progress = Callable[[Sequence[int]], Iterable[int]]

GRID = 10  # places of the grey square along the longer side: 100 runs of the network
SQUARE = 3  # side of the grey square, in steps of the grid: a tenth of the photo is hidden


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What `Model.explain` returns: why a photo got its label.

    The first of the K = 2 labels is the one that is explained. The second is its rival: the most
    probable of all others.
    """

    pixels: Array  # (H, W, 3), 0..255: the photo as the network saw it
    indices: tuple[int, ...]  # K class indices
    labels: tuple[str, ...]  # K names
    probabilities: Array  # (K,)
    logits: Array  # (K,)
    biases: Array  # (K,)
    maps: Array  # (K, h, w): the mean of maps[k] plus biases[k] is logits[k]
    map_boxes: Array  # (h, w, 4): the part of `pixels` that stands for each cell
    occlusion: Array  # (rows, columns): the probability of labels[0] while a part is hidden
    occlusion_boxes: Array  # (rows, columns, 4): the grey square that hid it
    stride: int  # pixels between the centres of neighbouring cells
    photo_box: Box | None  # what `pixels` show of the upright photo, in its pixels; None if unknown

    def __repr__(self) -> str:
        h, w = self.maps.shape[1:]
        first, second = (
            f"{printable(label, 80)} {probability:.1%}"
            for label, probability in zip(self.labels, self.probabilities, strict=True)
        )
        return f"Explanation({first}, {second}, {h} x {w} cells)"

    @property
    def contributions(self) -> Array:
        """What each cell adds to each logit, (K, h, w): their sum plus the bias is the logit."""
        return self.maps / self.maps[0].size

    @property
    def advantage(self) -> Array:
        """What each cell adds to the lead of labels[0] over its rival, in logits: (h, w)."""
        return self.contributions[0] - self.contributions[1]

    def spread(self, cells: Array) -> Array:
        """Values of cells (h, w) for every pixel, (H, W): interpolated between cells' centres."""
        height, width, _ = self.pixels.shape
        y = cell_centres(height, cells.shape[0], self.stride)
        x = cell_centres(width, cells.shape[1], self.stride)
        return spread(cells, y, x, height, width)

    def in_photo(self, box: Sequence[float]) -> Box | None:
        """Where a box of `pixels` lies in the upright photo; None if that is not known."""
        if self.photo_box is None:
            return None
        left, top, right, bottom = self.photo_box
        x = (right - left) / self.pixels.shape[1]
        y = (bottom - top) / self.pixels.shape[0]
        a, b, c, d = (float(side) for side in box)
        return left + a * x, top + b * y, left + c * x, top + d * y

    def as_json(self) -> dict[str, Any]:
        """All but the pixels, as JSON has it. A number that is not finite becomes null."""
        return {
            "size": list(self.pixels.shape[:2]),
            "photo_box": None if self.photo_box is None else _as_json(self.photo_box),
            "labels": [
                {
                    "label": label,
                    "index": index,
                    "probability": _as_json(self.probabilities[k]),
                    "logit": _as_json(self.logits[k]),
                    "bias": _as_json(self.biases[k]),
                    "map": _as_json(self.maps[k]),
                }
                for k, (label, index) in enumerate(zip(self.labels, self.indices, strict=True))
            ],
            "map_boxes": self.map_boxes.tolist(),
            "occlusion": _as_json(self.occlusion),
            "occlusion_boxes": self.occlusion_boxes.tolist(),
        }


def _as_json(value: Any) -> Any:
    """Numbers as nested lists, None in place of those that are not finite."""
    array = np.atleast_1d(np.array(value, np.float64))
    finite = np.isfinite(array)
    listed = array.astype(object)
    listed[~finite] = None
    return listed.tolist() if np.ndim(value) else listed[0]


def explain(
    pixels: Array,
    head: Array,
    tensors: Any,
    labels: Sequence[str],
    stride: int,
    logits_of: Callable[[Array], Array],
    grey: Sequence[float],
    label: "str | int | None" = None,
    photo_box: Box | None = None,
    progress: Progress = iter,
) -> Explanation:
    """Explain the answer for one photo.

    pixels: (H, W, 3), as the network sees it. head: the layer head/act of it, (h, w, C).
    tensors: the weights, of which logits/kernel and logits/bias are used.
    logits_of: the network, from (N, H, W, 3) to (N, classes). grey: the colour that hides, RGB.
    label: a name or an index to explain instead of the best answer.
    progress: is called with the numbers of the runs and yields them one by one, as tqdm does.
    """
    if not callable(progress):
        raise InputError(f"progress: expected a function, found {short_repr(progress)}")
    if len(labels) < 2:
        raise InputError("the network knows one class only, so there is nothing to explain")
    logits = logits_of(pixels[np.newaxis])[0]
    order = np.argsort(-logits, kind="stable")
    best = int(order[0]) if label is None else find_label(label, labels)
    rival = int(order[0] if order[0] != best else order[1])
    chosen = [best, rival]

    boxes = grey_squares(*pixels.shape[:2])
    hidden = occlusion_map(pixels, boxes, grey, lambda x: softmax(logits_of(x))[:, best], progress)
    return Explanation(
        pixels=pixels,
        indices=(best, rival),
        labels=(labels[best], labels[rival]),
        probabilities=softmax(logits[np.newaxis])[0, chosen],
        logits=logits[chosen],
        biases=tensors["logits/bias"][chosen],
        maps=class_activation_maps(head, tensors["logits/kernel"], chosen),
        map_boxes=cell_boxes(pixels.shape[:2], head.shape[:2], stride),
        occlusion=hidden,
        occlusion_boxes=boxes,
        stride=stride,
        photo_box=photo_box,
    )


def find_label(label: "str | int", labels: Sequence[str]) -> int:
    """Return the index of a label that is given by name (upper or lower case) or by index.

    Raises InputError, with the nearest names, for one that does not exist.
    """
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if 0 <= label < len(labels):
            return int(label)
        raise InputError(f"label {label}: expected an index from 0 to {len(labels) - 1}")
    if not isinstance(label, str):
        raise InputError(f"label: expected a name or an index, found {type(label).__name__}")
    wanted = label.strip().casefold()
    names = [name.strip().casefold() for name in labels]
    same = [i for i, name in enumerate(names) if name == wanted]
    if len(same) == 1:
        return same[0]
    if same:
        raise InputError(
            f"label {short_repr(label)}: several classes have this name; choose from {same}"
        )
    if wanted.isdecimal() and wanted.isascii() and len(wanted) < 10:
        return find_label(int(wanted), labels)
    raise InputError(f"no label '{printable(label, 80)}': {_nearest(wanted, names, labels)}")


def _nearest(wanted: str, names: Sequence[str], labels: Sequence[str]) -> str:
    """Suggest labels that contain the wanted name, or else labels of similar spelling."""
    import difflib

    near = [i for i, name in enumerate(names) if wanted and wanted in name][:3]
    if not near:
        similar = difflib.get_close_matches(wanted[:100], names, 3, 0.5)
        near = [names.index(name) for name in similar]
    if not near:
        return f"expected one of the {len(labels)} class names, or an index from 0"
    return "did you mean " + " or ".join(f"{labels[i]!r} ({i})" for i in near) + "?"


# -- the class activation map ---------------------------------------------------------------------


def class_activation_maps(head: Array, kernel: Array, indices: Sequence[int]) -> Array:
    """How much each cell speaks for each of some labels; the mean plus the bias is the logit.

    head (h, w, C), the layer head/act; kernel (C, classes), logits/kernel -> (K, h, w).

    The network takes the mean of `head` over all cells, then multiplies it by the kernel. A mean is
    a sum, and a matrix product of a sum is the sum of the products. So the network could as well
    multiply first and take the mean last, and what lies between these two steps is this map.
    A value, plus the bias, is the logit of a photo whose cells are all like this one.
    Source: Zhou et al., Learning Deep Features for Discriminative Localization, 2016.
    """
    return np.ascontiguousarray(np.moveaxis(head @ kernel[:, list(indices)], -1, 0))


def cell_centres(size: int, cells: int, stride: int) -> Array:
    """Where the cells of the last layer lie along an axis of `size` pixels: (cells,), in pixels.

    Pixel p reaches from p to p + 1. The cells are symmetric about the middle: see the text above.

    >>> cell_centres(128, 4, 32).tolist()
    [16.0, 48.0, 80.0, 112.0]
    """
    return size / 2 + stride * (np.arange(cells) - (cells - 1) / 2)


def cell_boxes(size: tuple[int, ...], cells: tuple[int, ...], stride: int) -> Array:
    """The pixels nearest to each cell: boxes (h, w, 4) that cover the photo without overlap.

    size (H, W), cells (h, w).
    """
    y, x = (_edges(*axis, stride) for axis in zip(size, cells, strict=True))
    return _boxes(y, x, 1)


def _edges(size: int, cells: int, stride: int) -> list[int]:
    centres = cell_centres(size, cells, stride)
    between = np.floor((centres[1:] + centres[:-1]) / 2).astype(int)
    return [0, *between.tolist(), size]


def _boxes(y: Sequence[int], x: Sequence[int], reach: int) -> Array:
    """Boxes around each interval of two lists of edges; reach=3 takes in the neighbours' too."""
    more = (reach - 1) // 2
    rows = [(y[max(i - more, 0)], y[min(i + 1 + more, len(y) - 1)]) for i in range(len(y) - 1)]
    columns = [(x[max(i - more, 0)], x[min(i + 1 + more, len(x) - 1)]) for i in range(len(x) - 1)]
    return np.array([[(a, t, b, u) for a, b in columns] for t, u in rows])


def spread(cells: Array, y: Array, x: Array, height: int, width: int) -> Array:
    """Interpolate values (h, w) that stand at y (h,), x (w,) to all pixels: (height, width).

    Linear between centres; beyond the outer ones the value stays as it is there.
    """
    rows = _interpolation(y, height) @ cells
    return rows @ _interpolation(x, width).T


def _interpolation(centres: Array, size: int) -> Array:
    """The matrix (size, len(centres)) that interpolates to the middle of every pixel."""
    columns = np.eye(len(centres))
    return np.stack([np.interp(np.arange(size) + 0.5, centres, one) for one in columns], axis=1)


def strongest(cells: Array, count: int) -> list[tuple[int, int]]:
    """The (row, column) of the largest values of a map (h, w), largest first."""
    order = np.argsort(-cells, axis=None, kind="stable")[:count]
    return [(int(i) // cells.shape[1], int(i) % cells.shape[1]) for i in order]


# -- the occlusion map ----------------------------------------------------------------------------


def grey_squares(height: int, width: int) -> Array:
    """The boxes (rows, columns, 4) that are hidden one after the other.

    The photo is divided into a grid of squares. A box is such a square with its neighbours, so
    that boxes overlap; at the photo's edge it ends there.
    """
    step = max(height, width) / GRID
    y, x = (
        np.rint(np.linspace(0, size, max(round(size / step), 1) + 1)).astype(int).tolist()
        for size in (height, width)
    )
    return _boxes(y, x, SQUARE)


def occlusion_map(
    pixels: Array,
    boxes: Array,
    grey: Sequence[float],
    probability: Callable[[Array], Array],
    progress: Progress = iter,
) -> Array:
    """Return `probability` of the photo (H, W, 3) with each of the boxes painted grey, in turn.

    boxes (rows, columns, 4) -> (rows, columns) float32. probability takes (1, H, W, 3) and returns
    (1,): one image at a time is how the fast path is fast.
    """
    flat = boxes.reshape(-1, 4)
    values = np.empty(len(flat), np.float32)
    for i in progress(range(len(flat))):
        left, top, right, bottom = flat[i]
        hidden = pixels[np.newaxis].copy()
        hidden[0, top:bottom, left:right] = grey
        [values[i]] = probability(hidden)
    return values.reshape(boxes.shape[:2])


# -- the place in the original photo --------------------------------------------------------------


def seen_of_photo(
    preset: str, parameters: Mapping[str, float], width: int, height: int, size: int
) -> Box | None:
    """The box of a photo of width x height pixels that a preset shows as size x size pixels.

    preset and parameters as in `images.PRESETS`. None for a preset that is not known here.
    """
    crop = parameters.get("crop", 1)
    if preset == "tf":  # a centre square of whole pixels
        side = max(int(crop * min(width, height)), 1)
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        return left, top, left + side, top + side
    if preset == "omz":  # as wide and as high in proportion as the photo
        w, h = max(int(width * crop), 1), max(int(height * crop), 1)
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
    if preset == "square":
        side = max(int(crop * min(width, height)), 1)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    if preset == "timm":  # resized, then cropped: not at whole pixels of the photo
        shown = min(width, height) * size / int(size / crop)
        x, y = (width - shown) / 2, (height - shown) / 2
        return x, y, x + shown, y + shown
    return None
