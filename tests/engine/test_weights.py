"""The weights file: what goes in comes out, and nothing else ever does.

Run as a program it sweeps damage over a file, see `sweep`: a damaged file may hang or crash the
HDF5 library, and only another process lives to tell.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import resource
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymixnet
from tests.support.synthetic import TINY
from tinymixnet.engine.architecture import Architecture, mixnet
from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights, find_weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError, TinyMixNetError, WeightsError

# The smallest network that has every kind of tensor but the squeeze-and-excite ones.
SPECK = Architecture("speck", ("r1_k3_a1_p1_s11_e1_i2_o2",), 2, 3, 1.0, 2)
ABOUT = Metadata(
    labels=("Häher", "鳥 🐦"),
    input_size=96,
    preset="timm",
    preset_parameters={"crop": 0.5},
    mean=(1.5, 2.25, 3.125),
    std=(4.5, 5.5, 6.5),
    epsilon=1e-5,
    averages=False,
    name="ein Name",
    source="https://example.org/größe",
    source_sha256="ab" * 32,
    licence="Apache-2.0",
    accuracy="78.9 % von 50000",
)
Edit = Callable[[h5py.File], Any]


def random_weights(architecture: Architecture, about: Metadata, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in architecture.tensor_shapes().items():
        tensors[name] = rng.uniform(0.1, 2, shape).astype(np.float32)
        if not name.endswith("moving_variance"):
            tensors[name] -= 1
    return Weights(architecture, tensors, about)


GOOD = random_weights(SPECK, ABOUT)


@cache
def good_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "w.h5", GOOD)
        return (Path(folder) / "w.h5").read_bytes()


def sign(file: h5py.File) -> None:
    """Put the checksum that belongs there, as the format has it, worked out anew."""
    file.attrs["sha256"] = np.bytes_(checksum(file))


def checksum(file: h5py.File) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(file.attrs) - {"sha256"}):
        value = file.attrs[name]
        value = value.decode() if isinstance(value, bytes) else value.tolist()
        digest.update(b"@" + name.encode() + b" " + json.dumps(value).encode() + b"\n")
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
    for name in sorted(names):
        array = file[name][()]
        shape = ", ".join(map(str, array.shape)) + "," * (array.ndim == 1)
        digest.update(f"/{name} {array.dtype.str} ({shape})\n".encode() + array.tobytes())
    return digest.hexdigest()


def edited(path: Path, *edits: Edit) -> Path:
    """A good file, changed by h5py."""
    path.write_bytes(good_bytes())
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for edit in edits:
            edit(file)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def elsewhere(*arguments: object) -> subprocess.Popen[str]:
    """This file run as a program, with the same modules as here."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def answer(*arguments: object) -> str:
    """What it printed; a minute later it is taken for hung."""
    run = elsewhere(*arguments)
    try:
        out, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 0, out
    return out


def same(one: Weights, other: Weights) -> bool:
    return (
        one.architecture == other.architecture
        and one.metadata == other.metadata
        and list(one.tensors) == list(other.tensors)
        and all(
            tensor.dtype == np.float32 and np.array_equal(tensor, other.tensors[name])
            for name, tensor in one.tensors.items()
        )
    )


# -- what goes in comes out -----------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [SPECK, TINY], ids=["speck", "tiny"])
def test_float32_comes_back_as_it_was(architecture: Architecture, tmp_path: Path) -> None:
    labels = tuple(f"Klasse {i} ✓" for i in range(architecture.classes))
    weights = random_weights(architecture, replace(ABOUT, labels=labels))
    before = {name: tensor.copy() for name, tensor in weights.tensors.items()}
    write_weights(tmp_path / "w.h5", weights)
    assert same(read_weights(tmp_path / "w.h5"), weights)
    assert all(np.array_equal(before[name], t) for name, t in weights.tensors.items())


def test_float16_comes_back_rounded_once_and_widened(tmp_path: Path) -> None:
    weights = random_weights(TINY, Metadata())
    write_weights(tmp_path / "w.h5", weights, float16=True)
    with h5py.File(tmp_path / "w.h5") as file:
        assert {file[name].dtype for name in weights.tensors} == {np.dtype(np.float16)}
    rounded = {name: t.astype(np.float16).astype(np.float32) for name, t in weights.tensors.items()}
    assert any((rounded[name] != t).any() for name, t in weights.tensors.items())
    labels = tuple(f"class {i}" for i in range(TINY.classes))
    assert same(read_weights(tmp_path / "w.h5"), Weights(TINY, rounded, Metadata(labels)))


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    write_weights(first, GOOD)
    time.sleep(1.1)  # HDF5's time stamps count seconds
    backwards = dict(reversed(list(GOOD.tensors.items())))
    write_weights(second, GOOD._replace(tensors=backwards))
    assert first.read_bytes() == second.read_bytes()


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@given(label=texts, other=texts, name=texts, licence=texts, crop=st.floats(0.5, 1))
@settings(max_examples=25, deadline=None)
def test_any_text_comes_back(label: str, other: str, name: str, licence: str, crop: float) -> None:
    about = replace(ABOUT, labels=(label, other), name=name, licence=licence)
    about = replace(about, preset="tf", preset_parameters={"crop": crop})
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "w.h5", GOOD._replace(metadata=about))
        assert read_weights(Path(folder) / "w.h5").metadata == about


def test_the_place_of_each_class_in_imagenet_comes_back(tmp_path: Path) -> None:
    about = replace(ABOUT, wordnet_ids=("n01443537", "n12768682"), imagenet_indices=(1, 999))
    write_weights(tmp_path / "w.h5", GOOD._replace(metadata=about))
    assert read_weights(tmp_path / "w.h5").metadata == about


@pytest.mark.parametrize(
    "lists",
    [
        {"wordnet_ids": ("n01443537",)},
        {"wordnet_ids": ("n01443537", "cat")},
        {"imagenet_indices": (1, 2, 3)},
        {"imagenet_indices": (1, -2)},
    ],
)
def test_a_list_of_classes_has_all_of_them(lists: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"attribute {next(iter(lists))}: expected none or 2"):
        write_weights(tmp_path / "w.h5", GOOD._replace(metadata=replace(ABOUT, **lists)))


def test_the_checksum_covers_names_types_shapes_and_bytes(tmp_path: Path) -> None:
    path = edited(tmp_path / "w.h5")
    with h5py.File(path) as file:
        assert file.attrs["sha256"].decode() == checksum(file)


def test_the_bundled_file_reads() -> None:
    architecture, tensors, about = read_weights(BUNDLED)
    assert list(tensors) == list(architecture.tensor_shapes())
    assert len(about.labels) == architecture.classes


# -- refused before a tensor is read --------------------------------------------------------------


def attribute(name: str, value: Any) -> Edit:
    """Set one attribute, text as the format has it (of fixed length)."""
    stored = np.bytes_(value.encode()) if isinstance(value, str) else value
    return lambda file: file.attrs.__setitem__(name, stored)


def remove(*names: str) -> Edit:
    return lambda file: [file.pop(name) for name in names]


def dataset(name: str, shape: tuple[int, ...] | None = None, **how: Any) -> Edit:
    """Store one tensor in another way; with a shape there is nothing stored."""

    def edit(file: h5py.File) -> None:
        data = file.pop(name)[()]
        if isinstance(how.get("dtype"), h5py.Datatype):
            how["dtype"] = how["dtype"].dtype
        file.create_dataset(name, shape, **({"data": data} if shape is None else {}), **how)

    return edit


def filtered(*filters: int) -> Edit:
    """A tensor with a list of filters that h5py itself would not put together."""

    def edit(file: h5py.File) -> None:
        shape = file.pop("logits/kernel").shape
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(shape)
        for code in filters:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (4,))
        space, kind = h5py.h5s.create_simple(shape), h5py.h5t.IEEE_F32LE
        h5py.h5d.create(file.id, b"logits/kernel", kind, space, plist)

    return edit


def bfloat16(file: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    data = file.pop("logits/bias")[()]
    space = h5py.h5s.create_simple(data.shape)
    h5py.h5d.create(file.id, b"logits/bias", kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, data)


def link(target: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file["logits/bias"]
        file["logits/bias"] = target

    return edit


def virtual(file: h5py.File) -> None:
    del file["logits/bias"]
    layout = h5py.VirtualLayout((2,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    file.create_virtual_dataset("logits/bias", layout)


def committed(file: h5py.File) -> None:
    """A tensor of a type that lies in the file as an object of its own."""
    file["type"] = np.dtype(np.float32)
    data = file.pop("logits/bias")[()]
    file.create_dataset("logits/bias", data=data, dtype=file["type"])


def cycle(file: h5py.File) -> None:
    group = file.create_group("cycle")
    group["again"] = group


def thicket(file: h5py.File) -> None:
    """Few groups, but very many ways through them: 300 names for a group with 300 names."""
    leaf, middle = file.create_group("leaf"), file.create_group("middle")
    for i in range(300):
        middle[f"{i}"] = leaf
        file[f"{i}"] = middle


def text_dataset(text: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file["labels"]
        file.create_dataset("labels", data=np.array(["a", "b"], object), dtype=text)

    return edit


def long_labels(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", (2,), h5py.string_dtype("utf-8", 1 << 30))


def many_labels(file: h5py.File) -> None:
    """Not one label too long, and yet a thousand times more than any network has numbers."""
    classes = 30_000_000
    del file["labels"]
    file.create_dataset("labels", (classes,), h5py.string_dtype("utf-8", 1024))
    file.attrs["classes"] = classes
    file.attrs["head_filters"] = 1


STORAGE: dict[str, tuple[Edit, str]] = {
    "soft link": (link(h5py.SoftLink("/labels")), "logits/bias: .*link"),
    "dangling soft link": (link(h5py.SoftLink("/nowhere")), "logits/bias: .*link"),
    "external link": (link(h5py.ExternalLink("other.h5", "/x")), "logits/bias: .*link"),
    "soft link to a group": (
        lambda file: file.__setitem__("more", h5py.SoftLink("/")),
        "more: .*link",
    ),
    "cycle of groups": (cycle, "cycle/again: refused, a group inside itself"),
    "thicket of groups": (thicket, "refused, a group inside itself or in two places"),
    "too deep": (lambda file: file.create_dataset("a/b/c/d", data=1.0), "a/b/c/d: unexpected"),
    "virtual": (virtual, "logits/bias: refused, a virtual dataset"),
    "external storage": (
        dataset("logits/bias", (2,), dtype="f4", external=[("other.bin", 0, 8)]),
        "logits/bias: refused, stored in another file",
    ),
    "lzf": (dataset("logits/kernel", compression="lzf"), "logits/kernel: refused, filters"),
    "fletcher32": (dataset("logits/kernel", fletcher32=True), "logits/kernel: refused, filters"),
    "scaleoffset": (dataset("logits/kernel", scaleoffset=3), "logits/kernel: refused, filters"),
    "gzip alone": (dataset("logits/kernel", compression="gzip"), "logits/kernel: refused, filters"),
    "chunks, not packed": (dataset("logits/kernel", chunks=(3, 2)), "logits/kernel: .*filters"),
    "gzip twice": (filtered(1, 1), re.escape("filters [1, 1]")),
    "shuffle and gzip twice": (filtered(2, 1, 1), re.escape("filters [2, 1, 1]")),
    "szip": (filtered(4), re.escape("filters [4]")),
    "unknown filter": (filtered(32_001), re.escape("filters [32001]")),
    "unknown filter after ours": (filtered(2, 1, 65_000), re.escape("filters [2, 1, 65000]")),
    "many chunks": (
        dataset("logits/kernel", chunks=(1, 1), compression="gzip", shuffle=True),
        re.escape("refused, chunks (1, 1)"),
    ),
    "chunk larger than the tensor": (
        dataset(
            "logits/kernel", chunks=(512, 2), maxshape=(None, 2), compression="gzip", shuffle=True
        ),
        re.escape("refused, chunks (512, 2)"),
    ),
    "nothing stored": (
        dataset("logits/kernel", (3, 2), dtype="f4"),
        "logits/kernel: refused, nothing stored",
    ),
    "nothing stored, packed": (
        dataset(
            "logits/kernel", (3, 2), dtype="f4", chunks=(3, 2), compression="gzip", shuffle=True
        ),
        "logits/kernel: refused, nothing stored",
    ),
    "enormous": (
        dataset("logits/kernel", (1 << 40, 1 << 20), dtype="f4"),
        r"logits/kernel: expected \(3, 2\), found \(1099511627776, 1048576\)",
    ),
    "no shape at all": (
        lambda file: (file.pop("logits/bias"), file.create_dataset("logits/bias", dtype="f4")),
        r"logits/bias: expected \(2,\), found \(\)",
    ),
    "integers": (dataset("logits/bias", dtype="i4"), "logits/bias: .*type int32"),
    "float64": (dataset("logits/bias", dtype="f8"), "logits/bias: .*type float64"),
    "big-endian": (dataset("logits/bias", dtype=">f4"), "logits/bias: .*type >f4"),
    "a float type of its own": (bfloat16, "logits/bias: .*type"),
    "compound": (
        dataset("logits/bias", (2,), dtype=[("a", "f4"), ("b", "f4")]),
        "logits/bias: .*type",
    ),
    "objects": (dataset("logits/bias", (2,), dtype=h5py.ref_dtype), "logits/bias: .*type object"),
    "lists": (dataset("logits/bias", (2,), dtype=h5py.vlen_dtype("f4")), "logits/bias: .*type"),
    "text": (dataset("logits/bias", (2,), dtype="S4"), "logits/bias: .*type"),
    "committed type": (committed, "type: unexpected"),
    "labels missing": (remove("labels"), "labels: missing"),
    "labels too few": (dataset("labels", (1,), dtype="S5"), r"labels: expected \(2,\), found"),
    "labels too many": (dataset("labels", (3,), dtype="S5"), r"labels: expected \(2,\), found"),
    "labels of any length": (text_dataset(h5py.string_dtype()), "labels: .*fixed length"),
    "labels are numbers": (dataset("labels", (2,), dtype="f4"), "labels: .*fixed length"),
    "labels too long": (long_labels, "labels: refused, 1073741824 bytes"),
    "labels a bomb": (many_labels, "labels: refused"),
    "labels in another file": (
        dataset("labels", (2,), dtype="S5", external=[("other.bin", 0, 10)]),
        "labels: refused, stored in another file",
    ),
    "labels gzipped twice": (
        dataset("labels", (2,), dtype="S5", chunks=(1,), compression="lzf"),
        "labels: refused, filters",
    ),
}


BLOCKS = "r1_k3_a1_p1_s11_e1_i2_o2"
ATTRIBUTES: dict[str, tuple[Edit, str]] = {
    "version 2": (attribute("format_version", 2), "expected .* version 1; found .* version 2"),
    "version as text": (attribute("format_version", "1"), "expected format .* version '1'"),
    "version a list": (attribute("format_version", [1, 1]), "expected format"),
    "format": (attribute("format", "else"), "expected format .*found 'else'"),
    "huge network": (
        attribute("block_strings", "r1_k3_a1_p1_s11_e99_i2_o9999 r1_k3_a1_p1_s11_e99_i9999_o9999"),
        "asks for .* numbers, at most",
    ),
    "endless network": (
        attribute("block_strings", " ".join([BLOCKS.replace("r1", "r999")] * 2000)),
        "blocks, expected at most",
    ),
    "huge head": (attribute("head_filters", 1 << 62), "asks for .* numbers, at most"),
    "huge classes": (attribute("classes", 1 << 62), "asks for .* numbers, at most"),
    "huge multiplier": (attribute("multiplier", 1e300), "the multiplier is"),
    "no multiplier": (attribute("multiplier", float("nan")), "the multiplier is"),
    "no classes": (attribute("classes", 0), "classes"),
    "negative stem": (attribute("stem_filters", -2), "filters"),
    "block strings that do not parse": (attribute("block_strings", "r1_k3"), "block string"),
    "no blocks": (attribute("block_strings", " "), "blocks"),
    "NaN mean": (attribute("mean", [1.0, float("nan"), 1.0]), "mean, std, epsilon: unusable"),
    "two means, four deviations": (
        lambda file: (attribute("mean", [1.0, 2.0])(file), attribute("std", [1.0] * 4)(file)),
        "std: refused|mean, std, epsilon: unusable",
    ),
    "two means": (attribute("mean", [1.0, 2.0]), "mean, std, epsilon: unusable"),
    "means a table": (attribute("mean", [[1.0], [2.0], [3.0]]), "mean, std, epsilon: unusable"),
    "mean of whole numbers": (attribute("mean", [1, 2, 3]), "mean, std, epsilon: unusable"),
    "infinite std": (attribute("std", [1.0, float("inf"), 1.0]), "mean, std, epsilon: unusable"),
    "zero std": (attribute("std", [1.0, 0.0, 1.0]), "mean, std, epsilon: unusable"),
    "epsilon 0": (attribute("epsilon", 0.0), "mean, std, epsilon: unusable"),
    "epsilon NaN": (attribute("epsilon", float("nan")), "mean, std, epsilon: unusable"),
    "unknown preset": (attribute("preset", "else"), "no preset 'else'"),
    "unknown parameter": (attribute("preset_parameters", '{"zoom": 1}'), "no parameter 'zoom'"),
    "parameter NaN": (attribute("preset_parameters", '{"crop": NaN}'), "crop is nan"),
    "parameters a list": (attribute("preset_parameters", "[1, 2]"), "not a JSON object"),
    "parameters no JSON": (attribute("preset_parameters", "{crop}"), "not a JSON object"),
    "parameters nested": (attribute("preset_parameters", "[" * 60_000), "not a JSON object"),
    "tiny input": (attribute("input_size", 8), "input_size: expected 32..4096, found 8"),
    "huge input": (attribute("input_size", 1 << 40), "input_size: expected 32..4096"),
    "text of any length": (
        lambda file: file.attrs.__setitem__("licence", "MIT"),
        "attribute licence: refused",
    ),
    "list of text of any length": (
        lambda file: file.attrs.__setitem__("more", ["a", "b"]),
        "attribute more: refused",
    ),
    "compound": (
        lambda file: file.attrs.__setitem__("more", np.zeros((), "f4,i4")),
        "attribute more: refused",
    ),
    "reference": (
        lambda file: file.attrs.__setitem__("more", file["logits"].ref),
        "attribute more: refused",
    ),
    "a long list": (attribute("more", np.zeros(1000)), "attribute more: refused"),
    "a long text": (attribute("more", "x" * 100_000), "attribute more: refused"),
    "nothing": (
        lambda file: file.attrs.__setitem__("licence", h5py.Empty("f4")),
        "attribute licence: refused",
    ),
}


def forbid_reading(patch: pytest.MonkeyPatch) -> None:
    """Fail the test when the values of any dataset are read, in whatever way."""

    def forbidden(*_: object) -> None:
        pytest.fail("values were read")

    patch.setattr(Hdf5File, "read", forbidden)
    patch.setattr(h5py.Dataset, "__getitem__", forbidden)


@pytest.mark.parametrize("case", [*STORAGE, *ATTRIBUTES])
def test_refused_before_reading(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, message = {**STORAGE, **ATTRIBUTES}[case]
    path = edited(tmp_path / "w.h5", edit)
    forbid_reading(monkeypatch)
    began = time.process_time()
    assert re.search(message, refusal(path))
    assert time.process_time() - began < 5


def test_forbidden_reading_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edited(tmp_path / "w.h5")
    forbid_reading(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="values were read"):
        read_weights(path)


def detour(path: Path, target: h5py.ExternalLink) -> Path:
    """A name with a slash in it, which HDF5 would follow as a path, through the links beside it."""
    path.write_bytes(good_bytes())
    with h5py.File(path, "r+") as file:  # groups as they were before HDF5 had checksums
        group = file.create_group("about")
        group["!@go@x"] = h5py.SoftLink("/labels")
        group["go"] = h5py.SoftLink("/zone/out")
        file["zone/out"] = target
    data = path.read_bytes()
    assert data.count(b"!@go@x") == 1
    path.write_bytes(data.replace(b"!@go@x", b"./go/x"))
    return path


def test_other_files_are_never_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for the other file: who opens it waits for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    target = h5py.ExternalLink(str(pipe), "/x")

    def endless(file: h5py.File) -> None:  # its shape depends on what the other file holds
        del file["logits/bias"]
        layout = h5py.VirtualLayout((2,), np.float32, maxshape=(None,))
        source = h5py.VirtualSource(str(pipe), "x", (2,), np.float32, (None,))
        layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
        file.create_virtual_dataset("logits/bias", layout)

    edits: dict[str, Edit] = {
        "link": link(target),
        "group": lambda file: file.__setitem__("blocks_1", target),
        "storage": dataset("logits/bias", (2,), dtype="f4", external=[(str(pipe), 0, 8)]),
        "virtual": endless,
    }
    paths = [edited(tmp_path / f"{name}.h5", edit) for name, edit in edits.items()]
    paths.append(detour(tmp_path / "detour.h5", target))
    for path in paths:
        assert answer("read", path).startswith("WeightsError")


def drop_attribute(name: str, file: h5py.File) -> None:
    del file.attrs[name]


def test_attributes_each_and_all_are_needed_and_of_their_type(tmp_path: Path) -> None:
    with h5py.File(edited(tmp_path / "w.h5")) as file:
        names = sorted(file.attrs)
    assert len(names) == 21
    for name in names:
        path = edited(tmp_path / "w.h5", partial(drop_attribute, name))
        assert name.removesuffix("_version") in refusal(path)
        path = edited(tmp_path / "w.h5", attribute(name, [True, False]))
        assert name.removesuffix("_version") in refusal(path)


def test_the_version_comes_first_whatever_else_is_wrong(tmp_path: Path) -> None:
    path = edited(
        tmp_path / "w.h5",
        lambda file: file.attrs.__setitem__("licence", "of any length"),
        lambda file: file.__setitem__("out", h5py.ExternalLink("other.h5", "/x")),
        attribute("block_strings", "nonsense"),
        attribute("epsilon", float("nan")),
        cycle,
        remove("labels", "logits", "stem"),
        attribute("format_version", 7),
    )
    assert "found 'tinymixnet weights', version 7" in refusal(path)


def test_hdf5_from_elsewhere_is_told_from_weights(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["layer/kernel"] = np.ones((3, 3))
        file.attrs["keras_version"] = "2.4"
    assert "expected format 'tinymixnet weights', version 1; found None" in refusal(
        tmp_path / "model.h5"
    )


# -- one error lists it all, and guesses ----------------------------------------------------------


def test_missing_unexpected_and_misshaped_stand_in_one_message(tmp_path: Path) -> None:
    path = edited(
        tmp_path / "w.h5",
        remove("stem/bn/beta", "head/conv/kernel"),
        lambda file: file.create_dataset("stem/bn/mean", data=np.ones(2, "f4")),
        lambda file: file.create_dataset("extra", data=np.ones(1, "f4")),
        remove("logits/bias"),
        lambda file: file.create_dataset("logits/bias", data=np.ones(5, "f4")),
    )
    message = refusal(path)
    assert "5 things wrong" in message
    for part in (
        "stem/bn/beta: missing",
        "head/conv/kernel: missing",
        "stem/bn/mean: unexpected",
        "extra: unexpected",
        "logits/bias: expected (2,), found (5,)",
        "Of the known networks mixnet-s is nearest",
    ):
        assert part in message


@pytest.mark.parametrize("variant", ["mixnet-s", "mixnet-m", "mixnet-l"])
def test_a_network_under_another_name_is_recognised(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    architecture = mixnet(variant, 7)
    zeros = {n: np.zeros(shape, np.float32) for n, shape in architecture.tensor_shapes().items()}
    write_weights(path, Weights(architecture, zeros, Metadata()))
    other = mixnet("mixnet-l" if variant == "mixnet-s" else "mixnet-s", 7)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        attribute("variant", other.variant)(file)
        attribute("block_strings", " ".join(other.block_strings))(file)
        attribute("stem_filters", other.stem_filters)(file)
        attribute("multiplier", other.multiplier)(file)
    assert refusal(path).endswith(f"They fit {variant} with 7 classes")


# -- refused after reading ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem/conv/kernel", np.nan, "stem/conv/kernel: NaN or infinity in float32"),
        ("logits/bias", np.inf, "logits/bias: NaN or infinity in float32"),
        ("logits/bias", -np.inf, "logits/bias: NaN or infinity in float32"),
        ("head/bn/moving_variance", -0.5, "head/bn/moving_variance: a negative variance, -0.5"),
    ],
)
def test_values_no_network_has_are_refused(
    name: str, value: float, message: str, tmp_path: Path
) -> None:
    def spoil(file: h5py.File) -> None:
        tensor = file[name][()]
        tensor.flat[-1] = value
        file[name][...] = tensor

    assert f"1 thing wrong: {message}" in refusal(edited(tmp_path / "w.h5", spoil, sign))
    assert "2 things wrong" in refusal(edited(tmp_path / "w.h5", spoil))
    tensors = {n: t.copy() for n, t in GOOD.tensors.items()}
    tensors[name].flat[-1] = value
    with pytest.raises(WeightsError, match=re.escape(message)):
        write_weights(tmp_path / "new.h5", GOOD._replace(tensors=tensors))
    assert not (tmp_path / "new.h5").exists()


def swapped(file: h5py.File) -> None:
    """Two tensors of one shape change places: no byte is new."""
    beta, mean = file["stem/bn/beta"][()], file["stem/bn/moving_mean"][()]
    file["stem/bn/beta"][...], file["stem/bn/moving_mean"][...] = mean, beta


@pytest.mark.parametrize(
    "edit",
    [
        attribute("variant", "mixnet-l"),
        attribute("licence", "MIT"),
        attribute("averages", True),
        attribute("mean", [1.5, 2.25, 3.0]),
        attribute("epsilon", 2e-5),
        attribute("preset_parameters", '{"crop": 0.75}'),
        attribute("more", 1),
        attribute("sha256", "0" * 64),
        lambda file: file["stem/conv/kernel"].__setitem__((0, 0, 0, 0), 0.25),
        lambda file: file["labels"].__setitem__(0, b"Meise"),
        dataset("logits/bias", dtype="f2"),
        swapped,
    ],
)
def test_the_checksum_tells_every_edit(edit: Edit, tmp_path: Path) -> None:
    assert "1 thing wrong: sha256: the checksum does not match" in refusal(
        edited(tmp_path / "w.h5", edit)
    )
    signed = edited(tmp_path / "signed.h5", edit, sign)
    assert not same(read_weights(signed), GOOD) or edit.__name__ == "<lambda>"


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    path = edited(tmp_path / "w.h5", lambda f: f["labels"].__setitem__(0, b"\xff\xfe"), sign)
    assert "damaged" in refusal(path)


def test_a_packed_bomb_goes_off_small(tmp_path: Path) -> None:
    """A chunk that should unpack to 24 bytes, and would to far more; also chunks too short."""

    def put(packed: bytes, file: h5py.File) -> None:
        file["logits/kernel"].id.write_direct_chunk((0, 0), packed)

    bomb, small_bomb = (zlib.compress(bytes(size << 20), 9) for size in (60, 1))
    memory = int(answer("read", edited(tmp_path / "w.h5")).split()[-1])
    for packed in (bomb, small_bomb, zlib.compress(bytes(23)), bomb[:24]):
        said = answer("read", edited(tmp_path / "w.h5", partial(put, packed)))
        stored = r"logits/kernel: damaged, a chunk of 24 bytes is stored in 61,\d+"
        unpacked = "damaged, its packed data has another size"
        assert re.search(stored if packed is bomb else unpacked, said), said
        assert int(said.split()[-1]) < memory + 10 * 1024, "KiB"


# -- finding --------------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("TINYMIXNET_WEIGHTS", "TINYMIXNET_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


def test_the_bundled_file_is_the_default(homeless: pytest.MonkeyPatch) -> None:
    assert find_weights() == BUNDLED
    assert BUNDLED.is_file()


def test_the_environment_names_the_default(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, other = tmp_path / "mine.h5", tmp_path / "other.h5"
    path.touch()
    other.touch()
    homeless.setenv("TINYMIXNET_WEIGHTS", str(path))
    assert find_weights() == path
    assert find_weights(str(other)) == other
    fetched = tmp_path / "cache" / "mixnet-m.h5"
    fetched.parent.mkdir()
    fetched.touch()
    homeless.setenv("TINYMIXNET_HOME", str(fetched.parent))
    homeless.setenv("TINYMIXNET_WEIGHTS", "mixnet-m")
    assert find_weights() == fetched


def test_fetched_names_lie_in_the_cache(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights_tools fetch mixnet-l"):
        find_weights("mixnet-l")
    places = [
        ("HOME", tmp_path / "home", tmp_path / "home" / ".cache" / "tinymixnet"),
        ("XDG_CACHE_HOME", tmp_path / "xdg", tmp_path / "xdg" / "tinymixnet"),
        ("TINYMIXNET_HOME", "~/mine", tmp_path / "home" / "mine"),
    ]
    for variable, value, folder in places:  # each goes before the ones above
        homeless.setenv(variable, str(value))
        folder.mkdir(parents=True)
        (folder / "mixnet-l.h5").touch()
        assert find_weights("mixnet-l") == folder / "mixnet-l.h5"


@pytest.mark.parametrize("wanted", [5, 2.5, b"mixnet-l", ["mixnet-l"], {}])
def test_what_is_neither_a_path_nor_a_name(wanted: object) -> None:
    with pytest.raises(InputError, match="expected a path or a network's name"):
        find_weights(wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_names_that_no_file_can_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYMIXNET_WEIGHTS", name.replace("\0", "") or "/nowhere")
    with pytest.raises(WeightsError, match=r"weights file|cannot be opened"):
        find_weights(name)


def test_another_network_under_a_fetched_name(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    homeless.setenv("TINYMIXNET_HOME", str(tmp_path))
    write_weights(tmp_path / "mixnet-l.h5", GOOD)
    with pytest.raises(WeightsError, match="expected mixnet-l, found speck"):
        tinymixnet.load("mixnet-l")
    homeless.setenv("TINYMIXNET_WEIGHTS", "mixnet-l")
    with pytest.raises(WeightsError, match="expected mixnet-l, found speck"):
        tinymixnet.load()
    tinymixnet.load(tmp_path / "mixnet-l.h5")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_something_else_under_a_fetched_name(
    kind: str, homeless: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    homeless.setenv("TINYMIXNET_HOME", str(tmp_path))
    path = tmp_path / "mixnet-l.h5"
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(WeightsError, match=f"{kind}.* remove it and fetch mixnet-l again"):
        tinymixnet.load("mixnet-l")


def test_an_unknown_home(homeless: pytest.MonkeyPatch) -> None:
    homeless.setenv("TINYMIXNET_HOME", "~nobody-of-that-name/x")
    with pytest.raises(WeightsError, match="not fetched yet"):
        tinymixnet.load("mixnet-l")


def test_what_cannot_be_found_is_said(homeless: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        find_weights(tmp_path)
    with pytest.raises(WeightsError, match=r"no such weights file.*mixnet-s, mixnet-m, mixnet-l"):
        find_weights("mixnet-xl")
    homeless.setenv("TINYMIXNET_WEIGHTS", str(tmp_path / "gone.h5"))
    with pytest.raises(WeightsError, match=r"gone\.h5: no such weights file"):
        find_weights()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", struct.pack("<Q", 2) + b'{"a": 1}', "weights_tools convert"),
        ("w.tar.gz", b"\x1f\x8b\x08" + bytes(20), "weights_tools extract"),
        ("model.ckpt.index", bytes(100), "weights_tools extract"),
        ("model.ckpt.data-00000-of-00001", bytes(100), "weights_tools extract"),
        ("w.txt", b"some text, and more of it", "no HDF5 inside"),
        ("w.h5", b"", "no HDF5 inside"),
    ],
)
def test_other_files_are_told_apart(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "pipe"):
        assert "no such weights file" in refusal(path)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edited(tmp_path / "w.h5")

    def locked(*_: object, **__: object) -> None:  # root, who runs the tests at times, may read all
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(h5py, "File", locked)
    assert "no permission" in refusal(path)


# -- writing --------------------------------------------------------------------------------------


def test_float16_overflow_names_the_tensor(tmp_path: Path) -> None:
    tensors = {**GOOD.tensors, "logits/bias": np.array([1, 65_520], np.float32)}
    large = GOOD._replace(tensors=tensors)
    with pytest.raises(WeightsError, match="logits/bias: NaN or infinity in float16"):
        write_weights(tmp_path / "w.h5", large, float16=True)
    assert not list(tmp_path.iterdir())
    write_weights(tmp_path / "w.h5", large)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("one",)}, "labels: expected"),
        ({"labels": ("x" * 2000, "y")}, "labels: refused, 2000 bytes"),
        ({"mean": (1.0, 2.0)}, "mean, std, epsilon"),
        ({"epsilon": 0.0}, "mean, std, epsilon"),
        ({"preset": "else"}, "no preset"),
        ({"input_size": 1}, "input_size"),
        ({"licence": "x" * 100_000}, "attribute licence"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=rf"w\.h5: not written, .*{message}"):
        write_weights(tmp_path / "w.h5", GOOD._replace(metadata=replace(ABOUT, **change)))
    assert not list(tmp_path.iterdir())


def test_tensors_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    tensors = {n: t for n, t in GOOD.tensors.items() if n != "stem/bn/beta"}
    tensors["logits/bias"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError, match=r"stem/bn/beta: missing; logits/bias: expected \(2,\)"):
        write_weights(tmp_path / "w.h5", GOOD._replace(tensors=tensors))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["h5py.Group.create_dataset", "os.replace"])
def test_a_failure_leaves_the_old_file_alone(
    failure: BaseException, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes(b"the old file")
    calls = itertools.count()
    owner, _, name = place.rpartition(".")
    target = os if owner == "os" else h5py.Group
    real = getattr(target, name)

    def fails(*args: Any, **how: Any) -> Any:
        if name == "replace" or next(calls) == 5:
            raise failure
        return real(*args, **how)

    monkeypatch.setattr(target, name, fails)
    expected = WeightsError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is WeightsError else None):
        write_weights(path, GOOD)
    assert [p.name for p in tmp_path.iterdir()] == ["w.h5"]
    assert path.read_bytes() == b"the old file"


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes(b"the old file")
    for limit in (0, 1000, len(good_bytes()) - 1):
        said = answer("write", path, limit)
        assert said.startswith(f"WeightsError {path}: cannot be written (File too large)")
        assert [p.name for p in tmp_path.iterdir()] == ["w.h5"]
        assert path.read_bytes() == b"the old file"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(WeightsError, match="cannot be written"):
            write_weights(folder / "w.h5", GOOD)
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    if os.access(shut, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(WeightsError, match="cannot be written"):
        write_weights(shut / "w.h5", GOOD)


def test_a_link_a_pipe_and_no_path_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "target.h5", GOOD)
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "target.h5", tmp_path / "link")
    for name in ("pipe", "link", "", "a\0b", "\ud800"):
        with pytest.raises(WeightsError) as caught:
            write_weights(tmp_path / name, GOOD)
        assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    wrong: Any = None
    with pytest.raises(WeightsError, match="expected Weights"):
        write_weights(tmp_path / "other.h5", wrong)


def test_the_file_takes_the_place_and_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes(b"the old file")
    before = os.umask(0o027)
    try:
        write_weights(path, GOOD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == good_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["w.h5"]


# -- damage ---------------------------------------------------------------------------------------


HANGS = 10  # seconds of computing for one file, which takes some milliseconds


def damages(data: bytes, kind: str) -> Iterator[tuple[int, bytes]]:
    """Every truncation, or a flipped bit at every byte: each bit of the eight has its turn."""
    for i in range(len(data)):
        if kind == "cut":
            yield i, data[:i]
        else:
            yield i, data[:i] + bytes([data[i] ^ 1 << i % 7 + i // 7 % 2]) + data[i + 1 :]


def sweep(source: str, scratch: str, kind: str, part: int, parts: int) -> None:
    """Read a file in every damaged state; print what came of each that should not be so.

    An endless loop ends the process by SIGPROF, which Python would not notice inside the library; a
    crash by another signal. What was last printed then tells where.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    good, counts = read_weights(source), {"right": 0, "refused": 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    states = itertools.islice(damages(Path(source).read_bytes(), kind), part, None, parts)
    with open(scratch, "wb", buffering=0) as file:
        for i, damaged in states:
            print(f"{kind} at byte {i}", flush=True)
            file.seek(0)
            file.write(damaged)
            file.truncate()
            signal.setitimer(signal.ITIMER_PROF, HANGS)
            try:
                assert same(read_weights(scratch), good), "the wrong answer"
                counts["right"] += 1
            except TinyMixNetError:
                counts["refused"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(json.dumps({**counts, "grown": grown}))


@pytest.mark.parametrize("kind", ["cut", "flip"])
def test_damage_never_goes_unseen(kind: str, tmp_path: Path) -> None:
    """Each damaged file is refused with our own error, or gives what it gave undamaged."""
    source = tmp_path / "w.h5"
    source.write_bytes(good_bytes())
    runs = [
        elsewhere("sweep", source, tmp_path / f"{part}.h5", kind, part, "2") for part in range(2)
    ]
    try:
        outputs = [run.communicate(timeout=900)[0].splitlines() for run in runs]
    finally:
        for run in runs:
            run.kill()
    total = 0
    for run, lines in zip(runs, outputs, strict=True):
        told = [line for line in lines[:-1] if not line.startswith(kind)]
        assert run.returncode == 0, (lines[-1], run.returncode, told)
        counts = json.loads(lines[-1])
        print(kind, counts)
        assert counts["grown"] < 50 * 1024, "KiB of memory"
        assert counts["refused"] > counts["right"]
        assert kind == "flip" or counts["right"] == 0
        total += counts["refused"] + counts["right"]
    assert total == len(good_bytes())


def run_as_program(task: str, path: str, *arguments: str) -> None:
    """What a test wants done in another process: `read`, `write` under a size limit, `sweep`."""
    if task == "sweep":
        scratch, kind, part, parts = arguments
        return sweep(path, scratch, kind, int(part), int(parts))
    if task == "write":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a file too large is an error
        limit = int(arguments[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        read_weights(path) if task == "read" else write_weights(path, GOOD)
        print("no error")
    except TinyMixNetError as error:
        print(type(error).__name__, error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None


if __name__ == "__main__":
    run_as_program(*sys.argv[1:])
