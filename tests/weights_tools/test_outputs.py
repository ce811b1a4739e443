"""Every command that writes: nothing is overwritten that the same command did not write."""

import os

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_tensors
from tests.weights_tools.test_extract import official_names
from tinymixnet.cli import run
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.weights import read_weights
from weights_tools.__main__ import parser
from weights_tools.extract import AVERAGE
from weights_tools.formats.checkpoint_writer import write_checkpoint

numpy_files = pytest.importorskip("safetensors.numpy")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A small network among the known ones, so that the files are small too."""
    monkeypatch.setitem(VARIANTS, "tiny", (TINY.block_strings, TINY.stem_filters, 1.0))
    return mixnet("tiny", classes=7)


@pytest.fixture
def inputs(tmp_path, tiny):
    """What the commands read, in a folder of its own."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    tensors = synthetic_tensors(tiny)
    names = official_names(tensors)
    variables = {names[n] + end: t for n, t in tensors.items() for end in ("", AVERAGE)}
    write_checkpoint(folder / "model.ckpt", variables)
    numpy_files.save_file({"x": np.ones(2, np.float32)}, folder / "model.safetensors")
    (folder / "labels.txt").write_text("\n".join("abcdefg"))
    np.save(folder / "input.npy", np.ones((1, 2), np.float32))
    (folder / "model.onnx").write_bytes(b"a model")
    return folder


COMMANDS = {
    "extract": ["extract", "model.ckpt", "--labels", "labels.txt"],
    "convert": ["convert", "model.safetensors", "--labels", "labels.txt"],
    "record": ["record", "model.onnx", "input.npy"],
}


def contents(folder):
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def call(inputs, command, output):
    name, *arguments = COMMANDS[command]
    paths = [a if a.startswith("--") else str(inputs / a) for a in arguments]
    return run(parser(), [name, *paths, "-o", str(output)])


def assert_refused(inputs, command, output, capsys):
    before, names = contents(inputs.parent), sorted(inputs.parent.rglob("*"))
    assert call(inputs, command, output) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert contents(inputs.parent) == before
    assert sorted(inputs.parent.rglob("*")) == names
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_inputs_and_files_of_others_stay(tmp_path, inputs, command, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "other.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    os.link(inputs / "model.safetensors", tmp_path / "second name.h5")
    for output in [*inputs.iterdir(), *(p for p in tmp_path.iterdir() if p.is_file())]:
        assert_refused(inputs, command, output, capsys)
    assert_refused(inputs, command, inputs, capsys)
    assert_refused(inputs, command, tmp_path / "no" / "folder.h5", capsys)


@pytest.mark.parametrize("command", ["extract", "convert"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_links_pipes_and_devices_stay(tmp_path, inputs, command, capsys):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "dangling.h5").symlink_to(tmp_path / "nowhere.h5")
    (tmp_path / "link.h5").symlink_to(inputs / "model.safetensors")
    for name in ("pipe.h5", "dangling.h5", "link.h5"):
        said = assert_refused(inputs, command, tmp_path / name, capsys)
        assert name in said
    assert_refused(inputs, command, "/dev/null", capsys)
    assert (tmp_path / "dangling.h5").is_symlink()


def test_earlier_output_is_replaced(tmp_path, inputs, capsys):
    out = tmp_path / "out.h5"
    out.touch()  # an empty file loses nothing
    assert call(inputs, "extract", out) == 0
    labels = read_weights(out).metadata.labels
    assert labels == tuple("abcdefg")
    (inputs / "labels.txt").write_text("\n".join("tuvwxyz"))
    assert call(inputs, "extract", out) == 0
    assert read_weights(out).metadata.labels == tuple("tuvwxyz")


def test_nothing_half_written_is_left(tmp_path, inputs, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert "No space left" in assert_refused(inputs, "extract", tmp_path / "out.h5", capsys)
