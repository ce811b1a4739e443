"""Times: of enough runs to be right, or none."""

import itertools
from collections.abc import Iterator

import pytest

from tests.report.pages import tiny_page
from tests.support.synthetic import TINY, synthetic_image
from tinymixnet import Model
from tinymixnet.report import data as report_data
from tinymixnet.report.times import FEWEST_RUNS, enough, measure_times, run_fast, run_readable


def test_times_are_there_for_every_layer(tiny: Model) -> None:
    pixels = synthetic_image(1, 48, 40).astype("f4")[0]
    slow, fast = run_readable(tiny, pixels), run_fast(tiny, pixels)
    assert list(slow) == list(TINY.layer_shapes(48, 40))
    assert set(fast) == {step.layer for step in tiny.plan.program(48, 40).steps}
    assert min(*slow.values(), *fast.values()) > 0


def runs(*delays: float) -> Iterator[dict[str, float]]:
    """Runs of a layer that takes 1 and one that takes 2, each delayed by others for a while."""
    return itertools.cycle({"a": 1 + delay, "b": 2.0} for delay in delays)


def test_delays_by_other_programs_do_not_count() -> None:
    quiet, busy = runs(0), runs(5, 3, 0.01, 9, 4, 0, 2, 8)
    timing = enough(lambda: next(busy), lambda: next(quiet), patience=60)
    assert timing is not None
    assert timing.readable == pytest.approx({"a": 1, "b": 2}, abs=0.02)
    assert timing.fast == {"a": 1, "b": 2}
    assert timing.runs >= FEWEST_RUNS


def test_times_that_no_two_runs_agree_on_are_left_out() -> None:
    quiet, wild = runs(0), ({"a": 2.0**-i} for i in range(1000))
    assert enough(lambda: next(quiet), lambda: next(wild), patience=0) is None
    assert enough(lambda: next(wild), lambda: next(quiet), patience=0) is None


def test_a_page_without_times(tiny: Model, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = synthetic_image(1, 32, 32).astype("f4")
    monkeypatch.setattr(report_data, "measure_times", lambda *_: None)
    text = tiny_page(tiny, pixels, tmp_path)
    body = text.split("<body>")[1].split("<script>")[0]
    assert " ms" not in body
    assert "fast path" not in body
    assert "too busy to measure" in body


def test_a_real_measurement_ends(tiny: Model) -> None:
    timing = measure_times(tiny, synthetic_image(1, 32, 32).astype("f4")[0], patience=1)
    assert timing is None or 0 < sum(timing.fast.values()) < 10
