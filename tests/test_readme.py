"""What the README shows is what happens."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_command_prints_what_is_shown():
    install, classify = blocks("sh")[0].strip().split(" && ")
    assert install == "pip install ."
    command = [sys.executable, "-m", *classify.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == blocks("text")[0]
    assert done.stderr == ""


def test_the_python_examples_print_what_is_shown(monkeypatch, tmp_path):
    (tmp_path / "tinymixnet").symlink_to(ROOT / "tinymixnet")  # what they write stays there
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(blocks("python")[0], {}, "README.md", None, 0)
    failures = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
    assert runner.tries > 5


def test_the_whole_network_is_shown_as_it_is():
    assert blocks("py") == [(ROOT / "tinymixnet" / "mixnet.py").read_text("utf-8")]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_the_accuracy_is_the_one_in_the_weights():
    from tinymixnet.engine.weights import BUNDLED, read_weights

    noted = float(re.search(r"top-1 (\S+)", read_weights(BUNDLED).metadata.accuracy)[1])
    shown = re.search(r"right on (\S+) % of CIFAR-10's", README)[1]
    assert float(shown) == pytest.approx(100 * noted, abs=1e-9)
