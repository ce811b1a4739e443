"""The checkpoint reader against a writer of our own and against TensorFlow."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from tests.support.shared import SHARED
from tests.weights_tools.checkpoints import assert_fails, assert_same, read_all, same_folder
from tinymixnet.errors import CheckpointError
from weights_tools.formats import checkpoint as module
from weights_tools.formats import checkpoint_writer as writer
from weights_tools.formats.checkpoint import open_checkpoint
from weights_tools.formats.checkpoint_writer import (
    entry_message,
    write_checkpoint,
)
from weights_tools.formats.crc32c import masked_crc32c

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: not name.startswith("\0")
)
arrays = st.sampled_from(sorted(writer.DTYPES)).flatmap(
    lambda dtype: numpy_st.arrays(
        np.dtype(dtype), numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
)


@same_folder
@given(
    tensors=st.dictionaries(names, arrays, max_size=12),
    shards=st.integers(1, 3),
    block_size=st.integers(1, 200),
    restart_interval=st.integers(1, 5),
)
def test_reads_what_was_written(prefix, tensors, shards, block_size, restart_interval) -> None:
    sizes = {"block_size": block_size, "restart_interval": restart_interval}
    write_checkpoint(prefix, tensors, shards=shards, **sizes)
    assert_same(read_all(prefix), tensors)


@same_folder
@given(numpy_st.arrays(np.uint16, numpy_st.array_shapes(min_dims=0, min_side=0)))
def test_bfloat16_is_widened_exactly(prefix, halves) -> None:
    expected = np.asarray(halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    write_checkpoint(prefix, {"x": expected}, bfloat16=["x"])
    assert prefix.with_name("model.ckpt.data-00000-of-00001").read_bytes() == halves.tobytes()
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.variables["x"].dtype == "bfloat16"
        assert_same({"x": checkpoint.read("x")}, {"x": expected})


def test_lists_every_variable_with_its_place(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors, shards=2)
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.path == prefix
        assert sorted(checkpoint.variables) == sorted(tensors)
        for name, variable in checkpoint.variables.items():
            content = tensors[name].tobytes()
            assert variable.dtype == tensors[name].dtype.name
            assert variable.shape == tensors[name].shape
            assert variable.size == len(content)
            assert variable.crc == masked_crc32c(content)
            data = (prefix.parent / f"model.ckpt.data-0000{variable.shard}-of-00002").read_bytes()
            assert data[variable.offset :][: variable.size] == content


def test_arrays_are_new_and_writable(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        checkpoint.read("net/count")[:] = 7
        assert checkpoint.read("net/count").tolist() == [1, -2, 3]


def test_closed_checkpoint_says_so(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    checkpoint = open_checkpoint(prefix)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(CheckpointError, match="closed already"):
        checkpoint.read("net/count")


def test_data_that_vanishes_or_does_not_fit_into_memory(prefix, tensors, monkeypatch) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        os.truncate(f"{prefix}.data-00000-of-00001", 0)
        with pytest.raises(CheckpointError, match="the data file ends inside 'net/double'"):
            checkpoint.read("net/double")

    def no_memory(data: bytes) -> int:
        raise MemoryError

    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        monkeypatch.setattr(module, "masked_crc32c", no_memory)
        with pytest.raises(CheckpointError, match=r"cannot read 'net/double': MemoryError"):
            checkpoint.read("net/double")


def test_name_that_is_not_there(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="'nothing'"):
        checkpoint.read("nothing")


@pytest.mark.parametrize(
    ("number", "name"), [(writer.NUMBERS["string"], "string"), (99, "number 99")]
)
def test_other_types_are_listed_but_not_read(prefix, tensors, number, name) -> None:
    def edit(entries: dict[bytes, bytes]) -> None:
        entries[b"text"] = entry_message(number, ())

    write_checkpoint(prefix, tensors, edit=edit)
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.variables["text"].dtype == name
        assert checkpoint.read("net/count").tolist() == [1, -2, 3]
        with pytest.raises(CheckpointError, match=f"'text' is of type {name}; only"):
            checkpoint.read("text")


# -- real checkpoints and TensorFlow itself -------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow; in CI its absence is a failure, elsewhere a reason to skip."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("CI") != "true":
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    import tensorflow

    return tensorflow


FLOATS = np.arange(4, dtype=np.float32)


def tensorflow_reads(tf, prefix: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("variant", ["mixnet-s", "mixnet-l"])
def test_official_checkpoints_read_as_tensorflow_reads_them(tf, variant) -> None:
    folder = SHARED / "reference" / variant
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    assert_same(read_all(folder), tensorflow_reads(tf, folder / "model.ckpt"))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("block_size", [1, 4096])
def test_tensorflow_reads_what_the_writer_writes(tf, prefix, tensors, shards, block_size) -> None:
    write_checkpoint(prefix, tensors, shards=shards, block_size=block_size)
    assert_same(tensorflow_reads(tf, prefix), tensors)


def test_bfloat16_as_tensorflow_writes_and_reads_it(tf, prefix) -> None:
    x = np.array([1.0, -2.5, np.inf, 3e-39, 0.0078125], np.float32)
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    write_checkpoint(prefix, {"x": x}, bfloat16=["x"])
    assert_same({"x": tensorflow_reads(tf, prefix)["x"].astype(np.float32)}, {"x": x})
    tf.raw_ops.SaveV2(
        prefix=f"{prefix}-tf", tensor_names=["x"], shape_and_slices=[""],
        tensors=[tf.bitcast((x.view(np.uint32) >> 16).astype(np.uint16), tf.bfloat16)],
    )  # fmt: skip
    assert_same(read_all(f"{prefix}-tf"), {"x": x})


def test_reads_what_tensorflow_writes(tf, tmp_path, prefix, tensors) -> None:
    """All types, then so many variables that TensorFlow begins a second block, then shards."""
    many = {**tensors, **{f"net/layer_{n:05d}/kernel": np.float32(n) for n in range(12000)}}
    halves = [sorted(many)[0::2], sorted(many)[1::2]]
    for number, chosen in enumerate(halves):
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / f"part{number}"), tensor_names=chosen,
            shape_and_slices=[""] * len(chosen), tensors=[many[name] for name in chosen],
        )  # fmt: skip
        found = read_all(tmp_path / f"part{number}")
        assert_same(found, {name: np.asarray(many[name]) for name in chosen})
    parts = [str(tmp_path / f"part{number}") for number in range(2)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    index = (tmp_path / "model.ckpt.index").read_bytes()
    assert len(index) > 262144, "more than TensorFlow puts into one block"
    with open_checkpoint(prefix) as checkpoint:
        assert {variable.shard for variable in checkpoint.variables.values()} == {0, 1}
    assert_same(read_all(prefix), {name: np.asarray(array) for name, array in many.items()})


def test_object_graph_is_listed_as_a_string(tf, tmp_path) -> None:
    path = tf.train.Checkpoint(x=tf.Variable([1.0, 2.0])).write(str(tmp_path / "model.ckpt"))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.variables["_CHECKPOINTABLE_OBJECT_GRAPH"].dtype == "string"
        assert checkpoint.read("x/.ATTRIBUTES/VARIABLE_VALUE").tolist() == [1.0, 2.0]
        with pytest.raises(CheckpointError, match="of type string"):
            checkpoint.read("_CHECKPOINTABLE_OBJECT_GRAPH")


def test_tensorflows_partitioned_variable_is_refused(tf, prefix) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=["x", "x"], shape_and_slices=["4 0,2", "4 2,2"],
        tensors=[FLOATS[:2], FLOATS[2:]],
    )  # fmt: skip
    assert_fails(prefix, "partitioned")


def test_tensorflows_version_1_is_refused(tf, prefix) -> None:
    tf.raw_ops.Save(filename=str(prefix), tensor_names=["x"], data=[FLOATS])
    assert_fails(prefix, "version 1", "save it again")


def test_tensorflows_saved_model_is_refused(tf, tmp_path) -> None:
    tf.saved_model.save(tf.train.Checkpoint(x=tf.Variable(1.0)), str(tmp_path / "model"))
    assert_fails(tmp_path / "model", "SavedModel")
