"""Labels from text files: every usual encoding is read, everything else is one line of an error."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinymixnet.errors import CheckpointError, InputError
from weights_tools.formats.labels import read_classes, read_labels

THREE = ("cat", "Café au lait", "犬 🐕")


def assert_refused(path, *words, classes=3):
    with pytest.raises(CheckpointError) as caught:
        read_labels(path, classes)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    for word in words:
        assert word in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n\r\n", "\n \t\n"])
def test_usual_text_files(tmp_path, encoding, line_end, last):
    text = line_end.join(f" {label}\t" for label in THREE) + last
    (tmp_path / "labels.txt").write_bytes(text.encode(encoding))
    assert read_labels(tmp_path / "labels.txt", 3) == THREE


def test_utf16_of_either_byte_order(tmp_path):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        (tmp_path / "labels.txt").write_bytes(mark + "\n".join(THREE).encode(encoding))
        assert read_labels(tmp_path / "labels.txt", 3) == THREE


def test_without_a_file():
    assert read_labels(None, 3) == ()
    assert read_labels(None, 1000)[388] == "giant panda"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected 3 labels, one a line, found 1 lines, 1 of them empty"),
        (b"\xef\xbb\xbf", "1 of them empty"),
        (b"a\nb\n", "found 2 lines, 0 of them empty"),
        (b"a\nb\nc\nd", "found 4 lines"),
        (b"a\n\nc", "found 3 lines, 1 of them empty"),
        (b"a\n \t \nc", "1 of them empty"),
        (b"a\nb\nc\xff", "cannot be read"),
        ("a\nb\nc".encode("utf-32"), "control characters"),
        (b"\xff\xfea", "cannot be read"),
        (b"a\nb\0\nc", r"label 2, 'b\x00', has control characters"),
        (b"a\nb\x1b[2J\nc", r"label 2, 'b\x1b[2J', has control characters"),
        (b"a\nb\tB\nc", r"'b\tB'"),
        ("a\nb\nc\u2028d".encode(), r"label 3, 'c\u2028d'"),
        ("a\nb\n\u202egpj".encode(), r"label 3, '\u202egpj'"),
        ("a\n\ufeffb\nc".encode(), r"label 2, '\ufeffb'"),
        ("a\n\x85b\x0cB\nc".encode(), "label 2"),
        (b"a\nb\n" + b"c" * 1025, "label 3 has 1,025 bytes, at most 1,024"),
        (b"a\nb\n" + "é".encode() * 513, "label 3 has 1,026 bytes"),
        (b"x" * 100_000, "100,000 bytes"),
        (b"x\n" * 100_000, "200,000 bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read"),
    ],
)
def test_refused(tmp_path, content, words):
    (tmp_path / "labels.txt").write_bytes(content)
    assert_refused(tmp_path / "labels.txt", words)


def test_longest_label(tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n" + "c" * 1024)
    assert read_labels(tmp_path / "labels.txt", 3)[2] == "c" * 1024


def test_what_is_no_text_file(tmp_path):
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "none.txt", "is missing")
    assert_refused(f"{tmp_path}/" + "x" * 300, "cannot be read")
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(1 << 30)
    assert_refused(tmp_path / "huge.txt", "1,073,741,824 bytes")
    with pytest.raises(CheckpointError):
        read_labels(f"{tmp_path}/a\0b", 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a plain file")
    assert_refused("/dev/zero", "not a plain file")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=100),
        st.text(max_size=50).map(str.encode),
        st.lists(st.text("ab \n\r\t\0\x1b\ufeff\u2028é", max_size=8), min_size=3, max_size=3).map(
            lambda labels: "\n".join(labels).encode("utf-8-sig")
        ),
    )
)
def test_any_bytes(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    labels, refusal = (), ""
    try:
        labels = read_labels(tmp_path / "labels.txt", 3)
    except CheckpointError as error:
        refusal = str(error)
    assert refusal.isprintable()
    if refusal:
        return
    assert len(labels) == 3
    for label in labels:
        assert label == label.strip() != ""
        assert not set("\0\n\r\x1b\ufeff\u2028") & set(label)


# -- tables ---------------------------------------------------------------------------------------

TABLE = (
    "class\twordnet_id\timagenet_index\tlabel\n"
    "0\tn01443537\t1\tgoldfish\n1\tn07920052\t967\tespresso\n"
)


def test_a_table_has_the_place_of_each_class_in_imagenet(tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_text(TABLE)
    assert read_classes(path, 2) == {
        "labels": ("goldfish", "espresso"),
        "wordnet_ids": ("n01443537", "n07920052"),
        "imagenet_indices": (1, 967),
    }
    path.write_text("label\ngoldfish\nespresso\n")
    assert read_classes(path, 2) == {
        "labels": ("goldfish", "espresso"),
        "wordnet_ids": (),
        "imagenet_indices": (),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("label", "name"), "a column `label`"),
        (TABLE.replace("\tespresso", ""), "4 fields"),
        (TABLE.replace("1\tn07", "5\tn07"), "does not count from 0 to 1"),
        (TABLE.replace("967", "many"), "many"),
        (TABLE.replace("espresso", ""), "1 of them empty"),
        (TABLE + "2\tn1\t3\tcat\n", "expected 2 labels"),
        ("", "a column `label`"),
    ],
)
def test_a_table_that_is_wrong(text, message, tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_classes(path, 2)


@pytest.mark.parametrize("classes", [1.5, "3", None, True, 0, -1, [3]])
@pytest.mark.parametrize("read", [read_labels, read_classes])
def test_classes_are_a_whole_number(read, classes, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\nc")
    for path in (None, tmp_path / "labels.txt"):
        with pytest.raises(InputError, match="classes: expected a whole number from 1 on, found"):
            read(path, classes)
