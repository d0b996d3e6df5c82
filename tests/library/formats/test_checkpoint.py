from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as official

from tritium.errors import MissingExtraError, ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors

INDEX = "model.safetensors.index.json"


def two_shards(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    write_safetensors(directory / "model-00001-of-00002.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(directory / "model-00002-of-00002.safetensors", {"b": np.zeros(3, np.int8)})
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 11}, "weight_map": weight_map}))
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


def change_weight_map(directory: Path, **changes: str | None) -> None:
    content = json.loads((directory / INDEX).read_text())
    content["weight_map"].update(changes)
    content["weight_map"] = {key: value for key, value in content["weight_map"].items() if value is not None}
    (directory / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["scripture_llama", "scripture_bitnet_bitlinear", "scripture_bitnet_offline"]
)
def test_a_trained_checkpoint_reads_as_the_official_package_reads_it(name, request):
    path: Path = request.getfixturevalue(name)
    raw = dict(official.deserialize((path / "model.safetensors").read_bytes()))
    for memory_map_above in (0, 1 << 40):
        with open_checkpoint(path, memory_map_above=memory_map_above) as checkpoint:
            assert checkpoint.is_memory_mapped is (memory_map_above == 0)
            assert checkpoint.config["model_type"] in {"llama", "bitnet"}
            assert checkpoint.total_bytes == sum(len(entry["data"]) for entry in raw.values())
            assert set(checkpoint.tensors) == set(raw)
            for tensor, entry in raw.items():
                assert checkpoint.tensors[tensor].dtype == entry["dtype"]
                assert checkpoint.tensors[tensor].shape == tuple(entry["shape"])
                assert checkpoint.read(tensor).tobytes() == bytes(entry["data"])


def test_a_sharded_checkpoint_is_one_checkpoint(tmp_path: Path):
    with open_checkpoint(two_shards(tmp_path)) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b"}
        np.testing.assert_array_equal(checkpoint.read("a"), [1, 1])
        np.testing.assert_array_equal(checkpoint.read("b"), [0, 0, 0])
        assert checkpoint.total_bytes == 11


def test_a_single_file_is_a_checkpoint_with_the_config_beside_it(scripture_llama: Path, tmp_path: Path):
    with open_checkpoint(scripture_llama / "model.safetensors") as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    write_safetensors(tmp_path / "alone.safetensors", {"w": np.ones(1, np.float32)})
    with open_checkpoint(str(tmp_path / "alone.safetensors")) as checkpoint:
        assert checkpoint.config == {}
        assert checkpoint.file("tokenizer.json") is None


def test_a_missing_shard_is_named(tmp_path: Path):
    (two_shards(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValidationError, match=r"model-00002-of-00002\.safetensors: the file is missing"):
        open_checkpoint(tmp_path)


def test_an_extra_shard_is_named(tmp_path: Path):
    write_safetensors(
        two_shards(tmp_path) / "model-00003-of-00002.safetensors", {"c": np.ones(1, np.float32)}
    )
    with pytest.raises(ValidationError, match="model-00003-of-00002"):
        open_checkpoint(tmp_path)


def test_a_second_set_of_weights_beside_the_shards_is_refused(tmp_path: Path):
    write_safetensors(two_shards(tmp_path) / "model.safetensors", {"a": np.ones(1, np.float32)})
    with pytest.raises(ValidationError, match="does not name"):
        open_checkpoint(tmp_path)


def test_weights_of_another_library_beside_the_shards_are_left_alone(tmp_path: Path):
    write_safetensors(two_shards(tmp_path) / "consolidated.safetensors", {"z": np.ones(1, np.float32)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b"}


def test_a_tensor_the_index_misplaces_is_named(tmp_path: Path):
    change_weight_map(
        two_shards(tmp_path), a="model-00002-of-00002.safetensors", b="model-00001-of-00002.safetensors"
    )
    with pytest.raises(ValidationError, match="tensor 'a'"):
        open_checkpoint(tmp_path)


def test_a_tensor_the_index_invents_is_named(tmp_path: Path):
    change_weight_map(two_shards(tmp_path), ghost="model-00001-of-00002.safetensors")
    with pytest.raises(ValidationError, match="tensor 'ghost'"):
        open_checkpoint(tmp_path)


def test_a_tensor_the_index_forgets_is_named(tmp_path: Path):
    write_safetensors(
        two_shards(tmp_path) / "model-00001-of-00002.safetensors",
        {"a": np.ones(2, np.float32), "forgotten": np.ones(2, np.float32)},
    )
    with pytest.raises(ValidationError, match="tensor 'forgotten'"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path):
    write_safetensors(
        two_shards(tmp_path) / "model-00002-of-00002.safetensors",
        {"a": np.ones(2, np.float32), "b": np.zeros(3, np.int8)},
    )
    with pytest.raises(ValidationError, match="tensor 'a': is in model-00001-of-00002"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_value_that_is_not_finite_is_named_with_file_tensor_and_position(value, dtype, tmp_path: Path):
    weights = np.zeros((3, 4), dtype=dtype)
    weights[1, 2] = value
    write_safetensors(tmp_path / "model.safetensors", {"good": np.ones(1, dtype), "bad": weights})
    with open_checkpoint(tmp_path) as checkpoint:
        checkpoint.read("good")
        for read in (checkpoint.read, checkpoint.read_float32):
            with pytest.raises(
                ValidationError, match=r"model\.safetensors: tensor 'bad': NaN or Inf at \[1, 2\]"
            ) as e:
                read("bad")
            assert e.value.details == {
                "file": "model.safetensors",
                "tensor": "bad",
                "reason": "NaN or Inf at [1, 2]",
            }


def test_every_float_type_is_read_as_float32(tmp_path: Path):
    tensors = {
        "half": np.array([0.5, 65504], np.float16),
        "bfloat16": np.array([0x3F80, 0x0001], np.uint16),
        "single": np.array([1e-45, 3.4e38], np.float32),
        "double": np.array([0.1, 2], np.float64),
    }
    write_safetensors(tmp_path / "model.safetensors", {**tensors, "integer": np.ones(1, np.int8)})
    with open_checkpoint(tmp_path) as checkpoint:
        for name in tensors:
            assert checkpoint.read_float32(name).dtype == np.float32
        np.testing.assert_array_equal(checkpoint.read_float32("half"), [0.5, 65504])
        np.testing.assert_array_equal(checkpoint.read_float32("double"), np.float32([0.1, 2]))
        with pytest.raises(ValidationError, match="floating point is needed here, not I8"):
            checkpoint.read_float32("integer")


def test_a_double_beyond_float32_is_refused(tmp_path: Path):
    write_safetensors(tmp_path / "model.safetensors", {"w": np.array([1e300])})
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(ValidationError, match="beyond the range"):
        checkpoint.read_float32("w")


def test_a_tensor_that_is_not_there_is_named(scripture_llama: Path):
    with (
        open_checkpoint(scripture_llama) as checkpoint,
        pytest.raises(ValidationError, match="tensor 'nothing'"),
    ):
        checkpoint.read("nothing")


@pytest.mark.parametrize(
    "config", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', '"\\ud800"']
)
def test_a_config_that_is_not_plain_json_is_refused(config, tmp_path: Path):
    (two_shards(tmp_path) / "config.json").write_text(config)
    with pytest.raises(ValidationError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_directory_without_weights_says_so(tmp_path: Path):
    with pytest.raises(ValidationError, match=r"no \.safetensors weights"):
        open_checkpoint(tmp_path)


def test_several_weight_files_without_an_index_are_refused(tmp_path: Path):
    for name in ("x.safetensors", "y.safetensors"):
        write_safetensors(tmp_path / name, {"w": np.ones(1, np.float32)})
    with pytest.raises(ValidationError, match="no model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("source", ["no/such/place", "nowhere", "/nowhere/at/all", "a\0b", "x" * 5000, ""])
def test_a_place_that_does_not_exist_says_so(source):
    with pytest.raises(ValidationError):
        open_checkpoint(source, allow_hub=False)


@contextlib.contextmanager
def unprivileged():
    """Run as somebody whom the modes of files stop."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_says_so():
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories bar the way already further up
        directory = two_shards(Path(name))
        directory.chmod(0o755)
        (directory / "config.json").chmod(0)
        with (
            unprivileged(),
            pytest.raises(ValidationError, match=r"config\.json: cannot be opened: Perm"),
        ):
            open_checkpoint(directory)
        directory.chmod(0)
        for path in (directory, directory / "model.safetensors"):
            with unprivileged(), pytest.raises(ValidationError, match="Permission denied"):
                open_checkpoint(path)
        directory.chmod(0o700)


def test_a_hub_name_without_the_extra_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"tritium\[hub\]"):
        open_checkpoint("organisation/model")
