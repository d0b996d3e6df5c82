"""Coded matrices in Tritium's own format: version 2, strict about every number."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.native import open_native, save_native

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = {"bits": 6, "group_size": 32, "out_features": 20, "in_features": 70}


def content(**changes: Any) -> dict[str, Any]:
    codes = np.random.default_rng(0).integers(0, 256, (2, 2, 832), dtype=np.uint8)
    return {
        "tensors": {"table.codes": codes, "norm.weight": np.ones(70, np.float32)},
        "manifest": {"config": {}, "linears": {}, "coded": {"table": ENTRY}},
        "files": {},
    } | changes


def reseal(directory: Path, **changes: Any) -> None:
    """Change the manifest as an honest writer would: with a digest that fits."""
    manifest = json.loads((directory / "tritium.json").read_text()) | changes
    del manifest["manifest_sha256"]
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    manifest["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "tritium.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_native(tmp_path / "model", **content())
    return tmp_path / "model"


def test_codes_come_back_as_they_were_and_the_version_says_so(saved: Path):
    with open_native(saved) as model:
        np.testing.assert_array_equal(
            model.checkpoint.read("table.codes"), content()["tensors"]["table.codes"]
        )
        assert model.manifest["format_version"] == 2
        assert model.manifest["coded"] == {"table": ENTRY}


TERNARY = {
    "planes": 2,
    "group_size": 32,
    "out_features": 20,
    "in_features": 70,
    "divides": False,
    "scale_unit": -20,
}


def ternary_content(**entry: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return content(
        tensors={
            "table.trits": draw.integers(0, 243, (2, 280), dtype=np.uint8),
            "table.scales": draw.integers(0, 256, (20, 3), dtype=np.uint8),
        },
        manifest={"config": {}, "linears": {}, "coded": {"table": TERNARY | entry}},
    )


def test_a_ternary_table_comes_back_as_it_was_in_version_4(tmp_path: Path):
    save_native(tmp_path / "model", **ternary_content())
    with open_native(tmp_path / "model") as model:
        for name, tensor in ternary_content()["tensors"].items():
            np.testing.assert_array_equal(model.checkpoint.read(name), tensor)
        assert model.manifest["format_version"] == 4
    reseal(tmp_path / "model", format_version=3)
    with pytest.raises(ValidationError, match="contradict each other"):
        open_native(tmp_path / "model")


@pytest.mark.parametrize(
    "entry",
    [
        {"planes": 3},
        {"planes": 0},
        {"out_features": 21},
        {"group_size": 64},
        {"divides": 1},
        {"scale_unit": 900},
    ],
)
def test_a_ternary_table_of_other_sizes_than_declared_is_refused(tmp_path: Path, entry: dict[str, Any]):
    with pytest.raises(ValidationError):
        save_native(tmp_path / "model", **ternary_content(**entry))
    assert not (tmp_path / "model").exists()


def test_a_model_without_codes_stays_version_1(tmp_path: Path):
    plain = content(tensors={"norm.weight": np.ones(70, np.float32)}, manifest={"config": {}, "linears": {}})
    save_native(tmp_path / "model", **plain)
    with open_native(tmp_path / "model") as model:
        assert model.manifest["format_version"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits": 7}, "codes of 7 bits in groups of 32"),
        ({"bits": 8}, "is needed"),
        ({"bits": 6.0}, "not complete"),
        ({"bits": True}, "not complete"),
        ({"bits": None}, "not complete"),
        ({"group_size": 64}, "codes of 6 bits in groups of 64"),
        ({"out_features": 33}, "is needed"),
        ({"out_features": 0}, "not complete"),
        ({"out_features": -20}, "not complete"),
        ({"out_features": 1 << 40}, "not complete"),
        ({"in_features": 64}, "is needed"),
        ({"in_features": 129}, "is needed"),
        ({"in_features": 0}, "not possible"),
        ({"in_features": 1 << 40}, "not possible"),
        ({"in_features": "70"}, "not complete"),
    ],
)
def test_an_entry_that_does_not_fit_its_codes_is_refused(saved: Path, changes, reason):
    reseal(saved, coded={"table": ENTRY | changes})
    with pytest.raises(ValidationError, match=reason):
        open_native(saved)


@pytest.mark.parametrize("coded", [[], {}, None, "text", {"ghost": ENTRY}, {"table": None}, {"table": []}])
def test_coded_of_another_form_is_refused(saved: Path, coded):
    reseal(saved, coded=coded)
    with pytest.raises(ValidationError):
        open_native(saved)


@pytest.mark.parametrize("version", [1, 3, 2.0, "2", True])
def test_another_version_is_refused(saved: Path, version):
    reseal(saved, format_version=version)
    with pytest.raises(ValidationError, match="version"):
        open_native(saved)


def test_every_flipped_byte_of_the_codes_is_found(saved: Path):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for place in range(len(whole) - 1, len(whole) - 3000, -271):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        weights.write_bytes(bytes(damaged))
        with pytest.raises(ValidationError):
            open_native(saved)


def test_codes_of_a_wrong_dtype_or_shape_are_not_saved(tmp_path: Path):
    for wrong in (np.zeros((2, 2, 832), np.int8), np.zeros((2, 1664), np.uint8), np.zeros(3328, np.uint8)):
        with pytest.raises(ValidationError, match=r"table\.codes"):
            save_native(tmp_path / "m", **content(tensors={"table.codes": wrong}))
    assert list(tmp_path.iterdir()) == []
