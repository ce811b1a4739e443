"""What `--help` says, and what a misspelt word is answered with."""

import argparse
import doctest
import re
import sys

import pytest

from tests.test_cli import MODULE, run
from tinymixnet import cli
from tinymixnet.cli import nearest
from tinymixnet.cli import run as run_parser
from tinymixnet.debug.names.choose import MAPS
from weights_tools import __main__ as weights_tools_main

PROGRAMS = {"tinymixnet": cli.parser, "weights_tools": weights_tools_main.parser}


def commands_of(program):
    """The parsers of a program by the words that call them: the program's own first."""
    top = PROGRAMS[program]()
    [action] = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    return {top.prog: top} | {f"{top.prog} {name}": sub for name, sub in action.choices.items()}


HELPS = [(program, words) for program in PROGRAMS for words in commands_of(program)]


@pytest.mark.parametrize(("program", "words"), HELPS)
def test_every_help_has_an_example_and_the_exit_codes(program, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = commands_of(program)[words]
    text = parser.format_help()
    assert parser.prog == words
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()
    head, example, codes = re.fullmatch(
        r"(.*)\n\nexample:\n  (.*)\n\nexit codes:\n(.*)\n", text, re.DOTALL
    ).groups()
    assert "\n" not in example
    assert example.startswith(words)
    first = head.split("\n\n")[1]  # after the usage, a sentence
    assert first[0].isupper()
    assert first.endswith(".")
    assert {line.split()[0] for line in codes.splitlines()} == {"0", "1", "2", "130"}
    for action in parser._actions:
        explained = action.help or isinstance(action, argparse._SubParsersAction)
        assert explained, f"{words}: {action.dest} is not explained"


@pytest.mark.parametrize(("program", "words"), HELPS)
def test_every_example_can_be_parsed(program, words):
    top, *_ = commands_of(program).values()
    arguments = commands_of(program)[words].example.removeprefix(top.prog).split()
    assert top.parse_args(arguments).run


def test_the_module_tells_the_exit_codes():
    codes = {cli.DONE, cli.ALERT, cli.FAILED, cli.STOPPED}
    assert {int(code) for code in re.findall(r"^    (\d+) ", cli.__doc__, re.MULTILINE)} == codes


def test_the_help_of_names_lists_the_maps():
    text = " ".join(commands_of("tinymixnet")["tinymixnet compare"].format_help().split())
    for name in MAPS:
        assert name in text[text.index("whose names") :]


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_prints_the_help(program):
    code, out, err = run([sys.executable, "-m", program])
    assert (code, err) == (0, "")
    assert (code, out, err) == run([sys.executable, "-m", program, "--help"])
    assert out.startswith("usage: ")
    assert "example:\n" in out


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify"], "IMAGE"),
        (["classify", "x.jpg", "--top", "0"], "whole number from 1"),
        (["classify", "x.jpg", "--top", "many"], "whole number from 1"),
        (["classify", "x.jpg", "--preset", "none"], "'none' is not one of tf, timm, omz"),
        (["classify", "x.jpg", "--weights", "none.h5"], "none.h5: no such weights file"),
        (["classify", "x.jpg", "--weights", __file__], "not a weights file"),
        (["summary", "--weights", "mixnet-s"], "python -m weights_tools fetch mixnet-s"),
        (["nonsense"], "no command 'nonsense': expected one of demo, classify, "),
        (["clasify", "x.jpg"], "no command 'clasify': did you mean classify? (see"),
        (["DIAGNOSE"], "did you mean diagnose?"),
        (["classify", "x.jpg", "--preset", "Timm"], "omz"),
        (["classify", "x.jpg", "--preset", "Timm"], "did you mean timm?"),
        (["compare", "x", "y", "--layout", "nchw"], "did you mean NCHW?"),
        (["classify", "x.jpg", "--tpo=3"], "no option '--tpo': did you mean --top?"),
        (["classify", "x.jpg", "--tpo", "3"], "see tinymixnet classify --help"),
        (["--vresion"], "no option '--vresion': did you mean --version?"),
        (["summary", "--qqqqq"], "no option '--qqqqq' (see tinymixnet summary --help)"),
        (["trace", "a", "b", "-o", "c"], "unexpected 'b' (see tinymixnet trace --help)"),
        (["summary", "x"], "unexpected 'x' (see tinymixnet summary --help)"),
        (["classify", "a", "--json", "b"], "unexpected 'b': name every IMAGE side by side"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    code, out, err = run(MODULE, *arguments, TINYMIXNET_HOME=str(tmp_path))
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["fetch", "mixnet_l"], "did you mean mixnet-l?"),
        (["fech", "mixnet-l"], "no command 'fech': did you mean fetch?"),
        (["convert", "x", "-o", "y", "--preset", "time"], "did you mean timm?"),
        (["convert", "x", "-o", "y", "--input-size", "big"], "expected a whole number from 1 on"),
        (["inspect", "x", "--jsn"], "(see python -m weights_tools inspect --help)"),
    ],
)
def test_a_mistake_in_weights_tools_is_one_line(mistake, message, capsys):
    assert run_parser(weights_tools_main.parser(), mistake) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m weights_tools")
    assert message in err
    assert len(err.splitlines()) == 1


def test_nearest():
    assert doctest.testmod(cli).failed == 0
    assert nearest("", ["classify"]) == ""
    assert nearest("x" * 100_000, ["classify"]) == ""
    assert nearest("classify", []) == ""
