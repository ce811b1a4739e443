"""What a file may ask for, and who asks."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_weights import ABOUT, GOOD, SPECK, attribute, edited, refusal, sign
from tinymixnet.engine.architecture import Architecture, mixnet
from tinymixnet.engine.budget import Budget, budget
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, check_size, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError, TinyMixNetError, WeightsError


def test_a_limit_is_the_most_that_is_allowed() -> None:
    limits = Budget(photo_pixels=10)
    limits.check("photo_pixels", 10, "a photo")
    with pytest.raises(
        TinyMixNetError, match=r"^a photo asks for 11 pixels, at most 10 are .*=11$"
    ):
        limits.check("photo_pixels", 11, "a photo")


def test_limits_are_set_from_text() -> None:
    limits = Budget()
    limits.set(" photo_pixels=2e8, layer_bytes = 4e9 ,")
    assert limits == Budget(photo_pixels=200_000_000, layer_bytes=4_000_000_000)
    limits.set("")
    assert limits.photo_pixels == 200_000_000


@pytest.mark.parametrize(
    "text",
    ["photo_pixels", "x=3", "photo_pixels=many", "photo_pixels=inf", "=1", "photo_pixels=-5"],
)
def test_text_that_sets_nothing_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="TINYMIXNET_BUDGET: expected limits such as"):
        Budget().set(text)


@pytest.mark.parametrize("text", [None, 3, b"photo_pixels=1", ["photo_pixels=1"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="TINYMIXNET_BUDGET: expected text, found"):
        Budget().set(text)


@given(st.text(max_size=60))
def test_any_text_sets_limits_or_is_an_error(text: str) -> None:
    limits = Budget()
    with suppress(InputError):
        limits.set(text)
    assert all(type(getattr(limits, field.name)) is int for field in fields(limits))


def test_the_environment_counts_for_load_and_for_commands(tmp_path: Path) -> None:
    program = "import tinymixnet; tinymixnet.load()"
    for command in (["-c", program], ["-m", "tinymixnet", "summary"]):
        run = subprocess.run(
            [sys.executable, *command],
            env={"TINYMIXNET_BUDGET": "network_numbers=1000"},
            capture_output=True,
            text=True,
        )
        assert run.returncode
        assert "numbers, at most 1,000 are allowed" in run.stderr


# -- at load --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["mixnet-s", "mixnet-m", "mixnet-l"])
def test_mixnet_fits_at_1024_pixels(variant: str) -> None:
    check_size(mixnet(variant), Metadata(input_size=1024))


@pytest.mark.parametrize(
    ("architecture", "metadata", "message"),
    [
        (mixnet("mixnet-l"), Metadata(input_size=4096), "the largest layer of .* bytes, at most"),
        (SPECK, Metadata(input_size=4096, preset_parameters={"crop": 0.1}), "over crop 0.1 asks"),
        (
            Architecture("wide", ("r2_k3_a1_p1_s11_e1_i9000_o9000",), 9000, 3, 1.0, 2),
            Metadata(input_size=32),
            "asks for .* numbers",
        ),
        (
            Architecture("busy", ("r9_k31_a1_p1_s11_e9_i64_o64",) * 3, 64, 3, 1.0, 2),
            Metadata(input_size=512),
            "multiply adds, at most",
        ),
    ],
)
def test_what_asks_for_too_much_is_refused(
    architecture: Architecture, metadata: Metadata, message: str
) -> None:
    with pytest.raises(TinyMixNetError, match=message):
        check_size(architecture, metadata)


def test_a_file_that_asks_for_too_much_is_refused_in_one_line(tmp_path: Path) -> None:
    large, small = attribute("input_size", 2048), attribute("preset_parameters", '{"crop": 0.1}')
    read_weights(edited(tmp_path / "w.h5", large, sign))
    read_weights(edited(tmp_path / "w.h5", small, sign))
    assert "over crop 0.1" in refusal(edited(tmp_path / "w.h5", large, small, sign))


def test_a_larger_file_than_allowed_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edited(tmp_path / "w.h5")
    monkeypatch.setattr(budget, "weights_file_bytes", 100)
    assert "at most 100 are allowed" in refusal(path)


# -- numbers that float32 cannot compute with -----------------------------------------------------


@pytest.mark.parametrize("value", [1e-300, 1e-39, 0.0, -1.0, 1e39, 1e308])
@pytest.mark.parametrize("name", ["std", "epsilon"])
def test_divisors_outside_of_float32_are_refused(name: str, value: float, tmp_path: Path) -> None:
    stored = [value, 1.0, 1.0] if name == "std" else value
    path = edited(tmp_path / "w.h5", attribute(name, stored), sign)
    assert "mean, std, epsilon: unusable" in refusal(path)


def test_means_outside_of_float32_are_refused(tmp_path: Path) -> None:
    path = edited(tmp_path / "w.h5", attribute("mean", [1e39, 0.0, 0.0]), sign)
    assert "mean, std, epsilon: unusable" in refusal(path)


@pytest.mark.parametrize("name", ["stem/bn/gamma", "logits/kernel", "blocks_0/depthwise_bn/beta"])
def test_weights_near_the_limit_of_float32_are_refused(name: str, tmp_path: Path) -> None:
    tensors = {**GOOD.tensors, name: np.full_like(GOOD.tensors[name], 3e38)}
    with pytest.raises(WeightsError, match=f"{name}: values up to 3e.38, too large"):
        write_weights(tmp_path / "w.h5", Weights(SPECK, tensors, replace(ABOUT)))
