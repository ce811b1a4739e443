"""Refuse Keras files that ask for more than a network needs, before Keras opens them.

Keras reads a whole array before it compares its shape, follows what the file says to other places,
and builds any number of layers. So the file is looked through here first.
"""

import json
import tempfile
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import h5py

from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.hdf5_structure import OF_A_TYPE
from tinymixnet.errors import CheckpointError
from weights_tools.formats.kinds import starts_as_zip
from weights_tools.formats.zip_members import open_stored

LARGEST_DESCRIPTION = 16 << 20  # bytes; MixNet-L's has 400,000
MOST_LAYERS = 5_000  # the time that Keras takes grows with their square; MixNet-L has 421
MOST_MEMBERS = 1_000  # Keras writes three
WIDEST = 1 << 14  # the largest number in a description; MixNet's has 1,536
NO_SIZES = ("shared_object_id", "seed")  # numbers in it that may be as large as they like
BFLOAT16 = "|V2"  # as Keras stores these numbers
DESCRIPTION, WEIGHTS = "config.json", "model.weights.h5"  # the members of a .keras that we need


def check_keras_file(path: Path) -> None:
    """Raise CheckpointError or TinyMixNetError unless a .keras or .h5 file is fit for Keras."""
    budget.check("weights_file_bytes", path.stat().st_size, "the file")
    if starts_as_zip(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:  # Keras unpacks them all to a temporary folder
                raise CheckpointError(f"{len(members):,} members, at most {MOST_MEMBERS:,}")
            size = sum(info.file_size for info in members)
            budget.check("weights_file_bytes", size, "what is packed in the file")
            with open_stored(archive, DESCRIPTION, LARGEST_DESCRIPTION) as member:
                text = member.read()
            with (
                open_stored(archive, WEIGHTS, budget.weights_file_bytes) as member,
                tempfile.NamedTemporaryFile(suffix=".h5") as copy,
            ):
                while piece := member.read(1 << 20):
                    copy.write(piece)
                copy.flush()
                _check_arrays(Path(copy.name))
    else:
        if not h5py.is_hdf5(path):
            raise CheckpointError("neither a zip (.keras) nor HDF5 (.h5) inside: not of Keras")
        _check_arrays(path)
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config", "{}")
        if not isinstance(text, (str, bytes)) or len(text) > LARGEST_DESCRIPTION:
            raise CheckpointError(
                "refused, its model_config is no text of at most "
                f"{LARGEST_DESCRIPTION:,} bytes: {str(text)[:40]!r}"
            )
    _check_description(json.loads(text))


def _check_arrays(path: Path) -> None:
    """Raise for an HDF5 file that leads to other files or in circles, or that has huge arrays."""
    structure = Hdf5File(path, isolated=True).structure
    problems = [text for text in structure.problems if not text.startswith("attribute ")]
    problems += [
        f"{name}: {item.problem}"
        for name, item in structure.datasets.items()
        if item.problem and not item.problem.startswith(f"{OF_A_TYPE} {BFLOAT16}")
    ]
    if problems:
        raise CheckpointError(problems[0])
    numbers = sum(prod(dataset.shape) for dataset in structure.datasets.values())
    budget.check("network_numbers", numbers, "all arrays together")


def _check_description(description: Any) -> None:
    waiting, layers = [description], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [item for key, item in value.items() if key not in NO_SIZES]
            listed = value.get("layers")
            layers += len(listed) if isinstance(listed, list) else 0
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value > WIDEST:
            raise CheckpointError(f"refused, its description has the size {str(value)[:40]}")
    if layers > MOST_LAYERS:
        raise CheckpointError(
            f"refused, its description has {layers:,} layers, at most {MOST_LAYERS:,} are allowed"
        )
