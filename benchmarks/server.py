"""One side of a benchmark in a process of its own: python -m benchmarks.server SIDE THREADS FILE.

SIDE is module:function, as in peers.py, and FILE has the weights. The process reads questions from
standard input, one JSON object a line, and answers each with one line. Between questions it does
not use the processor. It ends when its input ends.

    {"do": "prepare", "size": S, "batch": N}    the side's logits; afterwards it is warm
    {"do": "time", "size": S, "batch": N, "calls": C}    the seconds of C runs
    {"do": "layers", "size": S, "rounds": R, "readable": false}
                                                (layer, kernel, seconds) of tinymixnet's steps
"""

import json
import os
import pkgutil
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from benchmarks.layers import profile
from benchmarks.side import Ready
from benchmarks.soak import PROC, children
from benchmarks.weights import pictures
from tinymixnet.engine.weights import read_weights
from tinymixnet.model import Model


def processor_seconds() -> float:
    """Return the processor time of this process, of its ended children and, on Linux, of its living
    ones: tinymixnet's team.
    """
    ours = sum(os.times()[:4])
    for child in children():
        with suppress(OSError):  # it has just ended
            fields = (PROC / str(child) / "stat").read_text().rpartition(")")[2].split()
            ours += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return ours


def main(side: str, threads: str, file: str) -> None:
    build = pkgutil.resolve_name(side)
    weights = read_weights(file)
    prepared: dict[tuple[int, int], Ready] = {}

    def prepare(size: int, batch: int) -> dict[str, Any]:
        one = build(weights, pictures(batch, size), int(threads))
        prepared[size, batch] = one
        logits = one.logits()
        one.seconds()  # some frameworks still compile in the second run
        return {"logits": logits.tolist()}

    def time(size: int, batch: int, calls: int) -> dict[str, Any]:
        one = prepared[size, batch]
        one.seconds()  # untimed: the other sides have filled the caches with their own data
        processor, wall = processor_seconds(), perf_counter()
        seconds = [one.seconds() for _ in range(calls)]
        wall, processor = perf_counter() - wall, processor_seconds() - processor
        return {"seconds": seconds, "busy": processor / wall}

    def layers(size: int, rounds: int, readable: bool) -> dict[str, Any]:
        return {"steps": profile(Model(*weights), pictures(1, size), rounds, readable)}

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error, not between the answers
    actions: dict[str, Callable[..., Any]] = {"prepare": prepare, "time": time, "layers": layers}
    for line in sys.stdin:
        question = json.loads(line)
        answer = actions[question.pop("do")](**question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
