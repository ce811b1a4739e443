"""The benchmarks measure what they say: the same network on all sides, and the right numbers."""

import math
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, layers, measure, peers, scaling, startup
from benchmarks.measure import BenchmarkError, Job, Server, Timing, check_logits
from benchmarks.peers import Peer
from benchmarks.side import Ready, ready
from benchmarks.soak import children
from benchmarks.weights import made_up_weights, pictures, write_made_up_weights
from tests.fast.leftovers import soon
from tests.support.synthetic import TINY
from tinymixnet.engine.architecture import mixnet
from tinymixnet.fast.workers import usable_cores
from tinymixnet.model import Model

OURS = Peer("tinymixnet", peers.tinymixnet)
SIZE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.h5"
    return path, write_made_up_weights(path, TINY, SIZE)


def wrong_side(weights, pixels, threads) -> Ready:
    """tinymixnet with one weight of the first kernel changed."""
    weights.tensors["stem/conv/kernel"][1, 1, 0, 0] += 0.5
    return peers.tinymixnet(weights, pixels, threads)


def broken_side(weights, pixels, threads) -> Ready:
    raise OSError("no such instruction")


# -- the same network on all sides ----------------------------------------------------------------


def of_all_sides():
    """Every side, of which a short run leaves out the second one that needs the same framework."""
    seen = set()
    for peer in peers.PEERS:
        again = bool(peer.needs) and peer.needs in seen
        seen.add(peer.needs)
        yield pytest.param(peer, marks=[pytest.mark.whole] * again, id=peer.build.__name__)


@pytest.mark.parametrize("peer", list(of_all_sides()))
def test_every_side_computes_the_same_and_then_waits_idly(peer, weights):
    if why := peers.why_skipped(peer):
        pytest.skip(why)
    path, made_up = weights
    expected = Model(*made_up)(pictures(2, SIZE))
    with Server(f"benchmarks.peers:{peer.build.__name__}", 2, path) as server:
        logits = np.array(server.ask("prepare", size=SIZE, batch=2)["logits"])
        check_logits(peer.label, logits, expected)
        timing = server.ask("time", size=SIZE, batch=2, calls=1)
        assert len(timing["seconds"]) == 1
        assert timing["seconds"][0] > 0
        if not sys.platform.startswith("linux"):
            return
        time.sleep(10 * measure.SETTLE)
        looks = (is_idle(server.process.pid) for _ in range(3))
        assert any(looks)  # who is kept from the processor, comes to rest later


def is_idle(pid):
    before = processor_seconds(pid)
    time.sleep(0.3)
    return processor_seconds(pid) - before < 0.03


def processor_seconds(pid):
    ticks = map(int, stat_of(pid)[11:13])
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def stat_of(pid):
    """Return what Linux says of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_a_side_that_computes_something_else_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(SystemExit, match=r"wrong computes something else: .* differ .* by \d"):
        compare.main(["--quick"], [Peer("wrong", wrong_side)])
    assert "|" not in capsys.readouterr().out  # no table, not even a part of one


def test_a_side_that_dies_says_why(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(
        SystemExit, match=r"(?s)broken_side died with exit status 1:.*no such instruction"
    ):
        compare.main(["--quick"], [Peer("broken", broken_side)])


def test_logits_may_differ_by_a_constant_and_by_rounding_only():
    expected = np.random.default_rng(0).normal(0, 1, (2, 50))
    largest = np.abs(expected).max()
    check_logits("x", expected, expected)
    check_logits("x", expected + np.array([[3.0], [-1.0]]), expected)
    slightly = expected.copy()
    slightly[1, 7] += 0.9e-4 * largest
    check_logits("x", slightly, expected)
    slightly[1, 7] += 0.3e-4 * largest
    with pytest.raises(BenchmarkError, match="computes something else"):
        check_logits("x", slightly, expected)
    far = expected.copy()
    far[:, 3] = far.max() - 100
    lost = far.copy()
    lost[:, 3] = -np.inf
    check_logits("x", lost, far)
    with pytest.raises(BenchmarkError, match="computes something else"):
        check_logits("x", lost, expected)
    for bad in (expected[:, ::-1], np.full((2, 50), np.nan), expected[:1], expected[:, :49]):
        with pytest.raises(BenchmarkError, match="x"):
            check_logits("x", bad, expected)


def test_made_up_weights_keep_values_in_range_down_to_the_last_layer():
    model = Model(*made_up_weights(mixnet("mixnet-s"), SIZE))
    for layer, values in model.layers(pictures(1, SIZE)):
        if layer.endswith(("output", "logits")):
            assert 0.1 < values.std() < 10, layer


def test_pictures_are_the_same_in_every_batch_and_whole_numbers():
    two, three = pictures(2, 40), pictures(3, 40)
    np.testing.assert_array_equal(two, three[:2])
    np.testing.assert_array_equal(two, two.astype(np.uint8))
    assert not np.array_equal(three[0], three[1])


# -- settings -------------------------------------------------------------------------------------


def test_openblas_chooses_its_kernels_unless_told_to_keep_the_machines(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1")
    chosen, kept = (measure.environment(3, as_set) for as_set in (False, True))
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & chosen.keys()
    assert kept["OPENBLAS_CORETYPE"] == "Haswell"
    assert chosen["OPENBLAS_NUM_THREADS"] == kept["OMP_NUM_THREADS"] == "3"


def test_the_kernels_in_use_are_asked_of_openblas(monkeypatch):
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "avx2" not in flags.read_text():
        pytest.skip("Haswell's kernels cannot run here")
    if measure.blas_kernels() == "unknown":
        pytest.skip("this NumPy does not bring OpenBLAS")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert measure.chosen_kernels(as_set=True) == "Haswell"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Sandybridge")
    assert measure.chosen_kernels(as_set=True) == "Sandybridge"
    assert measure.chosen_kernels(as_set=False) != "Sandybridge"


class Recorder:
    """Stands for a server; its times are its own number times the batch."""

    log: list

    def __init__(self, number, log):
        self.number, self.log = number, log

    def ask(self, do, size, batch, calls):
        self.log.append((self.number, calls))
        return {"seconds": [self.number * batch] * calls, "busy": 1.0}


def test_all_jobs_take_a_turn_in_every_round_in_changing_order(monkeypatch):
    monkeypatch.setattr(measure, "SETTLE", 0)
    log = []
    jobs = [Job(Recorder(i, log), 64, batch) for i, batch in ((1, 1), (2, 1), (3, 1), (4, 4))]
    timings = measure.in_turns(jobs, rounds=6, calls=3)
    rounds = [[number for number, _ in log[i : i + 4]] for i in range(0, 24, 4)]
    assert all(sorted(order) == [1, 2, 3, 4] for order in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert dict(log) == {1: 3, 2: 3, 3: 3, 4: 1}
    assert [timing.seconds for timing in timings] == [[1] * 6, [2] * 6, [3] * 6, [16] * 6]


def test_a_slow_machine_gets_fewer_rounds_but_never_less_than_three(monkeypatch):
    monkeypatch.setattr(measure, "SETTLE", 0)
    jobs = [Job(Recorder(1, []), 64, 1)]
    assert len(measure.in_turns(jobs, rounds=9, calls=1, most_seconds=0)[0].seconds) == 3
    assert len(measure.in_turns(jobs, rounds=2, calls=1, most_seconds=0)[0].seconds) == 2


# -- numbers and tables ---------------------------------------------------------------------------


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def result(name, seconds, threads=1, batch=1, how="", busy=1.0):
    return compare.Result(Peer(name, ready, how), threads, batch, Timing(seconds, busy))


def test_ratios_are_taken_round_by_round():
    low, middle, high = measure.ratio([1, 4, 9], [2, 2, 3])  # 0.5, 2, 3: the machine slowed down
    assert (low, middle, high) == (1.25, 2, 2.5)
    assert measure.written(measure.spread([1, 2, 3, 4, 5]), 1) == "3.0 (2.0-4.0)"


def test_latency_table():
    results = [
        result("tinymixnet", [0.010, 0.010, 0.010]),
        result("tinymixnet", [0.006, 0.006, 0.006], threads=2),
        result("Peer", [0.040, 0.020, 0.030], how="first"),
        result("Peer", [0.500, 0.500, 0.500], how="second"),
        result("Peer", [0.300, 0.300, 0.300], threads=2, how="first"),
        result("Peer", [0.012, 0.012, 0.012], threads=2, how="second"),
        result("tinymixnet with BLAS threads", [0.012, 0.012, 0.012], threads=2),
    ]
    absent = Peer("Absent", ready, needs=("no_such_module",))
    assert peers.why_skipped(absent) == "no_such_module not installed"
    table = compare.latency_table(results, [(absent, peers.why_skipped(absent))])
    header, rule, *rows = cells(table)
    assert header[1::2] == ["ms on 1 thread", "ms on 2 threads"]
    assert len(rule) == len(header)
    assert rows == [
        ["**tinymixnet**", "10.0 (10.0-10.0)", "", "6.0 (6.0-6.0)", ""],
        [
            "Peer, first / second",
            "30.0 (25.0-35.0)",
            "0.33 (0.29-0.42) of it",
            "12.0 (12.0-12.0)",
            "0.50 (0.50-0.50) of it",
        ],
        ["tinymixnet with BLAS threads", "", "", "12.0 (12.0-12.0)", "0.50 (0.50-0.50) of it"],
        ["Absent", "skipped: no_such_module not installed", "", "", ""],
    ]


def test_throughput_table():
    results = [
        result("tinymixnet", [0.02, 0.02], threads=2),
        result("tinymixnet", [0.1, 0.1], threads=2, batch=10, how="map"),
        result("Peer", [0.025, 0.025], threads=2),
        result("Peer", [0.16, 0.16], threads=2, batch=8, how="first"),
    ]
    _, _, *rows = cells(compare.throughput_table(results, []))
    assert rows == [
        ["**tinymixnet**", "100.0 (100.0-100.0)", "map, 10 at a time", ""],
        ["Peer", "50.0 (50.0-50.0)", "first, 8 at a time", "2.00 (2.00-2.00) times it"],
    ]


def test_cores_busy():
    results = [result("a", [1.0], busy=1.04), result("a", [1.0], threads=2, busy=1.87)]
    assert "a 1.0 / 1.9" in compare.cores_busy(results)


def test_a_busy_neighbour_takes_a_core_and_is_gone_afterwards():
    before = children()
    with measure.neighbour():
        [pid] = set(children()) - set(before)
        assert soon(lambda: processor_seconds(pid) > 0.1)  # Python has started
        states = []
        for _ in range(50):
            states.append(stat_of(pid)[0])
            time.sleep(0.01)
        assert states.count("R") > 40  # it wants a core, whether or not it gets one
    assert set(children()) <= set(before)


def test_the_command_prints_both_tables_and_skips_with_a_word(capsys):
    before = children()
    readable = Peer("readable", peers.tinymixnet_readable, batches=())
    absent = Peer("Absent", peers.openvino, needs=("no_such_module",))
    compare.main(["--quick", "--size", "48", "--busy"], [OURS, readable, absent])
    out, progress = capsys.readouterr()
    latency, throughput = re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE)
    counts = len({1, usable_cores()})
    rows = cells(latency)[2:]
    assert [row[0] for row in rows] == ["**tinymixnet**", "readable", "Absent"]
    assert all(len(row) == 1 + 2 * counts for row in rows)
    assert all(float(row[i].split()[0]) > 0 for row in rows[:2] for i in range(1, 2 * counts, 2))
    assert rows[2][1] == "skipped: no_such_module not installed"
    assert [row[0] for row in cells(throughput)[2:]] == ["**tinymixnet**", "Absent"]
    facts = "numpy " + np.__version__, "OPENBLAS_NUM_THREADS", "BLAS kernels: ", "caches", " 48 px"
    for fact in (*facts, "beside it: a process that uses up a core"):
        assert fact in out
    for step in ("readable: 1 at a time, 1 threads", "round 2 of 2"):
        assert step in progress
    assert set(children()) <= set(before)


# -- startup --------------------------------------------------------------------------------------


def test_startup_prints_whole_processes_and_what_each_adds(capsys):
    startup.main(["--quick"])
    rows = cells(re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.MULTILINE)[0])[2:]
    assert [row[0] for row in rows] == list(startup.STAGES)
    wall, processor = ([float(row[i].split()[0]) for row in rows] for i in (1, 3))
    assert min(wall) > 0
    assert min(processor) >= 0  # some systems count in hundredths of a second
    assert processor[-1] > 0
    runs = {stage: [startup.Run(wall, 0.1)] for stage, wall in (("a", 0.2), ("b", 0.5))}
    _, _, *rows = cells(startup.table(runs))
    assert [row[1:3] for row in rows] == [
        ["200 (200-200)", "200 (200-200)"],
        ["500 (500-500)", "300 (300-300)"],
    ]


# -- layers ---------------------------------------------------------------------------------------

STEPS = [
    layers.Step("stem", "normalize", 0.001),
    layers.Step("blocks_0/depthwise_conv", "mix_conv", 0.004),
    layers.Step("blocks_0/project", "add", 0.001),
    layers.Step("blocks_0/output", "add", 0.002),
    layers.Step("blocks_1/depthwise", "mix_conv", 0.002),
    layers.Step("logits", "dense", 0.010),
]


def test_steps_are_added_up_by_kernel_kind_and_block():
    assert layers.by_kernel(STEPS) == pytest.approx(
        {"dense": 0.010, "mix_conv": 0.006, "add": 0.003, "normalize": 0.001}
    )
    assert list(layers.by_kernel(STEPS)) == ["dense", "mix_conv", "add", "normalize"]
    assert layers.by_kind(STEPS) == pytest.approx(
        {"head": 0.010, "depthwise": 0.006, "project": 0.003, "stem": 0.001}
    )
    _, _, *rows = cells(layers.block_table(STEPS, kernels=2))
    assert rows == [
        ["stem", "", "", "1.00", "1.00"],
        ["blocks_0", "", "4.00", "3.00", "7.00"],
        ["blocks_1", "", "2.00", "", "2.00"],
        ["head", "10.00", "", "", "10.00"],
    ]
    _, _, *rows = cells(layers.kernel_table(STEPS))
    assert rows[1] == ["mix_conv", "6.00", "30.0 %", "2"]


def test_multiply_adds_are_counted_to_the_kinds_of_layer():
    _, _, *rows = cells(layers.kind_table(STEPS, mixnet("mixnet-l"), 224))
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["depthwise"] == ["6.00", "30.0 %", "85.8", "14.3"]  # 85.82 M in 6 ms
    assert by_name["all"] == ["20.00", "100 %", "555.3", "27.8"]


@pytest.mark.parametrize("readable", [False, True])
def test_profiles_cover_the_whole_network(readable, weights):
    _, made_up = weights
    steps = layers.profile(Model(*made_up), pictures(1, SIZE), 1, readable)
    names = [block.name for block in made_up.architecture.blocks]
    assert list(layers.by_part(steps)) == ["stem", *names, "head"]
    assert set(layers.by_kind(steps)) == {"stem", "expand", "depthwise", "se", "project", "head"}
    assert all(step.seconds >= 0 for step in steps)
    assert math.fsum(step.seconds for step in steps) > 0


def test_a_profile_runs_the_network_it_times(weights):
    _, made_up = weights
    model, pixels = Model(*made_up), pictures(2, SIZE)
    expected = model(pixels[1:])
    list(layers.fast_steps(model, pixels[1:]))
    _, read = model.plan.program(SIZE, SIZE).outputs["logits"]
    np.testing.assert_array_equal(read(), expected[0])


def test_layers_prints_its_tables_and_draws(capsys, tmp_path):
    arguments = ["--quick"]
    if drawn := find_spec("matplotlib") is not None:
        arguments += ["--picture", str(tmp_path / "bars.png")]
    layers.main(arguments)
    out = capsys.readouterr().out
    assert re.search(r"^\| blocks_15 \|.*\| [\d.]+ \|$", out, re.MULTILINE)
    assert re.search(r"^\| all \| [\d.]+ \| 100 % \|", out, re.MULTILINE)
    assert re.search(r"^\| relu_to \| relu \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", out, re.MULTILINE)
    if drawn:
        assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


# -- scaling --------------------------------------------------------------------------------------


def test_fit_finds_the_fixed_cost_and_the_cost_of_work():
    work = [1.0, 2.0, 5.0, 30.0]
    fixed, each = scaling.fit(work, [3 + 2 * w for w in work])
    assert (fixed, each) == pytest.approx((3, 2))


def test_proportion_ends_where_work_costs_a_tenth_more():
    work = [1, 2, 3, 4, 5, 6]
    unit = [2.0, 1.09, 1.0, 1.05, 1.2, 1.02]  # the last is near again, but beyond a gap
    assert scaling.proportional(work, np.multiply(work, unit)) == (2, 1, 3)
    said = scaling.verdict("{} px", [10, 20, 30, 40, 50, 60], work, np.multiply(work, unit))
    assert "20 px to 40 px" in said
    assert "At 10 px the same work costs 100 % more." in said
    assert "At 60 px the same work costs 2 % more." in said


def test_excess_names_the_layers_that_grow_faster():
    over = scaling.excess({"expand": 4.0, "se": 1.0}, {"expand": 1.0, "se": 1.0}, 3.0)
    assert over == {"expand": 1.0, "se": -2.0}
    assert list(over) == ["expand", "se"]


def test_the_largest_activation_of_mixnet_l_is_block_1s_expansion():
    size = scaling.largest_activation(mixnet("mixnet-l"), 224)
    assert size == pytest.approx(112 * 112 * 192 * 4 / 2**20)


def test_scaling_prints_its_tables_and_verdicts(capsys):
    scaling.main(["--quick"])
    out = capsys.readouterr().out
    sizes, batches = (cells(t)[2:] for t in re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE))
    assert [int(row[0]) for row in sizes] == list(scaling.QUICK.sizes)
    assert [int(row[0]) for row in batches] == list(scaling.QUICK.batches)
    assert out.count("Time is proportional to work") == 2
