"""Models cut into shards: the same tensors as in one file, or a refusal that names the shard."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.gguf import GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_reader import GGUFFile
from tritium.formats.gguf_shards import COUNT, NUMBER, TENSORS, GGUFFiles, model_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

METADATA = {"general.architecture": "llama", "a.words": ["x", "y"], "a.share": 0.5}


def name_of(place: int, count: int, model: str = "model") -> str:
    return f"{model}-{place:05d}-of-{count:05d}.gguf"


def tensor(name: str, values: np.ndarray) -> GGUFTensor:
    kind = TensorType.F16 if values.dtype == np.float16 else TensorType.F32
    return GGUFTensor(name, values.shape, kind, lambda: [np.ascontiguousarray(values).tobytes()])


def write_shards(
    directory: Path, parts: Sequence[dict[str, np.ndarray]], changes: dict[int, dict[str, Any]] | None = None
) -> list[Path]:
    """Write a model's tensors as shards; `changes` are of a shard's metadata, None takes a key away."""
    total, paths = sum(map(len, parts)), []
    for place, part in enumerate(parts):
        own = {NUMBER: place, COUNT: len(parts), TENSORS: total}
        metadata = (own if place else METADATA | own) | (changes or {}).get(place, {})
        path = directory / name_of(place + 1, len(parts))
        write_gguf(
            path,
            metadata={key: value for key, value in metadata.items() if value is not None},
            tensors=[tensor(name, values) for name, values in part.items()],
        )
        paths.append(path)
    return paths


def values_of(files: GGUFFiles) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (each.shape, files.data(each).tobytes()) for name, each in files.tensors.items()}


THREE = [
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(7, np.float16)},
    {"c": np.zeros((1, 5), np.float32)},
    {"d": np.full(3, 2, np.float16), "e": np.full((2, 2), 3, np.float32)},
]


@settings(max_examples=60)
@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=12),
    draw=st.data(),
)
def test_any_cut_holds_what_one_file_does_whichever_shard_is_named(tmp_path_factory, shapes, draw):
    directory = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(len(shapes))
    model = {
        f"t{index}": generator.normal(size=shape).astype(draw.draw(st.sampled_from([np.float16, np.float32])))
        for index, shape in enumerate(shapes)
    }
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(model)), max_size=5)))  # shards may be empty
    names = list(model)
    parts = [
        {name: model[name] for name in names[begin:end]}
        for begin, end in zip([0, *cuts], [*cuts, len(names)], strict=True)
    ]
    paths = write_shards(directory, parts)
    write_gguf(directory / "one.gguf", metadata=METADATA, tensors=[tensor(*each) for each in model.items()])
    with (
        GGUFFiles(directory / "one.gguf") as one,
        GGUFFiles(draw.draw(st.sampled_from(paths))) as several,
    ):
        assert values_of(several) == values_of(one)
        assert several.metadata == one.metadata == METADATA
        assert several.path == paths[0]
        assert several.paths == tuple(paths)
        for each in several.tensors.values():
            several.forget(each)  # they can be read again
        assert values_of(several) == values_of(one)


@pytest.mark.gguf
@pytest.mark.parametrize("split", [{"split_max_tensors": 2}, {"split_max_size": 700}])
@pytest.mark.parametrize("has_small_first", [False, True], ids=["", "metadata alone first"])
def test_what_the_official_package_splits_is_read_whole(tmp_path, split, has_small_first):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    generator = np.random.default_rng(0)
    values = {
        f"t{rows}": generator.standard_normal((rows, 32)).astype(np.float32)
        for rows in (1, 2, 3, 5, 7, 2 * 7)
    }
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", small_first_shard=has_small_first, **split)
    writer.add_array("words", ["a", "☃"])
    for name, each in values.items():
        writer.add_tensor(name, each)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 2
    for path in paths:
        with GGUFFiles(path) as files:
            assert files.metadata == {"general.architecture": "llama", "words": ["a", "☃"]}
            assert values_of(files) == {name: (each.shape, each.tobytes()) for name, each in values.items()}
    with GGUFFile(paths[0]) as first:
        assert bool(first.tensors) is not has_small_first


def test_a_shard_that_is_missing_is_named(tmp_path):
    paths = write_shards(tmp_path, THREE)
    paths[1].unlink()
    for path in (paths[0], paths[2]):
        with pytest.raises(ValidationError, match=r"model-00002-of-00003\.gguf: the shard is missing"):
            GGUFFiles(path)


def test_a_shard_that_is_there_twice_or_in_the_wrong_place_is_named(tmp_path):
    paths = write_shards(tmp_path, THREE)
    shutil.copyfile(paths[0], paths[1])
    with pytest.raises(ValidationError, match=r"00002-of-00003\.gguf: split\.no is '0' where '1' belongs"):
        GGUFFiles(paths[0])
    paths = write_shards(tmp_path, THREE)
    paths[1].rename(tmp_path / "kept")
    paths[2].rename(paths[1])
    (tmp_path / "kept").rename(paths[2])
    with pytest.raises(ValidationError, match=r"00002-of-00003\.gguf: split\.no is '2' where '1' belongs"):
        GGUFFiles(paths[0])


def test_a_shard_of_another_model_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    other = write_shards(tmp_path / "other", [THREE[0], THREE[1], {**THREE[2], "f": np.ones(1, np.float32)}])
    paths = write_shards(tmp_path, THREE)
    shutil.copyfile(other[2], paths[2])
    with pytest.raises(ValidationError, match=r"split\.tensors\.count is '6' where '5' belongs"):
        GGUFFiles(paths[1])


@pytest.mark.parametrize(
    ("parts", "changes", "reason"),
    [
        (THREE, {1: {TENSORS: 6}}, r"00002-of-00003\.gguf: split\.tensors\.count is '6' where '5' belongs"),
        (
            THREE,
            {key: {TENSORS: 6} for key in range(3)},
            r"split\.tensors\.count is '6', and the 3 shards hold 5",
        ),
        (THREE, {key: {TENSORS: None} for key in range(3)}, r"split\.tensors\.count is 'None', and the 3"),
        (THREE, {1: {COUNT: 4}}, r"00002-of-00003\.gguf: split\.count is '4' where '3' belongs"),
        (THREE, {0: {COUNT: 4}}, r"00001-of-00003\.gguf: split\.count is '4'"),
        (THREE, {0: {COUNT: None}}, r"00001-of-00003\.gguf: split\.count is '0'"),
        (THREE, {0: {COUNT: "3"}}, r"00001-of-00003\.gguf: split\.count is '3'"),
        (THREE, {0: {COUNT: [3]}}, r"00001-of-00003\.gguf: split\.count is '\[3\]'"),
        (THREE, {0: {NUMBER: None}}, r"00001-of-00003\.gguf: split\.no is 'None' where '0' belongs"),
        (THREE, {2: {TENSORS: None}}, r"00003-of-00003\.gguf: split\.tensors\.count is 'None'"),
        (
            THREE,
            {1: {"general.architecture": "bitnet"}},
            r"00002-of-00003\.gguf: 'general\.architecture' is 'bitnet', which the first shard does not say",
        ),
        (THREE, {1: {"a.more": 1}}, r"00002-of-00003\.gguf: 'a\.more' is '1', which the first"),
        (
            [THREE[0], {"a": np.ones(2, np.float32)}],
            {},
            r"00002-of-00002\.gguf: tensor 'a': is in model-00001-of-00002\.gguf as well",
        ),
    ],
)
def test_shards_that_contradict_each_other_are_refused_by_name(tmp_path, parts, changes, reason):
    paths = write_shards(tmp_path, parts, changes)
    with pytest.raises(ValidationError, match=reason):
        GGUFFiles(paths[0])


def test_shards_that_say_again_what_the_first_says_are_read(tmp_path):
    paths = write_shards(tmp_path, THREE, {1: dict(METADATA), 2: {"a.share": 0.5}})
    with GGUFFiles(paths[2]) as files:
        assert list(files.tensors) == ["a", "b", "c", "d", "e"]


def test_a_shard_under_another_name_is_refused_and_a_whole_file_is_not(tmp_path):
    paths = write_shards(tmp_path, THREE)
    for name in ("model.gguf", name_of(1, 2), name_of(4, 3), name_of(0, 3)):
        shutil.copyfile(paths[0], tmp_path / name)
        with pytest.raises(
            ValidationError, match=r"split\.count is '3', and the shards of a model are called"
        ):
            GGUFFiles(tmp_path / name)
    for name in ("whole.gguf", name_of(1, 1), "model-1-of-3.gguf"):
        write_gguf(tmp_path / name, metadata={COUNT: 1}, tensors=[])
        with GGUFFiles(tmp_path / name) as files:
            assert files.paths == (tmp_path / name,)


def test_a_shard_behind_a_link_that_leads_away_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    paths = write_shards(tmp_path / "inside", THREE)
    paths[1].rename(tmp_path / "outside.gguf")
    paths[1].symlink_to(tmp_path / "outside.gguf")
    with pytest.raises(ValidationError, match="leads out of the checkpoint"):
        GGUFFiles(paths[0])


def test_a_shard_that_was_cut_short_is_named(tmp_path):
    paths = write_shards(tmp_path, THREE)
    paths[2].write_bytes(paths[2].read_bytes()[:-32])
    with pytest.raises(ValidationError, match=r"00003-of-00003\.gguf: tensor 'e'"):
        GGUFFiles(paths[0])


def test_a_model_is_called_the_same_by_any_shard(tmp_path):
    names = ["model.gguf", name_of(2, 3), "model-00001-of-00001.gguf"]
    assert {model_name(tmp_path / name) for name in names} == {"model"}
    assert model_name(tmp_path / "directory") == "directory"
