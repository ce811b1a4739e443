"""The parts of a team, each by itself: the cutting, the exchanges, the barrier, the choice.

The members are threads here, where there are any. `test_team.py` has real processes.
"""

import os
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fast.test_plan import architectures
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import load
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.errors import InputError
from tinymixnet.fast import barrier as barrier_module
from tinymixnet.fast import choice
from tinymixnet.fast.barrier import Barrier, Lost
from tinymixnet.fast.choice import ALONE, TEAM, TRIAL_SHARE, Pace
from tinymixnet.fast.compiler import Compiler
from tinymixnet.fast.shared_memory import SharedNumbers, nameless_file
from tinymixnet.fast.team import Seat, kernel_groups, most_members, own_channels, part_of
from tinymixnet.model import Model

LONG = 60  # seconds after which something hangs, and no measure of what is slow


@contextmanager
def barriers(members, patience=LONG):
    """A barrier for each member, as `members.py` makes them."""
    pipes = [os.pipe() for _ in range(members)]
    try:
        yield [
            Barrier(
                inbox, [write for m, (_, write) in enumerate(pipes) if m != member], [], patience
            )
            for member, (inbox, _) in enumerate(pipes)
        ]
    finally:
        for file in (file for pipe in pipes for file in pipe):
            os.close(file)


@contextmanager
def seats(architecture, members):
    """A seat for each member, at the same shared memory."""
    with barriers(members) as waiting, nameless_file() as file:
        yield [
            Seat(
                member,
                members,
                own_channels(architecture, member, members),
                SharedNumbers(file.fileno()),
                waiting[member],
            )
            for member in range(members)
        ]


def in_threads(function, arguments):
    """Call a function with each argument in a thread of its own; return the results."""
    results = {}
    threads = [
        threading.Thread(target=lambda a=a: results.update({a: function(a)}))
        for a in range(len(arguments))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(results) == len(arguments), "a member has failed or hangs"
    return [results[a] for a in range(len(arguments))]


# -- the cutting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("members", range(2, 9))
def test_every_channel_belongs_to_one_member_and_shares_are_even(variant, members):
    architecture = mixnet(variant)
    assert most_members(architecture) >= 8
    own = [own_channels(architecture, member, members) for member in range(members)]
    sizes = {b.name: b.expanded for b in architecture.blocks}
    sizes |= {"stem": architecture.stem, "head": architecture.head_filters}
    for name, size in sizes.items():
        channels = [c for member in own for s in member[name] for c in range(s.start, s.stop)]
        assert sorted(channels) == list(range(size))
    for name in kernel_groups(architecture):
        for shares in zip(*(member[name] for member in own), strict=True):  # of one kernel size
            counts = [share.stop - share.start for share in shares]
            assert max(counts) - min(counts) <= 1


def test_the_parts_of_the_weights_make_up_the_whole():
    model = Model(TINY, synthetic_tensors(TINY))
    whole = model.plan.constants
    parts = [part_of(whole, TINY, own_channels(TINY, member, 2)) for member in range(2)]
    cut = 0
    for name, array in whole.items():
        pieces = [part[name] for part in parts]
        if pieces[0] is array:  # not cut: what is added after an exchange, or to the image
            assert name.endswith(("missing", "reduce/bias", "logits/bias", "normalize/mean"))
            continue
        assert all(piece.flags.c_contiguous for piece in pieces)
        together = Counter(np.concatenate([piece.ravel() for piece in pieces]).tolist())
        assert together == Counter(array.ravel().tolist()), name
        cut += 1
    assert cut > len(whole) / 2


def team_outputs(model, image, members, names):
    """The outputs that each member has, of a team of threads; each runs the network twice."""
    whole, architecture = model.plan, model.architecture
    with seats(architecture, members) as team:
        programs = []
        for seat in team:
            part = part_of(whole.constants, architecture, seat.own)
            compiler = Compiler(architecture, part, whole.swish, seat)
            programs.append(compiler.program(*image.shape[:2]))
            seat.reserve(image.size)
        assert len({seat.slot_size for seat in team}) == 1
        team[0].memory.grow(np.prod(team[0].pages_shape))

        def run(member):
            outputs, done, program = {}, 0, programs[member]
            with np.errstate(all="ignore"):
                for _ in range(2):
                    program.image[:], done = image, 0
                    for name in names:
                        after, read = program.outputs[name]
                        for step in program.steps[done:after]:
                            step.run()
                        outputs[name], done = read(), after
            return outputs

        return in_threads(run, programs)


def assert_the_team_agrees(model, image, members):
    names = [f"{b.name}/output" for b in model.architecture.blocks] + ["head/pool", "logits"]
    expected = dict(zip(names, model.plan.run(image, names), strict=True))
    first, *others = team_outputs(model, image, members, names)
    for name, wanted in expected.items():
        assert np.abs(first[name] - wanted).max() <= 2e-5 * np.abs(wanted).max()
        assert all(np.array_equal(other[name], first[name]) for other in others)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("members", "size"), [(2, (97, 131)), (5, (32, 32)), (8, (45, 64))])
def test_a_team_has_the_plans_outputs_and_all_members_have_the_same(variant, members, size):
    architecture = mixnet(variant, classes=10)
    model = Model(architecture, synthetic_tensors(architecture))
    assert_the_team_agrees(model, synthetic_image(1, *size, seed=1)[0], members)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(architecture=architectures(), h=st.integers(32, 60), w=st.integers(32, 60))
def test_every_legal_network_can_be_cut(architecture, h, w):
    model = Model(architecture, synthetic_tensors(architecture))
    for members in {2, most_members(architecture)} - {0, 1}:
        if members <= most_members(architecture):
            assert_the_team_agrees(model, synthetic_image(1, h, w, seed=1)[0], members)


@pytest.mark.parametrize("members", [2, 3])
def test_what_the_budget_allows_a_team_it_allows_one_process(members):
    """A model changes between the two. So it must not begin as a team, and then be refused."""
    plan = Model(TINY, synthetic_tensors(TINY)).plan
    with seats(TINY, members) as team:
        asked = []
        for seat in (None, *team):
            part = part_of(plan.constants, TINY, seat.own) if seat else plan.constants
            compiler = Compiler(TINY, part, plan.swish, seat)
            compiler.program(70, 90)
            asked.append(compiler.memory.bytes)
    whole, first, *_ = asked
    assert whole <= first


# -- the exchanges and the barrier ----------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("spin", [0, 1e-3])
def test_no_member_ever_sees_anything_but_the_sum(members, spin, monkeypatch):
    """Hundreds of exchanges, in which each member is sometimes late."""
    monkeypatch.setattr(barrier_module, "SPIN", spin)
    rounds, size = 300, 500
    with seats(TINY, members) as team:
        for seat in team:
            seat.reserve(size)
        team[0].memory.grow(np.prod(team[0].pages_shape))

        def run(member):
            rng = np.random.default_rng(member)
            for number in range(rounds):
                x = np.full(size, number * 10.0 + member, np.float32)
                if rng.random() < 0.1:
                    time.sleep(rng.uniform(0, 2e-3))
                team[member].add_up(x)
                if rng.random() < 0.1:
                    time.sleep(rng.uniform(0, 2e-3))
                assert (x == members * number * 10 + members * (members - 1) // 2).all()
            return True

        assert all(in_threads(run, team))


def test_a_barrier_is_patient_and_then_gives_up():
    with barriers(2, patience=0.3) as (ours, _):
        start = time.monotonic()
        with pytest.raises(Lost, match="did not answer for 0 seconds"):
            ours.wait()
        assert 0.25 < time.monotonic() - start < LONG


@pytest.mark.parametrize("patience", [None, LONG])
def test_a_barrier_sees_that_a_watched_process_has_ended_but_takes_no_message_for_it(patience):
    import socket

    here, there = socket.socketpair()
    inbox, write = os.pipe()
    with here, ExitStack() as files:
        files.callback(os.close, inbox)
        files.callback(os.close, write)
        barrier = Barrier(inbox, [], [here.fileno()], patience)
        barrier.others = (os.open(os.devnull, os.O_WRONLY),)
        files.callback(os.close, barrier.others[0])
        there.send(b"the next image")
        timer = threading.Timer(0.2, os.write, (write, b"."))
        timer.start()
        barrier.wait()
        timer.join()
        there.close()
        with pytest.raises(Lost, match="has ended"):
            barrier.wait()


# -- the choice -----------------------------------------------------------------------------------


def simulate(pace, alone, team, images):
    """Let `images` images take the given times; return which way each of them went."""
    ways = []
    for _ in range(images):
        way = pace.next()
        pace.note(way, team if way is TEAM else alone)
        ways.append(way)
    return ways


def share_of_team(ways):
    return sum(way is TEAM for way in ways) / len(ways)


def test_the_faster_way_is_taken_and_the_other_one_costs_little():
    for alone, team in ((1.0, 0.6), (1.0, 1.3), (1.0, 5.0), (1.0, 50.0)):
        pace, images = Pace(), 1000
        ways = simulate(pace, alone, team, images)[len(choice.FIRST) :]
        best = TEAM if team < alone else ALONE
        assert (share_of_team(ways) > 0.9) == (best is TEAM)
        spent = sum(team if way is TEAM else alone for way in ways)
        lost = spent - len(ways) * min(team, alone)
        assert lost <= spent / TRIAL_SHARE + abs(team - alone)


def test_a_team_that_begins_to_lose_is_left_soon_and_taken_again_later():
    pace = Pace()
    assert share_of_team(simulate(pace, 1.0, 0.6, 200)) > 0.9
    ways = simulate(pace, 1.2, 3.0, 200)  # neighbours have come
    assert ways.index(ALONE) <= 5
    assert share_of_team(ways[5:]) < 0.05
    assert share_of_team(simulate(pace, 1.0, 0.6, 400)[-200:]) > 0.9  # they have gone


def test_a_team_has_to_win_against_the_best_of_one_process():
    pace = Pace()
    simulate(pace, 1.0, 1.4, len(choice.FIRST))
    turns = [simulate(pace, alone, 1.4, 1)[0] for alone in [1.0, 1.9] * 50]
    assert share_of_team(turns) < 0.1


@pytest.mark.parametrize("cores", [0, -1, 9, 1.0, True, None, "2", "AUTO", b"auto", [2]])
def test_unusable_cores_are_told_at_once(cores):
    with pytest.raises(InputError, match=r"cores=.*from 1 to 8, or \"auto\""):
        load(cores=cores)
    with pytest.raises(InputError, match="cores="):
        Model(TINY, synthetic_tensors(TINY), cores=cores)


def test_cores_are_shown_and_numpys_numbers_are_numbers():
    tensors = synthetic_tensors(TINY)
    assert "cores" not in repr(Model(TINY, tensors))
    assert "cores=2" in repr(Model(TINY, tensors, cores=np.int64(2)))
    assert type(Model(TINY, tensors, cores=np.int64(2)).cores) is int
    assert "cores='auto'" in repr(Model(TINY, tensors, cores="auto"))
