"""API keys: their form, their check digits, what is kept of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.errors import InvalidTokenError
from tritium_platform.tenancy.keys import (
    ALPHABET,
    TOKEN_PATTERN,
    generate_token,
    hash_secret,
    parse_token,
    secret_matches,
)

PEPPER = b"p" * 32


def test_a_token_has_the_published_form() -> None:
    token = generate_token()
    assert TOKEN_PATTERN.fullmatch(token.plaintext)
    assert len(token.plaintext) == 9 + 12 + 1 + 43 + 6
    assert token.plaintext.startswith(f"btn_live_{token.key_id}_{token.secret}")


def test_a_token_is_taken_apart_into_what_it_was_made_of() -> None:
    token = generate_token()
    parsed = parse_token(token.plaintext)
    assert (parsed.key_id, parsed.secret) == (token.key_id, token.secret)


@given(st.binary(min_size=32, max_size=32))
def test_all_256_bits_of_the_secret_are_in_the_token(bits: bytes) -> None:
    token = generate_token(entropy=lambda size: bits[:size].rjust(size, b"\0"))
    number = 0
    for digit in token.secret:
        number = number * 62 + ALPHABET.index(digit)
    assert number.to_bytes(32, "big") == bits


@given(st.integers(0, 70), st.characters(codec="latin-1"))
def test_a_token_with_one_wrong_character_is_refused_without_a_database(place: int, character: str) -> None:
    token = generate_token(entropy=lambda size: bytes(range(size))).plaintext
    wrong = token[:place] + character + token[place + 1 :]
    if wrong != token:
        with pytest.raises(InvalidTokenError):
            parse_token(wrong)


@given(st.text(max_size=90))
def test_no_text_makes_the_parser_stumble(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        parse_token(text)


def test_a_newline_behind_a_token_is_refused() -> None:
    with pytest.raises(InvalidTokenError):
        parse_token(generate_token().plaintext + "\n")


def test_a_secret_never_shows_in_a_repr_or_an_error() -> None:
    token = generate_token()
    parsed = parse_token(token.plaintext)
    assert token.secret not in repr(token) + repr(parsed)
    with pytest.raises(InvalidTokenError) as caught:
        parse_token(token.plaintext[:-1] + "!")
    assert token.secret not in repr(caught.value.args) + repr(caught.value.details)


def test_a_secret_matches_only_itself_under_the_same_pepper() -> None:
    stored = hash_secret("secret", pepper=PEPPER)
    assert len(stored) == 32
    assert secret_matches("secret", pepper=PEPPER, stored=stored)
    assert not secret_matches("Secret", pepper=PEPPER, stored=stored)
    assert not secret_matches("secret", pepper=b"q" * 32, stored=stored)
    assert not secret_matches("secret", pepper=PEPPER, stored=None)
    assert not secret_matches("secret", pepper=PEPPER, stored=b"")
