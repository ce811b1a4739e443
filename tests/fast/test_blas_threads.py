"""One BLAS thread while the network runs, and the user's number before, beside and after."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinymixnet
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.fast import blas_threads
from tinymixnet.fast.blas_threads import OpenBLAS, one_blas_thread, openblas
from tinymixnet.model import Model


@pytest.fixture
def blas(monkeypatch):
    """An OpenBLAS that has three threads, and only counts."""
    number = [3]
    fake = OpenBLAS(lambda: number[0], lambda n: number.__setitem__(0, n))
    monkeypatch.setattr(blas_threads, "openblas", lambda: fake)
    return fake


def test_one_thread_inside_and_as_many_as_before_outside(blas):
    with one_blas_thread():
        assert blas.threads() == 1
    assert blas.threads() == 3
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert blas.threads() == 3


def test_several_threads_inside_at_once(blas):
    """The number is set back when the last of them is done, whoever came first."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with one_blas_thread():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second():
        first_in.wait(10)
        with one_blas_thread():
            second_in.set()
            first_out.wait(10)
            seen.append(blas.threads())

    seen = []
    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1]
    assert blas.threads() == 3


def test_a_number_that_somebody_sets_meanwhile_stays(blas):
    with one_blas_thread():
        blas.set_threads(2)
    assert blas.threads() == 2


def test_an_interrupt_at_the_worst_place_is_made_good_by_the_next_run(blas):
    runs = one_blas_thread()
    runs.__enter__()  # and never left, as if Ctrl-C had come before the block
    with one_blas_thread():
        assert blas.threads() == 1
    assert blas.threads() == 3
    runs.__exit__(None, None, None)
    assert blas.threads() == 3


def test_a_single_thread_is_never_set(blas):
    blas.set_threads(1)
    with one_blas_thread():
        assert blas.threads() == 1
    assert blas.threads() == 1


def test_another_blas_is_left_alone(monkeypatch):
    monkeypatch.setattr(blas_threads, "openblas", lambda: None)
    with one_blas_thread():
        pass


def test_the_plan_runs_with_one_thread(blas):
    model, seen = Model(TINY, synthetic_tensors(TINY)), []
    image = synthetic_image(1, 40, 48)
    model(image)
    step = model.plan.program(40, 48).steps[0]
    model.plan.program(40, 48).steps[0] = step._replace(run=lambda: seen.append(blas.threads()))
    model(image)
    model.plan.profile(image[0])
    assert seen == [1, 1]
    assert blas.threads() == 3


def test_a_fork_in_the_middle_of_a_run_begins_with_the_users_number(blas):
    inside, done = threading.Event(), threading.Event()

    def run():
        with one_blas_thread():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    inside.wait(10)
    pid = os.fork()
    if pid == 0:
        good = blas.threads() == 3
        with one_blas_thread():
            good &= blas.threads() == 1
        os._exit(0 if good and blas.threads() == 3 else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert blas.threads() == 3


def test_numpys_own_library_is_found_and_its_threads_come_back():
    if "openblas" not in str(np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]):
        pytest.skip("NumPy has another BLAS")
    code = (
        "import numpy as np, tinymixnet\n"
        "from tinymixnet.fast.blas_threads import one_blas_thread, openblas\n"
        "blas = openblas()\n"
        "blas.set_threads(2)\n"
        "with one_blas_thread(): print(blas.threads())\n"
        "tinymixnet.load()(np.zeros((1, 32, 32, 3), np.uint8))\n"
        "print(blas.threads())\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(tinymixnet.__file__).parents[1])}
    printed = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    assert openblas() is not None
    assert printed == "1\n2\n"
