"""API keys are kept only as keyed hashes, no text holds one in plain, and a stranger's is refused."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tritium_platform.compliance.model import CheckOutcome, Evidence, Framework, Judgement, Requirement
from tritium_platform.errors import InvalidTokenError
from tritium_platform.tenancy.keys import TOKEN_PATTERN, generate_token, parse_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock

HMAC_BYTES = 32
PRINTABLE = frozenset(string.printable.encode())
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class TextCell:
    """One text value of the database and where it stands."""

    table: str
    column: str
    text: str


class KeyCensus(Protocol):
    """Reads what is stored, past all services."""

    async def stored_hashes(self) -> Sequence[tuple[str, bytes]]:
        """Return (key id, stored hash) of every API key, revoked ones included."""
        ...

    def text_cells(self) -> AsyncIterator[TextCell]:
        """Yield every text, JSON and binary value of every table."""
        ...


class ApiKeysAreHashed:
    """Looks at every stored key and every text of the database, and tries a key that nobody made."""

    id = "api-keys-are-hashed"
    version = 1
    title = "API keys are stored as HMAC-SHA256 only, and an unknown key is refused."
    maps_to = (
        Requirement(Framework.SOC2, "CC6.1"),
        Requirement(Framework.HIPAA, "164.312(d)"),
        Requirement(Framework.GDPR, "32"),
    )

    def __init__(self, *, census: KeyCensus, tenancy: TenancyService, clock: Clock) -> None:
        self._census = census
        self._tenancy = tenancy
        self._clock = clock

    async def collect(self) -> Evidence:
        """Read all keys and all texts; found keys are named by their public id only."""
        hashes = await self._census.stored_hashes()
        cells, leaks = 0, set[str]()
        async for cell in self._census.text_cells():
            cells += 1
            leaks.update(f"{cell.table}.{cell.column}: key {key_id}" for key_id in _find_keys(cell.text))
        return Evidence(
            method="every api_keys.secret_hash; every text value searched for keys with valid check digits",
            population=len(hashes),
            collected_at=self._clock.now(),
            facts={
                "keys": len(hashes),
                "text_values_searched": cells,
                "not_a_keyed_hash": [key_id for key_id, value in hashes if not _looks_hashed(value)],
                "shared_hashes": len(hashes) - len({value for _, value in hashes}),
                "plaintext_keys": sorted(leaks)[:MAX_LISTED],
                "unknown_key_is_refused": await self._is_stranger_refused(),
            },
        )

    def evaluate(self, evidence: Evidence) -> Judgement:
        """Pass if all keys are hashes, no text holds a key, and the stranger was refused."""
        facts = evidence.facts
        problems = [f"key {key_id} is not stored as a keyed hash" for key_id in facts["not_a_keyed_hash"]]
        problems += [f"a key stands in plain in {place}" for place in facts["plaintext_keys"]]
        if facts["shared_hashes"]:
            problems.append(f"{facts['shared_hashes']} keys share a hash")
        if not facts["unknown_key_is_refused"]:
            problems.append("a key that nobody made was accepted")
        if problems:
            return Judgement(
                outcome=CheckOutcome.FAIL, reason="keys are not protected", problems=tuple(problems)
            )
        reason = f"{facts['keys']} keys are hashed; {facts['text_values_searched']} values hold no key"
        return Judgement(outcome=CheckOutcome.PASS, reason=reason)

    async def _is_stranger_refused(self) -> bool:
        try:
            await self._tenancy.authenticate_request(generate_token().plaintext)
        except InvalidTokenError:
            return True
        return False


def _looks_hashed(value: bytes) -> bool:
    # 32 printable bytes out of an HMAC would be a chance of 10^-13: it is a secret that was stored as it is.
    return len(value) == HMAC_BYTES and not PRINTABLE.issuperset(value)


def _find_keys(text: str) -> set[str]:
    found = set[str]()
    for match in TOKEN_PATTERN.finditer(text):
        try:
            found.add(parse_token(match.group()).key_id)
        except InvalidTokenError:
            continue
    return found
