"""Read the tensors of a PyTorch file (.pt, .pth) without running anything that is in it.

Such a file is a zip: NAME/data.pkl is a pickle that says which tensors there are, and each file in
NAME/data/ holds the values of one storage. A pickle is a small program, which may call any function
of any module. So it is run here with nearly nothing to call: only the names in `_known` exist, and
they are our own stand-ins, which note what a tensor looks like. PyTorch itself is not needed.
"""

import collections
import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.formats import bfloat16
from weights_tools.formats.zip_members import open_stored
from weights_tools.framework_errors import one_line

LARGEST_PICKLE = 8 << 20  # bytes; MixNet-L's has some 60,000
LONGEST_ORDER = 16  # bytes of the word "little" or "big"
MOST_MEMBERS = 20_000
AVERAGE_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
STATE_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "network")
NOTED = {  # what a training notes beside the tensors; none of it is built
    ("_codecs", "encode"),  # of NumPy numbers
    ("argparse", "Namespace"),
    ("builtins", "set"),
    ("collections", "defaultdict"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch", "device"),
}
DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": bfloat16.BITS,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class StoredTensor(NamedTuple):
    """What the pickle says of one tensor."""

    storage: str  # the key of the file in NAME/data/
    kind: str  # FloatStorage, ...
    offset: int  # in numbers
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.kind == "BFloat16Storage" else DTYPES[self.kind].name


class PytorchFile(NamedTuple):
    """The state dict of a PyTorch file. `read` gets the values of one tensor."""

    path: Path
    prefix: str  # the folder in the zip
    tensors: dict[str, StoredTensor]
    notes: dict[str, str]  # architecture, averages, chosen: what the training noted beside them

    def read(self, name: str) -> np.ndarray:
        """Return the values of one tensor in a new array; bfloat16 widened to float32."""
        tensor = self.tensors[name]
        dtype = DTYPES[tensor.kind]
        with _one_line(self.path), zipfile.ZipFile(self.path) as archive:
            storage = f"{self.prefix}/data/{tensor.storage}"
            with open_stored(archive, storage, budget.weights_file_bytes) as stream:
                values = np.frombuffer(stream.read(), dtype)
        last = tensor.offset + sum(
            (n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)
        )
        if math.prod(tensor.shape) and last >= values.size:
            raise CheckpointError(f"{self.path}: the file ends inside {name[:80]!r}")
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :],
            tensor.shape,
            [step * dtype.itemsize for step in tensor.strides],
            writeable=False,
        )
        array = np.array(view)  # a copy that is contiguous, also without any axis
        return bfloat16.widen(array) if tensor.kind == "BFloat16Storage" else array


def open_pytorch(path: str | os.PathLike[str]) -> PytorchFile:
    """Return the state dict of a .pt or .pth file: the file's own, or the one inside it.

    Raises CheckpointError, also for a pickle that would call any function but those that rebuild
    tensors.
    """
    path = as_path(path)
    with _one_line(path):
        budget.check("weights_file_bytes", path.stat().st_size, "the file")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > MOST_MEMBERS:
                raise CheckpointError(f"{len(names):,} members, at most {MOST_MEMBERS:,}")
            pickles = [name for name in names if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError("expected one data.pkl in it, as torch.save writes")
            prefix = pickles[0].rpartition("/")[0]
            order = f"{prefix}/byteorder"
            if order in names:
                with open_stored(archive, order, LONGEST_ORDER) as stream:
                    if stream.read() != b"little":
                        raise CheckpointError(
                            "its numbers are big-endian; save it on another machine"
                        )
            with open_stored(archive, pickles[0], LARGEST_PICKLE) as stream:
                content = _Unpickler(stream).load()
    tensors, notes = _state_dict(content)
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict, a dict of names and tensors")
    return PytorchFile(path, prefix, tensors, notes)


def _state_dict(content: Any) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the tensors of the dict that has most of them, and what is noted beside it.

    That is the whole content, or what stands under one of the usual keys. Training often keeps two
    of equal size: the network as it is, and the moving averages of its tensors, which are better.
    """
    if not isinstance(content, Mapping):
        return {}, {}
    candidates = {"": content, **{key: content.get(key) for key in (*STATE_KEYS, *AVERAGE_KEYS)}}
    found = {key: _tensors(value) for key, value in candidates.items()}
    most = max(map(len, found.values()))
    raw = [key for key in ("", *STATE_KEYS) if len(found[key]) == most]
    # The wrapper that computes averages may add a counter of its own.
    averages = [key for key in AVERAGE_KEYS if found[key] and len(found[key]) >= most - 1]
    chosen = (averages or raw)[0]
    notes = {}
    if isinstance(content.get("arch"), str):
        notes["architecture"] = content["arch"]
    if averages or "optimizer" in content:
        notes["averages"] = str(bool(averages))
    if averages and raw:
        notes["chosen"] = f"the moving averages ({chosen}) were taken, not {raw[0]}"
    return found[chosen], notes


def _tensors(value: Any) -> dict[str, StoredTensor]:
    if not isinstance(value, Mapping):
        return {}
    pairs = value.items()
    return {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, StoredTensor)}


class _Storage(NamedTuple):
    kind: str
    key: str


class _Ignored:
    """Stands for an object that is no tensor, such as an optimizer's settings."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """Note a tensor, in the place of torch._utils._rebuild_tensor_v2."""
    numbers = (offset, *shape, *strides)
    whole = all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides):
        raise CheckpointError("a tensor of impossible shape in its pickle")
    budget.check("weights_file_bytes", math.prod(shape), "a tensor")
    return StoredTensor(storage.key, storage.kind, offset, tuple(shape), tuple(strides))


def _refuse_bytearray(unpickler: Any) -> None:
    raise CheckpointError("refused, its pickle holds a bytearray, which a state dict does not need")


class _Unpickler(pickle._Unpickler):
    """Knows a few names, all of them stand-ins; every other name is refused.

    This is the unpickler that is written in Python. The one in C can be made to ask for gigabytes.
    The one in Python, too, but only by a bytearray: it makes one of the length that the file says
    before it reads the bytes.
    """

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) in NOTED:
            return _Ignored
        raise CheckpointError(
            f"refused, its pickle calls {module[:60]}.{name[:60]}, which a state dict does not "
            "need: save model.state_dict() alone"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and pid[1] in DTYPES:
            return _Storage(pid[1], str(pid[2]))
        raise CheckpointError("its pickle refers to something that is no storage of a tensor")


def _one_line(path: Path) -> AbstractContextManager[None]:
    return one_line(path, CheckpointError, "not a PyTorch file we can read")
