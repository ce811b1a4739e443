"""Make docs/evaluation.png: two sections of the page of an evaluation, as a browser shows them.

    python -m docs.make_evaluation_picture RESULTS

RESULTS: a file that `tinymixnet evaluate -o` has written. The sections show no photos, so that the
picture may be published whatever the photos are. Needs Chromium.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.chromium import Browser
from tinymixnet.errors import ImageError
from tinymixnet.evaluate.results import read_results
from tinymixnet.report.evaluation import write_evaluation

PICTURE = Path(__file__).parent / "evaluation.png"
SECTIONS = ("result", "calibration")
WIDTH = 880  # pixels of the window


def no_photo(file: str) -> str:
    raise ImageError(f"{file}: not needed")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        write_evaluation([read_results(sys.argv[1])], page, no_photo)
        browser = Browser()
        try:
            browser.open(page.as_uri(), WIDTH, prefers_color_scheme="light")
            shown = ", ".join(f"#{name}" for name in SECTIONS)
            browser.js(
                f"document.querySelectorAll('nav, main > section:not({shown})')"
                ".forEach((section) => section.remove())"
            )
            size = {"x": 0, "y": 0, "width": WIDTH, "scale": 1}
            size["height"] = browser.js("document.documentElement.scrollHeight - 40")
            data = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=size)
        finally:
            browser.close()
    picture = Image.open(io.BytesIO(base64.b64decode(data["data"]))).convert("RGB")
    picture.quantize(256, kmeans=2).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
