from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.native import is_native, open_native, save_native

if TYPE_CHECKING:
    from pathlib import Path

LINEAR = {"planes": 2, "out_features": 3, "in_features": 7, "group_size": 7, "divides": False}


def content() -> dict[str, Any]:
    return {
        "tensors": {
            "layer.trits": np.arange(2 * 5, dtype=np.uint8).reshape(2, 5),
            "layer.scales": np.array([[0.5], [1.5], [2.5]], np.float32),
            "norm.weight": np.array([0x3F80, 0x4000], np.uint16),
        },
        "manifest": {"config": {"model_type": "llama", "rms_norm_eps": 1e-05}, "linears": {"layer": LINEAR}},
        "files": {"tokenizer.json": b"{}", "1_Pooling/config.json": b'{"pooling": "mean"}'},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    save_native(directory, **content())
    return directory


def reseal(directory: Path, **changes: Any) -> None:
    """Change the manifest as an honest writer would: with a digest that fits."""
    manifest = json.loads((directory / "tritium.json").read_text()) | changes
    del manifest["manifest_sha256"]

    def encoded() -> str:
        return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    manifest["manifest_sha256"] = hashlib.sha256(encoded().encode()).hexdigest()
    (directory / "tritium.json").write_text(encoded())


def test_a_saved_model_opens_with_everything_it_was_given(saved: Path):
    assert is_native(saved)
    with open_native(saved) as model:
        assert model.manifest["config"] == {"model_type": "llama", "rms_norm_eps": 1e-05}
        assert model.manifest["linears"] == {"layer": LINEAR}
        assert model.checkpoint.is_memory_mapped
        for name, expected in content()["tensors"].items():
            np.testing.assert_array_equal(model.checkpoint.read(name), expected)
        pooling = model.checkpoint.file("1_Pooling/config.json")
        assert pooling is not None
        assert pooling.read_bytes() == b'{"pooling": "mean"}'


def test_the_same_model_saved_twice_has_the_same_bytes(saved: Path, tmp_path: Path):
    save_native(tmp_path / "again", **content())
    for path in saved.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(saved)).read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_refused(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("flipped") / "model"
    save_native(directory, **content())
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    victim = data.draw(st.sampled_from(files))
    raw = bytearray(victim.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(raw)
    with pytest.raises(ValidationError):
        open_native(directory)


@pytest.mark.parametrize(
    "name", ["tritium.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"]
)
def test_every_byte_region_of_every_file_is_guarded(saved: Path, name: str):
    original = (saved / name).read_bytes()
    for position in range(0, len(original), max(1, len(original) // 64)):
        (saved / name).write_bytes(
            original[:position] + bytes([original[position] ^ 0xFF]) + original[position + 1 :]
        )
        with pytest.raises(ValidationError):
            open_native(saved)
        (saved / name).write_bytes(original[:position])
        with pytest.raises(ValidationError):
            open_native(saved)
    (saved / name).write_bytes(original + b"\n")
    with pytest.raises(ValidationError):
        open_native(saved)
    (saved / name).write_bytes(original)
    open_native(saved).close()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_a_missing_file_is_named(saved: Path, name: str):
    (saved / name).unlink()
    with pytest.raises(ValidationError, match="missing") as error:
        open_native(saved, verify=False)
    assert error.value.details["file"] == name


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "1_Pooling/more.json", ".hidden", "model.safetensors.index.json"]
)
def test_an_extra_file_is_named(saved: Path, name: str):
    (saved / name).write_text("{}")
    with pytest.raises(ValidationError, match="does not name") as error:
        open_native(saved, verify=False)
    assert error.value.details["file"] == name


def with_codes(**changes: Any) -> dict[str, Any]:
    given = content()
    given["tensors"]["layer.scales"] = np.array([[1], [128], [255]], np.uint8)
    given["manifest"]["linears"] = {"layer": LINEAR | changes}
    return given


def test_scales_may_be_codes_with_a_unit_and_readers_before_version_3_do_not_open_them(tmp_path: Path):
    save_native(tmp_path / "m", **with_codes(scale_unit=-20))
    with open_native(tmp_path / "m") as model:
        assert model.manifest["format_version"] == 3
        assert model.manifest["linears"]["layer"]["scale_unit"] == -20
    reseal(tmp_path / "m", format_version=1)
    with pytest.raises(ValidationError, match="contradict"):
        open_native(tmp_path / "m")


@pytest.mark.parametrize("changes", [{}, {"scale_unit": 500}, {"scale_unit": "0"}, {"scale_unit": None}])
def test_codes_without_a_unit_that_float32_holds_are_refused(tmp_path: Path, changes):
    with pytest.raises(ValidationError, match=r"unit"):
        save_native(tmp_path / "m", **with_codes(**changes))


def test_a_unit_beside_scales_that_are_numbers_is_refused(tmp_path: Path):
    given = content()
    given["manifest"]["linears"] = {"layer": LINEAR | {"scale_unit": 0}}
    with pytest.raises(ValidationError, match="scale_unit"):
        save_native(tmp_path / "m", **given)


def test_a_link_to_a_file_outside_is_refused_even_with_the_right_content(saved: Path, tmp_path: Path):
    shutil.move(saved / "tokenizer.json", tmp_path / "elsewhere.json")
    (saved / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValidationError, match="leads out"):
        open_native(saved)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_format_version_is_refused_by_number(saved: Path, version):
    reseal(saved, format_version=version)
    with pytest.raises(ValidationError, match="format version"):
        open_native(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"planes": 1},
        {"out_features": 4},
        {"in_features": 11},
        {"group_size": 2},
        {"planes": 0},
        {"in_features": -7},
        {"in_features": 1 << 63},
        {"in_features": 7.0},
        {"divides": 1},
        {"divides": None},
        {"group_size": None},
    ],
)
def test_a_layer_that_does_not_fit_its_tensors_is_refused(saved: Path, changes):
    reseal(saved, linears={"layer": LINEAR | changes})
    with pytest.raises(ValidationError, match="layer"):
        open_native(saved)


@pytest.mark.parametrize("linears", [[], {"ghost": LINEAR}, {"layer": "text"}, {"layer": None}, None])
def test_linears_of_another_form_are_refused(saved: Path, linears):
    reseal(saved, linears=linears)
    with pytest.raises(ValidationError):
        open_native(saved)


@pytest.mark.parametrize(
    "files", [None, [], {}, {"model.safetensors": "x"}, {"../x": {"size": 1, "sha256": ""}}]
)
def test_a_manifest_whose_files_make_no_sense_is_refused(saved: Path, files):
    reseal(saved, files=files)
    with pytest.raises(ValidationError):
        open_native(saved)


def test_a_directory_without_a_manifest_is_not_native(scripture_llama: Path, tmp_path: Path):
    assert not is_native(scripture_llama)
    assert not is_native(tmp_path / "nothing")
    assert not is_native("x" * 5000)
    assert not is_native("a\0b")
    with pytest.raises(ValidationError, match=r"no tritium\.json"):
        open_native(scripture_llama)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "tritium.json", "model.safetensors", "", "a//b", "a\\b", "."]
)
def test_a_file_is_not_saved_under_a_name_that_leads_out_or_hides_ours(tmp_path: Path, name: str):
    with pytest.raises(ValidationError):
        save_native(tmp_path / "m", **(content() | {"files": {name: b""}}))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_keys_of_the_container_are_not_the_callers(tmp_path: Path):
    with pytest.raises(ValidationError, match="format_version"):
        save_native(tmp_path / "m", **(content() | {"manifest": {"format_version": 9}}))


def test_an_inconsistent_model_is_not_saved(tmp_path: Path):
    wrong = content()
    wrong["tensors"]["layer.scales"] = np.ones((2, 1), np.float32)
    with pytest.raises(ValidationError, match=r"layer\.scales"):
        save_native(tmp_path / "m", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_saved_over_anything(saved: Path):
    with pytest.raises(ValidationError, match="exists already"):
        save_native(saved, **content())
    open_native(saved).close()
