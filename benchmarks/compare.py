"""tinymixnet beside other frameworks on the same weights: python -m benchmarks.compare

Prints the machine, then two tables for docs/speed.md: how long one image takes, on one thread and
on all cores, and how many images a second each side manages at best. On all cores, tinymixnet is a
team of processes (`cores=2`); what BLAS threads do instead is a row of its own. Before anything is
timed, every side's logits are compared with tinymixnet's.

--size 128 is the size of the bundled weights. --busy keeps one core busy with another process.
Where environment variables choose the kernels of OpenBLAS, they count only with --as-set.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import (
    BenchmarkError,
    Job,
    Server,
    Timing,
    check_logits,
    chosen_kernels,
    in_turns,
    machine,
    markdown,
    neighbour,
    progress,
    ratio,
    spread,
    written,
)
from benchmarks.peers import PEERS, THREAD_SETTINGS, Peer, why_skipped
from benchmarks.weights import pictures, write_made_up_weights
from tinymixnet.engine.architecture import mixnet
from tinymixnet.fast.workers import usable_cores
from tinymixnet.model import Model

PACKAGES = ("numpy", "torch", "tensorflow", "tensorflow-cpu", "onnxruntime", "openvino")
BASE = PEERS[0].name


class Plan(NamedTuple):
    """How much to measure."""

    variant: str = "mixnet-l"
    size: int = 224
    rounds: int = 15
    batch_rounds: int = 5  # for the throughput, where a turn takes longer
    calls: int = 5
    largest_batch: int = 64
    most_seconds: float = 60  # for a table; a slow or busy machine gets fewer rounds

    def batches(self, peer: Peer) -> list[int]:
        """Return the batch sizes to try with a side."""
        return sorted({min(batch, self.largest_batch) for batch in peer.batches})


QUICK = Plan("mixnet-s", 64, rounds=2, batch_rounds=2, calls=1, largest_batch=2)


class Result(NamedTuple):
    """The measurements of one variation of a side."""

    peer: Peer
    threads: int
    batch: int
    timing: Timing


# -- measuring ------------------------------------------------------------------------------------


@contextmanager
def started(peers: Sequence[Peer], plan: Plan, as_set: bool) -> Iterator["Servers"]:
    """Start two processes for each side, on one thread and on all cores, with the same weights."""
    cores = usable_cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = write_made_up_weights(folder / "weights.h5", mixnet(plan.variant), plan.size)
        servers = {}
        for peer in peers:
            on_one = peer.latency and peer.one_thread
            for threads in sorted({1, cores}) if on_one else [cores]:
                side = f"{peer.build.__module__}:{peer.build.__qualname__}"
                server = Server(side, threads, folder / "weights.h5", as_set)
                servers[peer, threads] = stack.enter_context(server)
        yield Servers(servers, Model(*weights), plan)


class Servers(NamedTuple):
    """The running processes of all sides."""

    by_side: dict[tuple[Peer, int], Server]  # (side, threads): its process
    model: Model  # of this process; the logits of all sides must equal its own
    plan: Plan

    def latency(self) -> list[Result]:
        """Time one image on every side."""
        wanted = [(*side, 1) for side in self.by_side if side[0].latency]
        return self.measure(wanted, self.plan.rounds)

    def throughput(self) -> list[Result]:
        """Time every batch size of every side on all cores."""
        cores = usable_cores()
        sides = [peer for peer, threads in self.by_side if threads == cores]
        wanted = [(peer, cores, batch) for peer in sides for batch in self.plan.batches(peer)]
        return self.measure(wanted, self.plan.batch_rounds)

    def measure(self, wanted: Sequence[tuple[Peer, int, int]], rounds: int) -> list[Result]:
        """Check the logits of each (side, threads, batch), then time them in turns.

        Raises BenchmarkError where a side fails or its logits are not tinymixnet's.
        """
        size = self.plan.size
        largest = max(batch for _, _, batch in wanted)
        expected = self.model(pictures(largest, size))
        for peer, threads, batch in wanted:
            progress(f"{peer.label}: {batch} at a time, {threads} threads")
            answer = self.by_side[peer, threads].ask("prepare", size=size, batch=batch)
            check_logits(peer.label, np.array(answer["logits"]), expected[:batch])
        jobs = [Job(self.by_side[p, threads], size, batch) for p, threads, batch in wanted]
        timings = in_turns(jobs, rounds, self.plan.calls, self.plan.most_seconds)
        return [Result(*side, timing) for side, timing in zip(wanted, timings, strict=True)]


def best_of(results: Sequence[Result]) -> dict[tuple[str, int], Result]:
    """Return the fastest variation (memory format, batch size) of each (side, threads)."""
    best: dict[tuple[str, int], Result] = {}
    for result in results:
        key = result.peer.name, result.threads
        if key not in best or per_image(result) < per_image(best[key]):
            best[key] = result
    return best


def per_image(result: Result) -> float:
    return spread(result.timing.seconds).middle / result.batch


# -- tables ---------------------------------------------------------------------------------------


def latency_table(results: Sequence[Result], skipped: Sequence[tuple[Peer, str]]) -> str:
    """Return a table with each side's milliseconds, and how many times as long tinymixnet takes."""
    best = best_of(results)
    counts = sorted({threads for _, threads in best})
    header, rows = ["one image"], []
    for threads in counts:
        header += [f"ms on {threads} thread{'s' * (threads > 1)}", "tinymixnet takes"]
    for name in dict.fromkeys(name for name, _ in best):
        ways = dict.fromkeys(best[name, n].peer.how for n in counts if (name, n) in best)
        label = ", ".join(filter(None, [name, " / ".join(ways)]))
        row = [f"**{label}**" if name == BASE else label]
        for threads in counts:
            if (name, threads) not in best:
                row += ["", ""]
                continue
            result, base = best[name, threads], best[BASE, threads]
            times = ratio(base.timing.seconds, result.timing.seconds)
            row.append(written(spread([1e3 * s for s in result.timing.seconds]), 1))
            row.append("" if name == BASE else f"{written(times, 2)} of it")
        rows.append(row)
    return markdown(header, rows + skipped_rows(skipped, len(header)))


def throughput_table(results: Sequence[Result], skipped: Sequence[tuple[Peer, str]]) -> str:
    """Return a table of images a second, each side's and as a ratio to tinymixnet's."""
    best = best_of(results)
    rows = []
    for (name, threads), result in best.items():
        rate, base = images_a_second(result), images_a_second(best[BASE, threads])
        how = result.peer.how + ", " if result.peer.how else ""
        bold = "**" if name == BASE else ""
        multiple = f"{written(ratio(base, rate), 2)} times it"
        rows.append(
            [
                f"{bold}{name}{bold}",
                written(spread(rate), 1),
                f"{how}{result.batch} at a time",
                "" if name == BASE else multiple,
            ]
        )
    threads = max(threads for _, threads in best)
    header = [f"many images, {threads} threads", "images/s", "at its best", "tinymixnet does"]
    return markdown(header, rows + skipped_rows(skipped, len(header)))


def images_a_second(result: Result) -> list[float]:
    return [result.batch / seconds for seconds in result.timing.seconds]


def skipped_rows(skipped: Sequence[tuple[Peer, str]], columns: int) -> list[list[str]]:
    """Return a row for each side that was left out, with the reason."""
    reasons = {peer.name if peer.needs else peer.label: reason for peer, reason in skipped}
    return [[label, f"skipped: {why}", *[""] * (columns - 2)] for label, why in reasons.items()]


def cores_busy(results: Sequence[Result]) -> str:
    """Say how many cores each side kept busy: whether one thread was one, and two were two."""
    best = best_of(results)
    names = dict.fromkeys(name for name, _ in best)
    parts = [
        f"{name} {' / '.join(f'{r.timing.busy:.1f}' for (n, _), r in best.items() if n == name)}"
        for name in names
    ]
    return "Cores kept busy (processor time by wall time): " + ", ".join(parts) + "."


# -- the command ----------------------------------------------------------------------------------


def report(peers: Sequence[Peer], plan: Plan, as_set: bool, busy: bool) -> None:
    skipped = [(peer, why) for peer in peers if (why := why_skipped(peer))]
    present = [peer for peer in peers if not why_skipped(peer)]
    with started(present, plan, as_set) as servers, neighbour() if busy else nullcontext():
        results = servers.latency()
        print(latency_table(results, [s for s in skipped if s[0].latency]))
        print(f"\n{len(results[0].timing.seconds)} rounds. {cores_busy(results)}\n", flush=True)
        results = servers.throughput()
        print(throughput_table(results, [s for s in skipped if s[0].batches]), flush=True)


def main(arguments: Sequence[str] | None = None, peers: Sequence[Peer] = PEERS) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="tinymixnet beside others"
    )
    parser.add_argument("--quick", action="store_true", help="a small network, to try the command")
    parser.add_argument("--size", type=int, metavar="PX", help="pixels a side of an image (224)")
    parser.add_argument("--busy", action="store_true", help="beside a process that uses up a core")
    parser.add_argument(
        "--as-set", action="store_true", help="the BLAS kernels that this machine's variables set"
    )
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    plan = plan._replace(size=options.size or plan.size)
    facts = {
        "network": f"{plan.variant}, {plan.size} px, float32, made-up weights",
        "threads": THREAD_SETTINGS,
        "figures": f"medians of up to {plan.rounds} rounds ({plan.batch_rounds} for many images) "
        "in which all sides take turns, and in brackets the quartiles; ratios are taken in each "
        "round",
    }
    if options.busy:
        facts["beside it"] = "a process that uses up a core"
    print(machine(usable_cores(), PACKAGES, facts))
    whose = "as this machine sets them" if options.as_set else "OpenBLAS's own choice"
    print(f"- NumPy's BLAS kernels: {chosen_kernels(options.as_set)}, {whose}\n", flush=True)
    try:
        report(peers, plan, options.as_set, options.busy)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
