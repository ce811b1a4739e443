"""The page of an evaluation: its numbers against naive ones, and the page in a real browser."""

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.evaluations import answers, colour, read_photo, results
from tests.report.pages import EVIL, HACK, Page
from tests.report.test_browser import SMALLEST_TEXT, open_and_find_nothing_wrong
from tests.support.chromium import Browser
from tests.support.photo_sets import (
    Labelled,
    as_folders,
    as_npz,
    as_tar,
    bundled_metadata,
    bundled_photos,
)
from tinymixnet.cli import main
from tinymixnet.errors import InputError
from tinymixnet.evaluate.results import Results, Skipped, read_results
from tinymixnet.evaluate.statistics import wilson
from tinymixnet.report.evaluation import SKIPPED, write_evaluation
from tinymixnet.report.evaluation_numbers import (
    BINS,
    calibration,
    calibration_error,
    confident_mistakes,
    confused_pairs,
    count_classes,
    uncertain_answers,
)

# -- numbers --------------------------------------------------------------------------------------

SETS = {
    "some right": answers(500, 12),
    "all right": answers(40, 7, accuracy=1),
    "all wrong": answers(40, 1000, accuracy=0),
    "one photo": answers(1, 3),
    "one class": answers(9, 1),
}


@pytest.fixture(params=SETS)
def predictions(request: pytest.FixtureRequest) -> np.ndarray:
    return SETS[request.param]


def test_classes_are_counted(predictions: np.ndarray) -> None:
    counts = count_classes(predictions)
    assert sorted(count.number for count in counts) == sorted(set(predictions["truth"].tolist()))
    for count in counts:
        own = [row for row in predictions if row["truth"] == count.number]
        wrong = Counter(int(row["best"][0]) for row in own if row["best"][0] != row["truth"])
        assert count.photos == len(own)
        assert count.first == len(own) - sum(wrong.values())
        assert count.five == sum(row["truth"] in row["best"] for row in own)
        assert count.mistakes == max(wrong.values(), default=0)
        assert (count.mistake is None) == (not wrong)
        assert count.mistake is None or wrong[count.mistake] == count.mistakes
    accuracies = [count.accuracy for count in counts]
    assert accuracies == sorted(accuracies)


def test_calibration_is_that_of_a_naive_loop(predictions: np.ndarray) -> None:
    """15 bins of equal width; a probability on an edge belongs to the bin below it."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row in predictions:
        sure = float(row["probability"][0])
        bins[max(ceil(sure * 15) - 1, 0)].append((sure, bool(row["best"][0] == row["truth"])))
    error = 0.0
    for found, naive in zip(calibration(predictions), bins, strict=True):
        assert found.photos == len(naive)
        assert found.right == sum(right for _, right in naive)
        if naive:
            mean = sum(sure for sure, _ in naive) / len(naive)
            assert found.confidence == pytest.approx(mean)
            assert found.low - 1e-9 <= mean <= found.high + 1e-9
            error += abs(found.right / len(naive) - mean) * len(naive) / len(predictions)
    assert calibration_error(calibration(predictions)) == pytest.approx(error)


@pytest.mark.parametrize(("sure", "accuracy", "error"), [(1, 1, 0), (1, 0, 1), (0.5, 0, 0.5)])
def test_error_of_calibration_is_known(sure: float, accuracy: float, error: float) -> None:
    rows = answers(20, 9, accuracy)
    rows["best"][:, 0] = rows["truth"] + (1 - accuracy)
    rows["probability"][:, 0] = sure
    bins = calibration(rows)
    assert calibration_error(bins) == pytest.approx(error)
    assert [bin.photos for bin in bins].index(20) == ceil(sure * BINS) - 1


def test_pairs_are_confused_most(predictions: np.ndarray) -> None:
    wrong = [row for row in predictions if row["best"][0] != row["truth"]]
    naive = Counter(frozenset((int(row["truth"]), int(row["best"][0]))) for row in wrong)
    pairs = confused_pairs(predictions, 8)
    assert len(pairs) == min(len(naive), 8)
    assert [len(pair.forth) + len(pair.back) for pair in pairs] == [
        count for _, count in naive.most_common(8)
    ]
    for pair in pairs:
        assert len(pair.forth) >= len(pair.back)
        for truth, answer, rows in (
            (pair.one, pair.other, pair.forth),
            (pair.other, pair.one, pair.back),
        ):
            assert set(rows) == {
                i
                for i, row in enumerate(predictions)
                if row["truth"] == truth and row["best"][0] == answer
            }
            assert (np.diff(predictions["probability"][rows, 0]) <= 0).all()


def test_remarkable_photos_are_in_order(predictions: np.ndarray) -> None:
    right = predictions["best"][:, 0] == predictions["truth"]
    sure = predictions["probability"][:, 0]
    mistakes, uncertain = confident_mistakes(predictions), uncertain_answers(predictions)
    assert sorted(mistakes) == np.flatnonzero(~right).tolist()
    assert sorted(uncertain) == np.flatnonzero(right).tolist()
    assert (np.diff(sure[mistakes]) <= 0).all()
    assert (np.diff(sure[uncertain]) >= 0).all()


# -- the page -------------------------------------------------------------------------------------


def write(folder: Path, *every: Results, **options: Any) -> Path:
    write_evaluation(every, folder / "page.html", read_photo, **options)
    return folder / "page.html"


def cells(browser: Browser, table: str) -> list[list[str]]:
    """The texts of a table's rows, without its head."""
    return browser.js(
        f"[...document.querySelectorAll({table + ' tbody tr'!r})].map((row) =>"
        "[...row.children].map((cell) => cell.textContent))"
    )


def text(browser: Browser, selector: str) -> str:
    return browser.js(f"document.querySelector({selector!r}).textContent")


def test_numbers_on_the_page_are_those_of_the_answers(browser: Browser, tmp_path: Path) -> None:
    rows = answers(700, 30)
    labels = [f"label {i}" for i in range(30)]
    page = write(tmp_path, results(rows, labels), published={"square": (0.9, 0.999)})
    browser.open(page.as_uri())
    right = [row for row in rows if row["truth"] == row["best"][0]]
    five = [row for row in rows if row["truth"] in row["best"]]
    assert text(browser, "h1") == f"network on photos: {len(right) / 700:.2%} right"
    shares = text(browser, ".shares")
    assert f"{len(right) / 700:.2%}" in shares
    assert f"{len(five) / 700:.2%}" in shares
    assert "Published: 90.00%, outside the interval." in shares
    assert "published figures are of ImageNet's validation photos" in text(browser, "#result")

    table = {row[0]: row[1:] for row in cells(browser, "#classes")}
    for i, label in enumerate(labels):
        own = [row for row in rows if row["truth"] == i]
        first = sum(row["best"][0] == i for row in own) / len(own)
        among = sum(i in row["best"] for row in own) / len(own)
        assert table[label][:3] == [f"{first:.2%}", f"{among:.2%}", str(len(own))]
        wrong = Counter(int(row["best"][0]) for row in own if row["best"][0] != i)
        name, times = table[label][3].split(", ")
        assert wrong[labels.index(name)] == int(times.split()[0]) == max(wrong.values())
    shares = [float(row[0][:-1]) for row in table.values()]
    assert shares == sorted(shares)
    ends = browser.js("[...document.querySelectorAll('#classes dt')].map((d) => d.textContent)")
    assert [float(table[label][0][:-1]) for label in ends] == shares[:10] + shares[:-11:-1]

    error = 0.0
    for i, (name, photos, mean, share) in enumerate(cells(browser, "#calibration")):
        own = [row for row in rows if ceil(float(row["probability"][0]) * 15) - 1 == i]
        assert name == f"{100 * i / 15:.1f} to {100 * (i + 1) / 15:.1f}%"
        assert photos == f"{len(own)}"
        if own:
            sure = sum(float(row["probability"][0]) for row in own) / len(own)
            accuracy = sum(row["truth"] == row["best"][0] for row in own) / len(own)
            assert (mean, share) == (f"{sure:.2%}", f"{accuracy:.2%}")
            error += abs(sure - accuracy) * len(own) / 700
    assert f"(ECE) is {error:.2%}:" in text(browser, "#calibration")

    surest = max(
        (row for row in rows if row["truth"] != row["best"][0]),
        key=lambda row: row["probability"][0],
    )
    caption = text(browser, "#mistakes figcaption")
    assert caption.startswith(f"label {surest['truth']}, ")
    assert f"taken for label {surest['best'][0]}, {surest['probability'][0]:.2%}" in caption
    assert caption.endswith(surest["file"])
    least_sure = min(right, key=lambda row: row["probability"][0])
    caption = text(browser, "#uncertain figcaption")
    assert caption.startswith(f"label {least_sure['truth']}, {least_sure['probability'][0]:.2%}")


def test_calibration_is_drawn_to_scale(browser: Browser, tmp_path: Path) -> None:
    rows = answers(700, 8)
    browser.open(write(tmp_path, results(rows)).as_uri())
    drawn = browser.js(
        "[...document.querySelectorAll('.reliability g')].map((g) => {"
        "const box = (name) => g.querySelector(name).getBBox();"
        "const [bar, sure, count, chance] = ['.bar', '.sure', '.count', '.chance'].map(box);"
        "return [bar.x, bar.height, bar.y + bar.height, sure.y, count.height, chance.y,"
        "chance.height]; })"
    )
    bins = [bin for bin in calibration(rows) if bin.photos]
    most = max(bin.photos for bin in bins)
    for bin, (x, height, floor, sure, count, top, long) in zip(bins, drawn, strict=True):
        assert x - 44 == pytest.approx(255 * bin.low, abs=1.1)
        assert height == pytest.approx(255 * bin.accuracy, abs=0.1)
        assert floor - sure == pytest.approx(255 * bin.confidence, abs=0.1)
        assert count == pytest.approx(40 * bin.photos / most, abs=1)
        low, high = wilson(bin.right, bin.photos)
        assert floor - top == pytest.approx(255 * high, abs=0.1)
        assert long == pytest.approx(255 * (high - low), abs=0.2)


def test_a_sample_says_so(tmp_path: Path) -> None:
    whole = results(answers(9, 4))
    assert "<p>9 photos of photos, " in write(tmp_path, whole).read_text("utf-8")
    data = {**whole.header["data"], "photos": 5000}
    part = replace(whole, header={**whole.header, "data": data})
    assert "<p>9 photos, a sample of the 5,000 of " in write(tmp_path, part).read_text("utf-8")


def test_bars_are_as_long_as_their_numbers(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, results(answers(300, 12))).as_uri())
    bars = browser.js(
        "[...document.querySelectorAll('#classes .meter')].map((m) => [m.querySelector('i')"
        ".offsetWidth / m.querySelector('span').offsetWidth, m.querySelector('b').textContent])"
    )
    assert len(bars) == 12
    for width, number in bars:
        right, photos = map(int, number.split(" of "))
        assert width == pytest.approx(right / photos, abs=0.02)


def test_pairs_show_their_photos(browser: Browser, tmp_path: Path) -> None:
    rows = answers(12, 20, accuracy=1)
    rows["truth"][:8] = [1, 1, 1, 2, 2, 3, 4, 5]
    rows["best"][:8, :2] = [[2, 1], [2, 1], [2, 1], [1, 2], [2, 1], [4, 3], [4, 3], [5, 3]]
    rows["truth"][8:], rows["best"][8:, :2] = 9, [9, 8]
    browser.open(write(tmp_path, results(rows)).as_uri())
    pairs = browser.js(
        "[...document.querySelectorAll('#confusions .card')].map((c) => [c.querySelector('h3')"
        ".textContent, ...[...c.querySelectorAll('p')].map((p) => p.textContent)])"
    )
    assert pairs == [
        [
            "label 1 ↔ label 2",
            "label 1 taken for label 2: 3 of 3",
            "label 2 taken for label 1: 1 of 2",
        ],
        [
            "label 3 ↔ label 4",
            "label 3 taken for label 4: 1 of 1",
            "label 4 taken for label 3: 0 of 1",
        ],
    ]
    alts = browser.js("[...document.querySelectorAll('#confusions img')].map((i) => i.alt)")
    assert sorted(alts) == [
        "class/0.png: label 1, taken for label 2",
        "class/1.png: label 1, taken for label 2",
        "class/2.png: label 1, taken for label 2",
        "class/3.png: label 2, taken for label 1",
        "class/5.png: label 3, taken for label 4",
    ]


def test_thumbnails_are_those_of_the_photos(tmp_path: Path) -> None:
    rows = answers(30, 5)
    html = write(tmp_path, results(rows)).read_text("utf-8")
    photos = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="class/(\d+)\.png', html)
    assert len(photos) > 20
    for data, number in photos:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert picture.shape == (72, 96, 3)
        assert np.abs(picture.astype(int) - colour(int(number))).max() <= 6
    lost = set(re.findall(r'<span role="img" aria-label="class/(\d+)\.png[^"]*">cannot be', html))
    assert lost
    assert {number[-1] for number in lost} == {"7"}
    assert not lost & {number for _, number in photos}


@pytest.mark.parametrize("classes", [10, 1000])
def test_photos_are_read_once_and_few_of_them(classes: int, tmp_path: Path) -> None:
    asked: list[str] = []

    def read(file: str) -> np.ndarray:
        asked.append(file)
        return np.random.default_rng(len(asked)).integers(0, 256, (300, 400, 3), np.uint8)

    rows = answers(4000, classes, 0.5)
    labels = [f"{'a long label ' * 3}{i}" for i in range(classes)]
    every = [results(rows, labels, preset) for preset in ("tf", "omz", "timm")]
    write_evaluation(every, tmp_path / "page.html", read)
    assert len(asked) == len(set(asked)) <= 10 * 8 + 2 * 12
    assert (tmp_path / "page.html").stat().st_size < 2.5e6


def test_presets_stand_side_by_side(browser: Browser, tmp_path: Path) -> None:
    rows = answers(100, 10)
    other = rows.copy()[::-1]  # in another order
    wrong = np.flatnonzero(other["truth"] != other["best"][:, 0])
    right = np.flatnonzero(other["truth"] == other["best"][:, 0])
    other["best"][wrong[:3], 0] = other["truth"][wrong[:3]]
    other["best"][right[:5], 0] = (other["truth"][right[:5]] + 1) % 10
    page = write(tmp_path, results(rows), results(other, preset="tf"), published={"tf": (0.5, 1)})
    browser.open(page.as_uri())
    share = len(right) / 100
    found = cells(browser, "#presets")
    assert [row[0] for row in found] == ["square", "tf"]
    assert [row[1] for row in found] == [f"{share:.2%}", f"{share - 0.02:.2%}"]
    assert [row[4] for row in found] == ["", "50.00%"]
    assert found[1][-2:] == ["3", "5"]
    ece = re.search(r"\(ECE\) is ([\d.]+%)", text(browser, "#calibration"))
    assert ece
    assert found[0][5] == ece[1]
    assert len(cells(browser, "#presets")[0]) == len(found[0])
    assert text(browser, "h1").endswith(f"{share:.2%} right")


def test_preset_without_photos_has_an_empty_row(browser: Browser, tmp_path: Path) -> None:
    none = results(answers(0, 4), preset="tf")
    browser.open(write(tmp_path, results(answers(9, 4)), none).as_uri())
    assert cells(browser, "#presets")[1] == ["tf", *[""] * 6]


def test_skipped_photos_are_listed(browser: Browser, tmp_path: Path) -> None:
    skipped = [Skipped(f"s{i}.jpg", 0, "no such file") for i in range(SKIPPED + 5)]
    for rows in (answers(9, 4), answers(0, 4)):
        page = write(tmp_path, results(rows, skipped=skipped), notes=["Names are indices."])
        browser.open(page.as_uri())
        assert text(browser, "#result summary").startswith("105 photos could not be read")
        items = browser.js("[...document.querySelectorAll('#result li')].map(l => l.textContent)")
        assert len(items) == SKIPPED + 1
        assert items[0] == "s0.jpg: no such file"
        assert items[-1] == "and 5 more"
        assert "Names are indices." in text(browser, "#result")
    assert text(browser, "h1").endswith("no photo was answered")
    assert not browser.js("document.querySelectorAll('main > section').length - 1")


def test_classes_of_one_name_are_told_apart(browser: Browser, tmp_path: Path) -> None:
    rows = answers(30, 3)
    browser.open(write(tmp_path, results(rows, ["crane", "cat", "crane"])).as_uri())
    names = browser.js("[...document.querySelectorAll('#classes dt')].map((d) => d.textContent)")
    assert sorted(names) == ["cat", "crane (0)", "crane (2)"]


def test_what_was_evaluated_is_told_in_full(browser: Browser, tmp_path: Path) -> None:
    whole = results(answers(9, 4))
    header = {**whole.header, "weights": {"name": "network", "sha256": "0a" * 32}}
    header |= {f"extra {i}": "x" * 9999 for i in range(999)}
    page = write(tmp_path, replace(whole, header=header))
    assert page.stat().st_size < 1e5
    browser.open(page.as_uri())
    told = text(browser, "#result details")
    assert f"weights: sha256{'0a' * 32}" in told
    assert "data: kindfolder" in told
    assert "input size128" in told


# -- how it looks ---------------------------------------------------------------------------------

CONTRAST = """
(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = {};
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("style, svg title")) continue;
    const style = getComputedStyle(element);
    let ground = element;
    const paper = (e) => numbers(getComputedStyle(e).backgroundColor);
    while (paper(ground).length === 4 && paper(ground)[3] === 0) ground = ground.parentElement;
    const ink = numbers(element.closest("svg") ? style.fill : style.color);
    const [dim, bright] = [light(ink), light(paper(ground))].sort((a, b) => a - b);
    count++;
    if ((bright + 0.05) / (dim + 0.05) < 4.5) low[element.outerHTML.slice(0, 80)] = [ink, ground];
  }
  return [count, low];
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    labels = [f"label {'long ' * (i % 40)}{i}" for i in range(60)]
    rows, skipped = answers(900, 60), [Skipped("damaged.jpg", 3, "no image")]
    every = [results(rows, labels, preset, skipped) for preset in ("square", "tf")]
    return write(folder, *every, published={"tf": (0.5, 0.9)}, notes=["Folders are labels."])


@pytest.mark.parametrize("name", [*SETS, "none"])
def test_every_evaluation_makes_a_sound_page(browser: Browser, name: str, tmp_path: Path) -> None:
    rows = SETS.get(name, answers(0, 4))
    labels = [f"label {i}" for i in range(1000)]
    page = write(tmp_path, results(rows, labels), results(rows, labels, "tf"))
    Page(page.read_text("utf-8"))
    open_and_find_nothing_wrong(browser, page, 360)
    assert browser.js("document.documentElement.scrollWidth") <= 360
    shown = set(browser.js("[...document.querySelectorAll('main > section')].map(s => s.id)"))
    wanted = {"result"}
    if len(rows):
        wanted |= {"presets", "classes", "calibration"}
    if (rows["truth"] != rows["best"][:, 0]).any():
        wanted |= {"confusions", "mistakes"}
    if (rows["truth"] == rows["best"][:, 0]).any():
        wanted.add("uncertain")
    assert shown == wanted
    links = browser.js("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
    assert set(links) == wanted - {"result"}
    assert "nan" not in browser.js("document.body.textContent").lower()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_looks_well(browser: Browser, page: Path, width: int, scheme: str) -> None:
    open_and_find_nothing_wrong(browser, page, width, prefers_color_scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js(SMALLEST_TEXT) == {}
    count, low = browser.js(CONTRAST)
    assert count > 500
    assert low == {}
    assert browser.js("getComputedStyle(document.body).colorScheme") in ("normal", scheme)
    sizes = browser.js("[...document.images].map((i) => [i.offsetWidth, i.offsetHeight])")
    assert sizes
    assert all(80 <= side <= 96 for size in sizes for side in size)
    drawing = "document.querySelector('.reliability').getBoundingClientRect()"
    assert browser.js(f"{drawing}.width") == 318  # not scaled down
    cut = "[...document.querySelectorAll('.reliability text')].filter((t) => {"
    cut += f"const r = t.getBoundingClientRect(), d = {drawing}; return r.left < d.left - 1"
    assert browser.js(f"{cut} || r.right > d.right + 1 || r.bottom > d.bottom; }}).length") == 0


def test_keyboard_reaches_what_can_be_opened(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    reached = []
    for _ in range(15):
        browser.press("Tab")
        reached.append(browser.js("document.activeElement.textContent.slice(0, 20) || 'a table'"))
        if reached[-1].startswith("All 60"):
            break
    assert reached[:6] == [
        "By preset",
        "Classes",
        "Confusions",
        "Calibration",
        "Surest mistakes",
        "Least certain",
    ]
    assert reached[-1] == "All 60 classes as a "
    browser.press("Enter")
    assert browser.js("document.querySelector('#classes tbody').checkVisibility()")


@pytest.mark.parametrize("width", [390, 1280])
def test_all_classes_are_sorted_without_a_script(browser: Browser, page: Path, width: int) -> None:
    """By accuracy at first, then by name; the columns stay below their headings."""
    assert "<script" not in page.read_text("utf-8")
    browser.open(page.as_uri(), width)
    browser.js("document.querySelector('details.all').open = true")
    seen = (
        "[...document.querySelectorAll('.all tbody tr')].sort((a, b) => a.getBoundingClientRect()"
        ".top - b.getBoundingClientRect().top).map((r) => [r.cells[0].textContent, "
        "parseFloat(r.cells[1].textContent)])"
    )
    first = browser.js(seen)
    assert [share for _, share in first] == sorted(share for _, share in first)
    browser.js("document.querySelector('.by-name').click()")
    names = [name for name, _ in browser.js(seen)]
    assert names == sorted(name for name, _ in first)
    assert names != [name for name, _ in first]
    browser.js("document.querySelector('.all .scroll').scrollTop = 500")
    above = browser.js(
        "(() => { const [head, ...rows] = document.querySelectorAll('.all tr');"
        "const left = (row) => [...row.cells].map((c) => c.getBoundingClientRect().right);"
        "const frame = document.querySelector('.all .scroll').getBoundingClientRect();"
        "return [head.cells[1].getBoundingClientRect().top - frame.top,"
        "rows.filter((r) => left(r).join() !== left(head).join()).length]; })()"
    )
    assert above == [pytest.approx(1, abs=1), 0]
    assert browser.js("document.documentElement.scrollWidth") <= width
    browser.js("document.querySelectorAll('.orders input')[0].click()")
    assert browser.js(seen) == first


def test_no_right_answer_has_no_bar(browser: Browser, tmp_path: Path) -> None:
    rows = answers(40, 5)
    rows["best"][:, 0] = (rows["truth"] + 1) % 5
    browser.open(write(tmp_path, results(rows)).as_uri())
    widths = "[...document.querySelectorAll('#classes .meter i')].map((i) => i.offsetWidth)"
    assert browser.js(widths) == [0] * 5


def test_page_prints(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 15
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.js("getComputedStyle(document.querySelector('.meter i')).printColorAdjust") == (
        "exact"
    )
    assert not browser.js("document.querySelector('nav').checkVisibility()")
    browser.call("Emulation.setEmulatedMedia", media="")


def test_text_from_outside_is_shown_not_run(browser: Browser, tmp_path: Path) -> None:
    rows = answers(60, 30)
    for row in rows:
        row["file"] = f"{HACK[:9]}{row['file'][-6:]}\x1b\n\udcff"
    labels = [f"{EVIL * 9}{i}" for i in range(30)]
    skipped = [Skipped(f"{EVIL}\udcff", 0, EVIL)]
    evil = results(rows, labels, EVIL, skipped, EVIL, f"{EVIL}\udcff/")
    page = write(tmp_path, evil, evil, published={EVIL: (0, 1)}, notes=[EVIL])
    html = page.read_text("utf-8")
    assert all(line.isprintable() for line in html.split("\n"))
    parsed = Page(html)
    assert not parsed.all("script")
    assert all(image["src"].startswith("data:image/jpeg") for image in parsed.all("img"))
    for width in (360, 1280):
        open_and_find_nothing_wrong(browser, page, width)
        browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert browser.js("typeof window.hacked") == "undefined"
        assert browser.js("document.documentElement.scrollWidth") <= width
    assert "\\x1b\\n\\udcff" in text(browser, "#mistakes small")


# -- files ----------------------------------------------------------------------------------------


def test_only_an_earlier_page_is_replaced(tmp_path: Path) -> None:
    first = write(tmp_path, results(answers(9, 4))).read_text("utf-8")
    assert write(tmp_path, results(answers(9, 4, seed=1))).read_text("utf-8") != first
    place = tmp_path / "page.html"
    with pytest.raises(InputError, match="input"):
        write(tmp_path, results(answers(9, 4)), inputs=[place])
    for foreign in ("<!DOCTYPE html><p>mine", first.replace("tinymixnet evaluate", "mine")):
        place.write_text(foreign)
        with pytest.raises(InputError, match="did not write"):
            write(tmp_path, results(answers(9, 4)))
        assert place.read_text() == foreign
    place.unlink()
    with pytest.raises(InputError, match="at least one"):
        write(tmp_path)
    with pytest.raises(InputError, match="make it first"):
        write(tmp_path / "absent", results(answers(9, 4)))
    assert not [*tmp_path.iterdir()]


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "tar", "npz"])
def test_command_writes_the_page(
    browser: Browser, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One damaged photo, and seven whose thumbnails come from all that DATA may be."""
    photos = [*bundled_photos(7), Labelled(b"no photo", 32)]
    if kind == "npz":
        data = as_npz(photos, tmp_path / "photos.npz")
    else:
        names = dict(enumerate(bundled_metadata().wordnet_ids))
        data = as_folders(photos, tmp_path / "photos", names)
        data = as_tar(data, tmp_path / "photos.tar") if kind == "tar" else data
    page, output = tmp_path / "page.html", tmp_path / "results.jsonl"
    command = ["evaluate", str(data), "--workers", "1", "--preset", "all"]
    assert main([*command, "-o", str(output), "--report", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    open_and_find_nothing_wrong(browser, page)
    found = read_results(tmp_path / "results.square.jsonl")
    assert text(browser, "h1").endswith(f"{data.name}: {found.top1:.2%} right")
    assert [row[0] for row in cells(browser, "#presets")] == ["square", "tf", "timm", "omz"]
    assert "1 photo could not be read" in text(browser, "#result")
    assert "understood as" in text(browser, "#result")
    assert browser.js("document.images.length") >= 7
    assert not browser.js("document.querySelectorAll('.shot [role=img]').length")
