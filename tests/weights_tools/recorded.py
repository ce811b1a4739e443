"""The tiny network for the tests of the recorders: what is fed to it, and what must come out."""

import importlib
import os

import numpy as np
import pytest

from benchmarks.side_onnx import onnx_model
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.dumps import open_dump
from tinymixnet.engine.kernels import normalize
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.network import forward
from tinymixnet.engine.weights import Weights

ABOUT = Metadata()
TENSORS = synthetic_tensors(TINY)
PIXELS = synthetic_image(2, 64, 96).astype(np.float32)  # sides that tell NHWC from NCHW
NORMALISED = normalize(PIXELS, ABOUT.mean, ABOUT.std)
OURS = dict(forward(PIXELS, TINY, TENSORS, ABOUT))


def needed(name):
    """A package that a recorder takes: CI has them all, elsewhere one may be missing."""
    return importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)


def assert_same(path, least, names=None):
    """Every layer that finds a place equals ours; at least so many do, and they are these."""
    dump = open_dump(path, TINY, *PIXELS.shape[:3], names)
    assert not dump.mismatched
    errors = {
        name: np.abs(dump[name] - OURS[name]).max() / np.abs(OURS[name]).max()
        for name in dump.names
    }
    assert {name: error for name, error in errors.items() if not error < 1e-4} == {}
    assert set(dump.names) >= set(least)
    return dump


def layers(*kinds):
    """Our layers whose last parts are these."""
    return {name for name in OURS if name.rsplit("/")[-1] in kinds}


def left_behind(folder):
    return sorted(p.name for p in folder.iterdir())


def to_nchw(x):
    return x.transpose(0, 3, 1, 2).copy()


def write_onnx(path):
    """Write the tiny network as PyTorch exports it: normalised pixels, NCHW, batch norm folded."""
    needed("onnxruntime")
    onnx = needed("onnx")
    model = onnx.load_from_string(onnx_model(Weights(TINY, TENSORS, ABOUT), PIXELS.shape))
    centring, scaling = model.graph.node[:2]
    del model.graph.node[:2]  # it takes what is normalised already, as PyTorch's models do
    names = {scaling.output[0]: "image"}  # and has names as PyTorch's exporter makes them
    for i, node in enumerate(model.graph.node):
        names |= {old: f"/m.{i}/{node.op_type}_output_{j}" for j, old in enumerate(node.output)}
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    model.graph.output[0].name = names[model.graph.output[0].name]
    onnx.save(model, path)
    return path
