"""Pair the items of two sequences without changing the order of either."""

from collections.abc import Callable, Sequence

from tinymixnet.debug.names.candidates import Names


def align(stored: Sequence[str], layers: Sequence[str], weigh: Callable[[str, str], int]) -> Names:
    """Return the pairs of the largest total weight in which both sides go forward.

    weigh(stored, layer) is the weight of a pair; 0 means that the two cannot be paired. Among equal
    choices the last layers win. Time and memory grow with the product of the two lengths.
    """
    best = [[0] * (len(layers) + 1)]
    for name in stored:
        above, row = best[-1], [0]
        for j, layer in enumerate(layers):
            weight = weigh(name, layer)
            row.append(max(above[j + 1], row[j], above[j] + weight if weight else 0))
        best.append(row)
    pairs, i, j = [], len(stored), len(layers)
    while i and j:
        weight = weigh(stored[i - 1], layers[j - 1])
        if weight and best[i][j] == best[i - 1][j - 1] + weight:
            i, j = i - 1, j - 1
            pairs.append((stored[i], layers[j]))
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return dict(reversed(pairs))
