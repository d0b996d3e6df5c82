from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.audit.files import DurableFiles
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.merkle import EMPTY_ROOT, leaf_hash, node_hash
from tritium_platform.audit.proof import verify_consistency, verify_inclusion
from tritium_platform.audit.tiles import TileReader, TreeEdge, decode_bundle, encode_bundle, tile_path
from tritium_platform.audit.verify import verify_log
from tritium_platform.errors import PlatformError, ResourceError


def rfc_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(rfc_root(leaves[:k]), rfc_root(leaves[k:]))


class MemoryFiles:
    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def read(self, path: str) -> bytes | None:
        return self.contents.get(path)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"level": 0, "index": 0}, "tile/0/000"),
        ({"level": 1, "index": 999, "width": 3}, "tile/1/999.p/3"),
        ({"level": 0, "index": 1234067}, "tile/0/x001/x234/067"),
        ({"level": None, "index": 70, "width": 1}, "tile/entries/070.p/1"),
    ],
)
def test_tiles_are_named_as_the_specification_says(arguments, path):
    assert tile_path(**arguments) == path


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_gives_back_its_leaves(leaves):
    assert decode_bundle(encode_bundle(leaves)) == leaves


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5), st.data())
def test_a_truncated_bundle_is_refused_or_shorter(leaves, data):
    bundle = encode_bundle(leaves)
    cut = bundle[: data.draw(st.integers(0, len(bundle) - 1))]
    try:
        assert decode_bundle(cut) == leaves[: len(decode_bundle(cut))]
        assert len(decode_bundle(cut)) < len(leaves)
    except PlatformError:
        pass


@given(st.lists(st.integers(1, 700), max_size=5))
@settings(max_examples=40, deadline=None)
def test_tiles_written_in_any_batches_hash_to_the_root_of_the_rfc(batches):
    files, edge, leaves = MemoryFiles(), TreeEdge(), list[bytes]()
    for batch in batches:
        new = [f"leaf {len(leaves) + n}".encode() for n in range(batch)]
        files.contents.update(edge.append(new))
        leaves += new
        assert (edge.root() or EMPTY_ROOT) == rfc_root(leaves)
        reader = TileReader(files, size=len(leaves))
        reloaded = TreeEdge.load(reader)
        assert (reloaded.bundle, reloaded.levels) == (edge.bundle, edge.levels)
        assert [reader.read_leaf(n) for n in range(0, len(leaves), 97)] == leaves[::97]


def test_a_tree_of_three_levels_is_loaded_again():
    files, edge = MemoryFiles(), TreeEdge()
    files.contents.update(edge.append([b"%d" % n for n in range(256 * 256 + 300)]))
    assert TreeEdge.load(TileReader(files, size=edge.size)).root() == edge.root()
    assert {
        "tile/0/256",
        "tile/0/257.p/44",
        "tile/1/000",
        "tile/1/001.p/1",
        "tile/2/000.p/1",
    } <= files.contents.keys()


def test_an_empty_log_has_a_signed_checkpoint(open_log, signer, tmp_path):
    log = open_log(tmp_path)
    assert (log.checkpoint.size, log.checkpoint.root) == (0, EMPTY_ROOT)
    assert verify_log(tmp_path, signer.verifier.vkey).is_intact


def test_what_was_appended_is_read_back_after_reopening(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    assert log.append([intent(n) for n in range(3)]) == [0, 1, 2]
    assert log.append([intent(n) for n in range(3, 600)]) == list(range(3, 600))
    log.close()
    again = open_log(tmp_path)
    assert [entry.details["tokens"] for entry in again.read_entries(start=0, end=999)] == list(range(600))
    assert again.read_entry(599).id == intent(599).id
    assert again.append([intent(600)]) == [600]
    assert [again.read_entry(n).tenant_seq for n in range(597, 601)] == [199, 199, 199, 200]
    with pytest.raises(PlatformError, match="no entry 601"):
        again.read_entry(601)


def test_time_in_the_log_never_goes_back_when_the_clock_does(open_log, intent, clock, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(0)])
    clock.moment -= timedelta(days=1)
    log.append([intent(1)])
    log.close()
    reopened = open_log(tmp_path)
    reopened.append([intent(2)])
    times = [entry.timestamp for entry in reopened.read_entries(start=0, end=3)]
    assert times == sorted(times)


def test_a_lost_or_damaged_snapshot_of_the_sequences_is_rebuilt(open_log, signer, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(n) for n in range(4200)])
    log.close()
    snapshot = tmp_path / ".writer" / "sequences"
    assert json.loads(snapshot.read_bytes())["size"] == 4200
    for damage in (b"", b"{", b'{"size": 1}', b'{"size": 99999999}'):
        snapshot.write_bytes(damage)
        log = open_log(tmp_path)
        log.append([intent(log.checkpoint.size)])
        log.close()
    snapshot.unlink()
    log = open_log(tmp_path)
    log.append([intent(log.checkpoint.size)])
    assert verify_log(tmp_path, signer.verifier.vkey).problems == ()


def test_a_second_writer_is_told_so(open_log, tmp_path):
    first = open_log(tmp_path)
    with pytest.raises(ResourceError, match="Another process writes the audit log"):
        open_log(tmp_path)
    first.close()
    open_log(tmp_path)


def test_a_writer_in_another_process_is_refused(open_log, tmp_path):
    open_log(tmp_path)
    program = (
        "import sys, pathlib\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "from tritium_platform.audit.log import AuditLog\n"
        "from tritium_platform.audit.note import NoteSigner\n"
        "from tritium_platform.values import SystemClock\n"
        "signer = NoteSigner('a', private_key=Ed25519PrivateKey.generate())\n"
        "AuditLog.open(pathlib.Path(sys.argv[1]), signer=signer, clock=SystemClock())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "ResourceError: Another process writes the audit log" in result.stderr


def test_a_closed_log_is_not_written(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    log.close()
    with pytest.raises(PlatformError, match="closed"):
        log.append([intent(0)])


def test_an_entry_proves_that_it_is_in_the_log_and_the_log_that_it_continues(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(n) for n in range(300)])
    old = log.checkpoint
    log.append([intent(n) for n in range(300, 777)])
    head = log.checkpoint
    for index in (0, 255, 256, 299, 776):
        leaf = TileReader(DurableFiles(tmp_path), size=head.size).read_leaf(index)
        assert verify_inclusion(
            index=index, size=777, leaf=leaf_hash(leaf), proof=log.inclusion_proof(index), root=head.root
        )
    assert verify_consistency(
        old_size=300, new_size=777, old_root=old.root, new_root=head.root, proof=log.consistency_proof(300)
    )


def test_entries_are_found_by_id(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(n) for n in range(600)])
    wanted = [intent(n).id for n in (0, 300, 599, 700)]
    assert log.find(wanted) == {intent(n).id: n for n in (0, 300, 599)}


def test_partial_tiles_go_when_the_tile_is_full_and_not_before(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    for n in range(255):
        log.append([intent(n)])
    assert len(list((tmp_path / "tile/0/000.p").iterdir())) == 255
    log.append([intent(255), intent(256)])
    assert not (tmp_path / "tile/0/000.p").exists()
    assert not (tmp_path / "tile/entries/000.p").exists()
    assert (tmp_path / "tile/0/000").stat().st_size == 8192
    assert (tmp_path / "tile/0/001.p/1").stat().st_size == 32
    assert (tmp_path / "tile/1/000.p/1").stat().st_size == 32


class FullDisk(DurableFiles):
    """Refuses the n-th file as a full disk does."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.left: int | None = None

    def write_synced(self, path, content) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
        super().write_synced(path, content)


@pytest.mark.parametrize("writable", range(4))
def test_after_a_full_disk_the_same_entries_are_logged_once(writable, open_log, signer, intent, tmp_path):
    files = FullDisk(tmp_path)
    log = open_log(tmp_path, files=files)
    log.append([intent(0)])
    files.left = writable
    with pytest.raises(PlatformError, match="No space left"):
        log.append([intent(1), intent(2)])
    files.left = None
    assert log.append([intent(1), intent(2), intent(3)]) == [1, 2, 3]
    report = verify_log(tmp_path, signer.verifier.vkey)
    assert (report.problems, report.entries) == ((), 4)


def test_what_is_found_logged_after_one_failure_is_remembered_through_the_next(
    open_log, signer, intent, tmp_path
):
    files = FullDisk(tmp_path)
    log = open_log(tmp_path, files=files)
    log.append([intent(0)])
    files.left = 3  # its tiles and its commitment are written, its checkpoint is not
    with pytest.raises(PlatformError, match="No space left"):
        log.append([intent(1)])
    files.left = 1  # the checkpoint of what was committed, and nothing of what is new
    with pytest.raises(PlatformError, match="No space left"):
        log.append([intent(1), intent(2)])
    files.left = None
    assert log.append([intent(1), intent(2)]) == [1, 2]
    report = verify_log(tmp_path, signer.verifier.vkey)
    assert (report.problems, report.entries) == ((), 3)


def test_a_log_with_a_wrong_tile_is_not_written_any_further(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(n) for n in range(10)])
    tile = tmp_path / "tile/0/000.p/10"
    good = tile.read_bytes()
    tile.write_bytes(good[:5] + bytes([good[5] ^ 1]) + good[6:])
    log.close()
    with pytest.raises(PlatformError, match="tampered"):
        open_log(tmp_path)
    tile.unlink()
    with pytest.raises(PlatformError, match=r"lacks tile/0/000\.p/10|lacks tile/0/000"):
        open_log(tmp_path)


def test_nothing_is_signed_that_does_not_continue_the_published_checkpoint(open_log, intent, tmp_path):
    forged = tmp_path / "forged"
    log, other = open_log(tmp_path / "log"), open_log(forged)
    log.append([intent(n) for n in range(5)])
    other.append([intent(n) for n in range(10, 15)])
    (tmp_path / "log/checkpoint").write_bytes((forged / "checkpoint").read_bytes())
    with pytest.raises(PlatformError, match="refuses to sign"):
        log.append([intent(20)])


def test_a_checkpoint_of_somebody_else_is_not_continued(open_log, intent, tmp_path, clock):
    log = open_log(tmp_path)
    log.append([intent(0)])
    note = tmp_path / "checkpoint"
    note.write_bytes(note.read_bytes().replace(b"audit.test", b"audit.evil"))
    log.close()
    with pytest.raises(PlatformError, match="not ours"):
        open_log(tmp_path)


def test_writer_state_that_is_older_than_the_checkpoint_or_damaged_is_refused(open_log, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(0)])
    committed = tmp_path / ".writer/committed"
    old = committed.read_bytes()
    log.append([intent(1)])
    log.close()
    for state, message in ((old, "older than its checkpoint"), (b"{}", "damaged"), (b"\xff", "damaged")):
        committed.write_bytes(state)
        with pytest.raises(PlatformError, match=message):
            open_log(tmp_path)
    committed.unlink()
    assert open_log(tmp_path).checkpoint.size == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_any_batches_with_reopening_between_make_an_intact_log(
    batches, signer, clock, intent, tmp_path_factory
):
    directory = tmp_path_factory.mktemp("log")
    number, saved = 0, None
    for batch in batches:
        log = AuditLog.open(directory, signer=signer, clock=clock)
        log.append([intent(number + n) for n in range(batch)])
        log.close()
        number += batch
        report = verify_log(directory, signer.verifier.vkey, saved_checkpoint=saved)
        assert (report.problems, report.entries) == ((), number)
        saved = (directory / "checkpoint").read_bytes()
