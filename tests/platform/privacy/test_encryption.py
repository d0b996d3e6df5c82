from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.errors import PlatformError, ValidationError
from tritium_platform.privacy.encryption import (
    DataPlace,
    KeyRing,
    decrypt_sensitive_data,
    encrypt_sensitive_data,
    rewrap_data_key,
)

PLACE = DataPlace("tenant-1", "contacts", "e-mail", "7")
OLD = KeyRing({"2026": bytes(32)}, current="2026")
BOTH = KeyRing({"2026": bytes(32), "2027": bytes(31) + b"\x01"}, current="2027")
NEW = KeyRing({"2027": bytes(31) + b"\x01"}, current="2027")


@given(st.binary(max_size=1000))
def test_what_was_encrypted_comes_back_and_does_not_show(plaintext):
    envelope = encrypt_sensitive_data(plaintext, place=PLACE, keys=OLD)
    assert decrypt_sensitive_data(envelope, place=PLACE, keys=OLD) == plaintext
    assert len(plaintext) < 8 or plaintext not in envelope
    assert len(envelope) == len(plaintext) + 90 + len("2026")


def test_the_same_value_is_never_encrypted_the_same_way_twice():
    envelopes = {encrypt_sensitive_data(b"value", place=PLACE, keys=OLD) for _ in range(100)}
    assert len(envelopes) == 100


def test_every_flipped_bit_and_every_truncation_is_refused():
    envelope = encrypt_sensitive_data(b"secret", place=PLACE, keys=OLD)
    for position in range(len(envelope) * 8):
        flipped = bytearray(envelope)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(PlatformError):
            decrypt_sensitive_data(bytes(flipped), place=PLACE, keys=OLD)
    for length in range(len(envelope)):
        with pytest.raises(PlatformError):
            decrypt_sensitive_data(envelope[:length], place=PLACE, keys=OLD)


@pytest.mark.parametrize(
    "place",
    [
        DataPlace("tenant-2", "contacts", "e-mail", "7"),
        DataPlace("tenant-1", "contacts", "e-mail", "8"),
        DataPlace("tenant-1", "contactse-mail", "", "7"),
        DataPlace("tenant-1contacts", "", "e-mail", "7"),
    ],
)
def test_a_value_copied_to_another_place_does_not_open(place):
    envelope = encrypt_sensitive_data(b"secret", place=PLACE, keys=OLD)
    with pytest.raises(PlatformError, match="moved from its place"):
        decrypt_sensitive_data(envelope, place=place, keys=OLD)


def test_a_rotation_rewraps_the_key_and_leaves_the_ciphertext():
    envelope = encrypt_sensitive_data(b"secret", place=PLACE, keys=OLD)
    rewrapped = rewrap_data_key(envelope, place=PLACE, keys=BOTH)
    assert decrypt_sensitive_data(rewrapped, place=PLACE, keys=NEW) == b"secret"
    assert rewrapped[-22:] == envelope[-22:]
    with pytest.raises(PlatformError, match="'2026' is gone"):
        decrypt_sensitive_data(envelope, place=PLACE, keys=NEW)


@pytest.mark.parametrize(
    ("keys", "current"),
    [({}, "a"), ({"a": bytes(31)}, "a"), ({"": bytes(32)}, ""), ({"a" * 256: bytes(32)}, "a" * 256)],
)
def test_a_ring_that_cannot_work_is_refused(keys, current):
    with pytest.raises(ValidationError):
        KeyRing(keys, current=current)
