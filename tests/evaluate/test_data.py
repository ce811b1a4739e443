"""What DATA is: every layout gives the same photos and classes, and hostile ones do no harm."""

import io
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.conftest import NUMBERS
from tests.support.photo_sets import as_flat, as_folders, as_npz, as_tar, name_of
from tests.support.sweep import number
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, TinyMixNetError
from tinymixnet.evaluate import arrange as module
from tinymixnet.evaluate.data import Photo, in_fair_order, open_data
from tinymixnet.evaluate.imagenet import imagenet_classes
from tinymixnet.evaluate.tar import read_tar

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.fixture
def opened(model):
    return lambda path, table=None: open_data(path, model.metadata, model.labels, table)


def truths_of(data):
    """For each photo's own name the class."""
    return {os.path.basename(photo.file): photo.truth for photo in data.photos}


@pytest.fixture
def expected(photos):
    return {name_of(i): photo.truth for i, photo in enumerate(photos)}


# -- layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["wordnet_ids", "labels", "imagenet_indices", "numbers"])
@pytest.mark.parametrize("form", ["folder", "tar", "tar in a folder"])
def test_class_folders(tmp_path, opened, model, photos, expected, names, form):
    of_class = range(6) if names == "numbers" else getattr(model.metadata, names)
    path = as_folders(photos, tmp_path / "val", {i: str(n) for i, n in enumerate(of_class)})
    if form != "folder":
        path = as_tar(path, tmp_path / "val.tar", "val/" if "in" in form else "./")
    data = opened(path)
    assert truths_of(data) == expected
    assert data.left_out == ()
    assert data.kind.endswith("of class folders")
    for photo in data.photos[:3]:
        content = data.read(photo.file)
        content = content if isinstance(content, bytes) else Path(content).read_bytes()
        number = int(photo.file.rsplit("_", 1)[1][:8]) - 1
        assert content == photos[number].content
        assert photo.size == len(content)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("labels.txt", "{file} {id}"),
        ("labels.txt", "{file}\t{label}"),
        ("labels.txt", "{file} {label}"),
        ("val.txt", "{file} {index}"),
        ("labels.csv", '"{file}","{label}"\r'),
        ("labels.csv", "./{file},{id}"),
        ("labels.tsv", "{file}\t{id}\t0\t0\t63\t63"),
    ],
)
@pytest.mark.parametrize("tar", [False, True])
def test_a_table_of_classes(tmp_path, opened, model, photos, expected, table, line, tar):
    path = as_flat(photos, tmp_path / "val", table, line, model.metadata)
    if tar:
        path = as_tar(path, tmp_path / "val.tar")
    data = opened(path)
    assert truths_of(data) == expected
    assert table in data.kind


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("file,class", "{file},{id}"),
        ("class,file", "{id},{file}"),
        ("ImageId,PredictionString", "{stem},{id} 1 2 3 4 {id} 5 6 7 8"),
        ("Image Path,what it is", "{file},{id}"),
        ("what it is,file", "{id},{file}"),
        ("label,which", "{id},{file}"),
        ("which,what,why", "{file},{id},x"),
    ],
)
def test_tables_with_a_first_row_of_names(tmp_path, opened, model, photos, expected, header, line):
    as_flat(photos, tmp_path / "val", "unused.txt", "", model.metadata)
    rows = [
        line.format(file=name, stem=name.split(".")[0], id=model.metadata.wordnet_ids[truth])
        for name, truth in expected.items()
    ]
    table = tmp_path / "truths.csv"
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([header, *rows]).encode())
    assert truths_of(opened(tmp_path / "val", table)) == expected


@pytest.mark.parametrize("place", ["inside", "beside", "development kit", "named"])
@pytest.mark.parametrize("tar", [False, True])
def test_imagenets_ground_truth(tmp_path, opened, model, photos, expected, place, tar):
    as_flat(photos, tmp_path / "val", "unused.bin", "", model.metadata)
    lines = [str(imagenet_classes()[NUMBERS[photo.truth]].ilsvrc2012_id) for photo in photos]
    folder = {
        "inside": tmp_path / "val",
        "beside": tmp_path,
        "development kit": tmp_path / "ILSVRC2012_devkit_t12" / "data",
        "named": tmp_path / "elsewhere",
    }[place]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GROUND_TRUTH).write_text("\n".join(lines))
    path = as_tar(tmp_path / "val", tmp_path / "val.tar") if tar else tmp_path / "val"
    data = opened(path, folder / GROUND_TRUTH if place == "named" else None)
    assert truths_of(data) == expected
    assert data.understood == "WordNet ids"


def test_tiny_imagenets_own_validation_folder(tmp_path, opened, model, photos, expected):
    as_flat(photos, tmp_path / "images", "x.txt", "", model.metadata)
    os.remove(tmp_path / "images" / "x.txt")
    ids = model.metadata.wordnet_ids
    lines = [f"{name}\t{ids[truth]}\t0\t32\t44\t62" for name, truth in expected.items()]
    (tmp_path / "val_annotations.txt").write_text("\n".join(lines))
    assert truths_of(opened(tmp_path)) == expected


def test_an_npz(tmp_path, opened, photos):
    data = opened(as_npz(photos, tmp_path / "p.npz"))
    assert {int(photo.file): photo.truth for photo in data.photos} == {
        i: photo.truth for i, photo in enumerate(photos)
    }
    assert data.read("3") == photos[3].content


def test_classes_that_the_weights_do_not_know_are_left_out_with_a_word(
    tmp_path, opened, model, photos, expected
):
    names = dict(enumerate(model.metadata.wordnet_ids)) | {2: "n01440764", 4: "n01443537"}
    data = opened(as_folders(photos, tmp_path / "val", names))
    assert truths_of(data) == {n: t for n, t in expected.items() if t not in (2, 4)}
    left = sum(t in (2, 4) for t in expected.values())
    assert data.left_out == (
        f"2 classes that these weights do not know ({left} photos): n01440764, n01443537",
    )


def test_what_is_no_photo_is_left_out_with_a_word(tmp_path, opened, photos, expected):
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "empty").mkdir()
    (path / "0" / "notes.txt").write_text("x")
    (path / "lists").mkdir()
    (path / "lists" / "boxes.xml").write_text("x")
    (path / ".hidden").mkdir()
    (path / "loose.jpg").write_bytes(photos[0].content)
    data = opened(path)
    assert truths_of(data) == expected
    assert set(data.left_out) == {
        "1 photo beside the class folders",
        "2 folders without photos: empty, lists",
        "2 files without a photo's ending (.txt, .xml)",
    }


def test_a_folder_that_cannot_be_read_is_named(tmp_path, opened, photos, expected, monkeypatch):
    """Root may read every folder, so what the system says is made up here."""
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "secret").mkdir()
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    data = opened(path)
    assert truths_of(data) == expected
    assert data.left_out == ("1 folder that cannot be read: secret",)


@pytest.mark.parametrize("content", ["goldfish\ntench\n", "x.jpg 0\n", ""])
def test_a_list_of_labels_beside_class_folders_is_no_table(
    tmp_path, opened, photos, expected, content
):
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "labels.txt").write_text(content)
    data = opened(path)
    assert truths_of(data) == expected
    assert data.left_out == ("1 file without a photo's ending (.txt)",)


# -- the order -------------------------------------------------------------------------------------


def test_the_beginning_is_a_fair_sample():
    photos = [Photo(f"{t}/{i}.jpg", 1, t) for t in range(20) for i in range(50 if t else 10)]
    ordered = in_fair_order(photos)
    assert sorted(ordered) == sorted(photos)
    assert in_fair_order(reversed(photos)) == ordered
    for limit in (96, 192, 480):
        counts = [sum(photo.truth == t for photo in ordered[:limit]) for t in range(20)]
        share = limit / len(photos)
        assert all(abs(n - share * 50) <= 1 for n in counts[1:])
        assert abs(counts[0] - share * 10) <= 1


def test_the_order_does_not_follow_the_names():
    photos = [Photo(f"{i:03}.jpg", 1, 0) for i in range(100)]
    first = sorted(int(photo.file[:3]) for photo in in_fair_order(photos)[:20])
    assert first[0] < 30
    assert first[-1] > 70


def test_the_hash_says_names_sizes_and_classes(tmp_path, opened, model, photos):
    numbers = {i: str(i) for i in range(6)}
    first = opened(as_folders(photos, tmp_path / "a", numbers))
    assert opened(as_folders(photos, tmp_path / "b", numbers)).hash() == first.hash()
    path = tmp_path / "b" / first.photos[0].file
    path.write_bytes(path.read_bytes() + b"more")
    assert opened(tmp_path / "b").hash() != first.hash()


# -- hostile and wrong -----------------------------------------------------------------------------


def refused(opened, path, *words, table=None):
    with pytest.raises(InputError) as caught:
        opened(path, table)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message, message
    return message


def test_links_that_run_in_circles(tmp_path, opened, photos, expected):
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "0" / "again").symlink_to(path)
    (path / "1" / "self").symlink_to("self")
    (path / "2" / "x.jpg").symlink_to("x.jpg")
    data = opened(path)
    extra = {os.path.basename(p.file) for p in data.photos} - set(expected)
    assert extra == {"x.jpg"}  # a photo that cannot be read
    assert data.left_out == (
        "1 link to a folder that is listed already",
        "1 file without a photo's ending (no ending)",
    )


def test_class_folders_that_are_links(tmp_path, opened, photos, expected):
    as_folders(photos, tmp_path / "real", {i: str(i) for i in range(6)})
    (tmp_path / "val").mkdir()
    for i in range(6):
        (tmp_path / "val" / str(i)).symlink_to(tmp_path / "real" / str(i))
    assert truths_of(opened(tmp_path / "val")) == expected


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "a\x1b[31m.jpg", "\udcff.jpg", "a b  c.jpg", "'\".jpg"]
)
def test_names_of_any_characters(tmp_path, opened, model, photos, name):
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    (path / "3" / name).write_bytes(photos[0].content)
    [photo] = [p for p in opened(path).photos if p.file == f"3/{name}"]
    assert opened(as_tar(path, tmp_path / "val.tar")).hash() != opened(path).hash()
    results = model.evaluate(path, tmp_path / "r.jsonl", workers=1)
    assert photo.file in results.predictions["file"].tolist()
    assert model.evaluate(path, tmp_path / "r.jsonl").photos == len(photos) + 1


def test_nothing_to_evaluate(tmp_path, opened):
    refused(opened, tmp_path / "none", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(opened, tmp_path / "empty", "no photos in it", "expected a folder or .tar")
    (tmp_path / "empty" / "0").mkdir()
    refused(opened, tmp_path / "empty", "no photos in it")
    (tmp_path / "x.jpg").write_bytes(b"")
    refused(opened, tmp_path / "x.jpg", "not a file of photos")
    os.mkfifo(tmp_path / "pipe")
    refused(opened, tmp_path / "pipe", "is a pipe")
    refused(opened, "/dev/zero", "device")
    refused(opened, f"{tmp_path}/a\0b", "null byte")
    refused(opened, "", "expected a path")
    refused(opened, 3, "expected a path")


def test_photos_without_a_table(tmp_path, opened, photos):
    (tmp_path / "x.jpg").write_bytes(photos[0].content)
    refused(opened, tmp_path, "no table of their classes", "labels.txt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"a.jpg\n", "found 'a.jpg'"),
        (b"a.jpg,0\na.jpg,1\n", "stands there twice, as 0 and as 1"),
        (b"x.jpg,0\n", "names no photo"),
        (b"a.jpg,0\nb.jpg\n", "found 'b.jpg'"),
        (b"a.jpg,\n", "no class"),
        (b'a.jpg,"0', "unexpected end"),
        (b"name\na.jpg,zebras\n", "none of 1 class"),
        (b"a.jpg,zebras\n", "none of 1 class"),
        (b"\xff\xfea", "labels.csv"),
        (b"a.jpg," + b"x" * 200_000, "labels.csv"),
    ],
)
def test_tables_that_are_wrong(tmp_path, opened, photos, content, words):
    (tmp_path / "a.jpg").write_bytes(photos[0].content)
    (tmp_path / "labels.csv").write_bytes(content)
    if content == b'a.jpg,"0':  # the csv module takes it as it is
        assert opened(tmp_path).photos[0].truth == 0
        return
    refused(opened, tmp_path, words)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg maillot, tank suit\nb.jpg sandal\n",
        "a.jpg\tmaillot, tank suit\nb.jpg\tsandal\n",
        'a.jpg,"maillot, tank suit"\r\nb.jpg,sandal\r\n',
        "b.jpg;sandal\n\na.jpg;maillot, tank suit\n\n",
    ],
)
def test_labels_with_commas_and_spaces(tmp_path, photos, text):
    labels = ("maillot, tank suit", "sandal")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photos[0].content)
    (tmp_path / "labels.txt").write_text(text)
    data = open_data(tmp_path, Metadata(labels=labels), labels)
    assert {photo.file: photo.truth for photo in data.photos} == {"a.jpg": 0, "b.jpg": 1}


def test_files_of_a_table_that_are_not_there(tmp_path, opened, photos):
    (tmp_path / "a.jpg").write_bytes(photos[0].content)
    (tmp_path / "b.jpg").write_bytes(photos[0].content)
    (tmp_path / "labels.csv").write_text("a.jpg,0\n../../etc/passwd,1\n/etc/c.jpg,1\n")
    data = opened(tmp_path)
    assert [photo.file for photo in data.photos] == ["a.jpg"]
    assert data.left_out == (
        "2 photos of the table that were not found: ../../etc/passwd, /etc/c.jpg",
        "1 photo that the table does not name",
    )


@pytest.mark.parametrize("before", ["val/", "./", "C:\\photos\\val\\", "/data/imagenet/val/"])
def test_a_table_that_names_folders_around_data(tmp_path, opened, photos, before):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photos[0].content)
    (tmp_path / "labels.txt").write_text(f"{before}a.jpg 0\n{before}b 1\n{before}c.jpg 1\n")
    data = opened(tmp_path)
    assert truths_of(data) == {"a.jpg": 0, "b.jpg": 1}
    assert data.left_out == (f"1 photo of the table that were not found: {before}c.jpg",)


def test_a_table_never_takes_the_photo_of_another_folder(tmp_path, opened, photos):
    path = as_folders(photos[:1], tmp_path / "val", dict.fromkeys(range(6), "one"))
    [file] = [file.name for file in path.rglob("*.JPEG")]
    (path / "labels.csv").write_text(f"other/{file},1\none/{file},0\n")
    assert truths_of(opened(path)) == {file: 0}


def test_two_tables(tmp_path, opened, photos):
    for name in ("a.jpg", "labels.csv", "labels.txt"):
        (tmp_path / name).write_bytes(b"a.jpg,0")
    refused(opened, tmp_path, "two tables", "labels.txt and labels.csv", "--labels")
    assert opened(tmp_path, tmp_path / "labels.csv").photos[0].truth == 0
    refused(opened, tmp_path, "is a folder", table=tmp_path)
    refused(opened, tmp_path, "no such file", table=tmp_path / "none.csv")


def test_a_huge_table(tmp_path, opened, photos, monkeypatch):
    monkeypatch.setattr("tinymixnet.evaluate.tables.LARGEST_TABLE", 100)
    monkeypatch.setattr(module, "LARGEST_TABLE", 100)
    (tmp_path / "a.jpg").write_bytes(photos[0].content)
    (tmp_path / "labels.txt").write_text("a.jpg 0\n" * 100)
    refused(opened, tmp_path, "at most 100 are read")


@pytest.mark.parametrize("line", ["0", "1001", "-1", "x", "1.5"])
def test_a_ground_truth_that_is_wrong(tmp_path, opened, photos, line):
    (tmp_path / name_of(0)).write_bytes(photos[0].content)
    (tmp_path / GROUND_TRUTH).write_text(line)
    refused(opened, tmp_path, GROUND_TRUTH, "from 1 to 1000")


def test_a_ground_truth_with_too_few_lines(tmp_path, opened, photos):
    (tmp_path / name_of(5)).write_bytes(photos[0].content)
    (tmp_path / GROUND_TRUTH).write_text("1\n2\n")
    refused(opened, tmp_path, "2 lines, none for ILSVRC2012_val_00000006.JPEG")


# -- .tar ------------------------------------------------------------------------------------------


def tar(path, members, ending=True, **options):
    """Write a .tar of (name, content) and of whole TarInfos."""
    with tarfile.open(path, "w", **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_tar_with_everything_that_could_lead_elsewhere(tmp_path, opened, photos):
    content = photos[0].content
    path = tar(
        tmp_path / "x.tar",
        [
            ("/0/absolute.jpg", content),
            ("../0/above.jpg", content),
            ("1/../../0/inner.jpg", content),
            special("1/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            special("1/hard.jpg", tarfile.LNKTYPE, "0/absolute.jpg"),
            special("1/device.jpg", tarfile.CHRTYPE),
            special("1/fifo.jpg", tarfile.FIFOTYPE),
            special("1/", tarfile.DIRTYPE),
            ("1/twice.jpg", b"first"),
            ("1/twice.jpg", content),
            ("1/._twice.jpg", b"of a Mac"),
        ],
    )
    data = opened(path)
    assert {photo.file for photo in data.photos} == {"0/absolute.jpg", "1/twice.jpg"}
    assert data.read("1/twice.jpg") == content
    assert set(data.left_out) == {
        "4 files of another kind (link, device, sparse file)",
        "2 files with .. in the name",
        "1 file replaced by a later one of the same name",
    }


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_is_compressed(tmp_path, opened, photos, mode):
    with tarfile.open(tmp_path / "x.tar.gz", mode) as archive:
        archive.add(__file__, "0/x.jpg")
    refused(opened, tmp_path / "x.tar.gz", "is compressed", "unpack it with")


def test_a_tar_that_is_cut_off(tmp_path, opened, photos):
    content = photos[0].content
    whole = tar(tmp_path / "x.tar", [(f"0/{i}.jpg", content) for i in range(4)]).read_bytes()
    size = 512 + len(content) + -len(content) % 512
    for cut in [*range(1, 4 * size, 177), size, 2 * size, 4 * size]:
        (tmp_path / "x.tar").write_bytes(whole[:cut])
        refused(opened, tmp_path / "x.tar", "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[: 4 * size + 512])
    assert len(opened(tmp_path / "x.tar").photos) == 4


def test_a_tar_that_is_damaged(tmp_path, opened, photos):
    content = photos[0].content
    whole = bytearray(tar(tmp_path / "x.tar", [("0/a.jpg", content)] * 3).read_bytes())
    size = 512 + len(content) + -len(content) % 512
    whole[size + 100] ^= 1  # in the second header
    (tmp_path / "x.tar").write_bytes(whole)
    refused(opened, tmp_path / "x.tar", "damaged")


@pytest.mark.parametrize(
    "number", [b"\xff" * 11 + b"\0", b"-0000002000\0", b"00000000009\0", b"x" * 12]
)
def test_a_tar_with_an_impossible_size(tmp_path, opened, number):
    """A negative one would send tarfile back to the start for ever (CVE-2025-8194)."""
    block = bytearray(tarfile.TarInfo("0/a.jpg").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = number
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(2048))
    refused(opened, tmp_path / "x.tar", "damaged")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
@pytest.mark.parametrize("size", [60_000, 1_000_000])
def test_a_tar_with_a_header_that_takes_long(tmp_path, opened, kind, size):
    """tarfile takes hours for a million digits (CVE-2024-6232)."""
    header = special("x", kind)
    header.size = size
    content = header.tobuf(tarfile.USTAR_FORMAT) + b"1" * size + bytes(-size % 512)
    (tmp_path / "x.tar").write_bytes(content + bytes(1024))
    start = time.process_time()
    refused(opened, tmp_path / "x.tar", "x.tar")
    assert time.process_time() < start + 5


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar(tmp_path, opened, photos, form):
    """As tarfile reads them, long names and names that are no text included."""
    content = photos[0].content
    names = ["0/a.jpg", "1/" + "b" * 90 + ".jpg", "2/" + "c" * 60 + "/" + "d" * 90 + ".jpg"]
    if form != tarfile.USTAR_FORMAT:
        names += ["3/" + "e" * 200 + ".jpg", "4/caf\udce9.jpg", "4/ \u732b.jpg"]
    path = tar(tmp_path / "x.tar", [(name, content) for name in names], format=form)
    data = opened(path)
    assert sorted(photo.file for photo in data.photos) == sorted(names)
    assert all(data.read(name) == content for name in names)
    with tarfile.open(path) as archive:
        expected = {m.name: (m.offset_data, m.size) for m in archive}
    assert {m.name: (m.start, m.size) for m in read_tar(path)} == expected


def test_a_tar_of_the_system(tmp_path, opened, photos, expected):
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    path = as_folders(photos, tmp_path / "val", {i: str(i) for i in range(6)})
    for options in ([], ["--format=v7"], ["--format=posix"], ["--format=gnu", "-S"]):
        command = ["tar", *options, "-cf", tmp_path / "v.tar", "-C", tmp_path, "val"]
        subprocess.run([*map(str, command)], check=True)
        assert truths_of(opened(tmp_path / "v.tar")) == expected
    assert path.is_dir()


def test_mutated_archives_and_tables(tmp_path, opened, model, photos):
    """Each is read or refused, and nothing else happens."""
    content = photos[0].content[:300]
    names = ["0/a.jpg", "1/" + "b" * 150 + ".jpg", "2/c.jpg", "labels.csv"]
    path = tar(tmp_path / "x.tar", [(name, content) for name in names])
    table = "\n".join(f"{name},{i}" for i, name in enumerate(names)).encode()
    random = np.random.default_rng(3)
    refusals = []
    for place, whole in ((path, path.read_bytes()), (tmp_path / "t.csv", table)):
        for _ in range(number(300, 5000)):
            mutated = bytearray(whole)
            for position in random.integers(0, len(whole), random.integers(1, 4)):
                mutated[position] = random.integers(0, 256)
            place.write_bytes(mutated[: random.integers(len(whole) // 2, len(whole) + 1)])
            try:
                data = opened(path, place if place != path else None)
            except InputError as error:
                refusals.append(str(error))
            else:
                assert all(photo.truth in range(6) for photo in data.photos)
        place.write_bytes(whole)
    assert len(refusals) > 100
    assert all(message.isprintable() for message in refusals)


def test_names_that_would_take_too_much_memory(tmp_path, model, photos):
    content = photos[0].content
    tar(tmp_path / "x.tar", [(f"0/{'a' * 5000}.jpg", content), ("0/a.jpg", content)])
    results = model.evaluate(tmp_path / "x.tar")
    assert results.predictions["file"].tolist() == ["0/a.jpg"]
    assert results.header["data"]["left_out"] == ["1 file with a name that is too long"]
    many = [Photo(f"{i}{'a' * 4000}", 1, 0) for i in range(10)] * 20_000
    data = open_data(tmp_path / "x.tar", model.metadata, model.labels)
    with pytest.raises(TinyMixNetError, match="names of up to 4,001 characters"):
        model.evaluate(replace(data, photos=tuple(many)))


def test_a_number_in_bytes(tmp_path):
    """As GNU writes what is too large for octal digits."""
    info = tarfile.TarInfo("0/a.jpg")
    info.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InputError, match="it ends after 512 bytes, inside a file"):
        read_tar(tmp_path / "x.tar")


def test_a_tar_that_shrinks_while_it_is_evaluated(tmp_path, model, opened, photos):
    path = tar(tmp_path / "x.tar", [(f"0/{i}.jpg", photos[i].content) for i in range(3)])
    data = opened(path)
    os.truncate(path, 700)
    results = model.evaluate(data, workers=1)
    assert len(results.skipped) == 3
    assert {skipped.reason for skipped in results.skipped} == {"the archive has become shorter"}
