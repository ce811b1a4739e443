"""What the README shows is what happens."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, USE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/use.md"))
PAGES = [
    "README.md",
    "notebooks/README.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_first_command_prints_what_is_shown():
    install, classify = blocks("sh")[0].strip().split(" && ")
    assert install == "pip install ."
    command = [sys.executable, "-m", *classify.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout in blocks("text")
    assert done.stderr == ""


def test_the_puzzle_can_be_solved_as_it_is_shown(tmp_path):
    """Its output, the two commands that it suggests, the page, and the solution."""
    (tmp_path / "tinymixnet").symlink_to(ROOT / "tinymixnet")

    def typed(line):
        command = [sys.executable, "-m", *line.split()]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    [shown] = [block for block in blocks("text") if block.startswith("$ tinymixnet break")]
    command, _, output = shown.removeprefix("$ ").partition("\n")
    done = typed(command)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
    compare, answer = (line.strip() for line in output.splitlines()[-2:])
    assert "first layer that adds an error" in typed(compare).stdout
    report, diagnose = re.findall("^`(tinymixnet (?:report|diagnose)[^`]+)`", README, re.MULTILINE)
    assert typed(report).returncode == 0
    assert (tmp_path / "puzzle.html").is_file()
    cause = typed(diagnose).stdout.splitlines()[0].removeprefix("cause: ")
    assert cause not in ("none", "unknown")
    done = typed(answer.replace("GUESS", cause))
    assert (done.stdout, done.returncode) == (f"right: {cause}\n", 0)


def test_the_python_examples_print_what_is_shown(monkeypatch, tmp_path):
    (tmp_path / "tinymixnet").symlink_to(ROOT / "tinymixnet")  # what they write stays there
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(blocks("python", USE)[0], {}, "use.md", None, 0)
    failures = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
    assert runner.tries > 5


def test_the_whole_network_is_shown_as_it_is():
    assert blocks("py") == [(ROOT / "tinymixnet" / "mixnet.py").read_text("utf-8")]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    links = set(re.findall(r"\]\((?!http)([^)#]+)", text))
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_the_address_of_the_repository_stands_in_one_place():
    texts = [(ROOT / page).read_text("utf-8") for page in PAGES]
    assert sum(text.count("REPOSITORY") for text in texts) == 1
