"""Notebooks 06 to 11. They take as long as the others; see checks.py."""

from tests.notebooks.checks import NotebookChecks
from tests.notebooks.series import HALF, SERIES


class TestSecondHalf(NotebookChecks):
    notebooks = SERIES[HALF:]
