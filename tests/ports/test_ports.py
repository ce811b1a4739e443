"""Real ports, recorded and diagnosed: what must be said of some of those in docs/debugging.md.

They need the extra `test-ports`. Without it they are skipped, unless PORTS=1 says that it must be
there. All ports take minutes: `python -m docs.make_ports_table` goes through them.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

PACKAGES = ("timm", "geffnet", "pytorchcv", "torchvision", "onnxscript", "onnxsim", "openvino")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("PORTS"),
    reason=f"needs {', '.join(MISSING)}: pip install 'tinymixnet[test-ports]'",
)

# One of each kind of dump: names of modules, of nodes, automatic ones; blocks; each mistake once.
SOME = (
    "timm_tf_mixnet_l",
    "torchvision_style_padding",
    "onnx_new",
    "ort_all",
    "openvino_onnx_new",
    "tf_lite",
    "keras_automatic_folder",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dumps of the ports above, and with the pixels that they got."""
    from tests.ports.table import record_ports

    folder = tmp_path_factory.mktemp("ports")
    assert len(list(record_ports(folder, SOME))) == len(SOME)
    return folder


@pytest.mark.parametrize("name", SOME)
def test_the_verdict_on_a_real_port(folder: Path, name: str) -> None:
    from tests.ports.table import PORTS
    from tinymixnet import load
    from tinymixnet.debug.diagnose import diagnose
    from tinymixnet.debug.dumps import open_dump

    model, pixels = load(), np.load(folder / "pixels.npy")
    port = next(port for port in PORTS if port.name == name)
    dump = open_dump(port.dump(folder), model.architecture, *pixels.shape[:3])
    found = diagnose(model, pixels, dump).slugs
    assert f"cause: {', '.join(found)}" == port.truth_line


def test_the_truth_of_every_right_port_is_in_its_last_tensor(folder: Path) -> None:
    """That a port is right can be seen without our debugger: it answers what we answer."""
    from tests.ports.table import PORTS
    from tinymixnet import load
    from tinymixnet.debug.traces import open_trace

    pixels = np.load(folder / "pixels.npy")
    ours = dict(load().layers(pixels))
    for port in PORTS:
        if port.name not in SOME:
            continue
        trace = open_trace(port.dump(folder))
        last = trace[trace.names[-1]].ravel()
        near = min(np.abs(last - ours[name][0]).max() for name in ("logits", "probabilities"))
        assert (near < 1e-5) == (port.truth == ()), port.name
