"""`diagnose` names every bug planted in a live TensorFlow network, and none where there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymixnet
from tests.support import planted
from tests.support import tensorflow_reference as reference
from tests.support.planted import BUGS, CORRECT, PAIRS, UNKNOWN, Bug, planted_layers
from tests.support.synthetic import synthetic_image
from tinymixnet.cli import main
from tinymixnet.debug.diagnose import diagnose, resized
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.budget import budget
from tinymixnet.engine.images import preprocess, read_image
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.model import Model, load

Layers = dict[str, np.ndarray]

SEEN = 1e-4  # what a planted bug must change, against a layer's largest value
PHOTO = Path(tinymixnet.__file__).parent / "data" / "cat.jpg"
EVERY = BUGS | PAIRS

# Every feature of the block strings; all splits are even, so that groups can be confused.
SMALL = reference.Network(
    stages=(
        "r1_k3_a1_p1_s11_e1_i8_o8",
        "r1_k3.5.7_a1.1_p1.1_s22_e6_i8_o12",
        "r2_k3.5_a1.1_p1.1_s11_e4_i12_o12_se0.5_sw",
        "r1_k3.5.7.9_a1_p1_s22_e4_i12_o16_se0.5_sw",
        "r2_k3.5_a1.1_p1.1_s11_e3_i16_o16_se0.25_sw",
    ),
    stem=8,
    head=32,
    classes=10,
)


LABELS = ("tench", "Egyptian cat", "zebra", "ant", "llama", "yawl", "boat", "quilt", "dome", "pug")


def distance(reference: np.ndarray, other: np.ndarray) -> float:
    """The largest difference against the largest value; infinite where shapes or NaN differ."""
    if reference.shape != other.shape or not np.isfinite(other).all():
        return np.inf
    return float(np.abs(reference - other).max() / np.abs(reference).max())


@dataclass
class Subject:
    """A network with pixels for it, and its runs, each made once when first needed."""

    net: reference.Network
    model: Model
    pixels: np.ndarray
    photo: Path | None = None

    def __post_init__(self) -> None:
        self.runs: dict[str, Layers] = {}

    @cached_property
    def clean(self) -> Layers:
        return planted_layers(CORRECT["eager"], self.net, self.model.tensors, self.pixels)

    @cached_property
    def raw(self) -> Model:
        tensors = planted.raw_tensors(self.model.tensors, seed=5)
        return Model(self.model.architecture, tensors, self.model.metadata)

    def planted(self, name: str) -> Layers:
        if name not in self.runs:
            self.runs = {name: self.run(EVERY[name])}  # the last one only: L's take much memory
        return self.runs[name]

    def run(self, bug: Bug) -> Layers:
        pixels = self.pixels
        if bug.resize is not None:
            assert self.photo
            pixels = bug.resize(read_image(self.photo), pixels.shape[1])[None]
        labels = self.model.metadata.labels
        return planted_layers(bug, self.net, self.model.tensors, pixels, self.raw.tensors, labels)

    def diagnose(self, path: Path, raw: Model | None = None) -> Any:
        n, h, w, _ = self.pixels.shape
        dump = open_dump(path, self.model.architecture, n, h, w)
        return diagnose(self.model, self.pixels, dump, photo=self.photo, raw=raw)


def small_model() -> Model:
    louder = {"stem/bn/gamma": [6.0]}  # else nothing in the stem is above 6, where ReLU6 ends
    pictures = synthetic_image(4, 128, 128, seed=9)
    tensors = reference.calibrated_tensors(SMALL, pictures, seed=2, factors=louder)
    architecture = Architecture("small", SMALL.stages, SMALL.stem, SMALL.head, 1.0, SMALL.classes)
    return Model(architecture, tensors, Metadata(labels=LABELS, input_size=64))


@pytest.fixture(scope="module")
def small() -> Subject:
    """Two pictures at once, made up."""
    return Subject(SMALL, small_model(), synthetic_image(2, 64, 64, seed=4).astype(np.float32))


@pytest.fixture(scope="module")
def small_photo() -> Subject:
    model = small_model()
    return Subject(SMALL, model, model.pixels(PHOTO), PHOTO)


def bundled() -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TINYMIXNET_WEIGHTS", raising=False)
        return load()


@pytest.fixture(scope="module")
def large() -> Subject:
    """MixNet-L with the weights that come along, and a photo as `tinymixnet diagnose` takes it."""
    model = bundled()
    net = replace(reference.NETWORKS["mixnet-l"], classes=model.architecture.classes)
    return Subject(net, model, model.pixels(PHOTO), PHOTO)


@pytest.fixture(scope="module")
def large_224(large: Subject) -> Subject:
    pixels = preprocess(read_image(PHOTO), "tf", 224)[None]
    return Subject(large.net, large.model, pixels)


# -- dumps -----------------------------------------------------------------------------------------


def only_blocks(layers: Layers, answer: bool = False) -> Layers:
    """What a port shows that marks only its blocks' outputs, with or without its answer."""
    return {
        name: x
        for name, x in layers.items()
        if (name.startswith("blocks_") and name.endswith("/output"))
        or (answer and name in ("logits", "probabilities"))
    }


def dumped(layers: Layers, mode: str, bug: Bug) -> Layers:
    """The layers of a mode, laid out as it says; NHWC unless it says nchw."""
    if mode.startswith("blocks"):
        layers = only_blocks(layers, bug.answer)
    return {name: _laid_out(x, mode, bug) for name, x in layers.items()}


def _laid_out(x: np.ndarray, mode: str, bug: Bug) -> np.ndarray:
    if x.ndim != 4:
        return x
    n, h, w, c = x.shape
    if mode.endswith("nchw"):
        return x.reshape(n, c, h, w) if bug.mixed_up else x.transpose(0, 3, 1, 2)
    return x.transpose(0, 3, 1, 2).reshape(x.shape) if bug.mixed_up else x


def write(path: Path, layers: Layers) -> Path:
    """An .npz where the path says so, else a folder with an .npy a layer."""
    if path.suffix == ".npz":
        np.savez(path, **layers)  # type: ignore[arg-type]
        return path
    for name, x in layers.items():
        file = path / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, x)
    return path


# -- the planted bugs themselves -------------------------------------------------------------------


# The layers whose shapes are not the network's.
UNLIKE = {
    "picture padded": {"normalize"},
    "se half as wide": {f"blocks_{i}/se_{part}" for i in range(2, 7) for part in ("reduce", "act")},
    "background class": {"logits", "probabilities"},
    "se before depthwise": {"blocks_4/se_scale"},  # as large as the block's input
    "symmetric padding + se before depthwise": {"blocks_4/se_scale"},
}


def subject_of(request: pytest.FixtureRequest, size: str, name: str) -> Subject:
    if size == "small" and EVERY[name].resize:
        size = "small_photo"
    return request.getfixturevalue(size)


def changes(clean: Layers, layers: Layers) -> dict[str, float]:
    return {name: distance(clean[name], x) for name, x in layers.items()}


@pytest.mark.parametrize("name", EVERY)
def test_a_planted_bug_shows(request: pytest.FixtureRequest, name: str) -> None:
    """It changes what a dump of the blocks' outputs holds, and makes no NaN of it."""
    subject, bug = subject_of(request, "small", name), EVERY[name]
    layers = dumped(subject.planted(name), "blocks", bug)
    assert list(layers) == list(only_blocks(subject.clean, bug.answer))
    assert max(changes(subject.clean, layers).values()) > SEEN
    if "fp16-overflow" not in bug.causes:
        assert all(np.isfinite(x).all() for x in layers.values())
    every = subject.planted(name)
    unlike = {layer for layer, x in every.items() if x.shape != subject.clean[layer].shape}
    assert unlike == UNLIKE.get(name, set())


@pytest.mark.parametrize("name", PAIRS)
def test_each_bug_of_a_pair_shows(small_photo: Subject, name: str) -> None:
    """The run differs from that with only one of them."""
    together = small_photo.planted(name)
    for part in PAIRS[name].parts:
        assert max(changes(small_photo.run(BUGS[part]), together).values()) > SEEN


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_port_is_right(small: Subject, name: str) -> None:
    layers = small.run(CORRECT[name])
    ours = dict(small.model.layers(small.pixels))
    assert layers.keys() <= ours.keys()
    assert max(changes(ours, layers).values()) < 5e-5


# -- diagnose names them ---------------------------------------------------------------------------


def check(found: Any, causes: tuple[str, ...], subject: Subject, layers: Layers) -> None:
    """That these causes were found, with places and errors that can be true.

    The first cannot show after the first layer that everyone sees differ. `layers` are the dumped
    ones, as NHWC.
    """
    assert [cause.slug for cause in found.causes] == list(causes)
    assert list(found.slugs) == list(causes)
    assert found.text().splitlines()[0] == "cause: " + ", ".join(causes)
    assert not found.alike
    order = list(subject.clean)
    places = [order.index(cause.place) for cause in found.causes]
    assert places == sorted(places)
    errors = changes(subject.clean, layers)
    assert places[0] <= min(order.index(name) for name, error in errors.items() if error > SEEN)
    for cause in found.causes:
        assert 0 <= cause.after < cause.before or cause.slug == "unknown"
        assert len(cause.sentence) > 20
        assert cause.sentence in found.text()


def begins(subject: Subject, layers: Layers) -> int:
    """The first place, in the network's order, where the bug can be: what is before is right."""
    errors, order = changes(subject.clean, layers), list(subject.clean)
    differs = min(order.index(name) for name, error in errors.items() if error > 1e-6)
    return max((order.index(n) for n in layers if order.index(n) < differs), default=-1) + 1


def look(subject: Subject, name: str, mode: str, folder: Path) -> None:
    """Write the planted run down and have it diagnosed."""
    bug = EVERY[name]
    layers = subject.planted(name)
    path = folder / ("dump" if mode.startswith("blocks") else "dump.npz")
    write(path, dumped(layers, mode, bug))
    found = subject.diagnose(path, raw=subject.raw if bug.raw else None)
    shown = only_blocks(layers, bug.answer) if mode.startswith("blocks") else layers
    if bug.mixed_up:
        shown = dumped(shown, "full", bug)
    assert max(changes(subject.clean, shown).values()) > SEEN  # or naming it would be luck
    causes = bug.causes
    if mode.startswith("blocks") and bug.blocks:
        causes = bug.blocks
    if mode.startswith("blocks") and sorted(found.slugs) == sorted(causes):
        causes = tuple(found.slugs)  # both may first show in the same block: then in either order
    check(found, causes, subject, shown)
    if not (mode.startswith("blocks") or bug.mixed_up):  # where all can be seen
        place = list(subject.clean).index(found.causes[0].place)
        assert place >= begins(subject, layers)
    if not {"low-precision", "unknown"} & set(causes):
        assert found.causes[-1].after < found.causes[0].before / 2


@pytest.mark.parametrize("mode", ["blocks", "nchw"])
@pytest.mark.parametrize("name", EVERY)
def test_small(request: pytest.FixtureRequest, name: str, mode: str, tmp_path: Path) -> None:
    look(subject_of(request, "small", name), name, mode, tmp_path)


# On MixNet-L each mistake comes in one of the two kinds of dumps, in turns: both take too long.
LARGE = [
    (name, ("full", "blocks nchw")[number % 2])
    for number, name in enumerate([*planted.IN_MIXNET_L, *PAIRS])
]


@pytest.mark.parametrize(("name", "mode"), LARGE)
def test_large(large: Subject, name: str, mode: str, tmp_path: Path) -> None:
    look(large, name, mode, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["symmetric padding", "epsilon 1e-5", "depthwise flipped, one block", "bfloat16 activations"],
)
def test_large_at_224(large_224: Subject, name: str, tmp_path: Path) -> None:
    look(large_224, name, "full", tmp_path)


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.answer])
def test_blocks_do_not_show_what_is_wrong_after_them(
    small: Subject, name: str, tmp_path: Path
) -> None:
    found = small.diagnose(write(tmp_path / "dump", only_blocks(small.planted(name))))
    assert found.text().splitlines()[0] == "cause: none"


def test_raw_weights_at_hand_are_not_blamed_for_all(small: Subject, tmp_path: Path) -> None:
    path = write(tmp_path / "dump.npz", small.planted("epsilon 1e-5"))
    assert small.diagnose(path, raw=small.raw).slugs == ["bn-epsilon"]
    path = write(tmp_path / "clean.npz", small.clean)
    assert small.diagnose(path, raw=small.raw).alike


# -- a correct port --------------------------------------------------------------------------------


def correct(subject: Subject, how: str) -> Layers:
    """The layers of ports in which nothing is wrong."""
    if how in CORRECT:
        return subject.run(CORRECT[how])
    if how == "tf.function":  # free to join what is not asked for
        asked = [name for name in subject.clean if name.endswith(("/output", "/act", "logits"))]
        return reference.reference_layers(
            subject.net, subject.model.tensors, subject.pixels, fused=True, fetch=asked
        )
    if how == "float16 files":
        return {name: x.astype(np.float16) for name, x in subject.clean.items()}
    if how == "without batch":
        return {name: x[0] for name, x in subject.clean.items()}
    if how == "blocks":
        return only_blocks(subject.clean)
    if how == "answer":
        return {"logits": subject.clean["logits"]}
    mode = {"nchw": "nchw", "blocks nchw": "blocks nchw"}[how]
    return dumped(subject.clean, mode, CORRECT["eager"])


PORTS = [
    *CORRECT,
    "tf.function",
    "float16 files",
    "without batch",
    "nchw",
    "blocks",
    "blocks nchw",
    "answer",
]


@pytest.mark.parametrize("how", PORTS)
@pytest.mark.parametrize("size", ["small_photo", "large"])
def test_nothing_is_wrong_with_a_correct_port(
    request: pytest.FixtureRequest, size: str, how: str, tmp_path: Path
) -> None:
    subject = request.getfixturevalue(size)
    found = subject.diagnose(write(tmp_path / "dump.npz", correct(subject, how)))
    assert found.text().splitlines()[0] == "cause: none"
    assert found.alike
    assert not found.causes


def test_nothing_is_wrong_at_224(large_224: Subject, tmp_path: Path) -> None:
    assert large_224.diagnose(write(tmp_path / "dump.npz", large_224.clean)).alike


# -- what nobody makes -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_in_the_catalogue_is_unknown(
    request: pytest.FixtureRequest, size: str, name: str, tmp_path: Path
) -> None:
    """Then the text shows where it begins and the pattern of the error."""
    subject = request.getfixturevalue(size)
    pattern, run = UNKNOWN[name]
    layers = subject.run(Bug((), run))
    found = subject.diagnose(write(tmp_path / "dump.npz", layers))
    first, _, rest = found.text().partition("\n")
    assert first == "cause: unknown"
    assert not found.alike
    assert pattern in rest
    errors = changes(subject.clean, layers)
    assert next(name for name, error in errors.items() if error > SEEN) in rest


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_known_bug_beside_an_unknown_one(
    request: pytest.FixtureRequest, size: str, tmp_path: Path
) -> None:
    """What can be explained is named, and what is left is not passed over."""
    subject = request.getfixturevalue(size)
    run = planted.both(BUGS["epsilon 1e-5"].run, UNKNOWN["noise"][1])
    found = subject.diagnose(write(tmp_path / "dump.npz", subject.run(Bug((), run))))
    first = found.text().splitlines()[0]
    assert first == "cause: bn-epsilon, unknown"
    assert not found.alike


# -- the command -----------------------------------------------------------------------------------


@dataclass
class Files:
    """What the command is given: weights, pixels, dumps."""

    weights: str
    raw: str
    pixels: str


@pytest.fixture(scope="module")
def files(small: Subject, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    model = small.model
    for name, tensors in (("weights", model.tensors), ("raw", small.raw.tensors)):
        weights = Weights(model.architecture, dict(tensors), model.metadata)
        write_weights(folder / f"{name}.h5", weights)
    np.save(folder / "pixels.npy", small.pixels)
    return Files(*(str(folder / name) for name in ("weights.h5", "raw.h5", "pixels.npy")))


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", ["bgr", "no residual + hard sigmoid", "raw weights"])
def test_command(small: Subject, files: Files, name: str, tmp_path: Path, capsys: Output) -> None:
    path = str(write(tmp_path / "dump.npz", small.planted(name)))
    more = ["--raw-weights", files.raw] if EVERY[name].raw else []
    assert main(["diagnose", files.pixels, path, "--weights", files.weights, *more]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cause: " + ", ".join(EVERY[name].causes)
    assert len(lines) > 1


def test_command_on_a_correct_port(
    small: Subject, files: Files, tmp_path: Path, capsys: Output
) -> None:
    path = str(write(tmp_path / "dump", small.clean))
    assert main(["diagnose", files.pixels, path, "--weights", files.weights]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "cause: none"
    assert main(["diagnose", files.pixels, path, "--weights", files.weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["causes"] == []


def test_command_on_the_unknown(
    small: Subject, files: Files, tmp_path: Path, capsys: Output
) -> None:
    layers = small.run(Bug((), UNKNOWN["noise"][1]))
    path = str(write(tmp_path / "dump.npz", layers))
    assert main(["diagnose", files.pixels, path, "--weights", files.weights]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "cause: unknown"


def test_command_json(small: Subject, files: Files, tmp_path: Path, capsys: Output) -> None:
    path = str(write(tmp_path / "dump.npz", small.planted("no residual + hard sigmoid")))
    assert main(["diagnose", files.pixels, path, "--weights", files.weights, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [cause["slug"] for cause in found["causes"]] == ["missing-residual", "hard-sigmoid"]
    for cause in found["causes"]:
        assert {"slug", "place", "before", "after", "sentence"} <= set(cause)
        assert isinstance(cause["sentence"], str)
        assert cause["place"] in small.clean
        assert 0 <= cause["after"] < cause["before"]


@pytest.mark.parametrize("name", ["timm's resize", "bgr + symmetric padding"])
def test_command_with_a_photo_and_the_bundled_weights(
    large: Subject, name: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYMIXNET_WEIGHTS", raising=False)
    path = write(tmp_path / "dump", dumped(large.planted(name), "nchw", EVERY[name]))
    assert main(["diagnose", str(PHOTO), str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "cause: " + ", ".join(EVERY[name].causes)


def damaged(folder: Path, layers: Layers) -> dict[str, Path]:
    """Dumps that cannot be read, by what is wrong with them."""
    cut = write(folder / "cut", layers) / "stem" / "conv.npy"
    cut.write_bytes(cut.read_bytes()[:-100])
    lying = write(folder / "lying", layers) / "stem" / "conv.npy"
    lying.write_bytes(lying.read_bytes().replace(b"(2, 32, 32, 8)", b"(2, 32, 32, 9)", 1))
    objects = write(folder / "objects", layers) / "stem" / "conv.npy"
    np.save(objects, np.array([{}, None], object))
    text = folder / "text.npz"
    text.write_text("no zip")
    (folder / "empty").mkdir()
    return {
        "cut": folder / "cut",
        "lying": folder / "lying",
        "objects": folder / "objects",
        "text": text,
        "empty": folder / "empty",
        "absent": folder / "absent",
    }


@pytest.mark.parametrize("what", ["cut", "lying", "objects", "text", "empty", "absent"])
def test_command_on_what_cannot_be_read(
    small: Subject, files: Files, what: str, tmp_path: Path, capsys: Output
) -> None:
    path = damaged(tmp_path, small.clean)[what]
    assert main(["diagnose", files.pixels, str(path), "--weights", files.weights]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len([line for line in err.splitlines() if "tinymixnet:" in line]) == 1
    assert str(path) in err


def test_noise_may_be_our_own_weights(large: Subject, tmp_path: Path) -> None:
    """The bundled weights are stored as float16; a port may well run the unrounded ones."""
    rng = np.random.default_rng(0)
    model = large.model
    unrounded = {
        name: (tensor * (1 + rng.uniform(-(2**-12), 2**-12, tensor.shape))).astype(np.float32)
        for name, tensor in model.tensors.items()
    }
    port = Model(model.architecture, unrounded, model.metadata)
    write_dump(tmp_path / "port", port.layers(large.pixels))
    n, h, w, _ = large.pixels.shape
    dump = open_dump(tmp_path / "port", model.architecture, n, h, w)
    found = diagnose(model, large.pixels, dump)
    assert found.slugs == ["low-precision"]
    assert "float16 values" in found.text()


def test_another_shape_is_no_rounding(large: Subject, tmp_path: Path) -> None:
    """Logits of other classes, and all else right: nothing that a known mistake makes."""
    model = large.model
    layers = dict(model.layers(large.pixels))
    del layers["probabilities"]
    layers["logits"] = np.pad(layers["logits"], ((0, 0), (0, 5)))
    write_dump(tmp_path / "port", layers.items())
    n, h, w, _ = large.pixels.shape
    dump = open_dump(tmp_path / "port", model.architecture, n, h, w)
    found = diagnose(model, large.pixels, dump)
    assert (found.slugs, found.causes[0].place) == (["unknown"], "logits")
    assert "shape" in found.text()
    json.dumps(found.as_json(), allow_nan=False)


def test_a_large_photo_is_resized_in_the_ways_there_is_memory_for(
    small_photo: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small_photo.photo
    monkeypatch.setattr("tinymixnet.debug.diagnose.other_pixels", lambda how, _: how)
    photo = read_image(small_photo.photo)
    every = resized(small_photo.model, photo, small_photo.pixels)
    monkeypatch.setattr(budget, "photo_bytes", 4 * photo.width * photo.height)
    few = resized(small_photo.model, photo, small_photo.pixels)
    assert set(few) < set(every)
    assert any("squashing" in str(how) for how in few)
    assert not any("central square" in str(how) for how in few)
