"""Attack: a checkpoint that makes the reader open a file of somebody else, run code, or wait for ever."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors

INDEX = "model.safetensors.index.json"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A readable weight file outside of the checkpoint."""
    path = tmp_path / "secret.safetensors"
    write_safetensors(path, {"w": np.ones(1, np.float32)})
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "./secret.safetensors",
        "sub/../../secret.safetensors",
        "..",
        "",
        ".safetensors/",
        "..\\secret.safetensors",
        "secret.safetensors\0",
        "\0.safetensors",
        "x" * 300 + ".safetensors",
        "//secret.safetensors",
        "model.bin",
        None,
        7,
        ["../secret.safetensors"],
    ],
)
def test_an_index_cannot_name_a_file_outside(model: Path, secret: Path, name):
    (model / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValidationError):
        open_checkpoint(model)
    (model / INDEX).write_text(json.dumps({"weight_map": {"w": str(secret)}}))
    with pytest.raises(ValidationError, match="plain name"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"\xff", b"{" * 9999]
)
def test_an_index_of_another_form_is_refused(model: Path, index: bytes):
    (model / INDEX).write_bytes(index)
    with pytest.raises(ValidationError, match=INDEX):
        open_checkpoint(model)


def test_an_index_with_a_name_twice_is_refused(model: Path, secret: Path):
    (model / INDEX).write_text('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}')
    with pytest.raises(ValidationError, match="twice"):
        open_checkpoint(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
def test_a_link_out_of_the_checkpoint_is_refused(model: Path, secret: Path, name: str):
    write_safetensors(model / "weights.safetensors", {"w": np.ones(1, np.float32)})
    (model / name).symlink_to(secret)
    with pytest.raises(ValidationError, match="leads out"):
        open_checkpoint(model)


def test_a_linked_folder_out_of_the_checkpoint_is_refused(model: Path, secret: Path, tmp_path: Path):
    write_safetensors(model / "model.safetensors", {"w": np.ones(1, np.float32)})
    (tmp_path / "config.json").write_text("{}")
    (model / "1_Pooling").symlink_to(tmp_path)
    with open_checkpoint(model) as checkpoint, pytest.raises(ValidationError, match="leads out"):
        checkpoint.file("1_Pooling/config.json")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../x", "..", "", "a\\..\\b", "x\0y"]
)
def test_no_file_is_handed_out_from_outside(model: Path, secret: Path, name: str):
    write_safetensors(model / "model.safetensors", {"w": np.ones(1, np.float32)})
    with open_checkpoint(model) as checkpoint, pytest.raises(ValidationError):
        checkpoint.file(name)


def test_links_inside_the_cache_of_the_hub_are_followed(tmp_path: Path):
    repository = tmp_path / "models--organisation--model"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_safetensors(repository / "blobs" / "sha", {"w": np.ones(1, np.float32)})
    (snapshot / "model.safetensors").symlink_to("../../blobs/sha")
    with open_checkpoint(snapshot) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("w"), [1])
    (snapshot / "config.json").symlink_to("../../../outside.json")
    (tmp_path / "outside.json").write_text("{}")
    with pytest.raises(ValidationError, match="leads out"):
        open_checkpoint(snapshot)


def test_links_in_a_circle_are_refused(model: Path):
    (model / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ValidationError):
        open_checkpoint(model)


class Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".PT"])
def test_a_pickle_is_refused_by_name_and_never_opened(model: Path, tmp_path: Path, suffix: str):
    witness = tmp_path / "executed"
    path = model / f"pytorch_model{suffix}"
    path.write_bytes(pickle.dumps(Bomb(witness)))
    for source in (path, model):
        with pytest.raises(ValidationError, match=rf"pytorch_model\{suffix}: is a pickle"):
            open_checkpoint(source)
    assert not witness.exists()


def test_a_pickle_under_the_name_of_a_safetensors_file_is_refused(model: Path, tmp_path: Path):
    witness = tmp_path / "executed"
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(witness)) + bytes(100))
    with pytest.raises(ValidationError):
        open_checkpoint(model)
    assert not witness.exists()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", INDEX, "model-00001-of-00001.safetensors"]
)
def test_a_pipe_does_not_make_the_reader_wait(model: Path, name: str):
    write_safetensors(model / "weights.safetensors", {"w": np.ones(1, np.float32)})
    os.mkfifo(model / name)
    try:
        checkpoint = open_checkpoint(model)
    except ValidationError:
        return
    checkpoint.close()
    with pytest.raises(ValidationError, match="not a regular file"):
        open_checkpoint(model / name)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom", "/proc/self/mem", "/"])
def test_a_device_is_not_a_checkpoint(device: str):
    with pytest.raises(ValidationError):
        open_checkpoint(device)


def test_a_file_cut_after_it_was_verified_is_noticed(model: Path):
    write_safetensors(model / "model.safetensors", {"w": np.ones(1000, np.float32)})
    with open_checkpoint(model) as checkpoint:
        with (model / "model.safetensors").open("r+b") as file:
            file.truncate(500)
        with pytest.raises(ValidationError, match="ends before its data"):
            checkpoint.read("w")


def test_a_file_replaced_after_it_was_verified_is_not_read(model: Path):
    write_safetensors(model / "model.safetensors", {"w": np.ones(3, np.float32)})
    with open_checkpoint(model) as checkpoint:
        write_safetensors(model / "model.safetensors", {"w": np.zeros(3, np.float32)})
        np.testing.assert_array_equal(checkpoint.read("w"), [1, 1, 1])


def test_a_config_of_a_gigabyte_is_refused_before_it_is_read(model: Path):
    write_safetensors(model / "model.safetensors", {"w": np.ones(3, np.float32)})
    with (model / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValidationError, match=r"config\.json: 1073741824 bytes are more than the limit"):
        open_checkpoint(model)
