"""Pages that are made from the code are as the code would make them now."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell a method's class")
def test_the_page_on_the_architecture_is_true() -> None:
    assert_made_by("docs.make_architecture")


def test_the_list_of_mistakes_is_that_of_the_suspects() -> None:
    assert_made_by("docs.make_mistakes")


@pytest.mark.parametrize("module", ["make_readme", "make_weights_page", "make_diagram"])
def test_what_depends_on_the_weights_is_what_they_give(module: str) -> None:
    assert_made_by(f"docs.{module}")


def assert_made_by(module: str) -> None:
    command = [sys.executable, "-m", module, "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
