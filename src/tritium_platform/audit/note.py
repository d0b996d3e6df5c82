"""C2SP signed notes: a text, then lines `— name base64(key id || signature)`, here with Ed25519.

The same format and verifier keys as Go's sumdb/note, so foreign tools can check our log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tritium_platform.errors import ValidationError

ED25519 = b"\x01"
ED25519_BYTES = 32
KEY_ID_BYTES = 4


def decode_base64(text: str) -> bytes:
    """Decode strictly: only the canonical spelling will do, so that no bit of a note is free to change."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValidationError("A signed note holds malformed base64.") from error
    if base64.b64encode(data).decode() != text:
        raise ValidationError("A signed note holds base64 that is not in its canonical spelling.")
    return data


def _check_name(name: str) -> None:
    # Entry signatures are made with the same key over JSON, which starts with "{": a name that starts with
    # a letter or a digit keeps a checkpoint from ever reading as an entry.
    if not name or not name[0].isalnum() or not name.isascii() or any(c.isspace() or c == "+" for c in name):
        raise ValidationError(f"{name!r} is not a name for a signing key: use a host name and a path.")


def _key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """Checks notes and raw signatures against one public key."""

    name: str
    public_key: bytes

    @classmethod
    def from_vkey(cls, vkey: str) -> NoteVerifier:
        """Read a verifier key `name+hexid+base64(0x01 || public key)`; ValidationError if it is not one."""
        parts = vkey.strip().split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004 - name, id, key
            raise ValidationError("A verifier key has three parts joined by '+': name, key id, public key.")
        name, key_id, encoded = parts
        _check_name(name)
        data = decode_base64(encoded)
        if data[:1] != ED25519 or len(data) != 1 + ED25519_BYTES:
            raise ValidationError("The verifier key is not an Ed25519 key.")
        if key_id != _key_id(name, data[1:]).hex():
            raise ValidationError("The verifier key is damaged: its key id does not fit its name and key.")
        return cls(name, data[1:])

    @property
    def vkey(self) -> str:
        """Return the verifier key to publish."""
        encoded = base64.b64encode(ED25519 + self.public_key).decode()
        return f"{self.name}+{_key_id(self.name, self.public_key).hex()}+{encoded}"

    def verify(self, data: bytes, *, signature: bytes) -> bool:
        """Tell whether a raw Ed25519 signature over `data` is ours."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def open_note(self, note: bytes) -> str:
        """Return the text of a note that this key signed; ValidationError if malformed or not signed."""
        try:
            decoded = note.decode()
        except UnicodeDecodeError as error:
            raise ValidationError("A signed note is not UTF-8 text.") from error
        text, separator, signatures = decoded.rpartition("\n\n")
        text += "\n"
        if not separator or not signatures.endswith("\n"):
            raise ValidationError("A signed note lacks its signature lines.")
        expected_id = _key_id(self.name, self.public_key)
        for line in signatures[:-1].split("\n"):
            dash, name, blob = _split_signature(line)
            data = decode_base64(blob)
            if dash != "—" or len(data) <= KEY_ID_BYTES:
                raise ValidationError("A signed note has a malformed signature line.")
            if name == self.name and data[:KEY_ID_BYTES] == expected_id:
                if self.verify(text.encode(), signature=data[KEY_ID_BYTES:]):
                    return text
                raise ValidationError(f"The signature of {self.name} on the note is wrong.")
        raise ValidationError(f"The note is not signed by {self.name}.")


def _split_signature(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3:  # noqa: PLR2004 - dash, name, signature
        raise ValidationError("A signed note has a malformed signature line.")
    return parts[0], parts[1], parts[2]


class NoteSigner:
    """Signs notes and raw data with one private key; `name` is the log's origin, e.g. `example.com/audit`."""

    def __init__(self, name: str, *, private_key: Ed25519PrivateKey) -> None:
        _check_name(name)
        self._private_key = private_key
        self.verifier = NoteVerifier(name, private_key.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, name: str, *, seed: bytes) -> NoteSigner:
        """Return the signer whose private key are these 32 bytes."""
        return cls(name, private_key=Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def name(self) -> str:
        """Return the key's name, which is the origin of the log it signs."""
        return self.verifier.name

    def sign(self, data: bytes) -> bytes:
        """Sign raw data; 64 bytes."""
        return self._private_key.sign(data)

    def sign_note(self, text: str) -> bytes:
        """Sign a text that ends with a newline; return the whole note."""
        blob = _key_id(self.name, self.verifier.public_key) + self.sign(text.encode())
        return f"{text}\n— {self.name} {base64.b64encode(blob).decode()}\n".encode()
