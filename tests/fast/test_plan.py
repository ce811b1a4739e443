"""The fast kernels equal the readable ones, and the plan equals the readable path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.kernels import (
    depthwise_conv2d,
    im2col,
    relu,
    same_padding,
    squeeze_excite,
    swish,
)
from tinymixnet.fast import kernels as fast
from tinymixnet.fast.compiler import aligned

ODD = st.sampled_from([1, 3, 5, 7, 9, 11])
SIDE = st.integers(1, 20)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_planes(x):
    """(1, H, W, C) -> (C, P)."""
    return np.ascontiguousarray(x[0].transpose(2, 0, 1)).reshape(x.shape[3], -1)


def assert_equal(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def laid_out(x, layout):
    """(1, H, W, C) -> (C, layout.size)."""
    found = np.zeros((x.shape[3], layout.size), np.float32)
    for plane, place in fast.same_pixels(as_planes(x), fast.Layout(*x.shape[1:3]), found, layout):
        place[...] = plane
    return found


@settings(deadline=None)
@given(h=SIDE, w=SIDE, k=ODD, stride=st.integers(1, 3), more=st.integers(1, 3), c=st.integers(1, 5))
def test_depthwise_columns_equals_depthwise_conv2d(h, w, k, stride, more, c):
    x, kernel, bias = random(1, h, w, c), random(k, k, c, 1, seed=1), random(c, seed=2)
    layout = fast.Layout(h, w, stride * more)
    whole = fast.filter_for(kernel, bias, layout, stride)
    _, m, n = whole.matrix.shape
    memory = np.pad(laid_out(x, layout).ravel(), k, constant_values=np.nan)  # never to be seen
    scratch = (
        np.full(size, np.nan, np.float32) for size in ((c, n, layout.run), (m, c, layout.run))
    )
    work = fast.columns_for(whole, memory, k, layout, *scratch)
    expected = depthwise_conv2d(x, kernel, stride) + bias
    for _ in range(2):  # whatever the scratch held before
        fast.depthwise_columns(work)
        found = work.total.transpose(1, 0, 2).reshape(c, -1)
        assert_equal(layout.filtered(stride).plane(found)[None], expected)


@settings(deadline=None)
@given(h=SIDE, w=SIDE, k=ODD, wider=st.integers(0, 2), stride=st.integers(1, 3))
def test_depthwise_fourier_equals_depthwise_conv2d(h, w, k, wider, stride):
    c = 3
    x, kernel, bias = random(1, h, w, c), random(k, k, c, 1, seed=1), random(c, seed=2)
    at = fast.fourier_for(h, w, k + 2 * wider, stride)  # it may be larger than need be
    spectra = fast.spectra_for(kernel, h, w, stride, at)
    scratch = np.empty((c, at.forward.shape[1]), np.float32)
    expected = as_planes(depthwise_conv2d(x, kernel, stride) + bias)
    out = np.empty_like(expected)
    fast.depthwise_fourier(as_planes(x), spectra, bias, at, scratch, out)
    assert_equal(out, expected)


@given(h=SIDE, w=SIDE, cut=st.integers(1, 3), more=st.integers(1, 3))
def test_a_layout_holds_every_pixel_once_and_zeros_beside_them(h, w, cut, more):
    layout, finer = fast.Layout(h, w, cut), fast.Layout(h, w, cut * more)
    plane = 1 + np.arange(h * w * 2, dtype=np.float32).reshape(1, h, w, 2)
    x = laid_out(plane, layout)
    assert np.array_equal(np.sort(x[x > 0]), np.sort(plane.ravel()))
    assert np.array_equal(x[0] > 0, layout.ones() > 0)
    assert layout.ones().sum() == h * w
    assert np.array_equal(layout.plane(x), plane[0])
    for a, b in ((layout, finer), (finer, layout)):
        y = np.zeros((2, b.size), np.float32)
        for pixels, place in fast.same_pixels(laid_out(plane, a), a, y, b):
            place[...] = pixels
        assert np.array_equal(y, laid_out(plane, b))


@given(h=SIDE, w=SIDE, stride=st.integers(1, 3), cut=st.integers(1, 3))
def test_im2col_planes_equals_im2col(h, w, stride, cut):
    x = random(1, h, w, 3)
    expected = im2col(x, (3, 3), stride)
    layout = fast.Layout(*expected.shape[1:3], cut)
    out = np.zeros((27, layout.size), np.float32)
    padded = np.pad(x[0], (same_padding(h, 3, stride), same_padding(w, 3, stride), (0, 0)))
    fast.im2col_planes(padded.transpose(2, 0, 1), 3, stride, layout, out)
    assert np.array_equal(out, laid_out(expected, layout))


def test_activations_equal_relu_and_swish():
    x = np.concatenate([random(300) * 20, np.float32([-1e30, -0.0, 0, 1e30])])
    out, zeros = np.empty_like(x), np.zeros_like(x)
    fast.relu_to(x, zeros, out)
    assert np.array_equal(out, relu(x))
    fast.swish_of_half_to(x / 2, np.empty_like(x), out)
    assert np.allclose(out, swish(x), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("is_swish", [False, True])
def test_squeeze_excite_gate_equals_that_of_squeeze_excite(is_swish):
    x, reduce, expand = random(1, 4, 6, 8), random(1, 1, 8, 3, seed=1), random(1, 1, 3, 8, seed=2)
    reduce_bias, expand_bias = random(3, seed=3), random(8, seed=4)
    expected = squeeze_excite(
        x, reduce, reduce_bias, expand, expand_bias, swish if is_swish else relu
    )
    layout = fast.Layout(4, 6, 4)
    planes = laid_out(x, layout)
    planes[:, layout.ones() == 0] = 7  # the padding must not count
    half = np.float32(0.5 if is_swish else 1)
    weights = reduce[0, 0] * half, reduce_bias * half, expand[0, 0] / 2, expand_bias / 2
    gate = np.empty(8, np.float32)
    fast.squeeze_excite_gate(planes, layout.ones() / np.float32(24), *weights, is_swish, gate)
    assert_equal(x * gate, expected)


def test_aligned_arrays_begin_with_a_line_of_the_cache():
    for size in (1, 15, 16, 1000, 100_001):
        array = aligned(size)
        assert (array.shape, array.dtype, array.ctypes.data % 64) == ((size,), np.float32, 0)
        assert not array.any()


SIZES = [(224, 224), (192, 192), (160, 160), (97, 131), (32, 32)]
BIG = [(variant, size) for variant in VARIANTS for size in SIZES]


@pytest.fixture(scope="module")
def models():
    made = {name: Model(mixnet(name), synthetic_tensors(mixnet(name))) for name in VARIANTS}
    return {**made, "tiny": Model(TINY, synthetic_tensors(TINY))}


@pytest.mark.parametrize(("variant", "size"), [*BIG, ("tiny", (33, 47)), ("tiny", (150, 61))])
def test_the_plan_equals_the_readable_path_at_every_output(models, variant, size):
    model = models[variant]
    pixels = synthetic_image(1, *size, seed=1)
    names = list(model.plan.program(*size).outputs)
    assert set(names) >= {"stem/act", "blocks_0/output", "head/pool", "logits"}
    found = dict(zip(names, model.plan.run(pixels[0], names), strict=True))
    for name, expected in model.layers(pixels):
        if name in found:
            assert_equal(found.pop(name), expected[0], tolerance=1e-4)
    assert not found


@pytest.mark.parametrize("variant", [*VARIANTS, "tiny"])
def test_a_batch_equals_its_images_and_sizes_may_alternate(models, variant):
    """Scratch memory is shared by layers, images and sizes: nothing of one may show in another."""
    model = models[variant]
    batch, other = synthetic_image(5, 64, 48, seed=2), synthetic_image(1, 33, 47, seed=3)
    first, small = model(batch), model(other)
    for image, logits in zip(batch, first, strict=True):
        model(other[:, ::-1])
        assert np.array_equal(model(image[None])[0], logits)
    expected = dict(model.layers(batch))["logits"]
    assert_equal(first, expected, tolerance=1e-4)
    assert np.array_equal(model(other), small)


def test_the_order_of_the_tensors_does_not_matter(models):
    model, pixels = models["tiny"], synthetic_image(1, 40, 40)
    backwards = Model(TINY, dict(reversed(model.tensors.items())))
    assert np.array_equal(backwards(pixels), model(pixels))


def test_threads_may_share_a_model(models):
    from concurrent.futures import ThreadPoolExecutor

    model, batch = models["tiny"], synthetic_image(24, 40, 40, seed=4)
    expected = model(batch)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: model(image[None])[0], batch))
    assert np.array_equal(np.stack(found), expected)


def test_a_large_batch_needs_no_more_scratch_than_an_image(models):
    import tracemalloc

    model = models["tiny"]
    peaks = []
    for n in (1, 64):
        batch = synthetic_image(1, 64, 64).repeat(n, axis=0)
        model(batch[:1])
        tracemalloc.start()
        model(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 64 * TINY.classes * 4
