"""A checkpoint: the size and root of the log, signed; who holds one can prove any later rewrite."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from tritium_platform.audit.merkle import EMPTY_ROOT, HASH_BYTES
from tritium_platform.audit.note import NoteSigner, NoteVerifier, decode_base64
from tritium_platform.errors import ValidationError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its name, how many leaves it has, and their root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def empty_checkpoint(origin: str) -> Checkpoint:
    """Return the head of a log without leaves."""
    return Checkpoint(origin, 0, EMPTY_ROOT)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint; ValidationError if it is malformed."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:  # noqa: PLR2004 - three lines and the end of the last
        raise ValidationError("A checkpoint has three lines: origin, size, root.")
    size = lines[1]
    if not size.isascii() or not size.isdigit() or (size != "0" and size[0] == "0") or len(size) > 18:  # noqa: PLR2004 - below 2^63
        raise ValidationError("A checkpoint has a malformed size.")
    root = decode_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise ValidationError("A checkpoint has a root that is not 32 bytes.")
    return Checkpoint(lines[0], int(size), root)


def sign_checkpoint(checkpoint: Checkpoint, *, signer: NoteSigner) -> bytes:
    """Return the signed note of a checkpoint."""
    return signer.sign_note(checkpoint.text())


def open_checkpoint(note: bytes, *, verifier: NoteVerifier) -> Checkpoint:
    """Verify and read a signed checkpoint of the log that the verifier names; ValidationError otherwise."""
    checkpoint = parse_checkpoint(verifier.open_note(note))
    if checkpoint.origin != verifier.name:
        raise ValidationError(f"The checkpoint is of log {checkpoint.origin}, not of {verifier.name}.")
    return checkpoint
