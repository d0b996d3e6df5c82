"""Whoever can write the files of the audit log tries to change history; the auditor has the verifier key."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.audit.checkpoint import Checkpoint, sign_checkpoint
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.model import (
    ActionOutcome,
    AuditIntent,
    ResourceIdentifier,
    canonical_json,
    entry_from_dict,
    entry_to_dict,
    leaf_data,
)
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.tiles import TreeEdge, decode_bundle, encode_bundle
from tritium_platform.audit.verify import verify_log
from tritium_platform.errors import ValidationError

SIGNER = NoteSigner("audit.test/log", private_key=Ed25519PrivateKey.from_private_bytes(bytes(32)))
VKEY = SIGNER.verifier.vkey


class FixedClock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 23, tzinfo=UTC)

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def monotonic_nanoseconds(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def an_action(number: int) -> AuditIntent:
    return AuditIntent(
        id=UUID(int=number + 1),
        event_id=UUID(int=number + 1),
        occurred_at=datetime(2026, 11, 22, tzinfo=UTC),
        action="api_key.revoke",
        resource_affected=ResourceIdentifier("api_key", str(number)),
        outcome=ActionOutcome.SUCCESS,
        tenant_id=UUID(int=number % 2),
    )


def write_log(directory, numbers, *, batch: int = 100) -> None:
    log = AuditLog.open(directory, signer=SIGNER, clock=FixedClock())
    actions = [an_action(n) for n in numbers]
    for start in range(0, len(actions), batch):
        log.append(actions[start : start + batch])
    log.close()


def write_forged_log(directory, leaves: list[bytes]) -> None:
    """Write a log with the real key around any leaves: an operator who rewrites history from scratch."""
    edge = TreeEdge()
    files = edge.append(leaves)
    files["checkpoint"] = sign_checkpoint(Checkpoint(SIGNER.name, len(leaves), edge.root()), signer=SIGNER)
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


def read_leaves(directory, count: int) -> list[bytes]:
    return decode_bundle((directory / f"tile/entries/000.p/{count}").read_bytes())


def resigned(leaf: bytes, **changes) -> bytes:
    entry = replace(entry_from_dict(json.loads(leaf)), digital_signature="", **changes)
    signature = base64.b64encode(SIGNER.sign(canonical_json(entry_to_dict(entry)))).decode()
    return leaf_data(replace(entry, digital_signature=signature))


def public_files(directory) -> list:
    files = [file for file in directory.rglob("*") if file.is_file() and ".writer" not in file.parts]
    return sorted(files)


def problems_of(directory, **arguments) -> tuple[str, ...]:
    return verify_log(directory, VKEY, **arguments).problems


def test_every_single_flipped_bit_of_a_small_log_is_detected(tmp_path):
    write_log(tmp_path, range(2), batch=1)
    assert problems_of(tmp_path) == ()
    flips = 0
    for file in public_files(tmp_path):
        original = file.read_bytes()
        for position in range(len(original) * 8):
            flipped = bytearray(original)
            flipped[position // 8] ^= 1 << position % 8
            file.write_bytes(flipped)
            assert problems_of(tmp_path), f"{file.name}: bit {position}"
            flips += 1
        file.write_bytes(original)
    assert flips > 10_000
    assert problems_of(tmp_path) == ()


def test_a_flipped_bit_anywhere_in_full_tiles_of_every_level_is_detected(tmp_path):
    write_log(tmp_path, range(600))
    files = public_files(tmp_path)
    assert len(files) > 8
    for file in files:
        original = file.read_bytes()
        for offset in {0, len(original) // 3, len(original) - 1}:
            file.write_bytes(original[:offset] + bytes([original[offset] ^ 4]) + original[offset + 1 :])
            assert problems_of(tmp_path), file.name
        file.write_bytes(original)


@pytest.mark.parametrize("lost", [1, 32, -1])
def test_a_truncated_or_missing_file_is_detected(lost, tmp_path):
    write_log(tmp_path, range(300), batch=300)
    for file in public_files(tmp_path):
        original = file.read_bytes()
        if lost == -1:
            file.unlink()
        else:
            file.write_bytes(original[:-lost])
        assert problems_of(tmp_path), file.name
        file.write_bytes(original)


def rewrite_bundle(directory, change) -> None:
    file = directory / "tile/entries/000.p/10"
    file.write_bytes(encode_bundle(change(decode_bundle(file.read_bytes()))))


@pytest.mark.parametrize(
    "change",
    [
        lambda leaves: leaves[:3] + leaves[4:],
        lambda leaves: [*leaves[:3], leaves[4], leaves[3], *leaves[5:]],
        lambda leaves: [*leaves[:3], leaves[2], *leaves[4:]],
        lambda leaves: [*leaves, leaves[-1]],
        lambda leaves: [*leaves[:9], b"{}"],
        lambda leaves: [*leaves[:9], b"[" * 60_000],
    ],
    ids=["drop", "swap", "duplicate", "add", "replace", "nesting"],
)
def test_entries_dropped_swapped_doubled_or_added_are_detected(change, tmp_path):
    write_log(tmp_path, range(10))
    rewrite_bundle(tmp_path, change)
    assert problems_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda leaves: leaves[:3] + leaves[4:], "is missing"),
        (lambda leaves: [*leaves[:3], leaves[4], leaves[3], *leaves[5:]], "goes back in time"),
        (lambda leaves: [*leaves, leaves[-1]], "repeats the id"),
        (
            lambda leaves: [*leaves[:9], leaves[9].replace(b"revoke", b"create")],
            "wrong signature",
        ),
        (lambda leaves: [*leaves[:5], b" " + leaves[5], *leaves[6:]], "not canonical"),
        (lambda leaves: [*leaves[:5], b'{"action":1}', *leaves[6:]], "cannot be read"),
        (lambda leaves: [*leaves[:9], resigned(leaves[9], tenant_seq=7)], "number 7"),
        (
            lambda leaves: [*leaves[:9], resigned(leaves[9], timestamp=datetime(2020, 1, 1, tzinfo=UTC))],
            "goes back in time",
        ),
    ],
)
def test_even_with_the_tree_rebuilt_and_signed_anew_a_changed_entry_shows(change, problem, tmp_path):
    write_log(tmp_path / "true", range(10))
    leaves = change(read_leaves(tmp_path / "true", 10))
    write_forged_log(tmp_path / "forged", leaves)
    assert any(problem in text for text in problems_of(tmp_path / "forged"))


def test_a_rollback_is_detected_by_a_checkpoint_kept_outside(tmp_path):
    write_log(tmp_path / "log", range(5))
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    write_log(tmp_path / "log", range(5, 12))
    kept = (tmp_path / "log/checkpoint").read_bytes()
    assert problems_of(tmp_path / "old") == ()
    assert "rolled back" in problems_of(tmp_path / "old", saved_checkpoint=kept)[0]


def test_a_history_rewritten_from_scratch_with_the_key_is_detected_by_a_kept_checkpoint(tmp_path):
    write_log(tmp_path / "log", range(300))
    kept = (tmp_path / "log/checkpoint").read_bytes()
    write_log(tmp_path / "log", range(300, 310))
    assert problems_of(tmp_path / "log", saved_checkpoint=kept) == ()
    write_log(tmp_path / "rewritten", range(1, 400))
    assert problems_of(tmp_path / "rewritten") == ()
    assert "saved checkpoint" in problems_of(tmp_path / "rewritten", saved_checkpoint=kept)[0]


def test_the_empty_checkpoint_is_continued_by_every_log(tmp_path):
    write_log(tmp_path, [])
    kept = (tmp_path / "checkpoint").read_bytes()
    write_log(tmp_path, range(3))
    assert problems_of(tmp_path, saved_checkpoint=kept) == ()


def test_a_log_signed_by_another_key_under_the_same_name_is_refused(tmp_path):
    write_log(tmp_path, range(3))
    thief = NoteSigner(SIGNER.name, private_key=Ed25519PrivateKey.generate())
    assert verify_log(tmp_path, thief.verifier.vkey).problems


def test_no_log_at_all_is_a_problem_and_a_bad_key_is_an_error(tmp_path):
    assert "no checkpoint" in problems_of(tmp_path / "nowhere")[0]
    with pytest.raises(ValidationError):
        verify_log(tmp_path, "nonsense")


def test_a_size_beyond_what_is_there_ends_with_a_report_and_not_with_a_loop(tmp_path):
    write_log(tmp_path, range(3))
    lie = Checkpoint(SIGNER.name, 10**17, bytes(32))
    (tmp_path / "checkpoint").write_bytes(sign_checkpoint(lie, signer=SIGNER))
    assert "missing" in problems_of(tmp_path)[0]


def test_the_report_of_an_intact_log_says_what_was_looked_at(tmp_path):
    write_log(tmp_path, range(600))
    report = verify_log(tmp_path, VKEY)
    assert report.is_intact
    assert (report.size, report.entries, report.tenants) == (600, 600, 2)
    assert report.tiles == 4  # three of level 0, one of level 1
    assert report.first_time < report.last_time
