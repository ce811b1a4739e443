"""Writing destroys nothing: no input, no foreign file, no link, and nothing half written stays."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tinymixnet.engine.files import atomic_folder, atomic_write, begins_with, check_output
from tinymixnet.errors import InputError

OWN = b"<!doctype html><title>ours"


def refused(path, message, **how):
    with pytest.raises(InputError, match=message) as caught:
        check_output(path, own=begins_with(OWN), **how)
    assert len(str(caught.value).splitlines()) == 1


def test_a_new_file_and_our_own_earlier_one(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    check_output(page)
    check_output(str(page), inputs=[tmp_path / "none.jpg", b"bytes", io.BytesIO(), None])
    page.write_bytes(OWN + b"</title>")
    check_output(page, own=begins_with(b"other", OWN))
    with pytest.raises(InputError, match="something else"):
        check_output(page)
    with pytest.raises(InputError, match="something else"):
        check_output(page, own=begins_with(b"other"))


@pytest.mark.parametrize("content", [b"", b"my thesis", OWN[:-1], b" " + OWN])
def test_what_another_program_wrote(tmp_path: Path, content: bytes) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(content)
    refused(page, "something else")
    check_output(page, force=True)
    assert page.read_bytes() == content


def test_an_input_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    photo = tmp_path / "in" / "photo.jpg"
    photo.write_bytes(OWN)  # even if it looks like our own output
    os.link(photo, tmp_path / "hard.jpg")
    os.symlink(photo, tmp_path / "soft.jpg")
    os.symlink(tmp_path / "in", tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        for output in (photo, "in/photo.jpg", "./in/../in/photo.jpg", "folder/photo.jpg"):
            for given in (photo, "in/photo.jpg", "soft.jpg", "hard.jpg", "folder/photo.jpg"):
                refused(output, "is an input", inputs=[given], force=force)
        refused("hard.jpg", "is an input", inputs=["soft.jpg"], force=force)
        with photo.open("rb") as stream:
            refused(photo, "is an input", inputs=[stream], force=force)


def test_a_folder_around_an_input_and_a_file_in_one(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    image = trace / "image.npy"
    image.write_bytes(b"x")
    with pytest.raises(InputError, match="is an input"):
        check_output(trace, inputs=[image], own=lambda path: True, folder=True)
    for force in (False, True):
        refused(image, "something else", inputs=[trace], force=force)
    check_output(trace / "page.html", inputs=[trace])


def test_links_pipes_devices_sockets_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_bytes(OWN)
    os.symlink(tmp_path / "page.html", tmp_path / "link")
    os.symlink(tmp_path / "none", tmp_path / "dangling")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for force in (False, True):
            for name in ("link", "dangling", "loop"):
                refused(tmp_path / name, "is a symbolic link", force=force)
            refused(tmp_path / "pipe", "is a FIFO", force=force)
            refused(tmp_path / "socket", "is a socket", force=force)
            refused("/dev/null", "is a device", force=force)
            refused(tmp_path, "is a folder", force=force)
            refused(".", "is a folder", force=force)
            refused("/", "is a folder", force=force)


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_a_rename_never_destroys_a_link_or_a_pipe(tmp_path: Path, write: Callable) -> None:
    (tmp_path / "target").write_bytes(OWN)
    os.symlink(tmp_path / "target", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for name in ("link", "pipe"):
        with pytest.raises(InputError, match="is a"), write(tmp_path / name):
            pytest.fail("the block ran")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_folders(tmp_path: Path) -> None:
    place = tmp_path / "trace"
    check_output(place, folder=True)
    place.mkdir()
    check_output(place, folder=True)  # there is nothing in it
    (place / "thesis").touch()
    refused(place, "something else", folder=True)
    refused(place, "something else", folder=True, force=True)
    check_output(place, folder=True, own=lambda path: path == place)
    refused(place / "thesis", "something else", folder=True)


@pytest.mark.parametrize("path", [None, 3, b"x", "", "a\0b", 1.5, [], Path("none/x.html")])
def test_what_is_no_place_for_a_file(path: object) -> None:
    refused(path, "expected a path|not a path|no folder .*none")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "x", "no folder")
    refused(tmp_path / ("x" * 300), "cannot be written")


# -- writing --------------------------------------------------------------------------------------


def interrupted(write: Callable[[Path], AbstractContextManager[Path]], path: Path) -> None:
    with write(path) as new:
        (new / "half" if new.is_dir() else new).write_text("half")
        raise KeyboardInterrupt


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(atomic_write, path)
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["x"])
    with atomic_write(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["x"])
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    with atomic_write(tmp_path / ("é" * 127)) as new:  # 254 bytes, one less than a name may have
        new.touch()


def test_a_folder_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in ("old", "new"):
        with atomic_folder(path) as new:
            (new / content).touch()
        assert (os.listdir(path), os.listdir(tmp_path)) == ([content], ["x"])
    with pytest.raises(KeyboardInterrupt):
        interrupted(atomic_folder, path)
    assert (os.listdir(path), os.listdir(tmp_path)) == (["new"], ["x"])


KILLED = """
import os, sys, time
from pathlib import Path
from tinymixnet.engine import files
real, moved = os.replace, []
def replace(source, target):
    if sys.argv[2] == "replacing" and moved:
        print("ready", flush=True); time.sleep(60)
    moved.append(real(source, target))
os.replace = replace
write = files.atomic_write if sys.argv[2] == "file" else files.atomic_folder
with write(Path(sys.argv[1])) as new:
    (new / "half" if new.is_dir() else new).write_text("half")
    if sys.argv[2] != "replacing":
        print("ready", flush=True); time.sleep(60)
"""


@pytest.mark.parametrize("what", ["file", "folder", "replacing"])
def test_what_killed_processes_leave_is_removed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what == "replacing":
        path.mkdir()
        (path / "old").touch()
    argv = [sys.executable, "-c", KILLED, str(path), what]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        left = [name for name in os.listdir(tmp_path) if name != "x"]
        assert len(left) == 1
        with atomic_write(tmp_path / "y") as new:  # it lives: hands off
            new.touch()
        assert left[0] in os.listdir(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with atomic_write(tmp_path / "y") as new:
        new.touch()
    assert sorted(os.listdir(tmp_path)) == (["x", "y"] if what == "replacing" else ["y"])
    if what == "replacing":  # the older folder is put back
        assert os.listdir(path) == ["old"]


def test_only_what_is_surely_ours_is_removed(tmp_path: Path) -> None:
    names = [
        ".x.tmp",
        ".x.abc.tmp",
        "x.tinymixnet-00000000-1-abc.tmp",
        ".x.tinymixnet-00000000-1999999999-abc.tmp",  # of another machine
        ".x.tinymixnet-zzzzzzzz-1-abc.tmp",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "a") as one, atomic_folder(tmp_path / "b") as two:
        time.sleep(0)
        (one / "1").touch()  # two at once in one process do not remove each other's
        (two / "2").touch()
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "a", "b"])


def test_force_does_not_replace_a_file_by_a_folder(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    check_output(notes, force=True)
    with pytest.raises(InputError, match="something else is there already"):
        check_output(notes, folder=True, force=True)
