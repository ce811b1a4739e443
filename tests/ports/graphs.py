"""The same network as files: ONNX by two exporters, simplified and optimised, and OpenVINO."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# What ONNX Runtime calls its levels of optimisation; all but the last are plain ONNX.
LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_LAYOUT", "ORT_ENABLE_ALL")


def export_onnx(module: nn.Module, example: np.ndarray, path: Path, new: bool) -> Path:
    """Export by PyTorch's new exporter (torch.export) or its old one (TorchScript)."""
    torch.onnx.export(
        module,
        (torch.from_numpy(example),),
        str(path),
        dynamo=new,
        input_names=["image"],
        output_names=["answer"],
        opset_version=18 if new else 13,
        **({"external_data": False} if new else {}),
    )
    return path


def simplify_onnx(source: Path, path: Path) -> Path:
    """Simplify with onnxsim, which folds constants and batch norm."""
    import onnx
    import onnxsim

    model, good = onnxsim.simplify(onnx.load(str(source)))
    if not good:
        raise RuntimeError("onnxsim's own check failed")
    onnx.save(model, str(path))
    return path


def optimise_onnx(source: Path, path: Path, level: str) -> Path:
    """Let ONNX Runtime optimise a graph and save it; one line for each node is left as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4  # it warns that such a file is for this machine only
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def convert_openvino(source: Any, path: Path, example: np.ndarray | None = None) -> Path:
    """Convert an ONNX file or a PyTorch module to OpenVINO's .xml and .bin, in float32."""
    import openvino

    if example is None:
        model = openvino.convert_model(str(source))
    else:
        model = openvino.convert_model(source, example_input=torch.from_numpy(example))
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path
