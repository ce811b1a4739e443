"""One process or a team: the next image is answered by what was faster lately.

A team wins on a free machine. It loses where other programs want the cores, because a member that
has to give up its core keeps all others waiting. How busy a machine is changes from second to
second, and nobody tells us. So `TeamPlan` measures the time of every image, and decides by that.

It also goes on when a team breaks: from that image on, one process answers.
"""

import os
import threading
import warnings
import weakref
from collections import deque
from statistics import median
from time import perf_counter

from tinymixnet.engine.kernels import Array
from tinymixnet.fast.barrier import Lost
from tinymixnet.fast.members import Team
from tinymixnet.fast.plan import Plan
from tinymixnet.fast.processes import usable_cores
from tinymixnet.fast.team import most_members

ALONE, TEAM = False, True
MOST_CORES = 8  # for one image; nobody has tried more
FIRST = (TEAM, TEAM, TEAM, ALONE, ALONE)  # the first images of a size
UNTIMED = 1  # images of each way that come first: they use their memory for the first time
TIMES_KEPT = 5  # of each way, the last ones
TRIAL_SHARE = 50  # trials of the slower way may cost 1 / 50 of the time, at most
SIZES_KEPT = 8  # input sizes of which times are remembered

MEASURED = 5  # images with which "auto" measures a number of cores
WORTHWHILE = 0.9  # "auto" takes more cores only where they take less than this share of the time


class Pace:
    """The times of both ways for images of one size, and which way is next.

    The team has to win clearly: its median has to be below the *least* of the single process's
    times. Where cores are scarce, both sides' times are wide apart, and a team gains nothing.
    """

    def __init__(self) -> None:
        self.images = {ALONE: 0, TEAM: 0}
        self.times = {way: deque[float](maxlen=TIMES_KEPT) for way in (ALONE, TEAM)}
        self.is_trial = False  # whether the next image goes the way that was slower lately
        self.since_trial = 0.0  # seconds

    def next(self) -> bool:
        """Return the way of the next image: the faster one, or now and then the other one.

        The more time a trial of the other way will probably lose, the later it comes. If the last
        trial was good, the next one comes at once.
        """
        done = sum(self.images.values())
        if done < len(FIRST):
            return FIRST[done]
        team, alone = median(self.times[TEAM]), min(self.times[ALONE])
        way, time = (TEAM, team) if team < alone else (ALONE, alone)
        loss = self.times[not way][-1] - time
        self.is_trial = self.since_trial > TRIAL_SHARE * loss
        return not way if self.is_trial else way

    def note(self, way: bool, seconds: float) -> None:
        """Note the time of an image."""
        self.images[way] += 1
        if self.images[way] > UNTIMED:
            self.times[way].append(seconds)
        self.since_trial = 0.0 if self.is_trial else self.since_trial + seconds


class TeamPlan:
    """A plan that has a team for its images. It takes the place of `Plan`; threads may share it.

    cores: how many processes, this one included; "auto" finds it out with the first image. There
    are never more than usable cores. They start with the first image, and end with this object or
    with Python.
    """

    def __init__(self, plan: Plan, cores: int | str) -> None:
        self.plan = plan
        self.most = min(MOST_CORES, usable_cores(), most_members(plan.architecture))
        self.members = min(cores, self.most) if isinstance(cores, int) else None
        self.team: Team | None = None
        self.paces: dict[tuple[int, int], Pace] = {}
        self.lock = threading.Lock()  # one image at a time: two would want the same cores
        _plans.add(self)

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """As `Plan.run`. A team adds up in another order, so the last digits may differ.

        Warns, once, when the team breaks.
        """
        with self.lock:
            if self.members is None:
                self.members = self.best_number(image, wanted)
            if self.members == 1:
                return self.plan.run(image, wanted)
            pace = self.pace(image)
            way, start = pace.next(), perf_counter()
            outputs = self.run_in_team(image, wanted) if way is TEAM else None
            if outputs is None:
                outputs = self.plan.run(image, wanted)
            pace.note(way, perf_counter() - start)
            return outputs

    def pace(self, image: Array) -> Pace:
        """Return what is known about images of this size."""
        height, width, _ = image.shape
        if (height, width) not in self.paces:
            while len(self.paces) >= SIZES_KEPT:
                del self.paces[next(iter(self.paces))]
            self.paces[height, width] = Pace()
        return self.paces[height, width]

    def run_in_team(self, image: Array, wanted: list[str]) -> list[Array] | None:
        """Return the outputs, or None if the team breaks. Start the team if there is none."""
        assert self.members is not None
        team, self.team = self.team, None  # until it is done: nobody may use one amid an image
        try:
            if team is None or team.has_ended:
                team = Team(self.plan, self.members)
            outputs = team.run(image, wanted)
        except (Lost, OSError, MemoryError) as error:
            if team is not None:
                team.end()
            self.members = 1
            reason = f"a process {error}" if isinstance(error, Lost) else error
            warnings.warn(
                f"the processes that share the work on an image cannot go on ({reason}); from now "
                "on one process does it. Load the model again to start them again",
                RuntimeWarning,
                stacklevel=5,  # the line that called the model
            )
            return None
        except BaseException:  # such as Ctrl-C
            if team is not None:
                team.end()
            raise
        self.team = team
        return outputs

    def best_number(self, image: Array, wanted: list[str]) -> int:
        """Measure this image with one core, two, four, ..., and return the best number."""
        best, least = 1, seconds_of(self.plan, image, wanted)
        for members in range(2, self.most + 1):
            if members & (members - 1) and members != self.most:
                continue  # neither a power of two nor all there are
            try:
                team = Team(self.plan, members)
            except (Lost, OSError, MemoryError):
                break
            try:
                seconds = seconds_of(team, image, wanted)
            except (Lost, OSError, MemoryError):
                break
            finally:
                team.end()
            if seconds > WORTHWHILE * least:
                break
            best, least = members, seconds
        return best


def seconds_of(plan: Plan | Team, image: Array, wanted: list[str]) -> float:
    """Return the median time of an image; the first run, which compiles, does not count."""
    times = []
    for _ in range(UNTIMED + MEASURED):
        start = perf_counter()
        plan.run(image, wanted)
        times.append(perf_counter() - start)
    return median(times[UNTIMED:])


# -- after a fork ---------------------------------------------------------------------------------

_plans: weakref.WeakSet[TeamPlan] = weakref.WeakSet()


def _unlock() -> None:
    """In a new process nobody works on an image, although a thread of the old one may have."""
    for plan in list(_plans):
        plan.lock = threading.Lock()
        plan.plan.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
