"""convert and inspect: the original TensorFlow 1 graph with its variables frozen into a .pb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import TINY
from tests.support.tensorflow_reference import EPSILON, MEAN, STD, Network, _Run, blocks
from tests.weights_tools import foreign
from tests.weights_tools.foreign import METADATA, WEIGHTS, assert_equal, distance, logits, needed
from tinymixnet.engine.weights import Weights
from weights_tools.convert import convert
from weights_tools.extract import canonical_place
from weights_tools.graphs.from_tensorflow import graph_def
from weights_tools.inspect_file import inspect

known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)
TABLE = blocks(Network(TINY.block_strings, TINY.stem_filters, TINY.head_filters, None, 6))


def original_name(name: str, number: int) -> str:
    """The name that the original graph gives a variable; the number counts over all of it."""
    where = canonical_place(name)
    return f"mixnet-t/mixnet_model/{where.scope}/{where.kind}_{number}/{where.tensor}"


class OriginalRun(_Run):
    """The operations of the original: a fused batch norm, and swish of two operations."""

    def norm(self, scope: str, x: Any) -> Any:
        gamma, beta, mean, variance = (
            self.weights[f"{scope}/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        with self.tf.name_scope(f"mixnet-t/{scope}"):
            y, _, _ = self.tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, self.epsilon, is_training=False
            )
        return y

    def swish(self, x: Any) -> Any:
        return x * self.tf.sigmoid(x)

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        shape = [1, 1, 3]
        image = image - self.tf.constant(mean, shape=shape)
        return self.tf.math.truediv(image, self.tf.constant(std, shape=shape), name="truediv")

    def answer(self, x: Any) -> Any:
        product = self.tf.matmul(x, self.weights["logits/kernel"])
        return self.tf.nn.bias_add(product, self.weights["logits/bias"])


def frozen(path: Path, size: int | None = 64, references: bool = True) -> Path:
    """The graph as TensorFlow 1 freezes it. references: variables of the old kind."""
    tf = needed("tensorflow")
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, size, size, 3], name="images")
        variables = {}
        for number, (name, value) in enumerate(WEIGHTS.tensors.items()):
            variables[name] = v1.get_variable(
                original_name(name, number),
                initializer=value,
                use_resource=not references,
            )
        run = OriginalRun(tf, variables, EPSILON)
        layers = run.network(TABLE, image, np.float32(MEAN), np.float32(STD))
        tf.identity(layers["logits"], "logits")
        tf.argmax(layers["logits"], axis=1, name="classes")
        tf.identity(layers["probabilities"], "probabilities")
        session.run(v1.global_variables_initializer())
        outputs = ["logits", "classes", "probabilities"]
        definition = v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), outputs
        )
    path.write_bytes(definition.SerializeToString())
    return path


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.parametrize("size", [64, None])
def test_the_original_graph(size: int | None, references: bool, tmp_path: Path) -> None:
    path = frozen(tmp_path / "model.pb", size, references)
    kinds = {node.op for node in graph_def(needed("tensorflow"), path).node}
    assert {"FusedBatchNormV3", "SplitV", "ConcatV2", "RealDiv", "BiasAdd"} <= kinds
    weights = convert(path, tmp_path / "out.h5", check=True)
    assert_equal(weights, WEIGHTS)
    assert not weights.metadata.folded
    assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-6)
    assert weights.metadata.epsilon == METADATA.epsilon
    assert weights.metadata.input_size == (size or 224)
    found = inspect(path)
    assert (found["network"], found["missing"], found["surplus"]) == ("tiny", [], [])
    assert "normalises inside; its input is RGB, 0..255" in found["notes"]["preprocessing"]
    assert any("mixnet_model/blocks_3/se/conv2d" in row["name"] for row in found["tensors"])


def test_the_answers_of_the_original_graph(tmp_path: Path) -> None:
    """They are those of the network that was frozen."""
    tf, path = needed("tensorflow"), frozen(tmp_path / "model.pb")
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def(tf, path), name="")
        answer = session.run("logits:0", {"images:0": foreign.PIXELS})
    weights = convert(path, tmp_path / "out.h5")
    assert isinstance(weights, Weights)
    assert distance(logits(weights), answer) < foreign.CLOSE
