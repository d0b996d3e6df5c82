"""Envelope encryption of single values with AES-256-GCM.

Each value has a data key of its own, used once; the data key is wrapped by a key-encryption key, so that a
rotation rewraps 32 bytes and never touches the data. The place of the value (tenant, table, column, row) is
authenticated: a ciphertext copied to another place does not open.

Layout: version (1 byte), length and name of the wrapping key, nonce (12), wrapped data key (48), nonce (12),
ciphertext with its tag.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tritium_platform.errors import PlatformError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
WRAPPED_BYTES = KEY_BYTES + TAG_BYTES
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where a value lives; it opens nowhere else."""

    tenant: str
    table: str
    column: str
    row: str

    def associated_data(self) -> bytes:
        """Encode the place so that no two places read alike."""
        parts = [part.encode() for part in (self.tenant, self.table, self.column, self.row)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class KeyRing:
    """The key-encryption keys by name; new values are wrapped with the current one.

    Raises:
        ValidationError: a key is not 32 bytes, a name is empty or too long, or the current key is missing.
    """

    def __init__(self, keys: Mapping[str, bytes], *, current: str) -> None:
        if current not in keys:
            raise ValidationError(f"The current encryption key {current!r} is not in the ring.")
        for name, key in keys.items():
            if len(key) != KEY_BYTES or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
                raise ValidationError(f"Encryption key {name!r} must have a name and {KEY_BYTES} bytes.")
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self.current = current

    def cipher(self, name: str) -> AESGCM:
        """Return the cipher of a key; PlatformError if the key is gone."""
        try:
            return self._ciphers[name]
        except KeyError:
            raise PlatformError(f"Encryption key {name!r} is gone: what it wraps cannot be read.") from None


@dataclass(frozen=True, slots=True)
class _Envelope:
    key_name: str
    key_nonce: bytes
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes

    def encode(self) -> bytes:
        name = self.key_name.encode()
        head = bytes([VERSION, len(name)]) + name
        return head + self.key_nonce + self.wrapped_key + self.nonce + self.ciphertext


def encrypt_sensitive_data(
    plaintext: bytes,
    *,
    place: DataPlace,
    keys: KeyRing,
    entropy: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Encrypt a value for its place; the result is longer by 90 bytes and the key's name."""
    data_key, key_nonce, nonce = entropy(KEY_BYTES), entropy(NONCE_BYTES), entropy(NONCE_BYTES)
    where = place.associated_data()
    wrapped = keys.cipher(keys.current).encrypt(key_nonce, data_key, where)
    ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, where)
    return _Envelope(keys.current, key_nonce, wrapped, nonce, ciphertext).encode()


def decrypt_sensitive_data(envelope: bytes, *, place: DataPlace, keys: KeyRing) -> bytes:
    """Decrypt a value; PlatformError if it was changed, moved to another place, or its key is gone."""
    parsed = _parse(envelope)
    data_key = _unwrap(parsed, place=place, keys=keys)
    try:
        return AESGCM(data_key).decrypt(parsed.nonce, parsed.ciphertext, place.associated_data())
    except InvalidTag:
        raise _unreadable() from None


def rewrap_data_key(
    envelope: bytes, *, place: DataPlace, keys: KeyRing, entropy: Callable[[int], bytes] = os.urandom
) -> bytes:
    """Wrap the data key of a value with the current key; the ciphertext stays as it is."""
    parsed = _parse(envelope)
    data_key = _unwrap(parsed, place=place, keys=keys)
    key_nonce = entropy(NONCE_BYTES)
    wrapped = keys.cipher(keys.current).encrypt(key_nonce, data_key, place.associated_data())
    return _Envelope(keys.current, key_nonce, wrapped, parsed.nonce, parsed.ciphertext).encode()


def _unwrap(parsed: _Envelope, *, place: DataPlace, keys: KeyRing) -> bytes:
    try:
        return keys.cipher(parsed.key_name).decrypt(
            parsed.key_nonce, parsed.wrapped_key, place.associated_data()
        )
    except InvalidTag:
        raise _unreadable() from None


def _parse(envelope: bytes) -> _Envelope:
    if len(envelope) < 2 or envelope[0] != VERSION:  # noqa: PLR2004 - version and length
        raise _unreadable()
    position = 2 + envelope[1]
    if len(envelope) < position + NONCE_BYTES + WRAPPED_BYTES + NONCE_BYTES + TAG_BYTES:
        raise _unreadable()
    try:
        name = envelope[2:position].decode()
    except UnicodeDecodeError:
        raise _unreadable() from None
    key_nonce, position = envelope[position : position + NONCE_BYTES], position + NONCE_BYTES
    wrapped, position = envelope[position : position + WRAPPED_BYTES], position + WRAPPED_BYTES
    nonce, position = envelope[position : position + NONCE_BYTES], position + NONCE_BYTES
    return _Envelope(name, key_nonce, wrapped, nonce, envelope[position:])


def _unreadable() -> PlatformError:
    return PlatformError("The encrypted value cannot be read: it was changed, or moved from its place.")
