"""Carry our metadata in a file of another framework, so that nothing is lost on the way back.

No other format has a place for the names of the classes or for the way in which a photo is
prepared. Where a format allows notes, all of `Metadata` stands in one of them, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tinymixnet.debug.strict_json import read_json
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.errors import CheckpointError, TinyMixNetError
from weights_tools.formats.labels import check_labels

NOTE = "tinymixnet"


def file_notes(weights: Weights) -> dict[str, str]:
    """Return the note with our metadata, as {name: text}."""
    metadata = weights.metadata
    entries = {field.name: getattr(metadata, field.name) for field in fields(metadata)}
    entries["preset_parameters"] = dict(metadata.preset_parameters)
    return {NOTE: json.dumps(entries)}


def read_notes(notes: Mapping[str, str], classes: int) -> dict[str, Any]:
    """Return the fields of `Metadata` that the notes of a file know.

    Our own export writes all of them. Other makers may list the classes, with commas between them.
    Raises CheckpointError.
    """
    known: dict[str, Any] = {}
    name = NOTE if NOTE in notes else "classes"
    try:
        if NOTE in notes:
            entries = read_json(notes[NOTE].encode())
            for field in fields(Metadata):
                value = entries.get(field.name)
                if value is not None:
                    known[field.name] = tuple(value) if isinstance(value, list) else value
        else:
            labels = tuple(notes.get(name, "").split(","))
            if len(labels) == classes and all(labels):
                known["labels"] = labels
        if known.get("labels"):
            check_labels(map(str, known["labels"]), classes)
    except AttributeError:
        raise CheckpointError(f"its note `{name}`: no JSON object") from None
    except (TinyMixNetError, ValueError) as error:
        raise CheckpointError(f"its note `{name}`: {error}") from None
    return known
