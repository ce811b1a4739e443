"""Every kernel against its naive twin, on sizes and memory layouts that hypothesis chooses.

Sums of small whole numbers are exact in float32 in any order. So a kernel that only multiplies and
adds has to equal the naive loops to the last bit. For the others the tolerance is a bound on the
rounding: the number of roundings, times eps, times the sum of the absolute values of the terms.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import naive
from tinymixnet.engine import kernels
from tinymixnet.errors import InputError

pytestmark = pytest.mark.filterwarnings("error")

quick = settings(max_examples=60, deadline=None)

TYPES = (np.float32, np.float64)
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "channels first": lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1),
}


class Numbers:
    """Makes the arrays of one example: read-only, of one type, and in one memory layout."""

    def __init__(self, seed: int, dtype: type[np.floating[Any]], layout: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.layout = dtype, layout
        self.eps = float(np.finfo(dtype).eps)

    def __repr__(self) -> str:
        return f"Numbers({self.dtype.__name__}, {self.layout})"

    def laid_out(self, values: np.ndarray) -> np.ndarray:
        array = LAYOUTS[self.layout](values.astype(self.dtype))
        np.testing.assert_array_equal(array, values.astype(self.dtype))
        array.setflags(write=False)
        return array

    def whole(self, *shape: int) -> np.ndarray:
        return self.laid_out(self.rng.integers(-8, 9, shape))

    def real(self, *shape: int) -> np.ndarray:
        return self.laid_out(self.rng.normal(0, 1, shape))

    def positive(self, *shape: int) -> np.ndarray:
        return self.laid_out(self.rng.exponential(1, shape))

    def statistics(self, channels: int) -> list[np.ndarray]:
        """Return gamma, beta, mean and variance of a batch norm; some channels have variance 0."""
        variance = self.rng.exponential(1, channels) * self.rng.integers(0, 4, channels)
        return [self.real(channels) for _ in range(3)] + [self.laid_out(variance)]


numbers = st.builds(
    Numbers, st.integers(0, 2**32 - 1), st.sampled_from(TYPES), st.sampled_from(list(LAYOUTS))
)
sizes = st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7))  # N, H, W
channels = st.integers(1, 4)
strides = st.integers(1, 4)
sides = st.integers(1, 9)  # of a kernel: beyond the largest image too
groups = st.lists(st.integers(1, 3), min_size=1, max_size=4)  # channels each


def run(kernel: Callable[..., np.ndarray], *args: Any, **kwargs: Any) -> np.ndarray:
    """Call a kernel; check that the result has its inputs' type and that these are unchanged."""
    flat = [a for arg in (*args, *kwargs.values()) for a in (arg if type(arg) is list else [arg])]
    arrays = [a for a in flat if isinstance(a, np.ndarray)]
    copies = [array.copy() for array in arrays]
    y = kernel(*args, **kwargs)
    assert {a.dtype for a in arrays} == {y.dtype}
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    return y


def absolute(values: Any) -> Any:
    return [np.abs(v) for v in values] if isinstance(values, list) else np.abs(values)


def assert_within(y: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    assert y.shape == expected.shape
    errors = np.abs(y.astype(np.float64) - expected)
    assert (errors <= bound).all(), f"error {errors.max()} exceeds its bound"


# -- input ----------------------------------------------------------------------------------------


@quick
@given(numbers, sizes, st.booleans())
def test_normalize(make: Numbers, size: tuple[int, int, int], single: bool) -> None:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    shape = (*size[1:], 3) if single else (*size, 3)
    x = make.laid_out(make.rng.integers(0, 256, shape))
    # The mean and the deviation are rounded, then the difference, then the quotient.
    bound = 2 * make.eps * (np.abs(x) + mean) / std
    y = run(kernels.normalize, x, mean, std)
    assert_within(y, naive.normalize(x, mean, std), bound)


# -- padding and windows --------------------------------------------------------------------------


@given(size=st.integers(1, 400), kernel=st.integers(1, 13), stride=st.integers(1, 5))
def test_same_padding_is_the_least_that_gives_every_position(
    size: int, kernel: int, stride: int
) -> None:
    before, after = kernels.same_padding(size, kernel, stride)
    positions = math.ceil(size / stride)
    assert 0 <= before <= after <= before + 1
    assert (size + before + after - kernel) // stride + 1 == positions
    if before + after:
        assert (size + before + after - 1 - kernel) // stride + 1 == positions - 1


@pytest.mark.parametrize(
    ("kernel", "padding"), [(3, (0, 1)), (5, (1, 2)), (7, (2, 3)), (9, (3, 4)), (11, (4, 5))]
)
def test_same_padding_of_stride_2_on_even_sizes_is_lopsided(
    kernel: int, padding: tuple[int, int]
) -> None:
    for size in (14, 28, 56, 112, 224):
        assert kernels.same_padding(size, kernel, 2) == padding


@quick
@given(numbers, sizes, channels, sides, sides, strides)
def test_windows_are_the_input_under_the_kernel(
    make: Numbers, size: tuple[int, int, int], c: int, kh: int, kw: int, stride: int
) -> None:
    n, h, w = size
    x = make.whole(n, h, w, c)
    patches = run(kernels.windows, x, (kh, kw), stride)
    assert patches.shape == (n, math.ceil(h / stride), math.ceil(w / stride), c, kh, kw)
    for image, row, column, channel in np.ndindex(patches.shape[:4]):
        expected = np.zeros((kh, kw))
        for i, at_row in naive.taps(row, h, kh, stride):
            for j, at_column in naive.taps(column, w, kw, stride):
                expected[i, j] = x[image, at_row, at_column, channel]
        np.testing.assert_array_equal(patches[image, row, column, channel], expected)


@quick
@given(numbers, sizes, st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), strides)
def test_im2col_orders_a_row_as_a_reshaped_kernel(
    make: Numbers, size: tuple[int, int, int], c: int, kh: int, kw: int, stride: int
) -> None:
    """The kernel whose output number r picks input number r of its patch gives the rows back."""
    x = make.whole(*size, c)
    picks = np.eye(kh * kw * c).reshape(kh, kw, c, kh * kw * c)
    rows = run(kernels.im2col, x, (kh, kw), stride)
    np.testing.assert_array_equal(rows, naive.conv2d(x, picks, stride))


# -- convolutions ---------------------------------------------------------------------------------


@quick
@given(numbers, sizes, channels, st.integers(1, 3), sides, sides, strides, st.booleans())
def test_conv2d(
    make: Numbers,
    size: tuple[int, int, int],
    c: int,
    o: int,
    kh: int,
    kw: int,
    stride: int,
    biased: bool,
) -> None:
    x, kernel = make.whole(*size, c), make.whole(kh, kw, c, o)
    bias = make.whole(o) if biased else None
    y = run(kernels.conv2d, x, kernel, stride, bias=bias)
    np.testing.assert_array_equal(y, naive.conv2d(x, kernel, stride, bias))


@quick
@given(numbers, sizes, channels, channels, st.booleans())
def test_pointwise_conv2d(
    make: Numbers, size: tuple[int, int, int], c: int, o: int, biased: bool
) -> None:
    x, kernel = make.whole(*size, c), make.whole(1, 1, c, o)
    bias = make.whole(o) if biased else None
    y = run(kernels.pointwise_conv2d, x, kernel, bias=bias)
    np.testing.assert_array_equal(y, naive.conv2d(x, kernel, bias=bias))


@quick
@given(numbers, sizes, channels, sides, sides, strides)
def test_depthwise_conv2d(
    make: Numbers, size: tuple[int, int, int], c: int, kh: int, kw: int, stride: int
) -> None:
    x, kernel = make.whole(*size, c), make.whole(kh, kw, c, 1)
    y = run(kernels.depthwise_conv2d, x, kernel, stride)
    np.testing.assert_array_equal(y, naive.depthwise_conv2d(x, kernel, stride))


@quick
@given(numbers, sizes, groups, st.data())
def test_grouped_conv2d(
    make: Numbers, size: tuple[int, int, int], inputs: list[int], data: st.DataObject
) -> None:
    outputs = [data.draw(st.integers(1, 3)) for _ in inputs]
    x = make.whole(*size, sum(inputs))
    each = [make.whole(1, 1, i, o) for i, o in zip(inputs, outputs, strict=True)]
    y = run(kernels.grouped_conv2d, x, each)
    np.testing.assert_array_equal(y, naive.grouped_conv2d(x, each))


@quick
@given(numbers, sizes, groups, strides, st.data())
def test_mix_conv(
    make: Numbers, size: tuple[int, int, int], cut: list[int], stride: int, data: st.DataObject
) -> None:
    ks = [data.draw(st.sampled_from([1, 3, 4, 5, 7, 9])) for _ in cut]
    x = make.whole(*size, sum(cut))
    each = [make.whole(k, k, c, 1) for k, c in zip(ks, cut, strict=True)]
    y = run(kernels.mix_conv, x, each, stride)
    np.testing.assert_array_equal(y, naive.mix_conv(x, each, stride))


@quick
@given(numbers, sizes, channels, st.integers(1, 3), sides, strides)
def test_convolutions_of_real_numbers_round_no_more_than_sums_must(
    make: Numbers, size: tuple[int, int, int], c: int, o: int, k: int, stride: int
) -> None:
    x, kernel, deep = make.real(*size, c), make.real(k, k, c, o), make.real(k, k, c, 1)
    y = run(kernels.conv2d, x, kernel, stride)
    bound = k * k * c * make.eps * naive.conv2d(np.abs(x), np.abs(kernel), stride)
    assert_within(y, naive.conv2d(x, kernel, stride), bound)
    y = run(kernels.depthwise_conv2d, x, deep, stride)
    bound = k * k * make.eps * naive.depthwise_conv2d(np.abs(x), np.abs(deep), stride)
    assert_within(y, naive.depthwise_conv2d(x, deep, stride), bound)


# -- splitting channels ---------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(1, 12))
def test_split_channels_gives_the_remainder_to_the_first(total: int, parts: int) -> None:
    if parts > total:
        with pytest.raises(InputError, match=f"cannot split {total} channels into {parts} groups"):
            kernels.split_channels(total, parts)
        return
    first, *others = kernels.split_channels(total, parts)
    assert others == [total // parts] * (parts - 1)
    assert first == total // parts + total % parts


@pytest.mark.parametrize("parts", [0, -1])
def test_split_channels_needs_a_group(parts: int) -> None:
    with pytest.raises(InputError):
        kernels.split_channels(8, parts)


# -- batch normalisation --------------------------------------------------------------------------


@quick
@given(numbers, sizes, channels)
def test_batch_norm(make: Numbers, size: tuple[int, int, int], c: int) -> None:
    x = make.real(*size, c)
    gamma, beta, mean, variance = make.statistics(c)
    y = run(kernels.batch_norm, x, gamma, beta, mean, variance, epsilon=1e-3)
    terms = naive.batch_norm(*map(np.abs, (x, gamma, beta)), -np.abs(mean), variance, 1e-3)
    assert_within(y, naive.batch_norm(x, gamma, beta, mean, variance, 1e-3), 8 * make.eps * terms)


@quick
@given(numbers, sizes, channels, channels, st.integers(1, 5), strides, st.booleans())
def test_fold_batch_norm_is_the_convolution_then_the_batch_norm(
    make: Numbers,
    size: tuple[int, int, int],
    c: int,
    o: int,
    k: int,
    stride: int,
    depthwise: bool,
) -> None:
    twin = naive.depthwise_conv2d if depthwise else naive.conv2d
    x, kernel = make.real(*size, c), make.real(k, k, c, 1 if depthwise else o)
    gamma, beta, mean, variance = make.statistics(c if depthwise else o)
    folded = [
        run(
            lambda *a, i=i: kernels.fold_batch_norm(*a, 1e-3)[i],
            kernel,
            gamma,
            beta,
            mean,
            variance,
        )
        for i in range(2)
    ]
    y = twin(x, folded[0], stride) + folded[1]
    expected = naive.batch_norm(twin(x, kernel, stride), gamma, beta, mean, variance, 1e-3)
    terms = naive.batch_norm(
        twin(np.abs(x), np.abs(kernel), stride),
        *map(np.abs, (gamma, beta)),
        -np.abs(mean),
        variance,
        1e-3,
    )
    assert_within(y, expected, 16 * make.eps * terms)


# -- activations ----------------------------------------------------------------------------------


def quietly(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Call a function with every floating-point exception and every warning as an error."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(function, x)


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False), st.sampled_from(TYPES))
@example(-88.0, np.float32)
@example(-104.0, np.float32)
@example(-745.0, np.float64)
@example(6.908401429121348e-43, np.float32)
def test_sigmoid_and_swish_of_any_number(value: float, dtype: type[np.floating[Any]]) -> None:
    limits = np.finfo(dtype)
    x = np.array([value], dtype)
    # Below `tiny` a float has fewer digits, so there an absolute error is all one can ask for.
    expected = naive.sigmoid(value)
    assert (
        abs(float(quietly(kernels.sigmoid, x)[0]) - expected)
        <= 8 * limits.eps * expected + limits.tiny
    )
    expected = 0.0 if value == -math.inf else naive.swish(value)
    y = float(quietly(kernels.swish, x)[0])
    bound = 8 * limits.eps * abs(expected) + limits.tiny * min(abs(value), 1000)
    bound += limits.smallest_subnormal  # there are no numbers in between
    assert y == expected or abs(y - expected) <= bound


@pytest.mark.parametrize("dtype", TYPES)
def test_activations_at_the_ends_of_the_type(dtype: type[np.floating[Any]]) -> None:
    limits = np.finfo(dtype)
    least = limits.smallest_subnormal
    x = np.array(
        [
            np.nan,
            -np.inf,
            limits.min,
            -limits.tiny,
            -least,
            -0.0,
            0,
            least,
            limits.tiny,
            limits.max,
            np.inf,
        ],
        dtype,
    )
    half, top = 0.5, limits.max
    np.testing.assert_array_equal(
        quietly(kernels.sigmoid, x), [np.nan, 0, 0, half, half, half, half, half, half, 1, 1]
    )
    np.testing.assert_array_equal(
        quietly(kernels.relu, x), [np.nan, 0, 0, 0, 0, 0, 0, least, limits.tiny, top, np.inf]
    )
    y = quietly(kernels.swish, x)
    np.testing.assert_array_equal(y[[0, 1, 2, 5, 6, 9, 10]], [np.nan, 0, 0, 0, 0, top, np.inf])
    np.testing.assert_array_equal(y[[3, 8]], [-limits.tiny / 2, limits.tiny / 2])
    assert -least <= y[4] <= 0 <= y[7] <= least


@quick
@given(numbers, sizes, channels)
def test_relu(make: Numbers, size: tuple[int, int, int], c: int) -> None:
    x = make.real(*size, c)
    y = run(kernels.relu, x)
    np.testing.assert_array_equal(y, naive.each(lambda value: max(value, 0.0), x))


@quick
@given(numbers, sizes, channels)
def test_sigmoid_and_swish_of_batches(make: Numbers, size: tuple[int, int, int], c: int) -> None:
    x = make.real(*size, c)
    for ours, twin in ((kernels.sigmoid, naive.sigmoid), (kernels.swish, naive.swish)):
        expected = naive.each(twin, x)
        assert_within(run(ours, x), expected, 8 * make.eps * np.abs(expected))


@quick
@given(numbers, st.integers(0, 3), st.integers(1, 20), st.sampled_from([1, 30, 3000]))
def test_softmax(make: Numbers, n: int, classes: int, spread: int) -> None:
    x = make.laid_out(make.rng.normal(0, spread, (n, classes)))
    y = quietly(kernels.softmax, x)
    expected = naive.softmax(x)
    # x - max is rounded before exp: an error in the exponent is a relative error of the power.
    exponents = x.max(axis=-1, keepdims=True) - x.astype(np.float64)
    bound = (classes + 8 + exponents) * make.eps * expected + np.finfo(make.dtype).tiny
    assert_within(y, expected, bound)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=classes * make.eps)


@pytest.mark.parametrize("dtype", TYPES)
def test_softmax_at_the_ends_of_the_type(dtype: type[np.floating[Any]]) -> None:
    low, high, inf = np.finfo(dtype).min, np.finfo(dtype).max, np.inf
    logits = np.array(
        [[high, 0], [0, low], [high, high], [low, low], [-inf, 5], [-inf, low]], dtype
    )
    expected = [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1], [0, 1]]
    np.testing.assert_array_equal(quietly(kernels.softmax, logits), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_softmax_from_end_to_end_of_the_type(dtype: type[np.floating[Any]]) -> None:
    logits = np.array([[np.finfo(dtype).max, np.finfo(dtype).min]], dtype)
    np.testing.assert_array_equal(quietly(kernels.softmax, logits), [[1, 0]])


def test_softmax_passes_nan_on() -> None:
    y = run(kernels.softmax, np.array([[0, np.nan, 1], [0, 0, 0]], np.float32))
    assert np.isnan(y[0]).all()
    np.testing.assert_allclose(y[1], 1 / 3, rtol=1e-6)


# -- pooling, squeeze-and-excite, the classifier --------------------------------------------------


@quick
@given(numbers, sizes, channels)
def test_global_average_pool(make: Numbers, size: tuple[int, int, int], c: int) -> None:
    n, h, w = size
    x = make.real(n, h, w, c)
    bound = (h + w) * make.eps * naive.global_average_pool(np.abs(x))
    assert_within(run(kernels.global_average_pool, x), naive.global_average_pool(x), bound)


@quick
@given(numbers, st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))
def test_dense(make: Numbers, n: int, c: int, o: int) -> None:
    x, kernel, bias = make.whole(n, c), make.whole(c, o), make.whole(o)
    y = run(kernels.dense, x, kernel, bias)
    np.testing.assert_array_equal(y, naive.dense(x, kernel, bias))


@quick
@given(numbers, sizes, channels, st.integers(1, 3), st.sampled_from(["swish", "relu", "default"]))
def test_squeeze_excite(
    make: Numbers, size: tuple[int, int, int], c: int, r: int, activation: str
) -> None:
    n, h, w = size
    x = make.real(n, h, w, c)
    weights = [make.real(1, 1, c, r), make.real(r), make.real(1, 1, r, c), make.real(c)]
    ours: dict[str, Any] = {
        "swish": {"activation": kernels.swish},
        "relu": {"activation": kernels.relu},
    }
    twin = (lambda value: max(value, 0.0)) if activation == "relu" else naive.swish
    y = run(kernels.squeeze_excite, x, *weights, **ours.get(activation, {}))
    # No activation stretches by more than 1.1, so this is the most the gate's terms can add up to.
    squeezed = 1.1 * naive.dense(
        naive.global_average_pool(np.abs(x)), *map(np.abs, (weights[0][0, 0], weights[1]))
    )
    terms = 1 + naive.dense(squeezed, *map(np.abs, (weights[2][0, 0], weights[3])))
    bound = (h + w + c + r + 10) * make.eps * np.abs(x) * terms[:, None, None, :]
    assert_within(y, naive.squeeze_excite(x, *weights, activation=twin), bound)


# -- mistakes -------------------------------------------------------------------------------------


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


X = ones(1, 5, 5, 4)
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "conv2d, channels": (lambda: kernels.conv2d(X, ones(3, 3, 5, 2)), r"conv2d.*5.*\(1, 5, 5, 4\)"),
    "conv2d, rank": (lambda: kernels.conv2d(X[0], ones(3, 3, 4, 2)), r"conv2d.*\(5, 5, 4\)"),
    "pointwise, channels": (
        lambda: kernels.pointwise_conv2d(X, ones(1, 1, 3, 2)),
        "pointwise_conv2d",
    ),
    "pointwise, size": (lambda: kernels.pointwise_conv2d(X, ones(3, 1, 4, 2)), "3x1.*conv2d"),
    "grouped, channels": (
        lambda: kernels.grouped_conv2d(X, [ones(1, 1, 2, 2)] * 3),
        "grouped_conv2d.*6",
    ),
    "grouped, size": (lambda: kernels.grouped_conv2d(X, [ones(3, 3, 4, 2)]), "3x3"),
    "depthwise, channels": (
        lambda: kernels.depthwise_conv2d(X, ones(3, 3, 3, 1)),
        "depthwise_conv2d",
    ),
    "depthwise, multiplier": (
        lambda: kernels.depthwise_conv2d(X, ones(3, 3, 4, 2)),
        r"\(3, 3, 4, 2\)",
    ),
    "mix_conv, channels": (
        lambda: kernels.mix_conv(X, [ones(3, 3, 2, 1), ones(5, 5, 1, 1)]),
        "mix_conv.*3",
    ),
    "squeeze_excite": (
        lambda: kernels.squeeze_excite(X, ones(1, 1, 3, 2), ones(2), ones(1, 1, 2, 4), ones(4)),
        r"\(1, 1, 1, 4\)",
    ),
    "fold, outputs": (
        lambda: kernels.fold_batch_norm(ones(1, 1, 4, 2), *[ones(3)] * 4, 1e-3),
        "3 statistics",
    ),
    "fold, depthwise": (
        lambda: kernels.fold_batch_norm(ones(3, 3, 4, 1), *[ones(3)] * 4, 1e-3),
        "3 stat",
    ),
    "fold, inputs": (
        lambda: kernels.fold_batch_norm(ones(1, 1, 4, 2), *[ones(4)] * 4, 1e-3),
        "4 statistics",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message):
        call()
