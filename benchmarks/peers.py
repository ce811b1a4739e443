"""The sides of the comparison: tinymixnet, and the same network in four other frameworks."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from benchmarks.side import Ready
from benchmarks.side_onnx import onnx_runtime, openvino
from benchmarks.side_tensorflow import tensorflow_frozen
from benchmarks.side_tinymixnet import (
    tinymixnet,
    tinymixnet_blas_threads,
    tinymixnet_map,
    tinymixnet_readable,
)
from benchmarks.side_torch import torch_channels_last, torch_contiguous
from tinymixnet.engine.weights import Weights


class Peer(NamedTuple):
    """A side, or a variation of one: of those with the same name the table shows the best."""

    name: str
    build: Callable[[Weights, np.ndarray, int], Ready]
    how: str = ""
    needs: tuple[str, ...] = ()  # the modules it imports
    batches: tuple[int, ...] = (1, 8, 32)  # to try for throughput; empty: latency only
    latency: bool = True
    one_thread: bool = True  # whether it is a side of its own on one thread, too

    @property
    def label(self) -> str:
        return f"{self.name}, {self.how}" if self.how else self.name


def why_skipped(peer: Peer) -> str:
    """Return why a side cannot run here, or an empty string where it can."""
    missing = [module for module in peer.needs if find_spec(module) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


THREAD_SETTINGS = (
    "tinymixnet's cores; OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and MKL_NUM_THREADS for every side; "
    "torch.set_num_threads; TensorFlow's intra- and inter-op threads; "
    "ONNX Runtime's intra_op_num_threads; OpenVINO's INFERENCE_NUM_THREADS"
)

PEERS = (
    Peer("tinymixnet", tinymixnet, "a process / a team"),
    Peer("tinymixnet with BLAS threads", tinymixnet_blas_threads, batches=(), one_thread=False),
    Peer("tinymixnet", tinymixnet_map, "map, a process a core", batches=(64,), latency=False),
    Peer("tinymixnet's readable path", tinymixnet_readable, batches=()),
    Peer("PyTorch eager", torch_channels_last, "channels last", ("torch",)),
    Peer("PyTorch eager", torch_contiguous, "contiguous", ("torch",)),
    Peer("TensorFlow frozen graph", tensorflow_frozen, "", ("tensorflow",)),
    Peer("ONNX Runtime", onnx_runtime, "", ("onnx", "onnxruntime")),
    Peer("OpenVINO", openvino, "", ("onnx", "openvino")),
)
