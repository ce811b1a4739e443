"""The long runs, in short: they pass, each of them can fail, and a crash is a line, too."""

import mmap
import os
import re

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.startup import processor_seconds
from tinymixnet import model as model_module
from tinymixnet.fast.plan import Plan
from tinymixnet.model import Model

LINUX = pytest.mark.skipif(not soak.memory_in_use(), reason="needs Linux's /proc")


@LINUX
def test_the_quick_form_passes(capsys):
    start = processor_seconds()
    assert soak.main(["--quick"]) == 0
    assert processor_seconds() - start < 120  # about 20 s
    images, photos, threads, sizes = capsys.readouterr().out.splitlines()
    assert re.match(
        r"images: 600 images of 64 px, equal bit for bit, memory [+-]\d+\.\d MB", images
    )
    assert re.match(r"photos: 100 photos, 5 broken, [1-9]\d* workers killed: all answers", photos)
    assert re.match(r"threads: 16 loads and answers in 8 threads, [1-9]", threads)
    assert re.match(r"sizes: 12 input sizes in turn, 3 times: equal bit for bit", sizes)


def forgetful(call):
    """The same answer, and another 400 kB that nobody frees; not taken from a heap with room."""
    kept = []

    def answer(self, pixels, *rest):
        kept.append(mmap.mmap(-1, 400_000))
        kept[-1].write(b"x" * 400_000)
        return call(self, pixels, *rest)

    return answer


def drifting(call):
    """Its answers change in the last bit after a while."""
    calls = []

    def answer(self, pixels, *rest):
        calls.append(1)
        logits = call(self, pixels, *rest)
        return np.nextafter(logits, np.float32(9)) if len(calls) == 30 else logits

    return answer


@LINUX
@pytest.mark.parametrize("check", ["images", "sizes"])
def test_memory_that_grows_is_found(monkeypatch, check, capsys):
    monkeypatch.setattr(soak, "DRIFT_BYTES", 1 << 20)
    monkeypatch.setattr(Model, "__call__", forgetful(Model.__call__))
    assert soak.main(["--quick", "--check", check]) == 1
    assert re.match(rf"{check}: FAILED, memory \+[\d.]+ MB over", capsys.readouterr().out)


@pytest.mark.parametrize("check", ["images", "sizes"])
def test_answers_that_change_are_found(monkeypatch, check, capsys):
    monkeypatch.setattr(Model, "__call__", drifting(Model.__call__))
    assert soak.main(["--quick", "--check", check]) == 1
    assert "another answer than the first time" in capsys.readouterr().out


def lose_one(answers):
    next(answers)
    return answers


def leave_a_file(answers, left=[]):  # noqa: B006
    left.append(os.open(os.devnull, os.O_RDONLY))
    return answers


def swap_two(answers):
    first, second = next(answers), next(answers)
    yield second
    yield first
    yield from answers


@LINUX
@pytest.mark.parametrize(
    ("fault", "message"),
    [(lose_one, "photo"), (swap_two, "photo 0: "), (leave_a_file, "left behind: ")],
)
def test_faults_of_map_are_found(monkeypatch, fault, message, capsys):
    original = Model.map
    monkeypatch.setattr(Model, "map", lambda self, *a, **named: fault(original(self, *a, **named)))
    assert soak.main(["--quick", "--check", "photos"]) == 1
    assert capsys.readouterr().out.startswith(f"photos: FAILED, {message}")


def test_threads_that_disturb_each_other_are_found(monkeypatch, capsys):
    """A plan without its lock, and with a pause in the middle."""

    def run(self, image, wanted):
        program = self.program(*image.shape[:2])
        program.image[:] = image
        for step in program.steps:
            step.run()
        return [program.outputs[name].read() + np.random.default_rng().random() for name in wanted]

    monkeypatch.setattr(Plan, "run", run)
    assert soak.main(["--quick", "--check", "threads"]) == 1
    assert "SoakError: thread" in capsys.readouterr().out


def test_a_load_that_fails_in_a_thread_is_found(monkeypatch, capsys):
    calls = []

    def load(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise OSError("damaged")
        return model_module.load(*arguments)

    monkeypatch.setattr(soak, "load", load)
    assert soak.main(["--quick", "--check", "threads"]) == 1
    assert "1 threads failed; thread" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ending", "seconds", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60, "images: FAILED, ended with code -11"),
        ("raise KeyError('x')", 60, "images: FAILED, ended with code 1 KeyError: 'x'"),
        ("import time; time.sleep(60)", 1, "images: FAILED, no end after 1 s"),
    ],
)
def test_crashes_and_hangs_are_lines_of_the_report(
    monkeypatch, ending, seconds, message, capsys, tmp_path
):
    """The check's process runs another program instead."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/soak.py").write_text(ending)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(soak, "SECONDS", seconds)
    monkeypatch.setattr(soak, "CHECKS", {"images": soak.images})
    assert soak.main(["--quick"]) == 1
    assert capsys.readouterr().out.startswith(message)
