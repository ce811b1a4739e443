"""Workers, with real processes: answers in order, deaths, Ctrl-C, and that nothing stays behind.

Processes are watched through /proc, so most of it is Linux only.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinymixnet
from benchmarks.soak import children, command_line, processes
from tests.fast.leftovers import (
    PATIENCE,
    assert_nothing_stays_behind,
    limit_with_room,
    soon,
    state,
)
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.budget import budget
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, WeightsError
from tinymixnet.fast import workers as workers_module
from tinymixnet.fast.constants import constants
from tinymixnet.fast.plan import Plan
from tinymixnet.fast.processes import ONE_THREAD
from tinymixnet.fast.shared_memory import attach, share
from tinymixnet.fast.swish import BY_EXP, BY_TANH
from tinymixnet.fast.workers import WINDOW, map_in_processes
from tinymixnet.model import Model

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(not (PROC / "self/smaps").exists(), reason="needs Linux's /proc")

CAT = str(BUNDLED.parent / "cat.jpg")
METADATA = Metadata(labels=("a", "b", "c", "d", "e", "ü"), input_size=40, name="tiny")
IMAGES = list(synthetic_image(24, 40, 48))


@pytest.fixture(autouse=True)
def _nothing_stays_behind():
    before = state()
    yield
    assert_nothing_stays_behind(before)


@pytest.fixture(scope="module")
def model():
    return Model(TINY, synthetic_tensors(TINY), METADATA)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A weights file of a tiny network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    write_weights(path, Weights(TINY, synthetic_tensors(TINY), METADATA))
    return path


@pytest.fixture(scope="module", autouse=True)
def _tracker():
    """What Python starts once for the first spawned process, and keeps, is here from the start."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch):
    """The tests mean the number of workers they ask for, also on a machine with one core."""
    monkeypatch.setattr(workers_module, "usable_cores", lambda: 64)


def assert_same(answers, expected):
    """Equal but for the last bits: one BLAS thread may add up in another order than two."""
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert type(answer) is type(wanted), answer
        if isinstance(wanted, TinyMixNetError):
            assert str(answer) == str(wanted)
            continue
        assert [type(prediction) for prediction in answer] == [type(p) for p in wanted]
        assert [(p.label, p.index) for p in answer] == [(p.label, p.index) for p in wanted]
        found = [prediction.probability for prediction in answer]
        assert found == pytest.approx([p.probability for p in wanted], rel=1e-4)


def one_by_one(model, sources, **arguments):
    answers = []
    for source in sources:
        try:
            answers.append(model.classify(source, **arguments))
        except TinyMixNetError as error:
            answers.append(error)
    return answers


class Poison(np.ndarray):
    """An image that ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (7,)


class Puzzle(np.ndarray):
    """An image that makes unpickling raise what nobody expects."""

    def __reduce__(self):
        return int, ("no number",)


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_are_those_of_classify_in_order(model, workers):
    large = synthetic_image(1, 1500, 1500)[0]  # slow to decode: others overtake it
    images = [large, *IMAGES[:5], large, *IMAGES[5:]]
    expected = one_by_one(model, images)
    assert len({str(answer) for answer in expected}) > len(IMAGES) // 2
    assert_same(list(model.map(images, workers=workers)), expected)


def test_every_kind_of_source(model, tmp_path):
    photo = Image.open(CAT)
    photo.resize((90, 70)).save(tmp_path / "small.png")
    data = Path(CAT).read_bytes()

    def sources():
        return [
            CAT,
            Path(CAT),
            data,
            bytearray(data),
            memoryview(data),
            io.BytesIO(data),
            photo,
            photo.convert("L").rotate(90),
            Image.new("RGBA", (50, 60), (200, 10, 0, 100)),
            np.asarray(photo),
            np.asarray(photo)[::-2, ::2, ::-1],
            np.asarray(photo.convert("L")),
            tmp_path / "small.png",
        ]

    expected = one_by_one(model, sources(), top=3, preset="timm")
    assert_same(list(model.map(sources(), workers=2, top=3, preset="timm")), expected)


def test_bad_images_are_answered_in_their_place(model, tmp_path):
    class Unreadable(io.BytesIO):
        def read(self, *_):
            raise OSError("the disk is on fire")

    (tmp_path / "bad.jpg").write_bytes(Path(CAT).read_bytes()[:300])
    text = io.StringIO("text")
    sources = [
        str(tmp_path / "none.jpg"),
        IMAGES[0],
        tmp_path / "bad.jpg",
        b"",
        IMAGES[1],
        IMAGES[2].astype(np.float32),
        Unreadable(b"x"),
        text,
        17,
        None,
        np.array([{}, object()]),
        IMAGES[3],
    ]
    expected = one_by_one(model, sources)
    assert sum(isinstance(answer, ImageError) for answer in expected) == len(sources) - 3
    text.seek(0)
    assert_same(list(model.map(sources)), expected)


def test_no_images(model):
    assert list(model.map([])) == []


def test_a_batch_is_several_images(model):
    batch = np.stack(IMAGES[:4])
    assert_same(list(model.map(batch)), one_by_one(model, IMAGES[:4]))


def test_an_array_may_be_used_again_by_its_owner(model):
    def camera():
        frame = np.empty_like(IMAGES[0])
        for image in IMAGES:
            frame[:] = image
            yield frame

    assert_same(list(model.map(camera())), one_by_one(model, IMAGES))


def test_the_source_is_taken_as_needed(model):
    taken = 0

    def endless():
        nonlocal taken
        for image in itertools.cycle(IMAGES):
            taken += 1
            yield image

    answers = model.map(endless(), workers=2)
    assert (taken, children()) == (0, [])
    for count, (answer, expected) in enumerate(
        zip(answers, one_by_one(model, IMAGES), strict=False), start=1
    ):
        assert_same([answer], [expected])
        assert count <= taken <= count + 2 * WINDOW
    answers.close()


def test_several_maps_at_once_and_in_threads(model):
    expected = one_by_one(model, IMAGES[:6])
    in_thread = []
    thread = threading.Thread(target=lambda: in_thread.extend(model.map(IMAGES[:6], workers=1)))
    thread.start()
    pairs = list(zip(model.map(IMAGES[:6], 1), model.map(IMAGES[5::-1], 1), strict=True))
    thread.join()
    assert_same(in_thread, expected)
    assert_same([first for first, _ in pairs], expected)
    assert_same([second for _, second in pairs], expected[::-1])


@pytest.mark.parametrize(
    ("sources", "arguments", "message"),
    [
        ([CAT], {"workers": 0}, "workers=0"),
        ([CAT], {"workers": -1}, "workers=-1"),
        ([CAT], {"top": 0}, "top=0"),
        ([CAT], {"preset": "none"}, "square"),
        (CAT, {}, "several images"),
        (Path(CAT), {}, "several images"),
        (b"x", {}, "several images"),
        (bytearray(b"x"), {}, "several images"),
        (IMAGES[0], {}, "several images, such as a list, found ndarray"),
        (IMAGES[0][..., 0], {}, "several images"),
        (io.BytesIO(b"x"), {}, "several images"),
        (3, {}, "found int"),
    ],
)
def test_mistakes_are_told_at_once(model, sources, arguments, message):
    with pytest.raises(InputError, match=message):
        model.map(sources, **arguments)


# -- how many workers ------------------------------------------------------------------------------


def most_children(answers):
    """The largest number of processes at any answer, and the answers."""
    most, collected = 0, []
    for answer in answers:
        most = max(most, len(children()))
        collected.append(answer)
    return most, collected


@pytest.mark.parametrize("photos", [0, 1, 2, 3])
def test_there_are_never_more_workers_than_photos(model, photos):
    most, answers = most_children(model.map(iter(IMAGES[:photos]), workers=60))
    assert_same(answers, one_by_one(model, IMAGES[:photos]))
    assert most <= photos


def test_broken_photos_start_no_worker(model):
    most, answers = most_children(model.map([None] * 20, workers=60))
    assert (most, len(answers)) == (0, 20)


@pytest.mark.parametrize("cores", [1, 2])
def test_there_are_never_more_workers_than_usable_cores(model, monkeypatch, cores):
    monkeypatch.setattr(workers_module, "usable_cores", lambda: cores)
    most, answers = most_children(model.map(IMAGES, workers=60))
    assert_same(answers, one_by_one(model, IMAGES))
    assert most == cores


def test_usable_cores_are_those_of_this_process():
    code = (
        "import os; from tinymixnet.fast.processes import usable_cores;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cores())"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment(), text=True) == "1\n"


def plan_bytes(_):
    return budget.plan_bytes


def test_workers_have_the_budget_of_their_parent(monkeypatch):
    monkeypatch.setattr(budget, "plan_bytes", 12345)
    assert list(map_in_processes(plan_bytes, ["a", "b", "c"])) == [12345] * 3


# -- what can go wrong ----------------------------------------------------------------------------


def test_an_exception_of_the_source_comes_when_its_turn_comes(model):
    def source():
        yield from IMAGES[:5]
        raise ImageError("the source is broken")  # no bad image: the end of all

    answers = model.map(source())
    expected = one_by_one(model, IMAGES[:5])
    assert_same(list(itertools.islice(answers, 5)), expected)
    with pytest.raises(ImageError, match="the source is broken"):
        next(answers)


def test_an_unexpected_exception_in_a_worker_comes_when_its_turn_comes(model):
    answers = model.map([IMAGES[0], IMAGES[1], IMAGES[2].view(Puzzle), IMAGES[3]])
    assert_same([next(answers), next(answers)], one_by_one(model, IMAGES[:2]))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError.*no number"):
        next(answers)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_workers_are_replaced_and_their_images_done_again(model, workers):
    def source():
        for index, image in enumerate(IMAGES):
            if index % 10 == 2 * workers - 1:  # so far apart that no image is hit twice
                killed.extend(children())
                for pid in children():
                    os.kill(pid, signal.SIGKILL)
            yield image

    killed = []
    assert_same(list(model.map(source(), workers)), one_by_one(model, IMAGES))
    assert len(killed) == len(set(killed)) == 3 * workers


def test_an_image_that_kills_two_workers_is_given_up_and_no_other(model):
    sources = [IMAGES[0], IMAGES[1].view(Poison), *IMAGES[2:6], IMAGES[6].view(Poison), IMAGES[7]]
    answers = list(model.map(sources, workers=2))
    expected = one_by_one(model, [image.view(np.ndarray) for image in sources])
    for index in (1, 6):
        error = answers[index]
        assert isinstance(error, TinyMixNetError)
        for part in (f"image {index}", "died twice on this image", "exit code 7"):
            assert part in str(error)
        answers[index] = expected[index]
    assert_same(answers, expected)


def answer_when_told(path):
    """Runs in a worker: tell its process id, and wait for a file that allows it to answer."""
    Path(f"{path}.{os.getpid()}.begun").touch()
    while not Path(f"{path}.go").exists():
        time.sleep(0.005)
    return f"answer to {path}"


def test_a_path_given_up_is_named_and_one_death_is_forgiven(tmp_path):
    first, twice, once, last = (str(tmp_path / name) for name in ("a", "twice", "once", "z"))

    def kill_a_worker_on(path):
        assert soon(lambda: begun(path) - set(killed))
        (worker,) = begun(path) - set(killed)
        if path == once:  # the next worker may answer
            Path(f"{once}.go").touch()
        killed.append(worker)
        os.kill(worker, signal.SIGKILL)

    def begun(path):
        files = tmp_path.glob(f"{Path(path).name}.*.begun")
        return {int(file.suffixes[0][1:]) for file in files}

    killed = []
    for path in (first, last):
        Path(f"{path}.go").touch()
    killer = threading.Thread(target=lambda: [kill_a_worker_on(p) for p in (twice, twice, once)])
    killer.start()
    sources = [first, twice, once, last]
    answers = list(map_in_processes(answer_when_told, sources, workers=1))
    killer.join()
    assert len(killed) == 3
    given_up = answers.pop(1)
    assert answers == [f"answer to {path}" for path in (first, once, last)]
    assert isinstance(given_up, TinyMixNetError)
    assert str(given_up).startswith(f"{twice}: a worker process died twice on this image")
    assert "killed by signal 9" in str(given_up)


def test_workers_that_cannot_start(model, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TinyMixNetError, match=r"workers cannot start: .* \(exit code 1\)"):
        list(model.map(IMAGES))


def test_a_python_that_is_not_there(model, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TinyMixNetError, match=r"cannot start a worker process \(No such file"):
        list(model.map(IMAGES))


def test_too_few_file_descriptors(model):
    """However few there are: the answers, or one line; and nothing leaks (see the fixture)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected, outcomes = one_by_one(model, IMAGES[:6]), []
    for more in range(14):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_with_room(more), hard))
        try:
            outcomes.append(list(model.map(IMAGES[:6], workers=2)))
        except TinyMixNetError as error:
            outcomes.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for outcome in outcomes:
        if isinstance(outcome, str):
            assert outcome.startswith("cannot start a worker process (Too many open files)")
            assert "ulimit -n" in outcome
            assert "\n" not in outcome
        else:
            assert_same(outcome, expected)
    assert isinstance(outcomes[0], str)
    assert isinstance(outcomes[-1], list)


def test_an_overflow_is_the_answer_and_standard_error_stays_empty(model, capfd):
    tensors = {**model.tensors, "head/bn/beta": np.full(16, 3e38, np.float32)}
    answers = list(Model(TINY, tensors, METADATA).map(IMAGES[:3]))
    assert [type(answer) for answer in answers] == [WeightsError] * 3
    assert "logits has NaN or infinity" in str(answers[0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("way", [BY_TANH, BY_EXP], ids=["tanh", "exp"])
def test_workers_compute_swish_in_the_way_that_the_weights_were_folded_for(way):
    """Whatever they would choose themselves."""
    model = Model(TINY, synthetic_tensors(TINY), METADATA)
    model._plan = Plan(TINY, constants(TINY, model.tensors, METADATA, way), way)
    assert pickle.loads(pickle.dumps(model.plan)).swish == way
    answers = list(model.map(IMAGES[:3], workers=2))
    assert_same(answers, [model.classify(image) for image in IMAGES[:3]])


def test_an_abandoned_iteration_ends_its_workers(model):
    answers = model.map(itertools.cycle(IMAGES), workers=2)
    next(answers)
    assert len(children()) == 2
    answers.close()
    assert children() == []

    answers = model.map(itertools.cycle(IMAGES), workers=2)
    next(answers)
    del answers
    assert children() == []

    with pytest.raises(KeyError):  # noqa: PT012
        for _ in model.map(itertools.cycle(IMAGES), workers=2):
            raise KeyError
    assert soon(lambda: children() == [])


# -- processes and memory -------------------------------------------------------------------------


@contextlib.contextmanager
def workers_at_work(model):
    """Two workers, both past their start, which get photos until the block ends."""
    with contextlib.closing(model.map(itertools.cycle(IMAGES), workers=2)) as answers:
        for answer in answers:
            assert len(answer) == 5
            workers = children()
            if all("memfd" in (PROC / str(pid) / "maps").read_text() for pid in workers):
                break
        for _ in range(20):  # both take part, for each has room for two
            next(answers)
        assert len(workers) == 2
        yield workers


def test_workers_have_one_blas_thread(model):
    before = dict(os.environ)
    with workers_at_work(model) as workers:
        for pid in workers:
            environment = (PROC / str(pid) / "environ").read_bytes().decode().split("\0")
            assert {f"{name}=1" for name in ONE_THREAD} <= set(environment)
            threads = os.listdir(PROC / str(pid) / "task")
            assert len(threads) == 2  # one works, one empties the pipe
    assert dict(os.environ) == before


def test_workers_share_one_copy_of_the_weights():
    wide = replace(TINY, head_filters=4000, classes=2000)
    model = Model(wide, synthetic_tensors(wide), Metadata(input_size=40))
    size = sum(array.nbytes for array in model.plan.constants.values())
    with workers_at_work(model) as workers:
        for pid in workers:
            parts = list(mappings(pid))
            ((weights, numbers),) = (part for part in parts if "memfd:tinymixnet" in part[0])
            assert weights.split()[1] == "r--s"  # read-only and shared
            assert numbers["Size"] * 1024 >= size
            assert numbers["Rss"] * 1024 > size * 0.9  # in use
            assert numbers["Private_Clean"] + numbers["Private_Dirty"] == 0
            anonymous = sum(numbers["Anonymous"] for _, numbers in parts)
            assert anonymous * 1024 < size * 0.9, "the worker has a copy of the weights"


def mappings(pid):
    """(first line, {quantity: kB}) of each part of a process's memory."""
    first, numbers = "", {}
    for line in (PROC / str(pid) / "smaps").read_text().splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):
            if first:
                yield first, numbers
            first, numbers = line, {}
        elif rest[-1] == "kB":
            numbers[word[:-1]] = int(rest[0])
    yield first, numbers


def test_share_and_attach():
    rng = np.random.default_rng(0)
    arrays = {
        "float": rng.normal(size=(3, 5, 7)).astype(np.float32),
        "odd": np.arange(7, dtype=np.uint8),
        "complex": (rng.normal(size=(4, 3)) + 1j).astype(np.complex64),
        "turned": rng.normal(size=(4, 6)).T,
        "one": np.float32([1.5]),
    }
    shared = share(arrays)
    attached = attach(shared.file.fileno(), shared.pickled, shared.places)
    shared.file.close()  # the map holds on to the memory
    assert list(attached) == list(arrays)
    for name, array in attached.items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
        assert array.flags.forc
        assert array.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


# -- scripts and the command line -----------------------------------------------------------------

SCRIPT = """
import sys
import tinymixnet
print("this line runs once")
weights, image = {arguments!r}
model = tinymixnet.load(weights)
print([answer[0].index for answer in model.map([image] * 5, workers=2)])
abandoned = model.map([image] * 50, workers=2)
print(next(abandoned)[0].index)
"""


def environment():
    here = str(Path(tinymixnet.__file__).parents[1])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TINYMIXNET_")}
    return kept | {"PYTHONPATH": here, "PYTHONWARNINGS": "default"}


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_without_a_main_guard(model, tiny, tmp_path, how):
    text = SCRIPT.format(arguments=(str(tiny), CAT))
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, "script.py" if how == "file" else "-"]
    done = subprocess.run(
        command,
        input=text if how == "stdin" else None,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=2 * PATIENCE,
    )
    best = model.classify(CAT)[0].index
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["this line runs once", str([best] * 5), str(best)]


def in_another_process(weights, pipe):
    answers = tinymixnet.load(weights).map([CAT] * 4, workers=2)
    pipe.send([answer[0].index for answer in answers])


def test_in_a_spawned_process(model, tiny):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with ours, theirs:
        process = context.Process(target=in_another_process, args=(tiny, theirs), daemon=True)
        process.start()
        assert ours.poll(2 * PATIENCE)
        assert ours.recv() == [model.classify(CAT)[0].index] * 4
        process.join()
        process.close()


def classify(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "tinymixnet", "classify", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,  # a process group of its own, as a shell makes
        **options,
    )


def test_the_command_prints_the_same_with_workers(tiny, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    photos = [CAT, tmp_path / "none.jpg", "-", tmp_path / "bad.jpg", CAT]
    found = []
    for workers in ([], ["--workers", 2]):
        process = classify(*photos, "--weights", tiny, *workers, stdin=subprocess.PIPE)
        out, err = process.communicate(Path(CAT).read_bytes(), timeout=2 * PATIENCE)
        found.append((process.returncode, out.decode(), err.decode()))
    assert found[0] == found[1]
    code, out, err = found[0]
    assert code == 2
    assert len(out.splitlines()) == 3 * 6
    assert len(err.splitlines()) == 2


def test_the_command_refuses_no_workers():
    process = classify(CAT, "--workers", 0)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "whole number from 1" in err.decode()


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_ctrl_c(tiny, moment):
    process = classify(*[CAT] * 3000, "--weights", tiny, "--workers", 2)
    if moment == "starting":
        assert soon(
            lambda: b"tinymixnet.fast.workers" in b"".join(map(command_line, children(process.pid)))
        )
    else:
        assert process.stdout.readline() == f"{CAT}\n".encode()
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # to all of the group, as the terminal does
    out, err = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - start < 10
    assert process.returncode == 130
    assert err == b""
    assert out.count(b"\n") < 3000
    assert not [pid for pid, _, group in processes() if group == process.pid]


def test_workers_end_with_their_parent(tiny):
    process = classify(*[CAT] * 3000, "--weights", tiny, "--workers", 2)
    process.stdout.readline()
    process.kill()
    _, err = process.communicate(timeout=PATIENCE)  # the end of stderr: all have closed it
    assert process.returncode == -signal.SIGKILL
    assert err == b""
    assert soon(lambda: not [pid for pid, _, group in processes() if group == process.pid])
