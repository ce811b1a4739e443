"""The fast way to the logits: the network as a list of steps, compiled once for each input size.

`constants.py` folds batch norm into the convolutions and lays the weights out. `compiler.py` turns
the architecture into steps. Here they are run. A test holds the result equal to the readable path.
"""

import threading
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.kernels import Array
from tinymixnet.fast.compiler import Compiler, Program, Step


class Plan:
    """A compiled network; constants are those of `constants.constants`, possibly shared memory."""

    def __init__(self, architecture: Architecture, constants: Mapping[str, Array]) -> None:
        self.architecture = architecture
        self.constants = constants
        self._programs: dict[tuple[int, int], Program] = {}
        self._lock = threading.Lock()  # two threads must not write into the same scratch arrays

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (self.architecture, dict(self.constants))

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """The wanted outputs of one image (H, W, 3), 0..255, uint8 or float32, as new arrays.

        To be had: stem/act, every block's output (H, W, C), head/pool and logits (C,).
        """
        with self._lock:
            program = self.program(*image.shape[:2])
            program.image[:] = image
            outputs, done = {}, 0
            for name in sorted(wanted, key=lambda name: program.outputs[name][0]):
                after, read = program.outputs[name]
                for step in program.steps[done:after]:
                    step.run()
                done = after
                outputs[name] = read()
            return [outputs[name] for name in wanted]

    def profile(self, image: Array) -> Iterator[tuple[Step, float]]:
        """Run all steps on one image (H, W, 3), and yield each with the seconds it took."""
        with self._lock:
            program = self.program(*image.shape[:2])
            program.image[:] = image
            for step in program.steps:
                start = perf_counter()
                step.run()
                yield step, perf_counter() - start

    def program(self, height: int, width: int) -> Program:
        """The program of an input size, compiled when first asked for; the last two are kept."""
        size = height, width
        if size not in self._programs:
            while len(self._programs) > 1:
                del self._programs[next(iter(self._programs))]
            self._programs[size] = Compiler(self.architecture, self.constants).program(*size)
        return self._programs[size]
