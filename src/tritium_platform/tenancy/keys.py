"""API keys: how one is made, checked without a database, and stored without being kept.

`btn_live_` + 12 base62 digits (the id) + `_` + 43 base62 digits (256 random bits) + 6 base62 digits (CRC32 of
all that stands before). The check digits let a scanner, or the gateway, discard a misspelt key on the spot.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritium_platform.errors import InvalidTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "btn_live_"
ID_DIGITS = 12
SECRET_DIGITS = 43
CHECK_DIGITS = 6
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Fit for a secret scanner.
TOKEN_PATTERN = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{ID_DIGITS}}})_([0-9A-Za-z]{{{SECRET_DIGITS}}})([0-9A-Za-z]{{{CHECK_DIGITS}}})"
)


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """The two halves of a well-formed token; the secret never shows in a repr."""

    key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A fresh token: `plaintext` is shown to its owner once and never stored."""

    key_id: str
    plaintext: str = field(repr=False)
    secret: str = field(repr=False)


def _base62(number: int, *, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, len(ALPHABET))
        text = ALPHABET[digit] + text
    return text


def _check_digits(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), digits=CHECK_DIGITS)


def generate_token(*, entropy: Callable[[int], bytes] = secrets.token_bytes) -> NewToken:
    """Make a token whose id has 71 random bits and whose secret has 256."""
    # 62^12 < 2^72: taking more bytes than needed keeps the remainder's bias below 2^-56.
    key_id = _base62(int.from_bytes(entropy(16), "big"), digits=ID_DIGITS)
    secret = _base62(int.from_bytes(entropy(32), "big"), digits=SECRET_DIGITS)
    body = f"{PREFIX}{key_id}_{secret}"
    return NewToken(key_id=key_id, plaintext=body + _check_digits(body), secret=secret)


def parse_token(token: str) -> ParsedToken:
    """Take a token apart; InvalidTokenError if its form or its check digits are wrong."""
    match = TOKEN_PATTERN.fullmatch(token) if token.isascii() else None
    if match is None:
        raise InvalidTokenError
    key_id, secret, check = match.groups()
    if not hmac.compare_digest(check, _check_digits(token[:-CHECK_DIGITS])):
        raise InvalidTokenError(key_id=key_id)
    return ParsedToken(key_id=key_id, secret=secret)


def hash_secret(secret: str, *, pepper: bytes) -> bytes:
    """Return what the database keeps: HMAC-SHA256 of the secret under the pepper, 32 bytes."""
    return hmac.digest(pepper, secret.encode("ascii"), hashlib.sha256)


def secret_matches(secret: str, *, pepper: bytes, stored: bytes | None) -> bool:
    """Compare in constant time; `None` (unknown id) costs the same as a wrong secret."""
    computed = hash_secret(secret, pepper=pepper)
    return hmac.compare_digest(computed, stored if stored is not None else bytes(32)) and stored is not None
