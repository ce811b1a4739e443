"""Write the tensors under timm's names, as .safetensors or .npz."""

import json
from pathlib import Path

import numpy as np

from tinymixnet.engine.weights import Weights
from weights_tools.exporters.notes import file_notes
from weights_tools.formats.safetensors import write_safetensors
from weights_tools.timm_names import timm_sources


def timm_state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """Return the tensors as timm's tf_mixnet has them: its names, PyTorch's order of axes."""
    sources = timm_sources(weights.architecture)
    return {
        theirs: np.ascontiguousarray(weights.tensors[ours].transpose(np.argsort(axes)))
        for ours, (theirs, axes) in sources.items()
    }


def timm_notes(weights: Weights) -> dict[str, str]:
    """Return the notes of a .safetensors file: what timm's own config says, and all of ours."""
    architecture, metadata = weights.architecture, weights.metadata
    size, classes = metadata.input_size, architecture.classes
    name = f"tf_{architecture.variant.replace('-', '_')}"
    config = {
        "architecture": name,
        "num_classes": classes,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": [value / 255 for value in metadata.mean],  # timm counts colours from 0 to 1
            "std": [value / 255 for value in metadata.std],
            "num_classes": classes,
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": metadata.licence,
        },
    }
    notes = {"format": "pt", "architecture": name, "config": json.dumps(config)}
    return notes | file_notes(weights)


def export_safetensors(weights: Weights, output: Path) -> None:
    write_safetensors(output, timm_state_dict(weights), timm_notes(weights))


def export_npz(weights: Weights, output: Path) -> None:
    with output.open("wb") as file:  # given a path, savez would add .npz to it
        np.savez(file, **timm_state_dict(weights))  # type: ignore[arg-type]
