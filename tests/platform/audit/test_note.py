from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.audit.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from tritium_platform.audit.note import NoteSigner, NoteVerifier
from tritium_platform.errors import ValidationError

# The worked example in the documentation of Go's sumdb/note.
EXAMPLE_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
EXAMPLE_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
EXAMPLE_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_go_example_is_read_and_written():
    note = f"{EXAMPLE_TEXT}\n{EXAMPLE_SIGNATURE}".encode()
    assert NoteVerifier.from_vkey(EXAMPLE_VKEY).open_note(note) == EXAMPLE_TEXT
    assert NoteVerifier.from_vkey(EXAMPLE_VKEY).vkey == EXAMPLE_VKEY
    seed = base64.b64decode(EXAMPLE_KEY.split("+", 4)[4])[1:]
    signer = NoteSigner("PeterNeumann", private_key=Ed25519PrivateKey.from_private_bytes(seed))
    assert signer.verifier.vkey == EXAMPLE_VKEY
    assert signer.sign_note(EXAMPLE_TEXT) == note


def test_every_flipped_bit_of_a_signed_checkpoint_is_refused(signer):
    note = sign_checkpoint(Checkpoint(signer.name, 7, bytes(range(32))), signer=signer)
    assert open_checkpoint(note, verifier=signer.verifier).size == 7
    for position in range(len(note) * 8):
        flipped = bytearray(note)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValidationError):
            open_checkpoint(bytes(flipped), verifier=signer.verifier)


def test_a_checkpoint_of_another_key_or_log_is_refused(signer):
    note = sign_checkpoint(Checkpoint(signer.name, 7, bytes(32)), signer=signer)
    with pytest.raises(ValidationError, match="not signed by"):
        open_checkpoint(note, verifier=NoteVerifier.from_vkey(EXAMPLE_VKEY))
    foreign = sign_checkpoint(Checkpoint("other.test/log", 7, bytes(32)), signer=signer)
    with pytest.raises(ValidationError, match=r"of log other\.test/log"):
        open_checkpoint(foreign, verifier=signer.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        "a\n-1\nAAAA\n",
        "a\n01\nAAAA\n",
        "a\n1\nAAAA\n",
        "a\n1\n\u00b2\n",
        "a\n9999999999999999999\nAAAA\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text):
    with pytest.raises(ValidationError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "vkey", ["", "a+b", "a+00000000+AAAA", EXAMPLE_VKEY[:-1], EXAMPLE_VKEY.replace("Peter", "Pieter")]
)
def test_a_damaged_verifier_key_is_refused(vkey):
    with pytest.raises(ValidationError):
        NoteVerifier.from_vkey(vkey)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "{json", "naïve"])
def test_a_name_that_could_be_misread_is_refused(name, signer):
    with pytest.raises(ValidationError):
        NoteVerifier.from_vkey(f"{name}+00000000+AAAA")
