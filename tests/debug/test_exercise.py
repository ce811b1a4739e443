"""`break` plants mistakes that show and that `diagnose` names, and judges guesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymixnet
from tests.support import sweep
from tinymixnet.cli import main
from tinymixnet.debug import exercise
from tinymixnet.debug.compare import isolated
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.exercise import LEVELS, judge, known_mistakes, make_exercise
from tinymixnet.debug.runner import Change, run_with
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.debug.traces import open_trace, write_dump
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.errors import InputError, TraceError
from tinymixnet.model import Model, load

CAT = str(Path(tinymixnet.__file__).parent / "data" / "cat.jpg")
SECRETS = range(sweep.number(1, 2))  # at each level
Output = pytest.CaptureFixture[str]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(BUNDLED)


@pytest.fixture(scope="module")
def pixels(model: Model) -> np.ndarray:
    return model.pixels(CAT)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> Make:
    """Return a function that makes a dump with the command."""
    monkeypatch.delenv("TINYMIXNET_WEIGHTS", raising=False)

    def made(secret: int, level: int, name: str = "puzzle") -> Path:
        path = tmp_path / name
        words = ["break", "-o", str(path), "--secret", str(secret), "--level", str(level)]
        assert main(words) == 0
        return path

    return made


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# -- what is planted ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("secret", SECRETS)
def test_diagnose_is_the_solution(secret: int, level: int, make: Make, capsys: Output) -> None:
    """As a reader would have it: the commands alone, and nothing from inside the package."""
    path = str(make(secret, level))
    told = capsys.readouterr().out
    assert main(["diagnose", CAT, path]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    causes = first.removeprefix("cause: ").split(", ")
    assert len(causes) == LEVELS[level].mistakes
    assert main(["break", "--answer", path, ",".join(causes)]) == 0
    assert capsys.readouterr().out == f"right: {', '.join(causes)}\n"
    assert not [cause for cause in causes if cause in told]
    for name, content in files(Path(path)).items():
        if name.endswith(".json"):
            assert not [slug for slug in known_mistakes() if slug in content.decode()]
        assert not [slug for slug in known_mistakes() if slug in name]


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_planted_is_as_the_level_says(
    level: int, make: Make, model: Model, pixels: np.ndarray
) -> None:
    dump = open_dump(make(11, level), model.architecture, *pixels.shape[:3])
    rows = isolated(model, pixels, dump).rows
    guilty = [row.layer for row in rows if row.guilty]
    assert guilty
    if LEVELS[level].one_place and not LEVELS[level].port:  # all layers can be seen
        assert len(guilty) == LEVELS[level].mistakes
    assert all(row.error < np.inf for row in rows)
    every = len(model.architecture.layer_shapes(128, 128))
    if LEVELS[level].port:
        assert dump.map == "timm"
        assert set(dump.layouts.values()) >= {"NCHW"}
        assert len(dump.names) < every * LEVELS[level].share
    else:
        assert (dump.map, len(dump.names)) == ("canonical", every)
    same = dump["logits"].argmax() == model(pixels).argmax()
    assert LEVELS[level].answer in ("", "stays" if same else "changes")


def test_one_secret_is_one_exercise(make: Make) -> None:
    first, second, other = (
        files(make(secret, 2, name)) for secret, name in ((5, "a"), (5, "b"), (6, "c"))
    )
    assert first == second
    assert first != other


def test_without_a_secret_one_is_drawn(tmp_path: Path, capsys: Output) -> None:
    secrets = set()
    for _ in range(2):
        assert main(["break", "-o", str(tmp_path / "puzzle"), "--json"]) == 0
        secrets.add(json.loads(capsys.readouterr().out)["secret"])
    assert len(secrets) == 2


def test_pixels_and_several_images(tmp_path: Path, model: Model, pixels: np.ndarray) -> None:
    both = np.concatenate([pixels, pixels[:, ::-1]])
    np.save(tmp_path / "both.npy", both)
    path = tmp_path / "puzzle.npz"
    assert main(["break", str(tmp_path / "both.npy"), "-o", str(path), "--secret", "1"]) == 0
    trace = open_trace(path)
    assert trace.exercise["image"] == "both.npy"
    assert trace.header("logits").shape == (2, 200)


# -- drawing --------------------------------------------------------------------------------------


def test_a_mistake_that_does_not_show_is_no_exercise(model: Model, pixels: np.ndarray) -> None:
    """One that changes nothing, one that is overwritten by a later one, and one that is hidden."""
    names = {layer: layer for layer in model.architecture.layer_shapes(128, 128)}
    nothing = Change(Suspect("none", "", "", lambda at: at.value), ("stem/conv",))
    loud = Change(Suspect("loud", "", "", lambda at: at.value * 2), ("stem/conv",))
    zeros = Change(Suspect("zeros", "", "", lambda at: at.value * 0), ("stem/conv",))
    shows = exercise._all_show
    assert shows(model, pixels, [loud], names)
    assert not shows(model, pixels, [nothing], names)
    assert not shows(model, pixels, [loud, nothing], names)
    assert not shows(model, pixels, [loud, zeros], names)
    late = Change(loud.suspect, ("logits",))
    assert not shows(model, pixels, [late], {"head/pool": "head/pool"})


def test_nan_is_no_exercise(model: Model, pixels: np.ndarray) -> None:
    broken = Change(Suspect("nan", "", "", lambda at: at.value * np.nan), ("stem/conv",))
    assert exercise._answer(model, pixels, [broken]) is None
    assert exercise._answer(model, pixels, []) == model(pixels).argmax(-1)


def test_a_run_without_mistakes_is_the_network(model: Model, pixels: np.ndarray) -> None:
    for (name, ours), (other, theirs) in zip(
        model.layers(pixels), run_with(model, pixels, []), strict=True
    ):
        assert name == other
        assert np.array_equal(ours, theirs)


def test_no_draw_fits(
    tmp_path: Path, model: Model, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercise, "_is_solved", lambda *_: False)
    monkeypatch.setattr(exercise, "MOST_DRAWS", 2)
    with pytest.raises(TraceError, match="try another secret"):
        make_exercise(model, pixels, tmp_path / "puzzle", secret=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"secret": -1}, "secret: expected a whole number from 0 to 999,999,999, found -1"),
        ({"secret": 1.5}, "secret: expected a whole number"),
        ({"secret": 10**9}, "secret: expected a whole number"),
        ({"level": 0}, "level: expected a whole number from 1 to 5, found 0"),
        ({"level": True}, "level: expected"),
        ({"level": np.zeros(9)}, "level: expected"),
        ({"model": None}, "model: expected a Model, found NoneType"),
        ({"pixels": "cat.jpg"}, "pixels"),
        ({"path": None}, "expected a path, found NoneType"),
        ({"image_name": 7}, "image_name: expected a str, found int"),
        ({"inputs": 7}, "inputs: expected a list of paths, found 7"),
    ],
)
def test_wrong_arguments(
    changed: dict[str, Any], message: str, model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    right = {"model": model, "pixels": pixels, "path": tmp_path / "puzzle", "secret": 1}
    with pytest.raises(InputError, match=message):
        make_exercise(**(right | changed))
    assert not list(tmp_path.iterdir())


# -- judging --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(model: Model, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump with two mistakes."""
    path = tmp_path_factory.mktemp("two") / "puzzle"
    assert make_exercise(model, pixels, path, secret=0, level=3).mistakes == 2
    return path


def solution(path: Path) -> list[str]:
    return [slug for slug in known_mistakes() if judge(path, slug).found]


def test_judgement(two: Path) -> None:
    one, other = solution(two)
    wrong = next(slug for slug in known_mistakes() if slug not in (one, other))
    assert judge(two, f"{one},{other}").right
    assert judge(two, f" {other.upper()} , {one},{one},").right
    assert judge(two, one) == ([one], [], 1)
    assert judge(two, wrong) == ([], [wrong], 2)
    assert judge(two, f"{wrong},{one},{other}") == ([one, other], [wrong], 0)
    assert not judge(two, f"{wrong},{one},{other}").right


def test_answers_and_exit_codes(two: Path, capsys: Output) -> None:
    one, other = solution(two)
    wrong = next(slug for slug in known_mistakes() if slug not in (one, other))

    def said(guess: str) -> tuple[int, str, str]:
        code = main(["break", "--answer", str(two), guess])
        return code, *capsys.readouterr()

    assert said(f"{one},{other}") == (0, f"right: {one}, {other}\n", "")
    assert said(one) == (1, f"right: {one}; 1 mistake still to find\n", "")
    code, out, _ = said(f"{wrong},{one}")
    assert code == 1
    assert out.startswith(f"right: {one}; wrong: {wrong}; 1 mistake still to find\nthe names: ")
    assert said("bgrr") == (2, "", "tinymixnet: no mistake is called 'bgrr': did you mean bgr?\n")
    for guess in ("xxxxxxxxxx", "", ",", "bgr," + "x" * 5000):
        code, out, err = said(guess)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert "it is one of activation-after-residual, bgr, " in err
    assert main(["break", "--answer", str(two), one, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {"right": False, "found": [one], "wrong": [], "left": 1}


@pytest.mark.parametrize(
    "more", [["-o", "x"], ["--secret", "0"], ["--level", "1"], [CAT]], ids=lambda more: more[0]
)
def test_an_answer_takes_nothing_else(two: Path, more: list[str], capsys: Output) -> None:
    assert main(["break", *more, "--answer", str(two), "bgr"]) == 2
    assert "--answer takes DUMP and GUESS alone" in capsys.readouterr().err


def test_a_dump_that_is_no_exercise(tmp_path: Path, capsys: Output) -> None:
    write_dump(tmp_path / "dump", [("a", np.zeros(3, np.float32))])
    np.savez(tmp_path / "dump.npz", a=np.zeros(3))
    for path in (tmp_path / "dump", tmp_path / "dump.npz"):
        assert main(["break", "--answer", str(path), "bgr"]) == 2
        expected = f"tinymixnet: {path}: no exercise; `tinymixnet break -o DUMP` makes one\n"
        assert capsys.readouterr().err == expected


GOOD = {"secret": 1, "level": 1, "mistakes": ["0" * 64]}


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        {"secret": 1},
        GOOD | {"secret": "1"},
        GOOD | {"level": 1.5},
        GOOD | {"mistakes": []},
        GOOD | {"mistakes": [1]},
        GOOD | {"mistakes": "bgr"},
    ],
    ids=str,
)
def test_a_damaged_manifest(damaged: Any, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    write_dump(path, [("a", np.zeros(3, np.float32))], exercise={})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["exercise"] = damaged
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TraceError, match=r"damaged|exercise: expected dict"):
        judge(path, "bgr")


# -- what is written, and what is not -------------------------------------------------------------


def test_nothing_else_is_overwritten(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    (tmp_path / "mine.npz").write_text("mine")
    write_dump(tmp_path / "port", [("a", np.zeros(3, np.float32))], made_by="somebody")
    before = files(tmp_path)
    for name in ("mine", "mine.npz", "port", "none/puzzle", "puzzle.h5"):
        assert main(["break", "-o", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert files(tmp_path) == before
    assert main(["break", "-o", str(tmp_path / "mine.npz"), "--force", "--secret", "1"]) == 0
    assert open_trace(tmp_path / "mine.npz").exercise
    puzzle = str(tmp_path / "puzzle")
    assert [main(["break", "-o", puzzle, "--secret", secret]) for secret in "12"] == [0, 0]


def test_the_image_is_no_output(tmp_path: Path, pixels: np.ndarray, capsys: Output) -> None:
    np.savez(tmp_path / "pixels.npz", pixels)
    np.save(tmp_path / "pixels.npy", pixels)
    (tmp_path / "link.npz").hardlink_to(tmp_path / "pixels.npy")
    words = ["break", str(tmp_path / "pixels.npy"), "-o", str(tmp_path / "link.npz"), "--force"]
    assert main(words) == 2
    assert "is an input of this command, too" in capsys.readouterr().err
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), pixels)


def test_neither_output_nor_answer(capsys: Output) -> None:
    assert main(["break"]) == 2
    expected = "tinymixnet: break: expected -o DUMP, to make a puzzle, or --answer DUMP GUESS\n"
    assert capsys.readouterr() == ("", expected)


def test_the_next_commands_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """They work as they are printed, in a folder whose name needs quotes."""
    import shlex

    monkeypatch.delenv("TINYMIXNET_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["break", "-o", "a puzzle", "--weights", str(BUNDLED), "--preset", "square"]
    assert main([*words, "--secret", "3"]) == 0
    *_, compare, answer = capsys.readouterr().out.splitlines()
    _, *compare_words = shlex.split(compare)
    _, *answer_words = shlex.split(answer)
    assert main(compare_words) == 1
    assert "first layer that adds an error" in capsys.readouterr().out
    assert main([*answer_words[:-1], "bgr"]) in (0, 1)
    assert answer_words[-1] == "GUESS"


def test_every_mistake_of_the_catalogue_may_be_guessed() -> None:
    assert {suspect.slug for suspect in SUSPECTS} < set(known_mistakes())
