"""The processes of a team: how they start, what they are told, and how they end.

This process is the first member and tells the others what to do (`Team`). Each of them does as it
is told, until the pipe from this process ends (`serve`). `team.py` says what they compute.

Nothing is left behind, whatever happens. The weights and the exchanges lie in memory without a
name, which is freed with the last process that uses it. A member whose parent has died finds its
pipe closed, also while it waits for others in the middle of an image, and ends.
"""

import contextlib
import os
import sys
import weakref
from math import prod
from multiprocessing.connection import Connection, Pipe
from subprocess import Popen
from typing import IO, Any

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.kernels import Array
from tinymixnet.fast.barrier import Barrier, Lost
from tinymixnet.fast.compiler import Step
from tinymixnet.fast.plan import Plan
from tinymixnet.fast.processes import end_of, interrupts_held, start_process
from tinymixnet.fast.shared_memory import SharedNumbers, attach, nameless_file, share
from tinymixnet.fast.team import Seat, own_channels, part_of

READY = "ready"
# Seconds to wait for a member, which other programs may have kept from its core.
PATIENCE = 3.0  # in the middle of an image: a step takes milliseconds
COMPILE_PATIENCE = 15.0
START_PATIENCE = 60.0  # Python and NumPy may come from a slow disk


class Members:
    """The processes of the other members, and the files of all. `end` frees them."""

    def __init__(self) -> None:
        self.processes: list[Popen[bytes]] = []
        self.controls: list[Connection[Any, Any]] = []
        self.files: list[IO[bytes]] = []
        self.pipes: list[int] = []  # the numbers of the ends
        _living.add(self)

    def new_pipe(self) -> tuple[int, int]:
        read, write = os.pipe()
        self.pipes += [read, write]
        return read, write

    def end(self) -> None:
        """Kill the processes, which hold nothing that could be lost, and close all files."""
        with interrupts_held():
            for process in self.processes:
                process.kill()
            for process in self.processes:
                end_of(process)
            self.close()

    def close(self) -> None:
        for control in self.controls:
            control.close()
        for file in self.files:
            file.close()
        for number in self.pipes:
            os.close(number)
        for things in (self.processes, self.controls, self.files, self.pipes):
            things.clear()

    def forget(self) -> None:
        """Close the files alone: the processes are those of the process that we were forked from.

        While we had its pipes open, its members would not notice its end.
        """
        for process in self.processes:
            process.returncode = 0  # or Python would ask for it, and warn that it still runs
        self.close()


_living: weakref.WeakSet[Members] = weakref.WeakSet()


def _forget_all() -> None:
    for members in list(_living):
        members.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class Team:
    """A team of `members` processes, of which this one is the first. They start here.

    whole is the plan of a single process. Raises OSError where no process can be started, and Lost
    if one does not come to life. `end` ends them; so does the end of this object.
    """

    def __init__(self, whole: Plan, members: int) -> None:
        self.others = Members()
        self.end = weakref.finalize(self, self.others.end)  # at the latest when Python ends
        try:
            self._start(whole, members)
        except BaseException:
            self.end()
            raise

    def _start(self, whole: Plan, members: int) -> None:
        architecture, swish = whole.architecture, whole.swish
        own = [own_channels(architecture, member, members) for member in range(members)]
        weights = share([part_of(whole.constants, architecture, channels) for channels in own])
        self.others.files.append(weights.file)
        self.others.files.append(nameless_file())
        numbers = self.others.files[-1].fileno()
        pipes = [self.others.new_pipe() for _ in range(members)]

        def inboxes(member: int) -> tuple[int, ...]:
            """The pipe that a member reads from, then those that it writes to."""
            others = [write for m, (_, write) in enumerate(pipes) if m != member]
            return pipes[member][0], *others

        for member in range(1, members):
            with interrupts_held():  # `end` must know of every process that was started
                ours, theirs = Pipe()
                self.others.controls.append(ours)
                with theirs:
                    files = theirs.fileno(), weights.file.fileno(), numbers, *inboxes(member)
                    process = start_process(serve, member, members, *files, files=files)
                self.others.processes.append(process)
            self._tell(member, (architecture, swish, weights.pickled, weights.places))

        inbox, *others = inboxes(0)
        watched = [control.fileno() for control in self.others.controls]
        barrier = Barrier(inbox, others, watched, PATIENCE)
        self.numbers = SharedNumbers(numbers)
        self.seat = Seat(0, members, own[0], self.numbers, barrier)
        part = attach(weights.file.fileno(), weights.pickled, weights.places)[0]
        self.plan = Plan(architecture, part, swish, self.seat)
        self._hear_all(START_PATIENCE)

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """As `Plan.run`, but for "stem/act", which no member has as a whole.

        Raises Lost if a member has ended or does not answer. After this or any other error the
        members are at different places, and the team can only be ended.
        """
        self._begin(image, wanted)
        return self.plan.run(image, wanted)

    def profile(self, image: Array) -> list[tuple[Step, float]]:
        """As `Plan.profile`: the steps of the first member, and the seconds that each took."""
        self._begin(image, ["logits"])
        return self.plan.profile(image)

    def _begin(self, image: Array, wanted: list[str]) -> None:
        """Have the other members begin with an image."""
        height, width, _ = image.shape
        if not self.plan.has_program(height, width):
            self._compile(height, width)
        np.copyto(self.seat.image(*image.shape), image)
        for member in range(1, self.seat.members):
            self._tell(member, (height, width, wanted))

    def _compile(self, height: int, width: int) -> None:
        """Have all members compile the network for an input size, all at the same time."""
        for member in range(1, self.seat.members):
            self._tell(member, (height, width, None))
        self.plan.program(height, width)
        self.seat.reserve(3 * height * width)
        self._hear_all(COMPILE_PATIENCE)  # so nobody still reads the pages of the last image
        self.numbers.grow(prod(self.seat.pages_shape))

    def _tell(self, member: int, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, which shows when we wait for it
            self.others.controls[member - 1].send(message)

    def _hear_all(self, patience: float) -> None:
        """Wait until all members say that they are ready."""
        for control in self.others.controls:
            try:
                if not control.poll(patience):
                    raise Lost(f"did not answer for {patience:.0f} seconds")
                control.recv()
            except (EOFError, OSError):
                raise Lost("has ended") from None

    @property
    def has_ended(self) -> bool:
        """Whether there are no processes: after `end`, and in a process forked from this one."""
        return not self.others.processes


# -- another member -------------------------------------------------------------------------------


def serve(
    member: int, members: int, control_file: int, weights: int, numbers: int, *inboxes: int
) -> None:
    """Be a member until the control pipe ends; all arguments but two are numbers of open files."""
    vars(budget).update(dict.fromkeys(vars(budget), sys.maxsize))  # the first member asks for all
    control: Connection[Any, Any] = Connection(control_file)
    try:
        architecture, swish, pickled, places = control.recv()
        own = own_channels(architecture, member, members)
        barrier = Barrier(inboxes[0], inboxes[1:], [control_file])
        seat = Seat(member, members, own, SharedNumbers(numbers), barrier)
        plan = Plan(architecture, attach(weights, pickled, places)[member], swish, seat)
        control.send(READY)
        while True:
            height, width, wanted = control.recv()
            if wanted is None:
                plan.program(height, width)
                seat.reserve(3 * height * width)
                control.send(READY)
            else:
                plan.run(seat.image(height, width, 3), wanted)
    except (EOFError, OSError, Lost):  # the first member is gone
        os._exit(0)
