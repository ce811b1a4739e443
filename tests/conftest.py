"""Options and settings of all tests: `pytest` for a quick run, `pytest --whole` for everything."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from tests.support import sweep
from tests.support.planted import ONE_OF_EACH_CAUSE, PAIRS

# Each of pytest-xdist's processes works on one core. It has to be said before NumPy is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

TESTS = Path(__file__).parent
LONGEST_EXAMPLE = 20_000  # milliseconds; hypothesis reports an example that takes longer

# What a run without --whole leaves out of tests that check a large catalogue.
MARKS = {
    ("debug/test_diagnose.py", "test_small"): [pytest.mark.sweep],
    ("debug/test_diagnose.py", "test_each_bug_of_a_pair_shows"): [
        pytest.mark.sweep(name=[*PAIRS][::4])
    ],
    ("debug/test_diagnose.py", "test_large"): [pytest.mark.sweep(name=ONE_OF_EACH_CAUSE[::3])],
    ("debug/test_diagnose.py", "test_large_at_224"): [pytest.mark.sweep(name=["epsilon 1e-5"])],
    ("debug/test_diagnose.py", "test_nothing_is_wrong_with_a_correct_port"): [pytest.mark.sweep],
    ("debug/test_diagnose.py", "test_what_is_not_in_the_catalogue_is_unknown"): [pytest.mark.sweep],
    ("engine/test_weights.py", "test_damage_never_goes_unseen"): [pytest.mark.sweep(kind=["cut"])],
}


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    parser.addoption("--whole", action="store_true", help="run every case of the slow sweeps")
    if not pluginmanager.hasplugin("xdist"):  # its options stand in pyproject.toml all the same
        without_effect = parser.getgroup("without pytest-xdist")
        without_effect._addoption("-n", "--numprocesses", help="ignored: no pytest-xdist")
        without_effect._addoption("--dist", help="ignored: no pytest-xdist")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts its background jobs deaf to Ctrl-C, and they pass that on to what they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "whole: runs only with --whole")
    config.addinivalue_line("markers", "sweep(**values): without --whole, not all combinations")
    sweep.whole = config.getoption("whole")
    examples = sweep.number(25, 100)  # 100 is hypothesis's own default
    hypothesis.settings.register_profile(
        "tinymixnet", max_examples=examples, deadline=LONGEST_EXAMPLE
    )
    hypothesis.settings.load_profile("tinymixnet")


def pytest_report_header(config: pytest.Config) -> str:
    return "sweeps: " + ("whole" if sweep.whole else "short (every case runs with --whole)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        for mark in MARKS.get((path, getattr(item, "originalname", item.name)), ()):
            item.add_marker(mark)
    if not sweep.whole:
        for item in sweep.left_out(items):
            item.add_marker(pytest.mark.skip(reason="runs with --whole"))
