"""Refuse TensorFlow graphs that would do more than compute, before anything of them is run.

A TensorFlow graph is a program. It may write files, call Python, or fill tensors of any size, and a
SavedModel can do so while it is loaded. A network needs none of this.
"""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError

# Without these two, TensorFlow itself tells which operations have effects outside the graph.
READING = ("ReadFile", "MatchingFiles", "PyFuncStateless", "DebugIdentity")
VARIABLES = (
    "VarHandleOp", "ReadVariableOp", "AssignVariableOp", "VarIsInitializedOp", "DisableCopyOnRead",
    "Variable", "VariableV2", "IsVariableInitialized", "DestroyResourceOp", "Assert",
    "StatefulPartitionedCall", "RandomUniform", "RandomUniformInt", "RandomStandardNormal",
    "TruncatedNormal", "Multinomial",
)  # fmt: skip
SAVING = ("SaveV2", "RestoreV2", "MergeV2Checkpoints")  # what a SavedModel has for its variables


def check_graph(definition: Any, saved: bool = False) -> None:
    """Raise CheckpointError for a GraphDef with operations that no network needs.

    saved: it is that of a SavedModel, which can also save its variables.
    """
    registry = import_module("tensorflow.python.framework.op_def_registry")
    nodes = _all_nodes(definition)
    for operation in sorted({node.op for node in nodes} - {*VARIABLES, *(SAVING if saved else ())}):
        known = registry.get(operation)
        if operation in READING or (known is not None and known.is_stateful):
            raise CheckpointError(
                f"refused, it has the operation {operation[:60]}, which a network does not need"
            )
    types = import_module("tensorflow.dtypes")
    size = 0
    for node in nodes:
        if node.op == "Const":  # one number may stand for all of them
            tensor = node.attr["value"].tensor
            count = math.prod(max(side.size, 0) for side in tensor.tensor_shape.dim)
            size += count * max(types.as_dtype(tensor.dtype).size, 1)
            budget.check("weights_file_bytes", size, "the graph")


def check_saved_model(content: bytes) -> None:
    """Raise CheckpointError for a saved_model.pb that would run code of its own when it is loaded.

    TensorFlow then initialises its resources, and restores its variables as the file says.
    """
    messages = import_module("tensorflow.core.protobuf.saved_model_pb2")
    for meta in messages.SavedModel.FromString(content).meta_graphs:
        check_graph(meta.graph_def, saved=True)
        objects = meta.object_graph_def.nodes
        if any(item.WhichOneof("kind") == "resource" or item.saveable_objects for item in objects):
            raise CheckpointError("refused, it would run code of its own when it is loaded")
        if not objects:  # of TensorFlow 1, which runs two parts of the graph
            init = meta.signature_def["__saved_model_init_op"].outputs.values()
            first = [meta.saver_def.restore_op_name, *(output.name for output in init)]
            _check_run_on_loading(meta.graph_def, first)


def _all_nodes(definition: Any) -> list[Any]:
    functions = definition.library.function
    return [*definition.node, *(node for function in functions for node in function.node_def)]


def _check_run_on_loading(definition: Any, first: Iterable[str]) -> None:
    """Raise if one of these operations, or any that it needs, saves something."""
    nodes = {node.name: node for node in definition.node}
    waiting = [*first]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            waiting += nodes[name].input
            if nodes[name].op in ("SaveV2", "MergeV2Checkpoints", "StatefulPartitionedCall"):
                raise CheckpointError("refused, it would save files when it is loaded")
