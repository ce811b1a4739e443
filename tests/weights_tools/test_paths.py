"""What is no path or name is refused as such by every function that takes one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinymixnet.engine.files import check_output
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.errors import FetchError, InputError, TinyMixNetError
from weights_tools.evaluate import evaluate
from weights_tools.fetch import fetch
from weights_tools.formats.checkpoint import open_checkpoint
from weights_tools.formats.labels import read_labels
from weights_tools.formats.safetensors import open_safetensors
from weights_tools.inspect_file import describe

FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "open_checkpoint": open_checkpoint,
    "open_safetensors": open_safetensors,
    "read_labels": lambda path: read_labels(path, 2),
    "evaluate": lambda path: evaluate(BUNDLED, path),
    "describe": lambda path: [*describe(path)],
}


@pytest.mark.parametrize("value", [5, True, b"x", [[1]]], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_path(name: str, value: object) -> None:
    with pytest.raises(TinyMixNetError, match="expected a path"):
        FUNCTIONS[name](value)


def test_no_name_of_a_network() -> None:
    with pytest.raises(FetchError, match="no network"):
        fetch([["mixnet-l"]])  # type: ignore[arg-type]


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be the name of a file"):
        check_output(tmp_path / "\ud800.html")
