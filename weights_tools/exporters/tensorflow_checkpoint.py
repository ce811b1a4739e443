"""Write a checkpoint of the original TensorFlow graph, with the names of its variables."""

from collections import Counter
from pathlib import Path

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.weights import Weights
from weights_tools.extract import AVERAGE, canonical_place
from weights_tools.formats.checkpoint_writer import write_checkpoint

STATE = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'


def variable_names(architecture: Architecture) -> dict[str, str]:
    """Return the original graph's name of each of our tensors.

    TensorFlow numbers the convolutions over the whole graph: conv2d, conv2d_1, ... The original
    makes those of the blocks first, then those of stem and head. Batch norms stand outside the
    scope `mixnet_model`, and are numbered in each block anew.
    """
    names: dict[str, str] = {}
    numbers: Counter[str] = Counter()  # how many layers of a kind have a number
    layers: dict[str, str] = {}  # our kernel or batch norm -> its kind with its number
    shapes = architecture.tensor_shapes()
    for ours in sorted(shapes, key=lambda name: not name.startswith("blocks_")):
        scope, kind, tensor = canonical_place(ours)
        norm = kind == "batch_normalization"
        layer = ours.rpartition("/")[0] if norm else ours.replace("/bias", "/kernel")
        if layer not in layers:
            counted = f"{scope}/{kind}" if norm else kind
            layers[layer] = f"{kind}_{numbers[counted]}" if numbers[counted] else kind
            numbers[counted] += 1
        part = "" if norm else "mixnet_model/"
        names[ours] = f"{architecture.variant}/{part}{scope}/{layers[layer]}/{tensor}"
    return names


def export_checkpoint(weights: Weights, folder: Path) -> None:
    """Write the files of a checkpoint into a folder, as the official archives hold them."""
    names = variable_names(weights.architecture)
    tensors = {names[ours]: tensor for ours, tensor in weights.tensors.items()}
    if weights.metadata.averages:  # the original's evaluation restores these names
        tensors |= {name + AVERAGE: tensor for name, tensor in tensors.items()}
    tensors["global_step"] = np.array(0, np.int64)
    write_checkpoint(folder / "model.ckpt", tensors)
    (folder / "checkpoint").write_text(STATE)
