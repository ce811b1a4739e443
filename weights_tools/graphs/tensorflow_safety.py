"""Refuse TensorFlow graphs that would do more than compute, before anything of them is run.

A TensorFlow graph is a program. It may write files, call Python, or fill tensors of any size, and a
SavedModel can do so while it is loaded. A network needs none of this.
"""

import math
import os
import stat
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError

# TensorFlow itself tells which operations have effects outside the graph, but not that these have.
OUTSIDE = (
    "ReadFile", "MatchingFiles", "ImmutableConst", "DecodeProtoV2", "EncodeProto", "XlaCustomCall",
    "XlaCustomCallV2", "GenerateVocabRemapping", "InitializeTableFromTextFile", "PyFuncStateless",
    "CacheDataset", "SnapshotDataset", "SnapshotDatasetV2", "SnapshotDatasetReader",
    "SnapshotChunkDataset", "RegisterDataset", "RegisterDatasetV2", "DebugIdentity",
    "DebugNanCount", "DebugNumericSummary",
)  # fmt: skip
VARIABLES = (
    "VarHandleOp", "ReadVariableOp", "AssignVariableOp", "VarIsInitializedOp", "DisableCopyOnRead",
    "Variable", "VariableV2", "IsVariableInitialized", "DestroyResourceOp", "Assert",
    "StatefulPartitionedCall", "RandomUniform", "RandomUniformInt", "RandomStandardNormal",
    "TruncatedNormal", "Multinomial",
)  # fmt: skip
WRITING = ("SaveV2", "MergeV2Checkpoints")
SAVING = (*WRITING, "RestoreV2")  # what a SavedModel has for its variables
SAVES = "refused, it would save files when it is loaded"


def check_graph(definition: Any, saved: bool = False) -> None:
    """Raise CheckpointError for a GraphDef with operations that no network needs.

    saved: it is that of a SavedModel, which can also save its variables.
    """
    registry = import_module("tensorflow.python.framework.op_def_registry")
    nodes = _all_nodes(definition)
    for operation in sorted({node.op for node in nodes} - {*VARIABLES, *(SAVING if saved else ())}):
        known = registry.get(operation)
        if operation in OUTSIDE or (known is not None and known.is_stateful):
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


def check_files(folder: Path) -> None:
    """Raise CheckpointError for a SavedModel's folder that leads elsewhere or that is too large.

    TensorFlow opens what it finds: it would wait for ever for a pipe, and follow any link.
    """
    size = 0
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                what = "a link" if path.is_symlink() else "neither a file nor a folder"
                raise CheckpointError(
                    f"{path.relative_to(folder)}: refused, {what}; expected plain files in plain "
                    "folders, as `cp -rL` makes them"
                )
            size += status.st_size
    budget.check("weights_file_bytes", size, "the folder")


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
        if not objects:  # of TensorFlow 1, which runs some parts of the graph
            _check_run_on_loading(meta)


def _all_nodes(definition: Any) -> list[Any]:
    functions = definition.library.function
    return [*definition.node, *(node for function in functions for node in function.node_def)]


def _check_run_on_loading(meta: Any) -> None:
    """Raise if anything that TensorFlow 1 runs on loading, or what that needs, saves something.

    It runs what restores the variables, and the first operations, which the file names in a
    signature or in one of several collections. So no operation of any collection may save. A
    function may not either: it is called in many ways.
    """
    functions = (node for item in meta.graph_def.library.function for node in item.node_def)
    if any(node.op in WRITING for node in functions):
        raise CheckpointError(SAVES)
    nodes = {node.name: node for node in meta.graph_def.node}
    init = meta.signature_def["__saved_model_init_op"].outputs.values()
    waiting = [meta.saver_def.restore_op_name, *(output.name for output in init)]
    variables = import_module("tensorflow.core.framework.variable_pb2")
    for name, collection in meta.collection_def.items():
        if name == "savers":  # for saving only
            continue
        waiting += collection.node_list.value
        for content in collection.bytes_list.value:
            with suppress(Exception):  # a description of something else
                variable = variables.VariableDef.FromString(content)
                waiting += [variable.initializer_name, variable.initial_value_name]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            waiting += nodes[name].input
            if nodes[name].op in (*WRITING, "StatefulPartitionedCall"):
                raise CheckpointError(SAVES)
