"""Make docs/answer.png, the README's picture: the bundled photo and what the model answers.

    python -m docs.make_picture

needs the extra `pictures`. Colours and fonts are those of the notebooks.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import tinymixnet
from notebooks.pictures import PALE, STRONG
from tinymixnet.engine.images import read_image
from tinymixnet.engine.weights import BUNDLED

PHOTO = BUNDLED.parent / "cat.jpg"
OUTPUT = Path(__file__).parent / "answer.png"
ANSWERS = 5


def make_picture() -> None:
    model = tinymixnet.load()
    answers = model.classify(PHOTO, top=ANSWERS)[::-1]  # bars are drawn from the bottom
    figure, (photo, pixels, bars) = plt.subplots(1, 3, figsize=(12, 3.4), width_ratios=[3, 2, 3])
    photo.imshow(read_image(PHOTO))
    photo.set_title("the photo")
    photo.axis("off")
    pixels.imshow(model.pixels(PHOTO)[0] / 255)
    pixels.set_title("what the network sees")
    pixels.axis("off")
    drawn = bars.barh(
        [answer.label for answer in answers],
        [100 * answer.probability for answer in answers],
        color=[PALE] * (ANSWERS - 1) + [STRONG],
    )
    bars.bar_label(drawn, fmt="%.1f %%", padding=4)
    bars.set_xlim(0, 100)
    bars.set_xlabel("probability in %")
    bars.set_title("what it answers")
    figure.savefig(OUTPUT)


if __name__ == "__main__":
    make_picture()
