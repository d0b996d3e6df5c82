from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tritium.errors import PlatformError, Recovery, ResourceError, ValidationError
from tritium.formats.storage import staged_directory, storage_error, write_file_atomically

# A limit on the size of a file is what a full disk looks like to a process, and needs no rights to set.
SAVE_WITH_LITTLE_ROOM = """
import resource, sys
import numpy as np
from pathlib import Path
from tritium.errors import ResourceError
from tritium.formats.native import save_native
from tritium.formats.safetensors import write_safetensors

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
tensors = {"w": np.zeros(100_000, np.float32)}
try:
    if sys.argv[1] == "file":
        write_safetensors(Path(sys.argv[3]), tensors)
    else:
        files = {"tokenizer.json": b"{}" * 500}
        save_native(sys.argv[3], tensors=tensors, manifest={"pad": "x" * 4000}, files=files)
except ResourceError as error:
    print(error.recovery, error.category, error.message, sep="|")
    sys.exit(7)
"""


def save_with_little_room(kind: str, *, room: int, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SAVE_WITH_LITTLE_ROOM, kind, str(room), str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("room", [0, 1, 4096, 200_000, 400_000])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_full_disk_leaves_nothing_half_written_and_says_what_to_do(kind: str, room: int, tmp_path: Path):
    run = save_with_little_room(kind, room=room, target=tmp_path / "target")
    assert run.returncode == 7, run.stderr
    assert run.stdout.startswith("upgrade_storage|resource_exhausted|No room to write target")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path: Path):
    (tmp_path / "target").write_text("the old one")
    assert save_with_little_room("file", room=1000, target=tmp_path / "target").returncode == 7
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("target", "the old one")]


def test_with_enough_room_the_same_program_saves(tmp_path: Path):
    run = save_with_little_room("directory", room=1 << 20, target=tmp_path / "target")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == [
        "model.safetensors",
        "tokenizer.json",
        "tritium.json",
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_to_say_full_asks_for_more_storage(number: int):
    error = storage_error(OSError(number, "full"), path=Path("/somewhere/model"))
    assert isinstance(error, ResourceError)
    assert error.recovery is Recovery.UPGRADE_STORAGE
    assert "/somewhere" not in error.message


def test_a_place_that_may_not_be_written_is_the_callers_mistake_and_a_broken_disk_is_not():
    assert isinstance(storage_error(OSError(errno.EACCES, "no"), path=Path("x")), ValidationError)
    assert isinstance(storage_error(OSError(errno.EIO, "broken"), path=Path("x")), PlatformError)


def test_an_interrupted_block_leaves_no_directory(tmp_path: Path):
    def interrupted() -> None:
        with staged_directory(tmp_path / "target") as staging:
            (staging / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_gives_way_and_a_full_one_does_not(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with staged_directory(tmp_path / "empty") as staging:
        (staging / "file").write_text("x")
    assert (tmp_path / "empty" / "file").read_text() == "x"
    with pytest.raises(ValidationError, match="exists already"), staged_directory(tmp_path / "empty"):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValidationError, match="exists already"), staged_directory(tmp_path / "file"):
        pass


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValidationError, match="Cannot write"):
        write_file_atomically(tmp_path / "file" / "below", [b"x"])
    with pytest.raises(ValidationError, match="Cannot write"), staged_directory(tmp_path / "file" / "below"):
        pass


def test_a_file_is_replaced_whole(tmp_path: Path):
    write_file_atomically(tmp_path / "file", [b"one", b"", b"two"])
    write_file_atomically(tmp_path / "file", [b"three"])
    assert (tmp_path / "file").read_bytes() == b"three"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
