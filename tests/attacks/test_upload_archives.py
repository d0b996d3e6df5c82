"""Archives that try to escape, to explode, or to lie: none leaves a byte behind."""

from __future__ import annotations

import io
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium.errors import BitNetServiceError
from tritium_platform.errors import ValidationError
from tritium_platform.serving.archive import unpack_checkpoint, unpacked_size

LIMIT = 50_000_000


def archive_of(path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def checkpoint_entries(directory: Path, *, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in directory.iterdir()}


def take(archive: Path, target: Path, *, limit: int) -> None:
    unpacked_size(archive)
    unpack_checkpoint(archive, target=target, limit=limit)


def refuse(archive: Path, target: Path, *, match: str, limit: int = LIMIT, threat: str | None = None) -> None:
    with pytest.raises(ValidationError, match=match) as caught:
        take(archive, target, limit=limit)
    assert caught.value.details.get("threat") == threat
    assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("prefix", ["", "model/"])
def test_a_checkpoint_is_unpacked_with_or_without_its_directory(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, prefix: str
) -> None:
    entries = checkpoint_entries(scripture_bitnet_bitlinear, prefix=prefix)
    archive = archive_of(tmp_path / "a.zip", entries)
    size = unpacked_size(archive)
    unpack_checkpoint(archive, target=tmp_path / "target", limit=size)
    assert checkpoint_entries(tmp_path / "target", prefix=prefix) == entries
    assert size == sum(map(len, entries.values()))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "a\\..\\evil",
        "C:evil",
        "a/b/c/d",
        "nul\0byte",
        "x" * 300,
        "new\nline",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, name: str
) -> None:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, data in checkpoint_entries(scripture_bitnet_bitlinear).items():
            opened.writestr(entry, data)
        opened.writestr(info, b"x")
    if "\0" in name:  # zipfile cuts the name at the zero byte: what is left is harmless
        unpack_checkpoint(archive, target=tmp_path / "target", limit=LIMIT)
        assert (tmp_path / "target" / "nul").read_bytes() == b"x"
    else:
        threat = "path_traversal" if ".." in name or name.startswith("/") else None
        refuse(archive, tmp_path / "target", match="unsafe name", threat=threat)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("model.safetensors")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, b"/etc/passwd")
    refuse(tmp_path / "a.zip", tmp_path / "target", match="link or a device")


def test_a_bomb_stops_at_the_limit_before_it_is_written(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"model.safetensors": bytes(100_000_000)})
    assert archive.stat().st_size < 200_000
    assert unpacked_size(archive) == 100_000_000
    refuse(
        archive,
        tmp_path / "target",
        match="more than the archive says",
        limit=1_000_000,
        threat="size_mismatch",
    )


def test_an_entry_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"model.safetensors": bytes(10_000_000)})
    data = bytearray(archive.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, 10)  # the declared size in the archive's directory
    archive.write_bytes(data)
    assert unpacked_size(archive) == 10
    refuse(archive, tmp_path / "target", match="damaged|more than|disagree|safetensors")


def test_one_name_twice_is_refused_whatever_its_case(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"config.json": b"{}", "CONFIG.json": b"{}"})
    refuse(archive, tmp_path / "target", match="twice")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {str(number): b"" for number in range(1001)})
    refuse(archive, tmp_path / "target", match="1001 files")


@pytest.mark.parametrize("is_hidden_in_zip64", [False, True])
def test_a_directory_of_millions_of_files_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_hidden_in_zip64: bool
) -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * 30_000
    size = len(directory)
    end = b""
    if is_hidden_in_zip64:
        end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, 0)
        end += struct.pack("<4sIQI", b"PK\x06\x07", 0, size, 1)
        size = 0
    end += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0)
    (tmp_path / "a.zip").write_bytes(directory + end)
    assert len(zipfile.ZipFile(tmp_path / "a.zip").infolist()) == 30_000  # what must not happen
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refuse(tmp_path / "a.zip", tmp_path / "target", match="far more than 1000 files")


def test_other_compressions_and_encryption_are_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"config.json": b"{}"}, compression=zipfile.ZIP_BZIP2)
    refuse(archive, tmp_path / "target", match="stored or deflate")
    archive = archive_of(tmp_path / "a.zip", {"config.json": b"{}"})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + 8, 1)
    archive.write_bytes(data)
    refuse(archive, tmp_path / "target", match="encrypted")


def test_an_archive_of_something_else_than_a_checkpoint_is_refused(tmp_path: Path) -> None:
    refuse(archive_of(tmp_path / "a.zip", {"readme.txt": b"hello"}), tmp_path / "target", match="safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_refused_by_name_or_unpacks_to_the_same_files(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, data: st.DataObject
) -> None:
    whole = io.BytesIO()
    entries = checkpoint_entries(scripture_bitnet_bitlinear)
    files = {name: entries[name] for name in ("config.json", "model.safetensors")}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    damaged = bytearray(whole.getvalue())
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        place = Path(name)
        (place / "a.zip").write_bytes(damaged[:cut])
        try:
            take(place / "a.zip", place / "target", limit=LIMIT)
        except BitNetServiceError:
            assert [path.name for path in place.iterdir()] == ["a.zip"]
        else:
            assert sorted(checkpoint_entries(place / "target").values()) == sorted(files.values())
