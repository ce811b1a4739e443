"""A run of MixNet in TensorFlow into which bugs are planted, and the words to say where.

`planted.py` and `planted_more.py` hold the bugs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.support import tensorflow_reference as reference
from tests.support.tensorflow_reference import EPSILON, Block

Scope = Callable[["Planted", str], bool]


class Planted(reference._Run):
    """A run without a bug; a subclass overrides `plant` to change the weights, or an operation.

    Some bugs are in one block only: `early` and `late` name two blocks that have a residual,
    several kernel sizes and squeeze-excite.
    """

    def __init__(
        self, tf: Any, weights: dict[str, Any], table: list[Block], labels: Sequence[str] = ()
    ) -> None:
        super().__init__(tf, weights, EPSILON)
        self.table, self.labels = table, labels
        rich = [
            i
            for i, block in enumerate(table)
            if block.stride == 1 and block.inputs == block.outputs
            if len(block.kernels) > 1 and block.se
        ]
        self.early, self.late = f"blocks_{rich[1]}/", f"blocks_{rich[(len(rich) + 1) // 2]}/"
        self.plant()

    def plant(self) -> None:
        pass

    def change(self, change: Callable[[Any], Any], where: Callable[[str], bool]) -> None:
        """Replace each tensor whose name `where` accepts by what `change` makes of it."""
        for name in filter(where, list(self.weights)):
            self.weights[name] = change(self.weights[name])


# -- where a bug is: each says whether a layer has it ----------------------------------------------


def everywhere(run: Planted, scope: str) -> bool:
    return True


def early(run: Planted, scope: str) -> bool:
    return scope.startswith(run.early)


def late(run: Planted, scope: str) -> bool:
    return scope.startswith(run.late)


def stem(run: Planted, scope: str) -> bool:
    return scope.startswith("stem/")


def blocks(run: Planted, scope: str) -> bool:
    return scope.startswith("blocks_")


def head(run: Planted, scope: str) -> bool:
    return scope.startswith("head/")


def first_blocks(run: Planted, scope: str) -> bool:
    return scope.startswith(("blocks_0/", "blocks_1/"))


def depthwise(run: Planted, scope: str) -> bool:
    return scope.endswith("/depthwise_conv")


def expand(run: Planted, scope: str) -> bool:
    return scope.endswith("/expand_conv")


def project(run: Planted, scope: str) -> bool:
    return scope.endswith("/project_conv")


def se_act(run: Planted, scope: str) -> bool:
    return scope.endswith("/se_act")


def variant(bug: type[Planted], **choices: Any) -> type[Planted]:
    """The same bug in another place or of another kind."""
    return type(bug.__name__, (bug,), choices)


def both(*bugs: type[Planted]) -> type[Planted]:
    return type("Both", tuple(bug for bug in bugs if bug is not Planted), {})
