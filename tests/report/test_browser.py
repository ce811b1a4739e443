"""The report page in a real browser: what is seen, clicked, hovered, tapped and typed."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.report.pages import EVIL, HACK, tiny_page
from tests.report.test_report import luminance
from tests.support.chromium import Browser
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model
from tinymixnet.engine.metadata import Metadata
from tinymixnet.report.page import write_report

SEEN = (
    "[...document.querySelectorAll('.panel')].filter((p) => p.checkVisibility()).map((p) => p.id)"
)
FOCUS = "document.activeElement.dataset.part"
MAPS = '[id="blocks_4/expand_conv"] .plain'  # tiles of a layer of 28 x 28 pixels
SMALLEST_TEXT = """
(() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const small = {};
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, title, svg title")) {
      continue;
    }
    const size = parseFloat(getComputedStyle(element).fontSize);
    if (size < 12) small[element.outerHTML.slice(0, 80)] = size;
  }
  return small;
})()
"""


def settle(browser: Browser) -> None:
    """Let the events of the last click or key arrive."""
    browser.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")


def open_calmly(
    browser: Browser, page: Path, place: str = "", width: int = 1280, height: int = 900
) -> None:
    """Open a page that scrolls at once, so that things are where they will stay."""
    browser.open(page.as_uri() + place, width, height, prefers_reduced_motion="reduce")


def open_and_find_nothing_wrong(
    browser: Browser, page: Path, width: int = 1280, **media: str
) -> None:
    """Open a page; it fetches nothing, all its pictures show, and the browser has no complaint."""
    browser.open(page.as_uri(), width, **media)
    pictures = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.js(pictures) == 0
    settle(browser)
    urls = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]
    bad = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in bad] == []


def middle(browser: Browser, selector: str) -> tuple[float, float]:
    """Scroll to an element, and say where its middle is then."""
    find = f"document.querySelector({selector!r})"
    browser.js(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y = browser.js(
        f"(() => {{ const r = {find}.getBoundingClientRect();"
        "return [r.left + r.width / 2, r.top + r.height / 2]; })()"
    )
    return x, y


def point_at(browser: Browser, selector: str) -> None:
    """Move the mouse over the middle of an element."""
    x, y = middle(browser, selector)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    settle(browser)


def tap(browser: Browser, selector: str) -> None:
    """Tap at the middle of an element with a finger."""
    x, y = middle(browser, selector)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.js("new Promise((done) => setTimeout(done, 500))")  # the second tap does not come
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


# -- parts ----------------------------------------------------------------------------------------


def test_a_click_shows_a_block_and_keeps_the_drawing_in_sight(
    browser: Browser, folder: Path
) -> None:
    for width, height in ((1280, 900), (390, 844)):
        open_calmly(browser, folder / "plain.html", "", width, height)
        assert browser.js(SEEN) == ["stem"]
        for part in ("blocks_3", "head", "blocks_17"):
            browser.click(f"nav.network a[data-part={part}]")
            settle(browser)
            assert browser.js(SEEN) == [part]
            assert browser.js("location.hash") == f"#{part}"
            current = "[...document.querySelectorAll('[aria-current]')].map((a) => a.dataset.part)"
            assert browser.js(current) == [part]
            for scrolled in (0, 700):
                browser.js(f"scrollBy({{top: {scrolled}, behavior: 'instant'}})")
                settle(browser)
                # the boxes' names are in the window, above the panel, and can be clicked
                name = browser.js(
                    f"(() => {{ const r = document.querySelector('[data-part={part}] .name')"
                    ".getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })()"
                )
                assert 0 <= name[0] < name[2] <= width
                assert 0 < name[1] < name[3] < height / 3
                hit = f"document.elementFromPoint({name[0] + 3}, {name[1] + 5})"
                assert browser.js(f"{hit}.closest('a').dataset.part") == part
            browser.js("scrollBy({top: -700, behavior: 'instant'})")
            title = f"document.getElementById('{part}-title').getBoundingClientRect().top"
            kept = "document.querySelector('.network').getBoundingClientRect().bottom"
            assert browser.js(kept) <= browser.js(title) < height / 2
    browser.click("#blocks_17 a[rel=prev]")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_16"]
    browser.js("history.back()")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_17"]


def test_the_keyboard_goes_from_block_to_block(browser: Browser, folder: Path) -> None:
    browser.open((folder / "plain.html").as_uri() + "#blocks_4")
    assert browser.js(SEEN) == ["blocks_4"]
    browser.press("ArrowRight")
    assert browser.js(SEEN) == ["blocks_5"]
    browser.press("ArrowLeft")
    assert browser.js(SEEN) == ["blocks_4"]

    browser.open((folder / "plain.html").as_uri())
    browser.press("Tab")
    assert browser.js("document.activeElement.localName") == "summary"
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
        browser.js(f"document.querySelector('.network [data-part={part}]').focus()")
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


def test_the_page_opens_on_the_first_difference(browser: Browser, folder: Path) -> None:
    browser.open((folder / "other.html").as_uri(), prefers_reduced_motion="reduce")
    assert browser.js("scrollY") == 0
    assert browser.js("document.title").startswith("swish-as-relu: ")
    assert browser.js(SEEN) == ["blocks_4"]
    # the cause, and ours beside theirs, are in the window already
    for place in (".cause b", ".verdict .trio button"):
        bottom = f"document.querySelector('{place}').getBoundingClientRect().bottom"
        assert 0 < browser.js(bottom) < 900
    browser.click(".verdict h3 a")
    settle(browser)
    assert browser.js(SEEN) == ["blocks_4"]
    assert browser.js("location.hash") == "#blocks_4/expand_act"
    top = "document.getElementById('blocks_4/expand_act').getBoundingClientRect().top"
    assert 0 < browser.js(top) < 450


def test_how_to_read_the_page_is_one_click_away(browser: Browser, folder: Path) -> None:
    browser.open((folder / "other.html").as_uri(), 390, 844)
    assert (
        browser.js("document.querySelector('.help summary').getBoundingClientRect().bottom") < 400
    )
    assert not browser.js("document.querySelector('.help p').checkVisibility()")
    browser.click(".help summary")
    settle(browser)
    assert browser.js("document.querySelector('.help p').checkVisibility()")
    assert browser.js("document.documentElement.scrollWidth") <= 390


# -- maps -----------------------------------------------------------------------------------------


def test_maps_are_as_large_as_the_photo(browser: Browser, folder: Path) -> None:
    for width in (1280, 390):
        browser.open((folder / "plain.html").as_uri() + "#blocks_4", width)
        sizes = browser.js(
            "[...document.querySelectorAll('#blocks_4 .maps:not(.kernels, .flat)')].map((m) =>"
            "[m.querySelector('.photo'), ...m.querySelectorAll('.tiles button')].map((e) => {"
            "const r = e.getBoundingClientRect(); return [r.width, r.height]; }))"
        )
        assert len(sizes) > 5
        for photo, *maps in sizes:
            assert len(maps) >= 8
            np.testing.assert_allclose(maps, [photo] * len(maps), atol=0.5)
            assert photo[0] >= 70


def test_each_tile_shows_its_own_map(browser: Browser, folder: Path) -> None:
    """The pieces of the picture that the tiles show are side by side, in order, without gaps."""
    browser.open((folder / "plain.html").as_uri() + "#blocks_4")
    shown = browser.js(
        f"[...document.querySelectorAll('{MAPS} button')].map((b) => {{"
        "const s = getComputedStyle(b); return [s.backgroundImage.slice(0, 19), s.backgroundSize,"
        "parseFloat(s.backgroundPositionX)]; })"
    )
    assert len(shown) == 24
    assert {(image, size) for image, size, _ in shown} == {('url("data:image/png', "2400% 100%")}
    np.testing.assert_allclose([x for *_, x in shown], np.linspace(0, 100, 24), atol=0.01)


def test_pointing_at_a_map_names_its_channel_and_range(browser: Browser, folder: Path) -> None:
    open_calmly(browser, folder / "plain.html", "#blocks_4")
    line = "document.querySelector('[id=\"blocks_4/expand_conv\"] output').textContent"
    assert browser.js(line) == ""
    point_at(browser, f"{MAPS} button:nth-of-type(3)")
    title = browser.js(f"document.querySelector('{MAPS} button:nth-of-type(3)').title")
    assert re.fullmatch(r"channel \d+: −?[\d.e−+]+ to −?[\d.e−+]+", title)
    assert browser.js(line) == title
    point_at(browser, '[id="blocks_4/expand_conv"] h4')
    point_at(browser, '[id="blocks_4/expand_conv"] figcaption')
    assert browser.js(line) == ""
    assert not browser.js("document.querySelector('dialog').open")


@pytest.mark.parametrize("how", ["click", "tap"])
def test_a_click_enlarges_a_map_beside_the_photo(browser: Browser, folder: Path, how: str) -> None:
    width = 1280 if how == "click" else 390
    open_calmly(browser, folder / "plain.html", "#blocks_4", width, 844)
    tile = f"{MAPS} button:nth-of-type(5)"
    if how == "tap":
        tap(browser, tile)
    else:
        browser.click(tile)
    settle(browser)
    assert browser.js("document.querySelector('dialog').open")
    captions = "[...document.querySelectorAll('dialog figcaption')].map((c) => c.textContent)"
    titles = browser.js(f"[...document.querySelectorAll('{MAPS} button')].map((b) => b.title)")
    assert browser.js(captions) == ["the photo", titles[4]]
    line = "document.querySelector('[id=\"blocks_4/expand_conv\"] output').textContent"
    assert browser.js(line) == titles[4]
    small = browser.js(f"document.querySelector('{tile}').getBoundingClientRect().width")
    sizes = browser.js(
        "[...document.querySelectorAll('dialog .photo, dialog .large')].map((e) => {"
        "const r = e.getBoundingClientRect(); return [r.width, r.height]; })"
    )
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > 3 * small
    assert browser.js("document.documentElement.scrollWidth") <= width
    dialog = "document.querySelector('dialog')"
    assert browser.js(f"{dialog}.scrollHeight <= {dialog}.clientHeight")  # all of it is in sight
    assert browser.js("document.querySelector('dialog form button').offsetHeight") < 50
    image = "(s) => getComputedStyle(document.querySelector(s)).backgroundImage"
    assert browser.js(f"({image})('dialog .large') === ({image})('{tile}')")
    place = "(s) => getComputedStyle(document.querySelector(s)).backgroundPosition"
    assert browser.js(f"({place})('dialog .large') === ({place})('{tile}')")
    browser.press("ArrowRight")
    assert browser.js(captions) == ["the photo", titles[5]]
    assert browser.js(SEEN) == ["blocks_4"]
    browser.press("Escape")
    settle(browser)
    assert not browser.js("document.querySelector('dialog').open")
    assert browser.js("document.activeElement.title") == titles[5]


def test_the_keyboard_names_and_enlarges_maps(browser: Browser, folder: Path) -> None:
    browser.open((folder / "other.html").as_uri() + "#blocks_4/expand_act")
    tiles = '[id="blocks_4/expand_act"] .trios'
    browser.js(f"document.querySelector('{tiles} button').focus()")
    line = (
        f"document.querySelector('{tiles}').closest('figure').querySelector('output').textContent"
    )
    assert browser.js(line).startswith("ours, channel ")
    browser.press("ArrowRight")
    assert browser.js(line).startswith("theirs, channel ")
    browser.press("Enter")
    settle(browser)
    captions = "[...document.querySelectorAll('dialog figcaption')].map((c) => c.textContent)"
    words = [text.split(",")[0] for text in browser.js(captions)]
    assert words == ["the photo", "ours", "theirs", "difference"]
    browser.press("Escape")
    settle(browser)
    browser.press("Tab")  # one press leaves all the maps of a group
    assert not browser.js(f"document.activeElement.closest('{tiles}')")


# -- how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "other"])
def test_nothing_is_fetched_and_nothing_goes_wrong(
    browser: Browser, folder: Path, name: str
) -> None:
    open_and_find_nothing_wrong(browser, folder / f"{name}.html")


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
    shown = "document.querySelector('.network [aria-current]').getBoundingClientRect()"
    assert browser.js(f"{shown}.right <= 360 && {shown}.left >= 0")  # its row has followed


@pytest.mark.parametrize("width", [360, 1280])
def test_headers_of_tables_stay_on_one_line(browser: Browser, folder: Path, width: int) -> None:
    browser.open((folder / "other.html").as_uri(), width, 800)
    browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.js("document.querySelectorAll('.panel').forEach((p) => { p.hidden = false; })")
    heights = browser.js("[...document.querySelectorAll('th')].map((cell) => cell.offsetHeight)")
    assert len(heights) > 800
    assert 0 < min(heights) <= max(heights) < 36
    cut = "[...document.querySelectorAll('th')].filter((c) => c.scrollWidth > c.offsetWidth + 1)"
    assert browser.js(f"{cut}.length") == 0
    assert browser.js("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["plain", "other"])
def test_no_text_is_smaller_than_12_pixels(
    browser: Browser, folder: Path, name: str, width: int
) -> None:
    browser.open((folder / f"{name}.html").as_uri(), width, 800)
    assert browser.js(SMALLEST_TEXT) == {}
    # and the drawing is not scaled down
    scale = "(s) => s.getBoundingClientRect().width / s.viewBox.baseVal.width"
    assert browser.js(f"({scale})(document.querySelector('.network svg'))") == pytest.approx(1)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_figure_of_a_meter_stands_beside_its_bar(
    browser: Browser, folder: Path, width: int
) -> None:
    browser.open((folder / "other.html").as_uri(), width, 800)
    ends = browser.js(
        "[...document.querySelectorAll('.answers .meter')].map((m) => [m.querySelector('span')"
        ".getBoundingClientRect().right, m.querySelector('b').getBoundingClientRect().left])"
    )
    assert len(ends) == 10
    assert all(bar <= text for bar, text in ends)


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
    for ink, paper in [*pairs, ("bad", "mark")]:
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
    assert browser.js("document.querySelector('dialog').offsetHeight") == 0
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_but_the_pages_own_script_runs(
    browser: Browser, tiny: Model, tmp_path: Path
) -> None:
    text = tiny_page(tiny, synthetic_image(1, 32, 32).astype(np.float32), tmp_path)
    hacked = text.replace("<main>", f"<main>{HACK}", 1)  # as if something were not escaped
    assert hacked != text
    (tmp_path / "hacked.html").write_text(hacked, "utf-8")
    browser.open((tmp_path / "hacked.html").as_uri())
    settle(browser)
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.js(SEEN) == ["stem"]
