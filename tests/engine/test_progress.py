"""The bar of long commands: on a terminal alone, and gone when the work has ended."""

import io
import sys

import pytest

from tinymixnet.engine.progress import LONGEST, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make a terminal standard error. (Not in a fixture: pytest sets its own after those.)"""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def screen(written: str) -> str:
    """What a terminal shows in its line: each carriage return starts to write over it."""
    line = ""
    for text in written.split("\r"):
        line = text + line[len(text) :]
    return line.rstrip()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    shown = []
    for _ in with_progress("abc", 3, lambda item: f"item {item}"):
        shown.append(screen(terminal.getvalue()))
    assert shown == [
        f"[{'':<30}] 0/3 item a",
        f"[{'#' * 10:<30}] 1/3 item b",
        f"[{'#' * 20:<30}] 2/3 item c",
    ]
    assert screen(terminal.getvalue()) == ""
    assert "\n" not in terminal.getvalue()


def test_it_is_removed_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    steps = with_progress(range(3), 3, str)
    next(steps)
    assert screen(terminal.getvalue())
    steps.close()
    assert screen(terminal.getvalue()) == ""


def test_more_items_than_were_promised_and_long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    for _ in with_progress(range(5), 0, lambda item: "x" * 500):
        assert len(screen(terminal.getvalue())) == LONGEST


def test_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(with_progress(range(3), 3, str)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    terminal = open_terminal(monkeypatch)
    assert list(with_progress(range(3), 3, str, shown=False)) == [0, 1, 2]
    assert terminal.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    assert list(with_progress(range(3), 3, str)) == [0, 1, 2]
