"""Notebooks 00 to 05. They take as long as the others; see checks.py."""

from tests.notebooks.checks import NotebookChecks
from tests.notebooks.series import HALF, SERIES


class TestFirstHalf(NotebookChecks):
    notebooks = SERIES[:HALF]
