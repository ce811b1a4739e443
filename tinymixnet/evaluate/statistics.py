"""How far a measured share may be from the true one."""

from math import sqrt

Z = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution


def wilson(right: int, photos: int) -> tuple[float, float]:
    """Return the 95 % interval of Wilson for a share: (lowest, highest), from 0 to 1.

    If many samples of `photos` photos were drawn, the true share would lie inside the interval of
    about 95 % of them. Unlike the better known p +- 1.96 sqrt(p (1 - p) / n) it never leaves 0..1,
    and is right for few photos, too (E. B. Wilson, "Probable inference", 1927). Without photos
    nothing is known: (0, 1).

    >>> [round(limit, 4) for limit in wilson(5376, 10_000)]
    [0.5278, 0.5474]
    """
    if not photos:
        return 0.0, 1.0
    share, spread = right / photos, Z * Z / photos
    middle = share + spread / 2
    reach = Z * sqrt(share * (1 - share) / photos + spread / photos / 4)
    low, high = (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)
    # Rounding must not put the measured share outside its own interval.
    return max(0.0, min(low, share)), min(1.0, max(high, share))
