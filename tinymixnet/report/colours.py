"""The house style: the colours of the report, the notebooks, the charts and the drawings.

Colour-blind readers can tell all of them apart. Lines and bars have the palette of Okabe and Ito.
Values have a ramp from dark blue to yellow whose lightness rises evenly, so that it also works in
grey. Values with a sign have one from blue over white to orange, with zero in the middle. The style
sheets of the report repeat the first four colours, and a test compares them.
"""

BLUE, VERMILION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, BLACK = "#56b4e9", "#e69f00", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, BLACK)  # of lines, in this order
STRONG, PALE = "#0b6e99", "#b8c4d0"  # the bar that matters, and the others

# Anchors of the ramps, at equal distances; between two of them colours are mixed.
SIZES = (
    *("#00224e", "#1a386f", "#434e6c", "#61656f", "#7d7c78"),
    *("#9b9476", "#bcae6c", "#dec958", "#fee838"),
)
SIGNS = ("#08407e", "#4f94cd", "#f7f7f7", "#f0973a", "#9c4a00")
GREYS = ("#000000", "#ffffff")
BROKEN = "#ff00c8"  # NaN and infinity: a pink that no ramp has


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of "#rrggbb", each 0..255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
