"""State dicts as other packages save them: geffnet's and timm's are read, pytorchcv's refused."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import synthetic_tensors
from tinymixnet.engine.architecture import mixnet
from tinymixnet.errors import CheckpointError
from weights_tools.convert import convert

PACKAGES = ("timm", "geffnet", "pytorchcv", "torch", "safetensors")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("PORTS"),
    reason=f"needs {', '.join(MISSING)}: pip install 'tinymixnet[test-ports]'",
)
NETWORK = mixnet("mixnet-s", classes=7)


def save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        import_module("safetensors.torch").save_file(state, path)
    else:
        import_module("torch").save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("package", ["timm", "geffnet"])
def test_timms_names(package: str, suffix: str, tmp_path: Path) -> None:
    from tests.ports import pytorch

    tensors = synthetic_tensors(NETWORK)
    module = getattr(pytorch, f"{package}_module")("tf_mixnet_s", NETWORK, tensors)
    path = save(module.state_dict(), tmp_path / f"model.{suffix}")
    found = convert(path, tmp_path / "out.h5", check=True).tensors
    assert all(np.array_equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_pytorchcv(suffix: str, tmp_path: Path) -> None:
    """Its MixNet pads both sides alike, so that our network would compute something else."""
    module = import_module("pytorchcv.models.mixnet").mixnet_s(num_classes=7)
    path = save(module.state_dict(), tmp_path / f"model.{suffix}")
    with pytest.raises(CheckpointError, match="the names of pytorchcv, whose MixNet pads both"):
        convert(path, tmp_path / "out.h5")
    assert [*tmp_path.iterdir()] == [path]
