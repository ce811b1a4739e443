"""Numbers in sentences."""


def count(number: int, thing: str) -> str:
    """Return a number with its thing, in the plural where there is not exactly one.

    >>> count(1, "class"), count(1200, "photo")
    ('1 class', '1,200 photos')
    """
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{'' if number == 1 else plural}"


def percent(share: float) -> str:
    """Return a share as a percentage with two digits; nothing is known of NaN.

    >>> percent(0.78846)
    '78.85 %'
    """
    return "-" if share != share else f"{100 * share:.2f} %"
