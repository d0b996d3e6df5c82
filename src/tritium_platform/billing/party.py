"""Who sells and who buys: what an invoice must name of both (EN 16931, BG-4 and BG-7)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_TEXT = 200
MOST_STREET_LINES = 3
COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", re.ASCII)
BIC = re.compile(r"[A-Z0-9]{8}(?:[A-Z0-9]{3})?", re.ASCII)
# What turns the direction of the text around it would let a name rewrite what stands beside it.
_TURNS_TEXT = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_TEXT = {"Cc", "Cn", "Co", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A business or a person, and where it is.

    Attributes:
        name: its legal name.
        street: up to three lines.
        country: two letters (ISO 3166-1).
        reference: what the buyer wants to read on its invoices, such as an order number.
    """

    name: str
    street: tuple[str, ...] = ()
    post_code: str = ""
    city: str = ""
    country: str = ""
    email: str = ""
    reference: str = ""

    def __post_init__(self) -> None:
        if len(self.street) > MOST_STREET_LINES:
            raise ValidationError(f"A street has up to {MOST_STREET_LINES} lines.", field="street")
        _require_texts(name=self.name, post_code=self.post_code, city=self.city, email=self.email)
        _require_texts(
            reference=self.reference, **{f"street {n}": each for n, each in enumerate(self.street)}
        )
        if not self.name.strip():
            raise ValidationError("A party has a name.", field="name")
        if self.country and COUNTRY.fullmatch(self.country) is None:
            raise ValidationError("A country has two letters, such as DE (ISO 3166-1).", field="country")

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read one as `to_dict` writes it."""
        return cls(**{**plain, "street": tuple(plain["street"])})

    def to_dict(self) -> dict[str, Any]:
        """Spell it in plain JSON values."""
        return {**asdict(self), "street": list(self.street)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """Who issues the invoices.

    Attributes:
        vat_id: with its country, such as DE123456789.
        tax_number: the local one, where there is no VAT id.
        registration_id: in the register of companies.
        iban: where to pay.
        exemption_reason: why charges of the tax category `exempt` bear no tax.
    """

    party: Party
    vat_id: str = ""
    tax_number: str = ""
    registration_id: str = ""
    iban: str = ""
    bic: str = ""
    exemption_reason: str = ""

    def __post_init__(self) -> None:
        texts = {name: value for name, value in asdict(self).items() if name != "party"}
        _require_texts(**texts)
        if self.iban and not _is_iban(self.iban):
            raise ValidationError("seller.iban is no IBAN: its check digits are wrong.", field="seller.iban")
        if self.bic and BIC.fullmatch(self.bic) is None:
            raise ValidationError("seller.bic is no BIC: it has 8 or 11 letters.", field="seller.bic")

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read one as `to_dict` writes it."""
        return cls(**{**plain, "party": Party.of(plain["party"])})

    def to_dict(self) -> dict[str, Any]:
        """Spell it in plain JSON values."""
        return {**asdict(self), "party": self.party.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Both sides of an invoice, as far as they are known."""

    seller: Seller | None = field(default=None)
    buyer: Party | None = field(default=None)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Return those that a document names."""
        seller, buyer = body.get("seller"), body.get("buyer")
        return cls(
            seller=Seller.of(seller) if seller else None,
            buyer=Party.of(buyer) if buyer else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Spell what a document says of them."""
        return {
            "seller": self.seller.to_dict() if self.seller else None,
            "buyer": self.buyer.to_dict() if self.buyer else None,
        }


def is_plain_text(text: str) -> bool:
    """Return whether a text can stand on one line of a document and leaves its neighbours alone."""
    if text.isascii():
        return text.isprintable()
    return not any(each in _TURNS_TEXT or unicodedata.category(each) in _NOT_TEXT for each in text)


def plain_text(text: str) -> str:
    """Return a text with what is none replaced, for what was never checked, such as a model's name."""
    if is_plain_text(text):
        return text
    return "".join(each if is_plain_text(each) else "\N{REPLACEMENT CHARACTER}" for each in text)


def _require_texts(**texts: str) -> None:
    for name, text in texts.items():
        if len(text) > LONGEST_TEXT or not is_plain_text(text):
            raise ValidationError(
                f"The {name} has up to {LONGEST_TEXT} characters that can be printed on one line.", field=name
            )


def _is_iban(text: str) -> bool:
    """Check the digits of an IBAN (ISO 13616): the rest of 97 is 1."""
    if IBAN.fullmatch(text) is None:
        return False
    return int("".join(str(int(each, 36)) for each in text[4:] + text[:4])) % 97 == 1
