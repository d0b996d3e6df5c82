"""Ways to show or keep a value without showing whom it belongs to.

MASK hides most of a value and cannot be undone, but may still single somebody out in a small crowd.
PSEUDONYM puts a keyed code in its place: equal values stay equal, and only who holds the key can test a
guess. By the GDPR a pseudonym is still personal data.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from enum import StrEnum

from tritium_platform.errors import ValidationError

SHORTEST_KEY = 16
PSEUDONYM_BYTES = 15
HIDDEN = "***"
# What remains identifies a network of many customers, not one of them.
IPV4_PREFIX = 24
IPV6_PREFIX = 48


class AnonymizationLevel(StrEnum):
    """How much of a value is left."""

    MASK = "mask"
    PSEUDONYM = "pseudonym"


def anonymize_value(
    value: str, *, level: AnonymizationLevel, field: str = "", key: bytes | None = None
) -> str:
    """Hide a value; a PSEUDONYM needs the field's name and a key (one per tenant keeps tenants apart).

    Raises:
        ValidationError: a pseudonym was asked for without a field or with a key shorter than 16 bytes.
    """
    if level is AnonymizationLevel.MASK:
        return mask(value)
    if key is None or len(key) < SHORTEST_KEY or not field:
        raise ValidationError(f"A pseudonym needs a field and a key of at least {SHORTEST_KEY} bytes.")
    return pseudonym(value, field=field, key=key)


def mask(value: str) -> str:
    """Hide most of a value: the network of an address, the domain of an e-mail, else the first character."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        prefix = IPV4_PREFIX if address.version == 4 else IPV6_PREFIX  # noqa: PLR2004 - IPv4
        return str(ipaddress.ip_network(f"{value.split('%', maxsplit=1)[0]}/{prefix}", strict=False))
    local, at, domain = value.rpartition("@")
    if at and local and domain:
        return f"{local[0]}{HIDDEN}@{domain}"
    return value[:1] + HIDDEN if len(value) > 1 else HIDDEN


def pseudonym(value: str, *, field: str, key: bytes) -> str:
    """Return a keyed code of 24 letters and digits; the same value in another field gets another code."""
    message = len(field.encode()).to_bytes(4, "big") + field.encode() + value.encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()[:PSEUDONYM_BYTES]
    return base64.b32encode(digest).decode().lower()
