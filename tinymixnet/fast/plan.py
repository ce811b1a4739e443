"""The fast path to the logits: the network as a list of steps, compiled once for each input size.

`constants.py` folds batch norm into the convolutions and lays the weights out. `compiler.py` turns
the architecture into steps. `Plan` runs them. A test holds the result equal to the readable path.
"""

import threading
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymixnet.engine.architecture import Architecture, check_input_size
from tinymixnet.engine.kernels import Array
from tinymixnet.fast.blas_threads import one_blas_thread
from tinymixnet.fast.compiler import Compiler, Program, Step
from tinymixnet.fast.swish import Swish

if TYPE_CHECKING:  # only needed by those who ask for a team
    from tinymixnet.fast.team import Seat

PROGRAMS_KEPT = 2  # input sizes; the arrays of each take as much memory as the weights or more


class Plan:
    """The network, compiled for the input sizes that come; threads may share it.

    constants are those of `constants.constants`; they may lie in shared memory. swish is the way to
    compute it that they were folded for. With a seat, they are one member's part, see `team.py`.
    """

    def __init__(
        self,
        architecture: Architecture,
        constants: Mapping[str, Array],
        swish: Swish,
        seat: "Seat | None" = None,
    ) -> None:
        self.architecture = architecture
        self.constants = constants
        self.swish = swish
        self.seat = seat
        self._programs: dict[tuple[int, int], Program] = {}
        self._lock = threading.Lock()  # two threads must not write into the same scratch arrays

    def __repr__(self) -> str:
        sizes = ", ".join(f"{h} x {w} px" for h, w in self._programs) or "no size"
        return f"Plan({self.architecture.variant}, compiled for {sizes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (self.architecture, dict(self.constants), self.swish)

    def run(self, image: Array, wanted: list[str]) -> list[Array]:
        """Return the wanted layers' outputs for one image (H, W, 3), 0..255, uint8 or float32.

        Layers to choose from: stem/act and every block's output (H, W, C), head/pool and logits
        (C,). An overflow shows as infinity or NaN in the outputs, without NumPy's warning.
        """
        with self._lock, one_blas_thread(), np.errstate(all="ignore"):
            program = self.program(*image.shape[:2])
            program.image[:] = image
            outputs, done = {}, 0
            for name in sorted(wanted, key=lambda name: program.outputs[name].after):
                after, read = program.outputs[name]
                for step in program.steps[done:after]:
                    step.run()
                done = after
                outputs[name] = read()
            return [outputs[name] for name in wanted]

    def profile(self, image: Array) -> list[tuple[Step, float]]:
        """Run all steps on one image (H, W, 3), and return each with the seconds it took."""
        with self._lock, one_blas_thread(), np.errstate(all="ignore"):
            program = self.program(*image.shape[:2])
            program.image[:] = image
            times = []
            for step in program.steps:
                start = perf_counter()
                step.run()
                times.append(perf_counter() - start)
            return list(zip(program.steps, times, strict=True))

    def unlock(self) -> None:
        """In a process that was forked while a thread used the plan: make it usable again."""
        self._lock = threading.Lock()

    def has_program(self, height: int, width: int) -> bool:
        """Return whether the program for an input size is there, so that nothing is compiled."""
        return (height, width) in self._programs

    def program(self, height: int, width: int) -> Program:
        """Return the program for an input size. It is compiled at the first request.

        Raises TinyMixNetError when the budget does not allow for the size.
        """
        size = height, width
        if size not in self._programs:
            check_input_size(self.architecture, *size)
            while len(self._programs) >= PROGRAMS_KEPT:
                del self._programs[next(iter(self._programs))]
            compiler = Compiler(self.architecture, self.constants, self.swish, self.seat)
            self._programs[size] = compiler.program(*size)
        return self._programs[size]
