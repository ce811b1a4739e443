"""The installed commands, as a user types them."""

import configparser
import contextlib
import doctest
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tests.weights_tools.test_convert import state_dict
from tinymixnet.cli import Parser, bundled_photos, main
from tinymixnet.cli import run as run_parser
from tinymixnet.debug.strict_json import write_json
from tinymixnet.debug.traces import open_trace
from tinymixnet.engine.architecture import mixnet
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import LONGEST_TEXT, InputError, printable
from tinymixnet.report import explanation_words

ROOT = Path(__file__).parents[1]
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


def shown(name, predictions):
    """What `classify` prints of a photo."""
    return [name, *(f"  {p.probability:6.2%}  {p.label}" for p in predictions)]


def test_classify_a_photo(command):
    code, out, err = run(command, "classify", CAT)
    assert (code, err) == (0, "")
    assert out.splitlines() == shown(str(CAT), tinymixnet.load().classify(CAT))


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
    assert code == 2
    assert out.splitlines()[0] == str(CAT)
    assert "none.jpg: no such file" in err
    assert "bad.jpg" in err
    assert len(err.splitlines()) == 2


def test_top_larger_than_the_classes_gives_all():
    _, out, _ = run(MODULE, "classify", CAT, "--top", 5000)
    assert len(out.splitlines()) == 1 + len(tinymixnet.load().labels)


@pytest.mark.parametrize("preset", PRESETS)
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
    return write_tiny(path, ("a", "b", "c", "d", "e", "ü"))


def write_tiny(path, labels, name="tiny", variant="tiny"):
    metadata = Metadata(labels=labels, input_size=40, name=name)
    architecture = replace(TINY, variant=variant)
    write_weights(path, Weights(architecture, synthetic_tensors(TINY), metadata))
    return path


def out_labels(out):
    return {line.split()[1] for line in out.splitlines() if line.startswith("  ")}


def test_other_weights_by_option_and_by_environment(tiny):
    code, by_option, _ = run(MODULE, "classify", CAT, "--weights", tiny)
    assert code == 0
    assert out_labels(by_option) <= set("abcdeü")
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


def test_summary_counts_what_the_architecture_counts(tiny):
    code, out, _ = run(MODULE, "summary")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    architecture = tinymixnet.load().architecture
    size = tinymixnet.load().metadata.input_size
    assert list(rows)[1:-1] == list(architecture.layer_shapes(size, size))
    parameters = [int(line[46:58].replace(",", "") or 0) for line in out.splitlines()[1:-1]]
    costs = [int(line[58:].replace(",", "") or 0) for line in out.splitlines()[1:-1]]
    total = out.splitlines()[-1]
    assert f"{sum(parameters):,} parameters" in total
    assert f"{sum(costs) / 1e6:,.2f} M multiply-adds" in total
    assert run(MODULE, "summary", "--weights", tiny)[0] == 0


def test_version(command):
    assert run(command, "--version")[:2] == (0, f"tinymixnet {tinymixnet.__version__}\n")


# -- text from files ------------------------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;owned\x07 a\nb\r\x9b31m \u202egpj\u2066 \u200b\u2028\x7f\x00\udcff"


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF])
def test_a_control_character_is_shown_by_its_number(code):
    shown = printable(f"a{chr(code)}b")
    assert shown.isprintable()
    assert eval(f"'{shown}'") == f"a{chr(code)}b"


def test_the_example_of_printable():
    assert doctest.testmod(tinymixnet.errors) == (0, 1)


def test_text_that_can_be_shown_stays_as_it_is():
    for text in ("", "cat", 'Müller\'s \\ "dog"', "猫", "e\u0301"):
        assert printable(text) == text
    assert printable(EVIL).isprintable()
    assert printable(printable(EVIL)) == printable(EVIL)


def test_long_text_loses_its_middle():
    for text in ("x" * 5000, "\x1b" * 5000):
        shown = printable("begin" + text + "end")
        assert shown.startswith("begin")
        assert shown.endswith("end")
        assert " [...] " in shown
        assert len(shown) == LONGEST_TEXT
        assert printable(shown) == shown
    assert len(printable("x" * 5000, 50)) == 50
    assert printable("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT


def assert_harmless(*texts):
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n")), text


def test_labels_names_and_variants_are_shown_escaped(tmp_path):
    evil = EVIL.replace("\x00", "").replace("\udcff", "")  # which HDF5 cannot hold
    labels = (*(f"{evil}{i}" for i in range(5)), "last")
    weights = write_tiny(tmp_path / "evil.h5", labels, evil, evil)
    code, out, err = run(MODULE, "classify", CAT, "--weights", weights, "--top", 6)
    assert code == 0
    assert_harmless(out, err)
    assert len(out.splitlines()) == 7
    assert err == ""
    code, _, noted = run_at_a_terminal("classify", CAT, "--weights", weights)
    assert code == 0
    assert_harmless(noted)
    assert len(noted.splitlines()) == 1
    assert printable(evil) in noted
    code, out, err = run(MODULE, "summary", "--weights", weights)
    assert (code, err) == (0, "")
    assert_harmless(out)
    assert out.splitlines()[-1].startswith(printable(evil))
    code, out, _ = run(MODULE, "classify", CAT, "--weights", weights, "--top", 6, "--json")
    assert_harmless(out)
    [line] = out.splitlines()
    assert {p["label"] for p in json.loads(line)["predictions"]} == set(labels)


def test_file_names_and_arguments_are_shown_escaped(tiny, tmp_path):
    name = EVIL.replace("\x00", "").replace("/", "")
    shutil.copy(CAT, tmp_path / name)
    good, bad = str(tmp_path / name), str(tmp_path / f"{name}2")
    code, out, err = run(MODULE, "classify", good, bad, "--weights", tiny)
    assert code == 2
    assert_harmless(out, err)
    assert out.splitlines()[0] == printable(good)
    assert err == f"tinymixnet: {printable(bad)}: no such file\n"
    code, out, _ = run(MODULE, "classify", good, "--weights", tiny, "--json")
    assert json.loads(out)["image"] == good
    for mistake in (
        ["classify", CAT, f"--{name.replace(' ', '')}"],
        ["summary", "--weights", bad],
        [name],
    ):
        code, out, err = run(MODULE, *mistake)
        assert (code, out) == (2, "")
        assert_harmless(err)
        assert len(err.splitlines()) == 1


# -- streams that are closed, full, or nobody's ---------------------------------------------------


def shell(line, **environment):
    """Run a line of the shell, in which $T is the command and $CAT the photo."""
    command = f"{sys.executable} -m tinymixnet"
    return run(["bash", "-c", line], T=command, CAT=str(CAT), **environment)


def test_standard_input_that_is_closed():
    for options in ("", "--workers 1"):
        code, out, err = shell(f"$T classify - $CAT --top 1 {options} <&-")
        assert code == 1
        assert out.splitlines()[0] == str(CAT)
        assert err == "tinymixnet: -: standard input is closed\n"


@pytest.fixture(scope="module")
def trace(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    code, _, err = run(MODULE, "trace", CAT, "-o", folder / "dump", "--weights", tiny)
    assert (code, err) == (0, "")
    return folder / "dump"


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", ["--help", "summary", "classify $CAT --workers 1"])
def test_standard_output_that_cannot_be_written(arguments, where, tiny):
    code, _, err = shell(f"$T {arguments} {where}", TINYMIXNET_WEIGHTS=str(tiny))
    assert code == 1
    why = "No space left on device" if where == ">/dev/full" else "Bad file descriptor"
    assert err == f"tinymixnet: standard output: cannot be written ({why})\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--version",
        "classify --help",
        "demo",
        "classify CAT",
        "classify CAT --json",
        "summary",
        "summary --json",
        "trace CAT -o NEW",
        "trace CAT -o NEW --json",
        "compare CAT DUMP",
        "compare CAT DUMP --json",
        "diagnose CAT DUMP",
        "diagnose CAT DUMP --json",
        "report CAT -o NEW",
    ],
)
def test_no_command_loses_its_output_silently(arguments, tiny, trace, tmp_path, monkeypatch, capfd):
    files = {"CAT": str(CAT), "DUMP": str(trace), "NEW": str(tmp_path / "new")}
    monkeypatch.setenv("TINYMIXNET_WEIGHTS", str(tiny))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([files.get(word, word) for word in arguments.split()]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "tinymixnet: standard output: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_standard_error_that_cannot_be_written(where):
    _, expected, _ = run(MODULE, "classify", CAT, "--json")
    code, out, err = shell(f"$T classify none.jpg $CAT --json {where}")
    assert (code, out, err) == (2, expected, "")
    assert shell(f"$T nonsense {where}") == (2, "", "")
    assert shell(f"$T classify $CAT <&- >&- {where}") == (1, "", "")


@pytest.mark.parametrize("arguments", ["--help", "summary", "classify $CAT $CAT"])
def test_the_reader_of_a_pipe_may_leave(arguments):
    code, _, err = shell(f"$T {arguments} | true; exit ${{PIPESTATUS[0]}}")
    assert (code, err) == (1, "")


def test_an_interrupt_ends_quietly():
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*MODULE, "classify", CAT, "-", "--top", "1"], **pipes) as process:
        assert process.stdout.readline() == os.fsencode(f"{CAT}\n")
        assert process.stdout.readline().endswith(b"\n")
        time.sleep(0.2)  # it waits for the second photo now
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""


# -- what else can go wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("x: 1\n2"), "x: 1\\n2"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory (Unable to allocate 9 GiB)"),
        (RecursionError("maximum recursion depth"), "something in the input is nested too deeply"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more with `ul"),
        (OSError(errno.EIO, "Input/output error", "a\x1b"), "a\\x1b: Input/output error"),
        (OSError("unlike the others"), "unlike the others"),
        (ImportError("No module named 'PIL'"), "a part of this installation is missing: No mod"),
    ],
)
def test_an_error_in_a_command_is_one_line(error, message, capsys):
    def fail(_):
        print("begun")
        raise error

    parser = Parser(prog="program")
    parser.set_defaults(run=fail)
    assert run_parser(parser, []) == 2
    out, err = capsys.readouterr()
    assert out == "begun\n"
    assert err.startswith(f"program: {message}")
    assert len(err.splitlines()) == 1


def test_a_fault_of_ours_is_not_hidden():
    parser = Parser(prog="program")
    parser.set_defaults(run=lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_parser(parser, [])


def test_a_warning_is_one_line(capsys):
    parser = Parser(prog="program")
    parser.set_defaults(run=lambda _: warnings.warn("a\nb", stacklevel=1) or 0)
    assert run_parser(parser, []) == 0
    assert capsys.readouterr().err == "program: warning: a\\nb\n"


def test_a_photo_for_which_memory_is_short_fails_alone(monkeypatch, capsys):
    def classify(self, image, *_):
        if image == "large.jpg":
            raise MemoryError("Unable to allocate 9 GiB")
        return [tinymixnet.Prediction("cat", 1.0, 0)]

    monkeypatch.setattr(tinymixnet.Model, "classify", classify)
    assert main(["classify", "large.jpg", "small.jpg"]) == 2
    out, err = capsys.readouterr()
    assert out == "small.jpg\n  100.00%  cat\n"
    assert err == "tinymixnet: large.jpg: not enough memory (Unable to allocate 9 GiB)\n"


def test_pixels_that_do_not_fit_are_a_photo_that_failed(tiny, tmp_path):
    np.save(tmp_path / "bad.npy", np.zeros((5, 5), np.float32))
    code, out, err = run(MODULE, "classify", tmp_path / "bad.npy", CAT, "--weights", tiny)
    assert code == 2
    assert out.splitlines()[0] == str(CAT)
    assert err.startswith(f"tinymixnet: {tmp_path / 'bad.npy'}: ")
    assert len(err.splitlines()) == 1


def test_too_few_open_files():
    for options in ("", "--workers 60"):
        code, _, err = shell(f"ulimit -n 20; $T classify $CAT $CAT $CAT --top 1 {options}")
        assert code in (0, 2)
        assert len(err.splitlines()) == code // 2


def test_limits_in_the_environment(tiny):
    code, out, err = run(MODULE, "summary", TINYMIXNET_BUDGET="photo_pixles=5")
    assert (code, out) == (2, "")
    assert "TINYMIXNET_BUDGET" in err
    assert "photo_pixels" in err
    assert len(err.splitlines()) == 1
    assert run(MODULE, "summary", "--weights", tiny, TINYMIXNET_BUDGET="photo_pixels=5")[0] == 0


# -- which weights have answered ------------------------------------------------------------------


def run_at_a_terminal(*arguments, both=False, **environment):
    """Run a command whose standard error, or also its output, is a terminal."""
    ours, theirs = os.openpty()
    env = {k: v for k, v in os.environ.items() if not k.startswith("TINYMIXNET_")} | environment
    command = [*MODULE, *map(str, arguments)]
    try:
        out = theirs if both else subprocess.PIPE
        process = subprocess.Popen(command, stdout=out, stderr=theirs, stdin=theirs, env=env)
    finally:
        os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), contextlib.closing(os.fdopen(ours, "rb", 0)) as terminal:
        while part := terminal.read(1 << 16):  # ends with an error when the last one closes it
            shown += part
    out = process.communicate(timeout=60)[0] or b""
    return process.returncode, out.decode(), shown.decode().replace("\r\n", "\n")


def test_the_weights_are_noted_once_after_the_answers():
    code, _, screen = run_at_a_terminal("classify", CAT, CAT, "--top", 1, both=True)
    assert code == 0
    lines = screen.splitlines()
    assert [lines[0], lines[2]] == [str(CAT)] * 2
    model = tinymixnet.load()
    [note] = lines[4:]
    weights = f"weights {model.metadata.name}, {len(model.labels)} classes"
    assert note.startswith(f"tinymixnet: {weights}; for the 1000 ImageNet classes run ")
    assert "`python -m weights_tools fetch mixnet-l`" in note


def test_the_note_says_what_is_true_of_other_weights(tiny):
    code, out, err = run_at_a_terminal("classify", CAT, "--weights", tiny)
    assert (code, len(out.splitlines())) == (0, 6)
    assert err == "tinymixnet: weights tiny, 6 classes\n"
    assert run_at_a_terminal("demo", TINYMIXNET_WEIGHTS=str(tiny))[2] == err


def test_no_note_before_an_error_nor_for_a_program(tiny):
    weights = ["--weights", tiny]
    code, _, err = run_at_a_terminal("classify", CAT, "none.jpg", *weights)
    assert code == 2
    lines = ["none.jpg: no such file", "weights tiny, 6 classes"]
    assert err.splitlines() == [f"tinymixnet: {line}" for line in lines]
    code, out, err = run_at_a_terminal("classify", "none.jpg", *weights)
    assert (code, out, err) == (2, "", "tinymixnet: none.jpg: no such file\n")
    code, out, err = run_at_a_terminal("classify", CAT, "--json", *weights)
    assert (code, len(out.splitlines()), err) == (0, 1, "")
    assert run(MODULE, "classify", CAT, *weights)[2] == ""


# -- exit codes -----------------------------------------------------------------------------------

MISSING = {
    "classify": "classify NONE",
    "classify, one of two": "classify CAT NONE",
    "classify, first of two": "classify NONE CAT",
    "classify with workers": "classify CAT NONE --workers 1",
    "classify --json": "classify NONE --json",
    "trace": "trace NONE -o NEW",
    "compare": "compare NONE DUMP",
    "diagnose": "diagnose NONE DUMP",
    "report": "report NONE -o NEW",
    "explain": "explain NONE",
}


@pytest.mark.parametrize("command", MISSING)
def test_a_missing_photo_has_one_exit_code(command, tiny, trace, tmp_path):
    """With a real process, as a script sees it."""
    words = MISSING[command].split()
    missing = tmp_path / "missing.jpg"
    files = {"NONE": missing, "CAT": CAT, "DUMP": trace, "NEW": tmp_path / "new"}
    arguments = [files.get(word, word) for word in words]
    code, out, err = run(MODULE, *arguments, TINYMIXNET_WEIGHTS=str(tiny))
    assert code == 2
    assert err == f"tinymixnet: {missing}: no such file\n"
    assert bool(out) == ("CAT" in words)
    assert not (tmp_path / "new").exists()


def test_only_a_difference_is_1(tiny, trace, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYMIXNET_WEIGHTS", str(tiny))
    pixels = np.load(trace / "image.npy")
    np.save(tmp_path / "other.npy", pixels[:, ::-1])
    for command in ("compare", "diagnose"):
        assert main([command, str(trace / "image.npy"), str(trace)]) == 0
        assert main([command, str(tmp_path / "other.npy"), str(trace)]) == 1


# -- JSON -----------------------------------------------------------------------------------------


def strict(text):
    """Parse JSON as its definition has it: without NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_of_numbers_that_json_lacks():
    value = {"a": [np.inf, -np.inf, np.nan, 1.5], "b": (float("inf"), {"c": float("nan")}), "d": 1}
    text = write_json(value)
    assert strict(text) == {"a": [None, None, None, 1.5], "b": [None, {"c": None}], "d": 1}
    assert "\n" not in text


def test_classify_has_null_for_a_probability_that_is_none(monkeypatch, capsys):
    answer = [tinymixnet.Prediction("cat", float("nan"), 0)]
    monkeypatch.setattr(tinymixnet.Model, "classify", lambda *_: answer)
    assert main(["classify", "x.jpg", "--json"]) == 0
    [prediction] = strict(capsys.readouterr().out)["predictions"]
    assert prediction == {"label": "cat", "probability": None, "index": 0}


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_an_infinite_error_is_null(command, tiny, trace, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINYMIXNET_WEIGHTS", str(tiny))
    bad = np.load(trace / "stem" / "conv.npy")
    bad[0, 0, 0, 0] = np.inf
    np.savez(tmp_path / "bad.npz", **{"stem/conv": bad})
    image = str(trace / "image.npy")
    assert main([command, image, str(tmp_path / "bad.npz"), "--json"]) == 1
    found = strict(capsys.readouterr().out)
    if command == "compare":
        [row] = [row for row in found["rows"] if row["layer"] == "stem/conv"]
        assert row["error"] is row["snr"] is None
    else:
        assert found["causes"]


def test_json_of_summary(tiny, capsys):
    for weights in (BUNDLED, tiny):
        assert main(["summary", "--json", "--weights", str(weights)]) == 0
        found = strict(capsys.readouterr().out)
        model = tinymixnet.load(weights)
        network, size = model.architecture, model.metadata.input_size
        assert found["network"] == model.metadata.name
        assert (found["variant"], found["classes"]) == (network.variant, network.classes)
        assert found["input"] == [size, size]
        assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
        assert found["multiply_adds"] == sum(layer["multiply_adds"] for layer in found["layers"])
        shapes = {layer["name"]: tuple(layer["shape"]) for layer in found["layers"]}
        assert shapes == network.layer_shapes(size, size)


@pytest.mark.parametrize("name", ["dump", "dump.npz"])
def test_json_of_trace(tiny, tmp_path, capsys, name):
    output = str(tmp_path / name)
    arguments = ["trace", str(CAT), "-o", output, "--weights", str(tiny), "--layers", "stem/*"]
    assert main([*arguments, "--json"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 1
    found = strict(text)
    assert (found["output"], found["image"], found["network"]) == (output, CAT.name, "tiny")
    assert (found["preset"], found["input"]) == ("tf", [1, 40, 40, 3])
    written = open_trace(output)
    assert [layer["name"] for layer in found["layers"]] == written.names
    for layer in found["layers"]:
        header = written.header(layer["name"])
        assert (tuple(layer["shape"]), layer["dtype"]) == (header.shape, header.dtype.name)


def test_json_of_a_trace_of_pixels_has_no_preset(tiny, trace, tmp_path, capsys):
    image = str(trace / "image.npy")
    arguments = ["trace", image, "-o", str(tmp_path / "dump"), "--weights", str(tiny), "--json"]
    assert main(arguments) == 0
    assert strict(capsys.readouterr().out)["preset"] is None


# -- from any folder ------------------------------------------------------------------------------


def test_demo_names_what_is_in_the_bundled_photos_and_shows_why(tmp_path):
    """From a folder in which there is nothing."""
    done = subprocess.run(
        [*MODULE, "demo", "-o", "pages"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    photos = bundled_photos()
    assert CAT in photos
    model = tinymixnet.load()
    expected = []
    for photo in photos:
        why = [
            f"  {line}".rstrip()
            for line in explanation_words.text(model.explain(photo)).splitlines()
        ]
        page = str(Path("pages", f"{photo.stem}.html"))
        expected += [*shown(photo.name, model.classify(photo)), "", *why, "", page, ""]
        assert (tmp_path / page).read_text("utf-8").startswith("<!DOCTYPE html>")
    assert done.stdout.splitlines() == expected
    assert {path.stem for path in (tmp_path / "pages").iterdir()} == {p.stem for p in photos}


def test_demo_keeps_what_it_did_not_write(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TINYMIXNET_WEIGHTS", str(tiny))
    page = tmp_path / f"{CAT.stem}.html"
    for _ in range(2):  # its own pages are replaced
        assert main(["demo", "-o", str(tmp_path)]) == 0
    assert main(["demo", "-o", str(page)]) == 2  # a file is no folder
    assert "exists" in capsys.readouterr().err
    page.write_text("my own page")
    assert main(["demo", "-o", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert str(page) in err
    assert page.read_text() == "my own page"


def test_every_file_of_the_packages_is_installed():
    """What is not Python's is only installed if setup.cfg says so."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = {
        package: [pattern.strip() for pattern in re.split("[,\n]", listed)]
        for package, listed in setup["options.package_data"].items()
    }
    for package in ("tinymixnet", "weights_tools"):
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            assert any(
                path.match(f"{name.replace('.', '/')}/{pattern}")
                for name, listed in patterns.items()
                for pattern in listed
            ), f"{path.relative_to(ROOT)} is not in package_data"


def test_weights_tools_from_end_to_end(tmp_path):
    """convert, inspect and classify by the commands alone."""
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

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
