"""From the weights of any framework to a weights file of ours."""

import os
from typing import Any

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import CheckpointError, printable
from weights_tools.assemble import check_weights_output, content_hash_of, find_labels
from weights_tools.check_original import check_original
from weights_tools.sources import read_source


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    variant: str | None = None,
    float16: bool = False,
    labels: str | os.PathLike[str] | None = None,
    check: bool = False,
    **metadata: Any,
) -> Weights:
    """Write the weights file of a model of another framework and return what is in it.

    source: a file or folder as `formats.kinds.kind_of` knows them; its content tells which it is.
    labels is a text file, one a line, or a table (.tsv) as `formats.labels.read_classes` takes it;
    without it the notes in the file count. metadata replaces fields of `Metadata`. Tensors of any
    numeric type become float32. check: run the original in its own framework first, and write
    nothing if its answers are others than ours.

    Raises CheckpointError for a file that cannot be read or holds no MixNet, and InputError for an
    output that would overwrite something else.
    """
    path = as_path(source)
    check_weights_output(output, inputs=[source, labels])
    found = read_source(path, variant)
    fields = {
        "preset": "timm",
        **found.fields,
        **find_labels(labels, found.architecture.classes, found.fields),
        "name": found.fields.get("name") or path.stem,
        "source": path.resolve().name,
        "source_sha256": content_hash_of(path),
        "folded": found.folded,
        **metadata,
    }
    if found.only_size and fields["input_size"] != found.only_size:
        raise CheckpointError(
            f"{path}: pads both sides alike where the stride is 2, which is right only for the "
            f"{found.only_size} pixels a side of its input, not for {fields['input_size']}"
        )
    weights = Weights(found.architecture, found.tensors, Metadata(**fields))
    for remark in found.remarks:
        print(printable(f"{path}: {remark}"))
    if check:
        found_out = check_original(path, found, weights)
        if found_out.difference > found_out.largest:
            raise CheckpointError(
                f"{path}: its own framework gives other answers than the converted weights "
                f"(largest difference at the logits {found_out.difference:.1e}, at most "
                f"{found_out.largest:g}); nothing is written"
            )
        print(printable(f"{path}: {found_out.sentence}"))
    write_weights(output, weights, float16)
    return weights
