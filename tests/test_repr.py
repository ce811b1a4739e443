"""What Python shows of a public object: a line that says what it is, never its arrays."""

import json
import struct
from pathlib import Path

import numpy as np

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.compare import compare
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import record
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.model import Model
from weights_tools.formats.safetensors import open_safetensors


def test_weights_model_and_plan() -> None:
    weights = Weights(TINY, synthetic_tensors(TINY), Metadata())
    counts = f"{TINY.classes} classes"
    assert repr(weights) == f"Weights({TINY.variant}, {counts}, {len(weights.tensors)} tensors)"
    model = Model(*weights)
    assert repr(model).startswith(f"Model({TINY.variant}, {counts}, 224 px, ")
    assert repr(model.plan) == f"Plan({TINY.variant}, compiled for no size)"
    model(synthetic_image(1, 32, 48))
    assert repr(model.plan) == f"Plan({TINY.variant}, compiled for 32 x 48 px)"


def test_trace_dump_and_comparison(tmp_path: Path) -> None:
    model, pixels = Model(TINY, synthetic_tensors(TINY)), synthetic_image(1, 32, 48)
    layers = record(model, pixels, tmp_path / "ours", ["stem/*", "logits"])
    dump = open_dump(tmp_path / "ours", TINY, 1, 32, 48)
    assert repr(dump.trace) == f"Trace({tmp_path / 'ours'}, tinymixnet trace, {layers} layers)"
    every = len(dump.expected)
    assert (
        repr(dump) == f"Dump({tmp_path / 'ours'}, {layers} of {every} layers, names of canonical)"
    )
    alike = compare(model.layers(pixels), dump)
    assert repr(alike) == f"Comparison({layers} layers, alike)"
    other = compare(model.layers(255 - pixels), dump)
    assert repr(other) == f"Comparison({layers} layers, first difference in stem/conv)"


def test_foreign_dump_whose_name_could_change_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m.npz"
    np.savez(path, logits=np.zeros((1, TINY.classes), np.float32))
    dump = open_dump(path, TINY, 1, 32, 48)
    assert "foreign dump, 1 layers" in repr(dump.trace)
    assert repr(dump).isprintable()


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert repr(open_safetensors(path)) == f"Safetensors({str(path)!r}, 1 tensors)"
