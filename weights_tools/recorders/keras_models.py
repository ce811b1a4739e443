"""Record the layers of a Keras model."""

from collections.abc import Sequence
from typing import Any

from tinymixnet.errors import TraceError
from weights_tools.recorders.recording import open_recording
from weights_tools.recorders.shared import ALL, StrPath


def record_keras(model: Any, inputs: Any, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a Keras model, functional or subclassed, and record the output of every layer in it.

    A layer inside another is called `outer/inner`; everything else is as in `record_torch`. Every
    call of a layer goes through one method of Keras, which is replaced during the run: do not run
    another model at the same time.
    """
    bases = {base.__name__: base for base in type(model).__mro__}
    base: Any = bases.get("Operation", bases.get("Layer"))  # of Keras 3, of earlier ones
    if base is None:
        raise TraceError(f"expected a Keras model, found a {type(model).__name__}")
    call = base.__call__
    inside: list[str] = []  # the names of the layers being called, the model's own first
    with open_recording(path, layers) as recording:

        def recorded(layer: Any, *args: Any, **kwargs: Any) -> Any:
            inside.append(layer.name)
            try:
                output = call(layer, *args, **kwargs)
                name = "/".join(inside[1:])
                if name and recording.wants(name):
                    recording.write(name, output)
                return output
            finally:
                inside.pop()

        base.__call__ = recorded
        try:
            model(inputs, training=False)
        finally:
            base.__call__ = call
    return len(recording.names)
