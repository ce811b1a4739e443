"""The report page: its parts by themselves, as HTML, and in a real browser."""

import base64
import io
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.chromium import PROGRAM, Browser
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model, load
from tinymixnet.cli import main
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import record
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, TraceError
from tinymixnet.report import layers as pictures
from tinymixnet.report.page import fast_times, is_own_report, slow_times, write_report

VOID = {"meta", "link", "img", "br"}  # elements without an end
HACK = '<script>window.hacked=1</script><img src="x" onerror="window.hacked=1">'
EVIL = f"{HACK}\x1b[2J\n\x07\u202e\u2028\x9b"


# -- pages to look at -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.html and other.html of full MixNet-L at 224 px; the other lacks swish from block 4."""
    folder = tmp_path_factory.mktemp("report")
    pixels = synthetic_image().astype(np.float32)
    strings = list(model.architecture.block_strings)
    strings[4] = strings[4].removesuffix("_sw")
    wrong = replace(model.architecture, block_strings=tuple(strings))
    record(Model(wrong, model.tensors, model.metadata), pixels, folder / "dump")
    np.save(folder / "picture.npy", pixels)
    picture, page = str(folder / "picture.npy"), str(folder / "plain.html")
    assert main(["report", picture, "-o", page]) == 0
    dump = open_dump(folder / "dump", model.architecture, 1, 224, 224)
    write_report(model, picture, pixels, folder / "other.html", dump)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(TINY, synthetic_tensors(TINY))


@pytest.fixture(scope="module")
def small(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page that loads at once, with a dump that differs."""
    folder = tmp_path_factory.mktemp("small")
    pixels = synthetic_image(1, 48, 48).astype(np.float32)
    record(Model(TINY, synthetic_tensors(TINY, seed=1)), pixels, folder / "dump")
    tiny_page(tiny, pixels, folder, folder / "dump")
    return (folder / "page.html").as_uri()


def tiny_page(model: Model, pixels: np.ndarray, folder: Path, dump: Path | None = None) -> str:
    n, h, w, _ = pixels.shape
    other = dump and open_dump(dump, model.architecture, n, h, w)
    write_report(model, "picture", pixels, folder / "page.html", other)
    return (folder / "page.html").read_text("utf-8")


class Page(HTMLParser):
    """Reads a page and insists that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.svg = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"{tag}: an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> means something in SVG alone"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


# -- parts ----------------------------------------------------------------------------------------


def luminance(colour: tuple[float, ...]) -> float:
    """Of red, green, blue 0..255, by WCAG 2.1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(colour, 255)
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_shades_rise_evenly_in_lightness_and_differences_fall_off_to_both_sides() -> None:
    colours = np.frombuffer(pictures.palette(), np.uint8).reshape(-1, 3)
    light = np.array([luminance(tuple(colour)) ** (1 / 3) for colour in colours])
    rising = np.diff(light[pictures.SEQUENTIAL : pictures.SEQUENTIAL + pictures.SHADES])
    assert rising.min() > 0
    assert rising.max() < 3 * rising.mean()
    signed = light[pictures.DIVERGING :]
    middle = pictures.SHADES // 2
    assert (np.diff(signed[: middle + 1]) > 0).all()
    assert (np.diff(signed[middle:]) < 0).all()
    assert len(colours) == pictures.DIVERGING + pictures.SHADES


@pytest.mark.parametrize(("h", "w"), [(112, 112), (113, 90), (56, 56), (57, 3)])
def test_large_maps_are_averaged(h: int, w: int) -> None:
    maps = np.random.default_rng(0).normal(size=(h, w, 2))
    resized = pictures.resize_maps(maps)
    factor = next(f for f in range(1, 9) if -(-max(h, w) // f) <= pictures.TILE)
    for c in range(2):
        for y in range(resized.shape[1]):
            for x in range(resized.shape[2]):
                box = maps[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor, c]
                assert resized[c, y, x] == pytest.approx(box.mean())
    assert resized.shape == (2, -(-h // factor), -(-w // factor))


def test_small_maps_are_repeated() -> None:
    maps = np.arange(98.0).reshape(7, 7, 2)
    resized = pictures.resize_maps(maps)
    assert resized.shape == (2, 56, 56)
    np.testing.assert_array_equal(resized[:, 3::8, 5::8], maps.transpose(2, 0, 1))


def test_shades_of_values_beyond_the_ends_and_of_none() -> None:
    with np.errstate(invalid="ignore"):
        shades = pictures.to_shades(np.array([-9, 0, 0.5, 1, 9, np.nan, np.inf]), 0, 1)
    first, last = pictures.SEQUENTIAL, pictures.SEQUENTIAL + pictures.SHADES - 1
    broken = pictures.BROKEN
    assert shades.tolist() == [first, first, (first + last) // 2, last, last, broken, broken]


def test_a_histogram_counts_every_value_but_zeros() -> None:
    x = np.array([[-1, -1, 0, 0, 0, 3], [0.9, 2.999, 7, -8, np.nan, np.inf]])
    bins = pictures.count_values(x, -1, 3)
    assert bins.sum() == 7
    assert bins[0] == 3  # -1, -1 and -8, which lies outside
    assert bins[-1] == 3  # 3, 2.999 and 7
    assert bins[round((0.9 + 1) / 4 * pictures.BINS - 0.5)] == 1


def test_times_are_there_for_every_layer(tiny: Model) -> None:
    pixels = synthetic_image(1, 48, 40).astype(np.float32)
    slow = slow_times(tiny, pixels)
    assert list(slow) == list(TINY.layer_shapes(48, 40))
    fast = fast_times(tiny, pixels[0])
    assert set(fast) == {step.layer for step in tiny.plan.program(48, 40).steps}
    assert min(*slow.values(), *fast.values()) > 0


# -- the page as text -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "other"])
def test_the_page_is_well_formed_small_and_needs_no_other(folder: Path, name: str) -> None:
    path = folder / f"{name}.html"
    assert path.stat().st_size < 10e6
    text = path.read_text("utf-8")
    assert not re.search("https?:|@import|//[a-z]", text.split("<body>")[0].split("<style>")[0])
    assert "http://" not in text
    assert "https://" not in text
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for tag, attributes in page.elements:
        source = attributes.get("src") or attributes.get("href") or "#network"
        assert source.startswith(("data:", "#")), tag
        assert not source.startswith("#") or source[1:] in ids
        assert not any(attribute.startswith("on") for attribute in attributes)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("name", ["plain", "other"])
def test_every_part_and_every_layer_has_its_place(folder: Path, model: Model, name: str) -> None:
    page = Page((folder / f"{name}.html").read_text("utf-8"))
    parts = ["stem", *(block.name for block in model.architecture.blocks), "head"]
    sections = page.all("section")
    panels = [section["id"] for section in sections if section.get("class") == "panel"]
    cards = [section["id"] for section in sections if section.get("class") == "card"]
    links = [attributes["data-part"] for attributes in page.all("a") if "data-part" in attributes]
    assert panels == parts
    assert links == parts * 2
    assert cards == list(model.architecture.layer_shapes(224, 224))


def test_the_first_difference_is_named_and_marked(folder: Path) -> None:
    text = (folder / "other.html").read_text("utf-8")
    assert 'First difference: <a href="#blocks_4/expand_act">' in text
    assert text.count("▲ first") == 1
    assert text.count("first difference</span>") == 1
    card = text.split('id="blocks_4/expand_conv"')[1].split("</section>")[0]
    assert "theirs is equal" in card
    card = text.split('id="blocks_4/expand_act"')[1].split("</section>")[0]
    assert "difference; the channels furthest off: " in card


def test_numbers_and_pictures_are_those_of_the_layer(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 64, 64).astype(np.float32)
    text = tiny_page(tiny, pixels, tmp_path)
    layers = dict(tiny.layers(pixels))
    for name, x in layers.items():
        card = text.split(f'id="{name}"')[1].split("</section>")[0]
        cells = re.findall("<td>(.*?)</td>", card)
        *values, zeros = [float(cell.strip("%").replace("−", "-")) for cell in cells]
        expected = [x.min(), x.max(), x.mean(dtype=np.float64), x.std()]
        assert values == pytest.approx(expected, rel=1e-3, abs=1e-7), name
        assert zeros == pytest.approx(100 * (x == 0).mean(), abs=0.051)

    card = text.split('id="blocks_0/output"')[1].split("</section>")[0]
    file = io.BytesIO(base64.b64decode(re.search('base64,(.*?)"', card)[1]))
    shades = np.asarray(Image.open(file))
    x = layers["blocks_0/output"][0]
    first = x[..., x.reshape(-1, x.shape[-1]).var(0).argmax()]  # the one that varies most
    assert shades.shape == (32, 5 * 32 + 4 * 2)
    assert (np.diff(shades[:, :32].ravel()[first.ravel().argsort()].astype(int)) >= 0).all()
    assert np.ptp(shades[:, :32]) > pictures.SHADES // 2


def test_names_and_labels_are_text(tmp_path: Path) -> None:
    architecture = replace(TINY, variant=EVIL)
    metadata = Metadata(labels=tuple(f"{EVIL}{i}" for i in range(6)), name=EVIL)
    model = Model(architecture, synthetic_tensors(TINY), metadata)
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(model, pixels, tmp_path / "dump.npz")
    with np.load(tmp_path / "dump.npz") as file:
        layers = {name: file[name] for name in file.files if name != "manifest.json"}
    evil_name = EVIL.replace("/", "_") + "\udcff"
    foreign = tmp_path / f"{evil_name}.npz"
    np.savez(foreign, **layers, **{EVIL.replace("/", "_"): np.zeros(3)})
    dump = open_dump(foreign, architecture, 1, 32, 32)
    write_report(model, evil_name, pixels, tmp_path / "page.html", dump)
    text = (tmp_path / "page.html").read_text("utf-8")
    # title twice (network and image), caption, variant, five answers, the dump and a name in it
    assert text.count("&lt;script&gt;") == 13
    assert text.count("\\x1b[2J\\n\\x07\\u202e\\u2028\\x9b") == 13
    assert all(line.isprintable() for line in text.split("\n"))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert all(attributes["src"].startswith("data:") for attributes in page.all("img"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e308, 5e-324])
def test_a_dump_of_values_that_no_network_computes(tiny: Model, tmp_path: Path, value) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "ours.npz")
    rng = np.random.default_rng(0)
    with np.load(tmp_path / "ours.npz") as file:
        layers = {name: file[name].astype(np.float64) for name in file.files if "json" not in name}
    for name, x in layers.items():
        where = rng.random(x.shape) < (1 if name.endswith("se_gate") else 0.5)
        np.copyto(x, value, where=where)
    np.savez(tmp_path / "theirs.npz", **layers)
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "theirs.npz")
    Page(text)
    assert len(text) < 3e6
    widths = [float(width) for width in re.findall(r'style="width:(.*?)%"', text)]
    assert len(widths) >= 10  # five answers of both
    assert all(0 <= width <= 100 for width in widths)
    numbers = re.findall(r"-?\d+\.?\d*", text.split("</style>")[1].split("<script>")[0])
    written = [number for number in numbers if len(number.split(".")[0]) > 12]
    assert all(number in "".join(re.findall('base64,(.*?)"', text)) for number in written)


@pytest.mark.filterwarnings("error")
def test_a_network_whose_values_are_not_finite(tmp_path: Path) -> None:
    tensors = synthetic_tensors(TINY)
    tensors["stem/conv/kernel"] = np.full_like(tensors["stem/conv/kernel"], 1e38)
    text = tiny_page(Model(TINY, tensors), synthetic_image(1, 32, 32), tmp_path)
    Page(text)
    assert "∞" in text or "nan" in text


def test_ten_thousand_names_without_a_place(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump", ("logits",))
    dump = open_dump(tmp_path / "dump", TINY, 1, 32, 32)
    dump.unmatched = {f"{i}{'x' * 12_000}{i}": None for i in range(10_000)}
    started = time.perf_counter()
    write_report(tiny, "y" * 12_000, pixels, tmp_path / "page.html", dump)
    assert time.perf_counter() - started < 10
    text = (tmp_path / "page.html").read_text("utf-8")
    assert len(text) < 3e6
    assert re.search("more</li>", text)
    assert max(map(len, re.findall("[xy]+", text))) < 200


def test_a_large_picture_is_shown_small(tiny: Model, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 3000, 3), np.uint8)
    text = tiny_page(tiny, noise, tmp_path)
    picture = re.search('<section class="answers".*?base64,(.*?)"', text)[1]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (448, 5)


def test_only_the_image_that_is_shown_is_computed(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, layers = [], Model.layers
    monkeypatch.setattr(Model, "layers", lambda s, x: batches.append(len(x)) or layers(s, x))
    text = tiny_page(tiny, synthetic_image(5, 32, 32), tmp_path)
    assert set(batches) == {1}
    assert "the first of 5 images" in text


# -- what is at the page's place already ----------------------------------------------------------


def test_an_earlier_page_is_replaced(tiny: Model, tmp_path: Path) -> None:
    first = tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
    second = tiny_page(tiny, synthetic_image(1, 32, 40), tmp_path)
    assert is_own_report(tmp_path / "page.html")
    assert "32 × 32 pixels" in first
    assert "32 × 40 pixels" in second


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<html><title>mine</title>", b"\xff" * 99]
)
def test_the_file_of_somebody_else_is_kept(tiny: Model, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.html").write_bytes(content)
    with pytest.raises(InputError, match=r"page\.html: ") as caught:
        tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "page.html").read_bytes() == content


def test_the_photo_and_the_dump_are_kept(tmp_path: Path, capsys) -> None:
    photo, dump = tmp_path / "photo.png", tmp_path / "dump"
    Image.fromarray(synthetic_image(1, 64, 64)[0]).save(photo)
    assert main(["trace", str(photo), "-o", str(dump), "--layers", "logits"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output in [photo, dump, *dump.iterdir(), tmp_path / "." / "dump" / ".." / "photo.png"]:
        capsys.readouterr()
        assert main(["report", str(photo), str(dump), "-o", str(output)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert output.name in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["link", "dangling link", "link to a page", "FIFO", "device"])
def test_what_is_no_file_is_kept(tiny: Model, tmp_path: Path, kind: str) -> None:
    page, target = tmp_path / "page.html", tmp_path / "target"
    if kind == "link to a page":
        tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
        page.rename(target)
    elif kind == "link":
        target.write_text("mine")
    if "link" in kind:
        page.symlink_to(target)
    elif kind == "FIFO":
        os.mkfifo(page)
    else:
        try:
            os.mknod(page, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except OSError:
            pytest.skip("only root may make devices")
    before = os.lstat(page)
    with pytest.raises(InputError, match=r"page\.html: "):
        tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
    assert os.lstat(page) == before


def test_each_layer_is_shown_for_the_image_that_differs_most(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(3, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump")
    stored = np.load(tmp_path / "dump" / "stem" / "conv.npy")
    stored[2, 5, 7, 3] += 50
    np.save(tmp_path / "dump" / "stem" / "conv.npy", stored)
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    card = text.split('id="stem/conv"')[1].split("</section>")[0]
    assert "worst at image 2, row 5, column 7, channel 3" in card
    assert "The channels furthest off: 3, " in card
    assert "the first of 3 images" in text


def test_a_dump_of_some_layers_with_nan(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    patterns = ("*/output", "blocks_3/se_gate", "logits")
    record(tiny, pixels, tmp_path / "dump", patterns)
    for name in ("blocks_1/output", "blocks_3/se_gate", "logits"):
        stored = np.load(tmp_path / "dump" / f"{name}.npy")
        stored[..., 0] = np.nan
        np.save(tmp_path / "dump" / f"{name}.npy", stored)
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    Page(text)
    assert "not in the other" in text.split('id="stem/conv"')[1].split("</section>")[0]
    card = text.split('id="blocks_1/output"')[1].split("</section>")[0]
    assert "error <b>∞</b>" in card
    sprite = re.findall('base64,(.*?)"', card)[1]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite))))
    assert (shown == pictures.BROKEN).any()


def test_what_fails_leaves_nothing(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    with pytest.raises(InputError, match=r"absent.*cannot be written"):
        write_report(tiny, "picture", pixels, tmp_path / "absent" / "page.html")
    with pytest.raises(InputError, match="at least one image"):
        write_report(tiny, "picture", pixels[:0], tmp_path / "page.html")
    record(tiny, pixels, tmp_path / "dump")
    damaged = tmp_path / "dump" / "head" / "conv.npy"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    with pytest.raises(TraceError, match="conv"):
        tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]


# -- in a browser ---------------------------------------------------------------------------------

SEEN = (
    "[...document.querySelectorAll('.panel')].filter((p) => p.checkVisibility()).map((p) => p.id)"
)
FOCUS = "document.activeElement.dataset.part"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None and not os.environ.get("CI"):
        pytest.skip("no chromium here: apt-get install chromium")
    browser = Browser()
    yield browser
    browser.close()


def settle(browser: Browser) -> None:
    """Let the events of the last click or key arrive."""
    browser.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")


def test_a_click_shows_a_block(browser: Browser, folder: Path) -> None:
    browser.open((folder / "plain.html").as_uri())
    assert browser.js(SEEN) == ["stem"]
    for nav, part in [("network", "blocks_3"), ("strip", "blocks_17"), ("network", "head")]:
        browser.click(f"nav.{nav} a[data-part={part}]")
        settle(browser)
        assert browser.js(SEEN) == [part]
        assert browser.js("location.hash") == f"#{part}"
        current = "[...document.querySelectorAll('[aria-current]')].map((a) => a.dataset.part)"
        assert browser.js(current) == [part, part]
    browser.click("#head a[rel=prev]")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_18"]
    browser.js("history.back()")
    settle(browser)
    assert browser.js(SEEN) == ["head"]


def test_the_keyboard_goes_from_block_to_block(browser: Browser, folder: Path) -> None:
    browser.open((folder / "plain.html").as_uri() + "#blocks_4")
    assert browser.js(SEEN) == ["blocks_4"]
    browser.press("ArrowRight")
    assert browser.js(SEEN) == ["blocks_5"]
    browser.press("ArrowLeft")
    assert browser.js(SEEN) == ["blocks_4"]

    browser.open((folder / "plain.html").as_uri())
    browser.press("Tab")
    assert browser.js(FOCUS) == "stem"
    ring = "parseFloat(getComputedStyle(document.activeElement.querySelector('.hit')).strokeWidth)"
    assert browser.js(ring) >= 3
    for key, part in [("End", "head"), ("ArrowRight", "head"), ("Home", "stem")]:
        browser.press(key)
        assert (browser.js(FOCUS), browser.js(SEEN)) == (part, [part])
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert (browser.js(FOCUS), browser.js("location.hash")) == ("blocks_1", "#blocks_1")
    for key, part in [("Enter", "blocks_7"), (" ", "blocks_9")]:
        browser.js(f"document.querySelector('.strip [data-part={part}]').focus()")
        browser.press(key)
        settle(browser)
        assert browser.js(SEEN) == [part]


def test_an_address_leads_to_a_layer(browser: Browser, folder: Path) -> None:
    address = (folder / "other.html").as_uri()
    browser.open(f"{address}#blocks_3/se_gate", prefers_reduced_motion="reduce")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_3"]
    top = "document.getElementById('blocks_3/se_gate').getBoundingClientRect().top"
    assert 0 < browser.js(top) < 450
    browser.click(".verdict a")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_4"]


@pytest.mark.parametrize("name", ["plain", "other"])
def test_nothing_is_fetched_and_nothing_goes_wrong(
    browser: Browser, folder: Path, name: str
) -> None:
    browser.open((folder / f"{name}.html").as_uri())
    pictures = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.js(pictures) == 0
    settle(browser)
    urls = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith("data:")] == [
        (folder / f"{name}.html").as_uri()
    ]
    bad = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in bad] == []


@pytest.mark.parametrize("name", ["plain", "other"])
def test_on_a_phone_the_page_does_not_scroll_sideways(
    browser: Browser, folder: Path, name: str
) -> None:
    browser.open((folder / f"{name}.html").as_uri(), 360, 800)
    assert browser.js("innerWidth") == 360
    for _ in range(21):
        wide = browser.js("document.documentElement.scrollWidth")
        assert wide <= 360, browser.js(SEEN)
        browser.press("ArrowRight")
    assert browser.js(SEEN) == ["head"]
    tallest = "Math.max(...[...document.querySelectorAll('th')].map((cell) => cell.offsetHeight))"
    assert browser.js(tallest) < 30
    shown = "document.querySelector('.network [aria-current]').getBoundingClientRect()"
    assert browser.js(f"{shown}.right <= 360 && {shown}.left >= 0")  # its row has followed


def test_long_labels_leave_room_for_the_answers(browser: Browser, tmp_path: Path) -> None:
    metadata = Metadata(labels=tuple(f"{i}{'long ' * 99}{EVIL * 99}" for i in range(6)))
    model = Model(TINY, synthetic_tensors(TINY), metadata)
    write_report(model, "x" * 999, synthetic_image(1, 32, 32), tmp_path / "page.html")
    for width in (360, 1280):
        browser.open((tmp_path / "page.html").as_uri(), width, 800)
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js("document.querySelector('.answers dd').offsetWidth") > 0.2 * width
        assert browser.js("document.querySelector('.answers dt').offsetWidth") > 0.2 * width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, small: str, scheme: str) -> None:
    browser.open(small, prefers_color_scheme=scheme)
    names = ["text", "soft", "link", "bad", "ground", "card", "mark"]
    style = "getComputedStyle(document.documentElement)"
    colours = {name: browser.js(f"{style}.getPropertyValue('--{name}')") for name in names}
    light = {
        name: luminance(tuple(bytes.fromhex(value.strip().removeprefix("#"))))
        for name, value in colours.items()
    }
    pairs = [(ink, paper) for ink in names[:4] for paper in ("ground", "card")]
    for ink, paper in [*pairs, ("bad", "mark"), ("card", "link")]:
        dim, bright = sorted([light[ink], light[paper]])
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)
    assert (light["card"] > light["text"]) == (scheme == "light")
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    rgb = tuple(map(int, re.findall(r"\d+", ground)))
    assert luminance(rgb) == pytest.approx(light["ground"])


def test_reduced_motion_is_respected(browser: Browser, small: str) -> None:
    motion = "getComputedStyle(document.documentElement).scrollBehavior"
    for wish, behaviour in [("no-preference", "smooth"), ("reduce", "auto")]:
        browser.open(small, prefers_reduced_motion=wish)
        assert browser.js(motion) == behaviour


def test_without_scripts_all_parts_show(browser: Browser, small: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(small)
    assert browser.js(SEEN) == ["stem", *(block.name for block in TINY.blocks), "head"]
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_but_the_pages_own_script_runs(
    browser: Browser, tiny: Model, tmp_path: Path
) -> None:
    text = tiny_page(tiny, synthetic_image(1, 32, 32).astype(np.float32), tmp_path)
    hacked = text.replace("<main>", f"<main>{HACK}", 1)  # as if something were not escaped
    (tmp_path / "hacked.html").write_text(hacked, "utf-8")
    browser.open((tmp_path / "hacked.html").as_uri())
    settle(browser)
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.js(SEEN) == ["stem"]
