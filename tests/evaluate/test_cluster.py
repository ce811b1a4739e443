"""Dask: real schedulers and worker processes, some of which are killed while they work."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.support.photo_sets import as_folders, as_npz, as_tar
from tests.test_cli import MODULE, run
from tinymixnet.errors import ImageError, TinyMixNetError
from tinymixnet.evaluate import cluster as module
from tinymixnet.evaluate.cluster import map_on_cluster

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two worker processes with one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as local:
        yield local


@pytest.fixture(scope="module")
def address(cluster):
    return cluster.scheduler_address


def test_equal_row_for_row(tmp_path, model, photos, folder, address):
    """As one process on this machine: from a folder, a .tar and an .npz, with a bad photo."""
    folder = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (folder / "0" / "bad.jpg").write_bytes(b"no photo")
    (folder / "1" / "none.jpg").symlink_to("nowhere")
    for data in (folder, as_tar(folder, tmp_path / "v.tar"), as_npz(photos, tmp_path / "v.npz")):
        alone, together = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
        model.evaluate(data, alone, workers=1)
        results = model.evaluate(data, together, cluster=address)
        assert alone.read_bytes() == together.read_bytes()
        assert results.photos == len(photos)
        alone.unlink()
        together.unlink()


def test_it_goes_on_where_one_process_stopped(tmp_path, model, folder, address):
    output = tmp_path / "r.jsonl"
    model.evaluate(folder, output, limit=10)
    assert model.evaluate(folder, output, cluster=address).answered_now == 14
    whole = tmp_path / "whole.jsonl"
    model.evaluate(folder, whole)
    assert output.read_bytes() == whole.read_bytes()


def test_the_command(tmp_path, weights, folder, address, model):
    output = tmp_path / "r.jsonl"
    arguments = ["evaluate", folder, "--weights", weights, "--dask", address, "-o", output]
    code, out, err = run(MODULE, *arguments)
    assert (code, err) == (0, "")
    assert "24 photos" in out
    model.evaluate(folder, tmp_path / "own.jsonl")
    assert output.read_bytes() == (tmp_path / "own.jsonl").read_bytes()


def test_classify(tmp_path, weights, folder, address):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    arguments = ["classify", folder, bad, "--weights", weights, "--json"]
    alone = run(MODULE, *arguments)
    together = run(MODULE, *arguments, "--dask", address)
    assert together == alone
    assert alone[0] == 2
    assert alone[1].count("\n") == 24
    assert "bad.jpg: not an image" in alone[2]


def test_a_cluster_of_its_own(tmp_path, weights, folder):
    """`--dask local` starts one and ends it."""
    arguments = ["classify", *sorted(folder.rglob("*.JPEG"))[:3], "--weights", weights]
    assert run(MODULE, *arguments, "--dask", "local", "--workers", 1) == run(MODULE, *arguments)


def test_every_kind_of_source(model, photos, folder, address):
    path = next(folder.rglob("*.JPEG"))
    pixels = np.asarray(model.pixels(photos[0].content)[0]).astype(np.uint8)
    sources = [path, str(path), os.path.relpath(path), photos[1].content, pixels]
    expected = [model.classify(source) for source in [*sources, path]]
    with open(path, "rb") as file:
        assert list(model.map([*sources, file], cluster=address)) == expected
    assert list(model.map([], cluster=address)) == []


# -- paths that workers do not see -----------------------------------------------------------------


@pytest.mark.parametrize("seen", ["nothing", "another file"])
def test_photos_are_sent_where_workers_do_not_see_them(
    tmp_path, model, photos, address, monkeypatch, seen
):
    """Here the workers see all files, so the path that they are told is another one."""
    folder = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (folder / "0" / "bad.jpg").write_bytes(b"no photo")
    expected = model.evaluate(folder)
    parcel = module.Questions.parcel
    told = []

    def other_path(self, source):
        photo, size = parcel(self, source)
        told.append(type(photo))
        if isinstance(photo, str) and seen == "nothing":
            return f"/nowhere{photo}", size
        return (__file__, size) if isinstance(photo, str) else (photo, size)

    monkeypatch.setattr(module.Questions, "parcel", other_path)
    results = model.evaluate(folder, cluster=address)
    assert np.array_equal(results.predictions, expected.predictions)
    assert results.skipped == expected.skipped
    # After the first answer they are all sent at once, in bounded numbers.
    assert told.count(str) <= module.AHEAD * 2
    assert told.count(bytes) == 25


# -- ends of all kinds -----------------------------------------------------------------------------


def worker_pids(client):
    return client.run(os.getpid)


def test_a_worker_that_is_killed_loses_nothing(tmp_path, model, photos, cluster, address):
    """Its photos go to the other one, and a new worker gets the weights as well."""
    folder = as_folders(photos * 8, tmp_path / "many", {i: str(i) for i in range(6)})
    output = tmp_path / "r.jsonl"
    killed = []

    def progress(pairs, total, done, doing):
        with distributed.Client(address, set_as_default=False) as client:
            for i, pair in enumerate(pairs):
                if doing == "classify" and i in (20, 100):
                    victim = sorted(worker_pids(client).values())[0]
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)
                yield pair

    results = model.evaluate(folder, output, cluster=address, progress=progress)
    assert len(set(killed)) == 2
    assert (results.photos, results.skipped) == (192, ())
    model.evaluate(folder, tmp_path / "own.jsonl")
    assert output.read_bytes() == (tmp_path / "own.jsonl").read_bytes()
    cluster.scheduler  # noqa: B018  # it is still there
    assert model.evaluate(folder, cluster=address, limit=30).photos == 30


def end_process(photo):
    """What a photo does that crashes its decoder."""
    if photo == b"deadly":
        os._exit(9)
    return len(photo)


def test_a_photo_that_kills_its_workers_fails_alone(address):
    """Dask blames all that a dying worker has had: those have a second chance."""
    photos = [b"x" * i for i in range(1, 30)]
    photos[9] = b"deadly"
    answers = list(map_on_cluster(end_process, photos, address))
    deadly = answers.pop(9)
    assert answers == [len(photo) for photo in photos if photo != b"deadly"]
    assert isinstance(deadly, ImageError)
    assert "several workers died on this image" in str(deadly)


def fail(photo):
    raise ZeroDivisionError("a fault of ours")


def test_a_fault_of_ours_is_not_hidden(address):
    with pytest.raises(ZeroDivisionError):
        list(map_on_cluster(fail, [b"a"], address))


def test_the_reader_may_stop(model, folder, address):
    sources = (path for path in [next(folder.rglob("*.JPEG"))] * 10_000)
    answers = model.map(sources, cluster=address)
    next(answers)
    answers.close()
    assert sum(1 for _ in sources) > 9_900  # photos are taken from the source as they are needed
    with distributed.Client(address, set_as_default=False) as client:
        plugins = client.run(lambda dask_worker: list(dask_worker.plugins))
        assert not any("tinymixnet" in name for names in plugins.values() for name in names)


@pytest.mark.parametrize("where", ["running", "local"])
def test_ctrl_c(tmp_path, model, weights, photos, address, where):
    """A terminal sends it to every process of a command, the workers of its own included."""
    folder = as_folders(photos * 40, tmp_path / "many", {i: str(i) for i in range(6)})
    output = tmp_path / "r.jsonl"
    command = [*MODULE, "evaluate", folder, "--weights", weights, "-o", output, "--dask"]
    process = subprocess.Popen(
        [*map(str, command), address if where == "running" else "local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if output.exists() and output.read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    rows = output.read_bytes().count(b"\n") - 1
    assert 20 <= rows < 960
    assert model.evaluate(folder, output, cluster=address, limit=rows + 5).answered_now == 5


# -- clusters that are of no use -------------------------------------------------------------------


def test_no_scheduler(model, folder, monkeypatch):
    monkeypatch.setattr(module, "CONNECT", 1.0)
    for wrong in ("tcp://127.0.0.1:9", "nowhere", "", "tcp://", "http://127.0.0.1:9", "x" * 1000):
        with pytest.raises(TinyMixNetError, match="cluster: ") as caught:
            model.evaluate(folder, cluster=wrong)
        assert len(str(caught.value)) < 1400
        assert str(caught.value).isprintable()


def test_something_else_listens_there(model, folder, monkeypatch):
    monkeypatch.setattr(module, "CONNECT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP\r\n" * 100)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(TinyMixNetError, match="no Dask scheduler answers"):
            model.evaluate(folder, cluster=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join(10)


def test_a_scheduler_without_workers(model, folder, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(TinyMixNetError, match=r"has had no worker for .* `dask worker ADDRESS`"),
    ):
        model.evaluate(folder, cluster=empty.scheduler_address)


def test_workers_of_another_version(model, folder, address, monkeypatch):
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(TinyMixNetError, match=r"needs tinymixnet 9\.9, found version 0\."):
        model.evaluate(folder, cluster=address)


def test_without_dask_one_line_names_the_extra(tmp_path, weights, folder):
    """A folder on the path takes the place of Dask, and cannot be imported."""
    (tmp_path / "distributed.py").write_text("raise ImportError('none')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ["evaluate", folder, "--weights", weights, "--dask", "local"]
    code, _, err = run([sys.executable, "-m", "tinymixnet"], *arguments, PYTHONPATH=path)
    assert code == 2
    assert err == (
        'tinymixnet: Dask is missing: install it with pip install "tinymixnet[cluster]"\n'
    )


# -- Dask's own commands ---------------------------------------------------------------------------


@pytest.fixture
def own_commands(tmp_path):
    """A scheduler and a worker, started as docs/cluster.md says: their processes, the address."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    local = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--scheduler-file", str(file), *local], **quiet
    )
    worker = None
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):  # not there, or not whole
                address = json.loads(file.read_text())["address"]
                break
            time.sleep(0.05)
        command = [*dask, "worker", address, "--nworkers", "1", "--nthreads", "1"]
        worker = subprocess.Popen([*command, *local, "--local-directory", str(tmp_path)], **quiet)
        yield scheduler, worker, address
    finally:
        for process in filter(None, [worker, scheduler]):
            process.terminate()
        for process in filter(None, [worker, scheduler]):
            process.wait(30)


def test_a_cluster_started_by_dasks_own_commands(tmp_path, model, weights, photos, own_commands):
    """It answers; and when its scheduler is killed, that is one line, and nothing is lost."""
    scheduler, _, address = own_commands
    folder = as_folders(photos * 40, tmp_path / "many", {i: str(i) for i in range(6)})
    output = tmp_path / "r.jsonl"
    assert model.evaluate(folder, output, cluster=address, limit=20).photos == 20

    code = (  # the command, which looks for a lost scheduler for a second instead of ten
        "import sys; from tinymixnet.evaluate import cluster; cluster.CONNECT = 1.0\n"
        "from tinymixnet.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", folder, "--weights", weights, "-o", output, "--dask", address]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while output.read_bytes().count(b"\n") < 40 and time.monotonic() < end:
        time.sleep(0.01)
    scheduler.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == (
        "tinymixnet: cluster: the connection to the scheduler is lost; run the same command again\n"
    )
    rows = output.read_bytes().count(b"\n") - 1
    assert 39 <= rows < 960
    model.evaluate(folder, output)
    model.evaluate(folder, tmp_path / "own.jsonl")
    assert output.read_bytes() == (tmp_path / "own.jsonl").read_bytes()
