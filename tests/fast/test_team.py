"""A team, with real processes: equal answers, deaths, hangs, forks, and that nothing stays behind.

Processes are watched through /proc, so it is Linux only. What needs no other process is tested in
`test_team_parts.py`.
"""

import copy
import gc
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest

import tinymixnet
from benchmarks.soak import children, processes
from tests.fast.leftovers import (
    PATIENCE,
    assert_nothing_stays_behind,
    limit_with_room,
    soon,
    state,
)
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import WeightsError
from tinymixnet.fast import choice
from tinymixnet.fast.choice import TEAM
from tinymixnet.fast.processes import ONE_THREAD
from tinymixnet.model import Model

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(not (PROC / "self/smaps").exists(), reason="needs Linux's /proc")

CAT = str(BUNDLED.parent / "cat.jpg")
METADATA = Metadata(labels=("a", "b", "c", "d", "e", "ü"), input_size=40, name="tiny")
IMAGES = synthetic_image(6, 40, 48)
BROKEN = "the processes that share the work on an image cannot go on"


@pytest.fixture(autouse=True)
def _nothing_stays_behind():
    gc.collect()
    before = state()
    yield
    gc.collect()  # a model that nobody holds any more ends its processes
    assert_nothing_stays_behind(before)


@pytest.fixture(scope="module")
def tensors():
    return synthetic_tensors(TINY)


@pytest.fixture(scope="module")
def expected(tensors):
    """The logits of IMAGES, from a single process."""
    return Model(TINY, tensors, METADATA)(IMAGES)


@pytest.fixture
def model(tensors):
    """A tiny model whose team is at work."""
    model = Model(TINY, tensors, METADATA, cores=3)
    model(IMAGES[:1])
    assert len(children()) == 2
    yield model
    model._team_plan.team = None  # pytest still has the model when it looks what is left


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tensors):
    """A weights file of a tiny network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    write_weights(path, Weights(TINY, tensors, METADATA))
    return path


@pytest.fixture(scope="module", autouse=True)
def _tracker():
    """What Python starts once for the first spawned process, and keeps, is here from the start."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _always_a_team(monkeypatch):
    """The tests mean the team they ask for, also on one core and where a team is slower."""
    monkeypatch.setattr(choice, "usable_cores", lambda: 64)
    monkeypatch.setattr(choice.Pace, "next", lambda self: TEAM)


def assert_close(x, expected, tolerance=2e-5):
    assert x.shape == expected.shape
    assert np.abs(x - expected).max() <= tolerance * np.abs(expected).max()


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_team_answers_as_one_process_does(variant):
    """At every output that a model gives, for several images and sizes, in turns."""
    architecture = mixnet(variant)
    tensors = synthetic_tensors(architecture)
    alone, team = Model(architecture, tensors), Model(architecture, tensors, cores=3)
    for size in ((97, 131), (32, 32), (97, 131)):
        images = synthetic_image(2, *size, seed=sum(size))
        assert_close(team(images), alone(images))
        assert_close(team.embed(images), alone.embed(images))
        for name, feature in alone.features(images).items():
            assert_close(team.features(images)[name], feature)
    bgr = images[..., ::-1].transpose(0, 3, 1, 2)
    assert_close(team(bgr, layout="NCHW", channels="BGR"), alone(images))
    assert_close(team(images), dict(team.layers(images))["logits"], tolerance=1e-4)
    assert len(children()) == 2


@pytest.mark.parametrize("cores", [2, 8])
def test_any_number_of_members(cores):
    architecture = mixnet("mixnet-s", classes=7)
    tensors, images = synthetic_tensors(architecture), synthetic_image(1, 64, 45)
    team = Model(architecture, tensors, cores=cores)
    assert_close(team(images), Model(architecture, tensors)(images))
    assert len(children()) == cores - 1


def test_no_more_members_than_usable_cores_or_channels(tensors, expected, monkeypatch):
    team = Model(TINY, tensors, METADATA, cores=8)  # a kernel of TINY has three channels
    assert_close(team(IMAGES), expected)
    assert len(children()) == 2
    monkeypatch.setattr(choice, "usable_cores", lambda: 1)
    alone = Model(TINY, tensors, METADATA, cores=8)
    del team
    assert np.array_equal(alone(IMAGES), expected)
    assert children() == []


def test_classify_and_map(model, tensors):
    alone = Model(TINY, tensors, METADATA)
    answers = [model.classify(CAT), *model.map([CAT, CAT], workers=2)]
    for answer in answers:
        assert [p.label for p in answer] == [p.label for p in alone.classify(CAT)]
        probabilities = [p.probability for p in alone.classify(CAT)]
        assert [p.probability for p in answer] == pytest.approx(probabilities, rel=1e-4)


def test_an_overflow_is_the_same_error_and_warns_nobody(tensors, capfd):
    damaged = {**tensors, "head/bn/beta": np.full(16, 3e38, np.float32)}
    model = Model(TINY, damaged, METADATA, cores=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match="logits has NaN or infinity"):
            model(IMAGES[:1])
        with pytest.raises(WeightsError, match="logits has NaN or infinity"):
            model(IMAGES[:1])
    assert capfd.readouterr() == ("", "")
    assert len(children()) == 1


def test_auto_takes_what_was_faster(tensors, expected, monkeypatch):
    """With times made up for one, two and three processes."""

    made_up = {(9, 6, 5): 3, (9, 6, 7): 2, (9, 8.9, 5): 1}
    for seconds, best in made_up.items():

        def seconds_of(plan, *_, seconds=seconds):
            return seconds[plan.seat.members - 1 if isinstance(plan, choice.Team) else 0]

        monkeypatch.setattr(choice, "seconds_of", seconds_of)
        model = Model(TINY, tensors, METADATA, cores="auto")
        assert_close(model(IMAGES), expected)
        assert len(children()) == best - 1
        del model


def test_copies_have_teams_of_their_own(model, expected):
    other = pickle.loads(pickle.dumps(model))
    assert other.cores == copy.copy(model).cores == 3
    assert_close(other(IMAGES), expected)
    assert len(children()) == 4
    del other
    assert len(children()) == 2


def test_threads_may_share_a_model(model, expected):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda image: model(image[None])[0], IMAGES))
    assert_close(np.stack(answers), expected)


# -- processes and memory -------------------------------------------------------------------------


def test_members_start_with_the_first_image_and_end_with_the_model(tensors):
    model = Model(TINY, tensors, METADATA, cores=2)
    assert children() == []
    model(IMAGES)
    (member,) = children()
    model.embed(IMAGES)
    assert children() == [member]
    del model
    assert children() == []


def test_members_sleep_while_there_is_nothing_to_do(model):
    def ticks(member):
        fields = (PROC / str(member) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def are_idle():  # a member that looks for work all the time never is
        before = list(map(ticks, children()))
        time.sleep(0.5)
        return list(map(ticks, children())) == before

    assert soon(are_idle)  # the last image's end may still come, or a tick be full by chance


def test_members_have_one_blas_thread_and_share_the_weights(model):
    for member in children():
        environment = (PROC / str(member) / "environ").read_bytes().decode().split("\0")
        assert {f"{name}=1" for name in ONE_THREAD} <= set(environment)
        assert len(os.listdir(PROC / str(member) / "task")) == 1
        maps = (PROC / str(member) / "maps").read_text().splitlines()
        ours = [line.split()[1] for line in maps if "memfd:tinymixnet" in line]
        assert sorted(ours) == ["r--s", "rw-s"]  # the weights and the exchanges


# -- what can go wrong ----------------------------------------------------------------------------


def assert_breaks_once(model, expected):
    """The answer comes from one process, with a single warning, and the others are gone."""
    with pytest.warns(RuntimeWarning, match=BROKEN) as caught:
        assert_close(model(IMAGES), expected)
    assert [warning.filename for warning in caught] == [__file__]
    assert children() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(model(IMAGES), expected)
    assert children() == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_member_dies(model, expected, which, how):
    os.kill(children()[which], how)
    assert_breaks_once(model, expected)


@pytest.mark.parametrize("which", [0, 1])
def test_a_member_is_stopped(model, expected, which, monkeypatch):
    monkeypatch.setattr(model._team_plan.team.seat.barrier, "slices", 5)
    os.kill(children()[which], signal.SIGSTOP)
    assert_breaks_once(model, expected)


def test_members_may_be_stopped_for_a_while(model, expected):
    member = children()[0]
    os.kill(member, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (member, signal.SIGCONT))
    timer.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(model(IMAGES), expected)
    timer.join()
    assert len(children()) == 2


def test_a_member_dies_in_the_middle_of_an_image(tensors):
    """Of images of different sizes: it dies while it computes, waits, compiles or is told."""
    rng = np.random.default_rng(0)
    alone = Model(TINY, tensors, METADATA)

    def images_until_it_breaks():
        for i in range(10**6):
            image = IMAGES[:1, : 32 + i % 3]
            assert_close(model(image), alone(image))
            if model._team_plan.members == 1:
                return

    for _ in range(5):
        model = Model(TINY, tensors, METADATA, cores=3)
        model(IMAGES[:1])
        member = int(rng.choice(children()))
        timer = threading.Timer(rng.uniform(0, 0.1), os.kill, (member, signal.SIGKILL))
        timer.start()
        with pytest.warns(RuntimeWarning, match=BROKEN):
            images_until_it_breaks()
        timer.join()
        assert children() == []


def test_a_warning_that_is_an_error_leaves_nothing_behind(model, expected):
    os.kill(children()[0], signal.SIGKILL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=BROKEN):
            model(IMAGES)
        assert children() == []
        assert_close(model(IMAGES), expected)


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_members_that_cannot_start(tensors, expected, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    assert_breaks_once(Model(TINY, tensors, METADATA, cores=3), expected)


def test_too_few_file_descriptors(tensors, expected):
    """However few there are: an answer, with or without a team."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    for more in range(0, 18, 3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_with_room(more), hard))
        model = Model(TINY, tensors, METADATA, cores=2)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                logits = model(IMAGES)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert_close(logits, expected)
        outcomes.append(len(children()))
        assert len(caught) == 1 - outcomes[-1]
        del model
    assert outcomes[0] == 0
    assert outcomes[-1] == 1


def test_an_interrupted_image_ends_the_team_and_the_next_starts_another(model, expected):
    def interrupted(*_):
        raise KeyboardInterrupt

    members_then = children()
    model._team_plan.team.seat.barrier.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES)
    assert children() == []
    assert_close(model(IMAGES), expected)
    assert len(children()) == 2
    assert not set(children()) & set(members_then)


# -- forks and other processes --------------------------------------------------------------------


def in_a_fork(function):
    """Call a function in a fork of this process; return whether it has raised nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_has_a_team_of_its_own(model, expected):
    ours = children()

    def in_child():
        assert_close(model(IMAGES), expected)
        theirs = children()
        assert len(theirs) == 2
        model._team_plan.team = None
        assert soon(lambda: not children())

    assert in_a_fork(in_child)
    assert children() == ours
    assert_close(model(IMAGES), expected)
    assert children() == ours


def test_a_fork_that_ends_like_any_program_leaves_our_team_alone(model, expected):
    def in_child():
        model._team_plan.team.end()
        gc.collect()

    ours = children()
    assert in_a_fork(in_child)
    assert children() == ours
    assert_close(model(IMAGES), expected)


def test_a_fork_while_another_thread_uses_the_model(model, expected):
    stop = threading.Event()

    def use():
        while not stop.is_set():
            model(IMAGES)

    thread = threading.Thread(target=use)
    thread.start()
    try:
        for _ in range(3):
            assert in_a_fork(lambda: assert_close(model(IMAGES), expected))
    finally:
        stop.set()
        thread.join()
    assert_close(model(IMAGES), expected)
    assert len(children()) == 2


def in_another_process(weights, pipe):
    choice.usable_cores = lambda: 64
    model = tinymixnet.load(weights, cores=2)
    pipe.send((model(IMAGES), len(children())))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_in_a_daemonic_process(tiny, expected, method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    with ours, theirs, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=in_another_process, args=(tiny, theirs), daemon=True)
        process.start()
        assert ours.poll(PATIENCE)
        logits, started = ours.recv()
        process.join()
        process.close()
    assert_close(logits, expected)
    assert started == 1


# -- scripts --------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
import numpy as np
import tinymixnet
from tinymixnet.fast import choice
choice.usable_cores = lambda: 64
choice.Pace.next = lambda self: choice.TEAM
model = tinymixnet.load({weights!r}, cores=3)
images = np.zeros((1, 40, 48, 3), np.uint8)
print(model(images).shape, flush=True)
"""
FORK_FIRST = """
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
"""
WORK = """
while True:
    model(images)
"""
CATCH = """
try:
    print("ready", flush=True)
    while True:
        model(images)
except KeyboardInterrupt:
    print("caught", model(images).shape, flush=True)
"""


def environment():
    here = str(Path(tinymixnet.__file__).parents[1])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TINYMIXNET_")}
    return kept | {"PYTHONPATH": here, "PYTHONWARNINGS": "default"}


def started(tiny, text, **options):
    """A script in a process group of its own, as a shell makes, once its team is at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(weights=str(tiny)) + text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        **options,
    )
    assert process.stdout.readline() == "(1, 6)\n"
    return process


def in_group(group):
    return [pid for pid, _, g in processes() if g == group]


def test_a_script_needs_no_main_guard_and_ends_cleanly(tiny):
    process = started(tiny, "sys.stdin.readline()\nprint('once')\n", stdin=subprocess.PIPE)
    out, err = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "once\n", "")
    assert in_group(process.pid) == []


@pytest.mark.parametrize("text", [WORK, "time.sleep(60)", FORK_FIRST + WORK])
def test_members_end_when_the_parent_is_killed(tiny, text):
    """In the middle of an image, between images, and while a fork of the parent lives on."""
    process = started(tiny, text)
    others = 2 + text.startswith(FORK_FIRST)
    assert soon(lambda: len(children(process.pid)) == others)
    time.sleep(0.1)  # to be in the middle of it
    process.kill()
    process.wait(PATIENCE)
    left = 1 if text.startswith(FORK_FIRST) else 0
    try:
        assert soon(lambda: len(in_group(process.pid)) == left)
    finally:
        for pid in in_group(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert process.communicate()[1] == ""


def test_members_that_are_stopped_end_with_a_parent_that_ends(tiny):
    process = started(tiny, "sys.stdin.read()", stdin=subprocess.PIPE)
    for member in children(process.pid):
        os.kill(member, signal.SIGSTOP)
    process.communicate("", timeout=PATIENCE)
    assert process.returncode == 0
    assert in_group(process.pid) == []


def test_ctrl_c(tiny):
    """To the whole group, as a terminal does: the script goes on with a new team."""
    process = started(tiny, CATCH)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()  # if it goes on
    assert (process.returncode, out, err) == (0, "caught (1, 6)\n", "")
    assert in_group(process.pid) == []


def test_the_command_has_cores(tiny):
    command = [sys.executable, "-m", "tinymixnet", "classify", CAT, "--weights", str(tiny)]
    found = []
    for cores in ("1", "2", "auto"):
        done = subprocess.run(
            [*command, "--cores", cores],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=PATIENCE,
        )
        found.append((done.returncode, done.stdout, done.stderr))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 0
