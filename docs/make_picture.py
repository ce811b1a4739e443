"""Make docs/answer.png, the README's picture: the bundled photo and what the model answers.

Needs the extra `pictures`: pip install ".[pictures]"; then python docs/make_picture.py
"""

from pathlib import Path

import matplotlib.pyplot as plt

import tinymixnet
from tinymixnet.engine.images import read_image
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.report.colours import PALE, STRONG

PHOTO = BUNDLED.parent / "cat.jpg"
OUTPUT = Path(__file__).parent / "answer.png"


def make_picture() -> None:
    model = tinymixnet.load()
    answers = model.classify(PHOTO, top=5)[::-1]
    plt.rcParams.update({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 3.4), width_ratios=[3, 2, 3], layout="constrained", dpi=110
    )
    left.imshow(read_image(PHOTO))
    left.set_title("the photo")
    left.axis("off")
    middle.imshow(model.pixels(PHOTO)[0] / 255)
    middle.set_title("what the network sees")
    middle.axis("off")
    colours = [PALE] * 4 + [STRONG]
    bars = right.barh(
        [a.label for a in answers], [100 * a.probability for a in answers], color=colours
    )
    right.bar_label(bars, fmt="%.1f %%", padding=4)
    right.set_xlim(0, 100)
    right.set_xlabel("probability in %")
    right.set_title("what it answers")
    figure.savefig(OUTPUT)


if __name__ == "__main__":
    make_picture()
