"""The examples in docstrings do what they say."""

import doctest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tinymixnet
from tinymixnet.debug import compare, diagnose, dumps, traces
from tinymixnet.engine import files
from tinymixnet.engine.images import preprocess, read_image
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import load

PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
MODULES = (traces, dumps, compare, diagnose, files)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the examples know, in a folder with a trace and a dump of a port with blue first."""
    model, pixels = load(BUNDLED), preprocess(read_image(PHOTO), "tf", 224)[None]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        traces.record(model, pixels, "trace", ["stem/*"])
        traces.record(model, pixels[..., ::-1].copy(), "theirs.npz", ["stem/*", "*/output"])
        yield {"model": model, "pixels": pixels, "open_dump": dumps.open_dump}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: ModuleType, names: dict[str, Any]) -> None:
    examples = doctest.DocTestFinder().find(module, extraglobs=names)
    failures = []
    runner = doctest.DocTestRunner()
    tried = [runner.run(example, out=failures.append) for example in examples]
    assert failures == []
    assert sum(result.attempted for result in tried) > 0
