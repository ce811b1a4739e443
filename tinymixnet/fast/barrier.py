"""How the members of a team wait for each other: they look often for a moment, and then sleep.

Members have equal shares of the work, so they arrive at an exchange at about the same time. Who
looks again and again sees at once that the others have arrived; to be woken from sleep takes much
longer. But a core that only looks is lost to other programs, and perhaps to the very member that
is waited for. So a member looks for `SPIN` seconds, and after that it sleeps.

Each member has a pipe, its inbox. Whoever arrives writes a byte into the inbox of every other
member, and waits until its own inbox has given a byte for each of them. One can sleep until a pipe
has a byte. And a pipe puts memory in order. On many processors a core may see the writes of another
core in any order, so it could see a flag in shared memory before the numbers that the flag is for.
But when the operating system hands over a byte, all that was written before it can be seen, too.

A fast member may write its byte for the next barrier before a slow one has been heard at this one.
That is no mistake: it has passed this barrier, so all have arrived here. It is taken for the slow
member's byte, and later that one is taken for it.
"""

import os
import select
from collections.abc import Sequence
from time import perf_counter

SPIN = 50e-6  # seconds to look before sleeping
SLICE = 0.1  # seconds that a sleep takes at most


class Lost(Exception):
    """A member of the team has ended, or does not answer; the text says which."""


class Barrier:
    """Lets a member go on when all have arrived.

    inbox: the file that this member reads from. others: the files that the other members read from.
    watched: pipes to other processes, which show whether these have ended. patience: seconds to
    wait for the others; None is for ever. All files are given by their numbers.
    """

    def __init__(
        self,
        inbox: int,
        others: Sequence[int],
        watched: Sequence[int],
        patience: float | None = None,
    ) -> None:
        self.inbox = inbox
        self.others = others
        self.slices = None if patience is None else round(patience / SLICE)
        self.poll = select.poll()
        self.poll.register(inbox, select.POLLIN)
        for file in watched:
            # Not for POLLIN: a message for the time after this barrier may be there already.
            self.poll.register(file, select.POLLHUP)
        os.set_blocking(inbox, False)

    def wait(self) -> None:
        """Return when all members have arrived. Raise Lost if that cannot happen any more."""
        for other in self.others:
            os.write(other, b".")
        missing, end = len(self.others), perf_counter() + SPIN
        while missing:
            try:
                arrived = os.read(self.inbox, missing)
            except BlockingIOError:  # nobody else yet
                if perf_counter() > end:
                    self._sleep()
                continue
            if not arrived:
                raise Lost("has ended")
            missing -= len(arrived)

    def _sleep(self) -> None:
        """Sleep until there is a byte in the inbox.

        Patience is counted in slices. While this process is itself stopped, as by Ctrl-Z, one slice
        passes at most.
        """
        slept = 0
        while self.slices is None or slept < self.slices:
            events = dict(self.poll.poll(1e3 * SLICE))
            if self.inbox in events:
                return
            if any(event & (select.POLLHUP | select.POLLERR) for event in events.values()):
                raise Lost("has ended")
            slept += 1
        raise Lost(f"did not answer for {self.slices * SLICE:.0f} seconds")
