"""Notebooks 00 to 06. They take as long as the others; see checks.py."""

from tests.notebooks.checks import NotebookChecks
from tests.notebooks.series import SERIES


class TestFirstHalf(NotebookChecks):
    notebooks = SERIES[:7]
