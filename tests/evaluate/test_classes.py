"""What names of classes mean, and that names which may mean two things are refused."""

import pytest

from tests.evaluate.conftest import NUMBERS, tiny_metadata
from tests.support.photo_sets import bundled_metadata
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError
from tinymixnet.evaluate.classes import IMAGENET_NUMBERS, LABELS, WORDNET, understand
from tinymixnet.evaluate.classes import NUMBERS as OWN
from tinymixnet.evaluate.imagenet import (
    imagenet_classes,
    known_wordnet_ids,
    wordnet_id_of_ilsvrc2012,
)

TINY = tiny_metadata()
THOUSAND = Metadata(labels=tuple(c.label for c in imagenet_classes()))
BUNDLED = bundled_metadata()


def of(metadata, names, **options):
    return understand(names, metadata, metadata.labels, **options)


def test_the_table_of_imagenet():
    ids = [c.wordnet_id for c in imagenet_classes()]
    assert ids == sorted(set(ids))
    assert len(ids) == 1000
    assert sorted(wordnet_id_of_ilsvrc2012()) == list(range(1, 1001))
    assert ids[207] == "n02099601"  # golden retriever
    # The first photo of ImageNet's validation set is a sea snake: 490 in the ground truth.
    assert imagenet_classes()[65].label == "sea snake"
    assert wordnet_id_of_ilsvrc2012()[490] == ids[65]


def test_the_table_agrees_with_what_the_bundled_weights_say():
    for label, wnid, number in zip(
        BUNDLED.labels, BUNDLED.wordnet_ids, BUNDLED.imagenet_indices, strict=True
    ):
        assert imagenet_classes()[number].wordnet_id == wnid
        assert imagenet_classes()[number].label == label


def test_wordnet_ids():
    understood = of(TINY, ["n02123159", "n07920052", "n01440764"])
    assert understood.kind == WORDNET
    assert understood.number_of == {"n02123159": 1, "n07920052": 5, "n01440764": None}
    assert understood.unknown == ["n01440764"]


def test_weights_with_imagenets_labels_know_imagenets_ids():
    assert known_wordnet_ids(THOUSAND, THOUSAND.labels)[985] == "n11939491"
    assert of(THOUSAND, ["n11939491"]).number_of == {"n11939491": 985}
    changed = (*THOUSAND.labels[:-1], "something else")
    with pytest.raises(InputError, match=r"WordNet ids .*, which these weights do not know"):
        understand(["n11939491"], Metadata(labels=changed), changed)


def test_numbers_of_the_weights():
    assert of(TINY, ["0", "5", "003"]) == (OWN, {"0": 0, "5": 5, "003": 3})


def test_numbers_of_imagenet():
    understood = of(TINY, ["134", "285", "3"])
    assert understood.kind == IMAGENET_NUMBERS
    assert understood.number_of == {"134": 0, "285": 2, "3": None}
    assert NUMBERS[2] == 285


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "2", "6"], ""),
        ([str(i) for i in range(1, 1001)], "do yours begin with 1"),
    ],
)
def test_numbers_that_are_no_classes(names, words):
    metadata = Metadata(labels=tuple("abcdef")) if len(names) == 3 else THOUSAND
    with pytest.raises(InputError, match=f"expected numbers from 0 to .*{words}"):
        of(metadata, names)


def test_numbers_that_count_from_one():
    """All of 1 to 6, of weights with six classes; and 1000, of weights that know ImageNet's."""
    with pytest.raises(InputError, match=r"from 0 to 5, .*, found 6; do yours begin with 1"):
        of(TINY, [str(i) for i in range(1, 7)])
    with pytest.raises(InputError, match="ImageNet's from 0 to 999, found 1000; do yours begin"):
        of(TINY, ["135", "283", "1000"])


def test_labels_in_any_spelling():
    names = ["tiger_cat", "EGYPTIAN CAT", "crane (machine)", "Crane_(bird)", " microphone "]
    understood = of(TINY, names)
    assert understood.kind == LABELS
    assert list(understood.number_of.values()) == [1, 2, 3, 0, 4]


@pytest.mark.parametrize("spelling", [str, lambda s: s.replace(" ", "_"), lambda s: f" {s} "])
def test_every_label_of_imagenet_is_its_own_class(spelling):
    """Also "Cardigan", a dog, and "cardigan"."""
    numbers = of(THOUSAND, [spelling(label) for label in THOUSAND.labels]).number_of
    assert list(numbers.values()) == [*range(1000)]
    with pytest.raises(InputError, match="two classes are called CARDIGAN"):
        of(THOUSAND, ["CARDIGAN"])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Potters-Wheel", "potter's wheel"),
        ("go_kart", "go-kart"),
        ("crane, bird", "crane (bird)"),
        ("goldfish, Carassius auratus", "goldfish"),
        ("Cardigan, Cardigan Welsh corgi", "Cardigan"),
        ("maillot, tank suit", "maillot, tank suit"),
        ("maillot", "maillot"),
    ],
)
def test_labels_with_other_marks_and_with_more_names(name, label):
    assert of(THOUSAND, [name]).number_of == {name: THOUSAND.labels.index(label)}


def test_a_list_of_names_whose_first_is_ambiguous():
    with pytest.raises(InputError, match="two classes are called crane: "):
        of(THOUSAND, ["crane, a tall one", "tench"])


def test_marks_without_words():
    assert of(THOUSAND, ["tench", ",", "()", "_"]).unknown == ["()", ",", "_"]


@pytest.mark.parametrize("metadata", [TINY, THOUSAND, BUNDLED])
def test_two_classes_called_crane(metadata):
    """Also where the weights know only one of them: the photos may be of the other."""
    with pytest.raises(InputError) as caught:
        of(metadata, ["crane", "espresso"])
    assert "two classes are called crane: crane (bird), crane (machine)" in str(caught.value)


def test_a_part_in_brackets_may_be_missing_where_only_one_is_meant():
    metadata = Metadata(labels=("bat (animal)", "dog"))
    assert of(metadata, ["bat", "dog"]).number_of == {"bat": 0, "dog": 1}


def test_weights_with_two_labels_that_are_the_same():
    metadata = Metadata(labels=("cat", "dog", "cat"))
    assert of(metadata, ["dog"]).number_of == {"dog": 1}
    with pytest.raises(InputError, match="two classes are called cat: class 0, class 2"):
        of(metadata, ["cat", "dog"])


def test_one_odd_name_among_others_is_unknown():
    assert of(TINY, ["n02123159", "n07920052", "misc"]).unknown == ["misc"]
    assert of(TINY, ["0", "1", "other"]).number_of == {"0": 0, "1": 1, "other": None}
    assert of(TINY, ["espresso", "dogs", "n02123159"]).unknown == ["dogs", "n02123159"]


@pytest.mark.parametrize("names", [["dogs"], ["n00000000"], ["x\x1b[31m\nfake: ok"]])
def test_names_of_which_none_is_known(names):
    with pytest.raises(InputError, match="none of 1 class") as caught:
        of(TINY, names)
    assert str(caught.value).isprintable()


def test_numbers_only():
    with pytest.raises(InputError, match="from 0 to 5, found 134"):
        of(TINY, ["134"], numbers_only=True)
