"""The report page as text: its parts, what it says, and what it does with hostile values."""

import os
import re
import stat
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.pages import EVIL, Page, card_of, pictures_of, tiny_page
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet import Model
from tinymixnet.cli import main
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.traces import record
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, TraceError
from tinymixnet.report import colours, pictures
from tinymixnet.report.data import gather, units
from tinymixnet.report.document import FOLDER
from tinymixnet.report.page import write_report
from tinymixnet.report.steps import steps

# -- parts ----------------------------------------------------------------------------------------


def luminance(colour: tuple[float, ...]) -> float:
    """Of red, green, blue 0..255, by WCAG 2.1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(colour, 255)
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("grey", [False, True])
def test_shades_rise_evenly_in_lightness_and_differences_fall_off_to_both_sides(grey: bool) -> None:
    shades = np.frombuffer(pictures.palette(grey), np.uint8).reshape(-1, 3)
    light = np.array([luminance(tuple(colour)) ** (1 / 3) for colour in shades])
    rising = np.diff(light[pictures.SEQUENTIAL : pictures.SEQUENTIAL + pictures.SHADES])
    assert rising.min() > 0
    if not grey:  # whose first steps from black are larger, by this measure
        assert rising.max() < 3 * rising.mean()
    signed = light[pictures.DIVERGING :]
    middle = pictures.SHADES // 2
    assert (np.diff(signed[: middle + 1]) > 0).all()
    assert (np.diff(signed[middle:]) < 0).all()
    assert len(shades) == pictures.DIVERGING + pictures.SHADES
    assert (np.ptp(shades[1 : pictures.DIVERGING], axis=1) == 0).all() == grey


def test_the_page_has_the_colours_of_the_house() -> None:
    style = (FOLDER / "page.css").read_text("utf-8")
    for name in ("bar", "good", "wrong"):
        used = set(re.findall(rf"--{name}: (#\w+);", style))
        assert used
        assert used <= set(colours.COLOURS), name


@pytest.mark.parametrize(("h", "w"), [(224, 224), (113, 90), (112, 56), (300, 3)])
def test_large_maps_are_averaged(h: int, w: int) -> None:
    maps = np.random.default_rng(0).normal(size=(h, w, 2))
    shrunk = pictures.shrink_maps(maps)
    factor = next(f for f in range(1, 9) if -(-max(h, w) // f) <= pictures.LARGEST)
    assert shrunk.shape == (2, -(-h // factor), -(-w // factor))
    for c in range(2):
        for y in range(0, shrunk.shape[1], 7):
            for x in range(shrunk.shape[2]):
                box = maps[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor, c]
                assert shrunk[c, y, x] == pytest.approx(box.mean())


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


def test_every_layer_belongs_to_a_step_that_says_what_it_is_for(model: Model, folder: Path) -> None:
    data = gather(model, "x", synthetic_image(1, 32, 32))
    for unit in units(model.architecture, 32, 32):
        own = steps(data, unit)
        assert [name for step in own for name in step.layers] == list(unit.layers)
        for step in own:
            assert len(step.purpose) > 40
            assert step.purpose.endswith(".")
    text = (folder / "plain.html").read_text("utf-8")
    titles = Counter(re.findall('class="step"><h3>(.*?)</h3>', text))
    blocks = model.architecture.blocks
    assert titles["Depthwise"] == titles["Project"] == len(blocks)
    assert titles["Expand"] == sum(block.expand_groups > 0 for block in blocks)
    assert titles["Squeeze and excite"] == sum(block.se_width > 0 for block in blocks)
    assert titles["Add the input"] == sum(block.residual for block in blocks)


# -- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "other"])
def test_the_page_is_well_formed_small_and_needs_no_other(folder: Path, name: str) -> None:
    path = folder / f"{name}.html"
    assert path.stat().st_size < 10e6
    text = path.read_text("utf-8")
    assert not re.search("https?:|@import|//[a-z]", text.split("<body>")[0].split("<style>")[0])
    assert "http://" not in text
    assert "https://" not in text
    assert set(re.findall(r"url\((.{5})", text)) == {"data:"}
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for tag, attributes in page.elements:
        source = attributes.get("src") or attributes.get("href") or "#network"
        assert source.startswith(("data:", "#")), tag
        assert not source.startswith("#") or source[1:] in ids
        assert not any(attribute.startswith("on") for attribute in attributes)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(a.get("title") or "Close" in text for a in page.all("button"))
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
    assert links == parts
    assert cards == list(model.architecture.layer_shapes(224, 224))


def test_the_cause_and_the_first_difference_are_named_and_marked(folder: Path) -> None:
    text = (folder / "other.html").read_text("utf-8")
    title = "swish-as-relu: dump first differs at blocks_4/expand_act"
    assert f"<title>{title}</title>" in text
    assert f"<h1>{title}</h1>" in text
    verdict = text.split('aria-label="Comparison"')[1].split("</section>")[0]
    assert verdict.index("swish-as-relu") < verdict.index("First difference: <a href=")
    assert "blocks_4/expand_act: ours, theirs and difference" in verdict
    assert text.count("▲ first") == 1
    assert text.count("first difference</span>") == 1
    assert "theirs is equal" in card_of(text, "blocks_4/expand_conv")
    assert "The channels furthest off: " in card_of(text, "blocks_4/expand_act")


def test_a_dump_without_a_difference(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump")
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    assert "<title>No difference: dump computes what our network computes</title>" in text
    assert "Alike: all" in text
    assert "data-first" not in text


def test_a_mistake_without_a_name(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump")
    run = tiny.layers(pixels)
    layer, x = next(run)
    while True:  # all later layers follow from the noise, or nobody would believe it
        if layer == "stem/bn":
            x = x + np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
        np.save(tmp_path / "dump" / f"{layer}.npy", x)
        try:
            layer, x = run.send(x)  # type: ignore[attr-defined]  # it is a generator
        except StopIteration:
            break
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    assert "<title>dump first differs at stem/bn</title>" in text
    assert '<p class="cause"><b>unknown</b> at <a href="#stem/bn">' in text


def test_numbers_and_pictures_are_those_of_the_layer(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 64, 64).astype(np.float32)
    text = tiny_page(tiny, pixels, tmp_path)
    layers = dict(tiny.layers(pixels))
    for name, x in layers.items():
        cells = re.findall("<td>(.*?)</td>", card_of(text, name))
        *values, zeros = [float(cell.strip("%").replace("−", "-")) for cell in cells]
        expected = [x.min(), x.max(), x.mean(dtype=np.float64), x.std()]
        assert values == pytest.approx(expected, rel=1e-3, abs=1e-7), name
        assert zeros == pytest.approx(100 * (x == 0).mean(), abs=0.051)

    card, x = card_of(text, "blocks_0/output"), layers["blocks_0/output"][0]
    [shades] = pictures_of(card)
    assert shades.shape == (32, 5 * 32)  # five channels of 32 x 32, at their own resolution
    titles = re.findall('title="(.*?)"', card)
    order = np.argsort(-x.reshape(-1, 5).var(0))  # those that vary most first
    for i, channel in enumerate(order):
        values, shown = x[..., channel], shades[:, 32 * i : 32 * i + 32]
        assert (np.diff(shown.ravel()[values.ravel().argsort()].astype(int)) >= 0).all()
        low, high = (f"{end:.4g}".replace("-", "−") for end in (values.min(), values.max()))
        assert titles[i] == f"channel {channel}: {low} to {high}"
    assert np.ptp(shades[:, :32]) > pictures.SHADES // 2


def test_red_green_and_blue_are_grey(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 48, 48).astype(np.float32)
    text = tiny_page(tiny, pixels, tmp_path)
    for name in ("image", "normalize"):
        card = card_of(text, name)
        titles = re.findall('title="(.*?)"', card)
        assert [title.split(":")[0] for title in titles] == ["red", "green", "blue"]
        shades = np.frombuffer(pictures.palette(grey=True), np.uint8).reshape(-1, 3)
        rgb = shades[pictures_of(card)[0]].astype(int)
        assert (np.ptp(rgb, axis=2) == 0).all()
        if name == "image":
            planes = np.split(rgb[..., 0], 3, axis=1)
            for plane, values in zip(planes, pixels[0].transpose(2, 0, 1), strict=True):
                assert np.abs(plane - values).max() < 255 / pictures.SHADES


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
    with_dump = (tmp_path / "page.html").read_text("utf-8")
    write_report(model, evil_name, pixels, tmp_path / "page.html")
    plain = (tmp_path / "page.html").read_text("utf-8")
    # the title twice (the dump's name, or network and image), the caption, the variant, five
    # answers, a name without a place; and five of the classes twice, cut short
    for text, count in ((with_dump, 10), (plain, 11)):
        assert text.count("\\x1b[2J\\n\\x07\\u202e\\u2028\\x9b") == count
        assert text.count("&lt;script&gt;") == count + 10
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
    pictures = "".join(re.findall(r"base64,([\w+/=]+)", text))
    assert all(number in pictures for number in written)


@pytest.mark.filterwarnings("error")
def test_a_network_whose_values_are_not_finite(tmp_path: Path) -> None:
    tensors = synthetic_tensors(TINY)
    for name in ("head/conv/kernel", "logits/kernel"):  # finite, but what they give is not
        tensors[name] = np.full_like(tensors[name], 1e30)
    text = tiny_page(Model(TINY, tensors), synthetic_image(1, 32, 32), tmp_path)
    Page(text)
    assert "∞" in text or "nan" in text


def test_ten_thousand_names_without_a_place(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(1, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump", ("logits",))
    dump = open_dump(tmp_path / "dump", TINY, 1, 32, 32)
    dump.unmatched = {f"{i}{'x' * 12_000}{i}": None for i in range(10_000)}
    started = time.thread_time()  # other programs do not change it
    write_report(tiny, "y" * 12_000, pixels, tmp_path / "page.html", dump)
    assert time.thread_time() - started < 10
    text = (tmp_path / "page.html").read_text("utf-8")
    assert len(text) < 3e6
    assert re.search("more</li>", text)
    assert max(map(len, re.findall("[xy]+", text))) < 200


def test_a_large_picture_is_shown_small(tiny: Model, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 3000, 3), np.uint8)
    text = tiny_page(tiny, noise, tmp_path)
    photo = text.split(".photo{")[1].split("}")[0]
    assert pictures_of(photo)[0].shape == (5, 448, 3)


def test_only_the_image_that_is_shown_is_computed(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, layers = [], Model.layers
    monkeypatch.setattr(Model, "layers", lambda s, x: batches.append(len(x)) or layers(s, x))
    text = tiny_page(tiny, synthetic_image(5, 32, 32), tmp_path)
    assert set(batches) == {1}
    assert "the first of 5 images" in text


def test_each_layer_is_shown_for_the_image_that_differs_most(tiny: Model, tmp_path: Path) -> None:
    pixels = synthetic_image(3, 32, 32).astype(np.float32)
    record(tiny, pixels, tmp_path / "dump")
    stored = np.load(tmp_path / "dump" / "stem" / "conv.npy")
    stored[2, 5, 7, 3] += 50
    np.save(tmp_path / "dump" / "stem" / "conv.npy", stored)
    text = tiny_page(tiny, pixels, tmp_path, tmp_path / "dump")
    card = card_of(text, "stem/conv")
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
    assert "not in the other" in card_of(text, "stem/conv")
    card = card_of(text, "blocks_1/output")
    assert "error <b>∞</b>" in card
    assert (pictures_of(card)[-1] == pictures.BROKEN).any()


# -- what is at the page's place already ----------------------------------------------------------


def test_an_earlier_page_is_replaced(tiny: Model, tmp_path: Path) -> None:
    first = tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
    second = tiny_page(tiny, synthetic_image(1, 32, 40), tmp_path)
    assert "32 × 32 pixels" in first
    assert "32 × 40 pixels" in second
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<html><title>mine</title>", b"\xff" * 99]
)
def test_the_file_of_somebody_else_is_kept(tiny: Model, tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(content)
    pixels = synthetic_image(1, 32, 32)
    with pytest.raises(InputError, match=r"page\.html: ") as caught:
        write_report(tiny, "x", pixels, place)
    assert "\n" not in str(caught.value)
    assert place.read_bytes() == content
    with pytest.raises(InputError, match="input"):
        write_report(tiny, "x", pixels, place, inputs=[place], force=True)
    assert place.read_bytes() == content
    write_report(tiny, "x", pixels, place, force=True)
    Page(place.read_text("utf-8"))


def test_the_photo_and_the_dump_are_kept(tmp_path: Path, capsys) -> None:
    photo, dump = tmp_path / "photo.png", tmp_path / "dump"
    Image.fromarray(synthetic_image(1, 64, 64)[0]).save(photo)
    assert main(["trace", str(photo), "-o", str(dump), "--layers", "logits"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = [photo, dump, *dump.iterdir(), tmp_path / "." / "dump" / ".." / "photo.png"]
    for output in places:
        for force in ([], ["--force"]):
            if force and output.parent == dump:
                continue  # its files are no inputs by name; --force is for such
            capsys.readouterr()
            assert main(["report", str(photo), str(dump), "-o", str(output), *force]) == 2
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
    before = identity(page)
    with pytest.raises(InputError, match=r"page\.html: "):
        tiny_page(tiny, synthetic_image(1, 32, 32), tmp_path)
    assert identity(page) == before


def identity(path: Path) -> tuple[int, ...]:
    """What a file is and when it was changed, not when it was read: following a link reads it."""
    found = path.lstat()
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


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
