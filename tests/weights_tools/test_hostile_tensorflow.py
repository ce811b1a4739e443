"""convert, inspect, record: TensorFlow graphs and SavedModels that would do more than compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.weights_tools.foreign import needed, reading_commands
from tinymixnet.errors import CheckpointError, TinyMixNetError
from weights_tools.convert import convert


def test_one_number_that_fills_a_constant(tmp_path: Path) -> None:
    tf = needed("tensorflow")
    definition = tf.compat.v1.GraphDef()
    tensor = definition.node.add(name="a", op="Const").attr["value"].tensor
    tensor.dtype = 1
    tensor.float_val.append(1.0)
    tensor.tensor_shape.dim.add(size=1 << 30)
    (tmp_path / "model.pb").write_bytes(definition.SerializeToString())
    with pytest.raises(CheckpointError, match="the graph asks for"):
        convert(tmp_path / "model.pb", tmp_path / "out.h5")


@pytest.mark.parametrize(
    "operation",
    ["WriteFile", "PrintV2", "ReadFile", "EagerPyFunc", "ImmutableConst", "DecodeProtoV2"],
)
def test_a_frozen_graph_that_leaves_the_graph(operation: str, tmp_path: Path) -> None:
    tf = needed("tensorflow")
    definition = tf.compat.v1.GraphDef()
    definition.library.function.add().node_def.add(name="a", op=operation)
    (tmp_path / "model.pb").write_bytes(definition.SerializeToString())
    with pytest.raises(CheckpointError, match=f"refused, it has the operation {operation}"):
        convert(tmp_path / "model.pb", tmp_path / "out.h5")


def saved_with_resource(folder: Path, run: Callable[[], None]) -> Path:
    """A SavedModel with a resource, which TensorFlow initialises when it loads the model."""
    tf = needed("tensorflow")

    class Resource(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

        def _initialize(self) -> None:
            run()

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.resource = Resource()

        @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3], tf.float32)])
        def __call__(self, x: Any) -> Any:
            self.resource.resource_handle  # noqa: B018  (so that it is saved)
            return x

    module = Module()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder


@pytest.mark.parametrize("writes", [True, False])
def test_a_saved_model_that_runs_code_when_it_is_loaded(writes: bool, tmp_path: Path) -> None:
    tf, victim = needed("tensorflow"), tmp_path / "victim"

    def run() -> None:
        if writes:
            tf.io.write_file(str(victim), "harm")
        else:
            tf.raw_ops.SaveV2(
                prefix=str(victim), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros(3)]
            )

    path = saved_with_resource(tmp_path / "saved", run)
    for file in tmp_path.glob("victim*"):  # written when the model was made
        file.unlink()
    for command in reading_commands(path):
        with pytest.raises(TinyMixNetError, match="refused, it"):
            command()
    assert [item.name for item in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("by", ["main_op", "table_initializer", "function", "local variable"])
def test_a_saved_model_of_tensorflow_1_that_saves_when_it_is_loaded(
    by: str, tmp_path: Path
) -> None:
    """The first operations may be named in several places, and one may save in its function."""
    victim = tmp_path / "victim"
    path = saved_by_tensorflow_1(tmp_path / "saved", victim, by)
    for command in reading_commands(path):
        with pytest.raises(TinyMixNetError, match="refused, it would save files when it is loaded"):
            command()
    assert [item.name for item in tmp_path.iterdir()] == ["saved"]


def test_a_saved_model_of_tensorflow_1_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It can save its variables, but not when it is loaded. What TensorFlow logs is dropped."""
    path = saved_by_tensorflow_1(tmp_path / "saved", tmp_path / "victim", "")
    (path / "fingerprint.pb").write_bytes(b"\xff" * 9)
    capfd.readouterr()
    with pytest.raises(CheckpointError, match="no convolution with constant weights"):
        convert(path, tmp_path / "out.h5")
    assert capfd.readouterr() == ("", "")


def saved_by_tensorflow_1(folder: Path, victim: Path, by: str) -> Path:
    """A SavedModel of TensorFlow 1, which writes a file when it is loaded unless `by` is empty."""
    tf = needed("tensorflow")
    v1, first = tf.compat.v1, None

    def save() -> Any:
        values = {"tensor_names": ["x"], "shape_and_slices": [""], "tensors": [tf.zeros(3)]}
        return tf.raw_ops.SaveV2(prefix=str(victim), **values)

    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [1, 8], "x")
        y = x * v1.get_variable("v", [], use_resource=True)
        if by == "main_op":
            first = save()
        elif by == "table_initializer":
            v1.add_to_collection(by, save())
        elif by == "function":
            function = tf.function(lambda: (save(), tf.constant(1.0))[1])
            first = function.get_concrete_function()().op
            library = graph.as_graph_def().library.function
            assert any(node.op == "SaveV2" for item in library for node in item.node_def)
        elif by:
            with tf.control_dependencies([save()]):
                start = tf.constant(1.0)
            v1.get_variable("w", initializer=start, collections=["local_variables"])
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            builder = v1.saved_model.Builder(str(folder))
            signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            builder.add_meta_graph_and_variables(
                session, ["serve"], {"serving_default": signature}, main_op=first
            )
            builder.save()
    return folder


@pytest.mark.parametrize("name", ["variables/variables.index", "debug/info.pb"])
@pytest.mark.parametrize("link", [True, False])
def test_a_saved_model_that_leads_elsewhere(name: str, link: bool, tmp_path: Path) -> None:
    """TensorFlow would wait for ever for the pipe."""
    needed("tensorflow")
    path = tmp_path / "saved" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "saved" / "saved_model.pb").touch()
    path.symlink_to("/etc/passwd") if link else os.mkfifo(path)
    what = "a link" if link else "neither a file nor a folder"
    with pytest.raises(CheckpointError, match=f"{name}: refused, {what}"):
        convert(tmp_path / "saved", tmp_path / "out.h5")
