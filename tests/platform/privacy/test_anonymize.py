from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.errors import ValidationError
from tritium_platform.privacy.anonymize import AnonymizationLevel, anonymize_value, mask

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("ada@example.com", "a***@example.com"),
        ("@example.com", "@***"),
        ("Ada Lovelace", "A***"),
        ("A", "***"),
        ("", "***"),
    ],
)
def test_a_mask_leaves_the_network_the_domain_or_one_character(value, masked):
    assert anonymize_value(value, level=AnonymizationLevel.MASK) == masked


@given(st.text(max_size=50))
def test_a_mask_shows_at_most_one_character_of_plain_text(value):
    if "@" not in value and not any(c in value for c in ".:"):
        assert len(mask(value).replace("***", "", 1)) <= 1


@given(st.text(max_size=50), st.text(max_size=50))
def test_pseudonyms_are_equal_exactly_for_equal_values(one, other):
    def code(value: str) -> str:
        return anonymize_value(value, level=AnonymizationLevel.PSEUDONYM, field="name", key=KEY)

    assert (code(one) == code(other)) == (one == other)
    assert len(code(one)) == 24


def test_another_key_or_field_gives_another_pseudonym():
    codes = {
        anonymize_value("Ada", level=AnonymizationLevel.PSEUDONYM, field=field, key=key)
        for field in ("name", "nickname")
        for key in (KEY, b"x" * 32)
    }
    assert len(codes) == 4


def test_field_and_value_do_not_run_into_each_other():
    one = anonymize_value("bc", level=AnonymizationLevel.PSEUDONYM, field="a", key=KEY)
    assert one != anonymize_value("c", level=AnonymizationLevel.PSEUDONYM, field="ab", key=KEY)


@pytest.mark.parametrize("arguments", [{}, {"field": "a"}, {"key": KEY}, {"field": "a", "key": b"short"}])
def test_a_pseudonym_without_a_field_or_a_proper_key_is_refused(arguments):
    with pytest.raises(ValidationError):
        anonymize_value("Ada", level=AnonymizationLevel.PSEUDONYM, **arguments)
