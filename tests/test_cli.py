"""The installed commands, as a user types them."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights
from tinymixnet.engine.weights_writer import write_weights

CAT = BUNDLED.parent / "cat.jpg"
SCRIPT = shutil.which("tinymixnet", path=Path(sys.executable).parent)
COMMANDS = [[sys.executable, "-m", "tinymixnet"], [SCRIPT or "tinymixnet"]]


@pytest.fixture(params=COMMANDS, ids=["module", "script"])
def command(request):
    if request.param == ["tinymixnet"] and os.environ.get("CI") != "true":
        pytest.skip("the tinymixnet script is not installed: pip install .")
    return request.param


def run(command, *arguments, stdin=None, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("TINYMIXNET_")} | environment
    done = subprocess.run(
        [*command, *map(str, arguments)], input=stdin, capture_output=True, env=env, timeout=120
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


MODULE = COMMANDS[0]


def test_classify_a_photo(command):
    code, out, err = run(command, "classify", CAT)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == str(CAT)
    assert len(lines) == 6
    assert lines[1].split()[1] == "cat"
    assert "mixnet-l-cifar10" in err
    assert "python -m weights_tools fetch mixnet-l" in err
    assert len(err.splitlines()) == 1


def test_json_is_one_object_a_line_and_equals_python(tmp_path):
    code, out, _ = run(MODULE, "classify", CAT, CAT, "--json", "--top", 2)
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert first == second
    answers = tinymixnet.load().classify(CAT, top=2)
    assert first["image"] == str(CAT)
    for found, expected in zip(first["predictions"], answers, strict=True):
        assert found["label"] == expected.label
        assert found["index"] == expected.index
        assert found["probability"] == pytest.approx(expected.probability, rel=1e-5)


def test_standard_input_equals_the_file():
    _, from_file, _ = run(MODULE, "classify", CAT)
    code, from_stdin, _ = run(MODULE, "classify", "-", stdin=CAT.read_bytes())
    assert code == 0
    assert from_stdin.splitlines()[0] == "-"
    assert from_stdin.splitlines()[1:] == from_file.splitlines()[1:]


def test_a_bad_image_is_reported_and_the_rest_goes_on(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(CAT.read_bytes()[:500])
    code, out, err = run(MODULE, "classify", tmp_path / "none.jpg", tmp_path / "bad.jpg", CAT)
    assert code == 1
    assert out.splitlines()[0] == str(CAT)
    assert "none.jpg: no such file" in err
    assert "bad.jpg" in err
    assert len(err.splitlines()) == 3  # which weights, and a line for each bad photo


def test_top_larger_than_the_classes_gives_all():
    _, out, _ = run(MODULE, "classify", CAT, "--top", 50)
    assert len(out.splitlines()) == 11


@pytest.mark.parametrize("preset", ["tf", "timm", "omz", "thumbnail"])
def test_preset(preset):
    code, out, _ = run(MODULE, "classify", CAT, "--preset", preset, "--json", "--top", 1)
    assert code == 0
    expected = tinymixnet.load().classify(CAT, top=1, preset=preset)[0]
    found = json.loads(out)["predictions"][0]
    assert found["probability"] == pytest.approx(expected.probability, rel=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A weights file of a tiny network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    about = Metadata(labels=("a", "b", "c", "d", "e", "ü"), input_size=40, name="tiny")
    write_weights(path, Weights(TINY, synthetic_tensors(TINY), about))
    return path


def test_other_weights_by_option_and_by_environment(tiny):
    code, by_option, err = run(MODULE, "classify", CAT, "--weights", tiny)
    assert code == 0
    assert "tiny" in err
    assert "fetch" not in err
    code, by_environment, _ = run(MODULE, "classify", CAT, TINYMIXNET_WEIGHTS=str(tiny))
    assert code == 0
    assert by_environment == by_option


def test_output_that_the_terminal_cannot_show(tiny, tmp_path):
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.jpg")
    shutil.copy(CAT, name)
    code, out, _ = run(
        MODULE,
        "classify",
        name,
        "--weights",
        tiny,
        "--top",
        6,
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
    )
    assert code == 0
    assert "\\xfc" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify"], "IMAGE"),
        (["classify", "x.jpg", "--top", "0"], "whole number from 1"),
        (["classify", "x.jpg", "--top", "many"], "whole number from 1"),
        (["classify", "x.jpg", "--preset", "none"], "thumbnail"),
        (["classify", "x.jpg", "--weights", "none.h5"], "none.h5: no such weights file"),
        (["classify", "x.jpg", "--weights", __file__], "not a weights file"),
        (["summary", "--weights", "mixnet-s"], "python -m weights_tools fetch mixnet-s"),
        (["nonsense"], "classify"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    code, out, err = run(MODULE, *arguments, TINYMIXNET_HOME=str(tmp_path))
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_summary_counts_what_the_architecture_counts(tiny):
    code, out, _ = run(MODULE, "summary")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    architecture = tinymixnet.load().architecture
    assert list(rows)[1:-1] == list(architecture.layer_shapes(64, 64))
    parameters = [int(line[46:58].replace(",", "") or 0) for line in out.splitlines()[1:-1]]
    costs = [int(line[58:].replace(",", "") or 0) for line in out.splitlines()[1:-1]]
    total = out.splitlines()[-1]
    assert f"{sum(parameters):,} parameters" in total
    assert f"{sum(costs) / 1e6:.2f} M multiply-adds" in total
    assert run(MODULE, "summary", "--weights", tiny)[0] == 0


def test_version(command):
    assert run(command, "--version")[:2] == (0, f"tinymixnet {tinymixnet.__version__}\n")


def test_the_reader_of_a_pipe_may_leave():
    process = subprocess.Popen([*MODULE, "summary"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert b"Exception" not in err


def test_weights_tools_from_end_to_end(tmp_path):
    """convert, inspect and classify by the commands alone."""
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file
    from tests.weights_tools.test_convert import state_dict

    from tinymixnet.engine.architecture import mixnet

    tools = [sys.executable, "-m", "weights_tools"]
    tensors = synthetic_tensors(mixnet("mixnet-s", classes=3))
    save_file(state_dict("mixnet-s", tensors), tmp_path / "s.safetensors")
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    arguments = ["-o", tmp_path / "s.h5", "--labels", tmp_path / "labels.txt", "--float16"]
    code, out, err = run(tools, "convert", tmp_path / "s.safetensors", *arguments)
    assert (code, err) == (0, "")
    assert "mixnet-s, 3 classes" in out
    code, out, _ = run(tools, "inspect", tmp_path / "s.h5")
    assert code == 0
    assert "labels: 3, one, two, three" in out
    png = io.BytesIO()
    Image.fromarray(synthetic_image(1, 64, 64)[0]).save(png, "PNG")
    code, out, _ = run(
        MODULE, "classify", "-", "--weights", tmp_path / "s.h5", stdin=png.getvalue()
    )
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"one", "two", "three"}

    for mistake in (
        ["extract", tmp_path / "none", "-o", tmp_path / "x.h5"],
        ["extract", tmp_path],
        ["convert", tmp_path / "s.h5", "-o", tmp_path / "x.h5"],
        ["convert", tmp_path / "s.safetensors", "-o", tmp_path / "no" / "x.h5"],
        ["inspect", tmp_path / "labels.txt"],
        ["evaluate", tmp_path / "s.h5", tmp_path / "none.npz"],
        ["fetch", "resnet"],
    ):
        code, out, err = run(tools, *mistake)
        assert code == 2, mistake
        assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "x.h5").exists()
